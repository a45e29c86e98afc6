/*-------------------------------------------------------------------------
 *
 * body.c
 *		JSON text as PHP would have written it.
 *
 * The provider checks a signature over the body, and it is a PHP program.
 * Whether it checks the bytes that came in or decodes and encodes them first
 * is not documented, and at least one client found that it had to write as
 * PHP does.  A body that is a fixed point of PHP's
 *
 *		json_encode(json_decode(body, true))
 *
 * is right either way.  So the text that PostgreSQL writes for a jsonb is
 * rewritten, token by token:
 *
 *	- no white space between tokens;
 *	- in strings, "/" becomes "\/" and every character beyond ASCII becomes
 *	  \uXXXX (lower-case hex, a surrogate pair above U+FFFF); PostgreSQL and
 *	  PHP agree on the rest;
 *	- numbers become what PHP makes of them: an integer of 64 bits stays, all
 *	  others are doubles, written with the fewest digits that read back.
 *
 * A number that a double can't hold to its last digit is refused instead of
 * rounded: it may be money.
 *
 * Two things stay as they are though they are no fixed points, since PHP's
 * arrays can't tell them apart: {} (which PHP writes as []), and an object
 * whose keys are 0, 1, 2, ... (which PHP writes as a list).
 *
 * The file knows nothing of PostgreSQL, so that it can be tested and fuzzed
 * against PHP without a server.
 *
 *-------------------------------------------------------------------------
 */
#include "src/format/body.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A double never needs more significant digits than this to read back. */
#define MAX_DOUBLE_DIGITS 17

/* Any decimal of so many digits reads back from a double unchanged. */
#define SAFE_DOUBLE_DIGITS 15

/*
 * Decimal exponents between which a double is neither subnormal nor infinite,
 * so that the rule of SAFE_DOUBLE_DIGITS holds.
 */
#define MIN_SAFE_EXPONENT (-290)
#define MAX_SAFE_EXPONENT 290

/*
 * PHP writes a double without an exponent while the decimal point stands
 * between these places, counted from the first digit.
 */
#define PHP_MIN_POINT (-3)
#define PHP_MAX_POINT 17

/* A number taken apart: value = sign 0.DIGITS * 10^point. */
typedef struct Decimal
{
	bool negative;
	char digits[MAX_DOUBLE_DIGITS + 1]; /* NUL-terminated */
	int ndigits; /* no zeros at either end; 0 means zero */
	long point;
} Decimal;

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * Takes a JSON number apart.  Returns NOT_JSON for what is no number, and
 * LOSES_DIGITS for one with more significant digits than a double can have.
 */
static TegroBodyStatus
parse_decimal(const char *text, size_t len, Decimal *d)
{
	size_t i = 0;
	bool seen_point = false;
	bool seen_digit = false;
	size_t pending_zeros = 0;
	size_t significant = 0;
	long exponent = 0;

	d->negative = (len > 0 && text[0] == '-');
	d->ndigits = 0;
	d->point = 0;
	if (d->negative)
		i++;

	for (; i < len && (is_digit(text[i]) || text[i] == '.'); i++)
	{
		if (text[i] == '.')
		{
			if (seen_point || !seen_digit)
				return TEGRO_BODY_NOT_JSON;
			seen_point = true;
			continue;
		}
		seen_digit = true;
		if (significant == 0 && text[i] == '0')
		{
			/* leading zeros only move the point */
			if (seen_point)
				d->point--;
			continue;
		}
		if (!seen_point)
			d->point++;
		significant++;
		if (text[i] == '0')
		{
			/* significant only if another digit follows */
			pending_zeros++;
			continue;
		}
		for (; pending_zeros > 0; pending_zeros--)
		{
			if (d->ndigits < MAX_DOUBLE_DIGITS)
				d->digits[d->ndigits] = '0';
			d->ndigits++;
			if (d->ndigits > MAX_DOUBLE_DIGITS)
				return TEGRO_BODY_LOSES_DIGITS;
		}
		if (d->ndigits >= MAX_DOUBLE_DIGITS)
			return TEGRO_BODY_LOSES_DIGITS;
		d->digits[d->ndigits++] = text[i];
	}
	if (!seen_digit || text[i - 1] == '.')
		return TEGRO_BODY_NOT_JSON;

	if (i < len && (text[i] == 'e' || text[i] == 'E'))
	{
		bool exponent_negative = false;

		i++;
		if (i < len && (text[i] == '+' || text[i] == '-'))
			exponent_negative = (text[i++] == '-');
		if (i >= len)
			return TEGRO_BODY_NOT_JSON;
		for (; i < len && is_digit(text[i]); i++)
		{
			/* beyond this the value is 0 or infinite anyhow */
			if (exponent < 1000000)
				exponent = exponent * 10 + (text[i] - '0');
		}
		if (exponent_negative)
			exponent = -exponent;
	}
	if (i != len)
		return TEGRO_BODY_NOT_JSON;

	d->point += exponent;
	d->digits[d->ndigits] = '\0';
	if (d->ndigits == 0)
	{
		d->negative = false;
		d->point = 0;
	}
	return TEGRO_BODY_OK;
}

