/*-------------------------------------------------------------------------
 *
 * deliver.c
 *		How fast the worker empties the outbox, against libcurl's multi
 *		interface.
 *
 * Use:	deliver ROUNDS		of 20,000 requests each
 *
 * A backlog is enqueued while delivery is off.  Then the floor sends as many
 * orders; then delivery is turned on.  The worker's time is from its first
 * claim to its last outcome, by the outbox, so it has all that delivery has:
 * the claim and the outcome of each request, written and flushed.
 *
 * Both ways with 64 requests in flight, and with the 32 that are the default:
 * what a round of claims and outcomes costs by itself, a flush above all, is
 * shared by those that are in flight.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <unistd.h>

#include "floor.h"
#include "outbox.h"
#include "process.h"
#include "rounds.h"

#define REQUESTS 20000

/* What was measured with so many in flight. */
struct measure
{
	int in_flight;
	const char *metric;
	struct series floor_rate, floor_cpu, rate, cpu, wal;
};

static struct measure measures[] = {{.in_flight = 64, .metric = "deliver"},
									{.in_flight = OUTBOX_IN_FLIGHT,
									 .metric = "deliver_32"}};

static struct target target;
static struct outbox outbox;
static long failed;

static void
run(struct measure *measure, long rounds)
{
	struct floor_multi *floor = floor_multi_open(&target, measure->in_flight);

	outbox_concurrency(&outbox, measure->in_flight);
	floor_multi_run(floor, 500);
	printf("%ld rounds of %d requests, %d in flight.\n", rounds, REQUESTS,
		   measure->in_flight);
	for (long round = 0; round < rounds; round++)
	{
		struct delivery delivery;
		double before;

		outbox_enqueue(&outbox, REQUESTS);
		before = process_cpu(getpid());
		series_add(&measure->floor_rate,
				   REQUESTS / floor_multi_run(floor, REQUESTS));
		series_add(&measure->floor_cpu,
				   (process_cpu(getpid()) - before) * 1e6 / REQUESTS);
		delivery = outbox_deliver(&outbox);
		series_add(&measure->rate, delivery.rate);
		series_add(&measure->cpu, delivery.cpu);
		series_add(&measure->wal, delivery.wal);
		failed += delivery.failed;
		printf("  round %ld: floor %.0f a second, %.1f us on a processor; worker %.0f a second, %.1f us, %.0f kB, %.0f bytes of WAL\n",
			   round + 1, measure->floor_rate.values[round],
			   measure->floor_cpu.values[round], delivery.rate, delivery.cpu,
			   process_memory(outbox.worker).anonymous, delivery.wal);
		fflush(stdout);
	}
	floor_multi_close(floor);
}

static void
print(const struct measure *measure, const char *what, double value,
	  const char *unit)
{
	char name[100];

	snprintf(name, sizeof(name), "%s_%s", measure->metric, what);
	print_metric(name, value, unit);
}

static void
print_series(const struct measure *measure, const char *what,
			 const struct series *a, const struct series *b)
{
	static struct series ratios;
	char name[100];

	snprintf(name, sizeof(name), "%s_%s", measure->metric, what);
	series_divide(a, b, &ratios);
	print_ratios(name, &ratios);
}

int
main(int argc, char **argv)
{
	struct process_memory first, last;
	long rounds;

	if (argc != 2)
		fail("use: deliver ROUNDS");
	rounds = read_number("ROUNDS", argv[1]);
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure_order();
	outbox_open(&outbox);
	/* until as many connections stand as ever will */
	outbox_concurrency(&outbox, measures[0].in_flight);
	outbox_enqueue(&outbox, REQUESTS);
	outbox_wait(&outbox);
	outbox_switch(&outbox, false);
	first = process_memory(outbox.worker);
	for (int i = 0; i < 2; i++)
		run(&measures[i], rounds);
	last = process_memory(outbox.worker);

	printf("\n");
	for (int i = 1; i >= 0; i--)
	{
		const struct measure *m = &measures[i];

		print(m, "rate", series_median(&m->rate), "requests/s");
		print(m, "floor_rate", series_median(&m->floor_rate), "requests/s");
		/* rate against rate here: 0.5 is half as fast as the floor */
		print_series(m, "ratio", &m->rate, &m->floor_rate);
		print(m, "cpu", series_median(&m->cpu), "us");
		print(m, "floor_cpu", series_median(&m->floor_cpu), "us");
		print_series(m, "cpu_ratio", &m->cpu, &m->floor_cpu);
		print(m, "wal", series_median(&m->wal), "bytes");
	}
	print_metric("deliver_failed", (double) failed, "requests");
	print_metric("deliver_requests", 2.0 * (double) rounds * REQUESTS,
				 "requests");
	print_metric("deliver_memory_growth", last.anonymous - first.anonymous,
				 "kB");
	print_metric("deliver_rss_growth", last.rss - first.rss, "kB");
	print_metric("deliver_descriptors", process_descriptors(outbox.worker),
				 "descriptors");
	outbox_close(&outbox);
	curl_global_cleanup();
	return 0;
}
