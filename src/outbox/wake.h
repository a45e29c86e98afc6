/*-------------------------------------------------------------------------
 *
 * wake.h
 *		Finds a database's workers, or has them started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_WAKE_H
#define TEGRO_WAKE_H

#include "postmaster/bgworker.h"

/* Requests the shared memory of this file; called by _PG_init. */
extern void tegro_wake_request_shmem(void);

/* The workers that a database may have, one of each. */
typedef enum TegroWorker
{
	TEGRO_DELIVERY_WORKER,
	TEGRO_CALLBACK_WORKER,
	TEGRO_N_WORKERS
} TegroWorker;

/*
 * Has a worker woken, or started, once the current transaction commits.
 * What a rolled-back transaction asked for is forgotten.
 */
extern void tegro_wake_at_commit(TegroWorker which);

/* Wakes a worker of this database, or has one started.  Never throws. */
extern void tegro_wake_now(TegroWorker which);

/* Has one started where there is none; one that is there is let sleep. */
extern void tegro_wake_missing(TegroWorker which);

/* What came of asking for a worker. */
typedef enum TegroWakeResult
{
	TEGRO_WAKE_STARTED,	  /* the postmaster starts one */
	TEGRO_WAKE_NEEDLESS,  /* one is there, or to come */
	TEGRO_WAKE_NO_WORKER, /* max_worker_processes is reached */
	TEGRO_WAKE_TOO_MANY	  /* too many databases have workers */
} TegroWakeResult;

/*
 * For the launcher: has a delivery worker look into a database, which ends at
 * once if nothing waits there.  If it is started, sets *handle.
 */
extern TegroWakeResult tegro_wake_probe(Oid database,
										BackgroundWorkerHandle **handle);

/*
 * For a worker that was terminated, when it ends: has the launcher start
 * another.  Returns false if there is no launcher.  Never throws.
 */
extern bool tegro_wake_replace(TegroWorker which);

/* For the launcher: is to be woken when a worker can't be started. */
extern void tegro_wake_register_launcher(void);

/* For the launcher: starts those.  Returns whether there are any left. */
extern bool tegro_wake_start_missing(void);

/* For a delivery worker: was it started by tegro_wake_probe()? */
extern bool tegro_wake_is_probe(void);

/*
 * For a worker: registers the current process as that worker of its database.
 * Returns false if there is one already, or if a newer one was there since this
 * one was started: it is to end then, with 0.
 */
extern bool tegro_wake_register(TegroWorker which);

/*
 * For a worker: takes the registration back.  Done at exit by itself, where an
 * exit status other than 0 leaves that it will be back.
 */
extern void tegro_wake_unregister(void);

/*
 * For a worker: how often it was woken so far.  Read it before you look, and
 * again before you sleep: if it has changed, look again.
 */
extern uint64 tegro_wake_calls(void);

/* Does such a worker of this database run?  It has registered, that is. */
extern bool tegro_wake_is_running(TegroWorker which);

#endif /* TEGRO_WAKE_H */
