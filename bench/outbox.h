/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		Orders that are put into the outbox, and the worker that delivers them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_OUTBOX_H
#define BENCH_OUTBOX_H

#include <stdbool.h>
#include <sys/types.h>

#include "session.h"

/* Requests in flight at once, of the worker and of the floor. */
#define OUTBOX_IN_FLIGHT 32

/* The outbox of one database. */
struct outbox
{
	PGconn *session;
	pid_t worker;	/* once something was delivered */
	long orders;	/* enqueued so far; the last one's number */
	long delivered; /* the last one that was */
};

/* What the delivery of a backlog took. */
struct delivery
{
	double
		rate; /* requests a second, from the first claim to the last outcome */
	double cpu;	 /* us a request, of the worker on a processor */
	double wal;	 /* bytes a request, of the whole server */
	long failed; /* requests that were not done at the first attempt */
};

/*
 * Opens the outbox of the database that the environment names, and has the
 * worker deliver some, so that it is there and has its connections.  Delivery
 * is on afterwards.
 */
void outbox_open(struct outbox *outbox);

/* From now on so many requests are in flight, OUTBOX_IN_FLIGHT before. */
void outbox_concurrency(struct outbox *outbox, int in_flight);

void outbox_close(struct outbox *outbox);

/* How much the server has written to its WAL, in bytes. */
double outbox_wal(struct outbox *outbox);

/* Turns delivery on or off, for the whole server. */
void outbox_switch(struct outbox *outbox, bool on);

/* Enqueues orders, in one transaction. */
void outbox_enqueue(struct outbox *outbox, long count);

/* Waits until everything is delivered. */
void outbox_wait(struct outbox *outbox);

/* Turns delivery on, for what was enqueued while it was off, and off again. */
struct delivery outbox_deliver(struct outbox *outbox);

#endif
