/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		Delivers what is due in the outbox.
 *
 * One loop, for the background worker and for CALL tegro_deliver():
 *
 *		take down the answers that came
 *		in one transaction: settle them, and claim as many as there are slots
 *		commit, durably
 *		send what was claimed
 *		wait for answers, or for something to become due
 *
 * Notifications (inbox.c) wait for a lookup among the requests, and are claimed
 * and settled in the same transactions.
 *
 * Callbacks are called by a process of their own; in the foreground, here.
 *
 * So a slow answer holds up nobody, many rows share a commit, and while a
 * commit waits for the disk the answers of the others come in.  Nothing is
 * sent inside a transaction that did anything, or under a snapshot.
 *
 * If the process dies
 *		before the commit: nothing of it happened, nothing was sent;
 *		between the commit and the send, or at any point after it: the rows
 *		are "sending" until their lease ends, then looked up.  A claim takes
 *		only what can be sent at once, so these are few.
 *
 * The fence: a claim is good for tegro.claim_timeout seconds.  A request goes out
 * only while enough of that is left for its answer, measured on a clock that
 * nobody sets and that goes on while the machine sleeps, at the last moment
 * (transport/exchange.c).  So what another may have taken over is not sent.
 *
 * While the guard stops every statement (guard.c), nothing is claimed, and what
 * is in flight is waited for.  Answers that come meanwhile are kept here, and
 * written as soon as the guard lets a statement pass.  If the process dies before
 * that, they are lost, and the requests are looked up as above.
 *
 * A row whose claim raises an error is set aside, and the others go out: see
 * aside.c.
 *
 * No answer within tegro.timeout makes the outcome unknown, and the request
 * is looked up; but its exchange stays open until the lease ends, and an
 * answer that comes late settles it if nothing else has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/worker/callback.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/worker/delivery.h"
#include "src/outbox/aside.h"
#include "src/outbox/guard.h"
#include "src/outbox/inbox.h"
#include "src/base/injection.h"
#include "src/outbox/judge.h"
#include "src/outbox/retention.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"

/* Milliseconds of the lease that must be left when an exchange ends. */
#define LEASE_MARGIN_MS 2000

/* The longest sleep: everything is looked over at least so often. */
#define SWEEP_MS (60 * 1000)

/* How often prepared transactions are asked for, while there are some. */
#define PREPARED_MS 1000

/*
 * How often it is the notifications' turn while a backlog of requests is worked
 * off.
 */
#define INBOX_MS 50

/*
 * How often it is the turn of payouts and of what is newest while a backlog is
 * worked off; the share of all places that they get; and one part in so many of
 * the time goes into finding them, where an old snapshot keeps many index
 * entries.
 */
#define PREFERRED_MS	   50
#define PREFERRED_SHARE	   4
#define PREFERRED_PATIENCE 16

/* How often the whole index is swept while a backlog is worked off. */
#define FULL_SWEEP_MS (10 * 1000)

/*
 * How long answers are gathered for one commit: at most, and while none comes.
 * Places that are free meanwhile are missed by those that wait; a commit takes
 * a millisecond itself, or a fraction of one.
 */
#define GATHER_US		5000
#define GATHER_PAUSE_MS 1

/*
 * Bytes of parameters and answers that are in memory at a time, before one more
 * request is claimed: a few large ones must not take what the server needs.
 */
#define MAX_SIZE (4 * 1024 * 1024)

/* How often the failure of a claim is logged, at most. */
#define TROUBLE_MS (60 * 1000)

/* The pause after a round that failed. */
#define STUMBLE_MS 100

/*
 * While rows rest: one part in so many of the time goes into reading them, and a
 * row is found at once if it is committed within so long after it became due.
 * That a shop rests for want of a token is nothing unusual, and costs less.  A
 * few rows are read quickly, but no more often than that.
 */
#define SWEEP_REST_MS	 400
#define SWEEP_SHARE		 4
#define SWEEP_SHARE_PACE 16
#define LATE_MS			 1000

/* How long a key rests that was not accepted, or until a reload. */
#define UNAUTHORIZED_PAUSE_MS (10 * 60 * 1000)

/* How often it is tried to settle a request whose row someone holds. */
#define HELD_MS 1000

/* The pause between the parts in which old requests are stripped. */
#define FORGET_MS 1000

/* How often it is logged that some cannot go, at most. */
#define FORGET_LOG_MS (10 * 60 * 1000)

/* What the loop keeps between rounds. */
typedef struct Loop
{
	TegroDelivery *delivery;
	MemoryContext context; /* all below, and the items */
	TegroStore store;
	List *items;	  /* in flight, or ruled and to be settled */
	int nopen;		  /* in flight and not given up */
	int ndecided;	  /* to be settled, without those held */
	int nheld;		  /* to be settled once nobody holds their rows */
	bool unconfirmed; /* a claim is not where it must be */
	TegroPauses *pauses;
	TegroAsides *asides;	/* rows that could not be claimed */
	int64 trouble_us;		/* when a claim's failure was logged last */
	bool stumbled;			/* the last round failed: not at once again */
	int64 stopped_until_us; /* the guard let no statement pass; 0: it does */
	bool look;				/* there may be something due */
	uint64 calls;			/* how often it had been woken at the last look */
	int64 next_us;			/* when the next is due; -1: unknown */
	TimestampTz after;		/* where the last claim ended */
	int64 gather_until_us;	/* how long answers are gathered before a commit */
	bool gathered;			/* none has come for long enough */
	bool backlog;			/* the last claim was full */
	int64 swept_us;			/* when the whole index was swept last */
	int64 sweep_us;			/* how long that took */
	bool sweep_owed;		/* something may be due before "after" */
	int64 inbox_us;			/* when notifications were asked for last */
	int64 inbox_took_us;	/* how long that took */
	int64 idle_since_us;
	double preferred;		 /* places that are owed to what is preferred */
	int64 preferred_us;		 /* when it was asked for last */
	int64 preferred_took_us; /* how long that took */
	bool more_preferred;	 /* there may be more of it */
	TimestampTz asked[2];	 /* when it was its turn last, and before that */
	unsigned turn;			 /* of claims */
	TegroPace *pace;
	int64 forgot_us;
	bool forget_owed; /* there is more to strip, before long */
	int64 forget_logged_us;
} Loop;


/*
 * Transactions.
 */

/*
 * No snapshot is held where the loop sends and waits, or VACUUM could remove
 * nothing meanwhile; and a worker is in no transaction.  (A procedure is always
 * in one.)
 */
