/*
 * money.h
 *		Exact amounts of money.
 */
#ifndef MONEY_H
#define MONEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "text.h"

/* An amount in units of 10^-8, the precision in which the provider answers. */
typedef int64_t money;

#define MONEY_DECIMALS 8
#define MONEY_ONE	   INT64_C(100000000)

/*
 * Reads an amount from a JSON integer, a JSON real or a string such as
 * "100.50". What goes beyond eight decimals is rounded. Returns false where it
 * is no amount, or one of a billion and more.
 */
bool money_read(const json_t *value, money *amount);

/* Reads [+-]digits[.digits], as above. */
bool money_read_text(const char *text, size_t length, money *amount);

/* Returns one times the other, both of 10^-8, rounded towards zero. */
money money_multiply(money one, money other);

/* Appends an amount with at least `decimals` decimals, and all that it has. */
void money_write(struct text *text, money amount, int decimals);

#endif
