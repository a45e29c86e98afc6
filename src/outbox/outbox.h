/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		The outbox of requests: its rows, and how they change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_OUTBOX_H
#define TEGRO_OUTBOX_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "src/outbox/aside.h"
#include "src/outbox/item.h"
#include "src/outbox/pace.h"
#include "src/outbox/store.h"
#include "src/outbox/pause.h"

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
 * attempts on record of which they know nothing, and returns how many these are.
 * The rows come from an older dump, say, and were sent since it was taken.  Or
 * the attempts are of other requests, which were deleted by hand, and their
 * numbers given out again; nobody can know.  A claim fails (23505) where it meets
 * such an attempt.
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

/*
 * Writes what became of requests: a list of TegroItem, each with its decision.
 * Changes nothing of those that another delivery worker has taken since; what was
 * seen of their attempts is kept all the same.
 */
extern void tegro_outbox_record_outcomes(const TegroStore *store, List *items);

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

/*
 * Carries out what "caller" decides, one of the events of a person; "note" is
 * kept with it.  TEGRO_EVENT_REFRESH changes no state: the request is sent,
 * looked up or called back now.  Returns false if there is no such request of
 * the caller's in a state where that is possible.
 */
extern bool tegro_outbox_command(const TegroStore *store, int64 id, Oid caller,
								 TegroEvent event, const char *note);

/* What a take-over has done. */
typedef struct TegroTakenOver
{
	uint64 orders;	/* are looked up */
	uint64 payouts; /* are in review */
	uint64 kept;	/* stay aside: they were sent to another address */
} TegroTakenOver;

/*
 * Takes over the requests of other origins: orders are looked up, payouts are
 * left to a person.
 */
extern void tegro_outbox_take_over(const TegroStore *store, Oid caller,
								   const char *note, TegroTakenOver *taken);

#endif /* TEGRO_OUTBOX_H */
