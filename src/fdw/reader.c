/*-------------------------------------------------------------------------
 *
 * reader.c
 *		Reads one of the provider's lists row by row.
 *
 * The provider returns its long lists page by page, newest row first.  It
 * chooses the number of rows on a page, and a page past the end is empty.
 * Reading one page after another would take as many round trips as there are
 * pages.  So we ask for several pages ahead, and take them in their order.
 *
 * How far ahead?  As many pages as were taken, at most tegro.max_concurrency.
 * A reader that stops after a few rows has asked for one page, and one that
 * stops later has asked for at most twice as many pages as it took.  After
 * ANALYZE has counted the rows, we ask for only one page beyond the end.
 *
 * A request that failed while others were in flight is sent once more when its
 * turn comes, with nothing after it until its answer has come.  From then on
 * half as many requests are in flight.  It may have failed because the session
 * did not look at it for long (a cursor that rests), because the provider does
 * not accept so many at once, or because the requests overtook each other and
 * the provider wants nonces to rise.
 *
 * The list moves.  A new order that is made while we read pushes all others
 * down by one.
 *
 *	- A row that was the last of page 7 can then be the first of page 8, and
 *	  comes twice.  So we remember the numbers of rows, and return each once.
 *	- If the provider read page 8 before page 7, a row that was the last of
 *	  page 7 then, and has moved to page 8 since, is on neither.  This cannot
 *	  happen if we asked for page 8 after page 7 had come.  If we asked for
 *	  both together, page 8 is in doubt.
 *
 * There are two phases.  READING takes all pages up to the empty one.  If none
 * of them was in doubt, the list is complete.  Otherwise READING_AGAIN asks for
 * page 1.  If it begins with the row that it began with before, the list did
 * not move and is complete.  If not, we ask for all pages from the first one in
 * doubt on again, together, and return the rows that did not come before.
 *
 * These pages can miss rows between them just as the first ones could.  Why
 * are two phases enough nevertheless?  Because both readings together leave no
 * gap.  Assume that the rows above page k+1 are complete down to the end of
 * page k as we first read it (as they are for the first page in doubt).
 *
 *	1. The second page k+1 follows the first page k without a gap.  It was read
 *	   later, and until then rows have only moved down: a row that followed
 *	   page k is on page k+1 now, or is further down.
 *	2. If the second page k+1 still holds the row with which the first page k+1
 *	   began, the two overlap, and the rows are complete down to the end of the
 *	   first page k+1.  So the same holds for page k+2, and so on.
 *	3. If it does not, the list has moved by a page or more, and there can be a
 *	   gap after the second page k+1.  We drop all pages that were asked for
 *	   together with it, and ask for the rest one page after another.  No gap is
 *	   possible between two of these.
 *
 * READING_AGAIN ends with an empty page.  If the page that was empty the first
 * time now has rows, the ones after it are asked for one after another, too.
 * There is nothing left for a third phase to check: each page of the second
 * phase is checked against the first when it is taken.
 *
 * All of this holds while rows are only added, at the front, and all pages but
 * the last have the same number of rows.  If rows vanish from a list, others
 * move up, and any reader of pages can miss them.
 *
 * Memory: the page in turn and the pages ahead, each smaller than
 * tegro.max_answer_size; some 40 bytes for each row and 8 for each page.
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
#include "src/outbox/judge.h"
#include "src/base/settings.h"

/*
 * Pages in a row without a new row, after which we give up.  If all of them
 * begin with the same row, the provider sends the same page for ever.  If they
 * do not, the list moves as fast as we read it, and that comes to an end.
 */
#define MAX_SAME_PAGES	10
#define MAX_STALE_PAGES 1000

/* The first row of a page has no number that we can read. */
#define NO_NUMBER PG_INT64_MIN

typedef enum Phase
{
	READING,	   /* all pages */
	READING_AGAIN, /* page 1, and if the list has moved the pages in doubt */
	FINISHED
} Phase;

/* A page of the list, all of one without pages, or the answer to a lookup. */
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
	int64 last;		   /* the empty page at the end of READING */
	int64 first_doubt; /* first page in doubt; 0: none */
	uint32 page_rows;  /* rows of the first page */
	bool short_page;   /* one with fewer came: the end is near */
	int64 *tops;	   /* number of each page's first row, in READING */
	int64 tops_room;
	int stale; /* pages in a row that brought nothing new */
	int same;  /* of them in a row, with the same first row */

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
	reader->tops_room = 64;
	reader->tops = MemoryContextAlloc(context,
									  reader->tops_room * sizeof(int64));
	reader->tops[1] = NO_NUMBER;
	reader->seen = hash_create("tegro rows", 128,
							   &(HASHCTL){.keysize = sizeof(int64),
										  .entrysize = sizeof(int64),
										  .hcxt = context},
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return reader;
}

