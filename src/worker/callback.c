/*-------------------------------------------------------------------------
 *
 * callback.c
 *		Calls functions back, with what became of their requests.
 *
 * A callback is called after the outcome was committed, in a transaction of
 * its own: whatever it does, the outcome stands.  That it was called is
 * committed together with what it did.  So it is with payments, which the
 * provider notifies and confirms (inbox.c).
 *
 * It is a user's code, and may be slow, or mean harm.  So a process of its own
 * calls back (worker.c), and deliveries go on beside it; only CALL
 * tegro_deliver() calls back in the session that delivers.
 *
 *	- It runs as the role that enqueued, in a security-restricted context,
 *	  which takes from it all by which code could run later as someone else:
 *	  temporary tables, cursors and triggers that outlast it.  PostgreSQL
 *	  refuses a deferred trigger there, for it would fire at the commit, with
 *	  the rights of the session.  So that tables with deferred constraints can
 *	  be written to all the same, all constraints are immediate here.
 *	- It is cancelled when its time is over.  One that catches the cancel and
 *	  goes on can't catch what comes next: the process ends, and its
 *	  transaction with it.
 *	- A call is counted, durably, before it is made.  So what takes the process
 *	  with it is not called for ever.
 *	- What it leaves in the session, a lock or a sequence's last value, is taken
 *	  away.  The memory of procedural languages (plperl's %_SHARED) is not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "src/worker/callback.h"
#include "src/base/error.h"
#include "src/outbox/inbox.h"
#include "src/base/injection.h"
#include "src/outbox/judge.h"

/* A callback may take this long. */
#define TIME_LIMIT_MS 5000

/* How long after that the process ends, if the callback has not. */
#define GRACE_MS 1000

/* How often a callback is called before it is given up. */
#define MAX_CALLS 20

/* What a callback finds names by that have no schema. */
#define SEARCH_PATH "pg_catalog, pg_temp"

/* Bytes of a callback's error that are kept and logged. */
#define MAX_MESSAGE_LEN 1000

/*
 * The callback was cancelled, and goes on.  What it can't catch is a FATAL
 * error: as if someone had terminated this process.
 */
static void
end_process(void)
{
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
limit_time(void)
{
	static bool is_registered = false;
	static TimeoutId last_resort;

	if (!is_registered)
	{
		last_resort = RegisterTimeout(USER_TIMEOUT, end_process);
		is_registered = true;
	}
	enable_timeout_after(STATEMENT_TIMEOUT, TIME_LIMIT_MS);
	enable_timeout_after(last_resort, TIME_LIMIT_MS + GRACE_MS);
}

/* Its time is not over any more, if it just was. */
static void
lift_limit(void)
{
	disable_all_timeouts(false);
	QueryCancelPending = false;
}

/* Takes away what outlasts a transaction. */
static void
clear_session(void)
{
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
}

static void
run_utility(const char *sql)
{
	int result = SPI_execute(sql, false, 0);

	if (result < 0)
		elog(ERROR, "\"%s\" failed: %s", sql, SPI_result_code_string(result));
}

/* A call of a callback. */
typedef struct Call
{
	const TegroItem *item;
	bool begun; /* it was found, and called */
} Call;

/* Calls an item's callback, as the role that enqueued it. */
static void
call_function(void *arg)
{
	Call *this = arg;
	const TegroItem *item = this->item;
	Oid user;
	int security_context;
	int guc_level;
	Oid function;
	Oid types[4] = {INT8OID, TEXTOID, TEXTOID, JSONBOID};
	Datum values[4];
	char nulls[5] = "    ";
	char *name;
	char *schema;
	char *sql;

	Assert(IsTransactionState() && ActiveSnapshotSet());
	Assert(item->callback != NULL);
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(item->role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role %u does not exist", item->role)));

	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(item->role,
						   security_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", SEARCH_PATH, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	function = DatumGetObjectId(
		DirectFunctionCall1(regprocedurein, CStringGetDatum(item->callback)));
	/* nobody keeps its owner from dropping it meanwhile */
	name = get_func_name(function);
	schema = get_namespace_name(get_func_namespace(function));
	if (name == NULL || schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist",
						tegro_error_for_client(item->callback))));
	sql = psprintf("SELECT %s($1, $2, $3, $4)",
				   quote_qualified_identifier(schema, name));
	values[0] = Int64GetDatum(item->id);
	values[1] = CStringGetTextDatum(item->state);
	values[2] = CStringGetTextDatum(item->reference);
	values[3] = item->answer ? JsonbPGetDatum(item->answer) : (Datum) 0;
	nulls[3] = item->answer ? ' ' : 'n';
	run_utility("SET CONSTRAINTS ALL IMMEDIATE");
	this->begun = true;
	if (SPI_execute_with_args(sql, 4, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not call \"%s\"", item->callback);
	/* nothing of it may be left for our commit */
	run_utility("SET CONSTRAINTS ALL IMMEDIATE");

	/* it ran as that role until now, and could not become another */
	Assert(GetUserId() == item->role && InSecurityRestrictedOperation());
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, security_context);
}

