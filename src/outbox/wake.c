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
 * A database's place in the table is another's as soon as it has no worker and
 * nothing is to be remembered.
 *
 * Who starts a worker again that failed.  The postmaster, after RESTART_S: it
 * keeps the worker's slot meanwhile, and remembers it through a crash of the
 * server, which nothing in shared memory does.  (Left aside: workers that are
 * never restarted, and whoever commits next starts one.  Then what is committed
 * already would wait for that, and after a crash for good.)  So a worker that
 * ends with an error leaves in the table that it will be back, and until then
 * nobody asks for another; else a worker that fails at each start would leave
 * behind one more with each commit, all of which the postmaster starts again
 * and again, out of step, until no slot is free for anybody.
 *
 * That is a matter of time, and one that was given up may come after all.  So
 * each worker that is asked for has a number, higher than those before.  Of two
 * that run at the same time the one that registered first stays; and one that
 * comes back after a newer one has registered ends for good.  However often
 * there came to be several, there is one soon.
 *
 * From PostgreSQL 19 on, CREATE, ALTER and DROP DATABASE terminate the workers
 * that are connected to the database, and the postmaster does not start these
 * again.  There the launcher, if there is one, replaces a worker that was
 * terminated, and it does so at once.  The new worker cannot connect before the
 * command has ended, since the command holds a lock on the database.
 *
 * Hazards:
 *
 *	- After a commit nothing may throw: an error there is a PANIC.  So the
 *	  worker is asked for without a handle, which allocates nothing.
 *	- A latch of a process that has ended is only a latch: setting it wakes
 *	  whoever has the PGPROC now, who looks and goes on waiting.
 *	- A worker that is about to end because nothing waits must unregister first
 *	  and then look once more, or a commit in between wakes nobody.
 *	- A latch that is set can be reset by whatever the worker waits for before it
 *	  looks: a synchronous standby, a lock, a trigger on the tables.  So what
 *	  wakes it is counted, too; it doesn't sleep unless it has looked since the
 *	  last time.
 *	- A slot is its database's only while the lock is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/base/shmem.h"
#include "src/outbox/wake.h"

/* Databases of one cluster that deliver at the same time. */
#ifdef TEGRO_INJECTION_POINTS
#define MAX_DATABASES 12 /* fewer, so that a test can have too many */
#else
#define MAX_DATABASES 128
#endif

/* After how many seconds the postmaster starts a worker again that failed. */
#define RESTART_S 5

/*
 * How long a worker that is to come may take to register before another is
 * asked for.
 */
#define START_PATIENCE_MS	5000
#define RESTART_PATIENCE_MS (RESTART_S * 1000 + START_PATIENCE_MS)

typedef struct WakeSlot
{
	Oid database; /* InvalidOid: none yet */
	struct
	{
		Latch *latch;		   /* the worker's; NULL: none is registered */
		int64 number;		   /* of the newest that has registered */
		uint64 calls;		   /* how often it was woken */
		TimestampTz due_until; /* one is to come, and has time until then */
		bool missing;		   /* it could not be started: the launcher's */
	} workers[TEGRO_N_WORKERS];
} WakeSlot;

typedef struct WakeShared
{
	slock_t lock;	   /* over all that follows */
	int64 last_number; /* of the worker that was asked for last */
	Latch *launcher;   /* NULL: there is none */
	WakeSlot slots[MAX_DATABASES];
} WakeShared;

/* What a worker is told by bgw_extra. */
typedef struct WorkerExtra
{
	int64 number;
	bool probe; /* to end at once if nothing waits */
} WorkerExtra;

static WakeShared *wake_shared = NULL;
static bool wanted[TEGRO_N_WORKERS]; /* by the current transaction */

/* of a worker */
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

static void
init(void *area)
{
	WakeShared *shared = area;

	memset(shared, 0, sizeof(WakeShared));
	SpinLockInit(&shared->lock);
}

