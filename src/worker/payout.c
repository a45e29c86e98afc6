/*-------------------------------------------------------------------------
 *
 * payout.c
 *		Synchronous payouts, by a process of their own.
 *
 * A payout that is sent from within the caller's transaction is forgotten if
 * that transaction rolls back, or sent twice if PostgreSQL evaluates the
 * function twice.  So tegro_create_withdrawal() hands the request to a
 * background worker, which puts it into the outbox in a transaction of its
 * own, commits, sends, and settles.  The caller waits and reads the outcome
 * from the outbox.  A cancel or a rollback of the caller changes nothing; the
 * same payment_id again finds the same row.
 *
 * If a process dies
 *		the caller, before the worker has read the request: nothing was sent,
 *		and nothing will be;
 *		the caller, later: the worker goes on;
 *		the worker, before its first commit: nothing was sent, the caller is
 *		told so;
 *		the worker, after it: the row is "sending" until its lease ends, then
 *		the delivery worker looks it up.  The caller is told "unknown".
 *
 * What was certainly not sent, or is refused for now, is left to the delivery
 * worker, which sends it when that is possible.  But not where the caller's
 * session has a key of its own: what was meant for another account must not go to
 * the server's.  It is cancelled.
 *
 * The request, and the settings and keys of the caller's session, pass through
 * a segment of dynamic shared memory, and are zeroed there as soon as they are
 * read, or when the caller gives up before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "src/base/compat.h"
#include "src/worker/delivery.h"
#include "src/outbox/origin.h"
#include "src/outbox/payer.h"
#include "src/base/injection.h"
#include "src/worker/payout.h"
#include "src/outbox/judge.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"
#include "src/worker/session.h"

PGDLLEXPORT void tegro_payout_main(Datum arg);

/* What goes on after tegro.timeout: start of the worker, commits. */
#define PATIENCE_MS 5000

/* How often the outcome is looked for while another delivers it. */
#define POLL_MS 20

/* Room for an error's texts. */
#define ERROR_TEXT_LEN 1024

/* How far the worker has come. */
typedef enum PayoutProgress
{
	PAYOUT_WAITS,	 /* it has read nothing */
	PAYOUT_LEFT,	 /* nor will it: the caller has gone */
	PAYOUT_READ,	 /* nothing is on record */
	PAYOUT_BEGUN,	 /* it may be on record */
	PAYOUT_RECORDED, /* "id" is in the outbox, and may be sent */
	PAYOUT_ENDED,	 /* see its outcome there */
	PAYOUT_FAILED	 /* see the error; nothing was recorded */
} PayoutProgress;

/* The segment of shared memory. */
typedef struct PayoutShared
{
	Oid database;
	Oid role;
	Latch *caller;
	Size settings_len; /* of data[] */
	Size params_len;   /* behind them, with a NUL */

	slock_t lock; /* over what follows */
	PayoutProgress progress;
	int64 id;
	int sqlstate;
	char message[ERROR_TEXT_LEN];
	char detail[ERROR_TEXT_LEN];
	char hint[ERROR_TEXT_LEN];

	char data[FLEXIBLE_ARRAY_MEMBER];
} PayoutShared;


/*
 * The caller's side.
 */

/* Says on a cancel or a shutdown that the payout goes on. */
static void
tell_that_it_goes_on(void *arg)
{
	const char *payment_id = arg;

	if (geterrcode() == ERRCODE_QUERY_CANCELED ||
		geterrcode() == ERRCODE_ADMIN_SHUTDOWN)
	{
		errdetail("The payout \"%s\" was handed over, and may go on.",
				  tegro_error_in_context(payment_id));
		errhint("Its outcome will stand in tegro_outbox; the same call again returns it.");
	}
}

/* A handle of the worker that carries the payout out; throws if none starts. */
static BackgroundWorkerHandle *
start_worker(dsm_segment *segment)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	/*
	 * Not BGWORKER_INTERRUPTIBLE: a CREATE DATABASE that fails anyway, since the
	 * caller is connected, would end it, and lose the answer to a payout.  It
	 * lives no longer than one request.
	 */
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "tegro", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "tegro_payout_main",
			sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "tegro payout", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "tegro payout", BGW_MAXLEN);
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_NOT_SENT),
				 errmsg("could not start a worker for the payout"),
				 errdetail("All background worker slots are taken; nothing was sent."),
				 errhint("Raise max_worker_processes, or use tegro_enqueue and CALL tegro_deliver().")));
	return handle;
}

/*
 * The request goes to whoever comes first: to the worker, which reads it, or
 * back to the caller, who gave up.  Returns false if the other was first.
 */