static void
check_idle(const Loop *loop)
{
	Assert(!ActiveSnapshotSet());
	Assert(!loop->delivery->stay || !IsTransactionState());
}

static void
begin(Loop *loop)
{
	/* what the loop keeps outlives the transaction */
	Assert(CurrentMemoryContext == loop->context);
	check_idle(loop);
	loop->delivery->begin();
	Assert(IsTransactionState() && ActiveSnapshotSet());
}

/* Commits; what is allocated from here on is the loop's again. */
static void
commit(Loop *loop)
{
	loop->delivery->commit();
	MemoryContextSwitchTo(loop->context);
	check_idle(loop);
}

/* What try_to() does. */
typedef struct Work
{
	Loop *loop;
	void (*work)(Loop *loop, void *arg);
	void *arg;
} Work;

static void
do_work(void *arg)
{
	Work *work = arg;

	work->work(work->loop, work->arg);
}

/* See tegro_error_catch(); the error is in the loop's context. */
static ErrorData *
try_to(Loop *loop, void (*work)(Loop *loop, void *arg), void *arg)
{
	Work what = {loop, work, arg};

	Assert(IsTransactionState());
	return tegro_error_catch(do_work, &what, loop->context);
}


/*
 * Pauses: see pause.c.
 */

/* A role's name in quotes, or its number; palloc'd. */
static char *
quoted_role(Oid role)
{
	char *name = GetUserNameFromId(role, true);

	return name ? psprintf("\"%s\"", tegro_error_for_client(name))
				: psprintf("%u", role);
}

/* Has the key of an item rest, for at least "ms". */
static void
pause_key(Loop *loop, const TegroItem *item, int64 ms, bool until_reload)
{
	MemoryContext old = CurrentMemoryContext;
	TegroPauseBegun begun = tegro_pauses_add(loop->pauses, item, ms,
											 until_reload);
	char *shop;
	bool begins;

	if (begun == TEGRO_PAUSE_GOES_ON)
		return;
	/* the role's name is in the catalog */
	begins = !IsTransactionState();
	if (begins)
		StartTransactionCommand();
	shop = begun == TEGRO_PAUSE_OF_SHOP
		? psprintf("shop \"%s\"", tegro_error_for_client(item->shop_id))
		: pstrdup("all shops");
	ereport(LOG,
			(errmsg("tegro delivery pauses for %s and the key of role %s",
					shop, quoted_role(item->role)),
			 item->decision->message ? errdetail_internal("%s", tegro_error_for_client(item->decision->message)) : 0));
	if (begins)
		CommitTransactionCommand();
	MemoryContextSwitchTo(old);
}

/* Ends the pauses that are over: their requests are due. */
static void
end_pauses(Loop *loop)
{
	if (tegro_pauses_end(loop->pauses))
		loop->look = true;
}


/*
 * Sending.
 */

/*
 * Each item of the loop is in flight, or ruled on and to be settled, or both;
 * the counters say how many are what.
 */
static void
check_items(const Loop *loop)
{
#ifdef USE_ASSERT_CHECKING
	int nopen = 0;
	int ndecided = 0;
	int nheld = 0;
	ListCell *cell;

	foreach(cell, loop->items)
	{
		const TegroItem *item = lfirst(cell);

		Assert(MemoryContextGetParent(item->context) == loop->context);
		Assert(item->in_flight || item->decided);
		Assert(!item->decided || item->decision);
		Assert(!item->in_flight || item->call);
		/* a lookup is not waited for once its time is over */
		Assert(!item->given_up || item->task == TEGRO_SEND);
		Assert(item->held_us == 0 || item->decided);
		nopen += !item->decided && !item->given_up;
		ndecided += item->decided && item->held_us == 0;
		nheld += item->held_us != 0;
	}
	Assert(loop->nopen == nopen);
	Assert(loop->ndecided == ndecided);
	Assert(loop->nheld == nheld);
#endif
}

static void
free_item(Loop *loop, TegroItem *item)
{
	Assert(list_member_ptr(loop->items, item));
	Assert(!item->decided);
	loop->items = list_delete_ptr(loop->items, item);
	MemoryContextDelete(item->context);
}

/* Puts a claimed item in flight. */
static void
send_item(TegroItem *item)
{
	MemoryContext old = MemoryContextSwitchTo(item->context);
	int64 lease_ms = tegro_claim_timeout * INT64CONST(1000) - LEASE_MARGIN_MS;
	int timeout_ms = tegro_timeout;
	int64 send_before_us = 0;

	Assert(!item->in_flight && !item->decided && !item->given_up);
	Assert(item->call && item->request.body);
	Assert(item->claimed_us > 0);
	if (item->task == TEGRO_SEND)
	{
		/* the claim wrote this, and is committed */
		if (strcmp(item->state, TEGRO_STATE_SENDING) != 0 ||
			item->claim_no <= 0)
			elog(ERROR, "request " INT64_FORMAT " is not on record as sent",
				 item->id);
		/* a lease too short for the timeout still gets something to send in */
		send_before_us = item->claimed_us +
			Max(lease_ms - tegro_timeout,
				tegro_claim_timeout * INT64CONST(1000) / 4) *
				1000;
		/* listened to until the lease ends: see tegro_judge_overdue() */
		timeout_ms =
			(int) Max(lease_ms - (tegro_clock_us() - item->claimed_us) / 1000,
					  Min(tegro_timeout, lease_ms));
		timeout_ms = Max(timeout_ms, 1);
	}
	Assert(timeout_ms > 0);
	tegro_api_send(item->call, &item->request, timeout_ms, send_before_us);
	item->in_flight = true;
	MemoryContextSwitchTo(old);
}

/*
 * Rules on an item whose exchange has ended, or has been waited for enough at
 * "now_us", by tegro_clock_us().
 */
static bool
judge_item(TegroItem *item, int64 now_us)
{
	MemoryContext old;
	const TegroExchange *exchange = tegro_api_exchange(item->call);
	bool ended = exchange->end != TEGRO_EXCHANGE_OPEN;
	bool converts;

	Assert(item->in_flight && !item->decided);
	if (!ended &&
		(item->given_up || item->task != TEGRO_SEND ||
		 !exchange->handed_over ||
		 now_us - item->claimed_us < tegro_timeout * INT64CONST(1000)))
		return false;

	/* text that is converted needs the catalog, and that a transaction */
	old = CurrentMemoryContext;
	converts = ended && GetDatabaseEncoding() != PG_UTF8 &&
		!IsTransactionState();
	if (converts)
		StartTransactionCommand();
	MemoryContextSwitchTo(item->context);
	if (ended)
	{
		item->in_flight = false;
		(void) tegro_api_judge(item->call);
		item->decision = item->task == TEGRO_SEND ? tegro_judge_sent(item)
			: item->is_notification				  ? tegro_judge_notified(item)
									: tegro_judge_looked_up(item);
	}
	else
		item->decision = tegro_judge_overdue(item);
	item->decided = true;
	if (converts)
		CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return true;
}