/*
 * Takes a callback that is due, of a request or of a notification, as
 * tegro_outbox_take_callback() does.  They take turns, so that many of the one
 * don't hold up the others.
 */
static TegroItem *
take(const TegroStore *store, TimestampTz *next_at)
{
	static bool notifications_turn = false;
	TegroItem *item;
	TimestampTz other_at;

	notifications_turn = !notifications_turn;
	item = notifications_turn ? tegro_inbox_take_callback(store, next_at)
							  : tegro_outbox_take_callback(store, next_at);
	if (item)
		return item;
	item = notifications_turn ? tegro_outbox_take_callback(store, &other_at)
							  : tegro_inbox_take_callback(store, &other_at);
	if (other_at != 0 && (*next_at == 0 || other_at < *next_at))
		*next_at = other_at;
	return item;
}

/*
 * What is kept and logged of a callback's error.  The text is a user's.  Two of them say nothing to who wrote the
 * callback, and works where he tries it: a cancel that no statement of his timed
 * out, and a name without its schema.
 */
static char *
tell_error(const ErrorData *error, bool begun, int64 ran_us, bool own_session)
{
	char *message = pstrdup(tegro_error_for_client(error->message));

	if (own_session && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		ran_us >= TIME_LIMIT_MS * INT64CONST(1000))
		return psprintf("the callback did not return within %d s",
						TIME_LIMIT_MS / 1000);
	/* it may be as long as the function likes */
	if (strlen(message) > MAX_MESSAGE_LEN)
		message[pg_mbcliplen(message, (int) strlen(message), MAX_MESSAGE_LEN)] =
			'\0';
	if (begun &&
		(error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		 error->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION))
		return psprintf("%s (a callback's search_path is " SEARCH_PATH ")",
						message);
	return message;
}

/* Calls a callback that was taken, and writes how it went. */
static void
call(const TegroStore *store, const TegroCaller *caller, TegroItem *item)
{
	MemoryContext context = CurrentMemoryContext;
	Call this;
	int64 begun_us;
	ErrorData *error;
	char *message = NULL;
	bool cancelled;

	/* counted by the claim, which is committed */
	Assert(item->failures > 0);
	Assert(!caller->own_session || !IsTransactionState());
	caller->begin();
	if (!tegro_store_hold_callback(store, item))
	{
		caller->commit();
		return;
	}
	if (item->failures > MAX_CALLS)
	{
		/* the last time it took the process with it */
		tegro_store_called_back(store, item,
								"it was called and did not return", -1);
		caller->commit();
		return;
	}
	this.item = item;
	this.begun = false;
	begun_us = tegro_clock_us();
	/* in a user's session the user's own statement_timeout holds */
	if (caller->own_session)
		limit_time();
	error = tegro_error_catch(call_function, &this, context);
	if (caller->own_session)
		lift_limit();
	if (error)
	{
		/* for longer than the transaction */
		MemoryContext old = MemoryContextSwitchTo(context);

		message = tell_error(error, this.begun, tegro_clock_us() - begun_us,
							 caller->own_session);
		MemoryContextSwitchTo(old);
	}
	cancelled = error && !caller->own_session &&
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;
	tegro_store_called_back(store, item, message,
							error == NULL || item->failures >= MAX_CALLS
								? -1
								: tegro_judge_backoff_ms(item->failures));
	tegro_injection_point("before callback commit");
	caller->commit();
	if (caller->own_session)
		clear_session();
	if (error)
	{
		ereport(LOG,
				item->is_notification
					? errmsg("callback %s failed for notification " INT64_FORMAT " of tegro: %s",
							 tegro_error_for_client(item->callback), item->id,
							 message)
					: errmsg("callback %s failed for request " INT64_FORMAT " of the tegro outbox: %s",
							 tegro_error_for_client(item->callback), item->id,
							 message));
		if (cancelled)
			ReThrowError(error);
	}
}

bool
tegro_call_back(const TegroStore *store, const TegroCaller *caller,
				TimestampTz *next_at)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(old, "tegro call back",
												  ALLOCSET_DEFAULT_SIZES);
	TegroItem *item;

	/* the last call may have ended in an error of our own */
	if (caller->own_session)
		clear_session();
	caller->begin();
	MemoryContextSwitchTo(context);
	item = take(store, next_at);
	Assert(item == NULL || MemoryContextGetParent(item->context) == context);
	caller->commit();
	MemoryContextSwitchTo(context);
	if (item)
		call(store, caller, item);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return item != NULL;
}

void
tegro_callback_require_function(Oid function)
{
	if (get_func_prokind(function) != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s is not an ordinary function",
						tegro_error_for_client(format_procedure(function))),
				 errhint("A callback is a function, no procedure, aggregate or window function.")));
}
