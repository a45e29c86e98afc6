/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		Orders that are put into the outbox, and the worker that delivers them.
 *
 *-------------------------------------------------------------------------
 */
#include "outbox.h"

#include <stdio.h>
#include <unistd.h>

#include "process.h"
#include "request.h"

/* Enough that all connections are opened and all plans made. */
#define WARM_UP 500

/* Longer than any benchmark takes: the worker must not go away in between. */
#define WORKER_IDLE "'1h'"

/* How long one waits for the end of a delivery, and how often one looks. */
#define PATIENCE_US (600 * INT64_C(1000000))
#define LOOK_US		20000

double
outbox_wal(struct outbox *outbox)
{
	return session_number(outbox->session,
						  "SELECT pg_current_wal_insert_lsn() - '0/0'");
}

/* The worker begins as soon as delivery is on: that is not waited for. */
void
outbox_switch(struct outbox *outbox, bool on)
{
	if (on)
	{
		session_execute(outbox->session,
						"ALTER SYSTEM SET tegro.delivery = on");
		session_execute(outbox->session, "SELECT pg_reload_conf()");
	}
	else
		session_set_server(outbox->session, "tegro.delivery", "off");
}

void
outbox_concurrency(struct outbox *outbox, int in_flight)
{
	char value[20];

	snprintf(value, sizeof(value), "%d", in_flight);
	session_set_server(outbox->session, "tegro.max_concurrency", value);
}

void
outbox_open(struct outbox *outbox)
{
	*outbox = (struct outbox){.session = session_open()};
	session_execute(outbox->session, "SET jit = off");
	outbox_concurrency(outbox, OUTBOX_IN_FLIGHT);
	session_set_server(outbox->session, "tegro.delivery", "on");
	session_set_server(outbox->session, "tegro.worker_idle_timeout",
					   WORKER_IDLE);
	outbox_enqueue(outbox, WARM_UP);
	outbox_wait(outbox);
	outbox->worker = (pid_t)
		session_number(outbox->session,
					   "SELECT pid FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'"
					   " AND datname = current_database()");
}

void
outbox_close(struct outbox *outbox)
{
	PQfinish(outbox->session);
}

void
outbox_enqueue(struct outbox *outbox, long count)
{
	if (session_number(outbox->session,
					   "SELECT count(tegro_enqueue('createOrder', jsonb_build_object("
					   "'order_id', 'T-' || lpad(i::text, 8, '0'), 'currency', 'RUB', 'amount', 100.50)))"
					   " FROM generate_series(%ld::bigint, %ld) i",
					   outbox->orders + 1,
					   outbox->orders + count) != (double) count)
		fail("not as many requests as were enqueued");
	outbox->orders += count;
}

/*
 * Looks at the last request alone until that is finished, which costs next to
 * nothing; then at all.
 */
void
outbox_wait(struct outbox *outbox)
{
	int64_t until_us = now_us() + PATIENCE_US;
	double last =
		session_number(outbox->session,
					   "SELECT id FROM tegro_outbox WHERE shop_id = current_setting('tegro.shop_id')"
					   " AND method = 'createOrder' AND reference = 'T-%08ld'",
					   outbox->orders);

	while (
		session_number(outbox->session,
					   "SELECT (next_at IS NOT NULL)::int FROM tegro_outbox WHERE id = %.0f",
					   last) != 0 ||
		session_number(outbox->session,
					   "SELECT count(*) FROM (SELECT FROM tegro_outbox WHERE next_at IS NOT NULL LIMIT 1) waiting") !=
			0)
	{
		if (now_us() > until_us)
			fail("requests still wait in the outbox");
		usleep(LOOK_US);
	}
	outbox->delivered = outbox->orders;
}

/* An aggregate over the requests from that number on, and their attempts. */
static double
of_orders(struct outbox *outbox, long first_id, const char *what)
{
	return session_number(outbox->session,
						  "SELECT %s FROM tegro_outbox o JOIN tegro_event a ON a.outbox_id = o.id"
						  " WHERE a.event = 'send' AND o.id >= %ld AND a.outbox_id >= %ld",
						  what, first_id, first_id);
}

struct delivery
outbox_deliver(struct outbox *outbox)
{
	long count = outbox->orders - outbox->delivered;
	long first_id = (long)
		session_number(outbox->session,
					   "SELECT id FROM tegro_outbox WHERE shop_id = current_setting('tegro.shop_id')"
					   " AND method = 'createOrder' AND reference = 'T-%08ld'",
					   outbox->delivered + 1);
	double before = process_cpu(outbox->worker);
	double wal = outbox_wal(outbox);
	struct delivery delivery;

	outbox_switch(outbox, true);
	outbox_wait(outbox);
	delivery.wal = (outbox_wal(outbox) - wal) / (double) count;
	delivery.cpu = (process_cpu(outbox->worker) - before) * 1e6 /
		(double) count;
	outbox_switch(outbox, false);
	delivery.rate = (double) count /
		of_orders(outbox, first_id,
				  "extract(epoch FROM max(o.finished_at) - min(a.started_at))");
	delivery.failed = count -
		(long)
			of_orders(outbox, first_id,
					  "count(*) FILTER (WHERE o.state = 'accepted' AND o.attempts = 1)");
	return delivery;
}