void
tegro_deliver_one(TegroItem *item)
{
	Assert(!IsTransactionState());
	send_item(item);
	while (!judge_item(item, tegro_clock_us()))
	{
		int64 left_ms = tegro_timeout -
			(tegro_clock_us() - item->claimed_us) / 1000;

		(void) tegro_transport_wait((long) Max(left_ms, 1));
	}
}


/*
 * The loop.
 */

/* Takes down which answers came. */
static void
collect_responses(Loop *loop)
{
	int64 now_us = tegro_clock_us();
	ListCell *cell;

	tegro_judge_watch_clock();
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (item->in_flight && !item->decided && judge_item(item, now_us))
		{
			tegro_injection_point("answer read");
			Assert(item->given_up || loop->nopen > 0);
			loop->ndecided++;
			if (!item->given_up)
				loop->nopen--;
			if (item->decision->pause_until_reload)
				pause_key(loop, item, UNAUTHORIZED_PAUSE_MS, true);
			else if (item->decision->pause_ms > 0)
				pause_key(loop, item, item->decision->pause_ms, false);
		}
	}
}

/* After its decision is settled: it goes, or is listened to a while longer. */
static void
settled(Loop *loop, TegroItem *item)
{
	Assert(item->decided && item->decision && item->held_us == 0);
	Assert(loop->ndecided > 0);
	tegro_outbox_log_review(item);
	item->decided = false;
	loop->ndecided--;
	loop->delivery->settled++;
	/* what was ruled on may be due again at once */
	if (item->decision->delay_ms >= 0)
		loop->look = true;
	if (item->in_flight)
		item->given_up = true;
	else
		free_item(loop, item);
}

static bool
is_finished(const TegroDecision *decision)
{
	return strcmp(decision->state, TEGRO_STATE_ACCEPTED) == 0 ||
		strcmp(decision->state, TEGRO_STATE_REFUSED) == 0 ||
		strcmp(decision->state, TEGRO_CONFIRMED) == 0;
}

/* Settles requests and notifications that were ruled on. */
static void
record_outcomes(Loop *loop, List *items)
{
	List *requests = NIL;
	List *notifications = NIL;
	ListCell *cell;

	foreach(cell, items)
	{
		TegroItem *item = lfirst(cell);

		Assert(item->decided && item->decision);
		if (item->is_notification)
			notifications = lappend(notifications, item);
		else
			requests = lappend(requests, item);
		/* in the foreground, the loop calls back */
		if (loop->delivery->stay && item->callback &&
			is_finished(item->decision))
			tegro_wake_at_commit(TEGRO_CALLBACK_WORKER);
	}
	tegro_outbox_record_outcomes(&loop->store, requests);
	tegro_inbox_record_outcomes(&loop->store, notifications);
	list_free(requests);
	list_free(notifications);
}

static void
record_outcome(Loop *loop, void *arg)
{
	tegro_store_hold(&loop->store, arg);
	record_outcomes(loop, list_make1(arg));
}

/*
 * Settles one item in a transaction of its own, after the common one failed:
 * if its row is what is wrong, only its row suffers.  One whose row someone
 * holds, a person who has it locked, say, is not waited for: what became of it
 * stays here, and is settled later.  Returns false if it is not settled.
 */
static bool
record_alone(Loop *loop, TegroItem *item)
{
	ErrorData *error;
	bool can_wait;

	Assert(item->decided);
	begin(loop);
	error = try_to(loop, record_outcome, item);
	can_wait = error &&
		(error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		 error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		 tegro_guard_stopped(error));
	if (error && !can_wait)
	{
		/*
		 * What can always be written: that it is in doubt.  A lookup leaves the
		 * request in the state that it has: one in review does not come out of
		 * it without a finding.
		 */
		MemoryContext old = MemoryContextSwitchTo(item->context);

		item->decision = item->task == TEGRO_SEND
			? tegro_judge_overdue(item)
			: tegro_judge_postponed(item, NULL, NULL);
		item->decision->message =
			psprintf("its outcome could not be written: %s", error->message);
		MemoryContextSwitchTo(old);
		FreeErrorData(error);
		error = try_to(loop, record_outcome, item);
	}
	commit(loop);
	if (error)
	{
		if (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE)
			ReThrowError(error);
		FreeErrorData(error);
		if (item->held_us == 0)
		{
			loop->ndecided--;
			loop->nheld++;
		}
		item->held_us = tegro_clock_us() + HELD_MS * INT64CONST(1000);
		return false;
	}
	if (item->held_us != 0)
	{
		loop->nheld--;
		loop->ndecided++;
		item->held_us = 0;
	}
	return true;
}

/*
 * How many of these slots have a slot (see transport.h).  What was given up is
 * listened to only as long as it keeps no slot from those that wait.
 */
static int
limit_to_descriptors(Loop *loop, int slots)
{
	while (slots > 0 && tegro_transport_descriptors(1) == 0)
	{
		TegroItem *oldest = NULL;
		ListCell *cell;

		foreach(cell, loop->items)
		{
			TegroItem *item = lfirst(cell);

			if (item->given_up && !item->decided)
			{
				oldest = item;
				break;
			}
		}
		if (oldest == NULL)
			return loop->nopen == 0 ? 1 : 0;
		free_item(loop, oldest);
	}
	return tegro_transport_descriptors(slots);
}

/*
 * How many bytes requests that are claimed now may have.  What was given up is
 * listened to only as long as it keeps no memory from those that wait; what is
 * only to be written does not count, or a row that someone holds would keep the
 * others waiting.
 */
static Size
free_size(Loop *loop)
{
	Size size = 0;
	ListCell *cell;

	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (!item->decided)
			size += item->size;
	}
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (size < MAX_SIZE)
			break;
		if (!item->given_up || item->decided)
			continue;
		size -= item->size;
		loop->items = foreach_delete_current(loop->items, cell);
		MemoryContextDelete(item->context);
	}
	return size < MAX_SIZE ? MAX_SIZE - size : 0;
}

