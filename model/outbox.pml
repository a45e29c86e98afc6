/*
 * outbox.pml: the delivery of one row of the outbox, for Spin to explore.
 *
 * What arrives twice at the provider is executed twice.  So all hangs on when
 * a request may be sent, and on what silence means.  Those rules are here, and
 * nothing else.  The state machine is that of src/outbox/transition.c, row for
 * row: see happen(); script/check-states compares them.  model/check explores
 * all interleavings, and all again with one rule broken at a time; docs/model.md
 * tells what comes out.
 *
 * Who acts: two delivery workers, the provider, the clock, misfortune, an operator.
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
 *   - how it ends is true: accepted was executed, refused and cancelled were
 *     not, and no review is left whose payout a lookup would find: there, too.
 *
 * Left out: other rows, batches, back-off, rate limits, what is between "it
 * arrives" and "it does not".  That libcurl repeats nothing is exchange.c's.
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
#define NO_ORIGIN	4	/* a row from before a failover is like any other */
#define CLAIM_NO_WRAPS	5	/* one bit: it wraps */
#define UNCOMMITTED	6	/* the claim commits together with the outcome */
#define UNFLUSHED	7	/* the claim commits as synchronous_commit says */
#define WAIT_GOES_ON	8	/* a failover does not make an unknown row wait anew */
#define NO_STAMP	9	/* who inherits a row leaves its origin as it was */
#define SINCE_CLAIM	10	/* the wait counts from the claim */
#define TIMED_LATE	11	/* a lookup counts from when its answer is written */
#define FAILED_LOOKUP	12	/* a lookup that fails is a "not found" */
#define NO_COMPARISON	13	/* whatever carries the number is the payment */
#define NO_LATE_FIND	14	/* a review is not looked up any more */
#define NO_EXPIRY	15	/* an expired lease is nobody's business */
#define CANCEL_ANY	16	/* tegro_cancel() asks for no origin */
#define RETRY_STAMPS	17	/* tegro_retry() and tegro_resolve() renew it */
#define LAST_REFUSAL	18	/* a refusal after a doubt is one of all sends */
#define OLD_CLAIM	19	/* a late answer counts, whatever was sent since */
#define PUT_OFF_PAYOUT	20	/* a payout that is refused for now is ready */
#define DOUBT_CLEARED	21	/* a row that is ready again was never in doubt */
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
#define ATTEMPTS	(BROKEN == CLAIM_NO_WRAPS -> 4 : (HARMLESS -> 2 : 3))

mtype = { READY, SENDING, UNKNOWN, ACCEPTED, REFUSED, REVIEW, CANCELLED }	/* states */
mtype = { IDLE, CLAIMED, PASSED, NOT_SENT_YET, SENT, LOOKED }	/* steps */
mtype = { NONE, SUCCESS, REFUSAL, NOT_NOW, FOUND, DIFFERENT, ABSENT }	/* answers */
/* events, as transition.h has them */
mtype = { CLAIM, INHERIT, WITHHOLD, ACCEPT, REFUSE, PUT_OFF, NOT_SENT, DOUBT,
	OVERDUE, LOSE, FIND, DIFFER, MISS, RESEND, GIVE_UP, CANCEL, RETRY,
	RESOLVE_RESEND }

typedef Row {			/* of tegro_outbox */
	mtype state = READY;
	byte claim_no, attempts;	/* +1 with each claim; the former may wrap */
	byte age;		/* of this state, by the wall clock */
	byte absent;		/* how often it was not found */
	bit origin;		/* the timeline that vouches for this state */
	bool doubt		/* a send may have taken effect (unknown_since) */
}
Row row[2];			/* on the first server; on the promoted one */
Row copy;			/* what a failover or a crash leaves of it */
bit timeline;			/* of the server in charge */

typedef Worker {		/* what it has in its memory */
	mtype step = IDLE; bit server;
	byte claim_no;		/* of the row when it was claimed or looked up */
	byte age;		/* of the claim, by the monotonic clock */
	bit slot;		/* which of "request" is its own */
	bool ripe;		/* its lookup began WAIT after the row was in doubt */
	bool doubt;		/* of the row when it was claimed: about earlier sends */
	mtype answer = NONE
}
Worker d[2];

