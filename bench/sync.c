/*-------------------------------------------------------------------------
 *
 * sync.c
 *		One call after another in one session, against bare libcurl.
 *
 * Measured in turns, apart and together (see places.c):
 *
 *		floor		bare libcurl, see floor.c
 *		statement	SELECT count(tegro_balance()) FROM generate_series(1, n):
 *					count() of a volatile function calls it once a row
 *		loop		PERFORM tegro_balance() in a PL/pgSQL loop
 *		client		SELECT tegro_balance(), a statement a call: what the client
 *					protocol and the start of a statement add
 *
 * JIT compilation is off in what is compared; what it adds to a statement is
 * told apart.
 *
 *-------------------------------------------------------------------------
 */
#include <unistd.h>

#include "floor.h"
#include "places.h"
#include "rounds.h"
#include "session.h"

/* Rounds with JIT compilation, which can take 60 ms each. */
#define JIT_ROUNDS 31

static struct target target;
static struct floor bare;
static PGconn *session;

static void
run_floor(long calls)
{
	floor_run(&bare, calls);
}

static void
run_statement(long calls)
{
	if (session_number(session,
					   "SELECT count(tegro_balance()) FROM generate_series(1, %ld)",
					   calls) != (double) calls)
		fail("not as many answers as calls");
}

static void
run_loop(long calls)
{
	session_number(session, "SELECT pg_temp.bench_loop(%ld)", calls);
}

static void
run_client(long calls)
{
	for (long i = 0; i < calls; i++)
		session_execute(session, "SELECT tegro_balance()");
}

enum
{
	WAY_FLOOR,
	WAY_STATEMENT,
	WAY_LOOP,
	WAY_CLIENT,
	WAY_COUNT
};

static struct way ways[WAY_COUNT] =
	{[WAY_FLOOR] = {.name = "floor", .run = run_floor},
	 [WAY_STATEMENT] = {.name = "statement", .run = run_statement},
	 [WAY_LOOP] = {.name = "loop", .run = run_loop},
	 [WAY_CLIENT] = {.name = "client", .run = run_client}};

/* Milliseconds that JIT compilation adds to a statement of a turn's calls. */
static double
measure_jit(void)
{
	static struct series added;

	for (int i = 0; i < JIT_ROUNDS; i++)
	{
		int64_t start_us = now_us();
		int64_t without_us;

		run_statement(PLACES_CALLS);
		without_us = now_us() - start_us;
		session_execute(session, "SET jit = on");
		start_us = now_us();
		run_statement(PLACES_CALLS);
		series_add(&added, (double) (now_us() - start_us - without_us) / 1e3);
		session_execute(session, "SET jit = off");
	}
	return series_median(&added);
}

int
main(void)
{
	pid_t backend;

	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure();
	floor_open(&bare, &target);
	session = session_open();
	backend = (pid_t) session_number(session, "SELECT pg_backend_pid()");
	session_execute(session, "SET jit = off");
	session_execute(session,
					"CREATE FUNCTION pg_temp.bench_loop(calls int) RETURNS int LANGUAGE plpgsql AS $$ "
					"BEGIN FOR i IN 1 .. calls LOOP PERFORM tegro_balance(); END LOOP; RETURN calls; END $$");
	for (int way = 0; way < WAY_COUNT; way++)
		ways[way].pid = way == WAY_FLOOR ? getpid() : backend;

	places_measure(ways, WAY_COUNT);
	print_metric("sync_jit", measure_jit(), "ms");
	places_print_times("sync");
	places_print_ratio("sync", "_client", WAY_CLIENT, WAY_FLOOR);
	places_print_ratio("sync", "_loop", WAY_LOOP, WAY_FLOOR);
	places_print_ratio("sync", "", WAY_STATEMENT, WAY_FLOOR);

	PQfinish(session);
	floor_close(&bare);
	curl_global_cleanup();
	return 0;
}
