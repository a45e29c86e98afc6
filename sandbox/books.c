/*
 * books.c
 *		What the stand-in provider knows: shops, orders, withdrawals, balances.
 *
 * Orders and withdrawals are the same to it: entries of two books. A book keeps
 * its entries in blocks that are never moved, its strings in an arena, and a
 * map from (shop, reference) to the newest entry. Each shop lists the numbers
 * of its own entries, so that a page is read from the list's end. An entry
 * costs about 130 bytes with its nonce.
 *
 * One lock covers everything. Requests hold it for one or two microseconds, out
 * of the tens that their HTTP and TLS cost, so finer locks would win nothing.
 */
#include "books.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/* Record numbers and entries are kept in blocks of this many. */
#define BLOCK_COUNT 4096

/* Strings are cut from pieces of this size; a longer one gets its own. */
#define ARENA_BYTES (256 * 1024)

/* The numbers must fit entry.shop. */
#define SHOPS_MAX 10000

/*
 * What a shop's balances start with, by currency number; the rest like the
 * last.
 */
static const money first_balance[CURRENCY_FIRST_COUNT + 1] = {
	1000000 * MONEY_ONE, 1000 * MONEY_ONE, 1000 * MONEY_ONE, 0,
	1000 * MONEY_ONE,
};

/* The provider's numbers start somewhere, to be told from record numbers. */
static const int64_t first_id[BOOK_COUNT] = {755555, 10001};

