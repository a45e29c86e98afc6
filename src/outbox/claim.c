/*-------------------------------------------------------------------------
 *
 * claim.c
 *		Claims requests that are due, for the delivery worker.
 *
 * A claim takes a request for one worker: it raises the row's claim_no, a fencing
 * token, and sets claimed_until; the event of a send is inserted with it.  It is
 * committed, durably, before anything is sent.  Results are written only under
 * their own claim (change.c), so a worker that was stopped, and whose row another
 * has taken over, changes nothing when it returns.
 *
 * If the process dies
 *		before the claim commits: the row is as it was;
 *		after that: it is "sending" until claimed_until, then "unknown", and
 *		looked up, whether it was sent or not: nobody can know;
 *		after the answer and before it is recorded: the same.
 *
 * Finding requests that are due.  One partial index holds what is left to do, by
 * time: next_at is null for a finished request.  A claim leaves next_at as it is,
 * so that it touches no index; a search passes over the rows that others have
 * claimed, which are few.  While an old snapshot is held open somewhere, index
 * entries of rows that have moved on cannot be removed, and each claim would pass
 * over all of them; so a worker that works off a backlog begins where the last
 * claim ended, and sweeps the whole index now and then.  Requests that go before
 * a backlog are found by statements of their own: see Part.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "src/client/parameters.h"
#include "src/outbox/change.h"
#include "src/outbox/claim.h"
#include "src/outbox/judge.h"
#include "src/outbox/origin.h"
#include "src/outbox/payer.h"
#include "src/base/settings.h"

/*
 * How long what has become due counts as new.  A transaction that is open for
 * longer than that after it enqueued has its request go by age.
 */
#define NEWEST_MS (3 * 1000)

/*
 * Parameters of a lookup: the provider's number where it is known, for the
 * shop's own may have several orders; else that.
 */
static Jsonb *
lookup_params(TegroItem *item)
{
	Jsonb *by_number = tegro_parameters_by_number(tegro_judge_number(item));
	TegroJsonbState state = {0};
	JsonbValue key;
	JsonbValue value;

	item->by_number = by_number != NULL;
	if (by_number)
		return by_number;
	key.type = value.type = jbvString;
	key.val.string.val = "payment_id";
	key.val.string.len = (int) strlen("payment_id");
	value.val.string.val = item->reference;
	value.val.string.len = (int) strlen(item->reference);
	tegro_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	tegro_push_jsonb(&state, WJB_KEY, &key);
	tegro_push_jsonb(&state, WJB_VALUE, &value);
	return JsonbValueToJsonb(tegro_push_jsonb(&state, WJB_END_OBJECT, NULL));
}

/*
 * What is thrown here must not hold up the others, so it is caught; nothing
 * but memory is left behind by what runs.
 */
TegroDecision *
tegro_outbox_build_request(TegroItem *item)
{
	MemoryContext context = CurrentMemoryContext;
	TegroDecision *volatile decision = NULL;

	PG_TRY();
	{
		/* after a take-over that found no role of its name */
		if (!OidIsValid(item->role))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("the role that it belongs to does not exist")));
		if (item->task == TEGRO_SEND)
			item->call = tegro_api_prepare_for_shop(item->method, item->params,
													item->shop_id, item->role);
		else
		{
			const char *method = strcmp(item->method, "createOrder") == 0
				? "order"
				: "withdrawal";

			if (item->lookup == NULL)
				item->lookup = lookup_params(item);
			item->call = tegro_api_prepare_for_shop(method, item->lookup,
													item->shop_id, item->role);
		}
		item->request = tegro_api_build(item->call);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
				ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
				ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES))
			PG_RE_THROW();
		FlushErrorState();
		decision =
			(error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT
				 /* the role is gone for good: no later try is any better */
				 ? tegro_judge_set_aside
				 : tegro_judge_postponed)(item,
										  pstrdup(unpack_sql_state(
											  error->sqlerrcode)),
										  error->hint
											  ? psprintf("%s; %s",
														 error->message,
														 error->hint)
											  : error->message);
	}
	PG_END_TRY();
	return decision;
}

