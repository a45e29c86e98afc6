/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		Delivers what is due in the outbox.
 *
 * One loop, for the background worker and for CALL tegro_deliver():
 *
 *		take down the answers that came
 *		in one transaction: settle them, and claim as many as there are places
 *		commit, durably
 *		send what was claimed
 *		wait for answers, or for something to become due
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
 * The fence: a claim is good for tegro.lease seconds.  A request goes out
 * only while enough of that is left for its answer, measured on a clock that
 * nobody sets and that goes on while the machine sleeps, at the last moment
 * (transport.c).  So what another may have taken over is not sent.
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
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "src/compat.h"
#include "src/delivery.h"
#include "src/identity.h"
#include "src/inbox.h"
#include "src/killpoint.h"
#include "src/ruling.h"
#include "src/settings.h"
#include "src/wake.h"

/* Milliseconds of the lease that must be left when an exchange ends. */
#define LEASE_MARGIN_MS 2000

/* The longest sleep: everything is looked over at least so often. */
#define SWEEP_MS (60 * 1000)

/* How often prepared transactions are asked for, while there are some. */
#define PREPARED_MS 1000

/*
 * How often notifications are looked for while a backlog of requests is worked
 * off; at each claim otherwise.
 */
#define INBOX_MS 50

/* How often the whole index is swept while a backlog is worked off. */
#define FULL_SWEEP_MS (10 * 1000)

/* How long answers are gathered for one commit, at most, microseconds. */
#define GATHER_US 1000

/* The pause after a round that failed. */
#define STUMBLE_MS 100

/* How long a shop rests whose key was not accepted, or until a reload. */
#define UNAUTHORIZED_PAUSE_MS (10 * 60 * 1000)

/* A callback may take this long; meanwhile nothing else is delivered. */
#define CALLBACK_TIMEOUT_MS 5000

/* How often a callback is called before it is given up. */
#define CALLBACK_ATTEMPTS 20

/* A shop that is left alone for a while. */
typedef struct Pause
{
	char *shop_id;
	int64 until_us; /* on tegro_clock_us() */
	bool until_reload;
	TimestampTz reload_time; /* PgReloadTime when it began */
} Pause;

/* What the loop keeps between rounds. */
typedef struct Loop
{
	TegroDeliverer *deliverer;
	MemoryContext context; /* all below, and the items */
	TegroLedger ledger;
	char *identity;
	List *items;	 /* in flight, or ruled and to be settled */
	List *callbacks; /* claimed, to be called */
	int nopen;		 /* in flight and not given up */
	int nruled;
	List *pauses;
	bool stumbled;		   /* the last round failed: not at once again */
	bool look;			   /* there may be something due */
	int64 next_us;		   /* when the next is due; -1: unknown */
	TimestampTz after;	   /* where the last claim ended */
	int64 gather_until_us; /* how long answers are gathered before a commit */
	bool backlog;		   /* the last claim was full */
	int64 swept_us;
	int64 inbox_us; /* when notifications were looked for last */
	int64 idle_since_us;
	double tokens; /* of tegro.rate_limit */
	int64 tokens_us;
	int64 forgot_us;
} Loop;


/*
 * Transactions.
 */

static void
begin(Loop *loop)
{
	loop->deliverer->begin();
}

/* Commits; what is allocated from here on is the loop's again. */
static void
commit(Loop *loop)
{
	loop->deliverer->commit();
	MemoryContextSwitchTo(loop->context);
}

/*
 * Does some work in a subtransaction, so that it can fail without the rest.
 * Returns the error, in the loop's context, or NULL.  Being asked to stop is
 * not caught.
 */
