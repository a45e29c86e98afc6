/*-------------------------------------------------------------------------
 *
 * stats.c
 *		Counters of what was asked of the provider, and how long it took.
 *
 * Every request is counted where it ends, by its method, in memory that all
 * processes of the server share: sessions and workers, of all databases.
 *
 * A call has 2 to 3 us for all that is done for it here.  So the counters are
 * atomic, nobody takes a lock, what is zero is not added (a connection that is
 * kept alive has no name lookup, no TLS), and what can be had by adding up,
 * such as the number of requests, has no counter of its own.  One request is
 * six additions.  Each method has cache lines of its own.
 *
 * They begin at zero when the server starts, also after a crash.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "utils/timestamp.h"

#include "src/base/shmem.h"
#include "src/client/stats.h"

/* Two cache lines: the hardware fetches them in pairs. */
#define LINE_BYTES 128

/* A method's counters, a whole number of those. */
#define ROW_BYTES TYPEALIGN(LINE_BYTES, TEGRO_N_COUNTERS * sizeof(uint64))

typedef union StatsRow
{
	pg_atomic_uint64 counters[TEGRO_N_COUNTERS];
	char padding[ROW_BYTES];
} StatsRow;

typedef struct Stats
{
	StatsRow rows[TEGRO_STATS_METHODS];
	pg_atomic_uint64 since; /* a TimestampTz */
} Stats;

/* From what a server next door takes to the longest that anyone waits. */
const double tegro_stats_bounds_ms[TEGRO_STATS_BOUNDS] = {1,	 2.5,	5,
														  10,	 25,	50,
														  100,	 250,	500,
														  1000,	 2500,	5000,
														  10000, 30000, 60000};

static Stats *stats = NULL;

static void
init(void *area)
{
	Stats *memory = area;

	for (int i = 0; i < TEGRO_STATS_METHODS; i++)
	{
		for (int j = 0; j < TEGRO_N_COUNTERS; j++)
			pg_atomic_init_u64(&memory->rows[i].counters[j], 0);
	}
	pg_atomic_init_u64(&memory->since, (uint64) GetCurrentTimestamp());
}

void
tegro_stats_request_shmem(void)
{
	StaticAssertStmt(sizeof(StatsRow) % LINE_BYTES == 0,
					 "methods share cache lines");
	tegro_shmem_request("tegro counters", sizeof(Stats), (void **) &stats,
						init);
}

static inline void
add(int method, int counter, int64 amount)
{
	Assert(method >= 0 && method < TEGRO_STATS_METHODS);
	Assert(counter >= 0 && counter < TEGRO_N_COUNTERS);
	if (amount > 0)
		(void) pg_atomic_fetch_add_u64(&stats->rows[method].counters[counter],
									   amount);
}

void
tegro_stats_count(int method, const TegroExchange *exchange,
				  TegroResult result, bool repeated)
{
	int64 total_us = exchange->total_us;
	int64 phase_us = 0; /* when the last phase ended */
	int bucket = 0;

	Assert(exchange->end != TEGRO_EXCHANGE_OPEN);
	Assert(total_us >= 0);
	add(method, TEGRO_COUNT_RESULTS + result, 1);
	add(method, TEGRO_COUNT_REPEATED, repeated);
	if (exchange->handed_over)
		add(method, TEGRO_COUNT_BYTES_SENT,
			(int64) exchange->request.body_len);
	add(method, TEGRO_COUNT_BYTES_RECEIVED, (int64) exchange->answer_len);

	/* the phase in which it failed takes all that was left */
	if (!exchange->kept_alive)
	{
		bool failed = !exchange->handed_over;
		int64 end_us = exchange->name_lookup_us;

		if (failed && end_us == 0 && !exchange->connected)
			end_us = total_us;
		add(method, TEGRO_COUNT_NAME_LOOKUP_US, end_us);
		phase_us = end_us;

		end_us = exchange->connect_us;
		if (failed && !exchange->connected)
			end_us = total_us;
		add(method, TEGRO_COUNT_CONNECT_US, end_us - phase_us);
		phase_us = Max(phase_us, end_us);

		end_us = failed ? total_us : exchange->tls_us;
		add(method, TEGRO_COUNT_TLS_US, end_us - phase_us);
		phase_us = Max(phase_us, end_us);
		add(method, TEGRO_COUNT_CONNECTIONS, exchange->connected);
	}
	if (exchange->handed_over)
		add(method, TEGRO_COUNT_WAIT_US,
			(exchange->first_byte_us > 0 ? exchange->first_byte_us
										 : total_us) -
				phase_us);
	add(method, TEGRO_COUNT_TOTAL_US, total_us);

	while (bucket < TEGRO_STATS_BOUNDS &&
		   (double) total_us > tegro_stats_bounds_ms[bucket] * 1000)
		bucket++;
	add(method, TEGRO_COUNT_BUCKETS + bucket, 1);
}

void
tegro_stats_count_cancelled(int method, bool repeated)
{
	add(method, TEGRO_COUNT_CANCELLED, 1);
	add(method, TEGRO_COUNT_REPEATED, repeated);
}

void
tegro_stats_read(int method, uint64 counters[TEGRO_N_COUNTERS])
{
	Assert(method >= 0 && method < TEGRO_STATS_METHODS);
	for (int i = 0; i < TEGRO_N_COUNTERS; i++)
		counters[i] = pg_atomic_read_u64(&stats->rows[method].counters[i]);
}

void
tegro_stats_reset(void)
{
	for (int i = 0; i < TEGRO_STATS_METHODS; i++)
	{
		for (int j = 0; j < TEGRO_N_COUNTERS; j++)
			pg_atomic_write_u64(&stats->rows[i].counters[j], 0);
	}
	pg_atomic_write_u64(&stats->since, (uint64) GetCurrentTimestamp());
}

TimestampTz
tegro_stats_since(void)
{
	return (TimestampTz) pg_atomic_read_u64(&stats->since);
}
