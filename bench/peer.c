/*-------------------------------------------------------------------------
 *
 * peer.c
 *		One call after another: tegro, pgsql-http and bare libcurl, all of them
 *		at the same sandbox.
 *
 * Measured in turns, apart and together (see places.c):
 *
 *		floor		bare libcurl, see floor.c
 *		tegro		count(tegro_balance()) over generate_series
 *		http		the same over a function for pgsql-http that does what has
 *					to be done for this provider: a fresh nonce, the signature
 *					by pgcrypto, the status looked at, the answer as jsonb
 *		send		pgsql-http's http() alone: bodies and signatures were made
 *					before, and of the answer only the status is looked at
 *
 * Where there is a choice, it is in pgsql-http's favour: its connection is kept
 * alive, the body is put together as text, and what stays the same is written
 * into the function.  All ways must use one connection each, and all their
 * requests must have had success; the sandbox's journal tells.
 *
 * pgsql-http has a session of its own: it sets the backend's handler of SIGINT.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "floor.h"
#include "journal.h"
#include "places.h"
#include "session.h"

/* Connections: of floor, tegro, and pgsql-http, which has two ways. */
#define CONNECTIONS 3

static struct target target;
static struct floor bare;
static PGconn *tegro_session;
static PGconn *http_session;

static void
run_floor(long calls)
{
	floor_run(&bare, calls);
}

/* Counts the rows of a query, which must be one for each call. */
static void
run_query(PGconn *session, const char *query, long calls)
{
	if (session_number(session, query, calls) != (double) calls)
		fail("not as many answers as calls");
}

static void
run_tegro(long calls)
{
	run_query(tegro_session,
			  "SELECT count(tegro_balance()) FROM generate_series(1, %ld)",
			  calls);
}

static void
run_http(long calls)
{
	run_query(http_session,
			  "SELECT count(pg_temp.balance()) FROM generate_series(1, %ld)",
			  calls);
}

static void
prepare_send(long calls)
{
	char sql[200];

	session_execute(http_session, "TRUNCATE pg_temp.requests");
	snprintf(sql, sizeof(sql),
			 "INSERT INTO pg_temp.requests "
			 "SELECT pg_temp.request() FROM generate_series(1, %ld)",
			 calls);
	session_execute(http_session, sql);
}

static void
run_send(long calls)
{
	run_query(http_session,
			  "SELECT count(*) FROM (SELECT request FROM pg_temp.requests LIMIT %ld) r "
			  "WHERE (http(request)).status = 200",
			  calls);
}

enum
{
	WAY_FLOOR,
	WAY_TEGRO,
	WAY_HTTP,
	WAY_SEND,
	WAY_COUNT
};

static struct way ways[WAY_COUNT] =
	{[WAY_FLOOR] = {.name = "floor", .run = run_floor},
	 [WAY_TEGRO] = {.name = "tegro", .run = run_tegro},
	 [WAY_HTTP] = {.name = "http", .run = run_http},
	 [WAY_SEND] = {.name = "send", .run = run_send, .prepare = prepare_send}};

/* Opens a session without JIT compilation; its process is that of "way". */
static PGconn *
open_session(int way)
{
	PGconn *session = session_open();

	session_execute(session, "SET jit = off");
	ways[way].pid = (pid_t) session_number(session, "SELECT pg_backend_pid()");
	return session;
}

/* Of a function in PL/pgSQL: its variables, and the request made of them. */
#define BODY                                                            \
	"nonce bigint := extract(epoch FROM clock_timestamp()) * 1000000; " \
	"body text := '{\"nonce\":' || nonce || ',\"shop_id\":\"%2$s\"}'; " \
	"signature text := encode(hmac(body, '%3$s', 'sha256'), 'hex'); "
#define REQUEST                                                     \
	"('POST', '%4$s', "                                             \
	"ARRAY[http_header('Authorization', 'Bearer ' || signature)], " \
	"'application/json', body)::http_request"

/* Opens pgsql-http's, with what a user would write there. */
static void
open_http(void)
{
	static const char format[] =
		"CREATE EXTENSION IF NOT EXISTS http;"
		"CREATE EXTENSION IF NOT EXISTS pgcrypto;"
		"SET http.keepalive = on;"
		"SELECT http_set_curlopt('CURLOPT_CAINFO', '%1$s');"
		"CREATE FUNCTION pg_temp.request() RETURNS http_request LANGUAGE plpgsql AS $$ "
		"DECLARE " BODY "BEGIN RETURN " REQUEST "; END $$;"
		"CREATE FUNCTION pg_temp.balance() RETURNS jsonb LANGUAGE plpgsql AS $$ "
		"DECLARE " BODY "response http_response := http(" REQUEST "); "
		"BEGIN"
		"  IF response.status <> 200 THEN"
		"    RAISE 'the provider answers with status %%', response.status;"
		"  END IF;"
		"  RETURN response.content::jsonb;"
		"END $$;"
		"CREATE TEMPORARY TABLE requests (request http_request)";
	char sql[4096];
	int length;

	http_session = open_session(WAY_HTTP);
	ways[WAY_SEND].pid = ways[WAY_HTTP].pid;
	length = snprintf(sql, sizeof(sql), format, target.ca_file, target.shop_id,
					  target.api_key, target.url);
	if (length >= (int) sizeof(sql))
		fail("names are too long");
	session_execute(http_session, sql);
}

/* Counts a request; ends the program unless it is as it should be. */
static bool
is_good(const char *line)
{
	const char *connection = strstr(line, "\"connection\":");

	if (connection == NULL || strstr(line, "\"verdict\":\"success\"") == NULL)
		fail("a request without success: %s", line);
	if (strtol(strchr(connection, ':') + 1, NULL, 10) > CONNECTIONS)
		fail("a connection was not kept alive: %s", line);
	return true;
}

int
main(void)
{
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure();
	floor_open(&bare, &target);
	ways[WAY_FLOOR].pid = getpid();
	tegro_session = open_session(WAY_TEGRO);
	open_http();

	places_measure(ways, WAY_COUNT);
	journal_wait(places_calls() * WAY_COUNT, is_good);
	printf("%ld requests on %d connections, all with success.\n\n",
		   places_calls() * WAY_COUNT, CONNECTIONS);
	places_print_times("peer");
	places_print_ratio("peer", "_send_to_floor", WAY_SEND, WAY_FLOOR);
	places_print_ratio("peer", "_http_to_floor", WAY_HTTP, WAY_FLOOR);
	places_print_ratio("peer", "_tegro_to_floor", WAY_TEGRO, WAY_FLOOR);
	places_print_ratio("peer", "_tegro_to_send", WAY_TEGRO, WAY_SEND);
	places_print_ratio("peer", "", WAY_TEGRO, WAY_HTTP);

	PQfinish(http_session);
	PQfinish(tegro_session);
	floor_close(&bare);
	curl_global_cleanup();
	return 0;
}
