/*
 * orders.h
 *		createOrder, and the orders of payment links.
 */
#ifndef ORDERS_H
#define ORDERS_H

#include "params.h"

/*
 * Makes the order that the params ask for. Returns false where it refuses.
 * Books' lock held.
 */
bool order_add(const struct call *call, unsigned required, uint32_t *record);

/* The same for createOrder: appends the method's data. */
bool order_create(const struct call *call, struct text *data);

#endif
