/*-------------------------------------------------------------------------
 *
 * session.h
 *		A session of the server that script/server started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

#include <libpq-fe.h>

/* Opens one, where the environment says (PGHOST and so on). */
PGconn *session_open(void);

/* Runs statements that return nothing of interest. */
void session_execute(PGconn *session, const char *sql);

/*
 * Sets a server setting, by ALTER SYSTEM and a reload.  Sessions that exist read
 * the new value soon, new ones have it.
 */
void session_set_server(PGconn *session, const char *name, const char *value);

/*
 * Runs a query and returns its one value as a number.  Ends the program on an
 * error.
 */
double session_number(PGconn *session, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
