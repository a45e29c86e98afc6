/*
 * money.c
 *		Exact amounts of money.
 *
 * Amounts are integers of 10^-8, so that sums are exact: a test that adds up
 * what it paid out may compare with `=`.
 *
 * Hazard: a JSON real has been a double since it was parsed. Up to fifteen
 * significant digits survive that, which is what PHP's own json_decode keeps;
 * whoever needs more sends a string.
 */
#include "money.h"

#include <math.h>
#include <string.h>

/* An int64 holds 92 times this; a balance is checked where it grows. */
#define LIMIT_WHOLE INT64_C(1000000000)

bool
money_read_text(const char *string, size_t length, money *amount)
{
	const char *next = string;
	const char *end = string + length;
	bool negative = false;
	int64_t value = 0;
	int decimals = 0;

	if (next < end && (*next == '+' || *next == '-'))
		negative = *next++ == '-';
	if (next == end || *next < '0' || *next > '9')
		return false;
	for (; next < end && *next >= '0' && *next <= '9'; next++)
	{
		value = value * 10 + (*next - '0');
		if (value >= LIMIT_WHOLE)
			return false;
	}
	value *= MONEY_ONE;
	if (next < end && *next == '.')
	{
		int64_t unit = MONEY_ONE / 10;

		for (next++; next < end && *next >= '0' && *next <= '9'; next++)
		{
			if (decimals < MONEY_DECIMALS)
				value += unit * (*next - '0');
			else if (decimals == MONEY_DECIMALS && *next >= '5')
				value++;
			unit /= 10;
			decimals++;
		}
		if (decimals == 0)
			return false;
	}
	if (next != end)
		return false;
	*amount = negative ? -value : value;
	return true;
}

bool
money_read(const json_t *value, money *amount)
{
	if (json_is_integer(value))
	{
		json_int_t whole = json_integer_value(value);

		if (whole <= -LIMIT_WHOLE || whole >= LIMIT_WHOLE)
			return false;
		*amount = whole * MONEY_ONE;
		return true;
	}
	if (json_is_real(value))
	{
		double real = json_real_value(value);

		if (!(fabs(real) < (double) LIMIT_WHOLE))
			return false;
		*amount = llroundl((long double) real * MONEY_ONE);
		return true;
	}
	if (json_is_string(value))
		return money_read_text(json_string_value(value),
							   json_string_length(value), amount);
	return false;
}

money
money_multiply(money one, money other)
{
	__int128 product = (__int128) one * other / MONEY_ONE;

	/* no sum that is compared with an amount comes near this */
	return product > INT64_MAX ? INT64_MAX
		: product < INT64_MIN  ? INT64_MIN
							   : (money) product;
}

void
money_write(struct text *text, money amount, int decimals)
{
	uint64_t size = amount < 0 ? 0 - (uint64_t) amount : (uint64_t) amount;
	uint64_t fraction = size % MONEY_ONE;
	char digits[MONEY_DECIMALS];
	int count = MONEY_DECIMALS;

	if (amount < 0)
		text_byte(text, '-');
	text_integer(text, (int64_t) (size / MONEY_ONE));
	for (int i = MONEY_DECIMALS - 1; i >= 0; i--)
	{
		digits[i] = (char) ('0' + fraction % 10);
		fraction /= 10;
	}
	while (count > decimals && digits[count - 1] == '0')
		count--;
	if (count > 0)
	{
		text_byte(text, '.');
		text_append(text, digits, (size_t) count);
	}
}