static bool
claim_request(PayoutShared *shared, PayoutProgress progress)
{
	bool waits;

	Assert(progress == PAYOUT_READ || progress == PAYOUT_LEFT);
	SpinLockAcquire(&shared->lock);
	waits = shared->progress == PAYOUT_WAITS;
	if (waits)
		shared->progress = progress;
	SpinLockRelease(&shared->lock);
	return waits;
}

/*
 * When the caller lets the segment go, on whatever way: where no worker has
 * read the request, none will, and the keys are zeroed.
 */
static void
take_back(dsm_segment *segment, Datum arg)
{
	PayoutShared *shared = dsm_segment_address(segment);

	if (claim_request(shared, PAYOUT_LEFT))
		explicit_bzero(shared->data,
					   shared->settings_len + shared->params_len);
}

/*
 * The settings of the caller's session with which the worker makes the call.
 * Their values are valid: they were checked when they were set.
 */
static const char *const call_settings[] = {
	"tegro.shop_id",		 "tegro.api_key", "tegro.secret_key",
	"tegro.connect_timeout", "tegro.timeout", "tegro.read_retries",
};

/*
 * Their values in that order, a NUL behind each, palloc'd.  They hold keys: to
 * be kept in memory only, and zeroed after use.
 */
static char *
export_settings(Size *len)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < lengthof(call_settings); i++)
	{
		appendStringInfoString(&out,
							   GetConfigOption(call_settings[i], false,
											   false));
		appendStringInfoChar(&out, '\0');
	}
	*len = out.len;
	return out.data;
}

/*
 * Takes over what export_settings() wrote in another session.  Returns true if
 * that session signs with a key other than this process would.
 */
static bool
import_settings(const char *bytes, Size len)
{
	const char *end = bytes + len;
	bool differs = false;

	for (int i = 0; i < lengthof(call_settings) && bytes < end; i++)
	{
		const char *name = call_settings[i];

		if (strcmp(name, "tegro.api_key") == 0 &&
			strcmp(GetConfigOption(name, false, false), bytes) != 0)
			differs = true;
		SetConfigOption(name, bytes, PGC_SUSET, PGC_S_SESSION);
		bytes += strlen(bytes) + 1;
	}
	return differs;
}

/* Puts the request into a new segment of shared memory. */
static dsm_segment *
hand_over(Jsonb *params, Oid role)
{
	Size settings_len;
	char *settings = export_settings(&settings_len);
	char *json = JsonbToCString(NULL, &params->root, VARSIZE(params));
	Size params_len = strlen(json) + 1;
	dsm_segment *segment = dsm_create(offsetof(PayoutShared, data) +
										  settings_len + params_len,
									  0);
	PayoutShared *shared = dsm_segment_address(segment);

	Assert(dsm_segment_map_length(segment) >=
		   offsetof(PayoutShared, data) + settings_len + params_len);
	memset(shared, 0, offsetof(PayoutShared, data));
	shared->database = MyDatabaseId;
	shared->role = role;
	shared->caller = MyLatch;
	shared->settings_len = settings_len;
	shared->params_len = params_len;
	SpinLockInit(&shared->lock);
	shared->progress = PAYOUT_WAITS;
	on_dsm_detach(segment, take_back, (Datum) 0);
	memcpy(shared->data, settings, settings_len);
	memcpy(shared->data + settings_len, json, params_len);
	explicit_bzero(settings, settings_len);
	pfree(settings);
	return segment;
}

static PayoutProgress
get_progress(PayoutShared *shared, int64 *id)
{
	PayoutProgress progress;

	SpinLockAcquire(&shared->lock);
	progress = shared->progress;
	*id = shared->id;
	SpinLockRelease(&shared->lock);
	return progress;
}

