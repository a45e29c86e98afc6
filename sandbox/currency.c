/*
 * currency.c
 *		The currencies that were met, by number.
 */
#include "currency.h"

#include <string.h>

static const char *const first_codes[CURRENCY_FIRST_COUNT] = {"RUB", "USD",
															  "EUR", "UAH"};

/* The codes behind the first. */
static char more_codes[CURRENCY_MAX - CURRENCY_FIRST_COUNT]
					  [CURRENCY_MAX_BYTES + 1];
static int count = CURRENCY_FIRST_COUNT;

const char *
currency_code(int number)
{
	return number < CURRENCY_FIRST_COUNT
		? first_codes[number]
		: more_codes[number - CURRENCY_FIRST_COUNT];
}

int
currency_find(const char *code, size_t length)
{
	for (int i = 0; i < count; i++)
		if (length == strlen(currency_code(i)) &&
			memcmp(code, currency_code(i), length) == 0)
			return i;
	return -1;
}

int
currency_add(const char *code, size_t length)
{
	int number = currency_find(code, length);
	char *place;

	if (number >= 0)
		return number;
	if (count == CURRENCY_MAX || length == 0 || length > CURRENCY_MAX_BYTES ||
		memchr(code, '\0', length) != NULL)
		return -1;
	place = more_codes[count - CURRENCY_FIRST_COUNT];
	memcpy(place, code, length);
	place[length] = '\0';
	return count++;
}

void
currency_reset(void)
{
	count = CURRENCY_FIRST_COUNT;
}
