/*-------------------------------------------------------------------------
 *
 * transition.c
 *		The state machine of a request.
 *
 * This table is the only place that says how a request changes its state.  The
 * delivery worker, late answers, lookups and the functions for operators all
 * ask it.  An event that has no row for the request's state is impossible:
 * the caller gets an error, which concerns that request alone, and nothing is
 * written.
 *
 * What the table keeps true:
 *
 *	- A request is sent only from "sending", and "sending" is reached only by a
 *	  claim, which is committed before the request goes out (claim.c).
 *	- A payout returns to "ready" by itself only if it was certainly not sent.
 *	  An order returns as well if it was refused for now, or is not found: a
 *	  second order is a second link that nobody pays, and a customer waits; a
 *	  second payout is money gone.
 *	- A refusal is about the last send.  If an earlier send may have taken
 *	  effect, the request goes to "review", not to "refused".
 *	- "accepted" comes only from an answer that says so, a lookup that found the
 *	  request, or a person.  The answer to the last send counts however late it
 *	  comes, also for a request that a person took for unsent.
 *	- No event leads out of "accepted", except that a person asks for a link that
 *	  was lost.  A late answer to an order that a lookup found brings the link.
 *	- "cancelled" means that no send took effect.  A request that may have been
 *	  sent before, and is cancelled now, needs review.
 *
 * How an event is recognized is judge.c's; the words of the provider and the
 * waiting times are there.  What an effect does to the row is in statement.c,
 * TEGRO_STMT_CHANGE.
 *
 * docs/outbox.md tells each row and has a diagram, and model/outbox.pml is a
 * model that Spin explores; script/check-states compares them with this table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdio.h>

#include "src/outbox/transition.h"

#define ORDERS	TEGRO_FOR_ORDERS
#define PAYOUTS TEGRO_FOR_PAYOUTS
#define ALL		(TEGRO_FOR_ORDERS | TEGRO_FOR_PAYOUTS)
#define CERTAIN (ALL | TEGRO_FOR_CERTAIN)
#define DOUBTED (ALL | TEGRO_FOR_DOUBTFUL)

#define DOUBT  TEGRO_WITH_DOUBT
#define UNSENT TEGRO_WITH_UNSENT
#define FENCE  TEGRO_WITH_FENCE
#define END	   TEGRO_WITH_END
#define CALL   TEGRO_WITH_CALL
#define RECORD TEGRO_WITH_EVENT
#define ORIGIN TEGRO_WITH_ORIGIN

#define READY	  TEGRO_STATE_READY
#define SENDING	  TEGRO_STATE_SENDING
#define UNKNOWN	  TEGRO_STATE_UNKNOWN
#define ACCEPTED  TEGRO_STATE_ACCEPTED
#define REFUSED	  TEGRO_STATE_REFUSED
#define REVIEW	  TEGRO_STATE_REVIEW
#define CANCELLED TEGRO_STATE_CANCELLED

/* One row a line: script/check-states reads it. */
/* clang-format off */
static const TegroTransition transitions[] = {
	/* from		event								to			for			with */

	/* A claim. */
	{READY,		TEGRO_EVENT_CLAIM,					SENDING,	ALL,		RECORD},
	{READY,		TEGRO_EVENT_ON_RECORD,				UNKNOWN,	ALL,		DOUBT | RECORD},
	{READY,		TEGRO_EVENT_INHERIT,				UNKNOWN,	ALL,		DOUBT | ORIGIN | RECORD},
	{UNKNOWN,	TEGRO_EVENT_INHERIT,				UNKNOWN,	ALL,		DOUBT | ORIGIN | RECORD},
	{READY,		TEGRO_EVENT_WITHHOLD,				REVIEW,		ALL,		RECORD},
	{UNKNOWN,	TEGRO_EVENT_WITHHOLD,				REVIEW,		ALL,		RECORD},
	{REVIEW,	TEGRO_EVENT_WITHHOLD,				REVIEW,		ALL,		0},
	{READY,		TEGRO_EVENT_POSTPONE,				READY,		ALL,		0},
	{UNKNOWN,	TEGRO_EVENT_POSTPONE,				UNKNOWN,	ALL,		0},
	{REVIEW,	TEGRO_EVENT_POSTPONE,				REVIEW,		ALL,		0},

	/* The end of a send.  Its event is the claim's, completed. */
	{SENDING,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END},
	{SENDING,	TEGRO_EVENT_REFUSE,					REFUSED,	CERTAIN,	END},
	{SENDING,	TEGRO_EVENT_REFUSE,					REVIEW,		DOUBTED,	0},
	{SENDING,	TEGRO_EVENT_PUT_OFF,				READY,		ORDERS,		0},
	{SENDING,	TEGRO_EVENT_NOT_SENT,				READY,		ALL,		UNSENT},
	{SENDING,	TEGRO_EVENT_NOT_SENT_AND_STOP,		CANCELLED,	ALL,		UNSENT | END},
	{SENDING,	TEGRO_EVENT_DOUBT,					UNKNOWN,	ALL,		DOUBT},
	{SENDING,	TEGRO_EVENT_OVERDUE,				UNKNOWN,	ALL,		DOUBT | RECORD},
	{SENDING,	TEGRO_EVENT_LOSE,					UNKNOWN,	ALL,		DOUBT | RECORD},

	/*
	 * The same, late: somebody else has changed the request meanwhile, and
	 * nothing was sent since.  A person's decision is not undone by a refusal,
	 * and a request that he has before him is not sent behind his back.
	 */
	{UNKNOWN,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END | CALL},
	{UNKNOWN,	TEGRO_EVENT_REFUSE,					REFUSED,	CERTAIN,	END | CALL},
	{UNKNOWN,	TEGRO_EVENT_REFUSE,					REVIEW,		DOUBTED,	0},
	{UNKNOWN,	TEGRO_EVENT_PUT_OFF,				READY,		ORDERS,		0},
	{UNKNOWN,	TEGRO_EVENT_NOT_SENT,				READY,		ALL,		UNSENT},
	{UNKNOWN,	TEGRO_EVENT_NOT_SENT_AND_STOP,		CANCELLED,	ALL,		UNSENT | END},
	{REVIEW,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END | CALL},
	{REVIEW,	TEGRO_EVENT_REFUSE,					REFUSED,	CERTAIN,	END | CALL},
	{READY,		TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END | CALL},
	{ACCEPTED,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ORDERS | TEGRO_FOR_LINKLESS, END | CALL},
	{REFUSED,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END | CALL | FENCE},
	{CANCELLED,	TEGRO_EVENT_ACCEPT,					ACCEPTED,	ALL,		END | CALL | FENCE},

	/* A lookup. */
	{UNKNOWN,	TEGRO_EVENT_FIND,					ACCEPTED,	ALL,		END | RECORD},
	{REVIEW,	TEGRO_EVENT_FIND,					ACCEPTED,	ALL,		END | RECORD},
	{UNKNOWN,	TEGRO_EVENT_DIFFER,					REVIEW,		ALL,		RECORD},
	{REVIEW,	TEGRO_EVENT_DIFFER,					REVIEW,		ALL,		0},
	{UNKNOWN,	TEGRO_EVENT_MISS,					UNKNOWN,	ALL,		0},
	{REVIEW,	TEGRO_EVENT_MISS,					REVIEW,		ALL,		0},
	{UNKNOWN,	TEGRO_EVENT_RESEND,					READY,		ORDERS,		RECORD},
	{UNKNOWN,	TEGRO_EVENT_GIVE_UP,				REVIEW,		ALL,		RECORD},

	/* A person. */
	{READY,		TEGRO_EVENT_CANCEL,					CANCELLED,	CERTAIN,	END | RECORD},
	{READY,		TEGRO_EVENT_CANCEL,					REVIEW,		DOUBTED,	RECORD},
	{REFUSED,	TEGRO_EVENT_RETRY,					READY,		ALL,		CALL | RECORD},
	{CANCELLED,	TEGRO_EVENT_RETRY,					READY,		ALL,		CALL | RECORD},
	{ACCEPTED,	TEGRO_EVENT_RETRY,					READY,		ORDERS | TEGRO_FOR_LINKLESS, DOUBT | CALL | RECORD},
	{REFUSED,	TEGRO_EVENT_CORRECT,				READY,		ALL,		FENCE | CALL | RECORD},
	{READY,		TEGRO_EVENT_REFRESH,				READY,		ALL,		0},
	{UNKNOWN,	TEGRO_EVENT_REFRESH,				UNKNOWN,	ALL,		0},
	{REVIEW,	TEGRO_EVENT_REFRESH,				REVIEW,		ALL,		0},
	{ACCEPTED,	TEGRO_EVENT_FORGET,					ACCEPTED,	ALL,		0},
	{REFUSED,	TEGRO_EVENT_FORGET,					REFUSED,	ALL,		0},
	{CANCELLED,	TEGRO_EVENT_FORGET,					CANCELLED,	ALL,		0},
	{UNKNOWN,	TEGRO_EVENT_RESOLVE_ACCEPTED,		ACCEPTED,	ALL,		END | FENCE | RECORD},
	{REVIEW,	TEGRO_EVENT_RESOLVE_ACCEPTED,		ACCEPTED,	ALL,		END | FENCE | RECORD},
	{UNKNOWN,	TEGRO_EVENT_RESOLVE_REFUSED,		REFUSED,	ALL,		END | FENCE | RECORD},
	{REVIEW,	TEGRO_EVENT_RESOLVE_REFUSED,		REFUSED,	ALL,		END | FENCE | RECORD},
	{UNKNOWN,	TEGRO_EVENT_RESOLVE_RESEND,			READY,		ALL,		FENCE | RECORD},
	{REVIEW,	TEGRO_EVENT_RESOLVE_RESEND,			READY,		ALL,		FENCE | RECORD},
	{READY,		TEGRO_EVENT_TAKE_OVER,				UNKNOWN,	ORDERS,		DOUBT | FENCE | ORIGIN | RECORD},
	{SENDING,	TEGRO_EVENT_TAKE_OVER,				UNKNOWN,	ORDERS,		DOUBT | FENCE | ORIGIN | RECORD},
	{UNKNOWN,	TEGRO_EVENT_TAKE_OVER,				UNKNOWN,	ORDERS,		DOUBT | FENCE | ORIGIN | RECORD},
	{READY,		TEGRO_EVENT_TAKE_OVER,				REVIEW,		PAYOUTS,	DOUBT | FENCE | ORIGIN | RECORD},
	{SENDING,	TEGRO_EVENT_TAKE_OVER,				REVIEW,		PAYOUTS,	DOUBT | FENCE | ORIGIN | RECORD},
	{UNKNOWN,	TEGRO_EVENT_TAKE_OVER,				REVIEW,		PAYOUTS,	DOUBT | FENCE | ORIGIN | RECORD},

	/*
	 * A claim that ends without a finding; also that of a finished request,
	 * whose time was set by hand.
	 */
	{UNKNOWN,	TEGRO_EVENT_REST,					UNKNOWN,	ALL,		0},
	{REVIEW,	TEGRO_EVENT_REST,					REVIEW,		ALL,		0},
	{ACCEPTED,	TEGRO_EVENT_REST,					ACCEPTED,	ALL,		0},
	{REFUSED,	TEGRO_EVENT_REST,					REFUSED,	ALL,		0},
	{CANCELLED,	TEGRO_EVENT_REST,					CANCELLED,	ALL,		0},
};
/* clang-format on */

