/*-------------------------------------------------------------------------
 *
 * multipart.h
 *		Reads multipart/form-data.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_MULTIPART_H
#define TEGRO_MULTIPART_H

#include "src/format/query.h"

/*
 * Does a body begin as multipart/form-data does: "--", a boundary of 1 to 70
 * characters, CRLF?  "len" is in bytes.  No other form begins so.
 */
extern bool tegro_multipart_is(const char *body, size_t len);

/*
 * Takes a multipart/form-data body apart.  The fields point into it, in its
 * order.  It allocates nothing, and changes nothing in the body.
 *
 * body, len: the body, in bytes; its first line names the boundary.
 * fields: room for TEGRO_QUERY_MAX_FIELDS.  nfields: receives how many.
 *
 * Returns TEGRO_QUERY_BAD_PART for a body that is cut short, contains a file,
 * or differs in another way from the form that multipart.c describes.
 */
extern TegroQueryStatus tegro_multipart_read(const char *body, size_t len,
											 TegroQueryField *fields,
											 size_t *nfields);

#endif /* TEGRO_MULTIPART_H */
