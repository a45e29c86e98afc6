/*
 * wanted.h
 *		What a control request wants: its fields, and the entry that it names.
 */
#ifndef WANTED_H
#define WANTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "books.h"
#include "text.h"

/*
 * Checks that an object has no other fields than those named, and that it names
 * one entry: by "order_id", the provider's number, or by "payment_id", the
 * shop's, with or without "shop_id". Returns false where it does not, and
 * appends the reason.
 */
bool wanted_check(const json_t *wanted, const char *const *names,
				  size_t name_count, struct text *reason);

/* Finds that entry, the newest of several. Books' lock held. */
bool wanted_find(const json_t *wanted, enum book_name book, uint32_t *record,
				 struct text *reason);

/*
 * Reads an integer that may be left out. Returns false where it is none or out
 * of range, and appends the reason.
 */
bool wanted_number(const json_t *wanted, const char *name, int64_t least,
				   int64_t most, int64_t *number, struct text *reason);

/* Appends a reason; returns false, for the caller to return. */
bool wanted_refuse(struct text *reason, const char *text);

#endif
