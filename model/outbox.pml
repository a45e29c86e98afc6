/*
 * outbox.pml: the delivery of one row of the outbox, for Spin to explore.
 *
 * What arrives twice at the provider is executed twice.  So all hangs on when
 * a request may be sent, and on what silence means.  Those rules are here, and
 * nothing else.  model/check explores all interleavings, and all again with one
 * rule broken at a time; docs/model.md tells what comes out.
 *
 * Who acts: two deliverers, the provider, the clock, misfortune, an operator.
 * Each "::" is a step; it happens at once, as the one committed transaction
 * that it stands for does.  Between two steps anything may happen, for any
 * time: so is a process stopped past its lease, and an answer late.
 *
 * What must hold:
 *   - at most one execution, but for what a person repeats without looking:
 *     the assertion in Provide;
 *   - no row is forgotten: once nothing goes wrong any more every run ends
 *     (Spin looks for "non-progress cycles"), and no row ends in ready,
 *     sending or unknown: the assertion in Verdict;
 *   - how it ends is true: done was executed, failed and cancelled were not,
 *     and no review is left whose payout a look-up would find: there, too.
 *
 * Left out: other rows, batches, back-off, rate limits, what is between "it
 * arrives" and "it does not".  That libcurl repeats nothing is transport.c's.
 */

/* What is delivered: -DROW=... */
#define PAYOUT		1
#define ORDER		2
#ifndef ROW
#define ROW		PAYOUT
#endif

/* What the world is like: -DWORLD=FAILOVER+GAP... */
#define FAILOVER	1	/* a standby is promoted, without the last commits */
#define SYNCHRONOUS	2	/* it is a synchronous one: it has every claim */
#define OLD_ALIVE	4	/* the old primary lives on beside it */
#define CRASH		8	/* synchronous_commit = off, and the server crashes */
#define GAP		16	/* a stop between the fence and the write */
#define CLOCK_STEP	32	/* the wall clock jumps ahead */
#define PROMPT		64	/* the provider executes or forgets a request within
				   DELAY, and shows it within LAG; else when it likes */
#define SHORT_WAIT	128	/* tegro.review_after covers DELAY, but not LAG */
#define STRAY		256	/* another payment carries the same number */
#define PERSON		512	/* a person retries what was not executed */
#define UNJUDGED	1024	/* only double executions count, not how it ends */
#ifndef WORLD
#define WORLD		0
#endif
#define IN(world)	((WORLD) & (world))
/* An unpaid link too many costs nothing: what is late may be executed twice. */
#define HARMLESS	(ROW == ORDER && !IN(PROMPT))

/* Which rule is broken: -DBROKEN=... */
#define EXPIRED_READY	1	/* an expired lease is taken for "not sent" */
#define ONE_LOOKUP	2	/* not found once: sent again */
#define NO_FENCE	3	/* sent, however late */
#define NO_IDENTITY	4	/* a row from before a failover is like any other */
#define SMALL_LEASE	5	/* one bit: it wraps */
#define UNCOMMITTED	6	/* the claim commits together with the outcome */
#define UNFLUSHED	7	/* the claim commits as synchronous_commit says */
#define WAIT_GOES_ON	8	/* a failover does not make an unknown row wait anew */
#define NO_STAMP	9	/* a look-up leaves the row's identity as it was */
#define SINCE_CLAIM	10	/* the wait counts from the claim */
#define TIMED_LATE	11	/* a look-up counts from when its answer is written */
#define FAILED_LOOKUP	12	/* a look-up that fails is a "not found" */
#define NO_COMPARISON	13	/* whatever carries the number is the payment */
#define NO_LATE_FIND	14	/* a review is not looked up any more */
#define NO_EXPIRY	15	/* an expired lease is nobody's business */
#define CANCEL_ANY	16	/* tegro_cancel() asks for no identity */
#define RETRY_STAMPS	17	/* tegro_retry() and tegro_resolve() renew it */
#ifndef BROKEN
#define BROKEN		0
#endif

