/*-------------------------------------------------------------------------
 *
 * delivery.h
 *		Delivers what is due in the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_DELIVERY_H
#define TEGRO_DELIVERY_H

#include "src/outbox/outbox.h"

/* How a delivery worker begins and ends its transactions, and when it stops. */
typedef struct TegroDelivery
{
	/* a transaction to run statements in, and its durable end */
	void (*begin)(void);
	void (*commit)(void);

	bool stay;					 /* wait for more when nothing is due */
	int max;					 /* requests to send at most; -1: no limit */
	volatile sig_atomic_t *stop; /* ends as soon as it is set; may be NULL */
	void (*reload)(void); /* called where settings may change, or NULL */
	void (*report)(const char *activity); /* what it does, or NULL */

	/* what it did */
	int64 sent;
	int64 settled;
} TegroDelivery;

/* Why tegro_deliver_due() returned. */
typedef enum TegroDeliveryEnd
{
	TEGRO_NOTHING_DUE,	/* all is delivered that is due */
	TEGRO_STOPPED,		/* it was asked to, or "max" is reached */
	TEGRO_DELIVERY_OFF, /* tegro.delivery is off, or in recovery */
	TEGRO_UNCONFIRMED,	/* the wait for a synchronous standby was cancelled */
	TEGRO_NO_OUTBOX		/* the extension is not there */
} TegroDeliveryEnd;

/*
 * Delivers what is due, until there is nothing left, or for ever (see "stay":
 * then until nothing waits and tegro.worker_idle_timeout has passed).
 *
 * To be called outside a transaction of the caller's statements: it begins
 * and commits its own, and sends in none.
 */
extern TegroDeliveryEnd tegro_deliver_due(TegroDelivery *delivery);

/*
 * Sends one item that was claimed and committed, and waits until it has an
 * outcome or tegro.timeout has passed.  Leaves the decision in the item; the
 * caller settles it.
 */
extern void tegro_deliver_one(TegroItem *item);

#endif /* TEGRO_DELIVERY_H */
