/*-------------------------------------------------------------------------
 *
 * credentials.h
 *		The lines of a credentials file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_CREDENTIALS_H
#define TEGRO_CREDENTIALS_H

#include <stddef.h>

typedef enum TegroCredentialsStatus
{
	TEGRO_CREDENTIALS_LINE,		/* here is one */
	TEGRO_CREDENTIALS_END,		/* there are no more */
	TEGRO_CREDENTIALS_BAD_LINE, /* not four fields, or no API key */
	TEGRO_CREDENTIALS_HAS_NUL	/* no text file */
} TegroCredentialsStatus;

/* A line taken apart: texts within the bytes of the file. */
typedef struct TegroCredentialsLine
{
	const char *shop_id;	/* "*": any */
	const char *role;		/* "*": any */
	const char *api_key;	/* never empty */
	const char *secret_key; /* empty: none */
} TegroCredentialsLine;

/* Where a file is read; all zero but for "bytes" and "len" at first. */
typedef struct TegroCredentialsReader
{
	char *bytes; /* what fields point into */
	size_t len;
	size_t pos;		 /* where the next line begins */
	int line_number; /* of the line read last, from 1 */
} TegroCredentialsReader;

/*
 * Takes the next line apart, in place: escapes are resolved, separators
 * become NULs.  Empty lines and comments are passed over.
 *
 * bytes, len: the file, whatever it holds; there is room for a NUL at
 * bytes[len].
 * line: receives the fields, if the status says that there are any.
 *
 * Reading ends with any status but TEGRO_CREDENTIALS_LINE.  Allocates
 * nothing, never throws.
 */
extern TegroCredentialsStatus tegro_credentials_next(
	TegroCredentialsReader *reader, TegroCredentialsLine *line);

#endif /* TEGRO_CREDENTIALS_H */
