/*-------------------------------------------------------------------------
 *
 * callback.h
 *		Calls functions back, with what became of their requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_CALLBACK_H
#define TEGRO_CALLBACK_H

#include "src/outbox/outbox.h"

/* Who calls back, and how. */
typedef struct TegroCaller
{
	/* a transaction to run statements in, and its durable end */
	void (*begin)(void);
	void (*commit)(void);

	/*
	 * Is this process there for nothing else?  Then a callback that takes too
	 * long is cancelled, and the process ends if it does not end by that; and
	 * what it leaves in the session is taken away.  In a user's session all
	 * that is the user's.
	 */
	bool own_session;
} TegroCaller;

/*
 * Calls a callback that is due.  Returns false if none is, and when the next
 * one is; 0: none waits.  To be called outside a transaction;
 * leaves the current memory context as it was.
 */
extern bool tegro_call_back(const TegroStore *store, const TegroCaller *caller,
							TimestampTz *next_at);

/* Throws 42P13 if it is a procedure, an aggregate or a window function. */
extern void tegro_callback_require_function(Oid function);

#endif /* TEGRO_CALLBACK_H */
