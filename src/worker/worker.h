/*-------------------------------------------------------------------------
 *
 * worker.h
 *		Background workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_WORKER_H
#define TEGRO_WORKER_H

/*
 * Registers the launcher, which starts a delivery worker in each database
 * where requests wait.  To be called from _PG_init under
 * shared_preload_libraries.
 */
extern void tegro_worker_register_launcher(void);

/* A transaction of a background worker's: its begin and its durable end. */
extern void tegro_worker_begin(void);
extern void tegro_worker_commit(void);

/*
 * Connects a background worker to a database, as the superuser that started
 * the cluster, with settings that no database or role can turn against it.
 */
extern void tegro_worker_connect(Oid database);

#endif /* TEGRO_WORKER_H */
