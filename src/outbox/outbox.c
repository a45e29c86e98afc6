/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		The outbox of requests: its rows, and how they change.
 *
 * A request is a row of tegro_outbox, written in the transaction of whoever
 * wants it, so that it exists exactly if that transaction commits.  A
 * delivery worker (delivery.c) claims rows that are due, commits, sends, and
 * settles what came of each.  What a row becomes is decided in judge.c; here
 * is when which statement finds and changes rows, and nothing else writes to
 * the tables, but for what requests and notifications share (store.c).
 *
 * The claim.  Each claim raises a row's claim_no by one, and a result is written
 * only if claim_no and state are still those of the claim.  So a delivery worker that
 * was stopped, and whose row another has taken over, changes nothing when it
 * returns.
 *
 * If the process dies
 *		before the claim commits: the row is as it was;
 *		after that: it is "sending" until claimed_until, then "unknown", and
 *		looked up, whether it was sent or not: nobody can know;
 *		after the answer and before it is settled: the same.
 *
 * Finding what is due.  One partial index holds what is left to do, by time:
 * next_at is null for what is finished.  A claim leaves next_at as it is, so
 * that it touches no index; who looks for what is due passes over what others
 * have taken, which are few.  While an old snapshot is held open
 * somewhere, index entries of rows that have moved on can't be removed, and
 * each claim would pass over all of them; so a delivery worker that works off a
 * backlog begins where the last claim ended, and sweeps the whole index now
 * and then.  What goes before a backlog is found by statements of its own: see
 * Part.
 *
 * The statements themselves, and the rights under which they run, are in
 * store.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "src/base/compat.h"
#include "src/client/parameters.h"
#include "src/outbox/origin.h"
#include "src/outbox/outbox.h"
#include "src/outbox/payer.h"
#include "src/outbox/retention.h"
#include "src/outbox/judge.h"
#include "src/outbox/transition.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"

/*
 * How long what has become due counts as new.  A transaction that is open for
 * longer than that after it enqueued has its request go by age.
 */
#define NEWEST_MS (3 * 1000)

/*
 * How often a correction is tried that finds its request changed each time.  Two
 * sessions need two tries, and more of them do not correct one request at once.
 */
#define MAX_CORRECTIONS 10

/* Longest name of a parameter that is shown, in bytes. */
#define MAX_NAME_LEN 64

/*
 * Message of a request that was corrected and not sent since: by it, a late
 * answer knows that it is about the earlier parameters.
 */
#define UNSENT_CORRECTION "corrected, and not sent since"

/* A change of a row: a decision, and the row that it is made for. */
typedef struct RowChange
{
	const TegroItem *item;
	const TegroDecision *decision;
	const char *was; /* state of the row */
	int64 claim_no;	 /* of the row */
	bool changed;	 /* out */
	int events;		 /* out: how many it has now */
} RowChange;

static int write_changes(const TegroStore *store, RowChange *changes,
						 int nchanges);
static TegroItem *read_for(const TegroStore *store, int64 id, Oid caller,
						   char **origin, TegroSubject *subject);
static TegroDecision *decide(const TegroItem *item,
							 const TegroTransition *transition,
							 const char *note);

/* The number of the next request. */
static int64
next_id(const TegroStore *store)
{
	static Oid sequence = InvalidOid;
	static Oid sequence_namespace = InvalidOid;

	/* it may have been dropped and made anew with the extension */
	if (sequence_namespace != store->namespace ||
		get_rel_namespace(sequence) != store->namespace)
	{
		sequence = get_relname_relid("tegro_outbox_id_seq", store->namespace);
		sequence_namespace = store->namespace;
	}
	return nextval_internal(sequence, true);
}

/* The request that has a call's reference. */
typedef struct Recorded
{
	int64 id;
	const char *state;
	int64 claim_no;
	const char *callback; /* NULL: none */
	bool is_members; /* the role is a member of the role that enqueued it */
	bool is_users;	 /* and so is the current user */
	bool differs;	 /* from the call's parameters */
	const char *parameter;	 /* the first that differs; NULL: not known */
	const char *stripped_at; /* NULL: it was not */
	Jsonb *params;			 /* of one that is refused; else NULL */
	bytea *params_hash;		 /* of one that is stripped; else NULL */
} Recorded;

