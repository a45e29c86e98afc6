/*-------------------------------------------------------------------------
 *
 * places.h
 *		Ways to make one call after another, measured in turns and in two
 *		places.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_PLACES_H
#define BENCH_PLACES_H

#include <sys/types.h>

/* What the ways of a benchmark must share: turns of some 10 ms. */
#define PLACES_CALLS 100

/* More than any benchmark compares. */
#define WAYS_MAX 4

struct way
{
	const char *name;

	/* Makes so many calls; ends the program unless all are answered. */
	void (*run)(long calls);

	/* If not NULL: what must be done before a run, and is not measured. */
	void (*prepare)(long calls);

	pid_t pid; /* who makes the calls */
};

/* Measures all these ways in turns, in each place, and prints a table. */
void places_measure(const struct way *all, int count);

/* The calls that each way has made. */
long places_calls(void);

/*
 * Prints as results, for each place, the time that each way took:
 * BENCHMARK[_together]_WAY and ..._cpu.
 */
void places_print_times(const char *benchmark);

/*
 * The same for the ratio of two ways, by their numbers:
 * BENCHMARK[_together]NAME_ratio and so on, NAME being empty or "_...".
 */
void places_print_ratio(const char *benchmark, const char *name, int a, int b);

#endif