/*
 * How many requests may be sent now, by the places, the memory and the slots.
 */
static int
available_slots(Loop *loop)
{
	TegroDelivery *delivery = loop->delivery;
	int slots = tegro_max_concurrency - loop->nopen;

	/* see let_go() for the other bound */
	slots = Min(slots, 2 * tegro_max_concurrency - loop->nopen - loop->nheld);
	if (delivery->max >= 0)
		slots = (int) Min((int64) slots, delivery->max - delivery->sent);
	Assert(slots <= tegro_max_concurrency);
	if (slots > 0 && free_size(loop) == 0)
		slots = 0;
	return limit_to_descriptors(loop, Max(slots, 0));
}

/*
 * Those given up keep their connections, in case their answers come after all;
 * but not at the expense of those that wait.  Makes room for some more: what
 * was sent first goes first.
 */
static void
let_go(Loop *loop, int slots)
{
	int excess = list_length(loop->items) + slots - 2 * tegro_max_concurrency;
	List *old = NIL;
	ListCell *cell;

	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (list_length(old) < excess && item->given_up && !item->decided)
			old = lappend(old, item);
	}
	foreach(cell, old)
		free_item(loop, lfirst(cell));
	list_free(old);
}

/* What record_and_claim() does, as one piece. */
typedef struct Round
{
	MemoryContext context; /* of what is claimed */
	List *decided;		   /* to settle */
	int slots;			   /* to fill */
	List *claimed;		   /* out */
	TegroClaim claim;	   /* out */
	TegroInboxClaim inbox; /* out */
} Round;

/*
 * Do rows stay due because their keys or their shops rest?  There may be very
 * many of them, so that no claim should read them all.
 */
static bool
rows_rest(const Loop *loop)
{
	/* in the foreground, a claim tells whether anything is left */
	return loop->delivery->stay &&
		(tegro_pauses_any(loop->pauses) || tegro_pace_any(loop->pace));
}

/*
 * When the whole index is swept again, by tegro_clock_us().
 *
 * While a backlog is worked off: now and then.  While rows rest: a sweep reads
 * all of them, and what it looks for is a row that became due in the past, since
 * its transaction was open for long.  So it may take a quarter of the time, with
 * which such a row goes out within a second where 100,000 rest.
 */
static int64
next_sweep_us(const Loop *loop)
{
	if (rows_rest(loop))
	{
		int64 rest_us = loop->sweep_us *
			(tegro_pauses_any(loop->pauses) ? SWEEP_SHARE : SWEEP_SHARE_PACE);

		rest_us = Max(rest_us, SWEEP_REST_MS * INT64CONST(1000));
		return loop->swept_us + Min(rest_us, FULL_SWEEP_MS * INT64CONST(1000));
	}
	return loop->backlog ? loop->swept_us + FULL_SWEEP_MS * INT64CONST(1000)
						 : 0;
}

/*
 * How many of these slots are for what is preferred.
 *
 * They get a quarter of all places: each three requests that are claimed by age
 * allow one.  What is owed is kept, up to a quarter of the places that there
 * are, so that single ones find a place at once.  And a stream of them, however
 * dense, leaves the others three of four.
 *
 * To ask for them costs two statements more.  So it is done now and then, or
 * again and again only while there are more of them.  Without a backlog, all
 * that is due is claimed anyway, also beside rows whose key rests: a claim begins
 * at what is new.  Beside a shop without a token, it does not.
 */
static int
preferred_slots(const Loop *loop, int slots)
{
	/* a shop that has a token again gives it to them first */
	bool at_once = loop->more_preferred || tegro_pace_due(loop->pace);
	int64 rest_us = Max(at_once ? 0 : PREFERRED_MS * INT64CONST(1000),
						loop->preferred_took_us * PREFERRED_PATIENCE);

	if ((!loop->backlog && !tegro_pace_any(loop->pace)) ||
		tegro_clock_us() - loop->preferred_us < rest_us)
		return 0;
	return Min(slots, (int) loop->preferred);
}

/* Counts what was claimed, of which "npreferred" were preferred. */
static void
count_preferred(Loop *loop, int nclaimed, int npreferred)
{
	double most = Max((double) tegro_max_concurrency / PREFERRED_SHARE, 1.0);

	loop->preferred += (nclaimed - npreferred) / (PREFERRED_SHARE - 1.0) -
		npreferred;
	loop->preferred = Min(loop->preferred, most);
}

/* Claims at most "slots" requests. */
static List *
claim_requests(Loop *loop, TegroClaim *claim, int slots)
{
	int64 now = tegro_clock_us();
	bool rest = rows_rest(loop);
	TimestampTz begun = GetCurrentTimestamp();
	List *claimed;

	Assert(slots > 0);
	claim->max = slots;
	claim->max_size = free_size(loop);
	claim->fast = now < next_sweep_us(loop);
	claim->preferred = preferred_slots(loop, slots);
	if (claim->preferred > 0 &&
		begun - loop->asked[0] >= PREFERRED_MS * INT64CONST(1000))
	{
		loop->asked[1] = loop->asked[0];
		loop->asked[0] = begun;
	}
	claim->since = loop->asked[1];
	claim->turn = loop->turn++;
	claimed = tegro_outbox_claim(&loop->store, claim);
	count_preferred(loop, list_length(claimed), claim->npreferred);
	if (claim->preferred > 0)
	{
		loop->preferred_us = now;
		loop->preferred_took_us = claim->preferred_us;
		loop->more_preferred = claim->more_preferred;
	}
	claim->preferred = 0;
	if (claim->fast && !claim->full && !rest)
	{
		/* the end of the backlog, or so it seems: look everywhere */
		claim->fast = false;
		claim->max = slots - list_length(claimed);
		claim->full = claim->max <= 0 || claim->max_size == 0;
		if (!claim->full)
		{
			List *more = tegro_outbox_claim(&loop->store, claim);

			count_preferred(loop, list_length(more), 0);
			claimed = list_concat(claimed, more);
		}
	}
	/* all that is due by now was seen, but for what was not committed yet */
	if (rest && !claim->full)
		claim->after = TimestampTzPlusMilliseconds(begun, -LATE_MS);
	loop->sweep_owed = claim->fast && rest;
	if (!claim->fast)
	{
		loop->swept_us = now;
		loop->sweep_us = tegro_clock_us() - now;
	}
	return claimed;
}

