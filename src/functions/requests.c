/*-------------------------------------------------------------------------
 *
 * requests.c
 *		SQL functions of the outbox.
 *
 * They check and translate their arguments; what they do is in enqueue.c,
 * change.c, outbox.c, retention.c, delivery.c and payout.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "src/base/argument.h"
#include "src/worker/callback.h"
#include "src/base/compat.h"
#include "src/worker/delivery.h"
#include "src/outbox/outbox.h"
#include "src/worker/payout.h"
#include "src/functions/requests.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"

PG_FUNCTION_INFO_V1(tegro_create_withdrawal);
PG_FUNCTION_INFO_V1(tegro_enqueue);
PG_FUNCTION_INFO_V1(tegro_wait);
PG_FUNCTION_INFO_V1(tegro_cancel);
PG_FUNCTION_INFO_V1(tegro_retry);
PG_FUNCTION_INFO_V1(tegro_refresh);
PG_FUNCTION_INFO_V1(tegro_resolve);
PG_FUNCTION_INFO_V1(tegro_forget);
PG_FUNCTION_INFO_V1(tegro_take_over);
PG_FUNCTION_INFO_V1(tegro_deliver);

/* How often CALL tegro_deliver() tells how far it is. */
#define PROGRESS_US INT64CONST(5000000)

/* What is left is counted up to here; beyond that it is "more than". */
#define MAX_COUNTED 100000

/* While waiting: how often it is looked, from the first time to the last. */
#define FIRST_POLL_MS 2
#define LAST_POLL_MS  200

/*
 * tegro_create_withdrawal(params jsonb) returns jsonb
 */
Datum
tegro_create_withdrawal(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);

	return JsonbPGetDatum(tegro_payout(&store,
									   tegro_get_jsonb(fcinfo, 0, "params"),
									   GetUserId()));
}

char *
tegro_requests_callback_name(Oid function)
{
	static const Oid expected[4] = {INT8OID, TEXTOID, TEXTOID, JSONBOID};
	Oid *types;
	int ntypes;

	/* a regprocedure may be any number */
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	tegro_callback_require_function(function);
	(void) get_func_signature(function, &types, &ntypes);
	if (ntypes != 4 || memcmp(types, expected, sizeof(expected)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s can't be a callback",
						tegro_error_for_client(format_procedure(function))),
				 errhint("A callback takes (id bigint, state text, reference text, answer jsonb).")));
	if (!tegro_may_execute(function, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION,
					   format_procedure(function));
	return format_procedure_qualified(function);
}

/*
 * tegro_enqueue(method text, params jsonb, callback regprocedure,
 *				 deliver_after timestamptz) returns bigint
 */
Datum
tegro_enqueue(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	char *method = tegro_get_text(fcinfo, 0, "method");
	Jsonb *params = tegro_get_jsonb(fcinfo, 1, "params");
	char *callback = PG_ARGISNULL(2)
		? NULL
		: tegro_requests_callback_name(PG_GETARG_OID(2));
	TimestampTz deliver_after = PG_ARGISNULL(3) ? 0 : PG_GETARG_TIMESTAMPTZ(3);

	if (deliver_after != 0 && TIMESTAMP_NOT_FINITE(deliver_after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"deliver_after\" must be a finite time")));
	PG_RETURN_INT64(tegro_outbox_enqueue(&store, method, params, GetUserId(),
										 callback, deliver_after, NULL));
}

/*
 * tegro_wait(id bigint, timeout interval) returns jsonb
 */
Datum
tegro_wait(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	int64 id;
	Interval *timeout;
	TimestampTz until;
	long poll_ms = FIRST_POLL_MS;
	static uint32 wait_event = 0;

	tegro_require_argument(fcinfo, 0, "id");
	tegro_require_argument(fcinfo, 1, "timeout");
	id = PG_GETARG_INT64(0);
	timeout = PG_GETARG_INTERVAL_P(1);
	until = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_pl_interval,
							TimestampTzGetDatum(GetCurrentTimestamp()),
							IntervalPGetDatum(timeout)));

	for (;;)
	{
		Jsonb *answer;
		TegroOutcome outcome;
		const char *state;
		TimestampTz now;

		if (tegro_outbox_outcome(&store, id, GetUserId(), &answer, &outcome,
								 &state))
		{
			if (outcome.result != TEGRO_ANSWERED)
				tegro_error_raise(&outcome);
			return JsonbPGetDatum(answer);
		}
		now = GetCurrentTimestamp();
		if (now >= until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("request " INT64_FORMAT " of the outbox has no outcome yet", id),
					 errdetail("It is \"%s\"%s%s", state, outcome.detail ? ": " : ".",
							   outcome.detail ? tegro_error_for_client(outcome.detail) : ""),
					 errhint("It goes on by itself, and you can wait again; if it does not, tegro_doctor() says why.")));
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(poll_ms, Max((until - now) / 1000, 1)),
						 tegro_wait_event(&wait_event, "TegroOutcome"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		poll_ms = Min(poll_ms * 2, LAST_POLL_MS);
	}
}