void
tegro_wake_request_shmem(void)
{
	tegro_shmem_request("tegro workers", sizeof(WakeShared),
						(void **) &wake_shared, init);
}

/*
 * Is that time still to come?  One that is further away than "longest_ms" was
 * written before the clock was set back.
 */
static bool
is_to_come(TimestampTz until, TimestampTz now, int longest_ms)
{
	return now < until &&
		until <= TimestampTzPlusMilliseconds(now, longest_ms);
}

static bool
is_due(const WakeSlot *slot, TegroWorker which, TimestampTz now)
{
	return is_to_come(slot->workers[which].due_until, now,
					  RESTART_PATIENCE_MS);
}

/* Does a slot have a worker, or is one to come? */
static bool
is_taken(const WakeSlot *slot, TimestampTz now)
{
	if (!OidIsValid(slot->database))
		return false;
	for (int i = 0; i < TEGRO_N_WORKERS; i++)
	{
		if (slot->workers[i].latch || slot->workers[i].missing ||
			is_due(slot, i, now))
			return true;
	}
	return false;
}

/* A database's slot, or NULL.  Under lock, as the next one is. */
static WakeSlot *
find_slot(Oid database)
{
	/* those that are free have none */
	Assert(OidIsValid(database));
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (wake_shared->slots[i].database == database)
			return &wake_shared->slots[i];
	}
	return NULL;
}

/* Gives a database a slot, if it has none; NULL if all are taken. */
static WakeSlot *
take_slot(Oid database, TimestampTz now)
{
	WakeSlot *slot = find_slot(database);

	if (slot)
		return slot;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		WakeSlot *other = &wake_shared->slots[i];

		if (slot == NULL && !is_taken(other, now))
			slot = other;
	}
	if (slot)
	{
		memset(slot, 0, sizeof(WakeSlot));
		slot->database = database;
	}
	return slot;
}

