/*-------------------------------------------------------------------------
 *
 * credentials.c
 *		The lines of a credentials file.
 *
 * The file is written as .pgpass is, which administrators know:
 *
 *		shop_id:role:api_key:secret_key
 *
 * A backslash takes the character behind it as it is, so that a key may have
 * a colon or a backslash.  Lines that are empty or begin with "#" are passed
 * over; a carriage return in front of a line break is not part of the line, nor
 * is a byte order mark in front of the first, which nobody sees.
 *
 * The fields stay where they are, in the bytes of the file: no key is copied,
 * so whoever zeroes these bytes has zeroed all of them.
 *
 * Which file, whether it may be used, and which of its lines fits is decided
 * in settings.c.  This knows nothing of PostgreSQL, so that it can be tested
 * and fuzzed alone.
 *
 *-------------------------------------------------------------------------
 */
#include "src/format/credentials.h"

#include <stdbool.h>
#include <string.h>

#define NFIELDS 4

/* What some editors put in front of text in UTF-8. */
#define BOM		"\xef\xbb\xbf"
#define BOM_LEN 3

/*
 * Takes a line of "len" bytes apart.  line[len] may be written.  Returns false
 * if it doesn't have exactly NFIELDS fields.
 */
static bool
split(char *line, size_t len, const char *fields[NFIELDS])
{
	char *to = line;
	int n = 0;

	fields[n++] = line;
	for (size_t i = 0; i < len; i++)
	{
		if (line[i] == '\\' && i + 1 < len)
			*to++ = line[++i];
		else if (line[i] == ':')
		{
			if (n == NFIELDS)
				return false;
			*to++ = '\0';
			fields[n++] = to;
		}
		else
			*to++ = line[i];
	}
	*to = '\0';
	return n == NFIELDS;
}

TegroCredentialsStatus
tegro_credentials_next(TegroCredentialsReader *reader,
					   TegroCredentialsLine *line)
{
	if (reader->pos == 0 && reader->len > 0 &&
		memchr(reader->bytes, '\0', reader->len) != NULL)
		return TEGRO_CREDENTIALS_HAS_NUL;
	if (reader->pos == 0 && reader->len >= BOM_LEN &&
		memcmp(reader->bytes, BOM, BOM_LEN) == 0)
		reader->pos = BOM_LEN;

	while (reader->pos < reader->len)
	{
		char *start = reader->bytes + reader->pos;
		size_t rest = reader->len - reader->pos;
		char *end = memchr(start, '\n', rest);
		size_t len = end ? (size_t) (end - start) : rest;
		const char *fields[NFIELDS];

		reader->line_number++;
		reader->pos += end ? len + 1 : len;
		if (len > 0 && start[len - 1] == '\r')
			len--;
		if (len == 0 || *start == '#')
			continue;
		if (!split(start, len, fields) || *fields[2] == '\0')
			return TEGRO_CREDENTIALS_BAD_LINE;
		*line = (TegroCredentialsLine){fields[0], fields[1], fields[2],
									   fields[3]};
		return TEGRO_CREDENTIALS_LINE;
	}
	return TEGRO_CREDENTIALS_END;
}