/*
 * Carries out a person's decision, or says why it can't be.
 */
static void
decide(FunctionCallInfo fcinfo, TegroEvent event, const char *what,
	   const char *reason, const char *hint)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	int64 id;
	char *note;

	tegro_require_argument(fcinfo, 0, "id");
	id = PG_GETARG_INT64(0);
	PreventCommandIfReadOnly(
		psprintf("%s()", get_func_name(fcinfo->flinfo->fn_oid)));
	note = psprintf("%s by %s at %s%s%s", what,
					GetUserNameFromId(GetUserId(), false),
					timestamptz_to_str(GetCurrentTimestamp()),
					reason ? ": " : "", reason ? reason : "");
	if (!tegro_outbox_command(&store, id, GetUserId(), event, note))
	{
		Jsonb *answer;
		TegroOutcome outcome;
		const char *state;

		/* throws if there is none that the caller may see */
		(void) tegro_outbox_outcome(&store, id, GetUserId(), &answer, &outcome,
									&state);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("request " INT64_FORMAT " of the outbox is \"%s\" and can't be %s", id, state, what),
				 errhint("%s", hint)));
	}
}

/*
 * tegro_cancel(id bigint)
 */
Datum
tegro_cancel(PG_FUNCTION_ARGS)
{
	decide(fcinfo, TEGRO_EVENT_CANCEL, "cancelled", NULL,
		   "Only a request that is \"ready\", and was not enqueued before a failover, has certainly not been sent.");
	PG_RETURN_VOID();
}

/*
 * tegro_retry(id bigint)
 */
Datum
tegro_retry(PG_FUNCTION_ARGS)
{
	decide(fcinfo, TEGRO_EVENT_RETRY, "retried", NULL,
		   "Only a request that is \"refused\" or \"cancelled\" is sent again, and an accepted order without a link.  tegro_refresh does now what a request waits for.  One whose parameters have been erased cannot be sent, and one that is set aside waits for tegro_take_over.");
	PG_RETURN_VOID();
}

/*
 * tegro_refresh(id bigint)
 */
Datum
tegro_refresh(PG_FUNCTION_ARGS)
{
	decide(fcinfo, TEGRO_EVENT_REFRESH, "refreshed", NULL,
		   "Only a request that waits to be sent or looked up can be refreshed, and one whose callback waits or has failed.");
	PG_RETURN_VOID();
}

/*
 * tegro_resolve(id bigint, decision text, reason text)
 */
Datum
tegro_resolve(PG_FUNCTION_ARGS)
{
	char *decision = tegro_get_text(fcinfo, 1, "decision");
	char *reason = tegro_get_text(fcinfo, 2, "reason");
	TegroEvent event;

	if (strcmp(decision, "accepted") == 0)
		event = TEGRO_EVENT_RESOLVE_ACCEPTED;
	else if (strcmp(decision, "refused") == 0)
		event = TEGRO_EVENT_RESOLVE_REFUSED;
	else if (strcmp(decision, "resend") == 0)
		event = TEGRO_EVENT_RESOLVE_RESEND;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid decision \"%s\"",
						tegro_error_for_client(decision)),
				 errhint("Decide for \"accepted\" (it took effect), \"refused\" (it did not) or \"resend\" (it did not; send it again).")));
	if (strspn(reason, " \t\n") == strlen(reason))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason is needed"),
				 errhint("Say how you know, for whoever reads the outbox later.")));
	decide(fcinfo, event, psprintf("resolved as %s", decision), reason,
		   "Only a request that is \"review\" or \"unknown\" has something to be resolved.");
	PG_RETURN_VOID();
}

/*
 * tegro_forget(id bigint, reason text)
 */
Datum
tegro_forget(PG_FUNCTION_ARGS)
{
	char *reason = tegro_get_text(fcinfo, 1, "reason");

	if (strspn(reason, " \t\n") == strlen(reason))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason is needed"),
				 errhint("Say who asked for it, for whoever reads the outbox later.")));
	decide(fcinfo, TEGRO_EVENT_FORGET, "forgotten", reason,
		   "Only a request that is \"accepted\", \"refused\" or \"cancelled\" can be forgotten, once its callback has been called or given up.");
	PG_RETURN_VOID();
}

