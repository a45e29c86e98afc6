/*-------------------------------------------------------------------------
 *
 * multipart.c
 *		Reads multipart/form-data (RFC 7578), the strict part of it.
 *
 *		--boundary CRLF
 *		Content-Disposition: form-data; name="order_id" CRLF
 *		CRLF
 *		123 CRLF
 *		--boundary-- CRLF
 *
 * The boundary is the body's own first line, since the header that names it
 * does not reach us.  That gives a sender no choice: a body has one first line.
 *
 * A body has one reading here or none.  These are refused:
 *
 *	- text before the first boundary or after the last, white space after a
 *	  boundary, lines that end in a bare CR or LF;
 *	- a line in a value that begins with the boundary and goes on;
 *	- a body without its last boundary: it was cut short;
 *	- a part without a name or with two, and a part with a parameter other than
 *	  its name.  So files (filename=) are refused;
 *	- a backslash or "%" in a name: some programs unescape these, others do not;
 *	- folded header lines, and a Content-Transfer-Encoding that changes bytes.
 *
 * Other headers of a part are ignored, as the RFC demands.  PHP ignores the
 * charset of a part, and so do we: a value must be UTF-8.
 *
 * query.c decides which names are allowed, and that no name occurs twice.
 *
 * The file knows nothing of PostgreSQL, so that it can be fuzzed alone.
 *
 *-------------------------------------------------------------------------
 */
#include "src/format/multipart.h"

#include <string.h>
#include <strings.h>

/* Longest boundary that RFC 2046 allows. */
#define MAX_BOUNDARY_LEN 70

/*
 * Most header lines of a part, and bytes of one.  Clients send up to four, of
 * some 80 bytes; a name has at most TEGRO_QUERY_MAX_NAME_LEN.
 */
#define MAX_HEADERS	   8
#define MAX_HEADER_LEN 512

/* Bytes that are left to be read. */
typedef struct Rest
{
	const char *at;
	const char *end;
} Rest;

static size_t
rest_len(const Rest *rest)
{
	return (size_t) (rest->end - rest->at);
}

/* Skips a text if the rest begins with it. */
static bool
skip(Rest *rest, const char *text, size_t len)
{
	if (rest_len(rest) < len || memcmp(rest->at, text, len) != 0)
		return false;
	rest->at += len;
	return true;
}

static bool
skip_line_end(Rest *rest)
{
	return skip(rest, "\r\n", 2);
}

static void
skip_blanks(Rest *rest)
{
	while (rest->at < rest->end && (*rest->at == ' ' || *rest->at == '\t'))
		rest->at++;
}

static bool
is_alphanumeric(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
		(c >= 'A' && c <= 'Z');
}

/* Characters of a boundary (RFC 2046); a NUL is none. */
static bool
is_boundary_character(char c)
{
	return is_alphanumeric(c) || (c != '\0' && strchr("'()+_,-./:=? ", c));
}

