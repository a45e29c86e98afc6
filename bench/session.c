/*-------------------------------------------------------------------------
 *
 * session.c
 *		A session of the server that script/server started.
 *
 *-------------------------------------------------------------------------
 */
#include "session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "request.h"

/* A reload has reached every process by then. */
#define RELOAD_US 200000

PGconn *
session_open(void)
{
	PGconn *session = PQconnectdb("application_name=bench");

	if (PQstatus(session) != CONNECTION_OK)
		fail("%s", PQerrorMessage(session));
	return session;
}

static PGresult *
execute(PGconn *session, const char *sql)
{
	PGresult *result = PQexec(session, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		fail("%s%s", PQerrorMessage(session), sql);
	return result;
}

void
session_execute(PGconn *session, const char *sql)
{
	PQclear(execute(session, sql));
}

void
session_set_server(PGconn *session, const char *name, const char *value)
{
	char sql[200];

	snprintf(sql, sizeof(sql), "ALTER SYSTEM SET %s = %s", name, value);
	session_execute(session, sql);
	session_execute(session, "SELECT pg_reload_conf()");
	usleep(RELOAD_US);
}

double
session_number(PGconn *session, const char *format, ...)
{
	char sql[2048];
	va_list arguments;
	PGresult *result;
	double number;

	va_start(arguments, format);
	vsnprintf(sql, sizeof(sql), format, arguments);
	va_end(arguments);

	result = execute(session, sql);
	if (PQntuples(result) != 1 || PQnfields(result) != 1)
		fail("not one value: %s", sql);
	number = strtod(PQgetvalue(result, 0, 0), NULL);
	PQclear(result);
	return number;
}