/* The ids of items, as an array. */
static Datum
ids_of(List *items)
{
	Datum *ids = palloc(list_length(items) * sizeof(Datum));

	for (int i = 0; i < list_length(items); i++)
		ids[i] = Int64GetDatum(((TegroItem *) list_nth(items, i))->id);
	return tegro_store_ids(ids, list_length(items));
}

/*
 * A request is acted on only once its claim is on record.  A statement that
 * wrote fewer rows than it was given was kept from writing, by a trigger on the
 * table, say.
 */
void
tegro_claim_check(uint64 nrows, List *items)
{
	if (nrows != (uint64) list_length(items))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("claims of requests could not be put on record"),
				 errdetail("Of %d rows, " UINT64_FORMAT " were written; nothing was sent.",
						   list_length(items), nrows),
				 errhint("Drop triggers, rules and policies on the tables of tegro that are not its own.")));
}

/* Puts the claim of items that are to be sent on record. */
static void
record_sending(const TegroStore *store, List *items, TimestampTz claimed_until)
{
	Datum mark[2] = {ids_of(items), TimestampTzGetDatum(claimed_until)};
	TegroStoreRows *rows;
	ListCell *cell;

	if (items == NIL)
		return;
	tegro_claim_check(tegro_store_run(store, TEGRO_STMT_MARK_SENDING, mark,
									  NULL),
					  items);

	rows = tegro_store_rows(TEGRO_STMT_ADD_SEND);
	foreach(cell, items)
	{
		TegroItem *item = lfirst(cell);
		TegroSubject subject = {item->state, item->method};
		const TegroTransition *transition =
			tegro_transition_find(&subject, TEGRO_EVENT_CLAIM);
		Datum values[5];
		bool nulls[5] = {false};

		Assert(item->task == TEGRO_SEND);
		Assert(item->request.body_len > 0 && item->request.signature);
		if (transition == NULL)
			elog(ERROR, "request " INT64_FORMAT " cannot be sent in state \"%s\"",
				 item->id, item->state);
		item->state = transition->to;
		item->claim_no++;
		item->attempts++;
		item->events++;
		values[0] = Int64GetDatum(item->id);
		values[1] = Int32GetDatum(item->events);
		values[2] = Int64GetDatum(item->claim_no);
		values[3] = Int64GetDatum(item->request.nonce);
		values[4] = tegro_store_bytes(item->request.body,
									  item->request.body_len);
		tegro_store_add(rows, values, nulls);
	}
	if (tegro_store_run_rows(store, TEGRO_STMT_ADD_SEND, rows) !=
		(uint64) list_length(items))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("events are on record of which their requests do not know")));
}

/* Puts the claim of items that are to be looked up on record. */
static void
record_taking(const TegroStore *store, List *items, TimestampTz claimed_until)
{
	Datum mark[2] = {ids_of(items), TimestampTzGetDatum(claimed_until)};
	ListCell *cell;

	if (items == NIL)
		return;
	tegro_claim_check(tegro_store_run(store, TEGRO_STMT_MARK_TAKEN, mark,
									  NULL),
					  items);
	foreach(cell, items)
	{
		TegroItem *item = lfirst(cell);

		Assert(item->task == TEGRO_LOOKUP);
		Assert(strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0 ||
			   strcmp(item->state, TEGRO_STATE_REVIEW) == 0);
		item->claim_no++;
	}
}

/*
 * A payout is sent, at first and again, only while the role that enqueued it may
 * pay out; otherwise a person decides.  Lookups need no such right.
 */
