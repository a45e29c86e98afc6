/*-------------------------------------------------------------------------
 *
 * session.h
 *		The session of a background worker: its connection, settings and
 *		transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_SESSION_H
#define TEGRO_SESSION_H

/*
 * Connects the current background worker to a database, as the superuser that
 * initdb made, with settings that ALTER ROLE and ALTER DATABASE cannot change.
 * Exits with status 0 if the database is gone.
 */
extern void tegro_session_connect(Oid database);

/* Sets a setting until the process ends. */
extern void tegro_session_force(const char *name, const char *value);

/* Begins a transaction with a snapshot; ends it, durably. */
extern void tegro_session_begin(void);
extern void tegro_session_commit(void);

/* Reads the configuration file again if SIGHUP asked for it. */
extern void tegro_session_reload(void);

/* Says in pg_stat_activity what the worker does; NULL: it is idle. */
extern void tegro_session_report(const char *activity);

#endif /* TEGRO_SESSION_H */
