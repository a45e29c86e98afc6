/*-------------------------------------------------------------------------
 *
 * pickup.c
 *		How long it takes from a commit until the request has arrived at the
 *		provider.
 *
 * One order a transaction, the worker idle and its connection open.  The clock
 * is read just before COMMIT is sent, so the commit's own flush is in it, and
 * that of the claim; the arrival is the time in the sandbox's journal.  What
 * of it comes after the client has heard of its commit is told separately.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "outbox.h"
#include "request.h"
#include "rounds.h"

#define ORDERS 300

/* Long enough that the one before is finished and the worker waits again. */
#define PAUSE_US 40000

/* The journal is written a little after the answer. */
#define JOURNAL_TURNS 50
#define JOURNAL_US	  100000

/* Seconds since 1970, as in the journal. */
static double
clock_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/*
 * Reads when the orders from "first" on arrived; 0 where one did not.  Returns
 * how many did.
 */
static int
read_arrivals(const char *journal, long first, double *arrivals)
{
	FILE *file = fopen(journal, "r");
	char line[4096];
	int count = 0;

	if (file == NULL)
		fail("%s: %s", journal, strerror(errno));
	while (fgets(line, sizeof(line), file) != NULL)
	{
		static const char key[] = "\\\"order_id\\\":\\\"T-";
		const char *order = strstr(line, key);
		double time;
		long number;

		if (order == NULL || sscanf(line, "{\"time\":%lf", &time) != 1)
			continue;
		number = strtol(order + strlen(key), NULL, 10) - first;
		if (number >= 0 && number < ORDERS && arrivals[number] == 0)
		{
			arrivals[number] = time;
			count++;
		}
	}
	fclose(file);
	return count;
}

int
main(void)
{
	static struct series pickups, commits, afterwards;
	static double before[ORDERS], after[ORDERS], arrivals[ORDERS];
	const char *journal = getenv("TEGRO_SANDBOX_JOURNAL");
	struct outbox outbox;
	long first;

	if (journal == NULL)
		fail("TEGRO_SANDBOX_JOURNAL is not set; run this with script/bench");
	outbox_open(&outbox);
	first = outbox.orders + 1;

	printf("%d orders, one at a time.\n", ORDERS);
	for (int i = 0; i < ORDERS; i++)
	{
		session_execute(outbox.session, "BEGIN");
		outbox_enqueue(&outbox, 1);
		before[i] = clock_s();
		session_execute(outbox.session, "COMMIT");
		after[i] = clock_s();
		usleep(PAUSE_US);
	}
	outbox_wait(&outbox);
	for (int turn = 0;; turn++)
	{
		memset(arrivals, 0, sizeof(arrivals));
		if (read_arrivals(journal, first, arrivals) == ORDERS)
			break;
		if (turn == JOURNAL_TURNS)
			fail("%s does not have all orders", journal);
		usleep(JOURNAL_US);
	}
	for (int i = 0; i < ORDERS; i++)
	{
		series_add(&pickups, (arrivals[i] - before[i]) * 1e3);
		series_add(&commits, (after[i] - before[i]) * 1e3);
		series_add(&afterwards, (arrivals[i] - after[i]) * 1e3);
	}

	printf("\n");
	print_metric("pickup_p50", series_median(&pickups), "ms");
	print_metric("pickup_p99", series_quantile(&pickups, 0.99), "ms");
	print_metric("pickup_min", series_min(&pickups), "ms");
	print_metric("pickup_max", series_max(&pickups), "ms");
	print_metric("pickup_p10", series_quantile(&pickups, 0.1), "ms");
	print_metric("pickup_after_commit_p50", series_median(&afterwards), "ms");
	print_metric("pickup_after_commit_p99", series_quantile(&afterwards, 0.99),
				 "ms");
	print_metric("pickup_commit_p50", series_median(&commits), "ms");
	print_metric("pickup_commit_p99", series_quantile(&commits, 0.99), "ms");
	outbox_close(&outbox);
	return 0;
}