static TegroDecision *
check_payer(const TegroStore *store, const TegroItem *item)
{
	char *why;

	if (tegro_method_effect(item->method) != TEGRO_PAYS_OUT ||
		tegro_payer_may(store, item->role, &why))
		return NULL;
	return tegro_judge_set_aside(item,
								 pstrdup(unpack_sql_state(
									 ERRCODE_INSUFFICIENT_PRIVILEGE)),
								 psprintf("%s; %sresolve it as refused with tegro_resolve, and have another role pay out",
										  why,
										  SearchSysCacheExists1(AUTHOID,
																ObjectIdGetDatum(
																	item->role))
											  ? "grant it again and resend it with tegro_resolve, or "
											  : ""));
}

/*
 * May a request have been sent since its row was written?  One from before a
 * failover: what is ready may have been sent there, and the doubt about what is
 * unknown begins anew, for it may have been sent again.
 */
static bool
is_inherited(const TegroItem *item, TegroKinship kinship)
{
	return kinship == TEGRO_SUCCESSOR &&
		(strcmp(item->state, TEGRO_STATE_READY) == 0 ||
		 strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0);
}

/*
 * Finds out what is due for an item of this database or its predecessor, and
 * builds the request that it needs.  Returns a decision if nothing is to be done
 * for it now: it is put off, or has changed its state by being looked at.
 */
static TegroDecision *
prepare_item(const TegroStore *store, TegroItem *item, TegroKinship kinship)
{
	TegroDecision *decision;

	/* nothing that has been stripped is due, unless somebody wrote to the row */
	if (item->params == NULL &&
		(strcmp(item->state, TEGRO_STATE_READY) == 0 ||
		 strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0 ||
		 strcmp(item->state, TEGRO_STATE_REVIEW) == 0))
		return tegro_judge_set_aside(item,
									 pstrdup(unpack_sql_state(
										 ERRCODE_DATA_CORRUPTED)),
									 "its parameters have been erased");

	Assert(kinship != TEGRO_STRANGER);
	if (is_inherited(item, kinship))
		return tegro_judge_inherited(item);

	if (strcmp(item->state, TEGRO_STATE_READY) == 0)
	{
		item->task = TEGRO_SEND;
		decision = check_payer(store, item);
		return decision ? decision : tegro_outbox_build_request(item);
	}
	if (strcmp(item->state, TEGRO_STATE_SENDING) == 0)
		return tegro_judge_orphaned(item);
	if (strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0 ||
		strcmp(item->state, TEGRO_STATE_REVIEW) == 0)
	{
		item->task = TEGRO_LOOKUP;
		return tegro_outbox_build_request(item);
	}

	return tegro_judge_rested(item);
}

/* Until when a claim that is made now holds. */
static TimestampTz
end_of_claim(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   tegro_claim_timeout * INT64CONST(1000));
}

void
tegro_outbox_log_review(const TegroItem *item)
{
	const char *message = item->decision->message
		? tegro_error_for_client(item->decision->message)
		: "";

	if (strcmp(item->decision->state, TEGRO_STATE_REVIEW) != 0 ||
		strcmp(item->state, TEGRO_STATE_REVIEW) == 0)
		return;
	if (item->is_notification)
		ereport(LOG,
				(errmsg("notification " INT64_FORMAT " of tegro is in review: %s",
						item->id, message)));
	else
		ereport(LOG,
				(errmsg("request " INT64_FORMAT " of the tegro outbox is in review: %s",
						item->id, message)));
}

/*
 * Sets requests of another origin aside: nobody sends them, looks them up or
 * calls back, until a person takes them over.  It changes nothing else of them.
 *
 * If the process dies before the commit, they are as they were, and the next
 * claim meets them again; nothing was done for them.
 */
