/*-------------------------------------------------------------------------
 *
 * page.h
 *		A page of HTML: its frame, its texts, its charts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PAGE_H
#define TEGRO_PAGE_H

#include "lib/stringinfo.h"

/* Series that a chart can have: there is a colour for each. */
#define TEGRO_PAGE_SERIES 3

/* Labels below a chart, the first at its left edge, the last at its right. */
#define TEGRO_PAGE_TICKS 5

/* Bars over time, series upon series. */
typedef struct TegroPageChart
{
	const char *title;
	const char *about; /* a sentence: what is to be seen */
	int nseries;
	const char *names[TEGRO_PAGE_SERIES];
	int nbars;
	const double *values[TEGRO_PAGE_SERIES]; /* one a bar; none below 0 */
	char **bar_names;						 /* of each bar, for its tooltip */
	char *ticks[TEGRO_PAGE_TICKS];
	double least_top; /* the scale ends there or higher */
	bool gaps;		  /* between the bars */
} TegroPageChart;

/*
 * Begins and ends a page.  Everything else goes between.
 */
extern void tegro_page_begin(StringInfo page, const char *title);
extern void tegro_page_end(StringInfo page);

/*
 * Appends a text, in server encoding, that anyone may have written: as
 * nothing but text, whatever is in it, and at most "limit" characters of it.
 * Where "limit" is 0 all of it is shown.
 */
extern void tegro_page_text(StringInfo page, const char *string, int limit);

/* Appends a chart over time. */
extern void tegro_page_chart(StringInfo page, const TegroPageChart *chart);

/*
 * Appends one line of a distribution: its label, a bar as long as "share" (0
 * to 1) of the widest says, and how many there are.
 */
extern void tegro_page_bar(StringInfo page, const char *label, double share,
						   const char *number);

#endif /* TEGRO_PAGE_H */