struct book
{
	struct entry **blocks;
	size_t count;
	struct reference_map newest;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct
{
	struct shop *shops;
	size_t shop_count;
	struct book books[BOOK_COUNT];
	char **pieces; /* of the arena */
	size_t piece_count;
	size_t piece_used; /* bytes of the last piece */
	uint64_t generation;
} all;

void
books_lock(void)
{
	pthread_mutex_lock(&lock);
}

void
books_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* Sets a shop's balances to the first ones. */
static void
fill_balances(struct shop *shop)
{
	for (int i = 0; i < CURRENCY_MAX; i++)
	{
		shop->balance[i] =
			first_balance[i < CURRENCY_FIRST_COUNT ? i : CURRENCY_FIRST_COUNT];
		shop->has_currency[i] = i < CURRENCY_FIRST_COUNT;
	}
}

bool
books_add_shop(const char *id, const char *api_key, const char *secret_key)
{
	struct shop *shop;

	if (all.shop_count == SHOPS_MAX || books_find_shop(id, NULL) != NULL)
		return false;
	all.shops = must_reallocate(all.shops,
								(all.shop_count + 1) * sizeof(struct shop));
	shop = &all.shops[all.shop_count++];
	memset(shop, 0, sizeof(*shop));
	shop->id = id;
	shop->api_key = api_key;
	shop->secret_key = secret_key;
	fill_balances(shop);
	return true;
}

struct shop *
books_shop(size_t number)
{
	return number < all.shop_count ? &all.shops[number] : NULL;
}

struct shop *
books_find_shop(const char *id, size_t *number)
{
	for (size_t i = 0; i < all.shop_count; i++)
		if (strcmp(all.shops[i].id, id) == 0)
		{
			if (number != NULL)
				*number = i;
			return &all.shops[i];
		}
	return NULL;
}

/* Makes room for one more block of an array of blocks. */
static void *
add_block(void *blocks, size_t count, size_t element_size, void **block)
{
	/* The pointers grow by doubling: at powers of two, they are full. */
	if ((count & (count - 1)) == 0)
		blocks = must_reallocate(blocks,
								 (count == 0 ? 1 : count * 2) *
									 sizeof(void *));
	*block = must_allocate(BLOCK_COUNT * element_size);
	return blocks;
}

static void
record_list_add(struct record_list *list, uint32_t record)
{
	size_t block = list->count / BLOCK_COUNT;

	if (list->count % BLOCK_COUNT == 0)
	{
		void *fresh;

		list->blocks = add_block(list->blocks, block, sizeof(uint32_t),
								 &fresh);
		list->blocks[block] = fresh;
	}
	list->blocks[block][list->count++ % BLOCK_COUNT] = record;
}

uint32_t
record_list_at(const struct record_list *list, size_t place)
{
	return list->blocks[place / BLOCK_COUNT][place % BLOCK_COUNT];
}

static void
record_list_free(struct record_list *list)
{
	for (size_t i = 0; i * BLOCK_COUNT < list->count; i++)
		free(list->blocks[i]);
	free(list->blocks);
	*list = (struct record_list){0};
}

/* Cuts memory for strings from the arena. */
static char *
arena_allocate(size_t size)
{
	bool is_long = size > ARENA_BYTES / 8;

	if (all.piece_count == 0 || is_long || all.piece_used + size > ARENA_BYTES)
	{
		void *piece;

		if ((all.piece_count & (all.piece_count - 1)) == 0)
			all.pieces = must_reallocate(all.pieces,
										 (all.piece_count == 0
											  ? 1
											  : all.piece_count * 2) *
											 sizeof(char *));
		piece = must_allocate(is_long ? size : ARENA_BYTES);
		all.pieces[all.piece_count++] = piece;
		all.piece_used = is_long ? ARENA_BYTES : 0;
		if (is_long)
			return piece;
	}
	all.piece_used += size;
	return all.pieces[all.piece_count - 1] + all.piece_used - size;
}

/* Packs one string: two bytes of length, then the bytes. */
static char *
pack(char *place, const char *string, size_t length)
{
	uint16_t stored = (uint16_t) length;

	memcpy(place, &stored, sizeof(stored));
	if (length > 0)
		memcpy(place + sizeof(stored), string, length);
	return place + sizeof(stored) + length;
}

const char *
entry_string(const struct entry *entry, enum entry_string_name name,
			 size_t *length)
{
	const char *place = entry->strings;

	for (int i = 0;; i++)
	{
		uint16_t stored;

		memcpy(&stored, place, sizeof(stored));
		place += sizeof(stored);
		if (i == (int) name)
		{
			*length = stored;
			return place;
		}
		place += stored;
	}
}

struct entry *
books_entry(enum book_name name, uint32_t record)
{
	struct book *book = &all.books[name];

	if (record >= book->count)
		return NULL;
	return &book->blocks[record / BLOCK_COUNT][record % BLOCK_COUNT];
}

/* What a search by reference looks for. */
struct wanted
{
	enum book_name book;
	size_t shop;
	const char *reference;
	size_t length;
};

static bool
is_wanted(const void *context, uint32_t record)
{
	const struct wanted *wanted = context;
	const struct entry *entry = books_entry(wanted->book, record);
	size_t length;
	const char *reference = entry_string(entry, ENTRY_REFERENCE, &length);

	return entry->shop == wanted->shop && length == wanted->length &&
		memcmp(reference, wanted->reference, length) == 0;
}

static uint32_t *
find_newest(const struct wanted *wanted, bool add)
{
	uint64_t hash = hash_bytes(wanted->shop, wanted->reference,
							   wanted->length);

	return reference_map_find(&all.books[wanted->book].newest, hash, is_wanted,
							  wanted, add);
}

uint32_t
books_add(enum book_name name, struct entry entry, const char *reference,
		  size_t reference_length, const char *party, size_t party_length,
		  const char *notify_url, size_t notify_url_length)
{
	struct book *book = &all.books[name];
	struct shop *shop = &all.shops[entry.shop];
	struct wanted wanted = {name, entry.shop, reference, reference_length};
	uint32_t record = (uint32_t) book->count;
	uint32_t *newest = find_newest(&wanted, true);
	char *strings;

	strings = arena_allocate(3 * sizeof(uint16_t) + reference_length +
							 party_length + notify_url_length);
	entry.strings = strings;
	strings = pack(strings, reference, reference_length);
	strings = pack(strings, party, party_length);
	pack(strings, notify_url, notify_url_length);

	shop->has_currency[entry.currency] = true;
	entry.execution = 1;
	if (*newest != 0)
	{
		entry.execution = books_entry(name, *newest - 1)->execution + 1;
		if (entry.execution == 2)
			shop->repeated[name]++;
	}
	*newest = record + 1;

	if (book->count % BLOCK_COUNT == 0)
	{
		size_t block = book->count / BLOCK_COUNT;
		void *fresh;

		book->blocks = add_block(book->blocks, block, sizeof(struct entry),
								 &fresh);
		book->blocks[block] = fresh;
	}
	book->count++;
	*books_entry(name, record) = entry;
	record_list_add(&shop->records[name], record);
	return record;
}

bool
books_find_reference(enum book_name book, size_t shop, const char *reference,
					 size_t length, uint32_t *record)
{
	struct wanted wanted = {book, shop, reference, length};
	uint32_t *newest = find_newest(&wanted, false);

	if (newest == NULL)
		return false;
	*record = *newest - 1;
	return true;
}

int64_t
books_id(enum book_name book, uint32_t record)
{
	return first_id[book] + record;
}

bool
books_find_id(enum book_name book, size_t shop, int64_t id, uint32_t *record)
{
	if (id < first_id[book] ||
		(uint64_t) (id - first_id[book]) >= all.books[book].count)
		return false;
	*record = (uint32_t) (id - first_id[book]);
	return books_entry(book, *record)->shop == shop;
}

/* Frees all entries. Lock held. */
static void
free_entries(void)
{
	for (size_t i = 0; i < all.shop_count; i++)
	{
		struct shop *shop = &all.shops[i];

		nonce_set_free(&shop->nonces);
		for (int name = 0; name < BOOK_COUNT; name++)
			record_list_free(&shop->records[name]);
	}
	for (int name = 0; name < BOOK_COUNT; name++)
	{
		struct book *book = &all.books[name];

		for (size_t i = 0; i * BLOCK_COUNT < book->count; i++)
			free(book->blocks[i]);
		free(book->blocks);
		reference_map_free(&book->newest);
		*book = (struct book){0};
	}
	for (size_t i = 0; i < all.piece_count; i++)
		free(all.pieces[i]);
	free(all.pieces);
	all.pieces = NULL;
	all.piece_count = 0;
	all.piece_used = 0;
}

void
books_reset(void)
{
	books_lock();
	free_entries();
	for (size_t i = 0; i < all.shop_count; i++)
	{
		struct shop *shop = &all.shops[i];

		fill_balances(shop);
		memset(shop->repeated, 0, sizeof(shop->repeated));
		shop->has_last_nonce = false;
	}
	currency_reset();
	all.generation++;
	books_unlock();
}

uint64_t
books_generation(void)
{
	return all.generation;
}

void
books_free(void)
{
	books_lock();
	free_entries();
	free(all.shops);
	all.shops = NULL;
	all.shop_count = 0;
	books_unlock();
}
