/*-------------------------------------------------------------------------
 *
 * query.c
 *		Form encoding, both ways, as PHP reads and writes it.
 *
 * Payment links and notifications are signed over the text that PHP's
 *
 *		ksort($fields); http_build_query($fields)
 *
 * makes of their fields.  A link is written by us and read by the provider;
 * a notification is written by the provider, decoded, and written again by us
 * to see whether the signature is over that text.
 *
 * A field is a flat name and a value.  Nested arrays need nothing else: PHP
 * writes ['receipt' => ['items' => [['name' => 'Tea']]]] as the name
 * "receipt[items][0][name]", encoded as a whole.
 *
 * What a signature is over must mean one thing only.  Between them, names and
 * values can't be confused: what is encoded never holds "&" or "=", so a text
 * stands for one list of names and values.  What could be confused is the
 * list: for the provider, who wrote it, and for us.  So a form is refused
 *
 *	- in which a name occurs twice, or "a" and "a[b]" both: PHP keeps the last;
 *	- in which an array's elements don't stand together: PHP would move them;
 *	- with "a[]", which PHP numbers, with blanks behind a bracket, which it
 *	  drops, and with brackets that don't match;
 *	- with a name that does not begin with a letter or "_": PHP makes integers
 *	  of numbers, and orders them by rules that have changed from version to
 *	  version and are no order ("1e1", "10");
 *	- with other characters in an outermost name than letters, digits, "_", "-"
 *	  and ".": PHP renames what has a space in it;
 *	- with "%" that is no escape, which PHP takes for itself;
 *	- with a NUL or bytes that are not UTF-8, where texts end or are rewritten
 *	  in one program and not in another.
 *
 * Of the names that are left, PHP's ksort() makes plain byte order.
 *
 * The file knows nothing of PostgreSQL, so that it can be tested and fuzzed
 * against PHP without a server.
 *
 *-------------------------------------------------------------------------
 */
#include "src/format/query.h"

#include <string.h>

/*
 * Significant digits of a double that http_build_query() writes: PHP's
 * setting "precision", 14 unless someone changed it.
 */
#define PHP_PRECISION 14

/* Zeros between the point and the first digit; with more, PHP writes 1.0E-5. */
#define PHP_MAX_LEADING_ZEROS 3

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

size_t
tegro_query_encode(const char *bytes, size_t len, char *out)
{
	static const char hex[] = "0123456789ABCDEF";
	char *o = out;

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (is_letter((char) c) || is_digit((char) c) || c == '-' || c == '.')
			*o++ = (char) c;
		else if (c == ' ')
			*o++ = '+';
		else
		{
			*o++ = '%';
			*o++ = hex[c >> 4];
			*o++ = hex[c & 0x0f];
		}
	}
	return (size_t) (o - out);
}

