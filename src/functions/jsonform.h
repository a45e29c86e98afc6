/*-------------------------------------------------------------------------
 *
 * jsonform.h
 *		A notification's fields from JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_JSONFORM_H
#define TEGRO_JSONFORM_H

#include "src/format/query.h"

/*
 * Takes a JSON object apart into the fields that are signed.
 *
 * json, len: the object in server encoding, "len" bytes and a NUL.
 * fields: room for TEGRO_QUERY_MAX_FIELDS.  nfields: receives how many.
 *
 * Returns false for anything but an object of scalars.  The fields are UTF-8,
 * in the current memory context.  Throws only a cancel and a lack of memory.
 */
extern bool tegro_jsonform_read(char *json, size_t len,
								TegroQueryField *fields, size_t *nfields);

#endif /* TEGRO_JSONFORM_H */
