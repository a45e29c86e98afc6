/*
 * control.h
 *		The sandbox's own endpoints, below /_sandbox/.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>

#include "payment.h"
#include "text.h"

/* The answer to a control request: one of the three ways below. */
struct control_answer
{
	int status;
	const char *content_type;
	const char *allow; /* what a 405 says, or NULL */
	struct text body;
	struct MHD_Response *stream; /* instead of the body */
	struct payment *payment;	 /* its notification must be sent first; then
								 * payment_write gives the body */
};

/* Says whether a path belongs to the sandbox rather than to the provider. */
bool control_is_path(const char *path);

/*
 * Does what a control request asks. shop_id and summary are the parameters of
 * its query, or NULL.
 */
void control_execute(const char *verb, const char *path, const char *shop_id,
					 const char *summary, const char *body, size_t length,
					 struct control_answer *answer);

#endif