/* Has the postmaster start a worker.  Without a handle nothing can throw. */
static bool
start_worker(Oid database, TegroWorker which, const WorkerExtra *extra,
			 BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	StaticAssertStmt(sizeof(WorkerExtra) <= BGW_EXTRALEN,
					 "bgw_extra is too short");
	Assert(extra->number > 0);
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION | BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	strlcpy(worker.bgw_library_name, "tegro", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, workers[which].function,
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u",
			 workers[which].type, database);
	strlcpy(worker.bgw_type, workers[which].type, BGW_MAXLEN);
	memcpy(worker.bgw_extra, extra, sizeof(WorkerExtra));
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = handle ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* What this process was told by whoever asked for it. */
static WorkerExtra
own_extra(void)
{
	WorkerExtra extra;

	memcpy(&extra, MyBgworkerEntry->bgw_extra, sizeof(WorkerExtra));
	return extra;
}

bool
tegro_wake_is_probe(void)
{
	return own_extra().probe;
}

/*
 * Asks for a worker, unless there is one, or one is to come.  Sets *latch to
 * that of the one that there is, which is called if "call".
 */
static TegroWakeResult
ask_for_worker(Oid database, TegroWorker which, bool probe, bool call,
			   Latch **latch, BackgroundWorkerHandle **handle)
{
	TimestampTz now = GetCurrentTimestamp();
	WorkerExtra extra = {0, probe};
	bool start = false;
	Latch *launcher;
	WakeSlot *slot;

	Assert(wake_shared && OidIsValid(database));
	*latch = NULL;
	if (IsBinaryUpgrade)
		return TEGRO_WAKE_NEEDLESS;
	SpinLockAcquire(&wake_shared->lock);
	slot = take_slot(database, now);
	if (slot)
	{
		*latch = slot->workers[which].latch;
		slot->workers[which].calls += *latch && call;
		start = *latch == NULL && !is_due(slot, which, now);
	}
	if (start)
	{
		slot->workers[which].due_until =
			TimestampTzPlusMilliseconds(now, START_PATIENCE_MS);
		/* the time, so that numbers rise through a crash of the server */
		extra.number = wake_shared->last_number =
			Max(now, wake_shared->last_number + 1);
	}
	SpinLockRelease(&wake_shared->lock);

	if (slot == NULL)
		return TEGRO_WAKE_TOO_MANY;
	if (!start)
		return TEGRO_WAKE_NEEDLESS;
	if (start_worker(database, which, &extra, handle))
		return TEGRO_WAKE_STARTED;

	SpinLockAcquire(&wake_shared->lock);
	launcher = wake_shared->launcher;
	slot = find_slot(database);
	if (slot)
	{
		/* who enqueues is told each time; a delivery worker now and then */
		if (which == TEGRO_DELIVERY_WORKER)
			slot->workers[which].due_until = 0;
		slot->workers[which].missing = launcher != NULL;
	}
	SpinLockRelease(&wake_shared->lock);
	if (launcher && launcher != MyLatch)
		SetLatch(launcher);
	return TEGRO_WAKE_NO_WORKER;
}

/* Starts a worker where there is none; one that is there is woken if "wake". */
static void
call_worker(TegroWorker which, bool wake)
{
	Latch *latch;
	TegroWakeResult result;

	if (!OidIsValid(MyDatabaseId))
		return;
	result = ask_for_worker(MyDatabaseId, which, false, wake, &latch, NULL);
	if (latch && wake)
		SetLatch(latch);
	if (result == TEGRO_WAKE_NO_WORKER || result == TEGRO_WAKE_TOO_MANY)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 which == TEGRO_DELIVERY_WORKER
					 ? errmsg("could not start the tegro delivery worker")
					 : errmsg("could not start the tegro callback worker"),
				 result == TEGRO_WAKE_NO_WORKER
					 ? errdetail("All background worker slots are taken; the request is safe in the outbox.")
					 : errdetail("%d databases have workers of tegro; the request is safe in the outbox.",
								 MAX_DATABASES),
				 result == TEGRO_WAKE_NO_WORKER
					 ? errhint("Raise max_worker_processes, or deliver with CALL tegro_deliver().")
					 : errhint("Deliver with CALL tegro_deliver().")));
}

TegroWakeResult
tegro_wake_probe(Oid database, BackgroundWorkerHandle **handle)
{
	Latch *latch;

	return ask_for_worker(database, TEGRO_DELIVERY_WORKER, true, false, &latch,
						  handle);
}

static void
forget_launcher(int code, Datum arg)
{
	SpinLockAcquire(&wake_shared->lock);
	wake_shared->launcher = NULL;
	SpinLockRelease(&wake_shared->lock);
}

void
tegro_wake_register_launcher(void)
{
	before_shmem_exit(forget_launcher, (Datum) 0);
	SpinLockAcquire(&wake_shared->lock);
	wake_shared->launcher = MyLatch;
	SpinLockRelease(&wake_shared->lock);
}

bool
tegro_wake_start_missing(void)
{
	bool any_left = false;

	for (int i = 0; i < MAX_DATABASES * TEGRO_N_WORKERS; i++)
	{
		WakeSlot *slot = &wake_shared->slots[i / TEGRO_N_WORKERS];
		TegroWorker which = i % TEGRO_N_WORKERS;
		Latch *latch;
		Oid database;
		bool missing;

		SpinLockAcquire(&wake_shared->lock);
		database = slot->database;
		missing = slot->workers[which].missing;
		if (missing)
		{
			slot->workers[which].missing = false;
			slot->workers[which].due_until = 0;
		}
		SpinLockRelease(&wake_shared->lock);
		if (missing &&
			ask_for_worker(database, which, false, false, &latch, NULL) ==
				TEGRO_WAKE_NO_WORKER)
			any_left = true;
	}
	return any_left;
}

