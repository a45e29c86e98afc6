/*-------------------------------------------------------------------------
 *
 * worker.c
 *		Background workers of a database: the one that delivers, and the one
 *		that calls back.
 *
 * The delivery worker of a database is started when a transaction that
 * enqueued commits (wake.c), delivers what is due (delivery.c), and ends when
 * nothing has been waiting for tegro.worker_idle_timeout.  While something waits, now
 * or for later, it stays.
 *
 * The callback worker is started when a callback becomes due, and ends in the
 * same way.  A callback that is slow, or that takes the process with it, holds
 * up other callbacks and no delivery.
 *
 * Ends.  Exit status 0 means that the worker is not started again; 1 that the
 * postmaster starts it again after a few seconds.  It ends with 1 on errors,
 * and where someone terminated it while requests wait; with 0 where there is
 * nothing to do for it: idle, no extension, no database.  A prepared
 * transaction is something to do: it may have requests, and its commit wakes
 * nobody.
 *
 * From PostgreSQL 19 on, the launcher replaces a worker that was terminated; see
 * wake.c.
 *
 * On SIGTERM it stops within a round and leaves its requests in a state from
 * which they go on at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/worker/callback.h"
#include "src/base/compat.h"
#include "src/worker/delivery.h"
#include "src/outbox/guard.h"
#include "src/outbox/store.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"
#include "src/worker/session.h"

/* Bytes of free memory that the delivery worker keeps. */
#define KEPT_MEMORY (16 * 1024 * 1024)

/* The longest sleep of the callback worker. */
#define SWEEP_MS (60 * 1000L)

/* The pause before a callback is asked for again that another has now. */
#define TAKEN_MS 500

PGDLLEXPORT void tegro_worker_main(Datum arg);
PGDLLEXPORT void tegro_callback_main(Datum arg);

static volatile sig_atomic_t stop_requested = false;

/*
 * SIGTERM.  ProcDiePending without InterruptPending: a wait for a synchronous
 * standby ends at once, as it must, while other interrupt checks let us finish
 * the round.
 */
