/*
 * payment.h
 *		What a customer would do: pays an order, so that the shop is notified.
 */
#ifndef PAYMENT_H
#define PAYMENT_H

#include <stdbool.h>

#include <jansson.h>

#include "text.h"
#include "webhook.h"

struct payment;

/* Where notifications go that name no address; NULL for nowhere. */
void payment_configure(const char *notify_url);

/*
 * Pays the order that a JSON object names and prepares its notification; with
 * the rule `check`, prepares the request that is sent before. Returns NULL
 * where it can't, and appends the reason.
 */
struct payment *payment_make(const json_t *wanted, struct text *reason);

/* Says whether the shop is to be asked or told anything. */
bool payment_has_requests(const struct payment *payment);

/*
 * Asks and tells the shop, and then calls `done` on a thread of the sender's.
 * To be called where payment_has_requests() says so.
 */
void payment_send(struct payment *payment, webhook_done done, void *argument);

/* Appends the answer to the control request, once all was sent. */
void payment_write(struct text *text, const struct payment *payment);

/* Frees a payment and its notification; NULL is fine. */
void payment_free(struct payment *payment);

#endif
