/*-------------------------------------------------------------------------
 *
 * origin.h
 *		Which database of which server this is, and who its provider is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ORIGIN_H
#define TEGRO_ORIGIN_H

#include "src/outbox/store.h"

/* The column "aside" of a request of another origin. */
#define TEGRO_ASIDE_ORIGIN "origin"

/* What became of the database since an origin was recorded. */
typedef enum TegroKinship
{
	TEGRO_SAME,		 /* it is this very database */
	TEGRO_SUCCESSOR, /* this is it, after a failover or restore */
	TEGRO_STRANGER	 /* this is a copy, or something else */
} TegroKinship;

/*
 * This database's origin, with the number of tegro_origin.  Locks tegro_outbox
 * as a writer does: until the transaction ends, nobody draws another number.
 * Within a scope of the store; rows of an earlier statement are gone.  Valid
 * until the next call.  Empty in recovery, where nothing can be written that
 * would carry it.  Throws TG006 if tegro_origin has no row.
 */
extern const char *tegro_origin_own(const TegroStore *store);

/*
 * The same for a number that the caller has read, palloc'd.  Not to be asked
 * for in recovery, when the timeline is another's.
 */
extern char *tegro_origin_with(const char *number);

/*
 * From now on, what this process records is signed with a key that the workers
 * do not have.
 */
extern void tegro_origin_mark_own_key(void);

/*
 * An origin as of an earlier timeline: a request that has it is looked up before
 * it is sent.
 */
extern char *tegro_origin_earlier(const char *origin);

/*
 * How this database is related to the one that had the origin "then".
 * Text that is no origin is a stranger's.
 */
extern TegroKinship tegro_origin_compare(const char *then, const char *now);

/* Do two origins have the same provider, and keys that workers have? */
extern bool tegro_origin_same_address(const char *then, const char *now);

/* Keeps the reason for a take-over in tegro_origin, whose row may be missing. */
extern void tegro_origin_note(const TegroStore *store, const char *reason);

#endif /* TEGRO_ORIGIN_H */
