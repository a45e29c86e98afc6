/*-------------------------------------------------------------------------
 *
 * claim.h
 *		Claims requests that are due, for the delivery worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_CLAIM_H
#define TEGRO_CLAIM_H

#include "nodes/pg_list.h"

#include "src/outbox/aside.h"
#include "src/outbox/enqueue.h"
#include "src/outbox/item.h"
#include "src/outbox/pace.h"
#include "src/outbox/pause.h"
#include "src/outbox/store.h"

/* What tegro_outbox_claim() is asked for, and tells. */
typedef struct TegroClaim
{
	int max; /* at most so many requests */
	/* and no more once they have so many bytes; out: what is left of that */
	Size max_size;
	bool fast;				   /* pass over what is due before "after" */
	TimestampTz after;		   /* in: see fast; out: where it got to */
	TegroPauses *pauses;	   /* requests whose shop and key rest stay */
	TegroPace *pace;		   /* requests whose shop has no token stay */
	const TegroAsides *asides; /* these stay, too; NULL: none */
	int preferred;	   /* of "max", for payouts and for what is newest */
	TimestampTz since; /* what is due later is new to the caller */
	unsigned turn;	   /* raised with each claim: who is first */
	int64 only;		/* no request but this one, wherever it is due; 0: any */
	bool full;		/* out: there may be more */
	int npreferred; /* out: of those claimed, how many are preferred */
	bool more_preferred; /* out: there may be more of these */
	int64 preferred_us;	 /* out: how long it took to find them */
	TimestampTz next_at; /* out: when the next is due, of what was not passed
						  * over; 0: none is */
	/* out, unless full: when a notification is due, if not taken; 0: none is */
	TimestampTz inbox_at;
} TegroClaim;

/*
 * Claims what is due: a list of TegroItem, each in a context of its own below
 * the current one.  Must be committed, durably, before any is acted on.
 */
extern List *tegro_outbox_claim(const TegroStore *store, TegroClaim *claim);

/*
 * The numbers of the requests that such a claim would take, in its order: a list
 * of TegroRow.  It reads less of them than the claim does, and locks none.
 */
extern List *tegro_outbox_list_due(const TegroStore *store,
								   const TegroClaim *claim);

/*
 * Puts those requests in doubt of what such a claim would take that have
 * sends on record of which they know nothing, and returns how many these are.
 * The rows come from an older dump, say, and were sent since it was taken.  Or
 * the sends are of other requests, which were deleted by hand, and their
 * numbers given out again; nobody can know.  A claim fails (23505) where it meets
 * such a send.
 */
extern uint64 tegro_outbox_doubt(const TegroStore *store,
								 const TegroClaim *claim);

/*
 * Builds and signs the request that an item is claimed for, in the current
 * memory context.  Returns NULL, or a decision where it can't be: a key is
 * missing, say.
 */
extern struct TegroDecision *tegro_outbox_build_request(TegroItem *item);

/* Notes in the log that an item goes into review now, if it does. */
extern void tegro_outbox_log_review(const TegroItem *item);

/*
 * Claims one request, which was enqueued or corrected in the current
 * transaction, to be sent by the caller.  Throws if it cannot be sent.  Returns
 * NULL if it must be looked up first: the delivery worker does that.
 */
extern TegroItem *tegro_outbox_claim_new(const TegroStore *store, int64 id,
										 TegroEnqueued enqueued);

/* Throws unless a statement wrote as many rows as there are items. */
extern void tegro_claim_check(uint64 nrows, List *items);

/*
 * Sets requests of another origin aside, in a scope.  origin: of the first; own:
 * of this database.
 */
extern void tegro_claim_set_aside(const TegroStore *store, List *items,
								  const char *origin, const char *own);

#endif /* TEGRO_CLAIM_H */