/* Waits until the worker has ended, or told that it did what it can. */
static PayoutProgress
wait_for_worker(PayoutShared *shared, BackgroundWorkerHandle *handle,
				int64 *id)
{
	static uint32 wait_event = 0;

	for (;;)
	{
		PayoutProgress progress = get_progress(shared, id);
		pid_t pid;

		if (progress == PAYOUT_ENDED || progress == PAYOUT_FAILED)
			return progress;
		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			return get_progress(shared, id); /* it may have told just now */
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000L, tegro_wait_event(&wait_event, "TegroPayout"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The outcome of a request that is in the outbox.  If another delivers it at
 * this moment, it is waited for.
 */
static Jsonb *
wait_for_outcome(const TegroStore *store, int64 id, Oid role,
				 const char *payment_id)
{
	static uint32 wait_event = 0;
	int64 until_us = tegro_clock_us() +
		(tegro_timeout + PATIENCE_MS) * INT64CONST(1000);

	for (;;)
	{
		Jsonb *answer;
		TegroOutcome outcome;
		const char *state;

		if (tegro_outbox_outcome(store, id, role, &answer, &outcome, &state))
		{
			if (outcome.result != TEGRO_ANSWERED)
				tegro_error_raise(&outcome);
			return answer;
		}
		if (strcmp(state, TEGRO_STATE_READY) == 0 &&
			tegro_clock_us() > until_us)
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_UNKNOWN),
					 errmsg("createWithdrawal \"%s\" is still to be sent",
							tegro_error_for_client(payment_id)),
					 errdetail("Request " INT64_FORMAT " of the outbox is \"ready\"%s%s", id,
							   outcome.detail ? ": " : ".",
							   outcome.detail ? tegro_error_for_client(outcome.detail) : ""),
					 errhint("It is sent by itself as soon as that is possible: before you pay in another way, take it back with tegro_cancel(" INT64_FORMAT "). The same call again, or tegro_wait(" INT64_FORMAT "), returns its outcome.",
							 id, id)));
		if (strcmp(state, TEGRO_STATE_UNKNOWN) == 0 ||
			tegro_clock_us() > until_us)
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_UNKNOWN),
					 errmsg("the outcome of createWithdrawal is unknown"),
					 errdetail("Request " INT64_FORMAT " of the outbox, \"%s\", is \"%s\"%s%s",
							   id, tegro_error_for_client(payment_id), state, outcome.detail ? ": " : ".",
							   outcome.detail ? tegro_error_for_client(outcome.detail) : ""),
					 errhint("It is looked up by itself. The same call again, or tegro_wait(" INT64_FORMAT "), returns its outcome.", id)));
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_MS,
						 tegro_wait_event(&wait_event, "TegroOutcome"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

Jsonb *
tegro_payout(const TegroStore *store, Jsonb *params, Oid role)
{
	TegroCall *call;
	dsm_segment *segment;
	PayoutShared *shared;
	BackgroundWorkerHandle *handle;
	PayoutProgress progress;
	ErrorContextCallback context;
	Jsonb *answer;
	int64 id;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot pay out during recovery"),
				 errdetail("A payout must be on record before it is sent, and a standby can't write."),
				 errhint("Call this on the primary.")));

	tegro_refuse_in_binary_upgrade();
	PreventCommandIfReadOnly("tegro_create_withdrawal()");
	tegro_payer_require(store, role);

	/* what is wrong with the parameters or the keys is said here, at once */
	call = tegro_api_prepare("createWithdrawal", params, role);

	segment = hand_over(params, role);
	shared = dsm_segment_address(segment);
	handle = start_worker(segment);

	context.callback = tell_that_it_goes_on;
	context.arg = unconstify(char *, call->reference);
	context.previous = error_context_stack;
	error_context_stack = &context;

	progress = wait_for_worker(shared, handle, &id);
	if (progress == PAYOUT_FAILED)
		ereport(ERROR,
				(errcode(shared->sqlstate),
				 errmsg_internal("%s", tegro_error_for_client(shared->message)),
				 shared->detail[0] ? errdetail_internal("%s", tegro_error_for_client(shared->detail)) : 0,
				 shared->hint[0] ? errhint("%s", tegro_error_for_client(shared->hint)) : 0));
	if (progress == PAYOUT_WAITS || progress == PAYOUT_READ)
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_NOT_SENT),
				 errmsg("the worker for the payout \"%s\" could not begin",
						tegro_error_for_client(call->reference)),
				 errdetail("Nothing was sent."),
				 errhint("The server's log says why.")));
	if (progress == PAYOUT_BEGUN)
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_UNKNOWN),
				 errmsg("the worker for the payout \"%s\" ended",
						tegro_error_for_client(call->reference)),
				 errdetail("Whether it is on record can't be told from here."),
				 errhint("The same call again returns its outcome, or sends it if it is not on record.")));
	dsm_detach(segment);

	answer = wait_for_outcome(store, id, role, call->reference);
	error_context_stack = context.previous;
	return answer;
}


/*
 * The worker's side.
 */

static void
set_progress(PayoutShared *shared, PayoutProgress progress, int64 id)
{
	SpinLockAcquire(&shared->lock);
	/* it never goes back, nor on from an end; what is on record stays so */
	Assert(progress > shared->progress && shared->progress >= PAYOUT_READ);
	Assert(shared->progress < PAYOUT_RECORDED || progress == PAYOUT_ENDED);
	Assert(progress < PAYOUT_RECORDED || progress == PAYOUT_FAILED || id != 0);
	shared->progress = progress;
	shared->id = id;
	SpinLockRelease(&shared->lock);
	SetLatch(shared->caller);
}

