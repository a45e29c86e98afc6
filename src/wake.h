/*-------------------------------------------------------------------------
 *
 * wake.h
 *		Finds a database's delivery worker, or has one started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_WAKE_H
#define TEGRO_WAKE_H

#include "postmaster/bgworker.h"

/* Reserves this room's shared memory; see tegro_nonce_request_shmem(). */
extern void tegro_wake_request_shmem(void);

/*
 * Has the worker woken, or started, once the current transaction commits.
 * What a rolled-back transaction asked for is forgotten.
 */
extern void tegro_wake_at_commit(void);

/* Wakes the worker of this database, or has one started.  Never throws. */
extern void tegro_wake_now(void);

/* In bgw_extra of a worker that is to end at once if nothing waits. */
#define TEGRO_PROBE "probe"

/*
 * Has the postmaster start a delivery worker for a database.  Returns false
 * if no slot is free.  With a handle, the caller is told of its start and
 * end; without one, nothing is allocated and nothing can throw.
 */
extern bool tegro_wake_start_worker(Oid database, bool probe,
									BackgroundWorkerHandle **handle);

/*
 * For the worker: registers the current process as the worker of its
 * database.  Returns false if there is one already.
 */
extern bool tegro_wake_register(void);

/* For the worker: takes the registration back.  Done at exit by itself, too. */
extern void tegro_wake_unregister(void);

/*
 * For the worker: notes that delivery is held in this database, so that no
 * worker is started in vain for the next minute.
 */
extern void tegro_wake_hold(bool held);

#endif /* TEGRO_WAKE_H */