static void
on_sigterm(SIGNAL_ARGS)
{
	int save_errno = errno;

	stop_requested = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * SIGTERM of the callback worker: as die(), which takes other arguments from
 * PostgreSQL 19 on.  The callback ends at once.
 */
static void
on_sigterm_in_callback(SIGNAL_ARGS)
{
	int save_errno = errno;

	stop_requested = true;
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * Where the postmaster may not start a worker again that was terminated, the
 * launcher replaces it, if it had something to do; see wake.c.  Exit status 0
 * keeps the postmaster from starting it as well.  Elsewhere the postmaster waits
 * some seconds, in which a person can copy or drop the database.
 */
static void
replace_if_terminated(int code, Datum arg)
{
	if (BGWORKER_INTERRUPTIBLE != 0 && code != 0 && stop_requested &&
		tegro_wake_replace((TegroWorker) DatumGetInt32(arg)))
		proc_exit(0);
}

/*
 * To be called before the worker registers: what is called at exit runs in the
 * opposite order, and a worker that is registered is not replaced.
 */
static void
have_replaced(TegroWorker which)
{
	before_shmem_exit(replace_if_terminated, Int32GetDatum(which));
}

/* More settings, of a process that does nothing but deliver. */
static void
force_settings_of_deliverer(void)
{
	/* a row that someone holds must not hold up the others for long */
	tegro_session_force("lock_timeout", "20ms");
	for (int i = 0; i < TEGRO_N_PLANNER_SETTINGS; i++)
		tegro_session_force(tegro_store_planner_settings[i], "off");
	tegro_session_force("jit", "off");
}

/* Waits for a reload, or until someone wants us to stop. */
static void
wait_for_signal(void)
{
	static uint32 wait_event = 0;

	tegro_session_report(NULL);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 60 * 1000L, tegro_wait_event(&wait_event, "TegroHeld"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	tegro_session_reload();
}

/*
 * Does a worker's work.  Returns false if the guard stopped it (guard.c), after
 * a pause: the worker tries again until a person has removed the cause.  If it
 * ended instead, the postmaster would start it again every few seconds.
 */
static bool
do_unless_stopped(void (*work)(void *arg), void *arg, const char *doing)
{
	static uint32 wait_event = 0;
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = true;

	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		if (!tegro_guard_stopped(error))
			PG_RE_THROW();
		HOLD_INTERRUPTS();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		tegro_guard_log(error, doing);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (done)
		return true;
	tegro_session_report(NULL);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 TEGRO_GUARD_PAUSE_MS,
					 tegro_wait_event(&wait_event, "TegroHeld"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	tegro_session_reload();
	return false;
}

/*
 * Is there anything left to send or look up in this database, or may there be
 * with the commit of a prepared transaction, which wakes nobody?
 */
static bool
anything_waits(void)
{
	TegroStore store;
	bool waits;

	tegro_session_begin();
	waits = tegro_store_find(&store) &&
		(tegro_outbox_waiting(&store) || tegro_outbox_any_prepared());
	tegro_session_commit();
	return waits;
}

/* Is there a function left to be called back? */
static bool
any_callback_waits(void)
{
	TegroStore store;
	bool waits;

	tegro_session_begin();
	waits = tegro_store_find(&store) && tegro_outbox_callbacks_wait(&store);
	tegro_session_commit();
	return waits;
}

/* The outbox, if this database calls back now. */
static bool
may_call_back(TegroStore *store)
{
	bool found;

	if (!tegro_delivery_is_on())
		return false;
	tegro_session_begin();
	found = tegro_store_find(store);
	tegro_session_commit();
	return found;
}

/*
 * Whether a worker ends that has nothing to do.  A commit that wakes it between
 * its last look and its end would be lost: so first it stops being found, then
 * it looks again.
 */
static bool
ends(TegroWorker which)
{
	tegro_wake_unregister();
	return !(which == TEGRO_DELIVERY_WORKER ? anything_waits()
											: any_callback_waits()) ||
		!tegro_wake_register(which);
}

/* What the delivery worker does. */
typedef struct Delivery
{
	TegroDelivery loop;
	TegroDeliveryEnd end;
} Delivery;

static void
deliver(void *arg)
{
	Delivery *this = arg;

	this->end = tegro_deliver_due(&this->loop);
}

/* The delivery worker's main function; arg is the database. */
void
tegro_worker_main(Datum arg)
{
	Delivery delivery = {0};
	TegroDelivery *loop = &delivery.loop;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm);
	have_replaced(TEGRO_DELIVERY_WORKER);
	BackgroundWorkerUnblockSignals();
	tegro_session_connect(DatumGetObjectId(arg));
	force_settings_of_deliverer();

	if (!tegro_wake_register(TEGRO_DELIVERY_WORKER))
		proc_exit(0); /* there is one already */
	if (tegro_wake_is_probe() && !any_callback_waits() &&
		ends(TEGRO_DELIVERY_WORKER))
		proc_exit(0);

		/*
	 * Requests come and go in batches; giving their memory back to the kernel
	 * each time, and asking for it again, took a tenth of the worker's time.
	 */
#ifdef __GLIBC__
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
	(void) mallopt(M_TOP_PAD, KEPT_MEMORY / 16);
#endif

	loop->begin = tegro_session_begin;
	loop->commit = tegro_session_commit;
	loop->stay = true;
	loop->max = -1;
	loop->stop = &stop_requested;
	loop->reload = tegro_session_reload;
	loop->report = tegro_session_report;

	for (;;)
	{
		if (!do_unless_stopped(deliver, &delivery, "delivery"))
		{
			if (stop_requested)
				proc_exit(1);
			continue;
		}
		switch (delivery.end)
		{
			case TEGRO_NOTHING_DUE:
			case TEGRO_NO_OUTBOX:
				if (ends(TEGRO_DELIVERY_WORKER))
					proc_exit(0);
				break;
			case TEGRO_STOPPED:
				/* to be started again, if there is anything to do; see ends() */
				tegro_wake_unregister();
				proc_exit(anything_waits() ? 1 : 0);
			case TEGRO_UNCONFIRMED: /* not a worker's */
			case TEGRO_DELIVERY_OFF:
				if (stop_requested)
					proc_exit(1);
				wait_for_signal();
				break;
		}
	}
}

/* What the callback worker does. */
typedef struct Callbacks
{
	TegroStore store;
	TegroCaller caller;
	bool allowed;
	bool called;
	TimestampTz next_at;
} Callbacks;

static void
look_whether_allowed(void *arg)
{
	Callbacks *this = arg;

	this->allowed = may_call_back(&this->store);
}

static void
call_back(void *arg)
{
	Callbacks *this = arg;

	this->called = tegro_call_back(&this->store, &this->caller,
								   &this->next_at);
}

/* The callback worker's main function; arg is the database. */
void
tegro_callback_main(Datum arg)
{
	static uint32 wait_event = 0;
	Callbacks callbacks = {
		.caller = {tegro_session_begin, tegro_session_commit, true}};
	MemoryContext context;
	TimestampTz idle_since = GetCurrentTimestamp();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm_in_callback);
	have_replaced(TEGRO_CALLBACK_WORKER);
	BackgroundWorkerUnblockSignals();
	tegro_session_connect(DatumGetObjectId(arg));
	tegro_session_force("lock_timeout",
						"0"); /* a callback has a time limit of its own */

	if (!tegro_wake_register(TEGRO_CALLBACK_WORKER))
		proc_exit(0);
	while (
		!do_unless_stopped(look_whether_allowed, &callbacks, "calling back"))
		;
	if (!callbacks.allowed)
		proc_exit(0);
	context = AllocSetContextCreate(TopMemoryContext, "tegro callbacks",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		TimestampTz now;
		TimestampTz next_at;
		uint64 calls = tegro_wake_calls();
		long ms;

		CHECK_FOR_INTERRUPTS();
		tegro_session_reload();
		/* whoever turns it on again has a delivery worker, which starts another */
		if (!tegro_delivery_is_on())
			proc_exit(0);
		tegro_session_report("calling back");
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		if (!do_unless_stopped(call_back, &callbacks, "calling back") ||
			callbacks.called)
		{
			idle_since = GetCurrentTimestamp();
			continue;
		}
		next_at = callbacks.next_at;
		if (tegro_wake_calls() != calls)
			continue;

		now = GetCurrentTimestamp();
		if (next_at != 0)
		{
			idle_since = now;
			ms = Max(TimestampDifferenceMilliseconds(now, next_at), 0);
			/* one that is due and was not to be had is another's */
			if (next_at <= now)
				ms = TAKEN_MS;
		}
		else
		{
			ms =
				TimestampDifferenceMilliseconds(now,
												TimestampTzPlusMilliseconds(idle_since,
																			tegro_worker_idle_timeout *
																				INT64CONST(
																					1000)));
			if (ms <= 0)
			{
				if (ends(TEGRO_CALLBACK_WORKER))
					proc_exit(0);
				continue;
			}
		}
		tegro_session_report(NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(ms, SWEEP_MS),
						 tegro_wait_event(&wait_event, "TegroCallback"));
		ResetLatch(MyLatch);
	}
}
