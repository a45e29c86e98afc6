/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		What else is asked of the outbox: callbacks that are due, outcomes, and whether
 *		anything is left to do.
 *
 * Requests are put in by enqueue.c, claimed by claim.c and changed by change.c.
 * The statements are in statement.c, and the rights under which they run in
 * store.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/outbox/judge.h"
#include "src/outbox/origin.h"
#include "src/outbox/outbox.h"
#include "src/base/settings.h"

/*
 * Callbacks.
 */

/*
 * Finds the request whose callback is due, and sets aside those of another
 * origin that come before it.  It has a context of its own below "caller".
 */
static TegroItem *
find_due_callback(const TegroStore *store, MemoryContext caller,
				  TimestampTz now)
{
	const char *own = pstrdup(tegro_origin_own(store));
	Datum values[1] = {TimestampTzGetDatum(now)};

	while (tegro_store_run(store, TEGRO_STMT_DUE_CALLBACK, values, NULL) == 1)
	{
		MemoryContext context = AllocSetContextCreate(caller, "tegro callback",
													  ALLOCSET_DEFAULT_SIZES);
		TegroItem *item;
		char *origin;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		item = tegro_change_item(0, &origin);
		if (tegro_origin_compare(origin, own) != TEGRO_STRANGER)
			return item;
		tegro_claim_set_aside(store, list_make1(item), origin, own);
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	return NULL;
}

TegroItem *
tegro_outbox_take_callback(const TegroStore *store, TimestampTz *next_at)
{
	MemoryContext caller = CurrentMemoryContext;
	TegroItem *item = NULL;
	TimestampTz now = GetCurrentTimestamp();
	TegroStoreScope scope;

	*next_at = 0;
	tegro_store_enter(store, &scope);
	item = find_due_callback(store, caller, now);
	if (item)
	{
		Datum values[2] = {Int64GetDatum(item->id)};

		item->claim_no++;
		item->failures++;
		Assert(item->callback != NULL);
		values[1] = TimestampTzGetDatum(
			TimestampTzPlusMilliseconds(now,
										tegro_judge_backoff_ms(
											item->failures)));
		/* a call that is not counted would be made for ever */
		tegro_claim_check(tegro_store_run(store, TEGRO_STMT_TAKE_CALLBACK,
										  values, NULL),
						  list_make1(item));
	}
	else if (tegro_store_run(store, TEGRO_STMT_NEXT_CALLBACK_AT, NULL, NULL) ==
			 1)
	{
		bool isnull;

		*next_at = DatumGetTimestampTz(tegro_store_column(0, 1, &isnull));
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return item;
}

bool
tegro_outbox_callbacks_wait(const TegroStore *store)
{
	return tegro_store_run_alone(store, TEGRO_STMT_CALLBACKS_WAIT, NULL,
								 NULL) > 0;
}


/*
 * History.
 */

int64
tegro_outbox_count_due(const TegroStore *store, int64 max)
{
	TegroStoreScope scope;
	Datum values[2] = {TimestampTzGetDatum(GetCurrentTimestamp()),
					   Int64GetDatum(max)};
	int64 count;
	bool isnull;

	tegro_store_enter(store, &scope);
	tegro_store_run(store, TEGRO_STMT_DUE_COUNT, values, NULL);
	count = DatumGetInt64(tegro_store_column(0, 1, &isnull));
	Assert(!isnull && count >= 0 && count <= max);
	tegro_store_leave(&scope);
	return count;
}

bool
tegro_outbox_any_prepared(void)
{
	bool found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	found =
		SPI_execute("SELECT 1 FROM pg_catalog.pg_prepared_xacts"
					" WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
					true, 1) == SPI_OK_SELECT &&
		SPI_processed > 0;
	SPI_finish();
	return found;
}

/* A request as it is committed now, and as far as its outcome goes. */
typedef struct Ending
{
	int64 id;
	const char *method;
	const char *reference;
	const char *state;
	const char *sqlstate;
	const char *message;
	Jsonb *answer;
	bool never_sent;		 /* certainly */
	const char *stripped_at; /* NULL: it was not */
	bool aside;
} Ending;

/* Reads it, in the current memory context, whatever the caller's snapshot. */
static Ending
read_ending(const TegroStore *store, int64 id, Oid caller)
{
	MemoryContext context = CurrentMemoryContext;
	TegroStoreScope scope;
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};
	Ending ending = {id};
	TransactionId xmin;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	tegro_store_enter(store, &scope);
	if (tegro_store_look(store, TEGRO_STMT_OUTCOME, values, NULL) != 1 ||
		!DatumGetBool(tegro_store_column(0, 7, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("request " INT64_FORMAT " is not in the outbox", id),
				 errdetail("Or another role enqueued it.")));
	xmin = DatumGetTransactionId(tegro_store_column(0, 8, &isnull));
	if (TransactionIdIsCurrentTransactionId(xmin))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("request " INT64_FORMAT " was enqueued or changed by this very transaction", id),
				 errdetail("It is delivered after the transaction has committed."),
				 errhint("Commit first, then wait.")));
	ending.never_sent = DatumGetBool(tegro_store_column(0, 9, &isnull));
	ending.aside = DatumGetBool(tegro_store_column(0, 11, &isnull));
	MemoryContextSwitchTo(context);
	ending.state = tegro_store_text(0, 1);
	ending.answer = tegro_store_jsonb(0, 2);
	ending.sqlstate = tegro_store_text(0, 3);
	ending.message = tegro_store_text(0, 4);
	ending.reference = tegro_store_text(0, 5);
	ending.method = tegro_store_text(0, 6);
	ending.stripped_at = tegro_store_text(0, 10);
	tegro_store_leave(&scope);
	PopActiveSnapshot();
	MemoryContextSwitchTo(context);
	Assert(ending.state && ending.reference && ending.method);
	return ending;
}

