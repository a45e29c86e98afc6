/*
 * fault.h
 *		The faults that are queued, and which request meets which.
 */
#ifndef FAULT_H
#define FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "methods.h"
#include "text.h"

enum action
{
	ACTION_CLOSE_BEFORE_READ,
	ACTION_CLOSE_AFTER_READ,
	ACTION_EXECUTE_THEN_CLOSE,
	ACTION_RESET,
	ACTION_HOLD,
	ACTION_EXECUTE_THEN_HOLD,
	ACTION_EXECUTE_LATER,
	ACTION_DRIP,
	ACTION_CUT,
	ACTION_LENGTH,
	ACTION_ANSWER,
	ACTION_HIDE,
	ACTION_SETTLE,
	ACTION_PUSH,
	ACTION_COUNT
};

/* The actions' names, in that order. */
extern const char *const action_names[ACTION_COUNT];

/* An answer's header. */
struct fault_header
{
	char *name;
	char *value;
};

/* A fault. All but `users` is fixed once it is queued. */
struct fault
{
	atomic_int users;
	enum action action;
	int64_t ms;
	int64_t bytes;	/* -1: not given */
	int64_t length; /* -1: not given */
	int status;
	struct fault_header *headers;
	size_t header_count;
	struct text body;
	int64_t repeat;
	bool executed;
	int result;	   /* of a payout: a status */
	int64_t count; /* of entries that are pushed */
};

/*
 * Queues the fault that a JSON object describes. Returns false where the object
 * is wrong, and appends to `reason` what is, and what would be right.
 */
bool fault_add(const json_t *description, struct text *reason);

/*
 * Returns the fault that this request meets, or NULL; the caller releases it.
 * A "hide", "settle" or "push" does not use the request up: it goes to *aside,
 * and the next fault in the queue is asked.
 */
struct fault *fault_take(enum method method, struct aside *aside);

/* Gives back what fault_take returned; NULL is fine. */
void fault_release(struct fault *fault);

/* Returns a JSON array of what is queued. */
json_t *fault_list(void);

/* Empties all queues. */
void fault_clear(void);

#endif
