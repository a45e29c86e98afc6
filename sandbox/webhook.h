/*
 * webhook.h
 *		Sends notifications to a shop's address.
 */
#ifndef WEBHOOK_H
#define WEBHOOK_H

#include <stdbool.h>

#include "text.h"

/* Called when all is sent, or given up, on a thread of the sender's. */
typedef void (*webhook_done)(void *argument);

struct webhook
{
	struct webhook *next;
	char *url;
	struct text form; /* the body, form-encoded and signed */
	int64_t repeat;	  /* how often it is sent, at least once */
	webhook_done done;
	void *argument;

	/* What came of it. */
	int64_t accepted; /* answers 2xx */
	long status;	  /* HTTP status of the last answer, 0 without */
	char error[256];  /* of the last failure, or empty */
};

/*
 * Sends on a thread of its own and then calls `done`. After webhook_stop,
 * it gives up at once.
 */
void webhook_send(struct webhook *notification);

/* Frees a notification that is done, or was never sent. */
void webhook_free(struct webhook *notification);

/* Gives up what is being sent or waits, and ends the threads. */
void webhook_stop(void);

#endif
