/*-------------------------------------------------------------------------
 *
 * form.c
 *		Fuzzes how the body of a notification is told apart and read.
 *
 * No body may be valid in two ways, and the text that is signed must read as
 * the fields that were taken.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "src/format/form.h"
#include "src/format/multipart.h"

#include "parts.h"

/* Reads as one way of writing a form, whatever it is; is it valid? */
static bool
is_valid(TegroFormKind kind, const uint8_t *data, size_t size)
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	char *body = just_copy(data, size);
	size_t nfields = 0;
	bool valid;

	if (kind == TEGRO_FORM_MULTIPART)
		valid = tegro_multipart_read(body, size, fields, &nfields) ==
			TEGRO_QUERY_OK;
	else
		valid = tegro_query_read(body, size, fields, &nfields) ==
			TEGRO_QUERY_OK;
	valid = valid && tegro_query_sort(fields, nfields) == TEGRO_QUERY_OK;
	free(body);
	return valid && nfields > 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	TegroQueryField again[TEGRO_QUERY_MAX_FIELDS];
	char *body = just_copy(data, size);
	char *long_body;
	size_t nfields, nagain;
	TegroFormKind kind = tegro_form_kind(body, size);
	TegroQueryStatus status = tegro_form_read(body, size, fields, &nfields);

	MUST((status == TEGRO_QUERY_IS_JSON) == (kind == TEGRO_FORM_JSON));
	MUST(kind == TEGRO_FORM_MULTIPART ||
		 !is_valid(TEGRO_FORM_MULTIPART, data, size));
	MUST(kind == TEGRO_FORM_URLENCODED ||
		 !is_valid(TEGRO_FORM_URLENCODED, data, size));

	if (status == TEGRO_QUERY_OK &&
		tegro_query_sort(fields, nfields) == TEGRO_QUERY_OK)
	{
		size_t len = tegro_query_room(fields, nfields);
		char *text = just(len);

		for (size_t i = 0; i < nfields; i++)
			MUST(fields[i].name_len <= TEGRO_QUERY_MAX_NAME_LEN &&
				 fields[i].value_len <= TEGRO_QUERY_MAX_VALUE_LEN);
		len = tegro_query_write(fields, nfields, text);
		MUST(tegro_form_kind(text, len) == TEGRO_FORM_URLENCODED);
		MUST(tegro_form_read(text, len, again, &nagain) == TEGRO_QUERY_OK);
		MUST(same_fields(fields, nfields, again, nagain));
		free(text);
	}

	/* nothing is read of what is too long */
	long_body = just(TEGRO_FORM_MAX_LEN + 1);
	memset(long_body, 'a', TEGRO_FORM_MAX_LEN + 1);
	memcpy(long_body, data, size);
	MUST(tegro_form_read(long_body, TEGRO_FORM_MAX_LEN + 1, again, &nagain) ==
			 TEGRO_QUERY_TOO_LONG &&
		 nagain == 0);
	free(long_body);
	free(body);
	return 0;
}
