/*-------------------------------------------------------------------------
 *
 * worker.c
 *		Background workers: the one that delivers, the one that calls back, and
 *		the launcher.
 *
 * The delivery worker of a database is started when a transaction that
 * enqueued commits (wake.c), delivers what is due (delivery.c), and ends when
 * nothing has been waiting for tegro.worker_idle.  While something waits, now
 * or for later, it stays.
 *
 * The callback worker is started when a callback becomes due, and ends in the
 * same way.  A callback that is slow, or that takes the process with it, holds
 * up other callbacks and no delivery.
 *
 * Workers that were started on demand don't outlive the server, and one that
 * is asked for by a commit is not asked for if the server crashes between the
 * two.  So with shared_preload_libraries = 'tegro' a launcher looks, at the
 * server's start, at its promotion and after each crash, into every database,
 * by starting a worker there that ends at once if nothing waits.  For that the
 * launcher stays for as long as the server: the postmaster starts after a crash
 * what was there before, and forgets what has ended with 0.  It is connected to
 * no database, holds no snapshot, and sleeps until it is told that a worker
 * could not be started for want of a slot; that it tries again until it can.
 * Without it, delivery goes on with the next request that is enqueued.
 *
 * Ends.  Exit status 0 means that the worker is not started again; 1 that the
 * postmaster starts it again after a few seconds.  It ends with 1 on errors,
 * and where someone terminated it while requests wait; with 0 where there is
 * nothing to do for it: idle, held, no extension, no database.  A prepared
 * transaction is something to do: it may have requests, and its commit wakes
 * nobody.
 *
 * On SIGTERM it stops within a round and leaves its requests in a state from
 * which they go on at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <malloc.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
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
#include "src/outbox/identity.h"
#include "src/outbox/ledger.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"
#include "src/worker/worker.h"

/* Bytes of free memory that the delivery worker keeps. */
#define KEPT_MEMORY (16 * 1024 * 1024)

/* The longest sleep of the callback worker. */
#define SWEEP_MS (60 * 1000L)

/* The pause before a worker is asked for again that could not be started. */
#define MISSING_MS (5 * 1000L)

/* The pause before a callback is asked for again that another has now. */
#define TAKEN_MS 500

PGDLLEXPORT void tegro_worker_main(Datum arg);
PGDLLEXPORT void tegro_callback_main(Datum arg);
PGDLLEXPORT void tegro_launcher_main(Datum arg);

static volatile sig_atomic_t stop_requested = false;
static bool connected = false;

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
 * A database that was dropped can't be connected to, and trying again is
 * useless: exit with 0, so that nobody does.  (A callback may call proc_exit;
 * the ones that are left still run.)
 */
static void
give_up_if_not_connected(int code, Datum arg)
{
	if (!connected && code != 0)
		proc_exit(0);
}

static void
force(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

void
tegro_worker_connect(Oid database)
{
	on_proc_exit(give_up_if_not_connected, (Datum) 0);
	/*
	 * Answers are converted between transactions, for which PostgreSQL must
	 * know how beforehand: it does for the client's encoding.  It is set before
	 * the connection, which looks the conversion up.
	 */
	force("client_encoding", "UTF8");
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	connected = true;

	/* the database may have settings for all its sessions; these are ours */
	force("search_path", "pg_catalog, pg_temp");
	force("default_transaction_isolation", "read committed");
	force("default_transaction_read_only", "off");
	force("statement_timeout", "0");
	/* from PostgreSQL 17 on */
	if (GetConfigOption("transaction_timeout", true, false))
		force("transaction_timeout", "0");
	force("idle_in_transaction_session_timeout", "0");
	force("lock_timeout", "1s");
}

/* More settings, of a process that does nothing but deliver. */
static void
force_settings_of_deliverer(void)
{
	/* a row that someone holds must not hold up the others for long */
	force("lock_timeout", "250ms");
	for (int i = 0; i < TEGRO_N_PLANNER_SETTINGS; i++)
		force(tegro_ledger_planner_settings[i], "off");
	force("jit", "off");
}

void
tegro_worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* a claim must be on disk, and where it is replicated, before it is sent */
	tegro_ledger_commit_durably();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
tegro_worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
}

