/*-------------------------------------------------------------------------
 *
 * pause.h
 *		Keys that rest, because the provider refuses them for now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PAUSE_H
#define TEGRO_PAUSE_H

#include "nodes/pg_list.h"

#include "src/outbox/item.h"

/* The pauses of one process. */
typedef struct TegroPauses TegroPauses;

/* What the refusal of an item begins. */
typedef enum TegroPauseBegun
{
	TEGRO_PAUSE_GOES_ON, /* nothing: it rests already */
	TEGRO_PAUSE_OF_SHOP, /* its shop and key rest */
	TEGRO_PAUSE_OF_ROLE	 /* its role and key rest, for all shops */
} TegroPauseBegun;

/* No pauses, in "context", which must outlive them. */
extern TegroPauses *tegro_pauses_create(MemoryContext context);

/*
 * Begins or prolongs the pause of the shop and key that an item was sent or
 * looked up with.  ms: milliseconds, above zero, that it lasts at least.
 * until_reload: a reload of the configuration ends it early.
 * Where many shops of the key rest for the item's role already, the key rests
 * for that role, whatever the shop.  Returns what it begins.
 */
extern TegroPauseBegun tegro_pauses_add(TegroPauses *pauses,
										const TegroItem *item, int64 ms,
										bool until_reload);

/*
 * Does the key of an item rest, for its shop or its role?  To be asked of each item that is
 * claimed, once its call is prepared.  If so, the item's shop and role are
 * among tegro_pauses_names() from now on, so that the next claim does not read
 * it at all.
 */
extern bool tegro_pauses_hold(TegroPauses *pauses, const TegroItem *item);

/* Ends the pauses that are over.  Returns true if one was. */
extern bool tegro_pauses_end(TegroPauses *pauses);

/* Is there any? */
extern bool tegro_pauses_any(const TegroPauses *pauses);

/*
 * When the next one is over, by tegro_clock_us(); "until_us" if that is
 * sooner.
 */
extern int64 tegro_pauses_until(const TegroPauses *pauses, int64 until_us);

/*
 * The shops and roles whose requests are known to rest: a list of "ROLE SHOP",
 * or "ROLE" for all shops, the role by its number, as statements compare them.  In the current memory
 * context; the strings are good until the next of these functions is called.
 */
extern List *tegro_pauses_names(TegroPauses *pauses);

#endif /* TEGRO_PAUSE_H */
