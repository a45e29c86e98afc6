/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		The notifications on record, and how they change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_INBOX_H
#define TEGRO_INBOX_H

#include "utils/numeric.h"

#include "src/outbox/outbox.h"

/* A notification whose signature was verified. */
typedef struct TegroNotification
{
	char *shop_id;
	char *order_id; /* the shop's own number */
	char *status;
	bool test;
	Numeric amount;
	char *currency;
	char *payment_id; /* the provider's number; NULL: not given */
	Jsonb *fields;	  /* all of it but the signature */
} TegroNotification;

/* For whom a shop's notifications are taken, and whom they are told. */
typedef struct TegroTarget
{
	Oid role;
	char *callback; /* with schema and arguments; NULL: nobody */
} TegroTarget;

/*
 * The target that was registered for a shop, in the current memory context.
 * Returns false if there is none.
 */
extern bool tegro_inbox_target(const TegroStore *store, const char *shop_id,
							   TegroTarget *target);

/*
 * Registers a callback for a shop, as of "role"; NULL takes it away.  Returns
 * false if it is another role's.
 */
extern bool tegro_inbox_register(const TegroStore *store, const char *shop_id,
								 const char *callback, Oid role);

/*
 * Records a notification in the current transaction, and has the worker woken
 * when it commits.  Returns false if it was on record already; one that tells
 * something else than the one on record is recorded beside it.
 */
extern bool tegro_inbox_record(const TegroStore *store,
							   const TegroNotification *notification,
							   const TegroTarget *target);

/* What tegro_inbox_claim() is asked for, and tells. */
typedef struct TegroInboxClaim
{
	const TegroAsides *asides; /* these stay; NULL: none */
	int64 only;				   /* no notification but this one; 0: any */
	bool full;				   /* there may be more */
	TimestampTz next_at;	   /* when the next is due; 0: none is */
} TegroInboxClaim;

/*
 * Claims at most "max" notifications that are due, except those whose shop and
 * key rest, as tegro_outbox_claim() does with requests.
 */
extern List *tegro_inbox_claim(const TegroStore *store, int max,
							   TegroPauses *pauses, TegroInboxClaim *claim);

/*
 * The numbers of the notifications that such a claim would take: a list of
 * TegroRow.
 */
extern List *tegro_inbox_list_due(const TegroStore *store, int max,
								  TegroPauses *pauses,
								  const TegroInboxClaim *claim);

/*
 * Writes what became of notifications: a list of TegroItem, each with its
 * decision.  Changes nothing of those that another delivery worker has taken since.
 */
extern void tegro_inbox_record_outcomes(const TegroStore *store, List *items);

/* As tegro_outbox_take_callback(). */
extern TegroItem *tegro_inbox_take_callback(const TegroStore *store,
											TimestampTz *next_at);

/* Is there a notification that was taken for the caller, or a role of his? */
extern bool tegro_inbox_sees(const TegroStore *store, int64 id, Oid caller);

/*
 * Looks a notification's order up again, or calls back again.  Returns false
 * if there is none of the caller's for which that could change anything.
 */
extern bool tegro_inbox_retry(const TegroStore *store, int64 id, Oid caller);

#endif /* TEGRO_INBOX_H */