/* The value of a hex digit, or -1. */
static int
hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Bytes of the UTF-8 character that begins here; 0 if there is none. */
static size_t
utf8_length(const unsigned char *s, size_t len)
{
	size_t need = s[0] < 0x80		   ? 1
		: s[0] >= 0xc2 && s[0] <= 0xdf ? 2
		: s[0] >= 0xe0 && s[0] <= 0xef ? 3
		: s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
									   : 0;

	if (need == 0 || len < need)
		return 0;
	for (size_t i = 1; i < need; i++)
	{
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	/* overlong, surrogates, above U+10FFFF */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return need;
}

bool
tegro_query_is_text(const char *bytes, size_t len)
{
	size_t i = 0;

	while (i < len)
	{
		size_t n = bytes[i] == '\0'
			? 0
			: utf8_length((const unsigned char *) bytes + i, len - i);

		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

/* Decodes bytes in place. */
static TegroQueryStatus
decode(char *bytes, size_t *len)
{
	char *o = bytes;

	for (size_t i = 0; i < *len; i++)
	{
		if (bytes[i] == '+')
			*o++ = ' ';
		else if (bytes[i] == '%')
		{
			int high = i + 2 < *len ? hex_value(bytes[i + 1]) : -1;
			int low = i + 2 < *len ? hex_value(bytes[i + 2]) : -1;

			if (high < 0 || low < 0)
				return TEGRO_QUERY_BAD_ESCAPE;
			*o++ = (char) (high << 4 | low);
			i += 2;
		}
		else
			*o++ = bytes[i];
	}
	*len = (size_t) (o - bytes);
	return tegro_query_is_text(bytes, *len) ? TEGRO_QUERY_OK
											: TEGRO_QUERY_NOT_TEXT;
}

TegroQueryStatus
tegro_query_read(char *body, size_t len, TegroQueryField *fields,
				 size_t *nfields)
{
	size_t i = 0;

	*nfields = 0;
	while (i < len)
	{
		char *name = body + i;
		char *end = memchr(name, '&', len - i);
		size_t pair_len = end ? (size_t) (end - name) : len - i;
		char *equals = memchr(name, '=', pair_len);
		char *value = equals ? equals + 1 : name + pair_len;
		size_t name_len = equals ? (size_t) (equals - name) : pair_len;
		size_t value_len = (size_t) (name + pair_len - value);
		TegroQueryStatus status;

		i += pair_len + 1;
		if (pair_len == 0)
			continue; /* "&&", as PHP does */
		if (*nfields == TEGRO_QUERY_MAX_FIELDS)
			return TEGRO_QUERY_TOO_MANY;
		status = decode(name, &name_len);
		if (status == TEGRO_QUERY_OK)
			status = decode(value, &value_len);
		if (status != TEGRO_QUERY_OK)
			return status;
		fields[(*nfields)++] = (TegroQueryField){name, name_len, value,
												 value_len};
	}
	return TEGRO_QUERY_OK;
}

/* Length of a name's outermost part, "receipt" of "receipt[items]". */
static size_t
outer_length(const TegroQueryField *field)
{
	const char *bracket = memchr(field->name, '[', field->name_len);

	return bracket ? (size_t) (bracket - field->name) : field->name_len;
}

static int
compare_outer(const TegroQueryField *a, const TegroQueryField *b)
{
	size_t a_len = outer_length(a);
	size_t b_len = outer_length(b);
	int order = memcmp(a->name, b->name, a_len < b_len ? a_len : b_len);

	return order != 0 ? order : a_len < b_len ? -1 : a_len > b_len;
}

/* Can the name be read in one way only?  See the head of this file. */
static bool
is_plain_name(const TegroQueryField *field)
{
	size_t outer_len = outer_length(field);
	size_t i = outer_len;

	if (outer_len == 0 || !is_letter(field->name[0]))
		return false;
	for (size_t k = 1; k < outer_len; k++)
	{
		char c = field->name[k];

		if (!is_letter(c) && !is_digit(c) && c != '-' && c != '.')
			return false;
	}
	/* [x][y]..., each with something in it */
	while (i < field->name_len)
	{
		size_t start = ++i;

		while (i < field->name_len && field->name[i] != '[' &&
			   field->name[i] != ']')
			i++;
		if (i == start || i == field->name_len || field->name[i] != ']' ||
			memchr(" \t\r\n", field->name[start], 4) != NULL)
			return false;
		i++;
		if (i < field->name_len && field->name[i] != '[')
			return false;
	}
	return true;
}

/*
 * Is the name of "a" the beginning of that of "b", as "x[a]" is of "x[a][b]"?
 * The same name counts.
 */
static bool
contains(const TegroQueryField *a, const TegroQueryField *b)
{
	return a->name_len <= b->name_len &&
		memcmp(a->name, b->name, a->name_len) == 0 &&
		(a->name_len == b->name_len || b->name[a->name_len] == '[');
}

/* How much of their names two fields share, in whole brackets. */
static size_t
common_path(const TegroQueryField *a, const TegroQueryField *b)
{
	size_t common = 0;

	for (size_t i = 0;; i++)
	{
		bool a_ends = i == a->name_len || a->name[i] == '[';
		bool b_ends = i == b->name_len || b->name[i] == '[';

		if (a_ends && b_ends)
			common = i;
		if (i == a->name_len || i == b->name_len || a->name[i] != b->name[i])
			return common;
	}
}

TegroQueryStatus
tegro_query_sort(TegroQueryField *fields, size_t nfields)
{
	for (size_t i = 0; i < nfields; i++)
	{
		if (fields[i].name_len > TEGRO_QUERY_MAX_NAME_LEN ||
			fields[i].value_len > TEGRO_QUERY_MAX_VALUE_LEN)
			return TEGRO_QUERY_TOO_LONG;
		if (!is_plain_name(&fields[i]))
			return TEGRO_QUERY_BAD_NAME;
		for (size_t k = 0; k < i; k++)
		{
			if (contains(&fields[i], &fields[k]) ||
				contains(&fields[k], &fields[i]))
				return TEGRO_QUERY_REPEATED;
			/* elements of one array with something else between them */
			if (i > 0 && k < i - 1 &&
				common_path(&fields[k], &fields[i]) >
					common_path(&fields[i - 1], &fields[i]))
				return TEGRO_QUERY_BAD_NAME;
		}
	}

	/* stable: the elements of an array stay in their order */
	for (size_t i = 1; i < nfields; i++)
	{
		TegroQueryField field = fields[i];
		size_t k = i;

		for (; k > 0 && compare_outer(&fields[k - 1], &field) > 0; k--)
			fields[k] = fields[k - 1];
		fields[k] = field;
	}
	return TEGRO_QUERY_OK;
}

size_t
tegro_query_room(const TegroQueryField *fields, size_t nfields)
{
	size_t room = 0;

	for (size_t i = 0; i < nfields; i++)
		room += TEGRO_QUERY_BOUND(fields[i].name_len + fields[i].value_len) +
			2;
	return room;
}

size_t
tegro_query_write(const TegroQueryField *fields, size_t nfields, char *out)
{
	char *o = out;

	for (size_t i = 0; i < nfields; i++)
	{
		if (i > 0)
			*o++ = '&';
		o += tegro_query_encode(fields[i].name, fields[i].name_len, o);
		*o++ = '=';
		o += tegro_query_encode(fields[i].value, fields[i].value_len, o);
	}
	return (size_t) (o - out);
}

const TegroQueryField *
tegro_query_find(const TegroQueryField *fields, size_t nfields,
				 const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < nfields; i++)
	{
		if (fields[i].name_len == len &&
			memcmp(fields[i].name, name, len) == 0)
			return &fields[i];
	}
	return NULL;
}

bool
tegro_query_is_amount(const char *text, size_t len)
{
	size_t i = 0;
	size_t point;

	while (i < len && is_digit(text[i]))
		i++;
	if (i == 0)
		return false;
	if (i == len)
		return true;
	point = i++;
	while (i < len && is_digit(text[i]))
		i++;
	return text[point] == '.' && i == len && i > point + 1;
}

TegroQueryStatus
tegro_query_number(const char *text, size_t len, char *out, size_t *out_len)
{
	size_t sign = len > 0 && text[0] == '-';
	const char *point = memchr(text, '.', len);
	size_t significant = 0;
	size_t zeros = 0; /* behind the last digit that is none */
	size_t leading = 0;
	bool past_point = false;

	*out_len = 0;
	if (!tegro_query_is_amount(text + sign, len - sign))
		return TEGRO_QUERY_LOSES_DIGITS;

	/* a double that is whole has no point in PHP: 100.00 is 100 */
	if (point)
	{
		while (text[len - 1] == '0')
			len--;
		if (text[len - 1] == '.')
			len--;
	}
	if (len <= (point ? (size_t) (point - text) : len))
	{
		static const char limit[] = "9223372036854775807";
		size_t ndigits = len - sign;

		/* one end of the integers is refused too: PHP reads it as a double */
		if (ndigits > sizeof(limit) - 1 ||
			(ndigits == sizeof(limit) - 1 &&
			 memcmp(text + sign, limit, ndigits) > 0))
			return TEGRO_QUERY_LOSES_DIGITS;
		memcpy(out, text, len);
		*out_len = len;
		return TEGRO_QUERY_OK;
	}

	for (size_t i = sign; i < len; i++)
	{
		if (text[i] == '.')
			past_point = true;
		else if (text[i] == '0' && significant == 0)
			leading += past_point;
		else if (text[i] == '0')
			zeros++;
		else
		{
			significant += zeros + 1;
			zeros = 0;
		}
	}
	if (significant > PHP_PRECISION || leading > PHP_MAX_LEADING_ZEROS)
		return TEGRO_QUERY_LOSES_DIGITS;
	memcpy(out, text, len);
	*out_len = len;
	return TEGRO_QUERY_OK;
}
