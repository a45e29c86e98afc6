/*-------------------------------------------------------------------------
 *
 * floor.h
 *		What calls cost with bare libcurl: one after another, and many at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "request.h"

/* One handle, one connection. */
struct floor
{
	const struct target *target;
	struct request request;
};

void floor_open(struct floor *floor, const struct target *target);

/* Makes calls one after another; returns the seconds that they took. */
double floor_run(struct floor *floor, long calls);

void floor_close(struct floor *floor);

/* Many handles, and as many connections as HTTP's version needs. */
struct floor_multi;

struct floor_multi *floor_multi_open(const struct target *target,
									 long in_flight);

/*
 * Makes calls, as many at once as were opened; returns the seconds that they
 * took.
 */
double floor_multi_run(struct floor_multi *floor, long calls);

/* The connections that it has opened so far. */
long floor_multi_connections(const struct floor_multi *floor);

void floor_multi_close(struct floor_multi *floor);

#endif
