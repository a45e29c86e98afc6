/*-------------------------------------------------------------------------
 *
 * reader.h
 *		Reads a list of the provider's row by row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_READER_H
#define TEGRO_READER_H

#include "utils/jsonb.h"

#include "src/fdw/list.h"

/* A row to look up: by Tegro's number, or else by the shop's own. */
typedef struct TegroKey
{
	int64 id;
	text *payment_id; /* NULL: by id */
} TegroKey;

typedef struct TegroReader TegroReader;

/* What a reader has asked so far. */
typedef struct TegroReaderCounts
{
	int64 requests; /* repeats included */
	int at_once;	/* most that were in flight together */
} TegroReaderCounts;

/*
 * Begins to read a list; sends nothing yet.
 *
 * shop_id: the shop whose list it is; copied.
 * role: whose keys are used.
 * expected: how many rows the list is known to have had once; 0 if unknown.
 * counts: to be counted up; must outlive the reader.
 *
 * The reader lives in the current memory context, in one of its own.  Whatever
 * it has in flight is stopped with it.
 */
extern TegroReader *tegro_reader_begin(const TegroList *list,
									   const char *shop_id, Oid role,
									   int expected,
									   TegroReaderCounts *counts);

/*
 * Has the reader look up these rows in place of reading the whole list.  The
 * keys must outlive it.
 */
extern void tegro_reader_lookup(TegroReader *reader, const TegroKey *keys,
								int nkeys);

/*
 * The next row, an object; NULL at the end.  It stays until the next call.
 *
 * Throws as calls do: see tegro_error_raise().
 */
extern JsonbContainer *tegro_reader_next(TegroReader *reader);

/* Stops what is in flight, and frees all. */
extern void tegro_reader_end(TegroReader *reader);

#endif /* TEGRO_READER_H */
