/*
 * notification.h
 *		Sends notifications to a shop's address.
 */
#ifndef NOTIFICATION_H
#define NOTIFICATION_H

#include <stdbool.h>

#include "text.h"

/* Called when all is sent, or given up, on a thread of the sender's. */
typedef void (*notification_done)(void *argument);

struct notification
{
	struct notification *next;
	char *url;
	struct text form; /* the body, form-encoded and signed */
	int64_t repeat;	  /* how often it is sent, at least once */
	notification_done done;
	void *argument;

	/* What came of it. */
	int64_t accepted; /* answers 2xx */
	long status;	  /* HTTP status of the last answer, 0 without */
	char error[256];  /* of the last failure, or empty */
};

/*
 * Sends on a thread of its own and then calls `done`. After notification_stop,
 * it gives up at once.
 */
void notification_send(struct notification *notification);

/* Frees a notification that is done, or was never sent. */
void notification_free(struct notification *notification);

/* Gives up what is being sent or waits, and ends the threads. */
void notification_stop(void);

#endif
