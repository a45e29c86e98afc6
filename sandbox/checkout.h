/*
 * checkout.h
 *		The page that a payment link opens.
 */
#ifndef CHECKOUT_H
#define CHECKOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "text.h"

/* A field of the link's query or form, decoded. */
struct checkout_field
{
	const char *name; /* terminated */
	const char *value;
	size_t length;
};

/* More fields than a link with a long receipt has. */
#define CHECKOUT_FIELDS_MAX 1000

/* Says whether a path is the page's: /pay, /pay/ or /pay/form/. */
bool checkout_is_path(const char *path);

/* Says whether it is the one to which a form is posted. */
bool checkout_is_form(const char *path);

/*
 * Checks the link's signature, makes its order, and appends the page, or one
 * that says what is wrong. Returns the HTTP status.
 */
int checkout_open(const struct checkout_field *fields, size_t count,
				  struct text *page);

#endif