/* Characters of a token (RFC 7230), as header names are; a NUL is none. */
static bool
is_token_character(char c)
{
	return is_alphanumeric(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static bool
equals(const Rest *rest, const char *word)
{
	return rest_len(rest) == strlen(word) &&
		strncasecmp(rest->at, word, strlen(word)) == 0;
}

/* Takes a token; it is empty if there is none. */
static Rest
take_token(Rest *rest)
{
	Rest token = {rest->at, rest->at};

	while (rest->at < rest->end && is_token_character(*rest->at))
		rest->at++;
	token.end = rest->at;
	return token;
}

/* Takes the first line, "--" and the boundary, and what ends it. */
static bool
take_first_line(Rest *rest, Rest *line)
{
	size_t len;

	line->at = rest->at;
	if (!skip(rest, "--", 2))
		return false;
	while (rest->at < rest->end && is_boundary_character(*rest->at))
		rest->at++;
	line->end = rest->at;
	len = rest_len(line) - 2;
	return len > 0 && len <= MAX_BOUNDARY_LEN && line->end[-1] != ' ' &&
		skip_line_end(rest);
}

/*
 * The name in "form-data; name=...", which the rest is all of; false if it is
 * anything else.
 */
static bool
read_disposition(Rest *rest, TegroQueryField *field)
{
	Rest word = take_token(rest);
	const char *quote;

	if (!equals(&word, "form-data"))
		return false;
	skip_blanks(rest);
	if (!skip(rest, ";", 1))
		return false;
	skip_blanks(rest);
	word = take_token(rest);
	if (!equals(&word, "name") || !skip(rest, "=", 1))
		return false;

	if (skip(rest, "\"", 1))
	{
		quote = memchr(rest->at, '"', rest_len(rest));
		if (quote == NULL)
			return false;
		word = (Rest){rest->at, quote};
		rest->at = quote + 1;
	}
	else
		word = take_token(rest);
	skip_blanks(rest);
	field->name = word.at;
	field->name_len = rest_len(&word);
	return field->name_len > 0 &&
		memchr(field->name, '\\', field->name_len) == NULL &&
		memchr(field->name, '%', field->name_len) == NULL &&
		rest->at == rest->end; /* no filename=, and no second name */
}

/* Do the bytes of a part stand as they are? */
static bool
is_identity(Rest *rest)
{
	Rest word = take_token(rest);

	skip_blanks(rest);
	return rest->at == rest->end &&
		(equals(&word, "7bit") || equals(&word, "8bit") ||
		 equals(&word, "binary"));
}

/* Takes a line of printable ASCII and tabs, without its end. */
static bool
take_header_line(Rest *rest, Rest *line)
{
	line->at = rest->at;
	while (rest->at < rest->end &&
		   ((*rest->at >= 0x20 && *rest->at < 0x7f) || *rest->at == '\t'))
		rest->at++;
	line->end = rest->at;
	return rest_len(line) <= MAX_HEADER_LEN && skip_line_end(rest);
}

/* Takes the headers of a part, and the empty line that ends them. */
static bool
take_headers(Rest *rest, TegroQueryField *field)
{
	Rest line;

	field->name = NULL;
	for (int i = 0; i <= MAX_HEADERS; i++)
	{
		Rest name;

		if (!take_header_line(rest, &line))
			return false;
		if (line.at == line.end)
			return field->name != NULL;

		name = take_token(&line);
		if (name.at == name.end || !skip(&line, ":", 1))
			return false; /* a folded line has no name */
		skip_blanks(&line);
		if (equals(&name, "Content-Disposition"))
		{
			if (field->name != NULL || !read_disposition(&line, field))
				return false;
		}
		else if (equals(&name, "Content-Transfer-Encoding") &&
				 !is_identity(&line))
			return false;
	}
	return false;
}

/* Takes all up to CRLF and the boundary's line, and these. */
static bool
take_value(Rest *rest, const Rest *boundary, TegroQueryField *field)
{
	size_t len = rest_len(boundary);

	field->value = rest->at;
	while (rest->at < rest->end)
	{
		const char *cr = memchr(rest->at, '\r', rest_len(rest));

		if (cr == NULL)
			return false;
		field->value_len = (size_t) (cr - field->value);
		rest->at = cr;
		if (skip_line_end(rest) && skip(rest, boundary->at, len))
			return true;
		rest->at = cr + 1;
	}
	return false;
}

bool
tegro_multipart_is(const char *body, size_t len)
{
	Rest rest = {body, body + len};
	Rest boundary;

	return take_first_line(&rest, &boundary);
}

TegroQueryStatus
tegro_multipart_read(const char *body, size_t len, TegroQueryField *fields,
					 size_t *nfields)
{
	Rest rest = {body, body + len};
	Rest boundary;

	*nfields = 0;
	if (!take_first_line(&rest, &boundary))
		return TEGRO_QUERY_BAD_PART;
	for (;;)
	{
		TegroQueryField field;

		if (!take_headers(&rest, &field) ||
			!take_value(&rest, &boundary, &field))
			return TEGRO_QUERY_BAD_PART;
		if (*nfields == TEGRO_QUERY_MAX_FIELDS)
			return TEGRO_QUERY_TOO_MANY;
		if (!tegro_query_is_text(field.value, field.value_len))
			return TEGRO_QUERY_NOT_TEXT;
		fields[(*nfields)++] = field;

		if (skip_line_end(&rest))
			continue;
		if (!skip(&rest, "--", 2))
			return TEGRO_QUERY_BAD_PART;
		(void) skip_line_end(&rest);
		return rest.at == rest.end ? TEGRO_QUERY_OK : TEGRO_QUERY_BAD_PART;
	}
}
