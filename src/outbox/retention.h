/*-------------------------------------------------------------------------
 *
 * retention.h
 *		Erases the contents of finished requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_RETENTION_H
#define TEGRO_RETENTION_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "src/outbox/store.h"

/*
 * Strips requests that finished before "before", the oldest first, a part of
 * them.  Waits for nobody who has a row locked; such a row stays for a later
 * call.  Returns true if there may be more.
 */
extern bool tegro_retention_strip_old(const TegroStore *store,
									  TimestampTz before);

/*
 * Strips one request now, whenever it finished, and adds a note to its
 * decisions.  A request that is stripped already gets the note.  Returns false if
 * "caller" has no such request that is finished, its callback called or given up.
 */
extern bool tegro_retention_strip(const TegroStore *store, int64 id,
								  Oid caller, const char *note);

/*
 * The hash of parameters, in the current memory context.  These two run
 * statements: they need a scope, and rows found before are gone.
 */
extern bytea *tegro_retention_hash(const TegroStore *store, Jsonb *params);

/* Is this the hash of parameters, under any key of this database? */
extern bool tegro_retention_is_hash(const TegroStore *store, Jsonb *params,
									const bytea *hash);

/* A hash in hexadecimal digits, palloc'd; "unknown" for NULL. */
extern char *tegro_retention_show_hash(const bytea *hash);

#endif /* TEGRO_RETENTION_H */
