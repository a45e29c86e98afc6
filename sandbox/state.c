/*
 * state.c
 *		What the sandbox knows, written out for tests to compare with.
 *
 * There may be millions of orders, so the state is written in pieces: the
 * library asks for the next some bytes, and some hundred rows are written under
 * the lock. Requests go on in between. The counts at the top and the rows below
 * them agree only while no other request executes; a reset in the middle cuts
 * the answer off.
 */
#include "state.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "text.h"

/* How many rows are written under one hold of the lock: about 50 us. */
#define ROWS_AT_ONCE 100

/* How many bytes the library asks for at once. */
#define PIECE_BYTES (32 * 1024)

/* How far the answer is written. */
struct state
{
	const struct shop *shop;
	bool is_summary;
	uint64_t generation;
	enum book_name book;
	size_t place; /* the next row of that book */
	bool is_begun;
	bool is_complete;
	struct text piece; /* written, not yet handed over */
	size_t handed;	   /* bytes of it that are */
};

static atomic_int waiting;

void
state_waiting_add(int difference)
{
	waiting += difference;
}

/* Writes all that stands before the rows. Lock held. */
static void
write_head(struct state *state)
{
	const struct shop *shop = state->shop;
	struct text *piece = &state->piece;

	text_string(piece, "{\"type\":\"success\",\"data\":{\"shop_id\":");
	text_json_any(piece, shop->id, strlen(shop->id));
	text_string(piece, ",\"counts\":{\"orders\":");
	text_integer(piece, (int64_t) shop->records[BOOK_ORDERS].count);
	text_string(piece, ",\"withdrawals\":");
	text_integer(piece, (int64_t) shop->records[BOOK_WITHDRAWALS].count);
	text_string(piece, ",\"repeated_orders\":");
	text_integer(piece, (int64_t) shop->repeated[BOOK_ORDERS]);
	text_string(piece, ",\"repeated_withdrawals\":");
	text_integer(piece, (int64_t) shop->repeated[BOOK_WITHDRAWALS]);
	text_string(piece, ",\"waiting\":");
	text_integer(piece, waiting);
	text_string(piece, "},\"balances\":");
	row_write_balances(piece, shop);
	state->is_begun = true;
	if (state->is_summary)
	{
		text_string(piece, "}}\n");
		state->is_complete = true;
	}
	else
		text_string(piece, ",\"orders\":[");
}

/* Writes some rows, and what stands behind the last. Lock held. */
static void
write_rows(struct state *state)
{
	const struct record_list *records = &state->shop->records[state->book];
	struct text *piece = &state->piece;

	for (int i = 0; i < ROWS_AT_ONCE && state->place < records->count; i++)
	{
		if (state->place > 0)
			text_byte(piece, ',');
		row_write_counted(piece, state->book,
						  record_list_at(records, state->place));
		state->place++;
	}
	if (state->place < records->count)
		return;
	state->place = 0;
	if (state->book == BOOK_ORDERS)
	{
		text_string(piece, "],\"withdrawals\":[");
		state->book = BOOK_WITHDRAWALS;
	}
	else
	{
		text_string(piece, "]}}\n");
		state->is_complete = true;
	}
}

/* Writes the next piece; returns false where the state is no longer there. */
static bool
write_piece(struct state *state)
{
	bool is_good;

	state->piece.length = 0;
	state->handed = 0;
	books_lock();
	if (!state->is_begun)
		state->generation = books_generation();
	is_good = state->generation == books_generation();
	if (is_good && !state->is_begun)
		write_head(state);
	else if (is_good)
		write_rows(state);
	books_unlock();
	return is_good;
}

static ssize_t
read_state(void *argument, uint64_t position, char *buffer, size_t size)
{
	struct state *state = argument;
	size_t rest;

	(void) position;
	while (state->handed == state->piece.length)
	{
		if (state->is_complete)
			return MHD_CONTENT_READER_END_OF_STREAM;
		if (!write_piece(state))
			return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	rest = state->piece.length - state->handed;
	if (size > rest)
		size = rest;
	memcpy(buffer, state->piece.data + state->handed, size);
	state->handed += size;
	return (ssize_t) size;
}

static void
free_state(void *argument)
{
	struct state *state = argument;

	text_free(&state->piece);
	free(state);
}

struct MHD_Response *
state_answer(const struct shop *shop, bool is_summary)
{
	struct state *state = must_allocate(sizeof(struct state));

	*state = (struct state){.shop = shop, .is_summary = is_summary};
	return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE_BYTES,
											 read_state, state, free_state);
}