void
tegro_claim_set_aside(const TegroStore *store, List *items, const char *origin,
					  const char *own)
{
	Datum values[1];

	if (items == NIL)
		return;
	values[0] = ids_of(items);
	tegro_claim_check(tegro_store_run(store, TEGRO_STMT_SET_ASIDE, values,
									  NULL),
					  items);
	ereport(LOG,
			(errmsg("requests of the tegro outbox are set aside: %d",
					list_length(items)),
			 errdetail("They were enqueued under another origin, the first, request " INT64_FORMAT ", under %s; this is %s.  This database may be a copy, and a copy must not pay.",
					   ((TegroItem *) linitial(items))->id,
					   tegro_error_for_client(origin), own),
			 errhint("If this database is to deliver them, and no other does, call tegro_take_over.")));
}

/*
 * The parts of what is due, in the order in which a claim takes their rows.
 *
 * Payouts and what is newest go before a bulk of orders that somebody enqueued
 * in one go.  The newest are the single requests that come while it is worked
 * off, and lookups and repeats that have become due; and of a bulk, its end, for
 * as long as that is new.  These two are preferred, for at most as many rows as
 * the caller says, who lets them have a quarter of the places (delivery.c), so
 * that the rest, by age, always goes on.
 *
 * This is right whoever enqueued the bulk and the others: a fair share for each
 * role or shop would need an index of its own, and would do nothing for the
 * shop that runs the bulk and has customers meanwhile.
 *
 * A claim touches no index for it.  What is newest is read from the end of the
 * index of what is due, no further back than NEWEST_MS, so that the rows of a
 * bulk keep their order from then on, and so that index entries that an old
 * snapshot keeps are passed over only as far as that.  Payouts have an index of
 * their own, which is empty where there are none.
 */
typedef enum Part
{
	PAYOUTS, /* oldest first */
	NEWEST,	 /* newest first */
	BY_AGE,	 /* of shops that do not rest for want of a token */
	OF_SHOPS /* that did, and have one again */
} Part;

static const TegroStatement due_rows[] = {[PAYOUTS] = TEGRO_STMT_PAYOUTS_DUE,
										  [NEWEST] = TEGRO_STMT_NEWEST_DUE,
										  [BY_AGE] = TEGRO_STMT_DUE,
										  [OF_SHOPS] = TEGRO_STMT_SHOPS_DUE};
static const TegroStatement due_ids[] =
	{[PAYOUTS] = TEGRO_STMT_PAYOUTS_DUE_IDS,
	 [NEWEST] = TEGRO_STMT_NEWEST_DUE_IDS,
	 [BY_AGE] = TEGRO_STMT_DUE_IDS,
	 [OF_SHOPS] = TEGRO_STMT_SHOPS_DUE_IDS};

/* Where in the order of what is due a claim begins, by age. */
static Datum
begin_of_claim(const TegroClaim *claim)
{
	return TimestampTzGetDatum(claim->fast ? claim->after : DT_NOBEGIN);
}

/* The numbers of items, and of those that were set aside. */
static Datum
ids_left_out(const TegroClaim *claim, List *items)
{
	Datum aside = tegro_asides_ids(claim->asides, false);
	Datum *ids;
	int naside;
	ListCell *cell;

	if (items == NIL)
		return aside;
	deconstruct_array(DatumGetArrayTypeP(aside), INT8OID, sizeof(int64),
					  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, NULL, &naside);
	ids = repalloc(ids, (Size) (naside + list_length(items)) * sizeof(Datum));
	foreach(cell, items)
		ids[naside++] = Int64GetDatum(((TegroItem *) lfirst(cell))->id);
	return tegro_store_ids(ids, naside);
}

/*
 * Finds rows of a part that a claim made "now" takes, at most "max", by one of
 * the statements above.  "items" are those that it has taken already: they are
 * not found again.  "shops" and "from" are those of OF_SHOPS.
 */
