/*
 * currency.h
 *		The currencies that were met, by number.
 *
 * A currency is a text: the provider documents some and adds others. Numbers
 * are given as currencies come, behind the four that `balance` always lists.
 */
#ifndef CURRENCY_H
#define CURRENCY_H

#include <stddef.h>
#include <stdint.h>

/* The four that are always there, and the most that can be. */
#define CURRENCY_FIRST_COUNT 4
#define CURRENCY_MAX		 256

/* A longer code is refused. */
#define CURRENCY_MAX_BYTES 32

/* Returns a currency's number, or -1. The books' lock is held, as below. */
int currency_find(const char *code, size_t length);

/* The same; gives it a number where it has none and there is one left. */
int currency_add(const char *code, size_t length);

/* Returns the code of a number, terminated. */
const char *currency_code(int number);

/* Forgets all but the first four. */
void currency_reset(void);

#endif
