/*-------------------------------------------------------------------------
 *
 * multipart.c
 *		Fuzzes the reader of multipart/form-data.
 *
 * A body that is taken has one list of fields.  It must be the same when that
 * list is written anew, as multipart and as the urlencoded text that is signed.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "src/format/multipart.h"

#include "parts.h"

/* Written anew, the fields are the same. */
static void
check_again(const TegroQueryField *fields, size_t nfields)
{
	TegroQueryField again[TEGRO_QUERY_MAX_FIELDS];
	size_t nagain, len;
	char *body;

	body = nfields > 0 ? write_parts(fields, nfields, &len) : NULL;
	if (body != NULL)
	{
		char *exact = just_copy((uint8_t *) body, len);

		MUST(tegro_multipart_is(exact, len));
		MUST(tegro_multipart_read(exact, len, again, &nagain) ==
			 TEGRO_QUERY_OK);
		MUST(same_fields(fields, nfields, again, nagain));
		/* cut short, it is none */
		MUST(tegro_multipart_read(exact, len - 1, again, &nagain) !=
			 TEGRO_QUERY_OK);
		free(exact);
		free(body);
	}

	len = tegro_query_room(fields, nfields);
	body = just(len);
	len = tegro_query_write(fields, nfields, body);
	MUST(tegro_query_read(body, len, again, &nagain) == TEGRO_QUERY_OK);
	MUST(same_fields(fields, nfields, again, nagain));
	free(body);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	char *body = just_copy(data, size);
	size_t nfields;

	if (tegro_multipart_read(body, size, fields, &nfields) == TEGRO_QUERY_OK)
	{
		MUST(tegro_multipart_is(body, size));
		MUST(nfields > 0 && nfields <= TEGRO_QUERY_MAX_FIELDS);
		for (size_t i = 0; i < nfields; i++)
		{
			MUST(fields[i].name >= body && fields[i].name_len > 0 &&
				 fields[i].name + fields[i].name_len < fields[i].value);
			MUST(fields[i].value + fields[i].value_len <= body + size);
			MUST(tegro_query_is_text(fields[i].value, fields[i].value_len));
			MUST(i == 0 ||
				 fields[i - 1].value + fields[i - 1].value_len <
					 fields[i].name);
		}
		check_again(fields, nfields);
	}

	/* and the fields of any other form, as multipart */
	if (tegro_query_read(body, size, fields, &nfields) == TEGRO_QUERY_OK &&
		tegro_query_sort(fields, nfields) == TEGRO_QUERY_OK)
		check_again(fields, nfields);
	free(body);
	return 0;
}