/* Reads it, in the current memory context. */
static Recorded
read_recorded(const TegroStore *store, const TegroCall *call, Oid role)
{
	MemoryContext context = CurrentMemoryContext;
	Datum values[6] = {CStringGetTextDatum(call->shop_id),
					   CStringGetTextDatum(call->method->name),
					   CStringGetTextDatum(call->reference),
					   JsonbPGetDatum(call->params),
					   ObjectIdGetDatum(role),
					   ObjectIdGetDatum(GetUserId())};
	TegroStoreScope scope;
	Recorded recorded = {0};
	Datum hash;
	bool isnull;

	tegro_store_enter(store, &scope);
	if (tegro_store_run(store, TEGRO_STMT_FIND_REFERENCE, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access to the outbox")));
	recorded.id = DatumGetInt64(tegro_store_column(0, 1, &isnull));
	/* a role that does not exist has superusers for members, and no others */
	recorded.is_members = DatumGetBool(tegro_store_column(0, 4, &isnull));
	recorded.is_users = DatumGetBool(tegro_store_column(0, 5, &isnull));
	recorded.claim_no = DatumGetInt64(tegro_store_column(0, 7, &isnull));
	/* for longer than the scope */
	MemoryContextSwitchTo(context);
	recorded.state = tegro_store_text(0, 2);
	recorded.callback = tegro_store_text(0, 3);
	recorded.parameter = tegro_store_text(0, 6);
	recorded.stripped_at = tegro_store_text(0, 8);
	hash = tegro_store_column(0, 9, &isnull);
	if (!isnull)
		recorded.params_hash = DatumGetByteaPCopy(hash);
	recorded.params = tegro_store_jsonb(0, 10);
	recorded.differs = recorded.parameter != NULL;
	if (recorded.stripped_at)
		recorded.differs = !tegro_retention_is_hash(store, call->params,
													recorded.params_hash);
	tegro_store_leave(&scope);
	Assert(CurrentMemoryContext == context);
	return recorded;
}

/*
 * Gives a refused request other parameters.  Returns false, and changes nothing,
 * if it has changed since it was read.
 *
 * This is the decision of tegro_retry, with new parameters: the request took no
 * effect, and is sent once more.  All of it is one update: if the process dies
 * before the commit, the request is refused as before; after that, it is ready
 * with its new parameters.  Its row is locked until then, so that a second
 * correction, tegro_retry and a late answer wait, and see what it has become.
 *
 * The claim's number rises, so that who claimed it before, a callback of the
 * refusal, say, writes nothing any more.  A late answer to the last send still
 * counts as long as nothing was sent since (record_late()): if it says that the earlier parameters took effect after all, against what a person
 * had decided, the request is accepted, and the new ones are not sent.  Once the
 * request has been claimed again, that is too late: both are sent, as after
 * tegro_retry.
 *
 * unknown_since stays: if an earlier send was in doubt, a refusal of the next
 * one is not the end.  So does the origin: a request from before a failover is
 * looked up before it is sent.
 */
static bool
correct(const TegroStore *store, const TegroCall *call, Oid role,
		const char *callback, TimestampTz deliver_after,
		const Recorded *recorded)
{
	TegroStoreScope scope;
	Datum values[6];
	char nulls[7] = "      ";
	TegroItem *item;
	TegroSubject subject;
	const TegroTransition *transition = NULL;
	const bytea *before;
	char *origin;
	char *role_name = GetUserNameFromId(role, false);
	bool changed = false;

	tegro_store_enter(store, &scope);
	item = read_for(store, recorded->id, role, &origin, &subject);
	if (item && item->claim_no == recorded->claim_no)
		transition = tegro_transition_find(&subject, TEGRO_EVENT_CORRECT);
	if (transition)
	{
		TegroDecision *decision;
		RowChange change;

		before = recorded->params
			? tegro_retention_hash(store, recorded->params)
			: recorded->params_hash;
		decision =
			decide(item, transition,
				   psprintf("corrected by %s at %s: parameters %s in place of %s",
							role_name,
							timestamptz_to_str(GetCurrentTimestamp()),
							tegro_retention_show_hash(
								tegro_retention_hash(store, call->params)),
							tegro_retention_show_hash(before)));
		decision->role = role_name;
		if (deliver_after > GetCurrentTimestamp())
			decision->delay_ms = (deliver_after - GetCurrentTimestamp()) /
				1000;
		values[0] = Int64GetDatum(recorded->id);
		values[1] = JsonbPGetDatum(call->params);
		values[2] = ObjectIdGetDatum(role);
		values[3] = tegro_store_datum(callback);
		nulls[3] = tegro_store_null(callback == NULL);
		values[4] = CStringGetTextDatum(role_name);
		values[5] = TimestampTzGetDatum(deliver_after);
		nulls[5] = tegro_store_null(deliver_after == 0);
		tegro_store_run(store, TEGRO_STMT_CORRECT, values, nulls);
		change = (RowChange){item, decision, item->state, item->claim_no};
		changed = write_changes(store, &change, 1) == 1;
	}
	tegro_store_leave(&scope);
	return changed;
}

/* Throws TG007: a call's reference is that of a different request. */
static _Noreturn void
refuse_different(const TegroCall *call, const Recorded *recorded)
{
	const char *reference = call->method->reference;

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_CONFLICT),
			 errmsg("%s \"%s\" of shop \"%s\" is another request", reference,
					tegro_error_for_client(call->reference),
					tegro_error_for_client(call->shop_id)),
			 recorded->parameter
				 ? errdetail("Request " INT64_FORMAT " of the outbox has the same %s and a different \"%s\".",
							 recorded->id, reference,
							 tegro_error_excerpt(recorded->parameter,
												 strlen(recorded->parameter),
												 MAX_NAME_LEN, NULL))
				 : errdetail("Request " INT64_FORMAT " of the outbox has the same %s and different parameters, which were erased at %s.",
							 recorded->id, reference, recorded->stripped_at),
			 errhint("Choose a new %s, one that has not been used before.",
					 reference)));
	pg_unreachable();
}

