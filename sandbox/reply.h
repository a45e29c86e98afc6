/*
 * reply.h
 *		Sends answers, right ones and broken ones.
 */
#ifndef REPLY_H
#define REPLY_H

#include <microhttpd.h>

#include "fault.h"
#include "text.h"

/* Sends a body with a status; takes the body over. `allow` may be NULL. */
enum MHD_Result reply_send(struct MHD_Connection *connection, int status,
						   const char *content_type, const char *allow,
						   struct text *body);

/*
 * Sends the provider's answer as a fault has it: dripping, cut, with a wrong
 * length, or another in its place. Takes the body over; keeps the fault as long
 * as it needs it. What is to be sent behind the answer goes to `surplus`.
 */
enum MHD_Result reply_send_broken(struct MHD_Connection *connection,
								  struct fault *fault, struct text *body,
								  struct text *surplus);

/* Sends bytes that no header announced, once an answer was sent. */
void reply_send_surplus(struct MHD_Connection *connection,
						const struct text *surplus);

/*
 * Ends the TCP connection with a reset. The caller returns MHD_NO then, for the
 * library to notice.
 */
void reply_reset(struct MHD_Connection *connection);

#endif
