/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher, which sees that requests are delivered after a start.
 *
 * A commit that enqueues starts a delivery worker (wake.c).  Such a worker does
 * not outlive the server, and a crash between the commit and the start loses
 * the wish.  So at the server's start, at its promotion and after each crash
 * the launcher has a worker look into every database; it ends at once if
 * nothing waits there.
 *
 * The launcher stays as long as the server: after a crash the postmaster starts
 * the workers that there were, and forgets those that ended with 0.  It is
 * connected to no database, holds no snapshot, and sleeps until it is told that
 * a worker could not be started because all slots were taken.  It tries again
 * until one is free.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "src/base/compat.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"
#include "src/worker/launcher.h"
#include "src/worker/session.h"

/* The pause before a worker is asked for again that could not be started. */
#define MISSING_MS (5 * 1000L)

PGDLLEXPORT void tegro_launcher_main(Datum arg);

void
tegro_launcher_register(void)
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

	tegro_session_begin();
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
	tegro_session_commit();
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
 * Has a worker look into each database, one after the other, so that this takes
 * no more than one free worker slot.
 */
static void
look_into_databases(void)
{
	List *databases;
	ListCell *cell;

	tegro_session_report("looking into databases");
	databases = list_databases();
	foreach(cell, databases)
	{
		if (!ShutdownRequestPending)
			probe(lfirst_oid(cell));
	}
	list_free(databases);
	pgstat_report_stat(true);
}

/*
 * The launcher's main function: has a worker look into each database.  Then it
 * starts those for which there was no slot when they were asked for, and has all
 * databases looked into again when delivery is turned on: callbacks that waited
 * meanwhile have no worker that would see it.
 */
void
tegro_launcher_main(Datum arg)
{
	static uint32 wait_event = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	tegro_wake_register_launcher();

	look_into_databases();

	while (!ShutdownRequestPending)
	{
		bool was_on = tegro_delivery_is_on();
		bool missing = tegro_wake_start_missing();

		tegro_session_report(NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
							 (missing ? WL_TIMEOUT : 0),
						 MISSING_MS,
						 tegro_wait_event(&wait_event, "TegroLauncher"));
		ResetLatch(MyLatch);
		/* also what every process must do before a DROP DATABASE goes on */
		CHECK_FOR_INTERRUPTS();
		tegro_session_reload();
		if (!was_on && tegro_delivery_is_on())
			look_into_databases();
	}
	/* if it is not the server that ends, it looks into all once more */
	proc_exit(1);
}