/* Warns that a request will not do what the caller may expect of it. */
static void
warn_about(const TegroCall *call, const char *callback,
		   const Recorded *recorded)
{
	int64 id = recorded->id;

	/* its number looks like success to a caller that does not ask for the outcome */
	if (strcmp(recorded->state, TEGRO_STATE_CANCELLED) == 0 ||
		strcmp(recorded->state, TEGRO_STATE_REFUSED) == 0)
		ereport(WARNING,
				(errmsg("%s \"%s\" is request " INT64_FORMAT " of the outbox already, and is \"%s\"",
						call->method->reference,
						tegro_error_for_client(call->reference), id,
						recorded->state),
				 errdetail("It is not sent again by that."),
				 recorded->stripped_at
					 ? errhint("Its parameters were erased at %s: choose a new %s.",
							   recorded->stripped_at, call->method->reference)
					 : errhint("tegro_retry(" INT64_FORMAT ") sends it.", id)));
	if (callback &&
		(recorded->callback == NULL ||
		 strcmp(callback, recorded->callback) != 0))
		ereport(WARNING,
				(errmsg("%s \"%s\" is request " INT64_FORMAT " of the outbox already, and does not call %s",
						call->method->reference,
						tegro_error_for_client(call->reference), id,
						tegro_error_for_client(callback)),
				 recorded->callback
					 ? errdetail("It was enqueued with the callback %s and keeps it.", tegro_error_for_client(recorded->callback))
					 : errdetail("It was enqueued without a callback and stays so."),
				 errhint("tegro_wait(" INT64_FORMAT ") returns its outcome.", id)));
}

/*
 * Returns the number of the request that has a call's reference already, if it
 * is the same request and the role is a member of the role that enqueued it; or
 * if it was refused, and now has the call's parameters.  Throws TG007 if not.
 *
 * Another role's request is not to be found out about: not its number, not its
 * state, and not, by guessing, its parameters.  So the answer is the same
 * whatever that request is.  "Member" is what the policy tegro_outbox_own says.
 * A trigger enqueues for the table's owner, and corrects for him: whoever fires
 * it could have it enqueue any request, and learns nothing of this one.
 *
 * enqueued: if it is NULL, the caller is warned where the request will not do
 * what he may expect.
 */
static int64
find_recorded(const TegroStore *store, const TegroCall *call, Oid role,
			  const char *callback, TimestampTz deliver_after,
			  TegroEnqueued *enqueued)
{
	for (int i = 0; i < MAX_CORRECTIONS; i++)
	{
		Recorded recorded = read_recorded(store, call, role);
		bool corrects = recorded.is_members && recorded.differs &&
			strcmp(recorded.state, TEGRO_STATE_REFUSED) == 0;

		if (corrects)
		{
			if (!correct(store, call, role, callback, deliver_after,
						 &recorded))
				continue;
			if (enqueued)
				*enqueued = TEGRO_ENQUEUED_CORRECTED;
			return recorded.id;
		}
		/* a trigger enqueues for the table's owner, and tells whoever fired it */
		if (!recorded.is_members || (recorded.differs && !recorded.is_users))
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_CONFLICT),
					 errmsg("%s \"%s\" of shop \"%s\" has been used",
							call->method->reference,
							tegro_error_for_client(call->reference),
							tegro_error_for_client(call->shop_id)),
					 errdetail("Another role has used it for %s.", call->method->name),
					 errhint("Choose a new %s, one that has not been used before.",
							 call->method->reference)));
		if (recorded.differs)
			refuse_different(call, &recorded);
		if (enqueued)
			*enqueued = TEGRO_ENQUEUED_BEFORE;
		else
			warn_about(call, callback, &recorded);
		return recorded.id;
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access to the outbox"),
			 errdetail("Request \"%s\" is corrected by others all the time.",
					   tegro_error_for_client(call->reference))));
	pg_unreachable();
}

int64
tegro_outbox_enqueue(const TegroStore *store, const char *method,
					 Jsonb *params, Oid role, const char *callback,
					 TimestampTz deliver_after, TegroEnqueued *enqueued)
{
	TegroCall *call;
	TegroStoreScope scope;
	Datum values[TEGRO_N_COLUMNS];
	bool nulls[TEGRO_N_COLUMNS];
	TegroStoreRows *rows;
	bool is_new;
	int64 id;
	const char *role_name;

	if (tegro_method_effect(method) == TEGRO_PAYS_OUT)
		tegro_payer_require(store, role);
	role_name = GetUserNameFromId(role, false);
	call = tegro_api_prepare(method, params, InvalidOid);
	if (call->method->effect != TEGRO_ORDERS &&
		call->method->effect != TEGRO_PAYS_OUT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s can't be put into the outbox", call->method->name),
				 errhint("The outbox takes createOrder and createWithdrawal; call other methods with tegro_call.")));

	PreventCommandIfReadOnly("tegro_enqueue()");
	tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
	tegro_store_enter_plainly(store, &scope);
	id = next_id(store);

	memset(nulls, true, sizeof(nulls));
