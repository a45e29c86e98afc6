/*-------------------------------------------------------------------------
 *
 * origin.h
 *		Which database of which server this is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ORIGIN_H
#define TEGRO_ORIGIN_H

/* What became of the database since an origin was taken down. */
typedef enum TegroKinship
{
	TEGRO_SAME,		 /* it is this very database */
	TEGRO_SUCCESSOR, /* this is it, after a failover or restore */
	TEGRO_STRANGER	 /* this is a copy, or something else */
} TegroKinship;

/*
 * This database's origin, as text; palloc'd.  Throws if the server's data
 * directory can't be looked at.  Not to be asked for in recovery, when the
 * timeline is another's.
 */
extern char *tegro_origin_current(void);

/*
 * The same, remembered: it can't change while a process lives.  Empty in
 * recovery, where nothing can be written that would carry it.
 */
extern const char *tegro_origin_own(void);

/*
 * How this database is related to the one that had the origin "then".
 * Text that is no origin is a stranger's.
 */
extern TegroKinship tegro_origin_compare(const char *then, const char *now);

#endif /* TEGRO_ORIGIN_H */
