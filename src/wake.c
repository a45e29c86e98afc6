/*-------------------------------------------------------------------------
 *
 * wake.c
 *		Finds a database's workers, or has them started.
 *
 * Each database in which requests wait has one background worker that
 * delivers, and one that calls back while callbacks wait.  A table in shared
 * memory says which processes these are; a transaction that gives one of them
 * something to do sets its latch when it commits, and where there is none, has
 * the postmaster start one.  So delivery begins within milliseconds of the
 * commit, nothing polls, and nothing runs where nothing is sent.
 *
 * The table is found by its name, by whoever asks first, so that it needs no
 * shared_preload_libraries.
 *
 * Hazards:
 *
 *	- After a commit nothing may throw: an error there is a PANIC.  So the
 *	  shared memory is attached when the wish is noted, before the commit, and
 *	  the worker is asked for without a handle, which allocates nothing.
 *	- A latch of a process that has ended is only a latch: setting it wakes
 *	  whoever has the PGPROC now, who looks and goes on waiting.
 *	- A worker that is about to end because nothing waits must unregister
 *	  first and then look once more, or a commit in between wakes nobody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "src/wake.h"

/* Databases of one cluster that deliver at the same time. */
#define MAX_DATABASES 128

/*
 * How long a worker that was asked for may take to register before another is
 * asked for.
 */
#define START_PATIENCE_MS 5000

/* How long nobody starts a worker where delivery is held. */
#define HOLD_MS (60 * 1000)

typedef struct WakeSlot
{
	Oid database; /* InvalidOid: free */
	struct
	{
		Latch *latch;		  /* the worker's; NULL: none is registered */
		TimestampTz asked_at; /* when a worker was asked for last */
	} workers[TEGRO_N_WORKERS];
	TimestampTz held_until;
} WakeSlot;

typedef struct WakeShared
{
	slock_t lock; /* over all of the slots */
	WakeSlot slots[MAX_DATABASES];
} WakeShared;

static WakeShared *wake_shared = NULL;
static bool wanted[TEGRO_N_WORKERS]; /* by the current transaction */
static bool registered = false;
static TegroWorker registered_as;

static const struct
{
	const char *function;
	const char *type;
} workers[TEGRO_N_WORKERS] = {
	[TEGRO_DELIVERY_WORKER] = {"tegro_worker_main", "tegro delivery worker"},
	[TEGRO_CALLBACK_WORKER] = {"tegro_callback_main", "tegro callback worker"},
};

void
tegro_wake_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(WakeShared)));
}

static void
attach(void)
{
	WakeShared *shared;
	bool found;

	if (wake_shared)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("tegro workers", sizeof(WakeShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(WakeShared));
		SpinLockInit(&shared->lock);
	}
	LWLockRelease(AddinShmemInitLock);
	wake_shared = shared;
}

/* This database's slot, or a free one; NULL if there is neither.  Under lock. */
static WakeSlot *
find_slot(void)
{
	WakeSlot *vacant = NULL;

	for (int i = 0; i < MAX_DATABASES; i++)
	{
		WakeSlot *slot = &wake_shared->slots[i];

		if (slot->database == MyDatabaseId)
			return slot;
		if (vacant == NULL && !OidIsValid(slot->database))
			vacant = slot;
	}
	if (vacant)
	{
		memset(vacant, 0, sizeof(WakeSlot));
		vacant->database = MyDatabaseId;
	}
	return vacant;
}

