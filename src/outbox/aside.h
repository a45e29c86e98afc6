/*-------------------------------------------------------------------------
 *
 * aside.h
 *		Rows that could not be claimed, and are left out for a while.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ASIDE_H
#define TEGRO_ASIDE_H

#include "nodes/pg_list.h"

/* A request or a notification, by its number. */
typedef struct TegroRow
{
	bool is_notification;
	int64 id;
} TegroRow;

/* The rows that one process has set aside. */
typedef struct TegroAsides TegroAsides;

/* None, in "context", which must outlive them. */
extern TegroAsides *tegro_asides_create(MemoryContext context);

/*
 * Sets a row aside whose claim failed with "error", or sets it aside again, for
 * longer, and writes it to the log at level "elevel", each row once an hour at
 * most.  "error" may be NULL, if that is not worth a line.  Returns false if
 * there is no place for one more.
 */
extern bool tegro_asides_add(TegroAsides *asides, TegroRow row,
							 const ErrorData *error, int elevel);

/*
 * The row was claimed, or is no longer due: it is set aside no more.  One that
 * was not set aside is no error.
 */
extern void tegro_asides_remove(TegroAsides *asides, TegroRow row);

/*
 * The rows that are to be tried again now: a list of TegroRow, palloc'd.  After
 * a reload of the configuration, all of them.
 */
extern List *tegro_asides_due(TegroAsides *asides);

/* Is there any? */
extern bool tegro_asides_any(const TegroAsides *asides);

/*
 * When the next is tried again, by tegro_clock_us(); "until_us" if that is
 * sooner.
 */
extern int64 tegro_asides_until(const TegroAsides *asides, int64 until_us);

/*
 * The numbers of the requests, or of the notifications, as an array of bigint
 * in the current memory context.  "asides" may be NULL: an empty array.
 */
extern Datum tegro_asides_ids(const TegroAsides *asides, bool notifications);

#endif /* TEGRO_ASIDE_H */
