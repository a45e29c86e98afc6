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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "journal.h"
#include "outbox.h"
#include "request.h"
#include "rounds.h"

#define ORDERS 300

/* Long enough that the one before is finished and the worker waits again. */
#define PAUSE_US 40000

/* Seconds since 1970, as in the journal. */
static double
clock_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/* When each order arrived, by the journal; 0: not yet. */
static double arrivals[ORDERS];
static long first; /* the number of the first order */

/* Takes down when an order arrived; the first time counts. */
static bool
is_arrival(const char *line)
{
	static const char key[] = "\\\"order_id\\\":\\\"T-";
	const char *order = strstr(line, key);
	double time;
	long number;

	if (order == NULL || sscanf(line, "{\"time\":%lf", &time) != 1)
		return false;
	number = strtol(order + strlen(key), NULL, 10) - first;
	if (number < 0 || number >= ORDERS)
		return false;
	if (arrivals[number] != 0 && arrivals[number] != time)
		return false;
	arrivals[number] = time;
	return true;
}

int
main(void)
{
	static struct series pickups, commits, afterwards;
	static double before[ORDERS], after[ORDERS];
	struct outbox outbox;

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
	journal_wait(ORDERS, is_arrival);
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
