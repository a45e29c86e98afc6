/*
 * text.c
 *		Growing byte buffers, and the ways in which the sandbox writes into them.
 *
 * The sandbox writes its answers itself, rather than through jansson, for two
 * reasons: jansson writes \u00E9 where PHP writes \u00e9, and a page of a
 * hundred orders would cost over a thousand allocations.
 *
 * Hazard: a buffer holds bytes, not a string.  Nothing terminates it.
 */
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nettle/base64.h>

/* Room that a buffer starts with: most answers fit without growing. */
#define FIRST_CAPACITY_BYTES 256

void *
must_reallocate(void *memory, size_t size)
{
	void *result = realloc(memory, size == 0 ? 1 : size);

	if (result == NULL)
	{
		fputs("tegro-sandbox: out of memory\n", stderr);
		exit(1);
	}
	return result;
}

void *
must_allocate(size_t size)
{
	return must_reallocate(NULL, size);
}

void
text_reserve(struct text *text, size_t more)
{
	size_t capacity = text->capacity;

	if (text->capacity - text->length >= more)
		return;
	if (capacity == 0)
		capacity = FIRST_CAPACITY_BYTES;
	while (capacity - text->length < more)
		capacity *= 2;
	text->data = must_reallocate(text->data, capacity);
	text->capacity = capacity;
}

void
text_append(struct text *text, const void *bytes, size_t length)
{
	if (length == 0)
		return;
	text_reserve(text, length);
	memcpy(text->data + text->length, bytes, length);
	text->length += length;
}

void
text_string(struct text *text, const char *string)
{
	text_append(text, string, strlen(string));
}

void
text_byte(struct text *text, char byte)
{
	text_append(text, &byte, 1);
}

void
text_integer(struct text *text, int64_t value)
{
	char digits[24];
	char *next = digits + sizeof(digits);
	uint64_t rest = value < 0 ? 0 - (uint64_t) value : (uint64_t) value;

	do
	{
		*--next = (char) ('0' + rest % 10);
		rest /= 10;
	} while (rest > 0);
	if (value < 0)
		*--next = '-';
	text_append(text, next, (size_t) (digits + sizeof(digits) - next));
}

/*
 * Reads one character of UTF-8 and returns its length, or 0 where the bytes
 * are none: overlong forms, surrogates and numbers above U+10FFFF included.
 */
static size_t
read_character(const unsigned char *bytes, size_t length, uint32_t *character)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t size;
	uint32_t value;

	if (bytes[0] < 0x80)
	{
		*character = bytes[0];
		return 1;
	}
	if (bytes[0] >= 0xc2 && bytes[0] <= 0xdf)
	{
		size = 2;
		value = bytes[0] & 0x1f;
	}
	else if ((bytes[0] & 0xf0) == 0xe0)
	{
		size = 3;
		value = bytes[0] & 0x0f;
	}
	else if (bytes[0] >= 0xf0 && bytes[0] <= 0xf4)
	{
		size = 4;
		value = bytes[0] & 0x07;
	}
	else
		return 0;
	if (size > length)
		return 0;
	for (size_t i = 1; i < size; i++)
	{
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (bytes[i] & 0x3f);
	}
	if (value < least[size] || value > 0x10ffff ||
		(value >= 0xd800 && value <= 0xdfff))
		return 0;
	*character = value;
	return size;
}

/* Appends \uXXXX for one UTF-16 unit. */
static void
append_unit(struct text *text, uint32_t unit)
{
	static const char hex[] = "0123456789abcdef";
	char escape[6] = {'\\',
					  'u',
					  hex[unit >> 12 & 15],
					  hex[unit >> 8 & 15],
					  hex[unit >> 4 & 15],
					  hex[unit & 15]};

	text_append(text, escape, sizeof(escape));
}

/* Appends one character of a JSON string. */
static void
append_character(struct text *text, uint32_t character)
{
	switch (character)
	{
		case '"':
			text_append(text, "\\\"", 2);
			return;
		case '\\':
			text_append(text, "\\\\", 2);
			return;
		case '/':
			text_append(text, "\\/", 2);
			return;
		case '\b':
			text_append(text, "\\b", 2);
			return;
		case '\f':
			text_append(text, "\\f", 2);
			return;
		case '\n':
			text_append(text, "\\n", 2);
			return;
		case '\r':
			text_append(text, "\\r", 2);
			return;
		case '\t':
			text_append(text, "\\t", 2);
			return;
		default:
			break;
	}
	if (character >= 0x10000)
	{
		append_unit(text, 0xd7c0 + (character >> 10));
		append_unit(text, 0xdc00 + (character & 0x3ff));
	}
	else if (character < 0x20 || character > 0x7f)
		append_unit(text, character);
	else
		text_byte(text, (char) character);
}

/* Says which ASCII bytes stand for themselves in a JSON string. */
static bool
is_plain(unsigned char byte)
{
	return byte >= 0x20 && byte <= 0x7f && byte != '"' && byte != '\\' &&
		byte != '/';
}

bool
text_json(struct text *text, const char *bytes, size_t length)
{
	const unsigned char *input = (const unsigned char *) bytes;
	size_t before = text->length;
	size_t position = 0;

	text_byte(text, '"');
	while (position < length)
	{
		size_t run = position;
		uint32_t character;
		size_t size;

		/* Bodies are nearly all plain ASCII: copy that in runs. */
		while (run < length && is_plain(input[run]))
			run++;
		text_append(text, bytes + position, run - position);
		position = run;
		if (position == length)
			break;
		size = read_character(input + position, length - position, &character);
		if (size == 0)
		{
			text->length = before;
			return false;
		}
		append_character(text, character);
		position += size;
	}
	text_byte(text, '"');
	return true;
}

void
text_json_any(struct text *text, const char *bytes, size_t length)
{
	if (text_json(text, bytes, length))
		return;
	text_byte(text, '"');
	for (size_t i = 0; i < length; i++)
		append_character(text, (unsigned char) bytes[i]);
	text_byte(text, '"');
}

void
text_base64(struct text *text, const char *bytes, size_t length)
{
	size_t size = BASE64_ENCODE_RAW_LENGTH(length);

	text_reserve(text, size);
	base64_encode_raw(text->data + text->length, length,
					  (const uint8_t *) bytes);
	text->length += size;
}

void
text_form(struct text *text, const char *bytes, size_t length)
{
	static const char hex[] = "0123456789ABCDEF";

	for (size_t i = 0; i < length; i++)
	{
		unsigned char byte = (unsigned char) bytes[i];

		if ((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
			(byte >= 'a' && byte <= 'z') || byte == '-' || byte == '_' ||
			byte == '.')
			text_byte(text, (char) byte);
		else if (byte == ' ')
			text_byte(text, '+');
		else
		{
			char escape[3] = {'%', hex[byte >> 4], hex[byte & 15]};

			text_append(text, escape, sizeof(escape));
		}
	}
}

void
text_timestamp(struct text *text, int64_t seconds)
{
	time_t moment = (time_t) seconds;
	struct tm parts;
	char stamp[32];

	gmtime_r(&moment, &parts);
	/* strftime sets it: cppcheck-suppress uninitvar */
	text_append(text, stamp,
				strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &parts));
}

void
text_free(struct text *text)
{
	free(text->data);
	*text = (struct text){0};
}
