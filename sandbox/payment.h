/*
 * payment.h
 *		What a customer would do: pays an order, so that the shop is notified.
 */
#ifndef PAYMENT_H
#define PAYMENT_H

#include <stdbool.h>

#include <jansson.h>

#include "webhook.h"
#include "text.h"

/* A payment that was made. */
struct payment
{
	struct text order;			  /* the order's row, as JSON */
	struct webhook *notification; /* to be sent, or NULL without address */
};

/* Where notifications go that name no address; NULL for nowhere. */
void payment_configure(const char *notify_url);

/*
 * Pays the order that a JSON object names and prepares its notification.
 * Returns NULL where it can't, and appends the reason.
 */
struct payment *payment_make(const json_t *wanted, struct text *reason);

/* Appends the answer to who asked for the payment, once all was sent. */
void payment_write(struct text *text, const struct payment *payment);

/* Frees a payment and its notification; NULL is fine. */
void payment_free(struct payment *payment);

#endif
