/*-------------------------------------------------------------------------
 *
 * judge.h
 *		What becomes of a request, by what was seen of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_JUDGE_H
#define TEGRO_JUDGE_H

#include "src/outbox/item.h"

/*
 * Each makes a decision in the current memory context; they look at nothing but
 * their arguments, the settings and the clock, and change nothing.
 */

/* A request was sent, and its call has been judged. */
extern TegroDecision *tegro_judge_sent(const TegroItem *item);

/* No answer has come in tegro.timeout; whether one will is open. */
extern TegroDecision *tegro_judge_overdue(const TegroItem *item);

/* Has a request that would be sent again cancelled instead; the message says why. */
extern void tegro_judge_not_again(const TegroItem *item, const char *why);

/* It was certainly not sent, for a reason of our own. */
extern TegroDecision *tegro_judge_unsent(const TegroItem *item,
										 const char *why);

/*
 * The provider's number of a request, as text, where an answer to a send of it
 * was kept; NULL if none is known.
 */
extern char *tegro_judge_number(const TegroItem *item);

/* It was looked up, and the lookup's call has been judged. */
extern TegroDecision *tegro_judge_looked_up(const TegroItem *item);

/*
 * A notification's order was looked up, and the lookup's call has been
 * judged.  The states are those of a notification.
 */
extern TegroDecision *tegro_judge_notified(const TegroItem *item);

/*
 * The first of amount, currency and account in which what was found differs
 * from what was asked, in words; NULL if they agree wherever both have the
 * field.  Amounts are compared as numbers.  was: how it was asked, in words:
 * "was asked for".
 */
extern char *tegro_judge_difference(Jsonb *asked, Jsonb *found,
									const char *was);

/* It can't be sent or looked up for now: an error of settings or keys. */
extern TegroDecision *tegro_judge_postponed(const TegroItem *item,
											const char *sqlstate,
											const char *why);

/*
 * It can't be sent or looked up until a person has done something about it: it
 * is in review.  Nothing is done for it by itself, but that what was ready, and
 * may have been sent before, is looked up.
 */
extern TegroDecision *tegro_judge_set_aside(const TegroItem *item,
											const char *sqlstate,
											const char *why);

/* The delivery worker that had it is gone: whether it was sent is not known. */
extern TegroDecision *tegro_judge_orphaned(const TegroItem *item);

/* It was enqueued on another server than this, or before a failover. */
extern TegroDecision *tegro_judge_inherited(const TegroItem *item);

/* Sends of it are on record of which its row does not know. */
extern TegroDecision *tegro_judge_conflict(const TegroItem *item);

/* Its claim ends, and nothing has become of it. */
extern TegroDecision *tegro_judge_rested(const TegroItem *item);

/*
 * Throws if a decision about an item, whose row is in the state "was", is not a
 * transition of the table: a mistake in the code is not written.  To be called
 * before each write.
 */
extern void tegro_judge_check(const TegroItem *item,
							  const TegroDecision *decision, const char *was);

/*
 * Does a lookup, whose call has been judged, say that there is no such order or
 * withdrawal: by its words, or by an answer whose "data" is {}, [], null or
 * false?
 */
extern bool tegro_judge_is_not_found(const TegroCall *call);

/*
 * Looks at the clock that people set, beside one that they don't.  To be called
 * now and then, so that a step is noticed before decisions are made.
 */
extern void tegro_judge_watch_clock(void);

/* Milliseconds to wait after so many failures in a row. */
extern int64 tegro_judge_backoff_ms(int failures);

#endif /* TEGRO_JUDGE_H */