static void
reload_if_asked(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static void
report(const char *activity)
{
	if (activity)
		pgstat_report_activity(STATE_RUNNING, activity);
	else
		pgstat_report_activity(STATE_IDLE, NULL);
}

/* Waits for a reload, or until someone wants us to stop. */
static void
wait_for_signal(void)
{
	static uint32 wait_event = 0;

	report(NULL);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 60 * 1000L, tegro_wait_event(&wait_event, "TegroHeld"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	reload_if_asked();
}

/*
 * Is there anything left to send or look up in this database, or may there be
 * with the commit of a prepared transaction, which wakes nobody?
 */
static bool
anything_waits(void)
{
	TegroLedger ledger;
	bool waits;

	tegro_worker_begin();
	waits = tegro_ledger_find(&ledger) &&
		(tegro_outbox_waiting(&ledger) || tegro_outbox_any_prepared());
	tegro_worker_commit();
	return waits;
}

/* Is there a function left to be called back? */
static bool
any_callback_waits(void)
{
	TegroLedger ledger;
	bool waits;

	tegro_worker_begin();
	waits = tegro_ledger_find(&ledger) && tegro_outbox_callbacks_wait(&ledger);
	tegro_worker_commit();
	return waits;
}

/*
 * The ledger, if this database may deliver, and call back: in a copy, say, it
 * may not.
 */
static bool
may_deliver(TegroLedger *ledger)
{
	bool allowed;
	char *detail;

	if (!tegro_delivery || RecoveryInProgress())
		return false;
	tegro_worker_begin();
	allowed = tegro_ledger_find(ledger) &&
		tegro_outbox_check_identity(ledger, tegro_identity_current(), &detail);
	tegro_worker_commit();
	return allowed;
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

/* As ends(), where delivery is held; what is committed meanwhile is tegro_arm. */
static bool
ends_as_held(void)
{
	TegroLedger ledger;

	tegro_wake_hold(true);
	tegro_wake_unregister();
	if (!may_deliver(&ledger))
		return true;
	tegro_wake_hold(false);
	return !tegro_wake_register(TEGRO_DELIVERY_WORKER);
}

/* The delivery worker's main function; arg is the database. */
void
tegro_worker_main(Datum arg)
{
	TegroDeliverer deliverer = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm);
	BackgroundWorkerUnblockSignals();
	tegro_worker_connect(DatumGetObjectId(arg));
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
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
	(void) mallopt(M_TOP_PAD, KEPT_MEMORY / 16);

	deliverer.begin = tegro_worker_begin;
	deliverer.commit = tegro_worker_commit;
	deliverer.stay = true;
	deliverer.max = -1;
	deliverer.stop = &stop_requested;
	deliverer.reload = reload_if_asked;
	deliverer.report = report;

	for (;;)
	{
		switch (tegro_deliver_due(&deliverer))
		{
			case TEGRO_NOTHING_DUE:
			case TEGRO_NO_LEDGER:
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
			case TEGRO_DELIVERY_HELD:
				if (ends_as_held())
					proc_exit(0);
				break;
		}
	}
}

/* The callback worker's main function; arg is the database. */
void
tegro_callback_main(Datum arg)
{
	static uint32 wait_event = 0;
	TegroCaller caller = {tegro_worker_begin, tegro_worker_commit, true};
	TegroLedger ledger = {0};
	MemoryContext context;
	TimestampTz idle_since = GetCurrentTimestamp();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	tegro_worker_connect(DatumGetObjectId(arg));
	force("lock_timeout", "0"); /* a callback has a time limit of its own */

	if (!tegro_wake_register(TEGRO_CALLBACK_WORKER) || !may_deliver(&ledger))
		proc_exit(0);
	context = AllocSetContextCreate(TopMemoryContext, "tegro callbacks",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		TimestampTz next_at;
		TimestampTz now;
		uint64 calls = tegro_wake_calls();
		long ms;

		CHECK_FOR_INTERRUPTS();
		reload_if_asked();
		/* whoever turns it on again has a deliverer, which starts another */
		if (!tegro_delivery)
			proc_exit(0);
		report("calling back");
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		if (tegro_call_back(&ledger, &caller, &next_at))
		{
			idle_since = GetCurrentTimestamp();
			continue;
		}
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
																			tegro_worker_idle *
																				INT64CONST(
																					1000)));
			if (ms <= 0)
			{
				if (ends(TEGRO_CALLBACK_WORKER))
					proc_exit(0);
				continue;
			}
		}
		report(NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(ms, SWEEP_MS),
						 tegro_wait_event(&wait_event, "TegroCallback"));
		ResetLatch(MyLatch);
	}
}

void
tegro_worker_register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "tegro", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "tegro_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "tegro launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "tegro launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* The databases that can be connected to, as a list in TopMemoryContext. */
static List *
list_databases(void)
{
	List *databases = NIL;
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	tegro_worker_begin();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (database->datallowconn && !database->datistemplate)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			databases = lappend_oid(databases, database->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	tegro_worker_commit();
	return databases;
}

/* Has a worker look into a database, and waits until it has. */
static void
probe(Oid database)
{
	static uint32 wait_event = 0;
	BackgroundWorkerHandle *handle;
	TegroWakeResult result;
	pid_t pid;

	result = tegro_wake_probe(database, &handle);
	if (result == TEGRO_WAKE_NO_WORKER || result == TEGRO_WAKE_TOO_MANY)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start the tegro delivery worker for database %u",
						database),
				 result == TEGRO_WAKE_NO_WORKER
					 ? errdetail("All background worker slots are taken; it is tried again.")
					 : errdetail("Too many databases have workers of tegro."),
				 result == TEGRO_WAKE_NO_WORKER
					 ? errhint("Raise max_worker_processes, or deliver with CALL tegro_deliver().")
					 : errhint("Deliver with CALL tegro_deliver().")));
	if (result != TEGRO_WAKE_STARTED)
		return;

	/* long enough for a look; one that stays has something to do */
	for (int i = 0; i < 50 && !ShutdownRequestPending; i++)
	{
		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20L,
						 tegro_wait_event(&wait_event, "TegroProbe"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(handle);
}

/*
 * The launcher's main function: has a worker look into each database, one
 * after the other, so that it takes no more than one free worker slot.  Then
 * it starts those for which there was no slot when they were asked for.
 */
void
tegro_launcher_main(Datum arg)
{
	static uint32 wait_event = 0;
	List *databases;
	ListCell *cell;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	tegro_wake_register_launcher();

	report("looking into databases");
	databases = list_databases();
	foreach(cell, databases)
	{
		if (!ShutdownRequestPending)
			probe(lfirst_oid(cell));
	}
	list_free(databases);
	pgstat_report_stat(true);

	while (!ShutdownRequestPending)
	{
		bool missing = tegro_wake_start_missing();

		report(NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
							 (missing ? WL_TIMEOUT : 0),
						 MISSING_MS,
						 tegro_wait_event(&wait_event, "TegroLauncher"));
		ResetLatch(MyLatch);
		/* also what every process must do before a DROP DATABASE goes on */
		CHECK_FOR_INTERRUPTS();
		reload_if_asked();
	}
	/* if it is not the server that ends, it looks into all once more */
	proc_exit(1);
}
