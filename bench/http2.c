/*-------------------------------------------------------------------------
 *
 * http2.c
 *		Would HTTP/2 be better than HTTP/1.1?  Bare libcurl asks one nginx both
 *		ways.
 *
 * Three questions: one call after another on one connection; many in flight
 * (64 connections against 64 streams on one); and what it costs to begin, from
 * nothing to the 64th answer.
 *
 * This machine's loopback has no latency and loses nothing.  What a round trip
 * more or a lost packet would do is not seen here.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <unistd.h>

#include "floor.h"
#include "process.h"
#include "rounds.h"

#define ROUNDS		60
#define CALLS		250
#define MULTI_CALLS 1000
#define IN_FLIGHT	64

enum version
{
	HTTP_1_1,
	HTTP_2,
	VERSION_COUNT
};

static const char *const names[VERSION_COUNT] = {"1.1", "2"};

static void
print_both(const char *name, const struct series *series, const char *unit)
{
	char metric[100];

	snprintf(metric, sizeof(metric), "http2_%s_http1", name);
	print_metric(metric, series_median(&series[HTTP_1_1]), unit);
	snprintf(metric, sizeof(metric), "http2_%s_http2", name);
	print_metric(metric, series_median(&series[HTTP_2]), unit);
}

int
main(void)
{
	static struct target targets[VERSION_COUNT];
	static struct floor one[VERSION_COUNT];
	struct floor_multi *many[VERSION_COUNT];
	static struct series sync_us[VERSION_COUNT], sync_cpu[VERSION_COUNT],
		multi_rate[VERSION_COUNT], multi_cpu[VERSION_COUNT],
		begin_ms[VERSION_COUNT], begin_cpu[VERSION_COUNT], ratios;
	long connections[VERSION_COUNT] = {0};

	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	for (int i = 0; i < VERSION_COUNT; i++)
	{
		targets[i] = request_configure();
		targets[i].http_version = i == HTTP_2 ? CURL_HTTP_VERSION_2TLS
											  : CURL_HTTP_VERSION_1_1;
		floor_open(&one[i], &targets[i]);
		floor_run(&one[i], CALLS);
		many[i] = floor_multi_open(&targets[i], IN_FLIGHT);
		floor_multi_run(many[i], MULTI_CALLS);
	}

	printf("%d rounds with HTTP/1.1 and HTTP/2: %d calls one after another,\n"
		   "%d calls %d in flight, %d calls on new connections.\n",
		   ROUNDS, CALLS, MULTI_CALLS, IN_FLIGHT, IN_FLIGHT);
	for (int round = 0; round < ROUNDS; round++)
	{
		double cpu;

		for (int i = 0; i < VERSION_COUNT; i++)
		{
			cpu = process_cpu(getpid());
			series_add(&sync_us[i], floor_run(&one[i], CALLS) * 1e6 / CALLS);
			series_add(&sync_cpu[i],
					   (process_cpu(getpid()) - cpu) * 1e6 / CALLS);
		}
		for (int i = 0; i < VERSION_COUNT; i++)
		{
			cpu = process_cpu(getpid());
			series_add(&multi_rate[i],
					   MULTI_CALLS / floor_multi_run(many[i], MULTI_CALLS));
			series_add(&multi_cpu[i],
					   (process_cpu(getpid()) - cpu) * 1e6 / MULTI_CALLS);
		}
		for (int i = 0; i < VERSION_COUNT; i++)
		{
			struct floor_multi *fresh = floor_multi_open(&targets[i],
														 IN_FLIGHT);

			cpu = process_cpu(getpid());
			series_add(&begin_ms[i], floor_multi_run(fresh, IN_FLIGHT) * 1e3);
			series_add(&begin_cpu[i], (process_cpu(getpid()) - cpu) * 1e3);
			connections[i] = floor_multi_connections(fresh);
			floor_multi_close(fresh);
		}
		if ((round + 1) % (ROUNDS / 6) == 0)
		{
			printf("  %2d rounds", round + 1);
			for (int i = 0; i < VERSION_COUNT; i++)
				printf("; HTTP/%s %.1f us, %.0f/s, %.1f ms", names[i],
					   series_median(&sync_us[i]),
					   series_median(&multi_rate[i]),
					   series_median(&begin_ms[i]));
			printf("\n");
			fflush(stdout);
		}
	}
	for (int i = 0; i < VERSION_COUNT; i++)
	{
		printf("HTTP/%s had %ld connection%s with %d in flight\n", names[i],
			   connections[i], connections[i] == 1 ? "" : "s", IN_FLIGHT);
		floor_close(&one[i]);
		floor_multi_close(many[i]);
	}

	printf("\nRatios are time with HTTP/2 against time with HTTP/1.1.\n\n");
	print_both("sync", sync_us, "us");
	print_both("sync_cpu", sync_cpu, "us");
	print_both("multi", multi_rate, "calls/s");
	print_both("multi_cpu", multi_cpu, "us");
	print_both("begin", begin_ms, "ms");
	print_both("begin_cpu", begin_cpu, "ms");
	series_divide(&sync_us[HTTP_2], &sync_us[HTTP_1_1], &ratios);
	print_ratios("http2_sync_ratio", &ratios);
	series_divide(&multi_rate[HTTP_1_1], &multi_rate[HTTP_2], &ratios);
	print_ratios("http2_multi_ratio", &ratios);
	series_divide(&begin_ms[HTTP_2], &begin_ms[HTTP_1_1], &ratios);
	print_ratios("http2_begin_ratio", &ratios);
	curl_global_cleanup();
	return 0;
}