static ErrorData *
try_to(Loop *loop, void (*work)(Loop *loop, void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		work(loop, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(loop->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}


/*
 * Pauses.
 */

static void
pause_shop(Loop *loop, const char *shop_id, int64 ms, bool until_reload,
		   const char *why)
{
	MemoryContext old = MemoryContextSwitchTo(loop->context);
	Pause *rest = NULL;
	ListCell *cell;

	foreach(cell, loop->pauses)
	{
		if (strcmp(((Pause *) lfirst(cell))->shop_id, shop_id) == 0)
			rest = lfirst(cell);
	}
	if (rest == NULL)
	{
		rest = palloc0(sizeof(Pause));
		rest->shop_id = pstrdup(shop_id);
		loop->pauses = lappend(loop->pauses, rest);
		ereport(LOG,
				(errmsg("tegro delivery pauses for shop \"%s\"", shop_id),
				 why ? errdetail_internal("%s", why) : 0));
	}
	rest->until_us = Max(rest->until_us, tegro_clock_us() + ms * 1000);
	rest->until_reload |= until_reload;
	rest->reload_time = PgReloadTime;
	MemoryContextSwitchTo(old);
}

/* The shops that rest now, as names; ends the pauses that are over. */
static List *
paused_shops(Loop *loop)
{
	List *names = NIL;
	ListCell *cell;
	int64 now = tegro_clock_us();

	foreach(cell, loop->pauses)
	{
		Pause *rest = lfirst(cell);

		if (now >= rest->until_us ||
			(rest->until_reload && rest->reload_time != PgReloadTime))
		{
			pfree(rest->shop_id);
			pfree(rest);
			loop->pauses = foreach_delete_current(loop->pauses, cell);
			loop->look = true;
		}
		else
			names = lappend(names, rest->shop_id);
	}
	return names;
}


/*
 * Sending.
 */

static void
free_item(Loop *loop, TegroItem *item)
{
	loop->items = list_delete_ptr(loop->items, item);
	MemoryContextDelete(item->context);
}

/* Puts a claimed item in flight. */
static void
send_item(TegroItem *item)
{
	MemoryContext old = MemoryContextSwitchTo(item->context);
	int64 lease_ms = tegro_lease * INT64CONST(1000) - LEASE_MARGIN_MS;
	int timeout_ms = tegro_timeout;
	int64 send_before_us = 0;

	if (item->task == TEGRO_SEND)
	{
		/* a lease too short for the timeout still gets something to send in */
		send_before_us = item->claimed_us +
			Max(lease_ms - tegro_timeout, tegro_lease * INT64CONST(1000) / 4) *
				1000;
		/* listened to until the lease ends: see tegro_rule_overdue() */
		timeout_ms =
			(int) Max(lease_ms - (tegro_clock_us() - item->claimed_us) / 1000,
					  Min(tegro_timeout, lease_ms));
		timeout_ms = Max(timeout_ms, 1);
	}
	tegro_api_send(item->call, &item->request, timeout_ms, send_before_us);
	item->in_flight = true;
	MemoryContextSwitchTo(old);
}

/* Rules on an item whose exchange has ended, or has been waited for enough. */
static bool
rule_item(TegroItem *item)
{
	MemoryContext old;
	const TegroExchange *exchange = tegro_api_exchange(item->call);
	bool ended = exchange->end != TEGRO_EXCHANGE_OPEN;

	if (!ended &&
		(item->given_up || item->task != TEGRO_SEND ||
		 !exchange->handed_over ||
		 tegro_clock_us() - item->claimed_us <
			 tegro_timeout * INT64CONST(1000)))
		return false;

	old = MemoryContextSwitchTo(item->context);
	if (ended)
	{
		item->in_flight = false;
		(void) tegro_api_judge(item->call);
		item->ruling = item->task == TEGRO_SEND ? tegro_rule_sent(item)
			: item->is_notification				? tegro_rule_notified(item)
												: tegro_rule_looked_up(item);
	}
	else
		item->ruling = tegro_rule_overdue(item);
	item->ruled = true;
	MemoryContextSwitchTo(old);
	return true;
}

void
tegro_deliver_one(TegroItem *item)
{
	send_item(item);
	while (!rule_item(item))
	{
		int64 left_ms = tegro_timeout -
			(tegro_clock_us() - item->claimed_us) / 1000;

		(void) tegro_transport_wait((long) Max(left_ms, 1));
	}
}


/*
 * Callbacks.
 */

/* Calls an item's callback, as the role that enqueued it. */
static void
call_function(Loop *loop, void *arg)
{
	TegroItem *item = arg;
	Oid user;
	int security_context;
	int guc_level;
	Oid function;
	Oid types[4] = {INT8OID, TEXTOID, TEXTOID, JSONBOID};
	Datum values[4];
	char nulls[5] = "    ";
	char *sql;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(item->role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role %u does not exist", item->role)));

	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(item->role,
						   security_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	function = DatumGetObjectId(
		DirectFunctionCall1(regprocedurein, CStringGetDatum(item->callback)));
	sql =
		psprintf("SELECT %s($1, $2, $3, $4)",
				 quote_qualified_identifier(get_namespace_name(
												get_func_namespace(function)),
											get_func_name(function)));
	values[0] = Int64GetDatum(item->id);
	values[1] = CStringGetTextDatum(item->state);
	values[2] = CStringGetTextDatum(item->reference);
	values[3] = item->answer ? JsonbPGetDatum(item->answer) : (Datum) 0;
	nulls[3] = item->answer ? ' ' : 'n';
	if (SPI_execute_with_args(sql, 4, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not call \"%s\"", item->callback);
	/* what it deferred must fail here, if it does, not at our commit */
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not check the constraints that \"%s\" deferred", item->callback);

	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, security_context);
}

/*
 * Calls back in a transaction of its own, after the outcome was committed:
 * whatever the callback does, the outcome stands.  That it was called is
 * committed together with what it did.
 */
static void
call_back(Loop *loop, TegroItem *item)
{
	ErrorData *error;
	bool give_up = item->failures + 1 >= CALLBACK_ATTEMPTS;
	bool own_session = loop->deliverer->stay;
	bool cancelled;
	void (*called_back)(const TegroLedger *ledger, const TegroItem *item,
						const char *message, int64 delay_ms);

	if (loop->deliverer->report)
		loop->deliverer->report("calling back");

	begin(loop);
	if (!(item->is_notification ? tegro_inbox_hold(&loop->ledger, item)
								: tegro_outbox_hold(&loop->ledger, item)))
	{
		commit(loop);
		return;
	}
	/* in a user's session the user's own statement_timeout holds */
	if (own_session)
		enable_timeout_after(STATEMENT_TIMEOUT, CALLBACK_TIMEOUT_MS);
	error = try_to(loop, call_function, item);
	if (own_session)
		disable_timeout(STATEMENT_TIMEOUT, false);
	cancelled = error && !own_session &&
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;
	called_back = item->is_notification ? tegro_inbox_called_back
										: tegro_outbox_called_back;
	called_back(&loop->ledger, item, error ? error->message : NULL,
				error == NULL || give_up
					? -1
					: tegro_rule_backoff_ms(item->failures + 1));
	tegro_kill_point("before callback commit");
	commit(loop);
	if (error)
	{
		ereport(LOG,
				(errmsg("callback %s failed for %s " INT64_FORMAT " of the tegro outbox: %s",
						item->callback, item->is_notification ? "notification" : "request",
						item->id, error->message)));
		if (cancelled)
			ReThrowError(error);
		FreeErrorData(error);
	}
	loop->look = true;
}


/*
 * The loop.
 */

/* Takes down which answers came. */
static void
take_down(Loop *loop)
{
	ListCell *cell;

	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		if (item->in_flight && !item->ruled && rule_item(item))
		{
			tegro_kill_point("answer read");
			loop->nruled++;
			if (!item->given_up)
				loop->nopen--;
			if (item->ruling->pause_until_reload)
				pause_shop(loop, item->shop_id, UNAUTHORIZED_PAUSE_MS, true,
						   item->ruling->message);
			else if (item->ruling->pause_ms > 0)
				pause_shop(loop, item->shop_id, item->ruling->pause_ms, false,
						   item->ruling->message);
		}
	}
}

/* After its ruling is settled: it goes, or is listened to a while longer. */
static void
settled(Loop *loop, TegroItem *item)
{
	item->ruled = false;
	loop->nruled--;
	loop->deliverer->settled++;
	/* what was ruled on may be due again at once */
	if (item->ruling->delay_ms >= 0 || item->callback)
		loop->look = true;
	if (item->in_flight)
		item->given_up = true;
	else
		free_item(loop, item);
}

/* Settles requests and notifications that were ruled on. */
static void
settle_items(Loop *loop, List *items)
{
	List *requests = NIL;
	List *notifications = NIL;
	ListCell *cell;

	foreach(cell, items)
	{
		TegroItem *item = lfirst(cell);

		if (item->is_notification)
			notifications = lappend(notifications, item);
		else
			requests = lappend(requests, item);
	}
	tegro_outbox_settle(&loop->ledger, requests);
	tegro_inbox_settle(&loop->ledger, notifications);
	list_free(requests);
	list_free(notifications);
}

static void
settle_item(Loop *loop, void *arg)
{
	settle_items(loop, list_make1(arg));
}

/*
 * Settles one item in a transaction of its own, after the common one failed:
 * if its row is what is wrong, only its row suffers.  Returns false if it
 * can't be settled now: someone holds the row, say.
 */
static bool
settle_alone(Loop *loop, TegroItem *item)
{
	ErrorData *error;

	begin(loop);
	error = try_to(loop, settle_item, item);
	if (error)
	{
		/* what can always be written: that it is in doubt */
		MemoryContext old = MemoryContextSwitchTo(item->context);

		item->ruling = item->is_notification
			? tegro_rule_postponed(item, NULL, NULL)
			: tegro_rule_overdue(item);
		item->ruling->message =
			psprintf("its outcome could not be written: %s", error->message);
		MemoryContextSwitchTo(old);
		FreeErrorData(error);
		error = try_to(loop, settle_item, item);
	}
	commit(loop);
	return error == NULL;
}

/* How many requests may be sent now, by the places and the rate. */
static int
free_places(Loop *loop)
{
	TegroDeliverer *deliverer = loop->deliverer;
	int places = tegro_max_concurrency - loop->nopen;

	/* those given up keep their connections; as many again is enough */
	places = Min(places, 2 * tegro_max_concurrency - list_length(loop->items));
	if (deliverer->max >= 0)
		places = (int) Min((int64) places, deliverer->max - deliverer->sent);
	if (tegro_rate_limit > 0)
	{
		int64 now = tegro_clock_us();

		loop->tokens = Min(loop->tokens +
							   (now - loop->tokens_us) / 1e6 *
								   tegro_rate_limit,
						   Max(tegro_rate_limit / 10.0, 1.0));
		loop->tokens_us = now;
		places = Min(places, (int) loop->tokens);
	}
	return Max(places, 0);
}

/* What settle_and_claim() does, as one piece. */
typedef struct Round
{
	List *ruled;	  /* to settle */
	int places;		  /* to fill */
	List *claimed;	  /* out */
	TegroClaim claim; /* out */
	bool asked_inbox; /* out: so "inbox" is filled */
	TegroInboxClaim inbox;
} Round;

/* Claims at most "room" requests. */
static List *
claim_requests(Loop *loop, TegroClaim *claim, int room)
{
	int64 now = tegro_clock_us();
	List *requests;

	claim->max = room;
	claim->after = loop->after;
	claim->fast = loop->backlog &&
		now - loop->swept_us < FULL_SWEEP_MS * INT64CONST(1000);
	claim->identity = loop->identity;
	requests = tegro_outbox_claim(&loop->ledger, claim);
	if (claim->fast && !claim->full)
	{
		/* the end of the backlog, or so it seems: look everywhere */
		claim->fast = false;
		claim->max = room - list_length(requests);
		claim->full = claim->max <= 0;
		if (claim->max > 0)
			requests = list_concat(requests,
								   tegro_outbox_claim(&loop->ledger, claim));
	}
	if (!claim->fast)
		loop->swept_us = now;
	return requests;
}

static void
do_round(Loop *loop, void *arg)
{
	Round *round = arg;
	TegroClaim *claim = &round->claim;
	int64 now = tegro_clock_us();
	MemoryContext old;
	bool ask_inbox = !loop->backlog ||
		now - loop->inbox_us >= INBOX_MS * INT64CONST(1000);
	/* a backlog of requests must leave notifications a place */
	int reserved = loop->backlog && ask_inbox ? Max(round->places / 4, 1) : 0;
	int room;

	settle_items(loop, round->ruled);
	if (round->places <= 0)
		return;

	claim->paused_shops = paused_shops(loop);
	old = MemoryContextSwitchTo(loop->context);
	if (round->places > reserved)
		round->claimed = claim_requests(loop, claim, round->places - reserved);
	else
	{
		claim->after = loop->after;
		claim->full = true; /* who knows */
	}
	room = round->places - list_length(round->claimed);
	if (ask_inbox && room > 0)
	{
		loop->inbox_us = now;
		round->asked_inbox = true;
		round->claimed = list_concat(round->claimed,
									 tegro_inbox_claim(&loop->ledger, room,
													   claim->paused_shops,
													   &round->inbox));
	}
	MemoryContextSwitchTo(old);
}

/*
 * One transaction: settles what was ruled on and claims what there are places
 * for.  Returns what was claimed, to be sent.
 */
static List *
settle_and_claim(Loop *loop, int places)
{
	Round round = {NIL, places};
	ErrorData *error;
	ListCell *cell;

	foreach(cell, loop->items)
	{
		if (((TegroItem *) lfirst(cell))->ruled)
			round.ruled = lappend(round.ruled, lfirst(cell));
	}

	begin(loop);
	error = try_to(loop, do_round, &round);
	tegro_kill_point("before claim commit");
	commit(loop);
	if (error == NULL)
		tegro_kill_point("after claim commit");

	if (error)
	{
		/* without rows of ours there is nobody else to blame */
		if (round.ruled == NIL ||
			error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_UNDEFINED_TABLE)
			ReThrowError(error);
		FreeErrorData(error);
		round.claimed = NIL;
		foreach(cell, round.ruled)
		{
			/* what can't be settled is tried again in the next round */
			if (!settle_alone(loop, lfirst(cell)))
				round.ruled = foreach_delete_current(round.ruled, cell);
		}
		loop->look = true;
		loop->stumbled = true;
	}
	else if (places > 0)
	{
		TegroClaim *claim = &round.claim;

		TimestampTz next_at = claim->next_at;

		if (round.inbox.next_at != 0 &&
			(next_at == 0 || round.inbox.next_at < next_at))
			next_at = round.inbox.next_at;
		loop->after = claim->after;
		loop->backlog = claim->full;
		/* notifications that were not asked for are asked for next */
		loop->look = claim->full || round.inbox.full || !round.asked_inbox;
		loop->next_us = loop->look ? tegro_clock_us()
			: next_at == 0
			? -1
			: tegro_clock_us() + Max(next_at - GetCurrentTimestamp(), 0);
	}
	foreach(cell, round.ruled)
		settled(loop, lfirst(cell));
	list_free(round.ruled);
	return round.claimed;
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

	foreach(cell, claimed)
	{
		TegroItem *item = lfirst(cell);

		if (item->task == TEGRO_CALL_BACK)
		{
			loop->callbacks = lappend(loop->callbacks, item);
			continue;
		}
		loop->items = lappend(loop->items, item);
		loop->nopen++;
		if (item->task == TEGRO_SEND)
		{
			loop->deliverer->sent++;
			if (tegro_rate_limit > 0)
				loop->tokens -= 1;
		}
		if (!replicated || RecoveryInProgress() || !tegro_delivery ||
			(loop->deliverer->stop && *loop->deliverer->stop))
		{
			MemoryContext old = MemoryContextSwitchTo(item->context);

			item->ruling = item->task == TEGRO_SEND
				? tegro_rule_unsent(item,
									"the claim was not confirmed; nothing was sent")
				: tegro_rule_postponed(item, NULL, item->message);
			item->ruled = true;
			loop->nruled++;
			loop->nopen--;
			MemoryContextSwitchTo(old);
			continue;
		}
		send_item(item);
	}
	list_free(claimed);
}

/* Milliseconds to wait for answers, at most. */
static long
wait_ms(Loop *loop, int places)
{
	int64 now = tegro_clock_us();
	int64 until_us = now + SWEEP_MS * INT64CONST(1000);
	ListCell *cell;

	if (loop->look && places > 0)
		return 0;
	if (loop->next_us >= 0 && places > 0)
		until_us = Min(until_us, loop->next_us);
	if (tegro_rate_limit > 0 && (loop->look || loop->next_us >= 0) &&
		places == 0)
		until_us = Min(until_us, now + INT64CONST(1000000) / tegro_rate_limit);
	foreach(cell, loop->pauses)
		until_us = Min(until_us, ((Pause *) lfirst(cell))->until_us);
	foreach(cell, loop->items)
	{
		TegroItem *item = lfirst(cell);

		/* what is past that only waits for its connection to give up */
		if (!item->given_up)
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

		if (!item->ruled)
		{
			if (item->task != TEGRO_SEND)
			{
				item->ruling = tegro_rule_settled(item);
				item->ruling->delay_ms = 0;
			}
			else if (tegro_api_exchange(item->call)->handed_over)
				item->ruling = tegro_rule_orphaned(item);
			else
				item->ruling =
					tegro_rule_unsent(item,
									  "the deliverer was stopped; nothing was sent");
			item->ruled = true;
			loop->nruled++;
		}
		item->in_flight = false;
		MemoryContextSwitchTo(old);
	}
	if (loop->nruled > 0)
		(void) settle_and_claim(loop, 0);
}

/* Deletes what was kept long enough, now and then. */
static void
forget_old(Loop *loop)
{
	int64 now = tegro_clock_us();

	if (tegro_retention <= 0 ||
		now - loop->forgot_us < SWEEP_MS * INT64CONST(1000))
		return;
	loop->forgot_us = now;
	begin(loop);
	tegro_outbox_forget(&loop->ledger,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													-tegro_retention *
														INT64CONST(1000)));
	commit(loop);
}

/* May this database deliver? */
static TegroDeliveryEnd
check(Loop *loop)
{
	bool allowed;
	char *detail = NULL;

	if (!tegro_delivery || RecoveryInProgress())
		return TEGRO_DELIVERY_OFF;
	begin(loop);
	if (!tegro_ledger_find(&loop->ledger))
	{
		commit(loop);
		return TEGRO_NO_LEDGER;
	}
	loop->identity = MemoryContextStrdup(loop->context,
										 tegro_identity_current());
	allowed = tegro_outbox_check_identity(&loop->ledger, loop->identity,
										  &detail);
	if (!allowed)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("delivery of the tegro outbox is held"),
				 errdetail("%s This database may be a copy, and a copy must not pay.", detail),
				 errhint("If this database is to deliver the requests instead of the other, call tegro_arm.")));
	commit(loop);
	return allowed ? TEGRO_NOTHING_DUE : TEGRO_DELIVERY_HELD;
}