void
tegro_reader_lookup(TegroReader *reader, const TegroKey *keys, int nkeys)
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
	page->call = tegro_api_prepare(reader->keys ? reader->list->lookup
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

	if (reader->phase == READING)
	{
		/* rows without numbers cannot be told apart: ask for nothing ahead */
		if (reader->short_page || reader->tops[1] == NO_NUMBER)
			return 1;
		return wanted_ahead(reader);
	}
	/* the pages in doubt together, but not before page 1 has come */
	if (reader->phase == READING_AGAIN && reader->taken > 0)
		return (int) Max(Min(reader->at_once,
							 reader->count + reader->last + 1 - reader->next),
						 1);
	return 1;
}

/* In READING: this page can miss a row of the page before it. */
static void
mark_doubt(TegroReader *reader, int64 number)
{
	if (reader->phase == READING &&
		(reader->first_doubt == 0 || number < reader->first_doubt))
		reader->first_doubt = number;
}

/* Notes which pages are in flight together, after one was asked for. */
static void
note_company(TegroReader *reader)
{
	int in_flight = 0;

	for (int i = 0; i < reader->count; i++)
		in_flight += !page_at(reader, i)->call->done;
	for (int i = 0; i < reader->count && in_flight > 1; i++)
		page_at(reader, i)->in_company |= !page_at(reader, i)->call->done;
	reader->counts->at_once = Max(reader->counts->at_once, in_flight);
}

/* Asks for as many pages as are wanted. */
static void
ask_ahead(TegroReader *reader)
{
	bool asked = false;

	/* what is asked for once more is not to be overtaken again */
	if (reader->count > 0 && page_at(reader, 0)->again &&
		!page_at(reader, 0)->call->done)
		return;

	/* the page in turn needs no slot; those ahead of it wait for one */
	while (reader->count < wanted(reader) &&
		   (reader->count == 0 || tegro_transport_descriptors(1) > 0))
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
	note_company(reader);

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
							   reader->keys ? reader->list->lookup
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

/* The number of the current page's first row, or NO_NUMBER. */
static int64
top_number(TegroReader *reader)
{
	int64 number;

	if (reader->nrows == 0 || !row_number(row_at(reader, 0), &number))
		return NO_NUMBER;
	return number;
}

/* Remembers with which row a page begins. */
static void
note_top(TegroReader *reader, int64 number)
{
	if (number >= reader->tops_room)
	{
		reader->tops_room *= 2;
		reader->tops = repalloc(reader->tops,
								reader->tops_room * sizeof(int64));
	}
	Assert(number >= 1 && number < reader->tops_room);
	reader->tops[number] = top_number(reader);
}

/* Does the current page still hold the row with which it began in READING? */
static bool
holds_top(TegroReader *reader, int64 page)
{
	for (uint32 i = 0; i < reader->nrows; i++)
	{
		int64 number;

		if (row_number(row_at(reader, i), &number) &&
			number == reader->tops[page])
			return true;
	}
	return false;
}


/*
 * Taking page after page.
 */

/*
 * Drops the pages that were asked for ahead.  We let their answers arrive while
 * we wait for other pages, because a connection whose answer has come is used
 * again.
 */
static void
drop_ahead(TegroReader *reader, int64 next)
{
	reader->count = 0;
	reader->next = next;
}

static void
begin_phase(TegroReader *reader, Phase phase)
{
	drop_ahead(reader, 1);
	reader->phase = phase;
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
			begin_phase(reader, FINISHED);
		return;
	}
	if (!reader->list->paged)
	{
		begin_phase(reader, FINISHED);
		return;
	}

	switch (reader->phase)
	{
		case READING:
			note_top(reader, number);
			if (number == 1)
				reader->page_rows = reader->nrows;
			if (reader->nrows < reader->page_rows)
				reader->short_page = true;
			if (reader->nrows > 0)
				break;
			reader->last = number;
			if (reader->first_doubt > 0 && reader->first_doubt <= number)
				begin_phase(reader, READING_AGAIN);
			else
				begin_phase(reader, FINISHED);
			break;
		case READING_AGAIN:
			Assert(reader->first_doubt > 1);
			if (number == 1)
			{
				if (top_number(reader) == reader->tops[1])
					begin_phase(reader, FINISHED);
				else
					reader->next = reader->first_doubt;
			}
			else if (reader->nrows == 0)
				begin_phase(reader, FINISHED);
			else if (number < reader->last && !holds_top(reader, number))
			{
				drop_ahead(reader, number + 1);
				reader->at_once = 1;
			}
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
		if (reader->keys && tegro_judge_is_not_found(page.call))
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
			/* it can overtake a page that was asked for when it had failed */
			note_company(reader);
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
		/* lookups end by themselves, with the last key */
		if (reader->nrows > 0 && !reader->brought_new &&
			reader->phase == READING && !reader->keys)
		{
			reader->stale++;
			if (reader->number > 1 &&
				reader->tops[reader->number] ==
					reader->tops[reader->number - 1])
				reader->same++;
			else
				reader->same = 0;
			if (reader->same >= MAX_SAME_PAGES ||
				reader->stale >= MAX_STALE_PAGES)
				raise_unreadable(reader,
								 psprintf("%d pages in a row brought no row that was not there before.",
										  reader->stale));
		}
		else
			reader->stale = reader->same = 0;
		if (!take_page(reader))
			break;
	}
	if (row)
		reader->brought_new = true;
	error_context_stack = callback.previous;
	return row;
}