/* Claims at most "slots" notifications. */
static List *
claim_notifications(Loop *loop, Round *round, int slots)
{
	int64 now = tegro_clock_us();
	int64 rest_us = loop->inbox_us + loop->inbox_took_us * SWEEP_SHARE - now;
	List *claimed;

	/* those that rest are all read each time */
	if (rows_rest(loop) && rest_us > 0)
	{
		round->inbox.next_at = GetCurrentTimestamp() + rest_us;
		return NIL;
	}
	claimed = tegro_inbox_claim(&loop->store, slots, loop->pauses,
								&round->inbox);
	loop->inbox_us = now;
	loop->inbox_took_us = tegro_clock_us() - now;
	return claimed;
}

/*
 * Requests fill the slots first.  When no more of them wait, the claim has
 * told whether a notification does, and so these cost nothing where there are
 * none.  A backlog of requests fills all slots, and so it is now and then the
 * notifications' turn, for some of them.
 */
static void
do_round(Loop *loop, void *arg)
{
	Round *round = arg;
	TegroClaim *claim = &round->claim;
	int slots = round->slots;
	List *claimed = NIL;
	MemoryContext old;

	record_outcomes(loop, round->decided);
	if (slots <= 0)
		return;

	loop->calls = tegro_wake_calls();
	claim->after = loop->after;
	claim->pauses = loop->pauses;
	claim->pace = loop->pace;
	claim->asides = round->inbox.asides = loop->asides;
	claim->full = true; /* who knows, until requests are asked for */
	old = MemoryContextSwitchTo(round->context);
	if (loop->backlog &&
		tegro_clock_us() - loop->inbox_us >= INBOX_MS * INT64CONST(1000))
		claimed = claim_notifications(loop, round, Max(slots / 4, 1));
	if (list_length(claimed) < slots)
		claimed = list_concat(claimed,
							  claim_requests(loop, claim,
											 slots - list_length(claimed)));
	if (!claim->full)
	{
		round->inbox.next_at = claim->inbox_at;
		if (claim->inbox_at != 0 && claim->inbox_at <= GetCurrentTimestamp())
			claimed =
				list_concat(claimed,
							claim_notifications(loop, round,
												slots - list_length(claimed)));
	}
	Assert(list_length(claimed) <= slots);
	round->claimed = claimed;
	MemoryContextSwitchTo(old);
}

static void
doubt_rows(Loop *loop, void *arg)
{
	uint64 n = tegro_outbox_doubt(&loop->store, arg);

	if (n > 0)
		ereport(LOG,
				(errmsg(UINT64_FORMAT " requests of the tegro outbox are in doubt",
						n),
				 errdetail("tegro_event has events under their numbers of which they do not know.  They are looked up.")));
}

/*
 * After a claim failed: are sends on record of which its requests know
 * nothing?  Then these are in doubt, and the next claim will not meet them.
 */
static void
doubt_what_is_on_record(Loop *loop, TegroClaim *claim)
{
	ErrorData *error = try_to(loop, doubt_rows, claim);

	if (error)
		FreeErrorData(error);
}

/*
 * The guard lets no statement pass: until a person has removed the cause, this
 * is tried again at intervals.  Only a worker waits; a caller of tegro_deliver()
 * gets the error.
 */
static void
stop(Loop *loop, ErrorData *error)
{
	if (!loop->delivery->stay)
		ReThrowError(error);
	tegro_guard_log(error, "delivery");
	loop->stopped_until_us = tegro_clock_us() +
		TEGRO_GUARD_PAUSE_MS * INT64CONST(1000);
}

static bool
is_stopped(const Loop *loop)
{
	return tegro_clock_us() < loop->stopped_until_us;
}

/*
 * Claims one by one.
 */

static void send_claimed(Loop *loop, List *claimed);

/* What claim_single() does. */
typedef struct Single
{
	MemoryContext context; /* of what is claimed */
	TegroRow row;
	TegroClaim claim;
	List *claimed; /* out: one item, or none */
} Single;

static void
claim_single(Loop *loop, void *arg)
{
	Single *single = arg;
	MemoryContext old = MemoryContextSwitchTo(single->context);

	if (single->row.is_notification)
	{
		TegroInboxClaim claim = {.only = single->row.id};

		single->claimed = tegro_inbox_claim(&loop->store, 1, loop->pauses,
											&claim);
	}
	else
		single->claimed = tegro_outbox_claim(&loop->store, &single->claim);
	MemoryContextSwitchTo(old);
}

/* What list_due() does. */
typedef struct Listing
{
	MemoryContext context; /* of the list */
	int max;
	List *rows; /* out */
} Listing;

static void
list_due(Loop *loop, void *arg)
{
	Listing *listing = arg;
	TegroClaim claim = {.max = listing->max,
						.preferred = Max(listing->max / PREFERRED_SHARE, 1),
						.pauses = loop->pauses,
						.pace = loop->pace,
						.asides = loop->asides};
	TegroInboxClaim inbox = {.asides = loop->asides};
	MemoryContext old = MemoryContextSwitchTo(listing->context);

	listing->rows = list_concat(tegro_outbox_list_due(&loop->store, &claim),
								tegro_inbox_list_due(&loop->store,
													 listing->max,
													 loop->pauses, &inbox));
	MemoryContextSwitchTo(old);
}

/* Can a row be to blame for an error of its claim? */
static bool
is_of_row(const ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	/* a value that is too large for the memory is the row's, a full disk is not */
	return error->sqlerrcode == ERRCODE_OUT_OF_MEMORY ||
		(category != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) &&
		 category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		 error->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
		 !tegro_guard_stopped(error));
}

/* Did a claim fail since somebody else was in its way? */
static bool
is_conflict(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE);
}

/*
 * Claims rows one by one, at most "slots" of them, in one transaction: those
 * of a claim that failed (rows is NULL), or a list of TegroRow.  A row whose
 * claim fails by itself is set aside.  Returns what was claimed, to be sent.
 *
 * *progress receives whether a row was claimed or set aside.
 */
