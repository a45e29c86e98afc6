/*-------------------------------------------------------------------------
 *
 * reader.c
 *		Reads a list of the provider's row by row.
 *
 * The provider gives its long lists page by page, newest row first; how many
 * rows a page has is its own affair, and a page past the end is empty.  One
 * page after another would take as many round trips as there are pages, so
 * pages are asked for ahead, several at once, and taken in their order.
 *
 * How far ahead?  As many pages as were taken, at most tegro.max_concurrency:
 * who stops after a few rows has asked for one page, and who stops later, for
 * no more than twice what he took.  Where ANALYZE has counted the rows, there
 * is no need to ask far beyond the end.
 *
 * What failed while others were in flight is asked for once more when its turn
 * comes, with nothing after it until it has come, and from then on half as many
 * are at once.  It may have failed because nobody looked at it for long (a
 * cursor that rests), because so many at once are too many for the provider,
 * or because they overtook each other and it wants nonces to rise.
 *
 * The list moves.  An order that is made while we read pushes all others
 * down by one.
 *
 *	- A row that was the last of page 7 can then be the first of page 8, and
 *	  comes twice.  So a row's number is remembered, and it is given once.
 *	- If page 8 was read by the provider before page 7, a row that was the
 *	  last of page 7 then, and was pushed to page 8 since, is on neither.  That
 *	  can't happen where page 8 was asked for after page 7 had come, but does
 *	  where they are asked for together.
 *
 * So when the end is reached, and pages were in doubt in this way, the first
 * page is asked for again.  If the list begins with the row that it began
 * with, it did not move, and nothing is missing.  If not, the pages in doubt
 * are asked for again, all at once, and rows that did not come before are
 * given.  Why that suffices: page k of the first time was there before page
 * k + 1 of the second was asked for, so no row is between these two; and what
 * was on page k + 1 the first time follows directly on it or is part of it,
 * unless the list moved by more than a page since.  Whether it did, the first
 * page tells once more: the row that the list began with would no longer be
 * on it.  Then the rest is read one page after another.
 *
 * All of that holds while rows are only added, at the front.  If rows vanish
 * from a list, others move up, and can be missed by any reader of pages.
 *
 * Memory: a page in turn, those asked for ahead, each below
 * tegro.max_answer_size, and the numbers of the rows, some 40 bytes each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "src/client/api.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/fdw/reader.h"
#include "src/outbox/ruling.h"
#include "src/base/settings.h"

/*
 * Pages in a row without a new row, after which the provider is taken to send
 * the same page for ever.  A list that moves can repeat one; never so many.
 */
#define MAX_STALE_PAGES 10

/* What is read of a list that has pages; the order is that of events. */
typedef enum Phase
{
	READING,		/* all of it */
	CHECKING,		/* the first page again: did the list move? */
	READING_AGAIN,	/* the pages in doubt, all at once */
	CHECKING_AGAIN, /* the first page again: did it move by a page? */
	ONE_BY_ONE,		/* the pages in doubt, one after another */
	FINISHED
} Phase;

/* A page of the list, all of one without pages, or the answer to a look-up. */
typedef struct ListPage
{
	MemoryContext context; /* of its call, and all that hangs on it */
	TegroCall *call;
	int64 number;	 /* of the page, from 1; of a key, from 0 */
	bool in_company; /* others were in flight at the same time */
	bool again;		 /* it is asked for once more, alone */
} ListPage;

struct TegroReader
{
	MemoryContext context; /* all of it */
	const TegroList *list;
	const char *shop_id;
	Oid role;
	int expected; /* rows; 0: unknown */
	TegroReaderCounts *counts;
	const TegroKey *keys; /* NULL: the list itself is read */
	int nkeys;

	/* pages that were asked for and are not taken yet: a ring */
	ListPage *pages;
	int room;
	int first;
	int count;
	int at_once; /* most that may be in flight; at most "room" */

	Phase phase;
	int64 next;		   /* number of the page to ask for next */
	int64 taken;	   /* pages taken, in this phase */
	int64 last;		   /* the first time, the empty page at the end */
	int64 first_doubt; /* first page that may miss a row of the one before;
						* 0: none */
	uint32 page_rows;  /* rows of the first page */
	bool short_page;   /* one with fewer came: the end is near */
	bool has_top;
	int64 top; /* number of the row that the list began with */
	int stale; /* pages in a row that brought nothing new */