/* As tegro_event has them; "send" is put on record by the claim. */
static const char *const event_names[TEGRO_N_EVENTS] = {
	[TEGRO_EVENT_CLAIM] = "send",
	[TEGRO_EVENT_ON_RECORD] = "conflict",
	[TEGRO_EVENT_INHERIT] = "failover",
	[TEGRO_EVENT_WITHHOLD] = "withheld",
	[TEGRO_EVENT_POSTPONE] = "postponed",
	[TEGRO_EVENT_REST] = "rest",
	[TEGRO_EVENT_ACCEPT] = "accepted",
	[TEGRO_EVENT_REFUSE] = "refused",
	[TEGRO_EVENT_PUT_OFF] = "refused for now",
	[TEGRO_EVENT_NOT_SENT] = "not sent",
	[TEGRO_EVENT_NOT_SENT_AND_STOP] = "not sent",
	[TEGRO_EVENT_DOUBT] = "in doubt",
	[TEGRO_EVENT_OVERDUE] = "no answer",
	[TEGRO_EVENT_LOSE] = "lost",
	[TEGRO_EVENT_FIND] = "found",
	[TEGRO_EVENT_DIFFER] = "found different",
	[TEGRO_EVENT_MISS] = "not found",
	[TEGRO_EVENT_RESEND] = "not found",
	[TEGRO_EVENT_GIVE_UP] = "given up",
	[TEGRO_EVENT_CANCEL] = "cancelled",
	[TEGRO_EVENT_RETRY] = "retried",
	[TEGRO_EVENT_CORRECT] = "corrected",
	[TEGRO_EVENT_REFRESH] = "refreshed",
	[TEGRO_EVENT_FORGET] = "forgotten",
	[TEGRO_EVENT_RESOLVE_ACCEPTED] = "resolved",
	[TEGRO_EVENT_RESOLVE_REFUSED] = "resolved",
	[TEGRO_EVENT_RESOLVE_RESEND] = "resolved",
	[TEGRO_EVENT_TAKE_OVER] = "taken over",
};

