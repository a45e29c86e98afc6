/*
 * books.h
 *		What the stand-in provider knows: shops, orders, withdrawals, balances.
 */
#ifndef BOOKS_H
#define BOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "currency.h"
#include "index.h"
#include "money.h"

/* The status of an order, in the provider's numbers. */
#define STATUS_NEW		0
#define STATUS_PAID		1
#define STATUS_FAILED	2
#define STATUS_REFUNDED 3
#define STATUS_PENDING	4

/* No payment system was chosen. */
#define PAYMENT_SYSTEM_NONE (-1)

/* An order or a withdrawal. Entries never move until the books is reset. */
struct entry
{
	money amount;
	money fee;			 /* what the customer of an order pays on top */
	const char *strings; /* three, packed: see entry_string */
	uint32_t created;	 /* seconds since 1970 */
	uint32_t paid;		 /* the same, or 0 */
	int32_t payment_system;
	uint32_t execution; /* the how-manieth of its shop and reference, from 1 */
	uint16_t shop;		/* its number */
	uint8_t currency;	/* its number */
	uint16_t plan;		/* counts its changes of status: see settle.c */
	int32_t status;
	bool holds_money; /* a balance contains it, or lacks it */
	bool is_test;
	bool is_unpayable; /* its receipt does not add up */
};

/* Which of an entry's strings. */
enum entry_string_name
{
	ENTRY_REFERENCE, /* the shop's own number */
	ENTRY_PARTY,	 /* an order's e-mail, a withdrawal's account */
	ENTRY_NOTIFY_URL
};

/* Returns one of an entry's strings, not terminated, and its length. */
const char *entry_string(const struct entry *entry,
						 enum entry_string_name name, size_t *length);

/* A growing array of record numbers that never moves what it holds. */
struct record_list
{
	uint32_t **blocks;
	size_t count;
};

/* Returns the record number at a place, from 0, oldest first. */
uint32_t record_list_at(const struct record_list *list, size_t place);

enum book_name
{
	BOOK_ORDERS,
	BOOK_WITHDRAWALS,
	BOOK_COUNT
};

/*
 * A merchant's shop. The strings are set once, before the server starts, and
 * may be read without the lock; the rest needs it.
 */
struct shop
{
	const char *id;
	const char *api_key;
	const char *secret_key;
	money balance[CURRENCY_MAX];
	bool has_currency[CURRENCY_MAX]; /* `balance` lists it */
	struct nonce_set nonces;
	bool has_last_nonce;
	int64_t last_nonce;
	struct record_list records[BOOK_COUNT];
	size_t repeated[BOOK_COUNT]; /* references that occur more than once */
};

/*
 * The one lock over all that follows. It is held for microseconds: never while
 * waiting for anything.
 */
void books_lock(void);
void books_unlock(void);

/*
 * Adds a shop, before the server starts; the strings must stay. Returns false
 * where the id is there already, or there are too many.
 */
bool books_add_shop(const char *id, const char *api_key,
					const char *secret_key);

/* Returns a shop by number, or NULL past the last. */
struct shop *books_shop(size_t number);

/* Returns a shop by id, or NULL; its number goes to *number unless NULL. */
struct shop *books_find_shop(const char *id, size_t *number);

/* Back to the start: no entries, no nonces, the first balances. */
void books_reset(void);

/* Counts the resets, for who reads in pieces. Lock held. */
uint64_t books_generation(void);

/* Frees everything, the shops included. */
void books_free(void);

/*
 * Adds an entry and returns its record number, from 0. The entry's strings and
 * execution are filled in from the strings given. Lock held.
 */
uint32_t books_add(enum book_name name, struct entry entry,
				   const char *reference, size_t reference_length,
				   const char *party, size_t party_length,
				   const char *notify_url, size_t notify_url_length);

/* Returns the entry of a record number, or NULL. Lock held. */
struct entry *books_entry(enum book_name name, uint32_t record);

/*
 * Finds the newest entry of a shop with a reference; returns false where there
 * is none. Lock held.
 */
bool books_find_reference(enum book_name book, size_t shop,
						  const char *reference, size_t length,
						  uint32_t *record);

/* Between the provider's own numbers (of orders, say) and record numbers. */
int64_t books_id(enum book_name book, uint32_t record);
bool books_find_id(enum book_name book, size_t shop, int64_t id,
				   uint32_t *record);

#endif