	/* the page that rows are given of */
	MemoryContext page_context; /* NULL: none */
	int64 number;
	JsonbContainer *rows; /* an array */
	uint32 nrows;
	uint32 next_row;
	bool brought_new;

	HTAB *seen; /* numbers of the rows that were given */
};

TegroReader *
tegro_reader_begin(const TegroList *list, const char *shop_id, Oid role,
				   int expected, TegroReaderCounts *counts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "tegro reader",
												  ALLOCSET_DEFAULT_SIZES);
	TegroReader *reader = MemoryContextAllocZero(context, sizeof(TegroReader));

	reader->context = context;
	reader->list = list;
	reader->shop_id = MemoryContextStrdup(context, shop_id);
	reader->role = role;
	Assert(expected >= 0 && tegro_max_concurrency > 0);
	reader->expected = expected;
	reader->counts = counts;
	reader->room = reader->at_once = tegro_max_concurrency;
	reader->pages = MemoryContextAllocZero(context,
										   reader->room * sizeof(ListPage));
	reader->next = 1;
	reader->seen = hash_create("tegro rows", 128,
							   &(HASHCTL){.keysize = sizeof(int64),
										  .entrysize = sizeof(int64),
										  .hcxt = context},
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return reader;
}

void
tegro_reader_look_up(TegroReader *reader, const TegroKey *keys, int nkeys)
{
	/* before it has asked for anything */
	Assert(reader->count == 0 && reader->taken == 0);
	Assert(nkeys > 0);
	reader->keys = keys;
	reader->nkeys = nkeys;
	reader->next = 0;
}

void
tegro_reader_end(TegroReader *reader)
{
	MemoryContextDelete(reader->context);
}


/*
 * Asking.
 */

static ListPage *
page_at(TegroReader *reader, int i)
{
	Assert(i >= 0 && i < reader->room);
	Assert(reader->first >= 0 && reader->first < reader->room);
	return &reader->pages[(reader->first + i) % reader->room];
}

/* The parameters by which a page is asked for. */
static Jsonb *
page_params(TegroReader *reader, int64 number)
{
	TegroJsonbState params = tegro_begin_params();

	tegro_add_text_param(&params, "shop_id", cstring_to_text(reader->shop_id));
	if (reader->keys)
	{
		const TegroKey *key = &reader->keys[number];

		Assert(number >= 0 && number < reader->nkeys);
		if (key->payment_id)
			tegro_add_text_param(&params, "payment_id", key->payment_id);
		else
			tegro_add_int_param(&params, "order_id", key->id);
	}
	else if (reader->list->paged)
		tegro_add_int_param(&params, "page", number);
	return tegro_finish_params(&params);
}

/* Asks for a page. */
static void
ask(TegroReader *reader, ListPage *page, int64 number, bool again)
{
	MemoryContext old;

	/* kept before anything can fail: it goes with the reader in any case */
	page->context = AllocSetContextCreate(reader->context, "tegro page",
										  ALLOCSET_DEFAULT_SIZES);
	page->number = number;
	page->again = again;
	/* what was asked for past the end of another phase may be under way */
	page->in_company = reader->phase != READING;

	old = MemoryContextSwitchTo(page->context);
	page->call = tegro_api_prepare(reader->keys ? reader->list->look_up
												: reader->list->method,
								   page_params(reader, number), reader->role);
	tegro_api_begin(page->call);
	MemoryContextSwitchTo(old);
	reader->counts->requests++;
}

/*
 * How many pages may be asked for and not taken, while all of a list is read.
 * Where its size is known from before, no page beyond it is asked for ahead;
 * and if it has grown, the rest is read like a list that begins there.
 */
static int
wanted_ahead(const TegroReader *reader)
{
	int64 most = Max(Min(reader->taken, reader->at_once), 1);

	if (reader->expected > 0)
	{
		/* with the empty page at the end */
		int64 pages = (reader->expected - 1) / reader->page_rows + 2;

		if (reader->next <= pages)
			most = Min(most, reader->count + pages + 1 - reader->next);
		else
			most = Min(most, Max(reader->taken - pages, 1));
	}
	return (int) most;
}

/* How many pages may be asked for and not taken. */
static int
wanted(const TegroReader *reader)
{
	if (reader->keys)
		return (int) Min(reader->at_once,
						 reader->count + reader->nkeys - reader->next);
	if (!reader->list->paged)
		return 1;

	switch (reader->phase)
	{
		case READING:
			/* rows without numbers can't be told apart: nothing ahead */
			if (reader->short_page || !reader->has_top)
				return 1;
			return wanted_ahead(reader);
		case READING_AGAIN:
			return (int) Min(reader->at_once,
							 reader->count + reader->last + 1 - reader->next);
		case CHECKING:
		case CHECKING_AGAIN:
		case ONE_BY_ONE:
		case FINISHED:
			break;
	}
	return 1;
}

