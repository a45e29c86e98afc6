/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Many calls at once: tegro_batch against libcurl's multi interface.
 *
 * Use:	batch latency MS	the sandbox answers MS milliseconds later: how near
 *							to the ideal, calls / in flight * latency
 *		batch throughput	it answers at once: how many calls a second
 *
 * Cold: in a new session, so that all connections are opened first.  Warm: in
 * a session that has them.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "floor.h"
#include "process.h"
#include "rounds.h"
#include "session.h"

static struct target target;

/* A session that keeps so many calls in flight. */
static PGconn *
open_session(long in_flight)
{
	PGconn *session = session_open();
	char sql[100];

	snprintf(sql, sizeof(sql), "SET tegro.max_concurrency = %ld", in_flight);
	session_execute(session, sql);
	session_execute(session, "SET jit = off");
	/* loads the library; sends nothing */
	session_execute(session, "SELECT tegro_preview('balance')");
	return session;
}

/* Seconds that a batch takes. */
static double
run_batch(PGconn *session, long calls)
{
	int64_t start_us = now_us();

	if (session_number(session,
					   "SELECT count(answer) FROM tegro_batch('balance', array_fill('{}'::jsonb, ARRAY[%ld]))",
					   calls) != (double) calls)
		fail("not as many answers as calls");
	return (double) (now_us() - start_us) / 1e6;
}

static void
measure_latency(double latency_s)
{
	const long calls = 1000;
	const long in_flight = 64;
	const int rounds = 9;
	const double ideal_s = (double) calls / (double) in_flight * latency_s;
	static struct series cold_floor, cold, warm_floor, warm, ratios;

	printf("%ld calls, %ld in flight, %.0f ms each: ideally %.3f s.\n", calls,
		   in_flight, latency_s * 1e3, ideal_s);
	for (int round = 0; round < rounds; round++)
	{
		struct floor_multi *floor = floor_multi_open(&target, in_flight);
		PGconn *session = open_session(in_flight);

		series_add(&cold_floor, floor_multi_run(floor, calls));
		series_add(&cold, run_batch(session, calls));
		series_add(&warm_floor, floor_multi_run(floor, calls));
		series_add(&warm, run_batch(session, calls));
		printf("  round %d: floor %.3f s cold, %.3f s warm; tegro_batch %.3f s cold, %.3f s warm\n",
			   round + 1, cold_floor.values[round], warm_floor.values[round],
			   cold.values[round], warm.values[round]);
		fflush(stdout);
		PQfinish(session);
		floor_multi_close(floor);
	}
	printf("\n");
	print_metric("batch_ideal", ideal_s, "s");
	print_metric("batch_cold_floor", series_median(&cold_floor), "s");
	print_metric("batch_cold", series_median(&cold), "s");
	print_metric("batch_warm_floor", series_median(&warm_floor), "s");
	print_metric("batch_warm", series_median(&warm), "s");
	print_metric("batch_cold_floor_of_ideal",
				 series_median(&cold_floor) / ideal_s, "x");
	print_metric("batch_cold_of_ideal", series_median(&cold) / ideal_s, "x");
	print_metric("batch_warm_floor_of_ideal",
				 series_median(&warm_floor) / ideal_s, "x");
	print_metric("batch_warm_of_ideal", series_median(&warm) / ideal_s, "x");
	series_divide(&cold, &cold_floor, &ratios);
	print_ratios("batch_cold_ratio", &ratios);
	series_divide(&warm, &warm_floor, &ratios);
	print_ratios("batch_warm_ratio", &ratios);
}

static void
measure_throughput(void)
{
	const long calls = 1000;
	const long in_flight = 32;
	const int rounds = 60;
	struct floor_multi *floor = floor_multi_open(&target, in_flight);
	PGconn *session = open_session(in_flight);
	pid_t backend = (pid_t) session_number(session, "SELECT pg_backend_pid()");
	static struct series floor_rate, floor_cpu, rate, cpu, ratios;

	printf("%d rounds of %ld calls, %ld in flight, answered at once.\n",
		   rounds, calls, in_flight);
	floor_multi_run(floor, calls);
	run_batch(session, calls);
	for (int round = 0; round < rounds; round++)
	{
		double before = process_cpu(getpid());

		series_add(&floor_rate,
				   (double) calls / floor_multi_run(floor, calls));
		series_add(&floor_cpu,
				   (process_cpu(getpid()) - before) * 1e6 / (double) calls);
		before = process_cpu(backend);
		series_add(&rate, (double) calls / run_batch(session, calls));
		series_add(&cpu,
				   (process_cpu(backend) - before) * 1e6 / (double) calls);
		if ((round + 1) % (rounds / 6) == 0)
		{
			printf("  %2d rounds: floor %.0f a second, tegro_batch %.0f\n",
				   round + 1, series_median(&floor_rate),
				   series_median(&rate));
			fflush(stdout);
		}
	}
	printf("\n");
	print_metric("batch_floor_rate", series_median(&floor_rate), "calls/s");
	print_metric("batch_rate", series_median(&rate), "calls/s");
	print_metric("batch_floor_best_rate", series_max(&floor_rate), "calls/s");
	print_metric("batch_best_rate", series_max(&rate), "calls/s");
	print_metric("batch_floor_cpu", series_median(&floor_cpu), "us");
	print_metric("batch_cpu", series_median(&cpu), "us");
	/* time against time, as in the other benchmarks: 1.1 is a tenth slower */
	series_divide(&floor_rate, &rate, &ratios);
	print_ratios("batch_time_ratio", &ratios);
	PQfinish(session);
	floor_multi_close(floor);
}

int
main(int argc, char **argv)
{
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure();
	if (argc == 3 && strcmp(argv[1], "latency") == 0)
		measure_latency((double) read_number("MS", argv[2]) / 1e3);
	else if (argc == 2 && strcmp(argv[1], "throughput") == 0)
		measure_throughput();
	else
		fail("use: batch latency MS, or batch throughput");
	curl_global_cleanup();
	return 0;
}
