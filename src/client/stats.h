/*-------------------------------------------------------------------------
 *
 * stats.h
 *		Counters of what was asked of the provider, and how long it took.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_STATS_H
#define TEGRO_STATS_H

#include "utils/timestamp.h"

#include "src/base/error.h"
#include "src/client/transport.h"

/* Requests the shared memory of this file; called by _PG_init. */
extern void tegro_stats_request_shmem(void);

/* Methods that are counted apart; the last takes all others. */
#define TEGRO_STATS_METHODS 16

/* Upper bounds of the histogram's buckets; beyond is one more. */
#define TEGRO_STATS_BOUNDS 15
extern const double tegro_stats_bounds_ms[TEGRO_STATS_BOUNDS];

/* What is counted of a method. */
typedef enum TegroCounter
{
	TEGRO_COUNT_REPEATED,	 /* requests that were not a call's first */
	TEGRO_COUNT_CANCELLED,	 /* ... that nobody waited for to their end */
	TEGRO_COUNT_CONNECTIONS, /* ... that opened a connection */
	TEGRO_COUNT_BYTES_SENT,	 /* of bodies */
	TEGRO_COUNT_BYTES_RECEIVED,
	TEGRO_COUNT_NAME_LOOKUP_US,
	TEGRO_COUNT_CONNECT_US,
	TEGRO_COUNT_TLS_US,
	TEGRO_COUNT_WAIT_US, /* from the request to the first byte */
	TEGRO_COUNT_TOTAL_US,
	TEGRO_COUNT_RESULTS, /* one for each TegroResult */
	TEGRO_COUNT_BUCKETS = TEGRO_COUNT_RESULTS + TEGRO_MISCONFIGURED + 1,
	TEGRO_N_COUNTERS = TEGRO_COUNT_BUCKETS + TEGRO_STATS_BOUNDS + 1
} TegroCounter;

/*
 * Counts a request that has ended.  Never throws, takes no lock.
 *
 * method: its number, below TEGRO_STATS_METHODS.  repeated: the call has had
 * another before.
 */
extern void tegro_stats_count(int method, const TegroExchange *exchange,
							  TegroResult result, bool repeated);

/* Counts a request that was given up before it ended, by a cancel for example. */
extern void tegro_stats_count_cancelled(int method, bool repeated);

/*
 * The counters of a method, as they are now; each is right, though a request
 * that ends meanwhile may be in some of them and not yet in others.
 */
extern void tegro_stats_read(int method, uint64 counters[TEGRO_N_COUNTERS]);

/* Sets all back to zero. */
extern void tegro_stats_reset(void);

/* When they were zero: at the server's start, or the last reset. */
extern TimestampTz tegro_stats_since(void);

#endif /* TEGRO_STATS_H */