/* Has nothing been left to do for long enough? */
static bool
idle_for_long(Loop *loop)
{
	bool prepared;

	if (loop->look || loop->items != NIL || loop->next_us >= 0)
	{
		loop->idle_since_us = tegro_clock_us();
		return false;
	}
	begin(loop);
	prepared = tegro_outbox_any_prepared();
	commit(loop);
	if (prepared)
	{
		/* its commit wakes nobody: look again before long */
		loop->next_us = tegro_clock_us() + PREPARED_MS * INT64CONST(1000);
		loop->idle_since_us = tegro_clock_us();
		return false;
	}
	return tegro_clock_us() - loop->idle_since_us >=
		tegro_worker_idle * INT64CONST(1000000);
}

static TegroDeliveryEnd
run_loop(Loop *loop)
{
	TegroDeliverer *deliverer = loop->deliverer;

	for (;;)
	{
		int places;
		List *claimed = NIL;

		MemoryContextSwitchTo(loop->context);
		if (deliverer->reload)
			deliverer->reload();
		if (deliverer->stop && *deliverer->stop)
		{
			wind_down(loop);
			return TEGRO_STOPPED;
		}
		if (!tegro_delivery || RecoveryInProgress())
		{
			wind_down(loop);
			return TEGRO_DELIVERY_OFF;
		}

		take_down(loop);

		/*
		 * While a backlog waits, a commit for many is better than a quick one
		 * for a few.
		 */
		if (loop->nruled == 0)
			loop->gather_until_us = tegro_clock_us() + GATHER_US;
		else if (loop->backlog && loop->nopen > 0 &&
				 tegro_clock_us() < loop->gather_until_us)
		{
			(void) tegro_transport_wait(1);
			continue;
		}
		list_free(paused_shops(loop));
		places = free_places(loop);
		if (loop->next_us >= 0 && tegro_clock_us() >= loop->next_us)
			loop->look = true;
		if (loop->nruled > 0 || (loop->look && places > 0))
		{
			if (deliverer->report)
				deliverer->report("delivering");
			claimed = settle_and_claim(loop, places);
			send_claimed(loop, claimed);
		}

		while (loop->callbacks != NIL)
		{
			TegroItem *item = linitial(loop->callbacks);

			loop->callbacks = list_delete_first(loop->callbacks);
			call_back(loop, item);
			MemoryContextSwitchTo(loop->context);
			MemoryContextDelete(item->context);
		}
		forget_old(loop);

		if (deliverer->max >= 0 && deliverer->sent >= deliverer->max &&
			loop->nopen == 0 && loop->nruled == 0)
		{
			wind_down(loop);
			return TEGRO_STOPPED;
		}
		if (!deliverer->stay && !loop->look && loop->nopen == 0 &&
			loop->nruled == 0 &&
			(loop->next_us < 0 || loop->next_us > tegro_clock_us()))
		{
			wind_down(loop);
			return TEGRO_NOTHING_DUE;
		}
		if (deliverer->stay && idle_for_long(loop))
			return TEGRO_NOTHING_DUE;

		if (loop->nruled == 0 || loop->stumbled)
		{
			long ms = loop->stumbled ? STUMBLE_MS
									 : wait_ms(loop, free_places(loop));

			loop->stumbled = false;

			if (ms > 0 || loop->items != NIL)
			{
				if (deliverer->report && ms > 0)
					deliverer->report(loop->items ? "waiting for answers"
												  : NULL);
				/* a latch that was set may be a commit's: look */
				if (!tegro_transport_wait(
						Min(ms,
							deliverer->stay && loop->items == NIL
								? Max(tegro_worker_idle * 1000L, 100)
								: ms)))
					loop->look = true;
			}
		}
	}
}

TegroDeliveryEnd
tegro_deliver_due(TegroDeliverer *deliverer)
{
	MemoryContext caller = CurrentMemoryContext;
	Loop *loop;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "tegro delivery",
												  ALLOCSET_DEFAULT_SIZES);
	volatile TegroDeliveryEnd end = TEGRO_STOPPED;

	PG_TRY();
	{
		loop = MemoryContextAllocZero(context, sizeof(Loop));
		loop->deliverer = deliverer;
		loop->context = context;
		loop->look = true;
		loop->next_us = -1;
		loop->idle_since_us = loop->tokens_us = tegro_clock_us();
		loop->tokens = 1;

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