static int
find_due(const TegroStore *store, Part part, const TegroStatement *statements,
		 const TegroClaim *claim, TimestampTz now, int max, List *items,
		 List *shops, TimestampTz from)
{
	Datum values[6] = {TimestampTzGetDatum(now),
					   begin_of_claim(claim),
					   tegro_store_texts(tegro_pauses_names(claim->pauses)),
					   Int32GetDatum(max),
					   ids_left_out(claim, items),
					   (Datum) 0};

	Assert(max > 0);
	switch (part)
	{
		case PAYOUTS:
			values[1] = TimestampTzGetDatum(DT_NOBEGIN);
			shops = tegro_pace_resting(claim->pace, false);
			break;
		case NEWEST:
			values[1] = TimestampTzGetDatum(
				TimestampTzPlusMilliseconds(now, -NEWEST_MS));
			shops = tegro_pace_resting(claim->pace, false);
			break;
		case BY_AGE:
			shops = tegro_pace_resting(claim->pace, true);
			break;
		case OF_SHOPS:
			values[1] = TimestampTzGetDatum(from);
			break;
	}
	values[5] = tegro_store_texts(shops);
	return (int) tegro_store_run(store, statements[part], values, NULL);
}

/* Finds the one row that a claim is for. */
static int
find_one(const TegroStore *store, const TegroClaim *claim, TimestampTz now)
{
	Datum values[3] = {TimestampTzGetDatum(now),
					   tegro_store_texts(tegro_pauses_names(claim->pauses)),
					   Int64GetDatum(claim->only)};

	return (int) tegro_store_run(store, TEGRO_STMT_DUE_ONE, values, NULL);
}

/*
 * The numbers of what a claim would find, from any part, as datums, by one of
 * the statements above.
 */
static Datum *
find_ids(const TegroStore *store, const TegroStatement *statements,
		 const TegroClaim *claim, int *nids)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum *ids = palloc((Size) (3 * claim->max + 1) * sizeof(Datum));
	TimestampTz from;
	int places = claim->max;
	List *shops = tegro_pace_returning(claim->pace, &places, &from);
	bool isnull;

	*nids = 0;
	for (Part part = PAYOUTS; part <= OF_SHOPS; part++)
	{
		bool preferred = part == PAYOUTS || part == NEWEST;
		int max = part == BY_AGE ? claim->max
			: preferred			 ? claim->preferred / 2 + 1
								 : places;
		int nfound;

		if ((preferred && claim->preferred == 0) ||
			(part == OF_SHOPS && shops == NIL))
			continue;
		nfound = find_due(store, part, statements, claim, now, max, NIL, shops,
						  from);
		for (int i = 0; i < nfound && *nids < 3 * claim->max; i++)
			ids[(*nids)++] = tegro_store_column(i, 1, &isnull);
	}
	return ids;
}

List *
tegro_outbox_list_due(const TegroStore *store, const TegroClaim *claim)
{
	MemoryContext caller = CurrentMemoryContext;
	TegroStoreScope scope;
	List *rows = NIL;
	Datum *ids;
	int nids;

	Assert(claim->only == 0);
	tegro_store_enter(store, &scope);
	ids = find_ids(store, due_ids, claim, &nids);
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < nids; i++)
	{
		TegroRow *row = palloc0(sizeof(TegroRow));

		row->id = DatumGetInt64(ids[i]);
		rows = lappend(rows, row);
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return rows;
}