/*
 * The decimal of "ndigits" significant digits that PHP would choose for a
 * double, if one reads back as that double: value = mantissa * 10^exponent.
 *
 * That is the nearest one.  Just above a power of two, doubles are twice as
 * far apart as below it, so there the nearest decimal may read back as the
 * double below while its neighbour reads back right.
 */
static bool
decimal_of_length(double value, int ndigits, uint64_t *mantissa,
				  long *exponent)
{
	char text[MAX_DOUBLE_DIGITS + 32];
	char *e;
	uint64_t nearest = 0;

	snprintf(text, sizeof(text), "%.*e", ndigits - 1, value);
	e = strchr(text, 'e');
	for (const char *p = text; p < e; p++)
	{
		if (is_digit(*p))
			nearest = nearest * 10 + (uint64_t) (*p - '0');
	}
	*exponent = strtol(e + 1, NULL, 10) - (ndigits - 1);

	for (int i = 0; i < 3; i++)
	{
		*mantissa = i == 0 ? nearest : i == 1 ? nearest + 1 : nearest - 1;
		snprintf(text, sizeof(text), "%llue%ld",
				 (unsigned long long) *mantissa, *exponent);
		if (strtod(text, NULL) == value)
			return true;
	}
	return false;
}

/*
 * Would PHP write the double nearest to "d" with exactly the digits of "d"?
 *
 * PHP writes the shortest decimal that reads back as the same double and, of
 * those, the one nearest to it.
 */
static bool
survives_php(const Decimal *d)
{
	char text[MAX_DOUBLE_DIGITS + 32];
	double value;
	uint64_t mantissa;
	long exponent;

	if (d->ndigits <= SAFE_DOUBLE_DIGITS && d->point > MIN_SAFE_EXPONENT &&
		d->point < MAX_SAFE_EXPONENT)
		return true;

	snprintf(text, sizeof(text), "%se%ld", d->digits, d->point - d->ndigits);
	value = strtod(text, NULL);
	if (value == 0 || isinf(value))
		return false;

	return decimal_of_length(value, d->ndigits, &mantissa, &exponent) &&
		mantissa == strtoull(d->digits, NULL, 10) &&
		exponent == d->point - d->ndigits &&
		!(d->ndigits > 1 &&
		  decimal_of_length(value, d->ndigits - 1, &mantissa, &exponent));
}

