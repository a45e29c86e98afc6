/*-------------------------------------------------------------------------
 *
 * sync.c
 *		One call after another in one session, against bare libcurl.
 *
 * Measured in turns of a few hundred calls each:
 *
 *		floor		bare libcurl, see floor.c
 *		statement	SELECT count(tegro_balance()) FROM generate_series(1, n):
 *					count() of a volatile function calls it once a row
 *		loop		PERFORM tegro_balance() in a PL/pgSQL loop
 *		client		SELECT tegro_balance(), a statement a call: what the client
 *					protocol and the start of a statement add
 *
 * Twice, since two processes that wait for each other on one machine leave the
 * kernel to choose where they run, and its choice, which is not the same for
 * any two of them, decides more than all else:
 *
 *		apart		the sandbox on the first processor, who calls it on the
 *					second: each waking crosses over, as an answer from another
 *					machine does
 *		together	both on the first: the sum of what they do
 *
 * Time is told twice, too: by the clock, which also has what the sandbox takes,
 * and as time on a processor of the client alone (the backend, or the floor's
 * process), which a busy machine disturbs less.
 *
 * JIT compilation is off in what is compared; what it adds to a statement is
 * told apart.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <unistd.h>

#include "floor.h"
#include "process.h"
#include "rounds.h"
#include "session.h"

/* Turns of some 10 ms: short enough to have the same neighbours. */
#define ROUNDS 300
#define CALLS  100

/* Until caches and connections are warm. */
#define WARM_UP 500

/* Rounds with JIT compilation, which can take 60 ms each. */
#define JIT_ROUNDS 31

enum way
{
	WAY_FLOOR,
	WAY_STATEMENT,
	WAY_LOOP,
	WAY_CLIENT,
	WAY_COUNT
};

static const char *const names[WAY_COUNT] = {"floor", "statement", "loop",
											 "client"};

static struct target target;
static struct floor bare;
static PGconn *session;
static pid_t backend;

enum place
{
	PLACE_APART,
	PLACE_TOGETHER,
	PLACE_COUNT
};

static const struct
{
	const char *name;
	const char *metric;
	int client; /* its processor; the sandbox's is 0 */
} places[PLACE_COUNT] = {{"apart", "sync", 1},
						 {"together", "sync_together", 0}};

static struct series elapsed[PLACE_COUNT][WAY_COUNT]; /* us a call */
static struct series cpu[PLACE_COUNT][WAY_COUNT];	  /* us a call */

static void
run(enum way way, long calls)
{
	switch (way)
	{
		case WAY_FLOOR:
			floor_run(&bare, calls);
			break;
		case WAY_STATEMENT:
			if (session_number(session,
							   "SELECT count(tegro_balance()) FROM generate_series(1, %ld)",
							   calls) != (double) calls)
				fail("not as many answers as calls");
			break;
		case WAY_LOOP:
			session_number(session, "SELECT pg_temp.bench_loop(%ld)", calls);
			break;
		default:
			for (long i = 0; i < calls; i++)
				session_execute(session, "SELECT tegro_balance()");
			break;
	}
}

/* Takes one turn. */
static void
measure(enum place place, enum way way)
{
	pid_t pid = way == WAY_FLOOR ? getpid() : backend;
	double cpu_before = process_cpu(pid);
	int64_t start_us = now_us();

	run(way, CALLS);
	series_add(&elapsed[place][way], (double) (now_us() - start_us) / CALLS);
	series_add(&cpu[place][way],
			   (process_cpu(pid) - cpu_before) * 1e6 / CALLS);
}

/* Milliseconds that JIT compilation adds to a statement of so many calls. */
static double
measure_jit(void)
{
	static struct series added;

	for (int i = 0; i < JIT_ROUNDS; i++)
	{
		int64_t start_us = now_us();
		int64_t without_us;

		run(WAY_STATEMENT, CALLS);
		without_us = now_us() - start_us;
		session_execute(session, "SET jit = on");
		start_us = now_us();
		run(WAY_STATEMENT, CALLS);
		series_add(&added, (double) (now_us() - start_us - without_us) / 1e3);
		session_execute(session, "SET jit = off");
	}
	return series_median(&added);
}

/* Takes all turns in one place. */
static void
measure_place(enum place place)
{
	process_pin(process_sandbox(), 0);
	process_pin(getpid(), places[place].client);
	process_pin(backend, places[place].client);
	for (int way = 0; way < WAY_COUNT; way++)
		run((enum way) way, WARM_UP);
	for (int round = 0; round < ROUNDS; round++)
	{
		for (int way = 0; way < WAY_COUNT; way++)
			measure(place, (enum way) way);
		if ((round + 1) % (ROUNDS / 5) == 0)
		{
			printf("  %s, %3d rounds: floor %.1f us, statement %.1f us\n",
				   places[place].name, round + 1,
				   series_median(&elapsed[place][WAY_FLOOR]),
				   series_median(&elapsed[place][WAY_STATEMENT]));
			fflush(stdout);
		}
	}
}

static void
print_table(enum place place)
{
	printf("\n%-10s %28s %18s\n", places[place].name, "us a call by the clock",
		   "on a processor");
	printf("%-10s %9s %9s %9s %9s %9s\n", "", "median", "tenth", "least",
		   "median", "tenth");
	for (int way = 0; way < WAY_COUNT; way++)
		printf("%-10s %9.1f %9.1f %9.1f %9.1f %9.1f\n", names[way],
			   series_median(&elapsed[place][way]),
			   series_quantile(&elapsed[place][way], 0.1),
			   series_min(&elapsed[place][way]),
			   series_median(&cpu[place][way]),
			   series_quantile(&cpu[place][way], 0.1));
}

static void
print_results(enum place place)
{
	static struct series ratios;
	const char *metric = places[place].metric;
	char name[100];

	for (int way = 0; way < WAY_COUNT; way++)
	{
		snprintf(name, sizeof(name), "%s_%s", metric, names[way]);
		print_metric(name, series_median(&elapsed[place][way]), "us");
		snprintf(name, sizeof(name), "%s_%s_cpu", metric, names[way]);
		print_metric(name, series_median(&cpu[place][way]), "us");
	}
	for (int way = WAY_COUNT - 1; way > WAY_FLOOR; way--)
	{
		if (way == WAY_STATEMENT)
		{
			snprintf(name, sizeof(name), "%s_quiet_ratio", metric);
			print_metric(name,
						 series_quantile(&elapsed[place][way], 0.1) /
							 series_quantile(&elapsed[place][WAY_FLOOR], 0.1),
						 "x");
			snprintf(name, sizeof(name), "%s_ratio", metric);
		}
		else
			snprintf(name, sizeof(name), "%s_%s_ratio", metric, names[way]);
		series_divide(&elapsed[place][way], &elapsed[place][WAY_FLOOR],
					  &ratios);
		print_ratios(name, &ratios);
	}
}

int
main(void)
{
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

	printf("One call after another: %d rounds of %d calls each way.\n", ROUNDS,
		   CALLS);
	fflush(stdout);
	for (int place = 0; place < PLACE_COUNT; place++)
		measure_place((enum place) place);

	for (int place = 0; place < PLACE_COUNT; place++)
		print_table((enum place) place);
	printf(
		"\"tenth\" is the quietest tenth of the rounds; \"floor\" is bare libcurl.\n\n");

	print_metric("sync_jit", measure_jit(), "ms");
	for (int place = PLACE_COUNT - 1; place >= 0; place--)
		print_results((enum place) place);

	PQfinish(session);
	floor_close(&bare);
	curl_global_cleanup();
	return 0;
}
