/*
 * params.h
 *		A request whose signature is right, and how its params are read.
 *
 * The functions that return bool refuse the request before they return false.
 */
#ifndef PARAMS_H
#define PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "books.h"
#include "methods.h"
#include "rules.h"

struct call
{
	const json_t *params;
	struct shop *shop;
	size_t shop_number;
	const struct aside *aside; /* what a test has planned for it, or NULL */
	struct outcome *outcome;
};

/* A param that may be written as a string or as an integer. */
struct param
{
	const char *string;
	size_t length;
	char digits[24];
};

/* Refuses for a reason, and a name behind it that may be empty. */
bool param_refuse(struct outcome *outcome, const char *reason,
				  const char *name);

/* Refuses because a param is missing, or is wrong. */
bool param_refuse_empty(const struct call *call, const char *name);
bool param_refuse_wrong(const struct call *call, const char *name);

/* Says whether a value is as good as not there. */
bool param_is_empty(const json_t *value);

/* Reads a value that is an integer, or a string or real that says one. */
bool param_integer(const json_t *value, int64_t *integer);

/* Reads a required param that is text. */
bool param_text(const struct call *call, const char *name,
				struct param *param);

/* Reads an optional string, empty where it is not there or is none. */
void param_optional(const json_t *params, const char *name,
					struct param *param);

/*
 * Reads what orders and withdrawals have in common: currency, amount and
 * payment_system.
 */
bool param_entry(const struct call *call, bool needs_payment_system,
				 struct entry *entry);

#endif