static void
mark_doubt(TegroReader *reader, int64 number)
{
	if (reader->phase == READING &&
		(reader->first_doubt == 0 || number < reader->first_doubt))
		reader->first_doubt = number;
}

/* Asks for as many pages as are wanted. */
static void
ask_ahead(TegroReader *reader)
{
	bool asked = false;
	int in_flight = 0;

	/* what is asked for once more is not to be overtaken again */
	if (reader->count > 0 && page_at(reader, 0)->again &&
		!page_at(reader, 0)->call->done)
		return;

	/* the page in turn needs no slot; those ahead of it wait for one */
	while (reader->count < wanted(reader) &&
		   (reader->count == 0 || tegro_transport_slots(1) > 0))
	{
		int64 number = reader->next;

		if (reader->count > 0 &&
			!page_at(reader, reader->count - 1)->call->done)
			mark_doubt(reader, number);
		ask(reader, page_at(reader, reader->count), number, false);
		reader->count++;
		reader->next++;
		asked = true;
	}
	if (!asked)
		return;

	Assert(reader->count <= reader->at_once || reader->count == 1);
	for (int i = 0; i < reader->count; i++)
		in_flight += !page_at(reader, i)->call->done;
	for (int i = 0; i < reader->count && in_flight > 1; i++)
		page_at(reader, i)->in_company |= !page_at(reader, i)->call->done;
	reader->counts->at_once = Max(reader->counts->at_once, in_flight);

	/* they leave now, not when we wait for them: rows are there to be given */
	if (page_at(reader, 0)->call->done)
		(void) tegro_transport_wait(0);
}

/*
 * Waits for the page whose turn it is, and has it whatever becomes of it.
 */
static ListPage *
await_page(TegroReader *reader)
{
	for (;;)
	{
		long wait_ms = -1;

		ask_ahead(reader);
		for (int i = 0; i < reader->count; i++)
		{
			ListPage *page = page_at(reader, i);
			int attempts = page->call->attempts;

			(void) tegro_api_advance(page->call, &wait_ms);
			if (page->call->attempts > attempts)
			{
				reader->counts->requests++;
				mark_doubt(reader, page->number + 1);
			}
		}
		if (page_at(reader, 0)->call->done)
			return page_at(reader, 0);
		(void) tegro_transport_wait(wait_ms);
	}
}

/* Forgets the page whose turn it was; its memory is left to the caller. */
static void
drop_page(TegroReader *reader)
{
	Assert(reader->count > 0 && page_at(reader, 0)->call->done);
	reader->first = (reader->first + 1) % reader->room;
	reader->count--;
}


/*
 * Reading answers.
 */

static _Noreturn void
raise_unreadable(TegroReader *reader, const char *why)
{
	TegroOutcome outcome = {TEGRO_UNREADABLE};

	outcome.message = psprintf("could not read the answer to %s",
							   reader->keys ? reader->list->look_up
											: reader->list->method);
	outcome.detail = why;
	outcome.hint =
		"The provider may have changed its answers; see what tegro_call() returns.";
	tegro_error_raise(&outcome);
}

static JsonbValue *
get_field(JsonbContainer *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name),
										value);
}

/* {"RUB": "1.00", ...} as [{"currency": "RUB", "amount": "1.00"}, ...] */
static JsonbContainer *
rows_of_currencies(JsonbContainer *object)
{
	TegroJsonbState state = {0};
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbValue value;
	JsonbIteratorToken token;
	JsonbValue currency = {.type = jbvString};
	JsonbValue amount = {.type = jbvString};

	currency.val.string.val = pstrdup("currency");
	currency.val.string.len = strlen("currency");
	amount.val.string.val = pstrdup("amount");
	amount.val.string.len = strlen("amount");
	tegro_push_jsonb(&state, WJB_BEGIN_ARRAY, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			tegro_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
			tegro_push_jsonb(&state, WJB_KEY, &currency);
			tegro_push_jsonb(&state, WJB_VALUE, &value);
		}
		else if (token == WJB_VALUE)
		{
			tegro_push_jsonb(&state, WJB_KEY, &amount);
			tegro_push_jsonb(&state, WJB_VALUE, &value);
			tegro_push_jsonb(&state, WJB_END_OBJECT, NULL);
		}
	}
	return &JsonbValueToJsonb(tegro_push_jsonb(&state, WJB_END_ARRAY, NULL))
				->root;
}