/*
 * tegro_take_over(reason text)
 */
Datum
tegro_take_over(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	char *reason = tegro_get_text(fcinfo, 0, "reason");
	TegroTakenOver taken;

	if (strspn(reason, " \t\n") == strlen(reason))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason is needed"),
				 errhint("Say why this database pays now, and not the one that it is a copy of.")));
	PreventCommandIfReadOnly("tegro_take_over()");
	tegro_outbox_take_over(&store, GetUserId(),
						   psprintf("taken over by %s: %s",
									GetUserNameFromId(GetUserId(), false),
									reason),
						   &taken);
	ereport(NOTICE,
			(errmsg("this database delivers from now on"),
			 taken.kept == 0
				 ? errdetail("From before: " UINT64_FORMAT " orders are looked up, " UINT64_FORMAT " payouts are in review.",
							 taken.orders, taken.payouts)
				 : errdetail("From before: " UINT64_FORMAT " orders are looked up, " UINT64_FORMAT " payouts are in review.  " UINT64_FORMAT " requests stay aside: they were sent to another address, or with another key, and cannot be looked up here.",
							 taken.orders, taken.payouts, taken.kept)));
	PG_RETURN_VOID();
}

/*
 * CALL tegro_deliver(max int): the transactions of a procedure.
 */

static void
procedure_begin(void)
{
	/*
	 * SPI_commit() has begun a transaction already; nothing has happened in
	 * it, so it can still be told how to be.
	 */
	if (XactIsoLevel != XACT_READ_COMMITTED)
		(void) set_config_option("transaction_isolation", "read committed",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
								 true, 0, false);
	tegro_store_commit_durably();
	/* plans are made anew after an ANALYZE */
	tegro_store_plan_by_index(GUC_ACTION_LOCAL);
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
procedure_commit(void)
{
	PopActiveSnapshot();
	SPI_commit();
}

/* What report_progress() is to know; of the call that runs. */
static struct
{
	TegroDelivery *delivery;
	TegroStore store;
	int64 begun_us;
	int64 told_us;
} progress;

/* Tells the client now and then how far it is. */
static void
report_progress(const char *activity)
{
	MemoryContext old = CurrentMemoryContext;
	TegroDelivery *delivery = progress.delivery;
	int64 now_us = tegro_clock_us();
	int64 left;

	if (now_us - progress.told_us < PROGRESS_US)
		return;
	progress.told_us = now_us;
	delivery->begin();
	left = tegro_outbox_count_due(&progress.store, MAX_COUNTED + 1);
	delivery->commit();
	MemoryContextSwitchTo(old);

	if (left > MAX_COUNTED)
		ereport(NOTICE,
				(errmsg("sent " INT64_FORMAT " requests, more than %d are left",
						delivery->sent, MAX_COUNTED)));
	else if (delivery->settled > 0)
		ereport(NOTICE,
				(errmsg("sent " INT64_FORMAT " requests, " INT64_FORMAT " are left, some " INT64_FORMAT " s at this rate",
						delivery->sent, left,
						left * (now_us - progress.begun_us) /
							delivery->settled / 1000000)));
	else
		ereport(NOTICE,
				(errmsg("sent " INT64_FORMAT " requests, " INT64_FORMAT " are left",
						delivery->sent, left)));
}

Datum
tegro_deliver(PG_FUNCTION_ARGS)
{
	TegroDelivery delivery = {0};
	CallContext *call = (CallContext *) fcinfo->context;
	TegroDeliveryEnd end;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("tegro_deliver can't run inside a transaction block"),
				 errdetail("It commits each claim before it sends."),
				 errhint("Call it by itself: CALL tegro_deliver().")));
	delivery.max = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT32(0);
	if (!PG_ARGISNULL(0) && delivery.max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"max\" must be at least 1")));
	delivery.begin = procedure_begin;
	delivery.commit = procedure_commit;
	delivery.report = report_progress;
	progress.delivery = &delivery;
	progress.store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	progress.begun_us = progress.told_us = tegro_clock_us();

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_commit(); /* out of the snapshot that the call came with */
	end = tegro_deliver_due(&delivery);
	SPI_finish();

	if (end == TEGRO_UNCONFIRMED)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("delivery was cancelled while it waited for a synchronous standby"),
				 errdetail("What no standby has on record was not sent.")));
	if (end == TEGRO_DELIVERY_OFF)
		ereport(NOTICE,
				(errmsg("nothing was delivered: delivery is off, or this is a standby")));
	else
		ereport(NOTICE,
				(errmsg("sent " INT64_FORMAT " requests", delivery.sent)));
	PG_RETURN_VOID();
}
