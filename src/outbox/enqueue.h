/*-------------------------------------------------------------------------
 *
 * enqueue.h
 *		Puts requests into the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ENQUEUE_H
#define TEGRO_ENQUEUE_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "src/outbox/store.h"

/* What tegro_outbox_enqueue() did with a request. */
typedef enum TegroEnqueued
{
	TEGRO_ENQUEUED_NEW,
	TEGRO_ENQUEUED_CORRECTED, /* it was refused with other parameters */
	TEGRO_ENQUEUED_BEFORE	  /* it was there, and stays */
} TegroEnqueued;

/*
 * Puts a request into the outbox, in the current transaction, and has the
 * worker woken when it commits.  One that was refused gets other parameters.
 *
 * role: for whom; its keys are used.  callback: a function's name, with
 * schema and arguments, or NULL.  deliver_after: 0 for at once.
 * enqueued: receives what was done; may be NULL, and then a request that was
 * there already is warned about.
 *
 * Returns its number.  Throws 22023 for parameters that can't be sent, TG007
 * if the reference is taken by another request.
 */
extern int64 tegro_outbox_enqueue(const TegroStore *store, const char *method,
								  Jsonb *params, Oid role,
								  const char *callback,
								  TimestampTz deliver_after,
								  TegroEnqueued *enqueued);

#endif /* TEGRO_ENQUEUE_H */
