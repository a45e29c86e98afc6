/*-------------------------------------------------------------------------
 *
 * pace.h
 *		Which shops may send now, by tegro.rate_limit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PACE_H
#define TEGRO_PACE_H

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

/* The tokens of one process's shops. */
typedef struct TegroPace TegroPace;

/* All shops have a token, in "context", which must outlive them. */
extern TegroPace *tegro_pace_create(MemoryContext context);

/*
 * Takes a token of a shop, for a request that is claimed to be sent.  Returns
 * false if there is none: the request is to stay as it is, and the shop rests.
 * due: since when the request is.  first: it was found by age, so that each of
 * the shop's requests that is due before it was taken, or has been told here.
 */
extern bool tegro_pace_take(TegroPace *pace, const char *shop_id,
							TimestampTz due, bool first);

/*
 * The shops with requests that have stayed: all, or those that have no token
 * still.  Their names, in the current memory context, good until the next of
 * these functions is called.
 */
extern List *tegro_pace_resting(TegroPace *pace, bool all);

/*
 * Those of them that have a token again.  *places: the tokens that they have,
 * at most as many as it was; *from: since when the first of their requests is
 * due.
 */
extern List *tegro_pace_returning(TegroPace *pace, int *places,
								  TimestampTz *from);

/*
 * After a claim of what these shops have due: it has seen what is due before
 * "from"; DT_NOEND: all.  Before tegro_pace_take() is called for what it found.
 */
extern void tegro_pace_seen(TegroPace *pace, const List *shops,
							TimestampTz from);

/*
 * A claim came to nothing: what it saw is due still, wherever.  Tokens that it
 * took stay taken.
 */
extern void tegro_pace_unsee(TegroPace *pace);

/* Does any shop rest? */
extern bool tegro_pace_any(TegroPace *pace);

/* Has one of them a token again? */
extern bool tegro_pace_due(TegroPace *pace);

/*
 * When the next of them has one, by tegro_clock_us(); "until_us" if that is
 * sooner.
 */
extern int64 tegro_pace_until(TegroPace *pace, int64 until_us);

#endif /* TEGRO_PACE_H */
