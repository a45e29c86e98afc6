/*-------------------------------------------------------------------------
 *
 * deliver.c
 *		How fast the worker empties the outbox, against libcurl's multi
 *		interface.
 *
 * Use:	deliver ROUNDS		of 4,000 requests each
 *
 * A backlog is enqueued while delivery is off.  Then the floor sends as many
 * orders; then delivery is turned on.  The worker's time is from its first
 * claim to its last outcome, by the ledger, so it has all that delivery has:
 * the claim and the outcome of each request, written and flushed.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <unistd.h>

#include "floor.h"
#include "outbox.h"
#include "process.h"
#include "rounds.h"

#define REQUESTS 4000

int
main(int argc, char **argv)
{
	static struct series floor_rate, floor_cpu, rate, cpu, ratios, cpu_ratios;
	struct target target;
	struct floor_multi *floor;
	struct outbox outbox;
	struct process_memory first, last;
	long rounds;
	long failed = 0;

	if (argc != 2)
		fail("use: deliver ROUNDS");
	rounds = read_number("ROUNDS", argv[1]);
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure_order();
	outbox_open(&outbox);
	outbox_switch(&outbox, false);
	floor = floor_multi_open(&target, OUTBOX_IN_FLIGHT);
	floor_multi_run(floor, 500);
	first = process_memory(outbox.worker);

	printf("%ld rounds of %d requests, %d in flight.\n", rounds, REQUESTS,
		   OUTBOX_IN_FLIGHT);
	for (long round = 0; round < rounds; round++)
	{
		struct delivery delivery;
		double before;

		outbox_enqueue(&outbox, REQUESTS);
		before = process_cpu(getpid());
		series_add(&floor_rate, REQUESTS / floor_multi_run(floor, REQUESTS));
		series_add(&floor_cpu,
				   (process_cpu(getpid()) - before) * 1e6 / REQUESTS);
		delivery = outbox_deliver(&outbox);
		series_add(&rate, delivery.rate);
		series_add(&cpu, delivery.cpu);
		failed += delivery.failed;
		last = process_memory(outbox.worker);
		printf("  round %ld: floor %.0f a second, %.1f us on a processor; worker %.0f a second, %.1f us, %.0f kB\n",
			   round + 1, floor_rate.values[round], floor_cpu.values[round],
			   delivery.rate, delivery.cpu, last.anonymous);
		fflush(stdout);
	}
	printf("\n");
	print_metric("deliver_rate", series_median(&rate), "requests/s");
	print_metric("deliver_floor_rate", series_median(&floor_rate),
				 "requests/s");
	/* rate against rate here: 0.5 is half as fast as the floor */
	series_divide(&rate, &floor_rate, &ratios);
	print_ratios("deliver_ratio", &ratios);
	print_metric("deliver_failed", (double) failed, "requests");
	print_metric("deliver_cpu", series_median(&cpu), "us");
	print_metric("deliver_floor_cpu", series_median(&floor_cpu), "us");
	series_divide(&cpu, &floor_cpu, &cpu_ratios);
	print_ratios("deliver_cpu_ratio", &cpu_ratios);
	print_metric("deliver_requests", (double) rounds * REQUESTS, "requests");
	print_metric("deliver_memory_growth", last.anonymous - first.anonymous,
				 "kB");
	print_metric("deliver_rss_growth", last.rss - first.rss, "kB");
	floor_multi_close(floor);
	outbox_close(&outbox);
	curl_global_cleanup();
	return 0;
}