uint64
tegro_outbox_doubt(const TegroStore *store, const TegroClaim *claim)
{
	MemoryContext caller = CurrentMemoryContext;
	TegroStoreScope scope;
	Datum only = Int64GetDatum(claim->only);
	Datum *ids = &only;
	Datum values[1];
	List *items = NIL;
	int nids;
	int npassed;
	bool isnull;
	ListCell *cell;

	tegro_store_enter(store, &scope);
	if (claim->only != 0)
		nids = find_one(store, claim, GetCurrentTimestamp());
	else
		ids = find_ids(store, due_rows, claim, &nids);
	values[0] = tegro_store_ids(ids, nids);
	npassed = (int) tegro_store_run(store, TEGRO_STMT_PASS_EVENTS, values,
									NULL);
	for (int i = 0; i < npassed; i++)
		ids[i] = tegro_store_column(i, 1, &isnull);
	for (int i = 0; i < npassed; i++)
	{
		MemoryContext old;
		TegroItem *item;
		char *origin;

		if (tegro_store_run(store, TEGRO_STMT_ONE, &ids[i], NULL) != 1)
			elog(ERROR, "request " INT64_FORMAT " is not in the outbox",
				 DatumGetInt64(ids[i]));
		old = MemoryContextSwitchTo(
			AllocSetContextCreate(caller, "tegro request",
								  ALLOCSET_DEFAULT_SIZES));
		item = tegro_change_item(0, &origin);
		item->decision = tegro_judge_conflict(item);
		MemoryContextSwitchTo(old);
		items = lappend(items, item);
	}
	tegro_change_outcomes(store, items);
	foreach(cell, items)
		MemoryContextDelete(((TegroItem *) lfirst(cell))->context);
	tegro_store_leave(&scope);
	return (uint64) npassed;
}

/* What a claim has found, and read. */
typedef struct Found
{
	MemoryContext context; /* above those of the items */
	int64 now_us;
	List *items;	/* of TegroItem */
	char **origins; /* theirs, in that order, and when each is due */
	TimestampTz *due;
	Size size;
} Found;

/*
 * Reads the rows that were found, "nfound" of them.  What is large is stored
 * apart, and read only here; rows beyond the budget stay as they are.  Returns
 * how many were read.
 */
static int
read_found(Found *found, int nfound, Size max_size)
{
	int nread = 0;

	for (; nread < nfound; nread++)
	{
		int n = list_length(found->items);
		MemoryContext old;
		TegroItem *item;
		bool isnull;

		if (n > 0 && found->size >= max_size)
			break;
		old = MemoryContextSwitchTo(
			AllocSetContextCreate(found->context, "tegro request",
								  ALLOCSET_DEFAULT_SIZES));
		item = tegro_change_item(nread, &found->origins[n]);
		item->claimed_us = found->now_us;
		found->size += item->size;
		MemoryContextSwitchTo(old);
		found->due[n] = DatumGetTimestampTz(
			tegro_store_column(nread, 17, &isnull));
		found->items = lappend(found->items, item);
	}
	return nread;
}

/* When the last one that was read was due. */
static TimestampTz
last_due(const Found *found)
{
	return found->due[list_length(found->items) - 1];
}

/*
 * Finds what is preferred, and tells when the place for it ran out: then there
 * may be more of it.
 */
static void
find_preferred(const TegroStore *store, TegroClaim *claim, TimestampTz now,
			   Found *found)
{
	int64 begun_us = tegro_clock_us();
	int places = claim->preferred;
	/* both get some, also where there are many of the other */
	int payouts = places > 1 ? places - places / 2 : claim->turn % 4 != 0;
	int nfound = 0;

	if (payouts > 0)
	{
		nfound = find_due(store, PAYOUTS, due_rows, claim, now, payouts, NIL,
						  NIL, 0);
		(void) read_found(found, nfound, claim->max_size);
		claim->more_preferred = nfound == payouts;
	}
	places -= nfound;
	if (places > 0)
	{
		nfound = find_due(store, NEWEST, due_rows, claim, now, places,
						  found->items, NIL, 0);
		/*
		 * The end of a bulk is there for seconds, and is not so urgent: each look
		 * passes over the entries of what it took before, where an old snapshot
		 * keeps them.
		 */
		claim->more_preferred |= read_found(found, nfound, claim->max_size) ==
				places &&
			last_due(found) > claim->since;
	}
	claim->preferred_us = tegro_clock_us() - begun_us;
}

