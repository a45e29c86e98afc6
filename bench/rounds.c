/*-------------------------------------------------------------------------
 *
 * rounds.c
 *		Measurements that are taken in turns, and what they say together.
 *
 * A machine does other things too, and they come and go within seconds.  So
 * what is compared is measured in short turns, A B A B ..., and the ratio is
 * taken within each round, where both had about the same neighbours.  The
 * median of the ratios is the result; the smallest and the largest say how
 * quiet it was.
 *
 *-------------------------------------------------------------------------
 */
#include "rounds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "request.h"

void
series_add(struct series *series, double value)
{
	if (series->count == ROUNDS_MAX)
		fail("more than %d rounds", ROUNDS_MAX);
	series->values[series->count++] = value;
}

static int
compare(const void *left, const void *right)
{
	double a = *(const double *) left;
	double b = *(const double *) right;

	return (a > b) - (a < b);
}

double
series_quantile(const struct series *series, double share)
{
	static double sorted[ROUNDS_MAX];
	double place;
	int below;

	if (series->count == 0)
		fail("no rounds");
	memcpy(sorted, series->values, (size_t) series->count * sizeof(double));
	qsort(sorted, (size_t) series->count, sizeof(double), compare);

	/* between two values, in proportion */
	place = share * (series->count - 1);
	below = (int) place;
	if (below + 1 >= series->count)
		return sorted[series->count - 1];
	return sorted[below] +
		(place - below) * (sorted[below + 1] - sorted[below]);
}

double
series_median(const struct series *series)
{
	return series_quantile(series, 0.5);
}

double
series_min(const struct series *series)
{
	return series_quantile(series, 0);
}

double
series_max(const struct series *series)
{
	return series_quantile(series, 1);
}

void
series_divide(const struct series *a, const struct series *b,
			  struct series *ratios)
{
	ratios->count = 0;
	for (int i = 0; i < a->count && i < b->count; i++)
		series_add(ratios, a->values[i] / b->values[i]);
}

void
print_metric(const char *metric, double value, const char *unit)
{
	/* four digits, without an exponent */
	int decimals = value >= 1000 ? 0 : value >= 100 ? 1 : value >= 10 ? 2 : 3;

	printf("%s %.*f %s\n", metric, decimals, value, unit);
}

void
print_ratios(const char *name, const struct series *ratios)
{
	char metric[100];

	print_metric(name, series_median(ratios), "x");
	snprintf(metric, sizeof(metric), "%s_min", name);
	print_metric(metric, series_min(ratios), "x");
	snprintf(metric, sizeof(metric), "%s_max", name);
	print_metric(metric, series_max(ratios), "x");
}
