/*
 * settle.h
 *		How orders and withdrawals change their status.
 */
#ifndef SETTLE_H
#define SETTLE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "books.h"
#include "text.h"

/* The most that a wait may last: a day. */
#define SETTLE_MS_MAX INT64_C(86400000)

/*
 * Reads a status: one of the names that a book has for some, or a number. On
 * failure it returns false and appends the reason, which begins with `name`.
 */
bool settle_read(enum book_name book, const char *text, const char *name,
				 int *status, struct text *reason);

/* The same from a JSON string or integer. */
bool settle_read_json(enum book_name book, const json_t *value,
					  const char *name, int *status, struct text *reason);

/*
 * Gives an entry a status: what its date of payment and the balance make of it
 * follows. Ends what was planned for it. Books' lock held.
 */
void settle_now(enum book_name book, struct entry *entry, int status);

/*
 * The same after some milliseconds, unless the entry changes before. A payout
 * that will be returned is paid after the first wait and returned after a
 * second. With 0 all of it happens at once. Books' lock held.
 */
void settle_later(enum book_name book, uint32_t record, int status,
				  int64_t ms);

/*
 * Does what POST /_sandbox/settle asks. Returns false where it can't, and
 * appends the reason; else appends the entry's row.
 */
bool settle_as_wanted(const json_t *wanted, struct text *row,
					  struct text *reason);

#endif