bool
tegro_wake_start_worker(Oid database, TegroWorker which, bool probe,
						BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5; /* seconds, after a crash */
	strlcpy(worker.bgw_library_name, "tegro", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, workers[which].function,
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u",
			 workers[which].type, database);
	strlcpy(worker.bgw_type, workers[which].type, BGW_MAXLEN);
	if (probe)
		strlcpy(worker.bgw_extra, TEGRO_PROBE, BGW_EXTRALEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = handle ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* Starts a worker where there is none; one that is there is woken if "wake". */
static void
call_worker(TegroWorker which, bool wake)
{
	Latch *latch = NULL;
	bool start = false;
	TimestampTz now = GetCurrentTimestamp();
	WakeSlot *slot;

	if (wake_shared == NULL || !OidIsValid(MyDatabaseId))
		return;

	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot();
	if (slot)
	{
		TimestampTz asked_at = slot->workers[which].asked_at;

		latch = slot->workers[which].latch;
		if (latch == NULL && now >= slot->held_until &&
			(now < asked_at ||
			 now >= TimestampTzPlusMilliseconds(asked_at, START_PATIENCE_MS)))
		{
			slot->workers[which].asked_at = now;
			start = true;
		}
	}
	SpinLockRelease(&wake_shared->lock);

	if (latch && wake)
		SetLatch(latch);
	if (!start)
		return;

	if (!tegro_wake_start_worker(MyDatabaseId, which, false, NULL))
	{
		/* who enqueues is told each time; a deliverer now and then */
		if (which == TEGRO_DELIVERY_WORKER)
		{
			SpinLockAcquire(&wake_shared->lock);
			slot->workers[which].asked_at = 0;
			SpinLockRelease(&wake_shared->lock);
		}
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 which == TEGRO_DELIVERY_WORKER
					 ? errmsg("could not start the tegro delivery worker")
					 : errmsg("could not start the tegro callback worker"),
				 errdetail("All background worker slots are taken; the request is safe in the outbox."),
				 errhint("Raise max_worker_processes, or deliver with CALL tegro_deliver().")));
	}
}

void
tegro_wake_now(TegroWorker which)
{
	call_worker(which, true);
}

void
tegro_wake_missing(TegroWorker which)
{
	call_worker(which, false);
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:

			/*
			 * At PREPARE, too: whoever commits it later knows nothing of us,
			 * and the worker looks after prepared transactions by itself.
			 */
		case XACT_EVENT_PREPARE:
			for (int i = 0; i < TEGRO_N_WORKERS; i++)
			{
				if (wanted[i])
				{
					wanted[i] = false;
					tegro_wake_now(i);
				}
			}
			break;
		case XACT_EVENT_ABORT:
			memset(wanted, 0, sizeof(wanted));
			break;
		default:
			break;
	}
}

void
tegro_wake_at_commit(TegroWorker which)
{
	static bool callback_registered = false;

	attach();
	if (!callback_registered)
	{
		RegisterXactCallback(on_transaction_end, NULL);
		callback_registered = true;
	}
	wanted[which] = true;
}

static void
unregister_at_exit(int code, Datum arg)
{
	tegro_wake_unregister();
}

bool
tegro_wake_register(TegroWorker which)
{
	static bool exit_registered = false;
	WakeSlot *slot;
	bool taken = false;

	attach();
	if (!exit_registered)
	{
		before_shmem_exit(unregister_at_exit, (Datum) 0);
		exit_registered = true;
	}

	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot();
	if (slot && slot->workers[which].latch == NULL)
	{
		slot->workers[which].latch = MyLatch;
		taken = true;
	}
	SpinLockRelease(&wake_shared->lock);
	registered = taken;
	registered_as = which;
	return taken;
}

void
tegro_wake_unregister(void)
{
	WakeSlot *slot;

	TimestampTz patient_since =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -START_PATIENCE_MS);

	if (!registered)
		return;
	registered = false;
	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot();
	if (slot && slot->workers[registered_as].latch == MyLatch)
	{
		bool other = false;

		slot->workers[registered_as].latch = NULL;
		slot->workers[registered_as].asked_at = 0;
		for (int i = 0; i < TEGRO_N_WORKERS; i++)
			other |= slot->workers[i].latch != NULL ||
				slot->workers[i].asked_at > patient_since;
		/* the slot is another database's if nothing is to be remembered */
		if (!other && slot->held_until == 0)
			slot->database = InvalidOid;
	}
	SpinLockRelease(&wake_shared->lock);
}

void
tegro_wake_hold(bool held)
{
	TimestampTz until = held
		? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_MS)
		: 0;
	WakeSlot *slot;

	attach();
	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot();
	if (slot)
		slot->held_until = until;
	SpinLockRelease(&wake_shared->lock);
}

bool
tegro_wake_is_running(TegroWorker which)
{
	bool running = false;

	attach();
	SpinLockAcquire(&wake_shared->lock);
	/* find_slot() would take a free one */
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		WakeSlot *slot = &wake_shared->slots[i];

		if (slot->database == MyDatabaseId)
			running = slot->workers[which].latch != NULL;
	}
	SpinLockRelease(&wake_shared->lock);
	return running;
}