/* Requests on their way.  A third has no room, but then all is lost already. */
typedef Request { bool there; byte age; bit owner }
Request request[2];

bool executed;
bool visible;			/* lookups show it */
byte shown_in;			/* age of an execution that they don't show yet */
bool calm;			/* nothing goes wrong any more */

#define me_	d[me]
#define row_	row[d[me].server]	/* as this worker sees it */
#define now_	row[timeline]		/* as the world does */
#define VOUCHED	(row_.origin == me_.server || BROKEN == NO_ORIGIN)
/* Nothing was sent since: the end of a send counts, however late
   (tegro_outbox_record_outcomes(), record_late()). */
#define LAST_SEND	(row_.claim_no == me_.claim_no || BROKEN == OLD_CLAIM)
/* A lookup counts where the row was not claimed meanwhile. */
#define LOOKED_UP	(row_.claim_no == me_.claim_no && \
		(row_.state == UNKNOWN || row_.state == REVIEW))
#define IN_TIME	(me_.age < LEASE - TIMEOUT || BROKEN == NO_FENCE)

inline copy_row(to, from) {
	to.state = from.state; to.claim_no = from.claim_no;
	to.attempts = from.attempts; to.absent = from.absent;
	to.origin = from.origin; to.age = from.age; to.doubt = from.doubt
}

/*
 * The rows of transition.c that are modelled, one a line, as they stand there:
 * from, event, which requests, to, and of the effects these:
 *   WITH_DOUBT	the doubt begins now: the wait starts here, not at the last
 *		send, since the row may not know of that
 *   WITH_ORIGIN	from here on this server vouches for the row
 * BAD is a row that a broken rule has in place of the right one.  An event
 * without a row changes nothing.
 */
#define WAY(from, event, which)	r.state == from && what == event && (which)
#define BAD(rule, from, event)	BROKEN == rule && r.state == from && what == event
#define ALL		true
#define ORDERS		ROW == ORDER
#define PAYOUTS		ROW == PAYOUT
#define CERTAIN		!doubtful
#define DOUBTED		doubtful
#define TO(s)		r.state = s; r.age = 0; r.absent = 0
#define AS(s)		r.absent = r.absent
#define WITH_DOUBT	r.doubt = true
#define WITH_ORIGIN	r.origin = (BROKEN == NO_STAMP -> r.origin : server_)