static List *
claim_one_by_one(Loop *loop, List *rows, int slots, bool *progress)
{
	MemoryContext context = AllocSetContextCreate(loop->context,
												  "tegro claims",
												  ALLOCSET_SMALL_SIZES);
	Listing listing = {context, slots, rows};
	List *claimed = NIL;
	List *locked = NIL;
	Size size = free_size(loop);
	ErrorData *error = NULL;
	ListCell *cell;

	Assert(slots > 0);
	*progress = false;
	begin(loop);
	if (rows == NIL)
		error = try_to(loop, list_due, &listing);
	foreach(cell, listing.rows)
	{
		TegroRow *row = lfirst(cell);
		Single single = {.row = *row,
						 .claim = {.max = 1,
								   .max_size = size,
								   .only = row->id,
								   .pauses = loop->pauses,
								   .pace = loop->pace}};

		if (list_length(claimed) >= slots || size == 0)
			break;
		if (error)
			FreeErrorData(error);
		single.context = AllocSetContextCreate(loop->context,
											   "tegro single claim",
											   ALLOCSET_SMALL_SIZES);
		error = try_to(loop, claim_single, &single);
		if (error && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
			!row->is_notification)
			doubt_what_is_on_record(loop, &single.claim);
		if (error == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(loop->context);

			tegro_asides_remove(loop->asides, *row);
			size = single.claim.max_size;
			if (single.claimed != NIL)
			{
				TegroItem *item = linitial(single.claimed);

				Assert(list_length(single.claimed) == 1);
				MemoryContextSetParent(item->context, loop->context);
				claimed = lappend(claimed, item);
				*progress = true;
			}
			MemoryContextSwitchTo(old);
		}
		MemoryContextDelete(single.context);
		if (error == NULL)
			continue;
		if (!is_of_row(error))
			break;
		if (is_conflict(error))
		{
			/* a table is locked, or so it seems: each attempt takes its time */
			locked = lappend(locked, row);
			if (claimed == NIL && list_length(locked) >= 3)
				break;
		}
		else if (tegro_asides_add(loop->asides, *row, error,
								  loop->delivery->stay ? LOG : WARNING))
			*progress = true;
	}
	/* someone wants the loop to end: nothing of this happened */
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	/* what is in the way of these is not in the way of others */
	if (claimed != NIL)
	{
		foreach(cell, locked)
			(void) tegro_asides_add(loop->asides, *(TegroRow *) lfirst(cell),
									NULL, 0);
	}
	tegro_injection_point("before claim commit");
	commit(loop);
	tegro_injection_point("after claim commit");
	MemoryContextDelete(context);
	/* what is on record as sent goes out first */
	if (error && tegro_guard_stopped(error) && claimed == NIL)
		stop(loop, error);
	if (error)
		FreeErrorData(error);
	return claimed;
}

/* Tries again those rows that were set aside for long enough. */
static void
retry_asides(Loop *loop)
{
	List *rows;
	int slots;
	bool progress;

	if (!tegro_asides_any(loop->asides) || is_stopped(loop))
		return;
	slots = available_slots(loop);
	rows = slots > 0 ? tegro_asides_due(loop->asides) : NIL;
	if (rows == NIL)
		return;
	send_claimed(loop, claim_one_by_one(loop, rows, slots, &progress));
	list_free_deep(rows);
	loop->look = true;
}

/*
 * A claim failed, and no row is to blame.  Where nothing is in flight, the error
 * ends the loop, and the launcher starts a new worker later.  Otherwise answers
 * would be lost.
 */
static void
trouble(Loop *loop, ErrorData *error)
{
	int64 now_us = tegro_clock_us();

	if (loop->items == NIL)
		ReThrowError(error);
	if (loop->trouble_us != 0 &&
		now_us - loop->trouble_us < TROUBLE_MS * INT64CONST(1000))
		return;
	loop->trouble_us = now_us;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("requests of the tegro outbox could not be claimed: %s",
					error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
}

/*
 * One transaction: settles what was ruled on and claims what there are slots
 * for.  Returns what was claimed, to be sent.
 */
static List *
record_and_claim(Loop *loop, int slots)
{
	/* of its own: a claim that fails leaves nothing behind, no keys either */
	MemoryContext context = AllocSetContextCreate(loop->context, "tegro claim",
												  ALLOCSET_SMALL_SIZES);
	Round round = {context, NIL, slots};
	List *claimed = NIL;
	ErrorData *error;
	ListCell *cell;

	Assert(slots >= 0);
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (item->decided && item->held_us == 0)
			round.decided = lappend(round.decided, item);
	}

	begin(loop);
	error = try_to(loop, do_round, &round);
	if (error && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		round.claim.max > 0)
		doubt_what_is_on_record(loop, &round.claim);
	tegro_injection_point("before claim commit");
	commit(loop);
	if (error == NULL)
		tegro_injection_point("after claim commit");

	loop->stopped_until_us = 0;
	if (error)
		tegro_pace_unsee(loop->pace);
	if (error && tegro_guard_stopped(error))
	{
		/* no row is to blame: what was ruled on stays as it is */
		stop(loop, error);
		FreeErrorData(error);
		list_free(round.decided);
		round.decided = NIL;
		loop->look = true;
	}
	else if (error)
	{
		bool progress = false;

		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_UNDEFINED_TABLE)
			ReThrowError(error);
		foreach(cell, round.decided)
		{
			/* what can't be settled is tried again in the next round */
			if (!record_alone(loop, lfirst(cell)))
				round.decided = foreach_delete_current(round.decided, cell);
		}
		/* perhaps it was one of those */
		if (round.decided == NIL && slots > 0 && is_of_row(error))
			claimed = claim_one_by_one(loop, NIL, slots, &progress);
		if (!progress && round.decided == NIL && !is_conflict(error))
			trouble(loop, error);
		FreeErrorData(error);
		loop->look = true;
		loop->stumbled = !progress;
	}
	else if (slots > 0)
	{
		TegroClaim *claim = &round.claim;
		TimestampTz next_at = claim->next_at;
		int64 next_us;

		claimed = list_copy(round.claimed);
		foreach(cell, claimed)
			MemoryContextSetParent(((TegroItem *) lfirst(cell))->context,
								   loop->context);
		if (round.inbox.next_at != 0 &&
			(next_at == 0 || round.inbox.next_at < next_at))
			next_at = round.inbox.next_at;
		loop->after = claim->after;
		loop->backlog = claim->full;
		loop->look = claim->full || round.inbox.full;
		next_us = loop->look ? tegro_clock_us()
			: next_at == 0
			? -1
			: tegro_clock_us() + Max(next_at - GetCurrentTimestamp(), 0);
		/* a fast claim does not see all that an earlier one did */
		if (claim->fast && loop->next_us > tegro_clock_us() &&
			(next_us < 0 || loop->next_us < next_us))
			next_us = loop->next_us;
		loop->next_us = next_us;
	}
	/* what was claimed has moved out of it */
	Assert(CurrentMemoryContext == loop->context);
	MemoryContextDelete(context);
	foreach(cell, round.decided)
		settled(loop, lfirst(cell));
	list_free(round.decided);
	return claimed;
}