List *
tegro_outbox_claim(const TegroStore *store, TegroClaim *claim)
{
	MemoryContext caller = CurrentMemoryContext;
	List *items;
	List *to_send = NIL;
	List *to_take = NIL;
	List *put_off = NIL;
	List *resting = NIL;
	Found found = {.context = caller, .now_us = tegro_clock_us()};
	List *strangers = NIL;
	const char *strange_origin = NULL;
	const char *own;
	int ninherited = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz claimed_until;
	TimestampTz from;
	List *shops = NIL;
	int nfound;
	int npreferred;
	int left;
	int by_age;
	ListCell *cell;
	TegroStoreScope scope;
	bool isnull;

	Assert(claim->max > 0 && claim->max_size > 0);
	Assert(claim->preferred >= 0 && claim->preferred <= claim->max);
	Assert(IsTransactionState());
	tegro_store_enter(store, &scope);
	found.origins = palloc(claim->max * sizeof(char *));
	found.due = palloc(claim->max * sizeof(TimestampTz));
	/* for longer than the cache of it, which a reload may empty */
	own = pstrdup(tegro_origin_own(store));

	/* the rows first: what follows runs statements of its own */
	claim->more_preferred = false;
	if (claim->preferred > 0)
		find_preferred(store, claim, now, &found);
	npreferred = list_length(found.items);
	left = by_age = claim->max - npreferred;
	if (claim->only == 0 && left > 0)
	{
		int places = left;

		/* half of the places for these, and what the others leave */
		shops = tegro_pace_returning(claim->pace, &places, &from);
		if (shops != NIL)
			by_age = Max((left + (claim->turn & 1)) / 2, left - places);
	}
	claim->full = true;
	if (by_age > 0 && found.size < claim->max_size)
	{
		int nread;

		nfound = claim->only != 0 ? find_one(store, claim, now)
								  : find_due(store, BY_AGE, due_rows, claim,
											 now, by_age, found.items, NIL, 0);
		Assert(nfound >= 0 && nfound <= by_age);
		nread = read_found(&found, nfound, claim->max_size);
		claim->full = nfound == by_age || nread < nfound;
		if (nread > 0)
			claim->after = last_due(&found);
		left -= nread;
	}
	if (shops != NIL && left > 0 && found.size < claim->max_size)
	{
		int places = left;
		int nread;

		shops = tegro_pace_returning(claim->pace, &places, &from);
		nfound = find_due(store, OF_SHOPS, due_rows, claim, now, places,
						  found.items, shops, from);
		nread = read_found(&found, nfound, claim->max_size);
		if (nread == nfound && nfound < places)
			tegro_pace_seen(claim->pace, shops, DT_NOEND);
		else if (nread > 0)
			tegro_pace_seen(claim->pace, shops, last_due(&found));
	}
	nfound = list_length(found.items);
	claim->max_size -= Min(found.size, claim->max_size);
	claim->npreferred = 0;

	for (int i = 0; i < nfound; i++)
	{
		/*
		 * Where a shop has few tokens, what is preferred has the first, but for
		 * one turn of four.
		 */
		int n = claim->turn % 4 == 3 ? (i + npreferred) % nfound : i;
		TegroItem *item = list_nth(found.items, n);
		TegroKinship kinship = tegro_origin_compare(found.origins[n], own);
		MemoryContext old;

		if (kinship == TEGRO_STRANGER)
		{
			if (strangers == NIL)
				strange_origin = found.origins[n];
			strangers = lappend(strangers, item);
			continue;
		}
		ninherited += is_inherited(item, kinship);
		old = MemoryContextSwitchTo(item->context);
		item->decision = prepare_item(store, item, kinship);
		MemoryContextSwitchTo(old);
		if (item->decision)
			put_off = lappend(put_off, item);
		else if (tegro_pauses_hold(claim->pauses, item) ||
				 (item->task == TEGRO_SEND &&
				  !tegro_pace_take(claim->pace, item->shop_id, found.due[n],
								   n >= npreferred && claim->only == 0)))
			resting = lappend(resting, item);
		else
		{
			claim->npreferred += n < npreferred;
			if (item->task == TEGRO_SEND)
				to_send = lappend(to_send, item);
			else
				to_take = lappend(to_take, item);
		}
	}

	claimed_until = end_of_claim();
	Assert(claimed_until > now);
	tegro_claim_set_aside(store, strangers, strange_origin, own);
	if (ninherited > 0)
		ereport(LOG,
				(errmsg("requests of the tegro outbox are from before a failover or restore: %d",
						ninherited),
				 errdetail("They are looked up before they are sent.")));
	tegro_change_outcomes(store, put_off);
	record_sending(store, to_send, claimed_until);
	record_taking(store, to_take, claimed_until);

	MemoryContextSwitchTo(caller);
	items = list_concat_copy(to_send, to_take);
	Assert(list_length(items) + list_length(put_off) + list_length(resting) +
			   list_length(strangers) ==
		   nfound);
	foreach(cell, strangers)
		MemoryContextDelete(((TegroItem *) lfirst(cell))->context);
	foreach(cell, put_off)
	{
		tegro_outbox_log_review(lfirst(cell));
		MemoryContextDelete(((TegroItem *) lfirst(cell))->context);
	}
	foreach(cell, resting)
		MemoryContextDelete(((TegroItem *) lfirst(cell))->context);

	/* what was settled just now may be due, so ask from this claim's time on */
	claim->next_at = claim->inbox_at = 0;
	if (!claim->full)
	{
		Datum values[2] = {TimestampTzGetDatum(now), begin_of_claim(claim)};

		(void) tegro_store_run(store, TEGRO_STMT_NEXT_AT, values, NULL);
		claim->next_at = DatumGetTimestampTz(
			tegro_store_column(0, 1, &isnull));
		if (isnull)
			claim->next_at = 0;
		claim->inbox_at = DatumGetTimestampTz(
			tegro_store_column(0, 2, &isnull));
		if (isnull)
			claim->inbox_at = 0;
	}

	/* a claim for what is past would make the worker spin */
	Assert(claim->next_at == 0 || claim->next_at > now);

	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return items;
}