inline happen(r, what, doubtful, server_) {
	if
	/* a claim */
	:: WAY(READY, CLAIM, ALL) -> TO(SENDING)
	:: WAY(READY, INHERIT, ALL) -> TO(UNKNOWN); WITH_DOUBT; WITH_ORIGIN
	:: BAD(WAIT_GOES_ON, UNKNOWN, INHERIT) -> WITH_ORIGIN
	:: WAY(UNKNOWN, INHERIT, ALL) -> TO(UNKNOWN); WITH_DOUBT; WITH_ORIGIN
	:: WAY(READY, WITHHOLD, ALL) -> TO(REVIEW)

	/* the end of a send */
	:: WAY(SENDING, ACCEPT, ALL) -> TO(ACCEPTED)
	:: BAD(LAST_REFUSAL, SENDING, REFUSE) -> TO(REFUSED)
	:: WAY(SENDING, REFUSE, CERTAIN) -> TO(REFUSED)
	:: WAY(SENDING, REFUSE, DOUBTED) -> TO(REVIEW)
	:: BAD(PUT_OFF_PAYOUT, SENDING, PUT_OFF) -> TO(READY)
	:: WAY(SENDING, PUT_OFF, ORDERS) -> TO(READY)
	:: WAY(SENDING, NOT_SENT, ALL) -> TO(READY)
	:: WAY(SENDING, DOUBT, ALL) -> TO(UNKNOWN); WITH_DOUBT
	:: WAY(SENDING, OVERDUE, ALL) -> TO(UNKNOWN); WITH_DOUBT
	:: BAD(EXPIRED_READY, SENDING, LOSE) -> TO(READY)
	:: BAD(SINCE_CLAIM, SENDING, LOSE) -> TO(UNKNOWN); WITH_DOUBT; r.age = LEASE
	:: WAY(SENDING, LOSE, ALL) -> TO(UNKNOWN); WITH_DOUBT

	/* the same, late */
	:: WAY(UNKNOWN, ACCEPT, ALL) -> TO(ACCEPTED)
	:: WAY(UNKNOWN, REFUSE, CERTAIN) -> TO(REFUSED)
	:: WAY(UNKNOWN, REFUSE, DOUBTED) -> TO(REVIEW)
	:: WAY(UNKNOWN, PUT_OFF, ORDERS) -> TO(READY)
	:: WAY(UNKNOWN, NOT_SENT, ALL) -> TO(READY)
	:: WAY(REVIEW, ACCEPT, ALL) -> TO(ACCEPTED)
	:: WAY(REVIEW, REFUSE, CERTAIN) -> TO(REFUSED)
	:: WAY(READY, ACCEPT, ALL) -> TO(ACCEPTED)
	:: WAY(REFUSED, ACCEPT, ALL) -> TO(ACCEPTED)
	:: WAY(CANCELLED, ACCEPT, ALL) -> TO(ACCEPTED)

	/* a lookup */
	:: WAY(UNKNOWN, FIND, ALL) -> TO(ACCEPTED)
	:: WAY(REVIEW, FIND, ALL) -> TO(ACCEPTED)
	:: WAY(UNKNOWN, DIFFER, ALL) -> TO(REVIEW)
	:: WAY(UNKNOWN, MISS, ALL) -> AS(UNKNOWN); r.absent++
	:: BAD(ONE_LOOKUP, UNKNOWN, RESEND) -> TO(READY)
	:: WAY(UNKNOWN, RESEND, ORDERS) -> TO(READY)
	:: WAY(UNKNOWN, GIVE_UP, ALL) -> TO(REVIEW)

	/* a person */
	:: WAY(READY, CANCEL, CERTAIN) -> TO(CANCELLED)
	:: WAY(READY, CANCEL, DOUBTED) -> TO(REVIEW)
	:: WAY(REFUSED, RETRY, ALL) -> TO(READY)
	:: WAY(CANCELLED, RETRY, ALL) -> TO(READY)
	:: WAY(REVIEW, RESOLVE_RESEND, ALL) -> TO(READY)
	:: else
	fi
}

/*
 * Not modelled, and why:
 *
 *   READY ON_RECORD UNKNOWN: a dump of before is loaded; as INHERIT
 *   UNKNOWN WITHHOLD REVIEW: nobody can look it up; who decides must wait himself
 *   REVIEW WITHHOLD REVIEW: changes nothing
 *   READY POSTPONE READY: changes nothing but the time
 *   UNKNOWN POSTPONE UNKNOWN: the same
 *   REVIEW POSTPONE REVIEW: the same
 *   SENDING NOT_SENT_AND_STOP CANCELLED: as NOT_SENT, then CANCEL
 *   UNKNOWN NOT_SENT_AND_STOP CANCELLED: the same
 *   UNKNOWN RESOLVE_ACCEPTED ACCEPTED: a person's word for how it ended
 *   REVIEW RESOLVE_ACCEPTED ACCEPTED: the same
 *   UNKNOWN RESOLVE_REFUSED REFUSED: the same
 *   REVIEW RESOLVE_REFUSED REFUSED: the same; RESOLVE_RESEND goes further
 *   UNKNOWN RESOLVE_RESEND READY: one who waits until lookups have
 *   REVIEW DIFFER REVIEW: changes nothing
 *   REVIEW MISS REVIEW: changes nothing
 *   ACCEPTED ACCEPT ACCEPTED: brings the link of an order that was found
 *   ACCEPTED RETRY READY: a second order, which is a second link
 *   READY REFRESH READY: changes nothing but the time
 *   UNKNOWN REFRESH UNKNOWN: the same
 *   REVIEW REFRESH REVIEW: the same
 *   REFUSED CORRECT READY: as RETRY, with other parameters
 *   ACCEPTED FORGET ACCEPTED: erases parameters and answers
 *   REFUSED FORGET REFUSED: the same
 *   CANCELLED FORGET CANCELLED: the same
 *   READY TAKE_OVER UNKNOWN: copies are not modelled; as INHERIT
 *   SENDING TAKE_OVER UNKNOWN: the same
 *   UNKNOWN TAKE_OVER UNKNOWN: the same
 *   READY TAKE_OVER REVIEW: the same
 *   SENDING TAKE_OVER REVIEW: the same
 *   UNKNOWN TAKE_OVER REVIEW: the same
 *   UNKNOWN REST UNKNOWN: changes nothing
 *   REVIEW REST REVIEW: the same
 *   ACCEPTED REST ACCEPTED: the same
 *   REFUSED REST REFUSED: the same
 *   CANCELLED REST CANCELLED: the same
 */