/* Puts an error where the caller finds it. */
static void
tell_error(PayoutShared *shared, const ErrorData *error)
{
	shared->sqlstate = error->sqlerrcode;
	strlcpy(shared->message, error->message ? error->message : "",
			ERROR_TEXT_LEN);
	strlcpy(shared->detail, error->detail ? error->detail : "",
			ERROR_TEXT_LEN);
	strlcpy(shared->hint, error->hint ? error->hint : "", ERROR_TEXT_LEN);
	set_progress(shared, PAYOUT_FAILED, 0);
}

/* May this database deliver?  Throws if not. */
static void
check_delivery(void)
{
	if (!tegro_delivery_is_on())
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_MISCONFIGURED),
				 errmsg("delivery is off in this database"),
				 errdetail("Nothing was sent."),
				 errhint("Set tegro.delivery to on if this database is to pay.")));
}

/*
 * Records the request, or corrects one that was refused, and claims it, in one
 * transaction that is committed here.  Returns the item to send; NULL if it is not
 * ours to send: it was on record before, or must be looked up first.
 *
 * If the process dies before the commit, nothing has happened: there is no
 * request, or it is refused with its earlier parameters.  After the commit the
 * request is "sending" with these parameters until the claim ends, then it is
 * looked up, whether it was sent or not.
 */
static TegroItem *
record(PayoutShared *shared, TegroStore *store, Jsonb *params, int64 *id)
{
	TegroEnqueued enqueued;
	TegroItem *item = NULL;

	Assert(CurrentMemoryContext == TopMemoryContext);
	tegro_session_begin();
	if (!tegro_store_find(store))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"tegro\" is gone")));
	check_delivery();
	*id = tegro_outbox_enqueue(store, "createWithdrawal", params, shared->role,
							   NULL, 0, &enqueued);
	if (enqueued != TEGRO_ENQUEUED_BEFORE)
	{
		MemoryContextSwitchTo(TopMemoryContext);
		item = tegro_outbox_claim_new(store, *id, enqueued);
	}
	tegro_injection_point("before payout commit");
	tegro_session_commit();
	tegro_injection_point("after payout commit");
	MemoryContextSwitchTo(TopMemoryContext);
	return item;
}

void
tegro_payout_main(Datum arg)
{
	dsm_segment *segment;
	PayoutShared *shared;
	char *settings;
	char *json;
	TegroStore store;
	TegroItem *item;
	bool is_directed;
	volatile bool recorded = false;
	volatile int64 id = 0;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* gone, if the caller gave up before we began: then nothing is sent */
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "tegro payout");
	segment = dsm_attach(DatumGetUInt32(arg));
	if (segment == NULL)
		proc_exit(0);
	dsm_pin_mapping(segment);
	shared = dsm_segment_address(segment);
	if (!claim_request(shared, PAYOUT_READ))
		proc_exit(0);

	PG_TRY();
	{
		int64 number;

		settings = MemoryContextAlloc(TopMemoryContext, shared->settings_len);
		memcpy(settings, shared->data, shared->settings_len);
		json = MemoryContextStrdup(TopMemoryContext,
								   shared->data + shared->settings_len);
		explicit_bzero(shared->data,
					   shared->settings_len + shared->params_len);

		tegro_session_connect(shared->database);
		pgstat_report_activity(STATE_RUNNING, "paying out");
		is_directed = import_settings(settings, shared->settings_len);
		explicit_bzero(settings, shared->settings_len);
		if (is_directed)
			tegro_origin_mark_own_key();

		MemoryContextSwitchTo(TopMemoryContext);
		set_progress(shared, PAYOUT_BEGUN, 0);
		item =
			record(shared, &store,
				   DatumGetJsonbP(
					   DirectFunctionCall1(jsonb_in, CStringGetDatum(json))),
				   &number);
		id = number;
		recorded = true;
		set_progress(shared, PAYOUT_RECORDED, id);

		if (item)
		{
			if (tegro_commit_is_replicated())
				tegro_deliver_one(item);
			else
				item->decision =
					tegro_judge_unsent(item,
									   "the claim was not confirmed; nothing was sent");
			/* an overdue one is still in flight; nobody listens any more */
			Assert(item->decision);
			if (is_directed)
				tegro_judge_not_again(item,
									  "the session that requested it has a key of its own, so it is not left to the worker");

			tegro_session_begin();
			tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
			tegro_outbox_record_outcomes(&store, list_make1(item));
			tegro_injection_point("before payout settle");
			tegro_session_commit();
		}
		set_progress(shared, PAYOUT_ENDED, id);
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData *error = CopyErrorData();

		MemoryContextSwitchTo(old);
		if (recorded)
			set_progress(shared, PAYOUT_ENDED, id);
		else
			tell_error(shared, error);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