/* Ticks: "n ticks" here is more than n - 1 and less than n + 1 of them in
   truth; so a wait is one longer than what it waits for. */
#define LEASE		3	/* tegro.claim_timeout */
#define TIMEOUT		1	/* tegro.timeout */
#define DELAY		1
#define LAG		1
/* tegro.review_after; for an order, tegro.timeout + 5 s */
#define WAIT		(!IN(PROMPT) -> 1 : (IN(SHORT_WAIT) -> DELAY : DELAY + LAG) + 1)
/* how often not found, before anything follows from it */
#define TIMES		(BROKEN == ONE_LOOKUP -> 1 : (ROW == ORDER -> 2 : 3))
/* claims, then a person is asked (tegro.max_attempts); it bounds the model */
#define ATTEMPTS	(BROKEN == SMALL_LEASE -> 4 : (HARMLESS -> 2 : 3))

mtype = { READY, SENDING, UNKNOWN, DONE, FAILED, REVIEW, CANCELLED }	/* states */
mtype = { IDLE, CLAIMED, PASSED, NOT_SENT, SENT, LOOKED }	/* steps */
mtype = { NONE, SUCCESS, REFUSED, FOUND, DIFFERENT, ABSENT }	/* answers */

typedef Row {			/* of tegro_outbox */
	mtype state = READY;
	byte lease, attempts;	/* +1 with each claim; the lease may wrap */
	byte age;		/* of this state, by the wall clock */
	byte absent;		/* how often it was not found */
	bit identity		/* the timeline that vouches for this state */
}
Row row[2];			/* on the first server; on the promoted one */
Row copy;			/* what a failover or a crash leaves of it */
bit timeline;			/* of the server in charge */

typedef Deliverer {		/* what it has in its memory */
	mtype step = IDLE; bit server;
	byte lease;		/* of the row when it was claimed or looked up */
	byte age;		/* of the claim, by the monotonic clock */
	bit slot;		/* which of "request" is its own */
	bool ripe;		/* its look-up began WAIT after the row was in doubt */
	mtype answer = NONE
}
Deliverer d[2];

/* Requests on their way.  A third has no room, but then all is lost already. */
typedef Request { bool there; byte age; bit owner }
Request request[2];

bool executed;
bool visible;			/* look-ups show it */
byte shown_in;			/* age of an execution that they don't show yet */
bool calm;			/* nothing goes wrong any more */

#define me_	d[me]
#define row_	row[d[me].server]	/* as this deliverer sees it */
#define now_	row[timeline]		/* as the world does */
#define VOUCHED	(row_.identity == me_.server || BROKEN == NO_IDENTITY)
/* tegro_outbox_settle() writes only where lease and state still match ... */
#define MATCH	(row_.lease == me_.lease && row_.state == SENDING)
/* ... or, for answers, where the row is in doubt and was not claimed since. */
#define LATE	(row_.lease == me_.lease && \
		(row_.state == UNKNOWN || row_.state == REVIEW))
/* A success even where a person took it for not done. */
#define CORRECTS	(row_.lease == me_.lease && (row_.state == READY || \
		row_.state == FAILED || row_.state == CANCELLED))
#define IN_TIME	(me_.age < LEASE - TIMEOUT || BROKEN == NO_FENCE)

inline copy_row(to, from) {
	to.state = from.state; to.lease = from.lease; to.attempts = from.attempts;
	to.absent = from.absent; to.identity = from.identity; to.age = from.age
}

inline become(new_state) { row_.state = new_state; row_.age = 0; row_.absent = 0 }

/* The wait starts here, not at the last send: the row may not know of that.
   And from here on this server vouches for the row. */
inline become_unknown() {
	become(UNKNOWN);
	row_.identity = (BROKEN == NO_STAMP -> row_.identity : me_.server)
}

inline rest() {
	me_.step = IDLE; me_.lease = 0; me_.age = 0; me_.slot = 0;
	me_.ripe = false; me_.answer = NONE
}