inline rest() {
	me_.step = IDLE; me_.claim_no = 0; me_.age = 0; me_.slot = 0;
	me_.ripe = false; me_.doubt = false; me_.answer = NONE
}

/* A delivery worker, or a session in tegro_deliver(). */
proctype Deliver(bit me) {
	do
	/* tegro_outbox_claim(): ready -> sending, committed and flushed before
	   anything is sent.  Where a synchronous standby is missing, it waits. */
	:: d_step { me_.step == IDLE && row_.state == READY && VOUCHED &&
		row_.attempts < ATTEMPTS && (!IN(SYNCHRONOUS) || me_.server == timeline) ->
		me_.doubt = row_.doubt && BROKEN != DOUBT_CLEARED;
		happen(row_, CLAIM, false, me_.server); row_.attempts++;
		row_.claim_no = (BROKEN == CLAIM_NO_WRAPS -> 1 - row_.claim_no :
			row_.claim_no + 1);
		me_.step = CLAIMED; me_.claim_no = row_.claim_no;
		if :: (IN(SYNCHRONOUS) && timeline == 0) ||
			(IN(CRASH) && BROKEN != UNFLUSHED) -> copy_row(copy, row_)
		   :: else
		fi; printf("worker %d: claims; SENDING, claim %d\n", me, me_.claim_no) }
	/* The same, tegro_judge_set_aside(): the right to pay out is gone.  After
	   ATTEMPTS claims it is, for that bounds the model. */
	:: d_step { me_.step == IDLE && row_.state == READY && VOUCHED ->
		happen(row_, WITHHOLD, false, me_.server);
		printf("worker %d: may not pay out; %e\n", me, row_.state) }

	/* The same, tegro_judge_inherited(): a row of another timeline.  Later sends
	   of it may be lost with the commits that told of them, so it is looked up
	   before any send; and if it was being looked up, the wait starts anew. */
	:: d_step { me_.step == IDLE && !VOUCHED &&
			(row_.state == READY || row_.state == UNKNOWN) ->
		happen(row_, INHERIT, false, me_.server);
		printf("worker %d: row of another server; UNKNOWN\n", me) }

	/* The same, tegro_judge_orphaned(): the lease has expired. */
	:: d_step { me_.step == IDLE && row_.state == SENDING && row_.age >= LEASE &&
			BROKEN != NO_EXPIRY ->
		happen(row_, LOSE, false, me_.server);
		printf("worker %d: lease expired; %e\n", me, row_.state) }

	/* exchange.c, on_ready_to_send(): the fence, and the write behind it. */
	:: d_step { me_.step == CLAIMED && IN_TIME && IN(GAP) -> me_.step = PASSED;
		printf("worker %d: passes the fence\n", me) }
	:: d_step { ((me_.step == CLAIMED && IN_TIME && !IN(GAP)) ||
			me_.step == PASSED) && (!request[0].there || !request[1].there) ->
		me_.step = SENT; me_.age = 0; me_.slot = request[0].there;
		request[me_.slot].there = true; request[me_.slot].owner = me;
		printf("worker %d: sends\n", me) }
	:: d_step { me_.step == CLAIMED && !IN_TIME -> me_.step = NOT_SENT_YET;
		printf("worker %d: too late to send\n", me) }
	:: d_step { me_.step == CLAIMED && !calm -> me_.step = NOT_SENT_YET;
		printf("worker %d: can't connect\n", me) }

	/* tegro_outbox_record_outcomes(), tegro_judge_unsent(): certainly not sent. */
	:: d_step { me_.step == NOT_SENT_YET ->
		if :: LAST_SEND -> happen(row_, NOT_SENT, me_.doubt, me_.server)
		   :: else
		fi; printf("worker %d: was not sent; %e\n", me, row_.state); rest() }
	/* The same, tegro_judge_sent(): answered, perhaps late.  For a payout "not
	   now" is doubt: it may have been passed on. */
	:: d_step { me_.step == SENT && me_.answer != NONE ->
		if :: LAST_SEND && me_.answer == SUCCESS ->
			happen(row_, ACCEPT, me_.doubt, me_.server)
		   :: LAST_SEND && me_.answer == REFUSAL ->
			happen(row_, REFUSE, me_.doubt, me_.server)
		   :: LAST_SEND && me_.answer == NOT_NOW &&
				(ROW == ORDER || BROKEN == PUT_OFF_PAYOUT) ->
			happen(row_, PUT_OFF, me_.doubt, me_.server)
		   :: LAST_SEND && me_.answer == NOT_NOW &&
				ROW == PAYOUT && BROKEN != PUT_OFF_PAYOUT ->
			happen(row_, DOUBT, me_.doubt, me_.server)
		   :: else
		fi; printf("worker %d: %e; %e\n", me, me_.answer, row_.state); rest() }
	/* The same, tegro_judge_overdue(): no answer, or none that can be read. */
	:: d_step { me_.step == SENT ->
		if :: LAST_SEND -> happen(row_, OVERDUE, me_.doubt, me_.server)
		   :: else
		fi; printf("worker %d: no answer; %e\n", me, row_.state); rest() }

	/* A lookup, claimed by tegro_outbox_claim(); here both may be at it.  One
	   that fails is as good as none.  So is one more than enough too early, or
	   of what nobody can find: those are left out. */
	:: d_step { me_.step == IDLE && ((row_.state == UNKNOWN &&
			VOUCHED && (row_.age >= WAIT || row_.absent < TIMES - 1 ||
			TIMES == 1 || visible || IN(STRAY))) || (row_.state == REVIEW &&
			visible && !IN(STRAY) && BROKEN != NO_LATE_FIND)) ->
		me_.step = LOOKED; me_.claim_no = row_.claim_no;
		me_.ripe = row_.age >= WAIT || BROKEN == ONE_LOOKUP;
		me_.answer = (IN(STRAY) -> DIFFERENT : (visible -> FOUND : ABSENT));
		printf("worker %d: lookup says %e\n", me, me_.answer) }
	:: d_step { BROKEN == FAILED_LOOKUP && me_.step == IDLE && !calm &&
			row_.state == UNKNOWN -> me_.step = LOOKED;
		me_.claim_no = row_.claim_no; me_.ripe = row_.age >= WAIT;
		me_.answer = ABSENT; printf("worker %d: lookup fails\n", me) }
	/* tegro_outbox_record_outcomes(), tegro_judge_looked_up(). */
	:: d_step { me_.step == LOOKED ->
		if :: BROKEN == TIMED_LATE -> me_.ripe = row_.age >= WAIT :: else fi;
		if :: !LOOKED_UP
		   :: LOOKED_UP && (me_.answer == FOUND ||
				(me_.answer == DIFFERENT && BROKEN == NO_COMPARISON)) ->
			happen(row_, FIND, false, me_.server)
		   :: LOOKED_UP && me_.answer == DIFFERENT && BROKEN != NO_COMPARISON ->
			happen(row_, DIFFER, false, me_.server)
		   :: LOOKED_UP && me_.answer == ABSENT ->
			if :: row_.absent < TIMES - 1 -> happen(row_, MISS, false, me_.server)
			   :: row_.absent == TIMES - 1 && me_.ripe &&
					(ROW == ORDER || BROKEN == ONE_LOOKUP) ->
				happen(row_, RESEND, false, me_.server)
			   :: row_.absent == TIMES - 1 && me_.ripe &&
					ROW == PAYOUT && BROKEN != ONE_LOOKUP ->
				happen(row_, GIVE_UP, false, me_.server)
			   :: else
			fi
		fi; printf("worker %d: writes that down; %e\n", me, row_.state); rest() }

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
	:: d_step { request[i].there -> reply(i, REFUSAL); printf("provider: refuses\n") }
	/* "not now" from a gateway, which may have passed it on: of a second order
	   that is no harm, of a second payout it is */
	:: d_step { request[i].there && ROW == ORDER -> reply(i, NOT_NOW);
		printf("provider: refuses for now\n") }
	:: d_step { request[i].there && ROW == PAYOUT -> printf("provider: EXECUTES\n");
		assert(!executed || HARMLESS); executed = true; reply(i, NOT_NOW);
		printf("gateway: refuses for now\n") }
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
	if :: BROKEN == UNCOMMITTED && me_.step != LOOKED && row_.state == SENDING &&
			row_.claim_no == me_.claim_no ->
		row_.state = READY; row_.age = 0
	   :: else
	fi; rest(); printf("worker %d: KILLED\n", me)
}

