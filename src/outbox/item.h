/*-------------------------------------------------------------------------
 *
 * item.h
 *		What delivery workers pass on: a request or a notification that one of them
 *		has claimed, and what becomes of it.
 *
 * The outbox and the inbox make items and write decisions, judge.c makes one of
 * the other, and none of them needs to know the others for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ITEM_H
#define TEGRO_ITEM_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "src/client/api.h"
#include "src/outbox/transition.h"

/* States of a notification, as they stand in the table. */
#define TEGRO_WAITING	"waiting"
#define TEGRO_CONFIRMED "confirmed"
#define TEGRO_UNPAID	"unpaid"
#define TEGRO_A_TEST	"test"
#define TEGRO_NOTED		"noted"
/* and TEGRO_STATE_REVIEW */

/* The status of a payment, which is also that of a notification without one. */
#define TEGRO_STATUS_PAID "1"

/* What is to be done for a request that was claimed. */
typedef enum TegroTask
{
	TEGRO_SEND,	 /* its event is on record */
	TEGRO_LOOKUP /* find out what became of it */
} TegroTask;

/* A request, as it was when it was claimed. */
typedef struct TegroItem
{
	MemoryContext context; /* holds all of it */
	TegroTask task;
	int64 id;
	int64 claim_no; /* under which it is claimed */
	int events;		/* so many are on record; of a send, the last is its own */
	char *shop_id;
	char *method;
	char *reference;
	Jsonb *params;
	const char *state; /* now, the claim's change included */
	Oid role;		   /* who enqueued it */
	int attempts;
	int failures;
	int absent;
	TimestampTz unknown_since; /* 0: never */
	Jsonb *answer;			   /* NULL: none */
	char *callback;			   /* NULL: none */
	char *message;			   /* NULL: none */
	char *sqlstate;			   /* NULL: none, or not read */
	bool aside;				   /* it waits for a take-over; if read */
	Size size;				   /* of its parameters and answer, in bytes */

	/*
	 * Of a notification, which inbox.c claims and settles: "params" are its
	 * fields, "unknown_since" is since when its order is looked up.
	 */
	bool is_notification;
	Jsonb *ordered; /* parameters of its order in the outbox; NULL: none */

	Jsonb *lookup;	/* parameters of the lookup; NULL: none was built */
	bool by_number; /* it is by the provider's number */

	TegroCall *call;	  /* to send or to look up; else NULL */
	TegroRequest request; /* built, its nonce on record */
	int64 claimed_us;	  /* tegro_clock_us() before the claim */

	/* the delivery worker's */
	bool in_flight;
	bool given_up; /* settled as unknown, but still listened to */
	bool decided;  /* "decision" is to be settled */
	int64 held_us; /* when that is tried again; 0: nobody holds its row */
	struct TegroDecision *decision;
} TegroItem;

/* What becomes of a request or a notification. */
typedef struct TegroDecision
{
	const TegroTransition *transition; /* NULL of a notification */
	const char *state;				   /* that it leads to */
	int64 delay_ms;		  /* until it is looked at next; -1: never */
	Jsonb *answer;		  /* NULL: as it is */
	const char *sqlstate; /* NULL: none */
	const char *message;  /* NULL: none */
	int failures;
	int absent;
	TimestampTz unknown_since; /* 0: never */
	const char *note;		   /* of a person's decision; NULL: none */
	const char *role;		   /* who made it; NULL: nobody */

	/* of the send that ended; outcome is NULL where none did */
	const char *outcome;
	int http_status;
	const char *attempt_message;
	const char *raw_answer;
	size_t raw_answer_len;

	/* of its shop and key; 0: go on */
	int64 pause_ms;
	bool pause_until_reload;
} TegroDecision;

#endif /* TEGRO_ITEM_H */