#define SET(column, value)                    \
	(values[TEGRO_COLUMN_##column] = (value), \
	 nulls[TEGRO_COLUMN_##column] = false)
	SET(ID, Int64GetDatum(id));
	SET(SHOP_ID, CStringGetTextDatum(call->shop_id));
	SET(METHOD, CStringGetTextDatum(call->method->name));
	SET(REFERENCE, CStringGetTextDatum(call->reference));
	SET(PARAMS, JsonbPGetDatum(call->params));
	SET(STATE, CStringGetTextDatum(TEGRO_STATE_READY));
	SET(NEXT_AT,
		TimestampTzGetDatum(deliver_after ? deliver_after
										  : GetCurrentTimestamp()));
	if (deliver_after)
		SET(DELIVER_AFTER, TimestampTzGetDatum(deliver_after));
	SET(CLAIM_NO, Int64GetDatum(0));
	SET(ATTEMPTS, Int32GetDatum(0));
	SET(FAILURES, Int32GetDatum(0));
	SET(ABSENT, Int32GetDatum(0));
	SET(ENQUEUED_BY, ObjectIdGetDatum(role));
	SET(ENQUEUED_BY_NAME, CStringGetTextDatum(role_name));
	SET(ENQUEUED_AT,
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()));
	SET(ORIGIN, CStringGetTextDatum(tegro_origin_own(store)));
	SET(EVENTS, Int32GetDatum(0));
	if (callback)
	{
		SET(CALLBACK, CStringGetTextDatum(callback));
		SET(CALLBACK_STATE, CStringGetTextDatum("waiting"));
	}
#undef SET
	rows = tegro_store_rows(TEGRO_STMT_INSERT);
	tegro_store_add(rows, values, nulls);
	is_new = tegro_store_run_rows(store, TEGRO_STMT_INSERT, rows) == 1;
	tegro_store_leave(&scope);
	if (is_new && enqueued)
		*enqueued = TEGRO_ENQUEUED_NEW;

	/* it is there already: an uncommitted insert of it was waited for */
	if (!is_new)
		id = find_recorded(store, call, role, callback, deliver_after,
						   enqueued);
	return id;
}


/*
 * Claiming.
 */

/* A row of ITEM_COLUMNS as an item, in the current memory context. */
static TegroItem *
read_item(int row, char **origin)
{
	TegroItem *item = palloc0(sizeof(TegroItem));
	bool isnull;

	/* it is one that goes with the item, and with nothing else */
	Assert(CurrentMemoryContext != TopMemoryContext &&
		   CurrentMemoryContext != CurTransactionContext);
	item->context = CurrentMemoryContext;
	item->id = DatumGetInt64(tegro_store_column(row, 1, &isnull));
	item->shop_id = tegro_store_text(row, 2);
	item->method = tegro_store_text(row, 3);
	item->reference = tegro_store_text(row, 4);
	item->params = tegro_store_jsonb(row, 5);
	item->state = tegro_store_text(row, 6);
	item->claim_no = DatumGetInt64(tegro_store_column(row, 7, &isnull));
	item->attempts = DatumGetInt32(tegro_store_column(row, 8, &isnull));
	item->failures = DatumGetInt32(tegro_store_column(row, 9, &isnull));
	item->absent = DatumGetInt32(tegro_store_column(row, 10, &isnull));
	item->unknown_since = DatumGetTimestampTz(
		tegro_store_column(row, 11, &isnull));
	if (isnull)
		item->unknown_since = 0;
	item->role = DatumGetObjectId(tegro_store_column(row, 12, &isnull));
	*origin = tegro_store_text(row, 13);
	item->answer = tegro_store_jsonb(row, 14);
	item->callback = tegro_store_text(row, 15);
	item->message = tegro_store_text(row, 16);
	item->events = DatumGetInt32(tegro_store_column(row, 18, &isnull));
	item->size = (item->params ? VARSIZE(item->params) : 0) +
		(item->answer ? VARSIZE(item->answer) : 0);
	return item;
}

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

static Datum
bytes_datum(const char *bytes, size_t len)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, (int) len));
}

/*
 * A request is acted on only once its claim is on record.  A statement that
 * wrote fewer rows than it was given was kept from writing, by a trigger on the
 * table, say.
 */