/* "Tegro refused createOrder: It says ...": not twice. */
static const char *
words_of_refusal(const char *message)
{
	const char *words = message && strncmp(message, "Tegro refused", 13) == 0
		? strstr(message, ": ")
		: NULL;

	return words ? words + 2 : message;
}

bool
tegro_outbox_outcome(const TegroStore *store, int64 id, Oid caller,
					 Jsonb **answer, TegroOutcome *outcome, const char **state)
{
	Ending ending = read_ending(store, id, caller);
	const char *method = ending.method;
	const char *reference = ending.reference;

	memset(outcome, 0, sizeof(*outcome));
	outcome->result = TEGRO_UNKNOWN;
	outcome->detail = ending.message;
	*state = ending.state;
	*answer = NULL;

	if (strcmp(ending.state, TEGRO_STATE_ACCEPTED) == 0 && ending.answer)
	{
		*answer = ending.answer;
		outcome->result = TEGRO_ANSWERED;
		outcome->detail = NULL;
	}
	else if (strcmp(ending.state, TEGRO_STATE_ACCEPTED) == 0 &&
			 ending.stripped_at)
	{
		outcome->message =
			psprintf("%s \"%s\" was accepted, and its answer has been erased",
					 method, reference);
		outcome->detail = psprintf("It was erased at %s.", ending.stripped_at);
	}
	else if (strcmp(ending.state, TEGRO_STATE_ACCEPTED) == 0)
		outcome->message = psprintf("%s \"%s\" was accepted without an answer",
									method, reference);
	else if (strcmp(ending.state, TEGRO_STATE_REFUSED) == 0)
	{
		outcome->result = ending.sqlstate &&
				strcmp(ending.sqlstate, "TG005") == 0
			? TEGRO_RATE_LIMITED
			: TEGRO_REFUSED;
		outcome->message = psprintf("Tegro refused %s \"%s\"", method,
									reference);
		outcome->detail = words_of_refusal(ending.message);
		outcome->hint = ending.stripped_at
			? "Enqueue it again with the right parameters, under the same number or another one."
			: psprintf("Enqueue it again with the right parameters, under the same number; tegro_retry(" INT64_FORMAT
					   ") sends it again as it is.",
					   id);
	}
	else if (strcmp(ending.state, TEGRO_STATE_REVIEW) == 0 &&
			 ending.never_sent)
	{
		outcome->result = TEGRO_NOT_SENT;
		outcome->message = psprintf("%s \"%s\" is set aside", method,
									reference);
		outcome->hint =
			psprintf("A person decides with tegro_resolve.  Before you pay in another way, call tegro_resolve(" INT64_FORMAT
					 ", 'refused', reason), so that nobody resends it.",
					 id);
	}
	else if (strcmp(ending.state, TEGRO_STATE_REVIEW) == 0)
	{
		outcome->message = psprintf("the outcome of %s \"%s\" is unknown",
									method, reference);
		outcome->hint =
			psprintf("Find out what became of it, then call tegro_resolve(" INT64_FORMAT
					 ", 'accepted', reason), or with 'refused' or 'resend'.",
					 id);
	}
	else if (strcmp(ending.state, TEGRO_STATE_CANCELLED) == 0)
	{
		outcome->result = TEGRO_NOT_SENT;
		outcome->message = psprintf("%s \"%s\" was cancelled", method,
									reference);
		/* by a person: then there is nothing to add */
		if (ending.sqlstate == NULL)
			outcome->detail = NULL;
		outcome->hint = ending.stripped_at
			? psprintf("Its parameters were erased at %s: it can be sent only under a new number.",
					   ending.stripped_at)
			: psprintf("tegro_retry(" INT64_FORMAT ") sends it after all.",
					   id);
	}
	else if (ending.aside)
	{
		/* it may have been sent where it comes from */
		outcome->message = psprintf("%s \"%s\" is set aside", method,
									reference);
		outcome->detail =
			"It was enqueued under another origin, that of the database that this one is a copy of, for example.  It is neither sent nor looked up.";
		outcome->hint =
			"If this database is to deliver it, and no other does, call tegro_take_over.";
	}
	else
		return false;
	return true;
}

bool
tegro_outbox_waiting(const TegroStore *store)
{
	return tegro_store_run_alone(store, TEGRO_STMT_WAITING, NULL, NULL) > 0;
}
