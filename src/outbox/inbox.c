/*-------------------------------------------------------------------------
 *
 * inbox.c
 *		The notifications on record, and how they change.
 *
 * A notification is a row of tegro_notification, written once for a shop, an
 * order and a status, in the transaction of whoever brings it.  That it came
 * proves nothing but that it was signed once: it can be a replay, and the key
 * may have leaked.  So nothing is credited on its word.  The worker asks the
 * provider for the order, and only what that says makes the row "confirmed":
 *
 *		waiting   -> confirmed	the provider says paid, and all agrees
 *		waiting   -> review		it says paid, but something differs
 *		waiting   -> unpaid		it has said otherwise for days
 *		waiting   -> test		it says that the order was a test
 *		review,
 *		unpaid    -> waiting	it came again; or a person wants it so
 *
 * A test is recorded as one, and one of another status than paid is noted;
 * neither is looked up.  "confirmed" is never left.
 *
 * One that comes again for an order and status is a replay if it says the same.
 * If it tells another payment, amount or currency, it may be a second payment
 * under one number: of a link that was opened twice, say.  That is recorded as a
 * row of its own, a "variant", in review: a person has to know of it.  It is
 * never looked up, and so never confirmed and credited: the lookup of an order
 * that is in the outbox would find the first payment, and credit that twice.
 * Where the first came to nothing, that becomes the variant, and the second is
 * looked up in its place.
 *
 * Why the worker asks and not the session that brings the notification: the
 * provider waits for that one, and gives up; it would hold a transaction, and
 * a connection of a pool, for as long as a lookup takes; and a lookup that
 * fails has to be repeated later by somebody anyhow.  A lookup is asked for
 * only after a valid signature, and once, so nobody can have us send many.
 *
 * If a process dies
 *		before the notification's commit: the provider has no answer, and
 *		notifies again;
 *		after it: the row is "waiting" and due; the next worker takes it;
 *		between the claim and the lookup, in the lookup, or before what it
 *		said is committed: the claim ends with its lease, and it is looked up
 *		once more, which changes nothing at the provider;
 *		after "confirmed" is committed: the row is due for its callback, which
 *		a process of its own calls (callback.c);
 *		in the callback, or before its commit: what it did is gone with it, and
 *		it is called again;
 *		after that commit: all is done.  The callback's work and the note that
 *		it was called are one transaction, so both are there once.
 *
 * What is never deleted here: a row that is gone would be credited again by a
 * replay.  tegro.retention is for requests alone.
 *
 * Lookups and callbacks have a partial index each, next_at and callback_at.
 * The statements, and the rights under which they run, are in store.c; the
 * loop that claims and settles is delivery.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "src/base/argument.h"
#include "src/base/error.h"
#include "src/client/parameters.h"
#include "src/outbox/origin.h"
#include "src/outbox/inbox.h"
#include "src/outbox/judge.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"


/*
 * Recording.
 */

