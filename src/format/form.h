/*-------------------------------------------------------------------------
 *
 * form.h
 *		The body of a notification, whichever way it is written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_FORM_H
#define TEGRO_FORM_H

#include "src/format/query.h"

/*
 * Longest body, in bytes.  The provider's have some 300 as a form and 1,200 as
 * multipart.  The rest is room for fields that it may add.  Anyone can send a
 * body, and a body of this length takes less than a millisecond.
 */
#define TEGRO_FORM_MAX_LEN (64 * 1024)

typedef enum TegroFormKind
{
	TEGRO_FORM_URLENCODED,
	TEGRO_FORM_MULTIPART,
	TEGRO_FORM_JSON,
} TegroFormKind;

/* How a body of "len" bytes is written, as its beginning says. */
extern TegroFormKind tegro_form_kind(const char *body, size_t len);

/*
 * Takes a body apart, in whichever way it is written.  An urlencoded one is
 * decoded in place.  The fields point into the body, in its order; pass them
 * to tegro_query_sort() before anything else.  Allocates nothing.
 *
 * body, len: the body in UTF-8, in bytes.
 * fields: room for TEGRO_QUERY_MAX_FIELDS.  nfields: receives how many.
 *
 * Returns TEGRO_QUERY_IS_JSON, and no fields, for JSON: the caller has a parser
 * for that.
 */
extern TegroQueryStatus tegro_form_read(char *body, size_t len,
										TegroQueryField *fields,
										size_t *nfields);

#endif /* TEGRO_FORM_H */
