/*-------------------------------------------------------------------------
 *
 * monitor.c
 *		SQL functions that show the counters.
 *
 * A row for each method, also for those that were never asked: whoever draws
 * a rate needs the zero it began with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "src/client/api.h"
#include "src/client/stats.h"

PG_FUNCTION_INFO_V1(tegro_stat_counters);
PG_FUNCTION_INFO_V1(tegro_stat_reset);

/* Columns of tegro_stat_counters(). */
#define N_COLUMNS 23

static Datum
bounds(void)
{
	Datum values[TEGRO_STATS_BOUNDS];

	for (int i = 0; i < TEGRO_STATS_BOUNDS; i++)
		values[i] = Float8GetDatum(tegro_stats_bounds_ms[i]);
	return PointerGetDatum(construct_array(values, TEGRO_STATS_BOUNDS,
										   FLOAT8OID, sizeof(float8),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* How many took no longer than each bound. */
static Datum
cumulated(const uint64 *buckets)
{
	Datum values[TEGRO_STATS_BOUNDS];
	uint64 sum = 0;

	for (int i = 0; i < TEGRO_STATS_BOUNDS; i++)
	{
		sum += buckets[i];
		values[i] = Int64GetDatum((int64) sum);
	}
	return PointerGetDatum(construct_array(values, TEGRO_STATS_BOUNDS, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/*
 * tegro_stat_counters() returns table (...): see the view tegro_stat
 */
Datum
tegro_stat_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int method = 0; method < TEGRO_STATS_METHODS; method++)
	{
		const char *name = tegro_method_name(method);
		uint64 counters[TEGRO_N_COUNTERS];
		uint64 requests;
		Datum values[N_COLUMNS];
		bool nulls[N_COLUMNS] = {false};
		int n = 0;

		if (name == NULL)
			continue;
		tegro_stats_read(method, counters);
		requests = counters[TEGRO_COUNT_CANCELLED];
		for (int i = TEGRO_COUNT_RESULTS; i < TEGRO_COUNT_BUCKETS; i++)
			requests += counters[i];

		values[n++] = CStringGetTextDatum(name);
		values[n++] = Int64GetDatum(
			(int64) (requests - counters[TEGRO_COUNT_REPEATED]));
		values[n++] = Int64GetDatum((int64) requests);
		values[n++] = Int64GetDatum((int64) counters[TEGRO_COUNT_REPEATED]);
		for (int i = TEGRO_COUNT_RESULTS; i < TEGRO_COUNT_BUCKETS; i++)
			values[n++] = Int64GetDatum((int64) counters[i]);
		for (int i = TEGRO_COUNT_CANCELLED; i <= TEGRO_COUNT_BYTES_RECEIVED;
			 i++)
			values[n++] = Int64GetDatum((int64) counters[i]);
		for (int i = TEGRO_COUNT_NAME_LOOKUP_US; i <= TEGRO_COUNT_TOTAL_US;
			 i++)
			values[n++] = Float8GetDatum((double) counters[i] / 1000);
		values[n++] = bounds();
		values[n++] = cumulated(counters + TEGRO_COUNT_BUCKETS);
		values[n++] = TimestampTzGetDatum(tegro_stats_since());
		Assert(n == N_COLUMNS);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

/*
 * tegro_stat_reset()
 */
Datum
tegro_stat_reset(PG_FUNCTION_ARGS)
{
	tegro_stats_reset();
	PG_RETURN_VOID();
}
