/*
 * rows.h
 *		How orders, withdrawals and the fixed lists look in an answer.
 */
#ifndef ROWS_H
#define ROWS_H

#include <stdbool.h>

#include "books.h"
#include "text.h"

/* Appends one order or withdrawal as a JSON object. Books' lock held. */
void row_write(struct text *text, enum book_name book, uint32_t record);

/*
 * The same with a member more, "executions": how often the reference of this
 * entry was executed. Books' lock held.
 */
void row_write_counted(struct text *text, enum book_name book,
					   uint32_t record);

/*
 * Returns the amount that the row of an entry shows: a paid order's contains
 * what the customer paid on top.
 */
money row_amount(enum book_name book, const struct entry *entry);

/* Appends the address where an order is paid, as a JSON string. Lock held. */
void row_write_order_url(struct text *text, uint32_t record);

/* Appends {"RUB":"1.00",…}. Books' lock held. */
void row_write_balances(struct text *text, const struct shop *shop);

/* Appends the array of all shops. Books' lock held. */
void row_write_shops(struct text *text);

/* Appends the array of payment systems, the same for every shop. */
void row_write_modules(struct text *text);

/* The payment system of an order that was paid without choosing one. */
#define ROW_DEFAULT_PAYMENT_SYSTEM 10

/* Appends the array of exchange rates; -1 stands for all currencies. */
void row_write_rates(struct text *text, int from, int to);

#endif
