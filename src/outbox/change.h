/*-------------------------------------------------------------------------
 *
 * change.h
 *		Changes the state of requests, and puts it on record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_CHANGE_H
#define TEGRO_CHANGE_H

#include "nodes/pg_list.h"

#include "src/outbox/item.h"
#include "src/outbox/store.h"

/* A change of a row: a decision, and the row that it is made for. */
typedef struct TegroRowChange
{
	const TegroItem *item;
	const TegroDecision *decision;
	const char *was; /* state of the row */
	int64 claim_no;	 /* of the row */
	bool changed;	 /* out */
	int events;		 /* out: how many it has now */
} TegroRowChange;

/*
 * Row "row" of the statement that was run last, with ITEM_COLUMNS, as an item in
 * the current memory context, which is to be the item's own; *origin receives its
 * origin.
 */
extern TegroItem *tegro_change_item(int row, char **origin);

/*
 * Writes changes, each where its row still has the state and the claim that it
 * was decided for.  Returns how many rows were changed.  In a scope, as the
 * following.
 */
extern int tegro_change_write(const TegroStore *store, TegroRowChange *changes,
							  int nchanges);

/*
 * Reads, and locks, a request that "caller" decides about, a member of the role
 * that enqueued it; NULL if there is none.
 */
extern TegroItem *tegro_change_read(const TegroStore *store, int64 id,
									Oid caller, char **origin,
									TegroSubject *subject);

/* The decision of a person that a transition is; "note" is kept with it. */
extern TegroDecision *tegro_change_decide(const TegroItem *item,
										  const TegroTransition *transition,
										  const char *note);

/* tegro_outbox_record_outcomes() in a scope. */
extern void tegro_change_outcomes(const TegroStore *store, List *items);

/*
 * Writes what became of requests: a list of TegroItem, each with its decision.
 * Changes nothing of those that another delivery worker has taken since; what was
 * seen of their sends is kept all the same.
 */
extern void tegro_outbox_record_outcomes(const TegroStore *store, List *items);

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

#endif /* TEGRO_CHANGE_H */