bool
tegro_wake_replace(TegroWorker which)
{
	TimestampTz now = GetCurrentTimestamp();
	Latch *launcher;
	WakeSlot *slot;

	if (wake_shared == NULL || !OidIsValid(MyDatabaseId))
		return false;
	SpinLockAcquire(&wake_shared->lock);
	launcher = wake_shared->launcher;
	slot = launcher ? take_slot(MyDatabaseId, now) : NULL;
	if (slot)
		slot->workers[which].missing = true;
	SpinLockRelease(&wake_shared->lock);
	if (slot == NULL)
		return false;
	SetLatch(launcher);
	return true;
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

/* To be called before the commit, where something may be thrown. */
static void
watch_transaction(void)
{
	static bool callback_registered = false;

	if (!callback_registered)
	{
		RegisterXactCallback(on_transaction_end, NULL);
		callback_registered = true;
	}
}

void
tegro_wake_at_commit(TegroWorker which)
{
	/* in none, nobody would be woken */
	Assert(IsTransactionState());
	watch_transaction();
	wanted[which] = true;
}

/*
 * A process ends as a worker of its database, for now at least.  If it failed,
 * it is the postmaster's to start it again.
 */
static void
leave(bool failed)
{
	TimestampTz now = GetCurrentTimestamp();
	WakeSlot *slot;

	if (!registered && !failed)
		return;
	Assert(wake_shared != NULL);
	SpinLockAcquire(&wake_shared->lock);
	/* it may have lost its slot between an unregistration and an error */
	slot = failed ? take_slot(MyDatabaseId, now) : find_slot(MyDatabaseId);
	if (slot)
	{
		/* of two workers, one has registered: no other may undo that */
		Assert(!registered || slot->workers[registered_as].latch == MyLatch);
		if (registered)
			slot->workers[registered_as].latch = NULL;
		slot->workers[registered_as].due_until = failed
			? TimestampTzPlusMilliseconds(now, RESTART_PATIENCE_MS)
			: 0;
	}
	SpinLockRelease(&wake_shared->lock);
	registered = false;
}

static void
unregister_at_exit(int code, Datum arg)
{
	leave(code != 0);
}

bool
tegro_wake_register(TegroWorker which)
{
	static bool exit_registered = false;
	TimestampTz now = GetCurrentTimestamp();
	int64 number = own_extra().number;
	WakeSlot *slot;

	Assert(!registered && number > 0);
	registered_as = which;
	if (!exit_registered)
	{
		before_shmem_exit(unregister_at_exit, (Datum) 0);
		exit_registered = true;
	}

	SpinLockAcquire(&wake_shared->lock);
	slot = take_slot(MyDatabaseId, now);
	if (slot && slot->workers[which].latch == NULL &&
		slot->workers[which].number <= number)
	{
		slot->workers[which].latch = MyLatch;
		slot->workers[which].number = number;
		/* from before a crash, while the clock was ahead */
		wake_shared->last_number = Max(wake_shared->last_number, number);
		slot->workers[which].due_until = 0;
		slot->workers[which].missing = false;
		registered = true;
	}
	SpinLockRelease(&wake_shared->lock);
	/* to be back after RESTART_S */
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%d databases have workers of tegro",
						MAX_DATABASES)));
	return registered;
}

void
tegro_wake_unregister(void)
{
	leave(false);
}

uint64
tegro_wake_calls(void)
{
	uint64 calls = 0;
	WakeSlot *slot;

	if (!registered)
		return 0;
	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot(MyDatabaseId);
	if (slot)
		calls = slot->workers[registered_as].calls;
	SpinLockRelease(&wake_shared->lock);
	return calls;
}

bool
tegro_wake_is_running(TegroWorker which)
{
	bool running;
	WakeSlot *slot;

	SpinLockAcquire(&wake_shared->lock);
	slot = find_slot(MyDatabaseId);
	running = slot && slot->workers[which].latch != NULL;
	SpinLockRelease(&wake_shared->lock);
	return running;
}
