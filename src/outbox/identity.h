/*-------------------------------------------------------------------------
 *
 * identity.h
 *		Which database of which server this is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_IDENTITY_H
#define TEGRO_IDENTITY_H

/* What became of the database since an identity was taken down. */
typedef enum TegroKinship
{
	TEGRO_SAME,		 /* it is this very database */
	TEGRO_SUCCESSOR, /* this is it, after a failover or restore */
	TEGRO_STRANGER	 /* this is a copy, or something else */
} TegroKinship;

/*
 * This database's identity, as text; palloc'd.  Throws if the server's data
 * directory can't be looked at.  Not to be asked for in recovery, when the
 * timeline is another's.
 */
extern char *tegro_identity_current(void);

/*
 * The same, remembered: it can't change while a process lives.  Empty in
 * recovery, where nothing can be written that would carry it.
 */
extern const char *tegro_identity_own(void);

/*
 * How this database is related to the one that had the identity "then".
 * Text that is no identity is a stranger's.
 */
extern TegroKinship tegro_identity_compare(const char *then, const char *now);

#endif /* TEGRO_IDENTITY_H */
