/*
 * state.h
 *		What the sandbox knows, written out for tests to compare with.
 */
#ifndef STATE_H
#define STATE_H

#include <microhttpd.h>
#include <stdbool.h>

#include "books.h"

/*
 * Makes the answer to GET /_sandbox/state for a shop, to be sent in pieces. A
 * summary leaves the orders and withdrawals themselves out.
 */
struct MHD_Response *state_answer(const struct shop *shop, bool is_summary);

/* Count the requests that the sandbox has received and not yet executed. */
void state_waiting_add(int difference);

#endif
