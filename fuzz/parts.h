/*-------------------------------------------------------------------------
 *
 * parts.h
 *		Writes fields as multipart/form-data, for harnesses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_FUZZ_PARTS_H
#define TEGRO_FUZZ_PARTS_H

#include "src/format/query.h"

#include "fuzz.h"

/* Can a name stand between quotes without an escape? */
static inline bool
is_part_name(const TegroQueryField *field)
{
	for (size_t i = 0; i < field->name_len; i++)
	{
		if (field->name[i] < 0x20 || field->name[i] >= 0x7f ||
			strchr("\"\\%", field->name[i]) != NULL)
			return false;
	}
	return field->name_len > 0;
}

/*
 * The fields as a body, in memory from malloc(), with a boundary that occurs in
 * no value; NULL if a name would need an escape.
 */
static inline char *
write_parts(const TegroQueryField *fields, size_t nfields, size_t *len)
{
	static const char head[] = "\r\nContent-Disposition: form-data; name=\"";
	char boundary[32];
	size_t room = 64;
	char *body;
	char *at;

	for (size_t i = 0; i < nfields; i++)
	{
		if (!is_part_name(&fields[i]))
			return NULL;
		room += fields[i].name_len + fields[i].value_len + sizeof(head) + 40;
	}
	for (int n = 0;; n++)
	{
		bool occurs = false;

		snprintf(boundary, sizeof(boundary), "--b%d", n);
		for (size_t i = 0; i < nfields && !occurs; i++)
			occurs = memmem(fields[i].value, fields[i].value_len, boundary,
							strlen(boundary)) != NULL;
		if (!occurs)
			break;
	}

	body = just(room);
	at = body;
	for (size_t i = 0; i < nfields; i++)
	{
		at += sprintf(at, "%s%s%.*s\"\r\n\r\n", boundary, head,
					  (int) fields[i].name_len, fields[i].name);
		memcpy(at, fields[i].value, fields[i].value_len);
		at += fields[i].value_len;
		at += sprintf(at, "\r\n");
	}
	at += sprintf(at, "%s--", boundary);
	*len = (size_t) (at - body);
	MUST(*len < room);
	return body;
}

/* Are two lists of fields the same, in the same order? */
static inline bool
same_fields(const TegroQueryField *a, size_t na, const TegroQueryField *b,
			size_t nb)
{
	for (size_t i = 0; na == nb && i < na; i++)
	{
		if (a[i].name_len != b[i].name_len ||
			a[i].value_len != b[i].value_len ||
			memcmp(a[i].name, b[i].name, a[i].name_len) != 0 ||
			memcmp(a[i].value, b[i].value, a[i].value_len) != 0)
			return false;
	}
	return na == nb;
}

#endif /* TEGRO_FUZZ_PARTS_H */
