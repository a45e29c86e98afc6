/*
 * params.c
 *		A request whose signature is right, and how its params are read.
 *
 * Numbers and texts are taken for each other as leniently as PHP takes them.
 */
#include "params.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The longest string that a param may be; entries store 16 bits of length. */
#define PARAM_MAX_BYTES 1024

bool
param_refuse(struct outcome *outcome, const char *reason, const char *name)
{
	snprintf(outcome->desc, sizeof(outcome->desc), "%s%s", reason, name);
	return false;
}

bool
param_refuse_empty(const struct call *call, const char *name)
{
	return param_refuse(call->outcome, "Empty required param ", name);
}

bool
param_refuse_wrong(const struct call *call, const char *name)
{
	return param_refuse(call->outcome, "Wrong param ", name);
}

bool
param_is_empty(const json_t *value)
{
	return value == NULL || json_is_null(value) || json_is_false(value) ||
		(json_is_string(value) && json_string_length(value) == 0) ||
		(json_is_array(value) && json_array_size(value) == 0) ||
		(json_is_object(value) && json_object_size(value) == 0);
}

bool
param_integer(const json_t *value, int64_t *integer)
{
	if (json_is_integer(value))
	{
		*integer = json_integer_value(value);
		return true;
	}
	if (json_is_real(value))
	{
		double real = json_real_value(value);

		if (!(real > -9.0e18 && real < 9.0e18) ||
			real != (double) (int64_t) real)
			return false;
		*integer = (int64_t) real;
		return true;
	}
	if (json_is_string(value))
	{
		const char *string = json_string_value(value);
		size_t length = json_string_length(value);

		if (length == 0 || strspn(string, "0123456789") != length)
			return false;
		errno = 0;
		*integer = strtoll(string, NULL, 10);
		return errno == 0;
	}
	return false;
}

bool
param_text(const struct call *call, const char *name, struct param *param)
{
	const json_t *value = json_object_get(call->params, name);

	if (param_is_empty(value))
		return param_refuse_empty(call, name);
	if (json_is_integer(value))
	{
		param->length = (size_t) snprintf(param->digits, sizeof(param->digits),
										  "%" JSON_INTEGER_FORMAT,
										  json_integer_value(value));
		param->string = param->digits;
		return true;
	}
	if (!json_is_string(value) || json_string_length(value) > PARAM_MAX_BYTES)
		return param_refuse_wrong(call, name);
	param->string = json_string_value(value);
	param->length = json_string_length(value);
	return true;
}

void
param_optional(const json_t *params, const char *name, struct param *param)
{
	const json_t *value = json_object_get(params, name);

	param->string = "";
	param->length = 0;
	if (json_is_string(value) && json_string_length(value) <= PARAM_MAX_BYTES)
	{
		param->string = json_string_value(value);
		param->length = json_string_length(value);
	}
}

/* Says whether a currency is one that --currencies names. */
static bool
is_known(const char *code, size_t length)
{
	const char *next = rules.currencies;

	while (next != NULL)
	{
		size_t next_length = strcspn(next, ",");

		if (next_length == length && memcmp(next, code, length) == 0)
			return true;
		next = next[next_length] == ',' ? next + next_length + 1 : NULL;
	}
	return rules.currencies == NULL;
}

bool
param_entry(const struct call *call, bool needs_payment_system,
			struct entry *entry)
{
	const json_t *amount = json_object_get(call->params, "amount");
	const json_t *system = json_object_get(call->params, "payment_system");
	struct param currency;
	int number;
	int64_t integer;

	if (!param_text(call, "currency", &currency))
		return false;
	if (!is_known(currency.string, currency.length))
		return param_refuse_wrong(call, "currency");
	if (param_is_empty(amount))
		return param_refuse_empty(call, "amount");
	*entry = (struct entry){.payment_system = PAYMENT_SYSTEM_NONE,
							.created = (uint32_t) time(NULL),
							.shop = (uint16_t) call->shop_number};
	if (!money_read(amount, &entry->amount) || entry->amount <= 0)
		return param_refuse_wrong(call, "amount");
	number = currency_add(currency.string, currency.length);
	if (number < 0)
		return param_refuse_wrong(call, "currency");
	entry->currency = (uint8_t) number;
	if (param_is_empty(system))
		return !needs_payment_system ||
			param_refuse_empty(call, "payment_system");
	if (!param_integer(system, &integer) || integer < 0 || integer > INT32_MAX)
		return param_refuse_wrong(call, "payment_system");
	entry->payment_system = (int32_t) integer;
	return true;
}