const TegroTransition *
tegro_transition_find(const TegroSubject *subject, TegroEvent event)
{
	bool is_payout = strcmp(subject->method, "createWithdrawal") == 0;

	for (int i = 0; i < (int) lengthof(transitions); i++)
	{
		const TegroTransition *transition = &transitions[i];
		int requests = transition->requests;

		if (transition->event != event ||
			strcmp(transition->from, subject->state) != 0 ||
			(requests & (is_payout ? PAYOUTS : ORDERS)) == 0 ||
			((requests & TEGRO_FOR_CERTAIN) != 0 && subject->doubtful) ||
			((requests & TEGRO_FOR_DOUBTFUL) != 0 && !subject->doubtful) ||
			((requests & TEGRO_FOR_LINKLESS) != 0 && !subject->linkless))
			continue;
		return transition;
	}
	return NULL;
}

const char *
tegro_transition_event_name(TegroEvent event)
{
	Assert(event >= 0 && event < TEGRO_N_EVENTS);
	return event_names[event];
}

bool
tegro_transition_is_end(const char *state)
{
	return strcmp(state, ACCEPTED) == 0 || strcmp(state, REFUSED) == 0 ||
		strcmp(state, CANCELLED) == 0;
}

const TegroTransition *
tegro_transition_all(int *n)
{
	*n = lengthof(transitions);
	return transitions;
}

TimestampTz
tegro_transition_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

#ifdef TEGRO_INJECTION_POINTS
	FILE *file = fopen("tegro_clock", "r");
	long long ms;

	if (file == NULL)
		return now;
	if (fscanf(file, "%lld", &ms) == 1)
		now += ms * INT64CONST(1000);
	fclose(file);
#endif
	return now;
}