/* A worker, or a session in tegro_deliver(). */
proctype Deliver(bit me) {
	do
	/* tegro_outbox_claim(): ready -> sending, committed and flushed before
	   anything is sent.  Where a synchronous standby is missing, it waits. */
	:: d_step { me_.step == IDLE && row_.state == READY && VOUCHED &&
		row_.attempts < ATTEMPTS && (!IN(SYNCHRONOUS) || me_.server == timeline) ->
		become(SENDING); row_.attempts++;
		row_.lease = (BROKEN == SMALL_LEASE -> 1 - row_.lease : row_.lease + 1);
		me_.step = CLAIMED; me_.lease = row_.lease;
		if :: (IN(SYNCHRONOUS) && timeline == 0) ||
			(IN(CRASH) && BROKEN != UNFLUSHED) -> copy_row(copy, row_)
		   :: else
		fi; printf("deliverer %d: claims; SENDING, lease %d\n", me, me_.lease) }
	:: d_step { me_.step == IDLE && row_.state == READY && VOUCHED &&
			row_.attempts == ATTEMPTS -> become(REVIEW);
		printf("deliverer %d: too many attempts; REVIEW\n", me) }

	/* The same, tegro_rule_inherited(): a row of another timeline.  Later sends of it may
	   be lost with the commits that told of them, so it is looked up before
	   any send; and if it was being looked up, the wait starts anew. */
	:: d_step { me_.step == IDLE && !VOUCHED &&
			(row_.state == READY || row_.state == UNKNOWN) ->
		if :: BROKEN == WAIT_GOES_ON && row_.state == UNKNOWN ->
			row_.identity = me_.server
		   :: else -> become_unknown()
		fi; printf("deliverer %d: row of another server; UNKNOWN\n", me) }

	/* The same, tegro_rule_orphaned(): the lease has expired. */
	:: d_step { me_.step == IDLE && row_.state == SENDING && row_.age >= LEASE &&
			BROKEN != NO_EXPIRY ->
		if :: BROKEN == EXPIRED_READY -> become(READY)
		   :: BROKEN == SINCE_CLAIM -> become_unknown(); row_.age = LEASE
		   :: else -> become_unknown()
		fi; printf("deliverer %d: lease expired; %e\n", me, row_.state) }

	/* transport.c, on_ready_to_send(): the fence, and the write behind it. */
	:: d_step { me_.step == CLAIMED && IN_TIME && IN(GAP) -> me_.step = PASSED;
		printf("deliverer %d: passes the fence\n", me) }
	:: d_step { ((me_.step == CLAIMED && IN_TIME && !IN(GAP)) ||
			me_.step == PASSED) && (!request[0].there || !request[1].there) ->
		me_.step = SENT; me_.age = 0; me_.slot = request[0].there;
		request[me_.slot].there = true; request[me_.slot].owner = me;
		printf("deliverer %d: sends\n", me) }
	:: d_step { me_.step == CLAIMED && !IN_TIME -> me_.step = NOT_SENT;
		printf("deliverer %d: too late to send\n", me) }
	:: d_step { me_.step == CLAIMED && !calm -> me_.step = NOT_SENT;
		printf("deliverer %d: can't connect\n", me) }

	/* tegro_outbox_settle(), tegro_rule_unsent(): certainly not sent. */
	:: d_step { me_.step == NOT_SENT ->
		if :: MATCH -> become(READY) :: else fi;
		printf("deliverer %d: was not sent; %e\n", me, row_.state); rest() }
	/* The same, tegro_rule_sent(): answered, perhaps late. */
	:: d_step { me_.step == SENT && me_.answer != NONE ->
		if :: (MATCH || LATE || CORRECTS) && me_.answer == SUCCESS -> become(DONE)
		   :: (MATCH || LATE) && me_.answer == REFUSED -> become(FAILED)
		   :: else
		fi; printf("deliverer %d: %e; %e\n", me, me_.answer, row_.state); rest() }
	/* The same, tegro_rule_overdue(): no answer, or none that can be read. */
	:: d_step { me_.step == SENT ->
		if :: MATCH -> become_unknown() :: else fi;
		printf("deliverer %d: no answer; %e\n", me, row_.state); rest() }

	/* A look-up, claimed by tegro_outbox_claim(); here both may be at it.  One
	   that fails is as good as none.  So is one more than enough too early, or
	   of what nobody can find: those are left out. */
	:: d_step { me_.step == IDLE && ((row_.state == UNKNOWN &&
			VOUCHED && (row_.age >= WAIT || row_.absent < TIMES - 1 ||
			TIMES == 1 || visible || IN(STRAY))) || (row_.state == REVIEW &&
			visible && !IN(STRAY) && BROKEN != NO_LATE_FIND)) ->
		me_.step = LOOKED; me_.lease = row_.lease;
		me_.ripe = row_.age >= WAIT || BROKEN == ONE_LOOKUP;
		me_.answer = (IN(STRAY) -> DIFFERENT : (visible -> FOUND : ABSENT));
		printf("deliverer %d: look-up says %e\n", me, me_.answer) }
	:: d_step { BROKEN == FAILED_LOOKUP && me_.step == IDLE && !calm &&
			row_.state == UNKNOWN -> me_.step = LOOKED;
		me_.lease = row_.lease; me_.ripe = row_.age >= WAIT;
		me_.answer = ABSENT; printf("deliverer %d: look-up fails\n", me) }
	/* tegro_outbox_settle(), tegro_rule_looked_up(). */
	:: d_step { me_.step == LOOKED ->
		if :: BROKEN == TIMED_LATE -> me_.ripe = row_.age >= WAIT :: else fi;
		if :: !LATE
		   :: LATE && (me_.answer == FOUND ||
				(me_.answer == DIFFERENT && BROKEN == NO_COMPARISON)) ->
			become(DONE)
		   :: LATE && me_.answer == DIFFERENT && BROKEN != NO_COMPARISON ->
			become(REVIEW)
		   :: LATE && me_.answer == ABSENT ->
			if :: row_.state == UNKNOWN && row_.absent < TIMES - 1 -> row_.absent++
			   :: row_.state == UNKNOWN && row_.absent == TIMES - 1 && me_.ripe ->
				become((ROW == PAYOUT && BROKEN != ONE_LOOKUP -> REVIEW : READY))
			   :: else
			fi
		fi; printf("deliverer %d: writes that down; %e\n", me, row_.state); rest() }

	/* The worker on an old primary ends, one starts on the new. */
	:: d_step { IN(OLD_ALIVE) && me_.step == IDLE && me_.server != timeline ->
		me_.server = timeline }
	od
}