/* What goes wrong, as often as it likes, for as long as it likes. */
proctype Misfortune() {
	bit me;

progress:
	do
	:: d_step { d[0].step != IDLE -> me = 0; kill() }
	:: d_step { d[1].step != IDLE -> me = 1; kill() }
	/* tegro_cancel(), where this server vouches for the row */
	:: d_step { now_.state == READY && (now_.origin == timeline || BROKEN ==
		CANCEL_ANY) -> happen(now_, CANCEL, now_.doubt, timeline);
		printf("operator: cancels\n") }
	/* tegro_retry(), as the outbox says that it was not executed;
	   tegro_resolve(), by a person who has looked it up */
	:: d_step { IN(PERSON) && (now_.state == REFUSED || now_.state == CANCELLED ||
			(now_.state == REVIEW && !visible)) ->
		if :: now_.state == REVIEW -> happen(now_, RESOLVE_RESEND, false, timeline)
		   :: else -> happen(now_, RETRY, false, timeline)
		fi; now_.origin = (BROKEN == RETRY_STAMPS -> timeline : now_.origin);
		printf("operator: finds it was not executed; READY\n") }
	/* commits reach the disk, or the standby, when they like */
	:: d_step { IN(FAILOVER + CRASH) && timeline == 0 -> copy_row(copy, row[0]) }
	:: d_step { IN(CRASH) -> me = 0; rest(); me = 1; rest(); copy_row(row[0], copy);
		printf("server: CRASHES; %e, claim %d\n", row[0].state, row[0].claim_no) }
	/* worker 1 starts on the standby; 0, too, or lives on with the old one */
	:: d_step { IN(FAILOVER) && timeline == 0 -> timeline = 1; copy_row(row[1], copy);
		copy.state = READY; copy.claim_no = 0; copy.attempts = 0; copy.absent = 0;
		copy.age = 0; copy.doubt = false; me = 1; rest(); me_.server = 1; me = 0;
		if :: IN(OLD_ALIVE)
		   :: else -> rest(); me_.server = 1; copy_row(row[0], copy)
		fi; printf("standby: PROMOTED; %e, claim %d\n", now_.state, now_.claim_no) }
	:: d_step { IN(CLOCK_STEP) && (now_.state == SENDING || now_.state == UNKNOWN) ->
		now_.age = (now_.state == SENDING -> LEASE : WAIT);
		printf("clock: THE WALL CLOCK JUMPS AHEAD\n") }
	:: d_step { calm = true; printf("-- nothing goes wrong from here on\n") } -> break
	od
}

/* Where nothing can happen any more, the row must rest, and tell the truth.  But
   a retry that a failover has lost leaves the row as it was before. */
#define TRUE_END	((now_.state == ACCEPTED && executed) || \
		(now_.state == REVIEW && (!executed || IN(STRAY))) || \
		(now_.state == CANCELLED && HARMLESS) || \
		((now_.state == REFUSED || now_.state == CANCELLED) && (!executed || \
		(IN(PERSON) && now_.origin != timeline))))
proctype Verdict() {
	timeout -> printf("the end: %e, executed: %d\n", now_.state, executed);
	assert(TRUE_END || IN(UNJUDGED))
}

init {
	atomic { run Deliver(0); run Deliver(1); run Provide(0); run Provide(1);
		run Clock(); run Misfortune(); run Verdict() }
}
