/*-------------------------------------------------------------------------
 *
 * query.c
 *		Fuzzes src/format/query.c: a form that is taken is written so that it reads
 *		back as the same fields, and in that form nothing is left to choose.
 *
 * A signature is over the form as it is written; were there two lists of
 * fields that are written alike, one could be signed and the other be paid.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "src/format/query.h"

static void
check_fields(const TegroQueryField *fields, size_t nfields, const char *bytes,
			 size_t size)
{
	MUST(nfields <= TEGRO_QUERY_MAX_FIELDS);
	for (size_t i = 0; i < nfields; i++)
	{
		const TegroQueryField *field = &fields[i];

		MUST(field->name >= bytes &&
			 field->name + field->name_len <= bytes + size);
		MUST(field->value >= bytes &&
			 field->value + field->value_len <= bytes + size);
		MUST(memchr(field->name, '\0', field->name_len) == NULL);
		MUST(memchr(field->value, '\0', field->value_len) == NULL);
	}
}

static void
check_form(const uint8_t *data, size_t size)
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	TegroQueryField again[TEGRO_QUERY_MAX_FIELDS];
	char *form = just_copy(data, size);
	size_t nfields, nagain;

	if (tegro_query_read(form, size, fields, &nfields) == TEGRO_QUERY_OK)
	{
		check_fields(fields, nfields, form, size);
		if (tegro_query_sort(fields, nfields) == TEGRO_QUERY_OK)
		{
			size_t room = tegro_query_room(fields, nfields);
			char *out = just(room);
			size_t len = tegro_query_write(fields, nfields, out);
			char *exact = just_copy((uint8_t *) out, len);

			MUST(len <= room);
			MUST(tegro_query_read(exact, len, again, &nagain) ==
				 TEGRO_QUERY_OK);
			MUST(nagain == nfields);
			MUST(tegro_query_sort(again, nagain) == TEGRO_QUERY_OK);
			for (size_t i = 0; i < nfields; i++)
			{
				const TegroQueryField *a = &fields[i];
				const TegroQueryField *b = &again[i];
				char *name = just(a->name_len + 1);

				MUST(a->name_len == b->name_len &&
					 memcmp(a->name, b->name, a->name_len) == 0);
				MUST(a->value_len == b->value_len &&
					 memcmp(a->value, b->value, a->value_len) == 0);
				memcpy(name, a->name, a->name_len);
				name[a->name_len] = '\0';
				MUST(tegro_query_find(fields, nfields, name) == a);
				free(name);
			}
			free(exact);
			free(out);
		}
	}
	free(form);
}

static void
check_number(const uint8_t *data, size_t size)
{
	char *text = just_copy(data, size);
	char *out = just(size);
	char *again = just(size);
	size_t len, again_len;

	if (tegro_query_number(text, size, out, &len) == TEGRO_QUERY_OK)
	{
		MUST(len > 0 && len <= size && memcmp(out, text, len) == 0);
		MUST(tegro_query_number(out, len, again, &again_len) ==
			 TEGRO_QUERY_OK);
		MUST(again_len == len);
	}
	free(text);
	free(out);
	free(again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_form(data, size);
	check_number(data, size);
	return 0;
}
