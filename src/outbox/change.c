/*-------------------------------------------------------------------------
 *
 * change.c
 *		Changes the state of requests, and puts it on record.
 *
 * Whatever happens to a request is an event, and the table in transition.c says
 * where it leads.  Here the decisions of judge.c, and those of persons, are
 * written: the row, and an event in tegro_event.  A send has its event since its
 * claim; its outcome completes it.  Nothing but this file and the claims changes
 * a state.
 *
 * A decision is written only where the row still has the state and the claim
 * that it was made for.  Where somebody else has changed the row meanwhile, the
 * outcome of its last send still tells the truth if nothing was sent since: see
 * record_late().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/outbox/change.h"
#include "src/outbox/judge.h"
#include "src/outbox/origin.h"
#include "src/outbox/retention.h"
#include "src/outbox/wake.h"

/*
 * Message of a request that was corrected and not sent since: by it, a late
 * answer knows that it is about the earlier parameters.
 */
#define UNSENT_CORRECTION "corrected, and not sent since"

/* A row of ITEM_COLUMNS as an item, in the current memory context. */
TegroItem *
tegro_change_item(int row, char **origin)
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

/* Puts the events on record of changes that nobody's send tells. */
static void
add_events(const TegroStore *store, const TegroRowChange *changes,
		   int nchanges)
{
	TegroStoreRows *rows = NULL;

	for (int i = 0; i < nchanges; i++)
	{
		const TegroRowChange *change = &changes[i];
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
int
tegro_change_write(const TegroStore *store, TegroRowChange *changes,
				   int nchanges)
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
		TegroRowChange *change = &changes[i];
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
	TegroRowChange change = {item};
	TegroItem *row;
	char *origin;
	char *note;
	bool isnull;

	Assert(item->decision->outcome != NULL);
	if (tegro_store_run(store, TEGRO_STMT_LATE, values, NULL) != 1)
		return NULL;
	row = tegro_change_item(0, &origin);
	note = tegro_store_text(0, 20);
	subject.state = row->state;
	subject.linkless = DatumGetBool(tegro_store_column(0, 21, &isnull));
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
	else if (strcmp(row->state, TEGRO_STATE_ACCEPTED) != 0 &&
			 tegro_transition_is_end(row->state))
		decision->message = note
			? psprintf("it took effect after all: %s", note)
			: "it took effect after all";
	change.decision = decision;
	change.was = row->state;
	change.claim_no = row->claim_no;
	return tegro_change_write(store, &change, 1) == 1 ? decision : NULL;
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
			? tegro_store_bytes(decision->raw_answer, decision->raw_answer_len)
			: (Datum) 0;
		nulls[7] = decision->raw_answer_len == 0;
		tegro_store_add(rows, values, nulls);
	}
	if (rows)
		tegro_store_run_rows(store, TEGRO_STMT_END_SEND, rows);
}

void
tegro_change_outcomes(const TegroStore *store, List *items)
{
	int n = list_length(items);
	TegroRowChange *changes = palloc0((n + 1) * sizeof(TegroRowChange));
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
		changes[nchanges++] = (TegroRowChange){item, item->decision,
											   item->state, item->claim_no};
	}
	(void) tegro_change_write(store, changes, nchanges);
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
	tegro_change_outcomes(store, items);
	tegro_store_leave(&scope);
}


/*
 * Persons' decisions.
 */

/* Reads, and locks, a request that a person decides about.  NULL: there is none. */
TegroItem *
tegro_change_read(const TegroStore *store, int64 id, Oid caller, char **origin,
				  TegroSubject *subject)
{
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};
	TegroItem *item;
	bool isnull;

	if (tegro_store_run(store, TEGRO_STMT_ONE_OF, values, NULL) != 1)
		return NULL;
	item = tegro_change_item(0, origin);
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
TegroDecision *
tegro_change_decide(const TegroItem *item, const TegroTransition *transition,
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
			if (strcmp(transition->to, TEGRO_STATE_REVIEW) != 0)
				break;
			decision->message =
				"cancelled, but an earlier send may have taken effect";
			decision->delay_ms = 0; /* until it is looked up */
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
	item = tegro_change_read(store, id, caller, &origin, &subject);
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
			TegroDecision *decision = tegro_change_decide(item, transition,
														  note);
			TegroRowChange change = {item, decision, item->state,
									 item->claim_no};

			decision->role = role;
			if (item->aside)
				adopt(store, item, event, own);
			changed = tegro_change_write(store, &change, 1) == 1;
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