bool
tegro_inbox_target(const TegroStore *store, const char *shop_id,
				   TegroTarget *target)
{
	MemoryContext caller = CurrentMemoryContext;
	TegroStoreScope scope;
	Datum values[1] = {CStringGetTextDatum(shop_id)};
	bool isnull;
	bool found;

	tegro_store_enter(store, &scope);
	found = tegro_store_run(store, TEGRO_STMT_GET_TARGET, values, NULL) > 0;
	if (found)
	{
		MemoryContextSwitchTo(caller);
		target->callback = tegro_store_text(0, 1);
		target->role = DatumGetObjectId(tegro_store_column(0, 2, &isnull));
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return found;
}

bool
tegro_inbox_register(const TegroStore *store, const char *shop_id,
					 const char *callback, Oid role)
{
	TegroStoreScope scope;
	Datum values[3] = {CStringGetTextDatum(shop_id), (Datum) 0,
					   ObjectIdGetDatum(role)};
	bool changed;

	tegro_store_enter(store, &scope);
	if (callback)
	{
		values[1] = CStringGetTextDatum(callback);
		changed = tegro_store_run(store, TEGRO_STMT_SET_TARGET, values, NULL) >
			0;
	}
	else
	{
		values[1] = ObjectIdGetDatum(role);
		changed = tegro_store_run(store, TEGRO_STMT_DROP_TARGET, values,
								  NULL) > 0 ||
			tegro_store_run(store, TEGRO_STMT_GET_TARGET, values, NULL) == 0;
	}
	tegro_store_leave(&scope);
	return changed;
}

/* The order of the outbox that a notification names, if there is one. */
static Jsonb *
find_ordered(const TegroStore *store, const TegroNotification *notification,
			 int64 *request)
{
	Datum values[2] = {CStringGetTextDatum(notification->shop_id),
					   CStringGetTextDatum(notification->order_id)};
	bool isnull;

	if (tegro_store_run(store, TEGRO_STMT_ORDERED, values, NULL) == 0)
		return NULL;
	*request = DatumGetInt64(tegro_store_column(0, 1, &isnull));
	return tegro_store_jsonb(0, 2);
}

/* Adds what differs to a list of it; the texts are the notifications'. */
static void
add_difference(StringInfo list, const char *what, const char *here,
			   const char *there)
{
	appendStringInfo(list, "%s %s %s and not", list->len ? "," : "", what,
					 tegro_error_excerpt(here, strlen(here), 64, NULL));
	appendStringInfo(list, " %s",
					 tegro_error_excerpt(there, strlen(there), 64, NULL));
}

static char *
numeric_text(Numeric number)
{
	return DatumGetCString(
		DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
}

/* What tells variants apart; the parts can't be taken for one another. */
static Datum
variant_of(Numeric amount, const char *currency, const char *payment_id)
{
	Datum trimmed = DirectFunctionCall1(numeric_trim_scale,
										NumericGetDatum(amount));
	char *parts = psprintf("%s %zu %s %s",
						   numeric_text(DatumGetNumeric(trimmed)),
						   strlen(currency), currency,
						   payment_id ? payment_id : "");

	return DirectFunctionCall1(md5_text, CStringGetTextDatum(parts));
}

/*
 * What a notification tells otherwise than the one of its order and status that
 * is on record; NULL if they agree, or that is not there any more.  "values" are
 * those of TEGRO_STMT_RECORD.  *variant is what the one on record would be as a
 * variant.
 */
static char *
difference_to_recorded(const TegroStore *store,
					   const TegroNotification *notification, Datum *values,
					   Datum *variant)
{
	StringInfoData list;
	Numeric amount;
	char *currency;
	char *payment_id;
	int64 id;
	bool isnull;

	if (tegro_store_run(store, TEGRO_STMT_RECORDED, values, NULL) == 0)
		return NULL;
	id = DatumGetInt64(tegro_store_column(0, 1, &isnull));
	amount = DatumGetNumeric(tegro_store_column(0, 2, &isnull));
	currency = tegro_store_text(0, 3);
	payment_id = tegro_store_text(0, 4);
	*variant = variant_of(amount, currency, payment_id);

	initStringInfo(&list);
	/* not all notifications have one */
	if (payment_id && notification->payment_id &&
		strcmp(payment_id, notification->payment_id) != 0)
		add_difference(&list, "payment_id", notification->payment_id,
					   payment_id);
	if (!DatumGetBool(
			DirectFunctionCall2(numeric_eq, NumericGetDatum(amount),
								NumericGetDatum(notification->amount))))
		add_difference(&list, "amount", numeric_text(notification->amount),
					   numeric_text(amount));
	if (strcmp(currency, notification->currency) != 0)
		add_difference(&list, "currency", notification->currency, currency);
	return list.len == 0 ? NULL
						 : psprintf("differs from notification " INT64_FORMAT
									" of this order:%s",
									id, list.data);
}

/*
 * Records what differs from the notification on record.  That one makes room
 * where it came to nothing, so that one which is worth nothing does not stand in
 * the way of one that is; it becomes the variant then.  Returns false if this
 * one is a variant already.  "values" and "nulls" are of TEGRO_STMT_RECORD.
 */
static bool
record_variant(const TegroStore *store, const TegroNotification *notification,
			   Datum *values, char *nulls, const char *difference,
			   Datum recorded)
{
	Datum variant = variant_of(notification->amount, notification->currency,
							   notification->payment_id);
	bool waits = strcmp(TextDatumGetCString(values[11]), TEGRO_WAITING) == 0;
	Datum key[5];

	Assert(difference != NULL && recorded != (Datum) 0);
	memcpy(key, values, 4 * sizeof(Datum));
	key[4] = variant;
	if (tegro_store_run(store, TEGRO_STMT_RECORDED_VARIANT, key, NULL) > 0)
		return false;
	key[4] = recorded;
	if (waits &&
		tegro_store_run(store, TEGRO_STMT_KEEP_VARIANT, key, NULL) > 0 &&
		tegro_store_run(store, TEGRO_STMT_RECORD_AGAIN, values, nulls) > 0)
		return true;

	if (waits)
		values[11] = CStringGetTextDatum(TEGRO_STATE_REVIEW);
	values[12] = CStringGetTextDatum(difference);
	nulls[12] = ' ';
	values[14] = variant;
	return tegro_store_run(store, TEGRO_STMT_RECORD, values, nulls) > 0;
}

/*
 * Has the order of a notification that waits looked up within a minute, since
 * it came again.  Returns false if it need not be.  "values" are those of
 * TEGRO_STMT_RECORD.
 */
static bool
hasten(const TegroStore *store, const TegroNotification *notification,
	   const Datum *values)
{
	Datum key[5];
	char nulls[6] = "     ";

	memcpy(key, values, 4 * sizeof(Datum));
	key[4] = tegro_store_datum(notification->payment_id);
	nulls[4] = tegro_store_null(notification->payment_id == NULL);
	return tegro_store_run(store, TEGRO_STMT_HASTEN_NOTIFICATION, key, nulls) >
		0;
}

bool
tegro_inbox_record(const TegroStore *store,
				   const TegroNotification *notification,
				   const TegroTarget *target)
{
	const char *state = TEGRO_WAITING;
	char *message = NULL;
	int64 request = 0;
	Jsonb *ordered;
	char *difference = NULL;
	Datum recorded = (Datum) 0;
	Datum values[15];
	char nulls[16] = "               ";
	TegroStoreScope scope;
	bool is_new;
	bool is_due;

	tegro_store_enter(store, &scope);

	ordered = find_ordered(store, notification, &request);
	if (notification->test)
	{
		state = TEGRO_A_TEST;
		message = "a test: nothing was paid";
	}
	else if (strcmp(notification->status, TEGRO_STATUS_PAID) != 0)
	{
		state = TEGRO_NOTED;
		message = psprintf("of status %s: not a payment",
						   notification->status);
	}
	else if (ordered)
	{
		message = tegro_judge_difference(ordered, notification->fields,
										 "was ordered");
		if (message)
			state = TEGRO_STATE_REVIEW;
	}

	values[0] = CStringGetTextDatum(notification->shop_id);
	values[1] = CStringGetTextDatum(notification->order_id);
	values[2] = CStringGetTextDatum(notification->status);
	values[3] = BoolGetDatum(notification->test);
	values[4] = NumericGetDatum(notification->amount);
	values[5] = CStringGetTextDatum(notification->currency);
	values[6] = tegro_store_datum(notification->payment_id);
	nulls[6] = tegro_store_null(notification->payment_id == NULL);
	values[7] = JsonbPGetDatum(notification->fields);
	values[8] = ObjectIdGetDatum(target->role);
	values[9] = tegro_store_datum(target->callback);
	nulls[9] = tegro_store_null(target->callback == NULL);
	values[10] = Int64GetDatum(request);
	nulls[10] = tegro_store_null(ordered == NULL);
	values[11] = CStringGetTextDatum(state);
	values[12] = tegro_store_datum(message);
	nulls[12] = tegro_store_null(message == NULL);
	values[13] = CStringGetTextDatum(tegro_origin_own(store));

	values[14] = CStringGetTextDatum("");

	is_new = tegro_store_run(store, TEGRO_STMT_RECORD, values, nulls) > 0;
	if (!is_new)
		difference = difference_to_recorded(store, notification, values,
											&recorded);
	if (difference)
		is_new = record_variant(store, notification, values, nulls, difference,
								recorded);
	is_due = is_new ||
		(difference == NULL &&
		 (tegro_store_run(store, TEGRO_STMT_RECORD_AGAIN, values, nulls) > 0 ||
		  hasten(store, notification, values)));
	tegro_store_leave(&scope);

	/* a replay gives nobody any work */
	if (is_due)
	{
		tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
		/* who brought it is told that it is here, and won't bring it again */
		tegro_store_commit_durably();
	}
	return is_new;
}


/*
 * Claiming and settling.
 */

/* A row of NOTIFICATION_COLUMNS as an item, in the current memory context. */
static TegroItem *
read_item(int row, char **origin)
{
	TegroItem *item = palloc0(sizeof(TegroItem));
	bool isnull;

	Assert(CurrentMemoryContext != TopMemoryContext &&
		   CurrentMemoryContext != CurTransactionContext);
	item->context = CurrentMemoryContext;
	item->is_notification = true;
	item->task = TEGRO_LOOKUP;
	item->id = DatumGetInt64(tegro_store_column(row, 1, &isnull));
	item->shop_id = tegro_store_text(row, 2);
	item->method = "createOrder";
	item->reference = tegro_store_text(row, 3);
	item->params = tegro_store_jsonb(row, 4);
	item->state = tegro_store_text(row, 5);
	item->claim_no = DatumGetInt64(tegro_store_column(row, 6, &isnull));
	item->failures = DatumGetInt32(tegro_store_column(row, 7, &isnull));
	item->unknown_since = DatumGetTimestampTz(
		tegro_store_column(row, 8, &isnull));
	item->role = DatumGetObjectId(tegro_store_column(row, 9, &isnull));
	item->answer = tegro_store_jsonb(row, 10);
	item->callback = tegro_store_text(row, 11);
	item->message = tegro_store_text(row, 12);
	*origin = tegro_store_text(row, 13);
	return item;
}

/*
 * What a row's order was asked for with, and what it is to be looked up by.
 *
 * One number of the shop's can have several orders, as of a link that was
 * opened twice, and a lookup by it finds the newest.  So the provider's number
 * is better.  The answer to our own createOrder has it, and then nothing else
 * will do.  Else the notification may have it; but which number it is that
 * some notifications carry is not documented, so both are tried in turn.
 */
static void
read_order(int row, TegroItem *item)
{
	char *payment_id = tegro_store_text(row, 14);
	char *ordered_id = tegro_store_text(row, 16);

	item->ordered = tegro_store_jsonb(row, 15);
	if (ordered_id == NULL && payment_id && item->failures % 2 == 0)
		ordered_id = payment_id;
	item->lookup = tegro_parameters_by_number(ordered_id);
	item->by_number = item->lookup != NULL;
}

static void settle(const TegroStore *store, const TegroItem *item);

/*
 * Sets a notification of another origin aside, as claim.c does with a request.
 * Returns false if it is of this database or its predecessor.
 */
static bool
set_aside(const TegroStore *store, const TegroItem *item, const char *origin,
		  const char *own)
{
	Datum values[1] = {Int64GetDatum(item->id)};

	if (tegro_origin_compare(origin, own) != TEGRO_STRANGER)
		return false;
	if (tegro_store_run(store, TEGRO_STMT_SET_NOTIFICATION_ASIDE, values,
						NULL) != 1)
		elog(ERROR, "notification " INT64_FORMAT " could not be set aside",
			 item->id);
	return true;
}

static void
log_aside(int naside)
{
	if (naside > 0)
		ereport(LOG,
				(errmsg("notifications of tegro are set aside: %d", naside),
				 errdetail("They were recorded under another origin.  This database may be a copy."),
				 errhint("If this database is to take over from the other, call tegro_take_over.")));
}

/* Runs one of the statements that find what is due; returns the rows. */
static int
find_due(const TegroStore *store, TegroStatement which, int max,
		 TegroPauses *pauses, const TegroInboxClaim *claim, TimestampTz now)
{
	Datum values[4] = {TimestampTzGetDatum(now),
					   tegro_store_texts(tegro_pauses_names(pauses)),
					   claim->only != 0 ? Int64GetDatum(claim->only)
										: Int32GetDatum(max),
					   tegro_asides_ids(claim->asides, true)};

	Assert((claim->only != 0) == (which == TEGRO_STMT_NOTIFICATION_DUE_ONE));
	return (int) tegro_store_run(store, which, values, NULL);
}

List *
tegro_inbox_list_due(const TegroStore *store, int max, TegroPauses *pauses,
					 const TegroInboxClaim *claim)
{
	MemoryContext caller = CurrentMemoryContext;
	TegroStoreScope scope;
	List *rows = NIL;
	int nfound;
	bool isnull;

	tegro_store_enter(store, &scope);
	nfound = find_due(store, TEGRO_STMT_NOTIFICATIONS_DUE_IDS, max, pauses,
					  claim, GetCurrentTimestamp());
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < nfound; i++)
	{
		TegroRow *row = palloc(sizeof(TegroRow));

		row->is_notification = true;
		row->id = DatumGetInt64(tegro_store_column(i, 1, &isnull));
		rows = lappend(rows, row);
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return rows;
}

List *
tegro_inbox_claim(const TegroStore *store, int max, TegroPauses *pauses,
				  TegroInboxClaim *claim)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	int64 now_us = tegro_clock_us();
	TimestampTz claimed_until =
		TimestampTzPlusMilliseconds(now,
									tegro_claim_timeout * INT64CONST(1000));
	List *items = NIL;
	TegroItem **found;
	int nfound;
	Datum values[2];
	TegroStoreScope scope;
	char **origins;
	const char *own;
	int naside = 0;
	bool isnull;

	Assert(max > 0);
	Assert(IsTransactionState());
	tegro_store_enter(store, &scope);
	own = pstrdup(tegro_origin_own(store));
	nfound = find_due(store,
					  claim->only != 0 ? TEGRO_STMT_NOTIFICATION_DUE_ONE
									   : TEGRO_STMT_NOTIFICATIONS_DUE,
					  max, pauses, claim, now);
	Assert(nfound >= 0 && nfound <= max);
	claim->full = nfound == max;

	/* the rows first: what follows runs statements of its own */
	found = palloc((nfound + 1) * sizeof(TegroItem *));
	origins = palloc((nfound + 1) * sizeof(char *));
	for (int i = 0; i < nfound; i++)
	{
		MemoryContext context = AllocSetContextCreate(caller,
													  "tegro notification",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);

		found[i] = read_item(i, &origins[i]);
		read_order(i, found[i]);
		found[i]->claimed_us = now_us;
		MemoryContextSwitchTo(old);
	}

	for (int i = 0; i < nfound; i++)
	{
		TegroItem *item = found[i];
		MemoryContext old;

		if (set_aside(store, item, origins[i], own))
		{
			MemoryContextDelete(item->context);
			naside++;
			continue;
		}
		old = MemoryContextSwitchTo(item->context);
		item->decision = tegro_outbox_build_request(item);
		MemoryContextSwitchTo(old);
		if (item->decision)
		{
			/* it can't be looked up for now */
			settle(store, item);
			tegro_outbox_log_review(item);
			MemoryContextDelete(item->context);
			continue;
		}
		if (tegro_pauses_hold(pauses, item))
		{
			MemoryContextDelete(item->context);
			continue;
		}
		values[0] = Int64GetDatum(item->id);
		values[1] = TimestampTzGetDatum(claimed_until);
		if (tegro_store_run(store, TEGRO_STMT_TAKE_NOTIFICATION, values,
							NULL) != 1)
			elog(ERROR, "notification " INT64_FORMAT " could not be claimed",
				 item->id);
		item->claim_no++;
		old = MemoryContextSwitchTo(caller);
		items = lappend(items, item);
		MemoryContextSwitchTo(old);
	}

	log_aside(naside);
	claim->next_at = 0;
	if (!claim->full)
	{
		values[0] = TimestampTzGetDatum(now);
		(void) tegro_store_run(store, TEGRO_STMT_NEXT_NOTIFICATION_AT, values,
							   NULL);
		claim->next_at = DatumGetTimestampTz(
			tegro_store_column(0, 1, &isnull));
		if (isnull)
			claim->next_at = 0;
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return items;
}

static void
settle(const TegroStore *store, const TegroItem *item)
{
	const TegroDecision *decision = item->decision;
	Datum values[9];
	char nulls[10] = "         ";
	uint64 nchanged;

	Assert(item->is_notification);
	tegro_judge_check(item, item->decision, item->state);
	values[0] = Int64GetDatum(item->id);
	values[1] = Int64GetDatum(item->claim_no);
	values[2] = CStringGetTextDatum(decision->state);
	values[3] = TimestampTzGetDatum(
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									decision->delay_ms));
	nulls[3] = tegro_store_null(decision->delay_ms < 0);
	values[4] = decision->answer ? JsonbPGetDatum(decision->answer)
								 : (Datum) 0;
	nulls[4] = tegro_store_null(decision->answer == NULL);
	values[5] = tegro_store_datum(decision->sqlstate);
	nulls[5] = tegro_store_null(decision->sqlstate == NULL);
	values[6] = tegro_store_datum(decision->message);
	nulls[6] = tegro_store_null(decision->message == NULL);
	values[7] = Int32GetDatum(decision->failures);
	values[8] = BoolGetDatum(decision->outcome != NULL);
	nchanged = tegro_store_run(store, TEGRO_STMT_RECORD_OUTCOME_NOTIFICATION,
							   values, nulls);
	/* none, where another has claimed it since */
	Assert(nchanged <= 1);
	(void) nchanged;
}

void
tegro_inbox_record_outcomes(const TegroStore *store, List *items)
{
	TegroStoreScope scope;
	ListCell *cell;

	if (items == NIL)
		return;
	/* one by one: they are as few as payments */
	tegro_store_enter(store, &scope);
	foreach(cell, items)
		settle(store, lfirst(cell));
	tegro_store_leave(&scope);
}


/*
 * Callbacks.
 */

/* As find_due_callback() in outbox.c. */
static TegroItem *
find_due_callback(const TegroStore *store, MemoryContext caller,
				  TimestampTz now)
{
	const char *own = pstrdup(tegro_origin_own(store));
	Datum values[1] = {TimestampTzGetDatum(now)};
	TegroItem *item = NULL;
	int naside = 0;

	while (item == NULL &&
		   tegro_store_run(store, TEGRO_STMT_DUE_NOTIFICATION_CALLBACK, values,
						   NULL) == 1)
	{
		MemoryContext context = AllocSetContextCreate(caller, "tegro callback",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);
		char *origin;

		CHECK_FOR_INTERRUPTS();
		item = read_item(0, &origin);
		MemoryContextSwitchTo(old);
		if (set_aside(store, item, origin, own))
		{
			MemoryContextDelete(context);
			item = NULL;
			naside++;
		}
	}
	log_aside(naside);
	return item;
}

TegroItem *
tegro_inbox_take_callback(const TegroStore *store, TimestampTz *next_at)
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
		values[1] = TimestampTzGetDatum(
			TimestampTzPlusMilliseconds(now,
										tegro_judge_backoff_ms(
											item->failures)));
		Assert(item->callback != NULL);
		/* a call that is not counted would be made for ever */
		if (tegro_store_run(store, TEGRO_STMT_TAKE_NOTIFICATION_CALLBACK,
							values, NULL) != 1)
			elog(ERROR, "callback of notification " INT64_FORMAT " could not be claimed",
				 item->id);
	}
	else if (tegro_store_run(store, TEGRO_STMT_NEXT_NOTIFICATION_CALLBACK_AT,
							 NULL, NULL) == 1)
	{
		bool isnull;

		*next_at = DatumGetTimestampTz(tegro_store_column(0, 1, &isnull));
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return item;
}


/*
 * A person's.
 */

bool
tegro_inbox_sees(const TegroStore *store, int64 id, Oid caller)
{
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};

	return tegro_store_run_alone(store, TEGRO_STMT_SEE_NOTIFICATION, values,
								 NULL) > 0;
}

bool
tegro_inbox_retry(const TegroStore *store, int64 id, Oid caller)
{
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};

	/* whichever has it now */
	tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
	tegro_wake_at_commit(TEGRO_CALLBACK_WORKER);
	tegro_store_commit_durably();
	return tegro_store_run_alone(store, TEGRO_STMT_RETRY_NOTIFICATION, values,
								 NULL) > 0;
}