/* Writes a number that survives_php() as PHP does; returns the new end. */
static char *
write_double(char *out, const Decimal *d)
{
	if (d->negative)
		*out++ = '-';
	if (d->point < PHP_MIN_POINT || d->point > PHP_MAX_POINT)
	{
		/* 1.0e-5, 1.25e+25 */
		*out++ = d->digits[0];
		*out++ = '.';
		if (d->ndigits == 1)
			*out++ = '0';
		memcpy(out, d->digits + 1, d->ndigits - 1);
		out += d->ndigits - 1;
		out += sprintf(out, "e%+ld", d->point - 1);
	}
	else if (d->point <= 0)
	{
		/* 0.00123 */
		*out++ = '0';
		*out++ = '.';
		for (long i = d->point; i < 0; i++)
			*out++ = '0';
		memcpy(out, d->digits, d->ndigits);
		out += d->ndigits;
	}
	else if (d->point < d->ndigits)
	{
		/* 12.3 */
		memcpy(out, d->digits, d->point);
		out += d->point;
		*out++ = '.';
		memcpy(out, d->digits + d->point, d->ndigits - d->point);
		out += d->ndigits - d->point;
	}
	else
	{
		/* 1200 */
		memcpy(out, d->digits, d->ndigits);
		out += d->ndigits;
		for (long i = d->ndigits; i < d->point; i++)
			*out++ = '0';
	}
	return out;
}

/* Is it an integer of 64 bits, written as one?  PHP keeps these as they are. */
static bool
is_int64(const char *text, size_t len)
{
	bool negative = (len > 0 && text[0] == '-');
	const char *digits = negative ? text + 1 : text;
	size_t ndigits = negative ? len - 1 : len;
	const char *limit = negative ? "9223372036854775808"
								 : "9223372036854775807";

	if (ndigits == 0 || ndigits > 19 ||
		(digits[0] == '0' && (ndigits > 1 || negative)))
		return false;
	for (size_t i = 0; i < ndigits; i++)
	{
		if (!is_digit(digits[i]))
			return false;
	}
	return ndigits < 19 || memcmp(digits, limit, 19) <= 0;
}

static TegroBodyStatus
write_number(const char *text, size_t len, char **out)
{
	Decimal d;
	TegroBodyStatus status;
	const char *end;

	/* 100.00 is the double 100, which PHP writes as 100 */
	end = memchr(text, '.', len);
	if (end != NULL)
	{
		size_t i = (size_t) (end - text) + 1;

		while (i < len && text[i] == '0')
			i++;
		if (i == len && i > (size_t) (end - text) + 1)
			len = (size_t) (end - text);
	}

	if (is_int64(text, len))
	{
		memcpy(*out, text, len);
		*out += len;
		return TEGRO_BODY_OK;
	}

	status = parse_decimal(text, len, &d);
	if (status != TEGRO_BODY_OK)
		return status;
	if (d.ndigits == 0)
	{
		*(*out)++ = '0';
		return TEGRO_BODY_OK;
	}
	if (!survives_php(&d))
		return TEGRO_BODY_LOSES_DIGITS;
	*out = write_double(*out, &d);
	return TEGRO_BODY_OK;
}

/* Writes \uXXXX; returns the new end. */
static char *
write_escape(char *out, uint32_t unit)
{
	static const char hex[] = "0123456789abcdef";

	*out++ = '\\';
	*out++ = 'u';
	*out++ = hex[(unit >> 12) & 0x0f];
	*out++ = hex[(unit >> 8) & 0x0f];
	*out++ = hex[(unit >> 4) & 0x0f];
	*out++ = hex[unit & 0x0f];
	return out;
}

/*
 * Reads one character beyond ASCII.  Returns its length, 0 if it is not
 * UTF-8 (overlong, a surrogate, above U+10FFFF, or cut).
 */
