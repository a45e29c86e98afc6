/*-------------------------------------------------------------------------
 *
 * rounds.h
 *		Measurements that are taken in turns, and what they say together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

/* More rounds than anyone waits for. */
#define ROUNDS_MAX 10000

/* One number a round. */
struct series
{
	int count;
	double values[ROUNDS_MAX];
};

void series_add(struct series *series, double value);
double series_median(const struct series *series);
double series_min(const struct series *series);
double series_max(const struct series *series);

/* The value below which "share" of the others lie: 0.1 is the lowest tenth. */
double series_quantile(const struct series *series, double share);

/* Fills "ratios" with a / b, round by round. */
void series_divide(const struct series *a, const struct series *b,
				   struct series *ratios);

/*
 * Prints a result, in the form that every benchmark ends with: a line
 * "metric value unit".
 */
void print_metric(const char *metric, double value, const char *unit);

/*
 * Prints a series of ratios as three results: NAME the median, NAME_min and
 * NAME_max.
 */
void print_ratios(const char *name, const struct series *ratios);

#endif