/* Finds the rows in an answer; sets reader->rows and what goes with it. */
static void
open_rows(TegroReader *reader, TegroCall *call)
{
	const char *member = reader->keys ? NULL : reader->list->member;
	JsonbValue data;
	JsonbContainer *rows;

	/* the rows go with the page */
	Assert(CurrentMemoryContext == reader->page_context);
	/* answer.c has seen to it that it is there */
	if (get_field(&call->envelope->root, "data", &data) == NULL)
		elog(ERROR, "answer without data");
	if (member && data.type == jbvBinary &&
		JsonContainerIsObject(data.val.binary.data))
	{
		JsonbContainer *object = data.val.binary.data;

		if (get_field(object, member, &data) == NULL)
			raise_unreadable(reader,
							 psprintf("\"data\" has no \"%s\".", member));
	}
	if (data.type != jbvBinary)
		raise_unreadable(reader,
						 "There is a single value where rows should be.");
	rows = data.val.binary.data;

	/* PHP writes an empty object as an empty list */
	if (JsonContainerIsObject(rows) && reader->list->by_currency)
		rows = rows_of_currencies(rows);
	else if (JsonContainerIsObject(rows) && reader->keys)
	{
		TegroJsonbState state = {0};

		tegro_push_jsonb(&state, WJB_BEGIN_ARRAY, NULL);
		tegro_push_jsonb(&state, WJB_ELEM, &data);
		rows = &JsonbValueToJsonb(
					tegro_push_jsonb(&state, WJB_END_ARRAY, NULL))
					->root;
	}
	else if (!JsonContainerIsArray(rows) ||
			 (JsonContainerSize(rows) > 0 &&
			  (reader->list->by_currency || reader->keys)))
		raise_unreadable(reader,
						 "There is something else where rows should be.");

	reader->rows = rows;
	reader->nrows = JsonContainerSize(rows);
	reader->next_row = 0;
	reader->brought_new = false;
}

/* The i-th row of the page. */
static JsonbContainer *
row_at(TegroReader *reader, uint32 i)
{
	JsonbValue *row = getIthJsonbValueFromContainer(reader->rows, i);

	if (row == NULL || row->type != jbvBinary ||
		!JsonContainerIsObject(row->val.binary.data))
		raise_unreadable(reader, "One of the rows is not an object.");
	return row->val.binary.data;
}

/* A row's number, by which it is known again; false if it has none. */
static bool
row_number(JsonbContainer *row, int64 *number)
{
	JsonbValue value;
	char *digits;
	char *end;

	if (get_field(row, TEGRO_FIELD_ID, &value) == NULL)
		return false;
	digits = tegro_scalar_text(&value);
	if (digits == NULL)
		return false;
	errno = 0;
	*number = strtoi64(digits, &end, 10);
	return errno == 0 && *digits != '\0' && *end == '\0';
}

/* Is the row that the list began with on the page; is it the first? */
static bool
has_top(TegroReader *reader, bool first)
{
	for (uint32 i = 0; i < (first ? Min(reader->nrows, 1) : reader->nrows);
		 i++)
	{
		int64 number;

		if (row_number(row_at(reader, i), &number) && number == reader->top)
			return true;
	}
	return false;
}


/*
 * Taking page after page.
 */

/* Goes on to another phase, with a page to ask for. */
static void
begin_phase(TegroReader *reader, Phase phase, int64 next)
{
	/*
	 * What was asked for past the end is left to arrive while we wait for what
	 * comes now: a connection whose answer has come is used again.
	 */
	reader->count = 0;
	reader->phase = phase;
	reader->next = next;
	reader->taken = 0;
}

