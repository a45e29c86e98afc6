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

/* Reserves this room's shared memory; see tegro_nonce_request_shmem(). */
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

/* In bgw_extra of a worker that is to end at once if nothing waits. */
#define TEGRO_PROBE "probe"

/*
 * Has the postmaster start a worker for a database.  Returns false if no slot
 * is free.  With a handle, the caller is told of its start and end; without
 * one, nothing is allocated and nothing can throw.
 */
extern bool tegro_wake_start_worker(Oid database, TegroWorker which,
									bool probe,
									BackgroundWorkerHandle **handle);

/*
 * For a worker: registers the current process as that worker of its database.
 * Returns false if there is one already.
 */
extern bool tegro_wake_register(TegroWorker which);

/* For a worker: takes the registration back.  Done at exit by itself, too. */
extern void tegro_wake_unregister(void);

/*
 * For the worker: notes that delivery is held in this database, so that no
 * worker is started in vain for the next minute.
 */
extern void tegro_wake_hold(bool held);

/* Does such a worker of this database run?  It has registered, that is. */
extern bool tegro_wake_is_running(TegroWorker which);

#endif /* TEGRO_WAKE_H */
