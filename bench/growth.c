/*-------------------------------------------------------------------------
 *
 * growth.c
 *		Whether delivery slows down with what lies in the outbox.
 *
 * Use:	growth [BACKLOG]	20,000 unless told
 *
 * History: two databases, one with 3,000,000 finished requests and their
 * attempts.  Each delivers 2,000, in turns.
 *
 * Snapshot: a backlog is delivered while a transaction elsewhere holds a
 * snapshot that was taken before, so that no dead row or index entry can be
 * removed; and as much without it, in turns.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>

#include "outbox.h"
#include "request.h"
#include "rounds.h"

#define HISTORY			3000000
#define HISTORY_ROUNDS	7
#define HISTORY_ORDERS	2000
#define SNAPSHOT_ROUNDS 3
#define BACKLOG			20000

/* Another database, with the extension; the environment names it then. */
static void
create_database(const char *name)
{
	PGconn *session = session_open();
	char sql[100];

	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
	session_execute(session, sql);
	PQfinish(session);
	setenv("PGDATABASE", name, 1);
	session = session_open();
	session_execute(session, "CREATE EXTENSION tegro");
	PQfinish(session);
}

/* Fills the outbox with what looks as if it was delivered over a year. */
static void
fill(struct outbox *outbox)
{
	char sql[2000];
	int64_t start_us = now_us();

	printf("Filling an outbox; that takes minutes.\n");
	fflush(stdout);
	snprintf(sql, sizeof(sql),
			 "INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, claim_no, sent_claim_no,"
			 " events, attempts, enqueued_by, enqueued_at, finished_at, origin, answer)"
			 " SELECT o.shop_id, o.method, 'H-' || lpad(i::text, 8, '0'), o.params, o.state, NULL, 1, 1,"
			 " 1, 1, o.enqueued_by, at, at + interval '100 ms', o.origin, o.answer"
			 " FROM (SELECT * FROM tegro_outbox WHERE state = 'accepted' LIMIT 1) o, generate_series(1, %d) i,"
			 " LATERAL (SELECT now() - interval '1 year' + i * interval '10 s') past (at)",
			 HISTORY);
	session_execute(outbox->session, sql);
	session_execute(outbox->session,
					"INSERT INTO tegro_event (event, event_no, state, outbox_id, claim_no, nonce, body_sha256, started_at, ended_at, outcome, http_status)"
					" SELECT 'send', 1, state, id, 1, id, sha256(int8send(id)), enqueued_at, finished_at, 'answered', 200"
					" FROM tegro_outbox WHERE reference LIKE 'H-%' ORDER BY id");
	session_execute(outbox->session,
					"VACUUM (ANALYZE) tegro_outbox, tegro_event");
	session_execute(outbox->session, "CHECKPOINT");
	printf("Filled in %.0f s; the outbox has %.0f MB.\n",
		   (double) (now_us() - start_us) / 1e6,
		   session_number(outbox->session,
						  "SELECT (pg_total_relation_size('tegro_outbox') + pg_total_relation_size('tegro_event')) / 1048576.0"));
	fflush(stdout);
}

static void
deliver(struct outbox *outbox, long count, struct series *rate,
		struct series *cpu)
{
	struct delivery delivery;

	outbox_enqueue(outbox, count);
	delivery = outbox_deliver(outbox);
	if (delivery.failed > 0)
		fail("%ld requests were not done at the first attempt",
			 delivery.failed);
	series_add(rate, delivery.rate);
	series_add(cpu, delivery.cpu);
}

static void
measure_history(struct outbox *empty, struct outbox *full)
{
	static struct series empty_rate, empty_cpu, rate, cpu, ratios, cpu_ratios;

	printf("%d rounds of %d requests, beside %d old ones and beside none.\n",
		   HISTORY_ROUNDS, HISTORY_ORDERS, HISTORY);
	for (int round = 0; round < HISTORY_ROUNDS; round++)
	{
		deliver(empty, HISTORY_ORDERS, &empty_rate, &empty_cpu);
		deliver(full, HISTORY_ORDERS, &rate, &cpu);
		printf("  round %d: empty %.0f a second, %.1f us on a processor; full %.0f a second, %.1f us\n",
			   round + 1, empty_rate.values[round], empty_cpu.values[round],
			   rate.values[round], cpu.values[round]);
		fflush(stdout);
	}
	printf("\n");
	print_metric("growth_empty_rate", series_median(&empty_rate),
				 "requests/s");
	print_metric("growth_history_rate", series_median(&rate), "requests/s");
	series_divide(&rate, &empty_rate, &ratios);
	print_ratios("growth_history_ratio", &ratios);
	print_metric("growth_empty_cpu", series_median(&empty_cpu), "us");
	print_metric("growth_history_cpu", series_median(&cpu), "us");
	series_divide(&cpu, &empty_cpu, &cpu_ratios);
	print_ratios("growth_history_cpu_ratio", &cpu_ratios);
}

/* So that both kinds of turns begin alike. */
static void
clean(struct outbox *outbox)
{
	session_execute(outbox->session,
					"VACUUM (ANALYZE) tegro_outbox, tegro_event");
}

static void
measure_snapshot(struct outbox *outbox, long backlog)
{
	static struct series free_rate, free_cpu, rate, cpu, ratios, cpu_ratios;
	PGconn *holder;

	/* what another database's snapshot sees does not matter in this one */
	setenv("PGDATABASE", PQdb(outbox->session), 1);
	holder = session_open();

	printf("\n%d rounds of a backlog of %ld, without and with a snapshot held open.\n",
		   SNAPSHOT_ROUNDS, backlog);
	for (int round = 0; round < SNAPSHOT_ROUNDS; round++)
	{
		clean(outbox);
		deliver(outbox, backlog, &free_rate, &free_cpu);
		clean(outbox);
		session_execute(holder, "BEGIN ISOLATION LEVEL REPEATABLE READ");
		session_execute(holder, "SELECT 1");
		deliver(outbox, backlog, &rate, &cpu);
		session_execute(holder, "COMMIT");
		printf("  round %d: without %.0f a second, %.1f us on a processor; with %.0f a second, %.1f us\n",
			   round + 1, free_rate.values[round], free_cpu.values[round],
			   rate.values[round], cpu.values[round]);
		fflush(stdout);
	}
	printf("\n");
	print_metric("growth_free_rate", series_median(&free_rate), "requests/s");
	print_metric("growth_snapshot_rate", series_median(&rate), "requests/s");
	series_divide(&rate, &free_rate, &ratios);
	print_ratios("growth_snapshot_ratio", &ratios);
	print_metric("growth_free_cpu", series_median(&free_cpu), "us");
	print_metric("growth_snapshot_cpu", series_median(&cpu), "us");
	series_divide(&cpu, &free_cpu, &cpu_ratios);
	print_ratios("growth_snapshot_cpu_ratio", &cpu_ratios);
	PQfinish(holder);
}

int
main(int argc, char **argv)
{
	struct outbox empty, full;

	outbox_open(&empty);
	create_database("bench_full");
	outbox_open(&full);
	outbox_switch(&full, false);
	fill(&full);
	measure_history(&empty, &full);
	measure_snapshot(&empty,
					 argc > 1 ? read_number("BACKLOG", argv[1]) : BACKLOG);
	outbox_close(&full);
	outbox_close(&empty);
	return 0;
}
