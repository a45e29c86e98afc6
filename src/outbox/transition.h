/*-------------------------------------------------------------------------
 *
 * transition.h
 *		The state machine of a request: which event leads from which state to
 *		which, and what happens beside it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_TRANSITION_H
#define TEGRO_TRANSITION_H

#include "utils/timestamp.h"

/* States of a request, as they stand in the table. */
#define TEGRO_STATE_READY	  "ready"
#define TEGRO_STATE_SENDING	  "sending"
#define TEGRO_STATE_UNKNOWN	  "unknown"
#define TEGRO_STATE_ACCEPTED  "accepted"
#define TEGRO_STATE_REFUSED	  "refused"
#define TEGRO_STATE_REVIEW	  "review"
#define TEGRO_STATE_CANCELLED "cancelled"

/* What happens to a request. */
typedef enum TegroEvent
{
	/* a claim */
	TEGRO_EVENT_CLAIM,	   /* it is about to be sent */
	TEGRO_EVENT_ON_RECORD, /* its sends are on record, but not in its row */
	TEGRO_EVENT_INHERIT,   /* it comes from before a failover or restore */
	TEGRO_EVENT_WITHHOLD,  /* its role may not pay, or does not exist */
	TEGRO_EVENT_POSTPONE,  /* nothing could be done for it now */
	TEGRO_EVENT_REST,	   /* nothing is left to be done for it */

	/* the end of a send */
	TEGRO_EVENT_ACCEPT,			   /* the provider has it */
	TEGRO_EVENT_REFUSE,			   /* the provider refused it for good */
	TEGRO_EVENT_PUT_OFF,		   /* the provider refused it for now */
	TEGRO_EVENT_NOT_SENT,		   /* it was certainly not sent */
	TEGRO_EVENT_NOT_SENT_AND_STOP, /* the same, and it must not be sent later */
	TEGRO_EVENT_DOUBT,			   /* it may have taken effect */
	TEGRO_EVENT_OVERDUE,		   /* no answer so far */
	TEGRO_EVENT_LOSE,			   /* its delivery worker is gone */

	/* a lookup */
	TEGRO_EVENT_FIND,	 /* found, and it agrees */
	TEGRO_EVENT_DIFFER,	 /* found, but different */
	TEGRO_EVENT_MISS,	 /* not found so far */
	TEGRO_EVENT_RESEND,	 /* not found, and it may be sent again */
	TEGRO_EVENT_GIVE_UP, /* not found, and lookups cannot decide */

	/* a person */
	TEGRO_EVENT_CANCEL,
	TEGRO_EVENT_RETRY,
	TEGRO_EVENT_CORRECT, /* other parameters under its reference */
	TEGRO_EVENT_REFRESH, /* what it waits for is done now */
	TEGRO_EVENT_FORGET,	 /* its parameters are erased */
	TEGRO_EVENT_RESOLVE_ACCEPTED,
	TEGRO_EVENT_RESOLVE_REFUSED,
	TEGRO_EVENT_RESOLVE_RESEND,
	TEGRO_EVENT_TAKE_OVER,
	TEGRO_N_EVENTS
} TegroEvent;

/* Which requests a transition is for; combined by "or". */
#define TEGRO_FOR_ORDERS   0x01 /* createOrder */
#define TEGRO_FOR_PAYOUTS  0x02 /* createWithdrawal */
#define TEGRO_FOR_CERTAIN  0x04 /* no earlier send is in doubt */
#define TEGRO_FOR_DOUBTFUL 0x08 /* an earlier send is in doubt */
#define TEGRO_FOR_LINKLESS \
	0x10 /* accepted orders without a link, and no others */

/* What happens beside the change of state; combined by "or". */
#define TEGRO_WITH_DOUBT  0x01 /* the doubt about it begins now */
#define TEGRO_WITH_UNSENT 0x02 /* its last send does not count as one */
#define TEGRO_WITH_FENCE \
	0x04 /* claim_no rises: earlier claims write no more */
#define TEGRO_WITH_END	  0x08 /* it is finished; the callback is due */
#define TEGRO_WITH_CALL	  0x10 /* the callback is called again */
#define TEGRO_WITH_EVENT  0x20 /* an event is put on record */
#define TEGRO_WITH_ORIGIN 0x40 /* this database vouches for it from now on */

typedef struct TegroTransition
{
	const char *from;
	TegroEvent event;
	const char *to;
	int requests; /* TEGRO_FOR_… */
	int effects;  /* TEGRO_WITH_… */
} TegroTransition;

/* The part of a request that decides which transition applies. */
typedef struct TegroSubject
{
	const char *state;
	const char *method;
	bool doubtful; /* an earlier send than the last may have taken effect */
	bool linkless; /* its answer has no link to pay at */
} TegroSubject;

/*
 * The transition that an event causes; NULL if the event is impossible in that
 * state.  Never throws.
 */
extern const TegroTransition *tegro_transition_find(
	const TegroSubject *subject, TegroEvent event);

/* The name of an event, as tegro_event has it. */
extern const char *tegro_transition_event_name(TegroEvent event);

/* Is a request in this state finished: neither to be sent nor looked up? */
extern bool tegro_transition_is_end(const char *state);

/* All transitions, for functions that build statements of them; *n: how many. */
extern const TegroTransition *tegro_transition_all(int *n);

/*
 * The time by which transitions are decided: GetCurrentTimestamp(), and in test
 * builds what the file tegro_clock of the data directory adds to it, in
 * milliseconds.
 */
extern TimestampTz tegro_transition_now(void);

#endif /* TEGRO_TRANSITION_H */