/* Request "i" is dealt with, and answered if anyone still listens. */
#define owner_(i)	d[request[i].owner]
inline reply(i, what) {
	if :: owner_(i).step == SENT && owner_(i).slot == i -> owner_(i).answer = what :: else
	fi; request[i].there = false; request[i].age = 0; request[i].owner = 0
}

proctype Provide(bit i) {	/* the provider, at request "i" */
	do
	:: d_step { request[i].there -> printf("provider: EXECUTES\n");
		assert(!executed || HARMLESS); executed = true; reply(i, SUCCESS) }
	:: d_step { request[i].there -> reply(i, REFUSED); printf("provider: refuses\n") }
	:: d_step { request[i].there -> reply(i, NONE); printf("provider: loses it\n") }
	:: d_step { i == 0 && executed && !visible -> visible = true; shown_in = 0;
		printf("provider: shows it from now on\n") }
	od
}

/* Only what a rule asks for grows older, and only until that is decided. */
#define AGES(r)	((r.state == SENDING && r.age < LEASE) || \
		(r.state == UNKNOWN && r.age < WAIT))
#define HELD(i)	(d[i].step == CLAIMED && d[i].age < LEASE - TIMEOUT)
#define AWAY(i)	(IN(PROMPT) && request[i].there)
#define HIDDEN	(IN(PROMPT) && executed && !visible)
proctype Clock() {
	do
	:: d_step { (AGES(row[0]) || AGES(row[1]) || AGES(copy) || HELD(0) ||
			HELD(1) || AWAY(0) || AWAY(1) || HIDDEN) && !(HIDDEN && shown_in == LAG) &&
			!(AWAY(0) && request[0].age == DELAY) &&
			!(AWAY(1) && request[1].age == DELAY) ->
		row[0].age = row[0].age + AGES(row[0]); copy.age = copy.age + AGES(copy);
		row[1].age = row[1].age + AGES(row[1]);
		d[0].age = d[0].age + HELD(0); d[1].age = d[1].age + HELD(1);
		request[0].age = request[0].age + AWAY(0);
		request[1].age = request[1].age + AWAY(1);
		shown_in = shown_in + HIDDEN; printf("clock: a tick\n") }
	od
}

