/*
 * webhook.h
 *		Sends notifications to a shop's address.
 */
#ifndef WEBHOOK_H
#define WEBHOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "rules.h"
#include "text.h"

/* The most fields that a notification has, its signature among them. */
#define WEBHOOK_FIELDS_MAX 10

/* Called when all is sent, or given up, on a thread of the sender's. */
typedef void (*webhook_done)(void *argument);

struct webhook_field
{
	const char *name;
	struct text value;
};

/* A notification. Zero-initialise it. */
struct webhook
{
	struct webhook *next;
	char *url;
	enum webhook_type type;
	struct webhook_field fields[WEBHOOK_FIELDS_MAX];
	int field_count;
	int64_t repeat;	 /* how often it is sent, at least once */
	int64_t retries; /* how often more after an answer of 500 and above */
	int64_t retry_ms;
	webhook_done done;
	void *argument;

	/* What came of it. */
	int64_t requests; /* sent, or tried */
	int64_t accepted; /* of `repeat`, those answered 2xx in the end */
	long status;	  /* HTTP status of the last answer, 0 without */
	char error[256];  /* of the last failure, or empty */
};

/* Adds a field. The name is kept, the value copied. */
void webhook_add(struct webhook *webhook, const char *name, const char *value,
				 size_t length);

/* Appends the fields as PHP's http_build_query writes them. */
void webhook_write_form(const struct webhook *webhook, struct text *text);

/*
 * Sends on a thread of its own and then calls `done`. After webhook_stop, it
 * gives up at once.
 */
void webhook_send(struct webhook *webhook);

/* Frees a notification that is done, or was never sent; NULL is fine. */
void webhook_free(struct webhook *webhook);

/* Gives up what is being sent or waits, and ends the threads. */
void webhook_stop(void);

#endif