static void
check_claimed(uint64 nrows, List *items)
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
	check_claimed(tegro_store_run(store, TEGRO_STMT_MARK_SENDING, mark, NULL),
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
		values[4] = bytes_datum(item->request.body, item->request.body_len);
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
	check_claimed(tegro_store_run(store, TEGRO_STMT_MARK_TAKEN, mark, NULL),
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

static void record_outcomes(const TegroStore *store, List *items);

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
static void
set_aside(const TegroStore *store, List *items, const char *origin,
		  const char *own)
{
	Datum values[1];

	if (items == NIL)
		return;
	values[0] = ids_of(items);
	check_claimed(tegro_store_run(store, TEGRO_STMT_SET_ASIDE, values, NULL),
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
		item = read_item(0, &origin);
		item->decision = tegro_judge_conflict(item);
		MemoryContextSwitchTo(old);
		items = lappend(items, item);
	}
	record_outcomes(store, items);
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
		item = read_item(nread, &found->origins[n]);
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
	set_aside(store, strangers, strange_origin, own);
	if (ninherited > 0)
		ereport(LOG,
				(errmsg("requests of the tegro outbox are from before a failover or restore: %d",
						ninherited),
				 errdetail("They are looked up before they are sent.")));
	record_outcomes(store, put_off);
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
	item = read_item(0, &origin);
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


/*
 * Changing the state.
 */

/* Puts the events on record of changes that nobody's send tells. */
static void
add_events(const TegroStore *store, const RowChange *changes, int nchanges)
{
	TegroStoreRows *rows = NULL;

	for (int i = 0; i < nchanges; i++)
	{
		const RowChange *change = &changes[i];
		const TegroDecision *decision = change->decision;
		const char *message = decision->note ? decision->note
											 : decision->message;
		Datum values[7];
		bool nulls[7] = {false};

		if (!change->changed ||
			(decision->transition->effects & TEGRO_WITH_EVENT) == 0)
			continue;
		if (rows == NULL)
			rows = tegro_store_rows(TEGRO_STMT_ADD_EVENT);
		values[0] = Int64GetDatum(change->item->id);
		values[1] = Int32GetDatum(change->events);
		values[2] = CStringGetTextDatum(
			tegro_transition_event_name(decision->transition->event));
		values[3] = Int64GetDatum(change->claim_no);
		values[4] = tegro_store_datum(decision->role);
		nulls[4] = decision->role == NULL;
		values[5] = tegro_store_datum(decision->state);
		values[6] = tegro_store_datum(message);
		nulls[6] = message == NULL;
		tegro_store_add(rows, values, nulls);
	}
	if (rows)
		tegro_store_run_rows(store, TEGRO_STMT_ADD_EVENT, rows);
}

/*
 * Writes changes, each where its row still has the state and the claim that it
 * was decided for.  Returns how many rows were changed.
 */
static int
write_changes(const TegroStore *store, RowChange *changes, int nchanges)
{
	TegroStoreRows *rows;
	TimestampTz now = GetCurrentTimestamp();
	int nchanged;
	bool isnull;

	if (nchanges == 0)
		return 0;
	rows = tegro_store_rows(TEGRO_STMT_CHANGE);
	for (int i = 0; i < nchanges; i++)
	{
		RowChange *change = &changes[i];
		const TegroDecision *decision = change->decision;
		int effects;
		Datum values[20];
		bool nulls[20] = {false};

		tegro_judge_check(change->item, decision, change->was);
		effects = decision->transition->effects;
		change->changed = false;
		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(change->item->id);
		values[2] = Int64GetDatum(change->claim_no);
		values[3] = tegro_store_datum(change->was);
		values[4] = tegro_store_datum(decision->state);
		values[5] = TimestampTzGetDatum(
			TimestampTzPlusMilliseconds(now, decision->delay_ms));
		nulls[5] = decision->delay_ms < 0;
		values[6] = decision->answer ? JsonbPGetDatum(decision->answer)
									 : (Datum) 0;
		nulls[6] = decision->answer == NULL;
		values[7] = tegro_store_datum(decision->sqlstate);
		nulls[7] = decision->sqlstate == NULL;
		values[8] = tegro_store_datum(decision->message);
		nulls[8] = decision->message == NULL;
		values[9] = Int32GetDatum(decision->failures);
		values[10] = Int32GetDatum(decision->absent);
		values[11] = TimestampTzGetDatum(decision->unknown_since);
		nulls[11] = decision->unknown_since == 0;
		nulls[12] = (effects & TEGRO_WITH_ORIGIN) == 0;
		values[12] = tegro_store_datum(nulls[12] ? NULL
												 : tegro_origin_own(store));
		values[13] = tegro_store_datum(decision->note);
		nulls[13] = decision->note == NULL;
		values[14] = Int32GetDatum(effects & TEGRO_WITH_UNSENT ? 1 : 0);
		values[15] = Int32GetDatum(effects & TEGRO_WITH_FENCE ? 1 : 0);
		values[16] = Int32GetDatum(effects & TEGRO_WITH_EVENT ? 1 : 0);
		values[17] = BoolGetDatum(tegro_transition_is_end(decision->state));
		values[18] = BoolGetDatum(
			(effects & TEGRO_WITH_END) != 0 &&
			strcmp(decision->state, TEGRO_STATE_CANCELLED) != 0);
		values[19] = BoolGetDatum((effects & TEGRO_WITH_CALL) != 0);
		tegro_store_add(rows, values, nulls);
	}
	nchanged = (int) tegro_store_run_rows(store, TEGRO_STMT_CHANGE, rows);
	/* a claim has one row, and a row one claim */
	Assert(nchanged <= nchanges);
	for (int i = 0; i < nchanged; i++)
	{
		int n = DatumGetInt32(tegro_store_column(i, 1, &isnull));

		Assert(n >= 0 && n < nchanges);
		changes[n].changed = true;
		changes[n].events = DatumGetInt32(tegro_store_column(i, 2, &isnull));
	}
	add_events(store, changes, nchanges);
	return nchanged;
}

/*
 * The outcome of a send, whose row somebody else has changed meanwhile: it still
 * tells the truth if nothing was sent since.  Returns the decision that was
 * written; NULL if the outcome changes nothing any more.
 */
static const TegroDecision *
record_late(const TegroStore *store, const TegroItem *item)
{
	Datum values[2] = {Int64GetDatum(item->id), Int64GetDatum(item->claim_no)};
	TegroDecision *decision;
	TegroSubject subject = {NULL, item->method, item->unknown_since != 0};
	RowChange change = {item};
	TegroItem *row;
	char *origin;
	char *note;

	Assert(item->decision->outcome != NULL);
	if (tegro_store_run(store, TEGRO_STMT_LATE, values, NULL) != 1)
		return NULL;
	row = read_item(0, &origin);
	note = tegro_store_text(0, 20);
	subject.state = row->state;
	decision = palloc(sizeof(TegroDecision));
	*decision = *item->decision;
	decision->transition =
		tegro_transition_find(&subject, item->decision->transition->event);
	if (decision->transition == NULL)
		return NULL;
	decision->state = decision->transition->to;
	/* a person took it for unsent, or unmade */
	if (strcmp(row->state, TEGRO_STATE_READY) == 0 && row->message &&
		strcmp(row->message, UNSENT_CORRECTION) == 0)
		decision->message =
			psprintf("its earlier parameters took effect after all, not the present ones: %s",
					 note);
	else if (tegro_transition_is_end(row->state))
		decision->message = note
			? psprintf("it took effect after all: %s", note)
			: "it took effect after all";
	change.decision = decision;
	change.was = row->state;
	change.claim_no = row->claim_no;
	return write_changes(store, &change, 1) == 1 ? decision : NULL;
}

/*
 * Completes the events of sends that ended, also of those that count no more.
 * states: what each request became by it; NULL: nothing.
 */
static void
end_sends(const TegroStore *store, List *items, const char **states)
{
	TegroStoreRows *rows = NULL;

	for (int i = 0; i < list_length(items); i++)
	{
		const TegroItem *item = list_nth(items, i);
		const TegroDecision *decision = item->decision;
		Datum values[8];
		bool nulls[8] = {false};

		if (decision->outcome == NULL)
			continue;
		/* a send has ended: there was one */
		Assert(item->task == TEGRO_SEND && item->claim_no > 0);
		if (rows == NULL)
			rows = tegro_store_rows(TEGRO_STMT_END_SEND);
		values[0] = Int64GetDatum(item->id);
		values[1] = Int32GetDatum(item->events);
		values[2] = Int64GetDatum(item->claim_no);
		values[3] = tegro_store_datum(states[i]);
		nulls[3] = states[i] == NULL;
		values[4] = tegro_store_datum(decision->outcome);
		values[5] = Int32GetDatum(decision->http_status);
		nulls[5] = decision->http_status == 0;
		values[6] = tegro_store_datum(decision->attempt_message);
		nulls[6] = decision->attempt_message == NULL;
		values[7] = decision->raw_answer_len > 0
			? bytes_datum(decision->raw_answer, decision->raw_answer_len)
			: (Datum) 0;
		nulls[7] = decision->raw_answer_len == 0;
		tegro_store_add(rows, values, nulls);
	}
	if (rows)
		tegro_store_run_rows(store, TEGRO_STMT_END_SEND, rows);
}

static void
record_outcomes(const TegroStore *store, List *items)
{
	int n = list_length(items);
	RowChange *changes = palloc0((n + 1) * sizeof(RowChange));
	const char **states = palloc0((n + 1) * sizeof(char *));
	int *change_of = palloc((n + 1) * sizeof(int));
	int nchanges = 0;

	for (int i = 0; i < n; i++)
	{
		const TegroItem *item = list_nth(items, i);

		change_of[i] = -1;
		/* its row was left to lookups */
		if (item->given_up)
			continue;
		change_of[i] = nchanges;
		changes[nchanges++] = (RowChange){item, item->decision, item->state,
										  item->claim_no};
	}
	(void) write_changes(store, changes, nchanges);
	for (int i = 0; i < n; i++)
	{
		const TegroItem *item = list_nth(items, i);

		if (change_of[i] >= 0 && changes[change_of[i]].changed)
			states[i] = item->decision->state;
		else if (item->decision->outcome != NULL)
		{
			const TegroDecision *decision = record_late(store, item);

			states[i] = decision ? decision->state : NULL;
		}
	}
	end_sends(store, items, states);
}

void
tegro_outbox_record_outcomes(const TegroStore *store, List *items)
{
	TegroStoreScope scope;

	if (items == NIL)
		return;
	tegro_store_enter(store, &scope);
	record_outcomes(store, items);
	tegro_store_leave(&scope);
}


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
		item = read_item(0, &origin);
		if (tegro_origin_compare(origin, own) != TEGRO_STRANGER)
			return item;
		set_aside(store, list_make1(item), origin, own);
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
		check_claimed(tegro_store_run(store, TEGRO_STMT_TAKE_CALLBACK, values,
									  NULL),
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
		outcome->message =
			psprintf("%s \"%s\" was accepted without an answer", method,
					 reference);
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

/* Reads, and locks, a request that a person decides about.  NULL: there is none. */
static TegroItem *
read_for(const TegroStore *store, int64 id, Oid caller, char **origin,
		 TegroSubject *subject)
{
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};
	TegroItem *item;
	bool isnull;

	if (tegro_store_run(store, TEGRO_STMT_ONE_OF, values, NULL) != 1)
		return NULL;
	item = read_item(0, origin);
	item->sqlstate = tegro_store_text(0, 19);
	item->aside = DatumGetBool(tegro_store_column(0, 22, &isnull));
	subject->state = item->state;
	subject->method = item->method;
	subject->doubtful = item->unknown_since != 0;
	subject->linkless = DatumGetBool(tegro_store_column(0, 21, &isnull));
	return item;
}

/*
 * A request that was set aside, and that a person decides about, belongs to this
 * database from now on; where it is sent, after a lookup.
 */
static void
adopt(const TegroStore *store, const TegroItem *item, TegroEvent event,
	  const char *own)
{
	Datum values[2] = {Int64GetDatum(item->id), (Datum) 0};

	values[1] = CStringGetTextDatum(event == TEGRO_EVENT_CANCEL || *own == '\0'
										? own
										: tegro_origin_earlier(own));
	(void) tegro_store_run(store, TEGRO_STMT_ADOPT, values, NULL);
}

/* Does what a request waits for now. */
static bool
refresh(const TegroStore *store, const TegroItem *item,
		const TegroSubject *subject)
{
	Datum values[2] = {Int64GetDatum(item->id),
					   BoolGetDatum(
						   tegro_transition_find(subject,
												 TEGRO_EVENT_REFRESH) !=
						   NULL)};

	/* of a request that was stripped, a callback cannot be told anything */
	return item->params != NULL &&
		tegro_store_run(store, TEGRO_STMT_REFRESH, values, NULL) > 0;
}

/*
 * What a person's decision makes of a request.  None makes it this server's own
 * that was another's: that it is "refused", say, is what this server knows, and
 * the predecessor may have sent it again since.  So it is looked up first.
 */
static TegroDecision *
decide(const TegroItem *item, const TegroTransition *transition,
	   const char *note)
{
	TegroDecision *decision = palloc0(sizeof(TegroDecision));

	decision->transition = transition;
	decision->state = transition->to;
	decision->delay_ms = strcmp(transition->to, TEGRO_STATE_READY) == 0 ? 0
																		: -1;
	decision->note = note;
	/* he may err about the earlier sends: their doubt stays */
	decision->unknown_since = item->unknown_since == 0 &&
			(transition->effects & TEGRO_WITH_DOUBT)
		? tegro_transition_now()
		: item->unknown_since;
	switch (transition->event)
	{
		case TEGRO_EVENT_CANCEL:
			decision->message = "cancelled";
			break;
		case TEGRO_EVENT_CORRECT:
			decision->message = UNSENT_CORRECTION;
			break;
		case TEGRO_EVENT_RETRY:
			decision->message = item->message;
			decision->sqlstate = item->sqlstate;
			break;
		case TEGRO_EVENT_RESOLVE_REFUSED:
			decision->message = note;
			decision->sqlstate = unpack_sql_state(TEGRO_ERRCODE_REFUSED);
			break;
		default:
			decision->message = note;
			break;
	}
	return decision;
}

bool
tegro_outbox_command(const TegroStore *store, int64 id, Oid caller,
					 TegroEvent event, const char *note)
{
	MemoryContext context = CurrentMemoryContext;
	TegroStoreScope scope;
	TegroItem *item;
	TegroSubject subject;
	char *origin;
	char *role;
	bool changed = false;
	const char *own;

	/* whichever has it now */
	tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
	tegro_wake_at_commit(TEGRO_CALLBACK_WORKER);
	tegro_store_commit_durably();
	if (event == TEGRO_EVENT_FORGET)
		return tegro_retention_strip(store, id, caller, note);
	role = GetUserNameFromId(caller, false);
	tegro_store_enter(store, &scope);
	own = pstrdup(tegro_origin_own(store));
	item = read_for(store, id, caller, &origin, &subject);
	if (item && event == TEGRO_EVENT_REFRESH)
		changed = refresh(store, item, &subject);
	/*
	 * Without its parameters, a request cannot be sent, and not before it is
	 * taken over.  A cancelled request must be known not to have been sent.
	 */
	else if (item &&
			 (event != TEGRO_EVENT_RETRY ||
			  (item->params != NULL && !item->aside)) &&
			 (event != TEGRO_EVENT_CANCEL || strcmp(origin, own) == 0))
	{
		const TegroTransition *transition = tegro_transition_find(&subject,
																  event);

		if (transition)
		{
			TegroDecision *decision = decide(item, transition, note);
			RowChange change = {item, decision, item->state, item->claim_no};

			decision->role = role;
			if (item->aside)
				adopt(store, item, event, own);
			changed = write_changes(store, &change, 1) == 1;
		}
	}
	tegro_store_leave(&scope);
	MemoryContextSwitchTo(context);
	return changed;
}

/*
 * Finds the origins of requests and notifications that are not of this database
 * or its predecessor: all, and those with another address.
 */
static void
find_strangers(const TegroStore *store, const char *own, List **all,
			   List **elsewhere)
{
	Datum values[1] = {CStringGetTextDatum(own)};
	uint64 nfound = tegro_store_run(store, TEGRO_STMT_FOREIGN, values, NULL);

	*all = *elsewhere = NIL;
	for (uint64 i = 0; i < nfound; i++)
	{
		char *origin = tegro_store_text((int) i, 1);

		if (tegro_origin_compare(origin, own) != TEGRO_STRANGER)
			continue;
		*all = lappend(*all, origin);
		if (!tegro_origin_same_address(origin, own))
			*elsewhere = lappend(*elsewhere, origin);
	}
}

/*
 * A row is changed by one of these statements, in the transaction of whoever
 * takes over; if the process dies before the commit, all is as it was.
 */
/*
 * Takes over the requests of a method that are not finished.  values: those of
 * TEGRO_STMT_TAKE_OVER, of which the last three are set here.  Returns how many
 * these are.
 */
static uint64
take_over(const TegroStore *store, Datum *values, const char *method)
{
	int ntransitions;
	const TegroTransition *all = tegro_transition_all(&ntransitions);
	List *states = NIL;
	const char *to = NULL;

	for (int i = 0; i < ntransitions; i++)
	{
		TegroSubject subject = {all[i].from, method};

		if (all[i].event != TEGRO_EVENT_TAKE_OVER ||
			tegro_transition_find(&subject, TEGRO_EVENT_TAKE_OVER) != &all[i])
			continue;
		states = lappend(states, unconstify(char *, all[i].from));
		Assert(to == NULL || strcmp(to, all[i].to) == 0);
		to = all[i].to;
	}
	values[5] = CStringGetTextDatum(method);
	values[6] = tegro_store_texts(states);
	values[7] = CStringGetTextDatum(to);
	return tegro_store_run(store, TEGRO_STMT_TAKE_OVER, values, NULL);
}

void
tegro_outbox_take_over(const TegroStore *store, Oid caller, const char *note,
					   TegroTakenOver *taken)
{
	TegroStoreScope scope;
	const char *own;
	const char *role = GetUserNameFromId(caller, false);
	List *all;
	List *elsewhere;
	Datum values[8];
	Datum origins[2];

	tegro_wake_at_commit(TEGRO_DELIVERY_WORKER);
	tegro_wake_at_commit(TEGRO_CALLBACK_WORKER);
	tegro_store_commit_durably();
	/* first of all: it may be missing */
	tegro_origin_note(store, note);
	tegro_store_enter(store, &scope);
	own = pstrdup(tegro_origin_own(store));
	find_strangers(store, own, &all, &elsewhere);

	origins[0] = tegro_store_texts(all);
	tegro_store_run(store, TEGRO_STMT_TAKE_BACK, origins, NULL);
	tegro_store_run(store, TEGRO_STMT_TAKE_OVER_ROLES, origins, NULL);
	values[0] = CStringGetTextDatum(own);
	values[2] = origins[0];
	values[3] = tegro_store_texts(elsewhere);
	values[4] = CStringGetTextDatum(role);
	values[1] = CStringGetTextDatum(
		"it comes from another database, and may have been sent there; it is looked up");
	taken->orders = take_over(store, values, "createOrder");
	values[1] = CStringGetTextDatum(
		"it comes from another database, and may have been sent there; resolve it with tegro_resolve");
	taken->payouts = take_over(store, values, "createWithdrawal");
	values[1] = CStringGetTextDatum(tegro_origin_earlier(own));
	tegro_store_run(store, TEGRO_STMT_TAKE_OVER_REST, values, NULL);
	origins[0] = values[3];
	origins[1] = CStringGetTextDatum(
		"it was sent to another address, or with another key, and cannot be looked up here; resolve it with tegro_resolve");
	taken->kept = tegro_store_run(store, TEGRO_STMT_KEEP_ASIDE, origins, NULL);
	origins[0] = values[0];
	origins[1] = values[2];
	tegro_store_run(store, TEGRO_STMT_TAKE_OVER_NOTIFICATIONS, origins, NULL);
	tegro_store_run(store, TEGRO_STMT_TAKE_OVER_TARGETS, NULL, NULL);
	tegro_store_leave(&scope);
}