inline kill() {
	if :: BROKEN == UNCOMMITTED && me_.step != LOOKED && MATCH -> become(READY) :: else
	fi; rest(); printf("deliverer %d: KILLED\n", me)
}

/* What goes wrong, as often as it likes, for as long as it likes. */
proctype Misfortune() {
	bit me;

progress:
	do
	:: d_step { d[0].step != IDLE -> me = 0; kill() }
	:: d_step { d[1].step != IDLE -> me = 1; kill() }
	/* tegro_cancel(), where this server vouches for the row */
	:: d_step { now_.state == READY && (now_.identity == timeline || BROKEN ==
		CANCEL_ANY) -> now_.state = CANCELLED; printf("operator: cancels\n") }
	/* tegro_retry(), as the ledger says that it was not executed;
	   tegro_resolve(), by a person who has looked it up */
	:: d_step { IN(PERSON) && (now_.state == FAILED || now_.state == CANCELLED ||
			(now_.state == REVIEW && !visible)) -> now_.state = READY;
		now_.identity = (BROKEN == RETRY_STAMPS -> timeline : now_.identity);
		printf("operator: finds it was not executed; READY\n") }
	/* commits reach the disk, or the standby, when they like */
	:: d_step { IN(FAILOVER + CRASH) && timeline == 0 -> copy_row(copy, row[0]) }
	:: d_step { IN(CRASH) -> me = 0; rest(); me = 1; rest(); copy_row(row[0], copy);
		printf("server: CRASHES; %e, lease %d\n", row[0].state, row[0].lease) }
	/* deliverer 1 starts on the standby; 0, too, or lives on with the old one */
	:: d_step { IN(FAILOVER) && timeline == 0 -> timeline = 1; copy_row(row[1], copy);
		copy.state = READY; copy.lease = 0; copy.attempts = 0; copy.absent = 0;
		copy.age = 0; me = 1; rest(); me_.server = 1; me = 0;
		if :: IN(OLD_ALIVE)
		   :: else -> rest(); me_.server = 1; copy_row(row[0], copy)
		fi; printf("standby: PROMOTED; %e, lease %d\n", now_.state, now_.lease) }
	:: d_step { IN(CLOCK_STEP) && (now_.state == SENDING || now_.state == UNKNOWN) ->
		now_.age = (now_.state == SENDING -> LEASE : WAIT);
		printf("clock: THE WALL CLOCK JUMPS AHEAD\n") }
	:: d_step { calm = true; printf("-- nothing goes wrong from here on\n") } -> break
	od
}

/* Where nothing can happen any more, the row must rest, and tell the truth.  But
   a retry that a failover has lost leaves the row as it was before. */
#define TRUE_END	((now_.state == DONE && executed) || \
		(now_.state == REVIEW && (!executed || IN(STRAY))) || \
		((now_.state == FAILED || now_.state == CANCELLED) && (!executed || \
		HARMLESS || (IN(PERSON) && now_.identity != timeline))))
proctype Verdict() {
	timeout -> printf("the end: %e, executed: %d\n", now_.state, executed);
	assert(TRUE_END || IN(UNJUDGED))
}

init {
	atomic { run Deliver(0); run Deliver(1); run Provide(0); run Provide(1);
		run Clock(); run Misfortune(); run Verdict() }
}