/* Settles those whose rows were held, if that is over. */
static void
record_held(Loop *loop, bool at_once)
{
	List *due = NIL;
	ListCell *cell;

	if (loop->nheld == 0)
		return;
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (item->held_us != 0 &&
			(at_once || tegro_clock_us() >= item->held_us))
			due = lappend(due, item);
	}
	foreach(cell, due)
	{
		if (record_alone(loop, lfirst(cell)))
			settled(loop, lfirst(cell));
	}
	list_free(due);
}

/*
 * Sends what was claimed.  Before, it is made sure that the claims are where
 * they must be: a commit whose wait for a synchronous standby was cancelled
 * is visible here and may be lost in a failover.
 */
static void
send_claimed(Loop *loop, List *claimed)
{
	bool replicated = tegro_commit_is_replicated();
	ListCell *cell;

	check_idle(loop);
	if (!replicated && claimed != NIL)
		loop->unconfirmed = true;
	let_go(loop, list_length(claimed));
	foreach(cell, claimed)
	{
		TegroItem *item = lfirst(cell);

		loop->items = lappend(loop->items, item);
		loop->nopen++;
		if (!replicated || !tegro_delivery_is_on() ||
			(loop->delivery->stop && *loop->delivery->stop))
		{
			MemoryContext old = MemoryContextSwitchTo(item->context);

			item->decision = item->task == TEGRO_SEND
				? tegro_judge_unsent(item,
									 "the claim was not confirmed; nothing was sent")
				: tegro_judge_postponed(item, NULL, item->message);
			item->decided = true;
			loop->ndecided++;
			loop->nopen--;
			MemoryContextSwitchTo(old);
			continue;
		}
		if (item->task == TEGRO_SEND)
			loop->delivery->sent++;
		send_item(item);
	}
	list_free(claimed);
}

/* Milliseconds to wait for answers, at most. */
static long
wait_ms(Loop *loop, int slots)
{
	int64 now = tegro_clock_us();
	int64 until_us = now + SWEEP_MS * INT64CONST(1000);
	ListCell *cell;

	if (loop->look && slots > 0)
		return 0;
	if (loop->next_us >= 0 && slots > 0)
		until_us = Min(until_us, loop->next_us);
	if (loop->sweep_owed && slots > 0)
		until_us = Min(until_us, next_sweep_us(loop));
	until_us = tegro_pauses_until(loop->pauses, until_us);
	if (slots > 0)
		until_us = tegro_pace_until(loop->pace, until_us);
	if (slots > 0)
		until_us = tegro_asides_until(loop->asides, until_us);
	if (tegro_retention > 0 && loop->forget_owed)
		until_us = Min(until_us,
					   loop->forgot_us + FORGET_MS * INT64CONST(1000));
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (item->held_us != 0)
			until_us = Min(until_us, item->held_us);
		/* what is past that only waits for its connection to give up */
		else if (!item->given_up)
			until_us = Min(until_us,
						   Max(item->claimed_us +
								   tegro_timeout * INT64CONST(1000),
							   now + 5000));
	}
	return (long) Max((until_us - now + 999) / 1000, 0);
}

/*
 * On a request to stop: what is in flight is left in a state from which it
 * goes on at once, rather than when its lease ends.
 */
static void
wind_down(Loop *loop)
{
	ListCell *cell;

	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);
		MemoryContext old = MemoryContextSwitchTo(item->context);

		if (!item->decided)
		{
			if (item->task != TEGRO_SEND)
			{
				item->decision = tegro_judge_rested(item);
				item->decision->delay_ms = 0;
			}
			else if (tegro_api_exchange(item->call)->handed_over)
				item->decision = tegro_judge_orphaned(item);
			else
				item->decision =
					tegro_judge_unsent(item,
									   "the delivery worker was stopped; nothing was sent");
			item->decided = true;
			loop->ndecided++;
		}
		item->in_flight = false;
		MemoryContextSwitchTo(old);
	}
	if (loop->ndecided > 0)
		(void) record_and_claim(loop, 0);
	record_held(loop, true);
}

static void
forget_some(Loop *loop, void *arg)
{
	TimestampTz before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 -tegro_retention *
														 INT64CONST(1000));

	loop->forget_owed = tegro_retention_strip_old(&loop->store, before);
}

/*
 * Strips what was kept long enough: a part at a time, then nothing for a while.
 * Where it fails, delivery goes on: somebody can have a table locked, and it is
 * tried again soon.
 */
static void
forget_old(Loop *loop)
{
	int64 now = tegro_clock_us();
	int64 pause_ms = loop->forget_owed ? FORGET_MS : SWEEP_MS;
	ErrorData *error;

	if (tegro_retention <= 0 || is_stopped(loop) ||
		now - loop->forgot_us < pause_ms * INT64CONST(1000))
		return;
	loop->forgot_us = now;
	begin(loop);
	error = try_to(loop, forget_some, NULL);
	commit(loop);
	if (error == NULL)
		return;
	loop->forget_owed = is_conflict(error);
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		error->sqlerrcode == ERRCODE_UNDEFINED_TABLE)
		ReThrowError(error);
	if (tegro_guard_stopped(error))
		stop(loop, error);
	else if (loop->forget_logged_us == 0 ||
			 now - loop->forget_logged_us > FORGET_LOG_MS * INT64CONST(1000))
	{
		loop->forget_logged_us = now;
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("old requests of the tegro outbox could not be stripped: %s",
						error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	}
	FreeErrorData(error);
}

/* In the foreground: calls all back that are due. */
static void
call_back(Loop *loop)
{
	TegroCaller caller = {loop->delivery->begin, loop->delivery->commit};
	TimestampTz next_at;

	while (tegro_call_back(&loop->store, &caller, &next_at))
	{
		MemoryContextSwitchTo(loop->context);
		loop->look = true;
	}
	MemoryContextSwitchTo(loop->context);
}

/* May this database deliver? */
static TegroDeliveryEnd
check(Loop *loop)
{
	bool callbacks;

	if (!tegro_delivery_is_on())
		return TEGRO_DELIVERY_OFF;
	begin(loop);
	if (!tegro_store_find(&loop->store))
	{
		commit(loop);
		return TEGRO_NO_OUTBOX;
	}
	callbacks = loop->delivery->stay &&
		tegro_outbox_callbacks_wait(&loop->store);
	commit(loop);
	/* from before a restart */
	if (callbacks)
		tegro_wake_missing(TEGRO_CALLBACK_WORKER);
	return TEGRO_NOTHING_DUE;
}