TegroItem *
tegro_outbox_claim_new(const TegroStore *store, int64 id,
					   TegroEnqueued enqueued)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "tegro request",
												  ALLOCSET_DEFAULT_SIZES);
	TegroItem *item;
	char *origin;
	Datum values[1] = {Int64GetDatum(id)};
	Datum passed[1];
	const char *own;
	TegroStoreScope scope;

	tegro_store_enter(store, &scope);
	own = pstrdup(tegro_origin_own(store));
	/*
	 * A new one knows of no events, whatever is on record under its number.
	 * Events that one that is corrected does not know of may be its own, and it
	 * is not sent: record_sending() throws.
	 */
	Assert(enqueued != TEGRO_ENQUEUED_BEFORE);
	passed[0] = tegro_store_ids(values, 1);
	if (enqueued == TEGRO_ENQUEUED_NEW)
		(void) tegro_store_run(store, TEGRO_STMT_PASS_EVENTS, passed, NULL);
	if (tegro_store_run(store, TEGRO_STMT_ONE, values, NULL) != 1)
		elog(ERROR, "request " INT64_FORMAT " is not in the outbox", id);
	MemoryContextSwitchTo(context);
	item = tegro_change_item(0, &origin);
	/* it is locked: it was inserted or corrected in this transaction */
	Assert(item->id == id && strcmp(item->state, TEGRO_STATE_READY) == 0);
	if (strcmp(origin, own) != 0)
	{
		/* corrected, and from before a failover */
		tegro_store_leave(&scope);
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
		return NULL;
	}
	item->claimed_us = tegro_clock_us();
	item->task = TEGRO_SEND;
	/* here an error is the caller's, and takes the row with it */
	item->call = tegro_api_prepare_for_shop(item->method, item->params,
											item->shop_id, item->role);
	item->request = tegro_api_build(item->call);
	record_sending(store, list_make1(item), end_of_claim());
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(caller);
	return item;
}