static size_t
read_utf8(const unsigned char *s, size_t len, uint32_t *c)
{
	size_t need;

	if (s[0] >= 0xc2 && s[0] <= 0xdf)
	{
		need = 2;
		*c = s[0] & 0x1f;
	}
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
	{
		need = 3;
		*c = s[0] & 0x0f;
	}
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
	{
		need = 4;
		*c = s[0] & 0x07;
	}
	else
		return 0;
	if (len < need)
		return 0;
	for (size_t i = 1; i < need; i++)
	{
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*c = (*c << 6) | (s[i] & 0x3f);
	}
	if ((need == 3 && (*c < 0x800 || (*c >= 0xd800 && *c <= 0xdfff))) ||
		(need == 4 && (*c < 0x10000 || *c > 0x10ffff)))
		return 0;
	return need;
}

/* Rewrites the string that begins at json[*pos], a quote. */
static TegroBodyStatus
write_string(const char *json, size_t len, size_t *pos, char **out)
{
	size_t i = *pos + 1;
	char *o = *out;

	*o++ = '"';
	while (i < len && json[i] != '"')
	{
		unsigned char ch = (unsigned char) json[i];

		if (ch == '\\')
		{
			/* the writer's escapes are PHP's, but for the ones below */
			if (i + 1 >= len || memchr("\"\\/bfnrtu", json[i + 1], 9) == NULL)
				return TEGRO_BODY_NOT_JSON;
			*o++ = json[i++];
			*o++ = json[i++];
		}
		else if (ch == '/')
		{
			*o++ = '\\';
			*o++ = '/';
			i++;
		}
		else if (ch < 0x20)
			return TEGRO_BODY_NOT_JSON;
		else if (ch < 0x80)
		{
			*o++ = (char) ch;
			i++;
		}
		else
		{
			uint32_t c;
			size_t n = read_utf8((const unsigned char *) json + i, len - i,
								 &c);

			if (n == 0)
			{
				*pos = i;
				return TEGRO_BODY_NOT_UTF8;
			}
			if (c >= 0x10000)
			{
				c -= 0x10000;
				o = write_escape(o, 0xd800 + (c >> 10));
				o = write_escape(o, 0xdc00 + (c & 0x3ff));
			}
			else
				o = write_escape(o, c);
			i += n;
		}
	}
	if (i >= len)
		return TEGRO_BODY_NOT_JSON;
	*o++ = '"';
	*pos = i + 1;
	*out = o;
	return TEGRO_BODY_OK;
}

TegroBodyStatus
tegro_body_write(const char *json, size_t json_len, char *out, size_t *out_len,
				 size_t *fault, size_t *fault_len)
{
	char *o = out;
	size_t i = 0;
	int depth = 0;
	TegroBodyStatus status = TEGRO_BODY_OK;

	*out_len = 0;
	*fault = 0;
	*fault_len = 0;

	while (i < json_len)
	{
		char c = json[i];

		if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
			i++;
		else if (c == '"')
		{
			*fault = i;
			status = write_string(json, json_len, &i, &o);
			if (status != TEGRO_BODY_OK)
			{
				*fault = i;
				return status;
			}
		}
		else if (c == '-' || is_digit(c))
		{
			size_t start = i;

			while (i < json_len &&
				   (is_digit(json[i]) || json[i] == '-' || json[i] == '+' ||
					json[i] == '.' || json[i] == 'e' || json[i] == 'E'))
				i++;
			status = write_number(json + start, i - start, &o);
			if (status != TEGRO_BODY_OK)
			{
				*fault = start;
				*fault_len = i - start;
				return status;
			}
		}
		else if (c == '{' || c == '[')
		{
			*fault = i;
			if (++depth > TEGRO_BODY_MAX_DEPTH)
				return TEGRO_BODY_TOO_DEEP;
			*o++ = json[i++];
		}
		else if (c == '}' || c == ']')
		{
			depth--;
			*o++ = json[i++];
		}
		else if (c == ',' || c == ':' || (c >= 'a' && c <= 'z'))
			*o++ = json[i++]; /* true, false, null, by letter */
		else
		{
			*fault = i;
			return TEGRO_BODY_NOT_JSON;
		}
	}
	*out_len = (size_t) (o - out);
	return TEGRO_BODY_OK;
}
