/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		Puts requests into the outbox.
 *
 * A request is a row of tegro_outbox, written in the transaction of whoever
 * wants it, so that it exists exactly if that transaction commits.  A reference
 * (shop, method, merchant's number) is one row, for ever: the same request again
 * is that row, a refused one gets other parameters, and anything else is TG007.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "src/client/parameters.h"
#include "src/outbox/change.h"
#include "src/outbox/enqueue.h"
#include "src/outbox/origin.h"
#include "src/outbox/payer.h"
#include "src/outbox/retention.h"
#include "src/outbox/wake.h"

/*
 * How often a correction is tried that finds its request changed each time.  Two
 * sessions need two tries, and more of them do not correct one request at once.
 */
#define MAX_CORRECTIONS 10

/* Longest name of a parameter that is shown, in bytes. */
#define MAX_NAME_LEN 64

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
	item = tegro_change_read(store, recorded->id, role, &origin, &subject);
	if (item && item->claim_no == recorded->claim_no)
		transition = tegro_transition_find(&subject, TEGRO_EVENT_CORRECT);
	if (transition)
	{
		TegroDecision *decision;
		TegroRowChange change;

		before = recorded->params
			? tegro_retention_hash(store, recorded->params)
			: recorded->params_hash;
		decision =
			tegro_change_decide(item, transition,
								psprintf("corrected by %s at %s: parameters %s in place of %s",
										 role_name,
										 timestamptz_to_str(
											 GetCurrentTimestamp()),
										 tegro_retention_show_hash(
											 tegro_retention_hash(store,
																  call->params)),
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
		change = (TegroRowChange){item, decision, item->state, item->claim_no};
		changed = tegro_change_write(store, &change, 1) == 1;
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
