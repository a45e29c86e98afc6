/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		What tegro_enqueue costs beside an INSERT of the same row.
 *
 * Both in a PL/pgSQL loop, 20,000 in a transaction, in turns.  The table that
 * is compared with has the outbox's columns and defaults, and one index, the
 * primary key; the outbox has more.  Delivery is off.  The commit is not
 * counted: it is the same for both.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "outbox.h"
#include "process.h"
#include "request.h"
#include "rounds.h"

#define ROUNDS 10
#define ROWS   20000

/* The same work beside what is measured. */
#define LOOP(name, statement)                                              \
	"CREATE FUNCTION bench_" name                                          \
	"(first bigint, last bigint) RETURNS void LANGUAGE plpgsql AS $$"      \
	" DECLARE number text; shop text := current_setting('tegro.shop_id');" \
	" origin text := (SELECT 'a server/a database/1/1/' || o.number"       \
	"   || '/an address' FROM tegro_origin AS o);"                         \
	" BEGIN FOR i IN first .. last LOOP"                                   \
	" number := 'E-' || lpad(i::text, 8, '0'); " statement                 \
	"; END LOOP; END $$"
#define PARAMS \
	"jsonb_build_object('order_id', number, 'currency', 'RUB', 'amount', 100.50)"

struct cost
{
	struct series time;
	struct series cpu;
	struct series wal;
};

static void
measure(struct outbox *outbox, const char *name, long first, long rows,
		struct cost *cost)
{
	pid_t backend = PQbackendPID(outbox->session);
	char sql[200];
	int64_t start_us;
	double before;
	double wal = outbox_wal(outbox);

	snprintf(sql, sizeof(sql), "SELECT bench_%s(%ld, %ld)", name, first,
			 first + rows - 1);
	session_execute(outbox->session, "BEGIN");
	before = process_cpu(backend);
	start_us = now_us();
	session_execute(outbox->session, sql);
	if (cost != NULL)
	{
		series_add(&cost->time,
				   (double) (now_us() - start_us) / (double) rows);
		series_add(&cost->cpu,
				   (process_cpu(backend) - before) * 1e6 / (double) rows);
	}
	session_execute(outbox->session, "COMMIT");
	if (cost != NULL)
		series_add(&cost->wal, (outbox_wal(outbox) - wal) / (double) rows);
}

int
main(void)
{
	static struct cost insert, enqueue;
	static struct series ratios;
	struct outbox outbox;

	outbox_open(&outbox);
	outbox_switch(&outbox, false);
	session_execute(outbox.session,
					"CREATE TABLE bench_plain (LIKE tegro_outbox INCLUDING DEFAULTS INCLUDING IDENTITY)");
	session_execute(outbox.session,
					"ALTER TABLE bench_plain ADD PRIMARY KEY (id)");
	session_execute(outbox.session,
					LOOP("enqueue",
						 "PERFORM tegro_enqueue('createOrder', " PARAMS ")"));
	session_execute(outbox.session,
					LOOP("insert",
						 "INSERT INTO bench_plain (shop_id, method, reference, params, enqueued_by, origin)"
						 " VALUES (shop, 'createOrder', number, " PARAMS
						 ", 'postgres'::regrole, origin)"));

	printf("%d rounds of %d rows.\n", ROUNDS, ROWS);
	measure(&outbox, "insert", 1, ROWS / 10, NULL);
	measure(&outbox, "enqueue", 1, ROWS / 10, NULL);
	for (int round = 0; round < ROUNDS; round++)
	{
		long first = (round + 1) * ROWS;

		measure(&outbox, "insert", first, ROWS, &insert);
		measure(&outbox, "enqueue", first, ROWS, &enqueue);
		printf("  round %d: INSERT %.1f us, %.1f on a processor; tegro_enqueue %.1f us, %.1f\n",
			   round + 1, insert.time.values[round], insert.cpu.values[round],
			   enqueue.time.values[round], enqueue.cpu.values[round]);
		fflush(stdout);
	}
	printf("\n");
	print_metric("enqueue_time", series_median(&enqueue.time), "us");
	print_metric("enqueue_insert_time", series_median(&insert.time), "us");
	series_divide(&enqueue.time, &insert.time, &ratios);
	print_ratios("enqueue_ratio", &ratios);
	print_metric("enqueue_cpu", series_median(&enqueue.cpu), "us");
	print_metric("enqueue_insert_cpu", series_median(&insert.cpu), "us");
	series_divide(&enqueue.cpu, &insert.cpu, &ratios);
	print_ratios("enqueue_cpu_ratio", &ratios);
	print_metric("enqueue_wal", series_median(&enqueue.wal), "bytes");
	print_metric("enqueue_insert_wal", series_median(&insert.wal), "bytes");
	outbox_close(&outbox);
	return 0;
}