/* A page was taken, whose rows are yet to be given: what comes after it? */
static void
go_on(TegroReader *reader, int64 number)
{
	reader->taken++;
	if (reader->keys)
	{
		if (reader->count == 0 && reader->next == reader->nkeys)
			begin_phase(reader, FINISHED, 0);
		return;
	}
	if (!reader->list->paged)
	{
		begin_phase(reader, FINISHED, 0);
		return;
	}

	switch (reader->phase)
	{
		case READING:
			if (number == 1)
			{
				reader->page_rows = reader->nrows;
				reader->has_top = reader->nrows > 0 &&
					row_number(row_at(reader, 0), &reader->top);
			}
			if (reader->nrows < reader->page_rows)
				reader->short_page = true;
			if (reader->nrows > 0)
				break;
			reader->last = number;
			if (reader->first_doubt > 0 && reader->first_doubt <= number)
				begin_phase(reader, CHECKING, 1);
			else
				begin_phase(reader, FINISHED, 0);
			break;
		case CHECKING:
			if (has_top(reader, true))
				begin_phase(reader, FINISHED, 0);
			else
				begin_phase(reader, READING_AGAIN, reader->first_doubt);
			break;
		case READING_AGAIN:
			if (number == reader->last)
				begin_phase(reader, CHECKING_AGAIN, 1);
			break;
		case CHECKING_AGAIN:
			if (has_top(reader, false))
				begin_phase(reader, FINISHED, 0);
			else
				begin_phase(reader, ONE_BY_ONE, reader->first_doubt);
			break;
		case ONE_BY_ONE:
			if (reader->nrows == 0)
				begin_phase(reader, FINISHED, 0);
			break;
		case FINISHED:
			break;
	}
}

/* Takes the next page in turn; false if there is none. */
static bool
take_page(TegroReader *reader)
{
	if (reader->page_context)
		MemoryContextDelete(reader->page_context);
	reader->page_context = NULL;
	reader->rows = NULL;
	reader->nrows = reader->next_row = 0;

	while (reader->phase != FINISHED)
	{
		ListPage page = *await_page(reader);
		TegroOutcome *outcome = &page.call->outcome;
		MemoryContext old;

		Assert(page.call->done);
		Assert(MemoryContextGetParent(page.context) == reader->context);
		if (outcome->result != TEGRO_ANSWERED && reader->keys &&
			tegro_rule_is_not_found(outcome))
		{
			drop_page(reader);
			MemoryContextDelete(page.context);
			go_on(reader, page.number);
			continue;
		}
		if (outcome->result != TEGRO_ANSWERED && page.in_company &&
			!page.again)
		{
			reader->at_once = Max(reader->at_once / 2, 1);
			mark_doubt(reader, page.number + 1);
			ask(reader, page_at(reader, 0), page.number, true);
			MemoryContextDelete(page.context);
			continue;
		}
		if (outcome->result != TEGRO_ANSWERED)
			tegro_error_raise(outcome);

		reader->page_context = page.context;
		reader->number = page.number;
		old = MemoryContextSwitchTo(page.context);
		open_rows(reader, page.call);
		drop_page(reader);
		go_on(reader, page.number);
		MemoryContextSwitchTo(old);
		return true;
	}
	return false;
}

/* Says in errors what was being read. */
static void
tell_page(void *arg)
{
	TegroReader *reader = arg;

	if (reader->keys || !reader->list->paged)
		return;
	if (reader->page_context || reader->count > 0)
		errcontext("page " INT64_FORMAT " of the list \"%s\"",
				   reader->page_context ? reader->number
										: page_at(reader, 0)->number,
				   reader->list->name);
}

/* The next row of the page that was not given before; NULL if there is none. */
static JsonbContainer *
next_of_page(TegroReader *reader)
{
	JsonbContainer *result = NULL;
	MemoryContext old;

	if (reader->page_context == NULL)
		return NULL;
	Assert(reader->next_row <= reader->nrows);
	old = MemoryContextSwitchTo(reader->page_context);
	while (result == NULL && reader->next_row < reader->nrows)
	{
		JsonbContainer *row = row_at(reader, reader->next_row++);
		int64 number;
		bool known = false;

		if ((reader->list->paged || reader->keys) && row_number(row, &number))
			(void) hash_search(reader->seen, &number, HASH_ENTER, &known);
		if (!known)
			result = row;
	}
	MemoryContextSwitchTo(old);
	return result;
}

JsonbContainer *
tegro_reader_next(TegroReader *reader)
{
	ErrorContextCallback callback = {error_context_stack, tell_page, reader};
	JsonbContainer *row;

	error_context_stack = &callback;
	while ((row = next_of_page(reader)) == NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (reader->nrows > 0 && !reader->brought_new &&
			reader->phase == READING)
		{
			if (++reader->stale >= MAX_STALE_PAGES)
				raise_unreadable(reader,
								 psprintf("%d pages in a row brought no row that was not there before.",
										  MAX_STALE_PAGES));
		}
		else
			reader->stale = 0;
		if (!take_page(reader))
			break;
	}
	if (row)
		reader->brought_new = true;
	error_context_stack = callback.previous;
	return row;
}
