/*
 * methods.h
 *		The ten methods of the payment API.
 */
#ifndef METHODS_H
#define METHODS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "books.h"
#include "text.h"

enum method
{
	METHOD_CREATE_ORDER,
	METHOD_SHOPS,
	METHOD_BALANCE,
	METHOD_ORDER,
	METHOD_ORDERS,
	METHOD_CREATE_WITHDRAWAL,
	METHOD_WITHDRAWALS,
	METHOD_WITHDRAWAL,
	METHOD_RATES,
	METHOD_MODULES,
	METHOD_COUNT,
	METHOD_UNKNOWN = METHOD_COUNT
};

/* The methods' names, in that order. */
extern const char *const method_names[METHOD_COUNT];

/* Returns the method of a name, or METHOD_UNKNOWN. */
enum method method_find(const char *name, size_t length);

/* Room for the longest reason: names are cut to fit. */
#define DESC_BYTES 96

/* What became of a request. Zero-initialise it. */
struct outcome
{
	struct text answer; /* the JSON text; the caller frees it */
	bool success;
	bool executed; /* an order or a withdrawal was made */
	bool has_nonce;
	int64_t nonce;
	char desc[DESC_BYTES]; /* why it was refused, or empty */
};

/*
 * What a test has planned for one request, beside a fault that it may meet.
 * Zero-initialised is nothing.
 */
struct aside
{
	int64_t hide_ms; /* lookups find nothing for so long */
	int64_t push;	 /* entries that others make just before a list is read */
	bool has_result; /* a payout comes to this status after so long */
	int result;
	int64_t result_ms;
};

/*
 * Executes a request and writes the answer, also that of a refusal. May be
 * called from any thread. authorization and aside may be NULL.
 */
void methods_execute(enum method method, const char *body, size_t length,
					 const char *authorization, const struct aside *aside,
					 struct outcome *outcome);

/*
 * Makes the order of a payment link, of the shop of that number. Returns the
 * provider's number of it, or -1 with the reason in the outcome.
 */
int64_t methods_order(size_t shop_number, const json_t *params,
					  struct outcome *outcome);

/* Fills in the nonce of a request that is not executed, if it carries one. */
void methods_read_nonce(const char *body, size_t length,
						struct outcome *outcome);

/*
 * From now on, for so many milliseconds, lookups find nothing: neither orders
 * nor withdrawals, or only one of the two where the method is about it.
 */
void methods_hide(enum method method, int64_t ms);

/* Back to the start: the books is reset, nothing hidden. */
void methods_reset(void);

#endif