static void
see_callbacks(Loop *loop, void *arg)
{
	*(bool *) arg = tegro_outbox_callbacks_wait(&loop->store);
}

/* Has nothing been left to do for long enough? */
static bool
idle_for_long(Loop *loop)
{
	bool prepared;
	bool callbacks = false;
	ErrorData *error;

	/* a worker that knows of a pause must stay, or the next would send for it */
	if (loop->look || loop->items != NIL || loop->next_us >= 0 ||
		tegro_pauses_any(loop->pauses) || tegro_asides_any(loop->asides) ||
		tegro_pace_any(loop->pace) ||
		(tegro_retention > 0 && loop->forget_owed))
	{
		loop->idle_since_us = tegro_clock_us();
		return false;
	}
	begin(loop);
	prepared = tegro_outbox_any_prepared();
	error = try_to(loop, see_callbacks, &callbacks);
	commit(loop);
	if (error)
	{
		/* somebody has the table locked, say: it will be seen */
		FreeErrorData(error);
		loop->next_us = tegro_clock_us() + PREPARED_MS * INT64CONST(1000);
		loop->idle_since_us = tegro_clock_us();
		return false;
	}
	if (callbacks)
	{
		/* there was no slot for it */
		tegro_wake_missing(TEGRO_CALLBACK_WORKER);
		loop->idle_since_us = tegro_clock_us();
	}
	if (prepared)
	{
		/* its commit wakes nobody: look again before long */
		loop->next_us = tegro_clock_us() + PREPARED_MS * INT64CONST(1000);
		loop->idle_since_us = tegro_clock_us();
		return false;
	}
	return tegro_clock_us() - loop->idle_since_us >=
		tegro_worker_idle_timeout * INT64CONST(1000000);
}

static TegroDeliveryEnd
run_loop(Loop *loop)
{
	TegroDelivery *delivery = loop->delivery;

	for (;;)
	{
		int slots;
		List *claimed = NIL;

		MemoryContextSwitchTo(loop->context);
		check_idle(loop);
		check_items(loop);
		if (delivery->reload)
			delivery->reload();
		if (delivery->stop && *delivery->stop)
		{
			wind_down(loop);
			return TEGRO_STOPPED;
		}
		if (!tegro_delivery_is_on())
		{
			wind_down(loop);
			return TEGRO_DELIVERY_OFF;
		}

		collect_responses(loop);

		/*
		 * While a backlog waits, a commit for many is better than a quick one
		 * for a few.
		 */
		if (loop->ndecided == 0)
		{
			loop->gather_until_us = tegro_clock_us() + GATHER_US;
			loop->gathered = false;
		}
		else if (loop->backlog && loop->nopen > 0 && !loop->gathered &&
				 tegro_clock_us() < loop->gather_until_us)
		{
			loop->gathered = !tegro_transport_wait(GATHER_PAUSE_MS);
			continue;
		}
		end_pauses(loop);
		slots = available_slots(loop);
		if (tegro_pace_due(loop->pace) ||
			(loop->next_us >= 0 && tegro_clock_us() >= loop->next_us) ||
			(loop->sweep_owed && tegro_clock_us() >= next_sweep_us(loop)))
			loop->look = true;
		if (!is_stopped(loop) &&
			(loop->ndecided > 0 || (loop->look && slots > 0)))
		{
			if (delivery->report)
				delivery->report("delivering");
			claimed = record_and_claim(loop, slots);
			send_claimed(loop, claimed);
		}

		if (loop->unconfirmed && !delivery->stay)
		{
			wind_down(loop);
			return TEGRO_UNCONFIRMED;
		}
		retry_asides(loop);
		record_held(loop, false);
		if (!delivery->stay)
			call_back(loop);
		forget_old(loop);

		if (delivery->max >= 0 && delivery->sent >= delivery->max &&
			loop->nopen == 0 && loop->ndecided == 0)
		{
			wind_down(loop);
			return TEGRO_STOPPED;
		}
		if (!delivery->stay && !loop->look && loop->nopen == 0 &&
			loop->ndecided == 0 && !tegro_pace_any(loop->pace) &&
			(loop->next_us < 0 || loop->next_us > tegro_clock_us()))
		{
			wind_down(loop);
			return TEGRO_NOTHING_DUE;
		}
		if (delivery->stay && idle_for_long(loop))
			return TEGRO_NOTHING_DUE;

		if (loop->ndecided == 0 || loop->stumbled || is_stopped(loop))
		{
			long ms;

			/* the latch may have been reset by what was waited for since */
			if (tegro_wake_calls() != loop->calls)
				loop->look = true;
			if (is_stopped(loop))
				ms = (long) ((loop->stopped_until_us - tegro_clock_us()) /
							 1000) +
					1;
			else
				ms = loop->stumbled ? STUMBLE_MS
									: wait_ms(loop, available_slots(loop));
			loop->stumbled = false;

			if (ms > 0 || loop->items != NIL)
			{
				if (delivery->report && ms > 0)
					delivery->report(loop->items ? "waiting for answers"
												 : NULL);
				check_idle(loop);
				/* a latch that was set may be a commit's: look */
				if (!tegro_transport_wait(
						Min(ms,
							delivery->stay && loop->items == NIL
								? Max(tegro_worker_idle_timeout * 1000L, 100)
								: ms)))
					loop->look = true;
			}
		}
	}
}

TegroDeliveryEnd
tegro_deliver_due(TegroDelivery *delivery)
{
	MemoryContext caller = CurrentMemoryContext;
	Loop *loop;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "tegro delivery",
												  ALLOCSET_DEFAULT_SIZES);
	volatile TegroDeliveryEnd end = TEGRO_STOPPED;

	Assert(delivery->begin && delivery->commit);
	Assert(delivery->max == -1 || delivery->max > 0);
	PG_TRY();
	{
		loop = MemoryContextAllocZero(context, sizeof(Loop));
		loop->delivery = delivery;
		loop->context = context;
		loop->pauses = tegro_pauses_create(context);
		loop->asides = tegro_asides_create(context);
		loop->look = true;
		loop->next_us = -1;
		loop->idle_since_us = tegro_clock_us();
		loop->pace = tegro_pace_create(context);
		count_preferred(loop, INT_MAX, 0);

		MemoryContextSwitchTo(context);
		end = check(loop);
		if (end == TEGRO_NOTHING_DUE)
			end = run_loop(loop);
	}
	PG_FINALLY();
	{
		/* stops what is in flight, on whatever way we leave */
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return end;
}
