/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		The outbox of requests, for all who use it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_OUTBOX_H
#define TEGRO_OUTBOX_H

#include "src/outbox/change.h"
#include "src/outbox/claim.h"
#include "src/outbox/enqueue.h"

/*
 * Takes the request whose callback is due, for a call: NULL if there is none,
 * and when the next is due, 0 if none waits.  It counts as a call that failed,
 * and is due again after the back-off, unless tegro_store_called_back() says
 * otherwise: so one that never returns is not called for ever.
 *
 * Must be committed before the call.  The item has a context of its own below
 * the current one.
 */
extern TegroItem *tegro_outbox_take_callback(const TegroStore *store,
											 TimestampTz *next_at);

/* Is there a callback to be called, now or later, also of a notification? */
extern bool tegro_outbox_callbacks_wait(const TegroStore *store);

/* Is a transaction of this database prepared, so that rows may appear? */
extern bool tegro_outbox_any_prepared(void);

/*
 * How a request ended: reads its state as it is committed now.
 * Returns false while it is on its way.  Otherwise *answer is set, or else
 * *outcome says what is wrong.
 */
extern bool tegro_outbox_outcome(const TegroStore *store, int64 id, Oid caller,
								 Jsonb **answer, TegroOutcome *outcome,
								 const char **state);

/*
 * Is there anything left to send or to look up, now or later, also of the
 * notifications?
 */
extern bool tegro_outbox_waiting(const TegroStore *store);

/* How many are due and nobody's, counted no further than "max". */
extern int64 tegro_outbox_count_due(const TegroStore *store, int64 max);

#endif /* TEGRO_OUTBOX_H */
