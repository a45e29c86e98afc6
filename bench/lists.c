/*-------------------------------------------------------------------------
 *
 * lists.c
 *		A list of the provider's, read through a foreign table: pages ahead
 *		against one page after another.
 *
 * Use:	lists MS	the sandbox answers MS milliseconds later
 *
 * The list has 10,000 orders, a hundred to a page.  Both ways are the same
 * query in the same session; one page after another is what it is with
 * tegro.max_concurrency = 1.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "request.h"
#include "rounds.h"
#include "session.h"

#define ORDERS 10000

/* Seconds that a query takes, which has to find so many rows. */
static double
run(PGconn *session, const char *sql, double rows)
{
	int64_t start_us = now_us();

	if (session_number(session, "%s", sql) != rows)
		fail("not as many rows as there are: %s", sql);
	return (double) (now_us() - start_us) / 1e6;
}

static void
prepare(PGconn *session)
{
	session_execute(session,
					"CREATE SERVER bench FOREIGN DATA WRAPPER tegro_fdw");
	session_execute(session, "CREATE SCHEMA bench");
	session_execute(session,
					"IMPORT FOREIGN SCHEMA tegro FROM SERVER bench INTO bench");
	session_execute(session, "SET jit = off");
	session_execute(session, "SET tegro.max_concurrency = 500");
	if (session_number(session,
					   "SELECT count(answer) FROM tegro_batch('createOrder', (SELECT array_agg(jsonb_build_object('order_id', i::text, 'currency', 'RUB', 'amount', i)) FROM generate_series(1, %d) i))",
					   ORDERS) != ORDERS)
		fail("not all orders were made");
	session_execute(session, "RESET tegro.max_concurrency");
}

int
main(int argc, char **argv)
{
	const int rounds = 9;
	PGconn *session = session_open();
	static struct series alone, ahead, known, few, one, ratios, known_ratios;
	double latency_s;

	if (argc != 2)
		fail("use: lists MS");
	latency_s = (double) read_number("MS", argv[1]) / 1e3;
	prepare(session);
	printf("%d orders, 100 to a page, %.0f ms each: one page after another ideally %.3f s.\n",
		   ORDERS, latency_s * 1e3, (ORDERS / 100.0 + 1) * latency_s);
	for (int round = 0; round < rounds; round++)
	{
		/* in a new session, so that connections are opened first */
		PQfinish(session);
		session = session_open();
		session_execute(session, "SET jit = off");
		series_add(&ahead,
				   run(session, "SELECT count(amount) FROM bench.orders",
					   ORDERS));
		session_execute(session, "ANALYZE bench.orders");
		series_add(&known,
				   run(session, "SELECT count(amount) FROM bench.orders",
					   ORDERS));
		series_add(&few,
				   run(session,
					   "SELECT count(*) FROM (SELECT FROM bench.orders LIMIT 10) o",
					   10));
		series_add(&one,
				   run(session,
					   "SELECT count(*) FROM bench.orders WHERE payment_id = '77'",
					   1));
		session_execute(session,
						"UPDATE pg_class SET reltuples = -1 WHERE oid = 'bench.orders'::regclass");
		session_execute(session, "SET tegro.max_concurrency = 1");
		series_add(&alone,
				   run(session, "SELECT count(amount) FROM bench.orders",
					   ORDERS));
		printf("  round %d: one after another %.3f s, ahead %.3f s, after ANALYZE %.3f s\n",
			   round + 1, alone.values[round], ahead.values[round],
			   known.values[round]);
		fflush(stdout);
	}
	printf("\n");
	print_metric("lists_one_by_one", series_median(&alone), "s");
	print_metric("lists", series_median(&ahead), "s");
	print_metric("lists_analyzed", series_median(&known), "s");
	series_divide(&alone, &ahead, &ratios);
	print_ratios("lists_speedup", &ratios);
	series_divide(&alone, &known, &known_ratios);
	print_ratios("lists_analyzed_speedup", &known_ratios);
	print_metric("lists_limit_10", series_median(&few) * 1e3, "ms");
	print_metric("lists_lookup", series_median(&one) * 1e3, "ms");
	PQfinish(session);
	return 0;
}
