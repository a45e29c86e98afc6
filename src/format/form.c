/*-------------------------------------------------------------------------
 *
 * form.c
 *		The body of a notification, whichever way it is written.
 *
 * The provider does not document the content type.  PHP programs that receive
 * its notifications accept two types without saying so, a Telegram bot reads
 * multipart alone, and one program reads JSON.  The Content-Type header often
 * gets lost on the way, or a proxy changes it, so the body itself decides:
 *
 *		--boundary CRLF			multipart/form-data
 *		{						JSON, after blanks as JSON has them
 *		anything else			application/x-www-form-urlencoded
 *
 * No body is valid in two of these ways: query.c allows no name that begins
 * with "-" or "{".
 *
 * The file knows nothing of PostgreSQL, so that it can be fuzzed alone.
 *
 *-------------------------------------------------------------------------
 */
#include "src/format/form.h"

#include <string.h>

#include "src/format/multipart.h"

TegroFormKind
tegro_form_kind(const char *body, size_t len)
{
	size_t i = 0;

	if (tegro_multipart_is(body, len))
		return TEGRO_FORM_MULTIPART;
	while (i < len && body[i] != '\0' && strchr(" \t\r\n", body[i]) != NULL)
		i++;
	return i < len && body[i] == '{' ? TEGRO_FORM_JSON : TEGRO_FORM_URLENCODED;
}

TegroQueryStatus
tegro_form_read(char *body, size_t len, TegroQueryField *fields,
				size_t *nfields)
{
	*nfields = 0;
	if (len > TEGRO_FORM_MAX_LEN)
		return TEGRO_QUERY_TOO_LONG;
	switch (tegro_form_kind(body, len))
	{
		case TEGRO_FORM_JSON:
			return TEGRO_QUERY_IS_JSON;
		case TEGRO_FORM_MULTIPART:
			return tegro_multipart_read(body, len, fields, nfields);
		case TEGRO_FORM_URLENCODED:
			break;
	}
	/* whoever writes this type escapes all that is not ASCII */
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) body[i] >= 0x80)
			return TEGRO_QUERY_NOT_TEXT;
	}
	return tegro_query_read(body, len, fields, nfields);
}
