/*-------------------------------------------------------------------------
 *
 * places.c
 *		Ways to make one call after another, measured in turns and in two
 *		places.
 *
 * In two, since two processes that wait for each other on one machine leave
 * the kernel to choose where they run, and its choice, which is not the same
 * for any two of them, decides more than all else:
 *
 *		apart		the sandbox on the first processor, who calls it on the
 *					second: each waking crosses over, as an answer from another
 *					machine does
 *		together	both on the first: the sum of what they do
 *
 * Time is told twice, too: by the clock, which also has what the sandbox takes,
 * and as time on a processor of the client alone (a backend, or the floor's
 * process), which a busy machine disturbs less.
 *
 *-------------------------------------------------------------------------
 */
#include "places.h"

#include <stdio.h>

#include "process.h"
#include "request.h"
#include "rounds.h"

#define ROUNDS 300

/* Calls until caches and connections are warm. */
#define WARM_UP 500

enum place
{
	PLACE_APART,
	PLACE_TOGETHER,
	PLACE_COUNT
};

static const struct
{
	const char *name;
	const char *suffix; /* of a metric */
	int client;			/* its processor; the sandbox's is 0 */
} places[PLACE_COUNT] = {{"apart", "", 1}, {"together", "_together", 0}};

static const struct way *ways;
static int way_count;
static struct series elapsed[PLACE_COUNT][WAYS_MAX]; /* us a call */
static struct series cpu[PLACE_COUNT][WAYS_MAX];	 /* us a call */

static void
run(const struct way *way, long calls)
{
	if (way->prepare != NULL)
		way->prepare(calls);
	way->run(calls);
}

/* Takes one turn. */
static void
measure(enum place place, int number)
{
	const struct way *way = &ways[number];
	double cpu_before;
	int64_t start_us;

	if (way->prepare != NULL)
		way->prepare(PLACES_CALLS);
	cpu_before = process_cpu(way->pid);
	start_us = now_us();
	way->run(PLACES_CALLS);
	series_add(&elapsed[place][number],
			   (double) (now_us() - start_us) / PLACES_CALLS);
	series_add(&cpu[place][number],
			   (process_cpu(way->pid) - cpu_before) * 1e6 / PLACES_CALLS);
}

/* Takes all turns in one place. */
static void
measure_place(enum place place)
{
	process_pin(process_sandbox(), 0);
	for (int way = 0; way < way_count; way++)
	{
		process_pin(ways[way].pid, places[place].client);
		run(&ways[way], WARM_UP);
	}
	for (int round = 0; round < ROUNDS; round++)
	{
		for (int way = 0; way < way_count; way++)
			measure(place, way);
		if ((round + 1) % (ROUNDS / 5) == 0)
		{
			printf("  %s, %3d rounds: %s %.1f us, %s %.1f us\n",
				   places[place].name, round + 1, ways[0].name,
				   series_median(&elapsed[place][0]), ways[1].name,
				   series_median(&elapsed[place][1]));
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
	for (int way = 0; way < way_count; way++)
		printf("%-10s %9.1f %9.1f %9.1f %9.1f %9.1f\n", ways[way].name,
			   series_median(&elapsed[place][way]),
			   series_quantile(&elapsed[place][way], 0.1),
			   series_min(&elapsed[place][way]),
			   series_median(&cpu[place][way]),
			   series_quantile(&cpu[place][way], 0.1));
}

void
places_measure(const struct way *all, int count)
{
	if (count > WAYS_MAX)
		fail("more than %d ways", WAYS_MAX);
	ways = all;
	way_count = count;
	printf("One call after another: %d rounds of %d calls each way.\n", ROUNDS,
		   PLACES_CALLS);
	fflush(stdout);
	for (int place = 0; place < PLACE_COUNT; place++)
		measure_place((enum place) place);
	for (int place = 0; place < PLACE_COUNT; place++)
		print_table((enum place) place);
	printf(
		"\"tenth\" is the quietest tenth of the rounds; \"floor\" is bare libcurl.\n\n");
}

long
places_calls(void)
{
	return PLACE_COUNT * (WARM_UP + ROUNDS * (long) PLACES_CALLS);
}

void
places_print_times(const char *benchmark)
{
	char name[100];

	for (int place = PLACE_COUNT - 1; place >= 0; place--)
	{
		for (int way = 0; way < way_count; way++)
		{
			snprintf(name, sizeof(name), "%s%s_%s", benchmark,
					 places[place].suffix, ways[way].name);
			print_metric(name, series_median(&elapsed[place][way]), "us");
			snprintf(name, sizeof(name), "%s%s_%s_cpu", benchmark,
					 places[place].suffix, ways[way].name);
			print_metric(name, series_median(&cpu[place][way]), "us");
		}
	}
}

void
places_print_ratio(const char *benchmark, const char *name, int a, int b)
{
	static struct series ratios;
	char metric[100];

	for (int place = PLACE_COUNT - 1; place >= 0; place--)
	{
		snprintf(metric, sizeof(metric), "%s%s%s_quiet_ratio", benchmark,
				 places[place].suffix, name);
		print_metric(metric,
					 series_quantile(&elapsed[place][a], 0.1) /
						 series_quantile(&elapsed[place][b], 0.1),
					 "x");
		snprintf(metric, sizeof(metric), "%s%s%s_ratio", benchmark,
				 places[place].suffix, name);
		series_divide(&elapsed[place][a], &elapsed[place][b], &ratios);
		print_ratios(metric, &ratios);
	}
}
