/*-------------------------------------------------------------------------
 *
 * judge.c
 *		Which event an answer, a lookup or silence is.
 *
 * transition.c says where each event leads; here is how it is recognized, and
 * when the request is looked at next.  These are the rules by which money never
 * leaves twice:
 *
 *	- Silence is doubt.  Only an exchange that was certainly not handed over is
 *	  "not sent".
 *	- A refusal is final, except: for a repeat ("duplicate"), for a wrong key,
 *	  and for now.  A gateway may say "for now" of a request that it has passed
 *	  on, so a payout is in doubt then, also at HTTP 429.
 *	- A doubt stays on record.  unknown_since is set once a send may have taken
 *	  effect, and no decision of a person clears it: a later refusal is about
 *	  the later send.
 *	- A lookup that fails is not "not found"; nor is a refusal whose words do not
 *	  say so, nor an answer about something else.  The provider does not
 *	  document its words, so the patterns are settings, and an answer that
 *	  matches none of them leaves the request as it is.
 *	- "Found" means: by its number, with an amount, and it agrees with the
 *	  parameters.
 *	- An order is sent again if it was not found twice, the second time when its
 *	  request must have ended.  A payout that was not found three times over
 *	  tegro.review_after is for a person, and so is an order that was sent
 *	  tegro.max_attempts times.
 *
 * And of notifications, by which money is credited: the provider must say of
 * the very order that it is paid, with the same amount, before anything is;
 * see tegro_judge_notified().
 *
 * How long a request is in doubt is measured by the clock that people set, for
 * it must outlast the process.  A delivery worker that sees it set counts anew
 * from there (tegro_judge_watch_clock): so no step shortens the review deadline.
 * A worker that is started after the step cannot know of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "src/base/argument.h"
#include "src/outbox/judge.h"
#include "src/base/settings.h"

/* First and longest wait between sends or lookups that come to nothing. */
#define FIRST_BACKOFF_MS 1000
#define MAX_BACKOFF_MS	 (10 * 60 * 1000)

/* Longest that a provider is obeyed when it asks to wait. */
#define MAX_PAUSE_MS (60 * 60 * 1000)

/*
 * An order that was not found is sent again only so long after the send that
 * its request must have ended at the provider, too.
 */
#define ORDER_MARGIN_MS 5000

/* Longest value of the provider's that is shown beside ours. */
#define MAX_FOUND_LEN 100

/* How often each must not be found. */
#define ORDER_ABSENT  2
#define PAYOUT_ABSENT 3

/* What is in review is looked up as long as this, in case it shows up. */
#define REVIEW_LOOKUP_MS (24 * INT64CONST(3600000))

/*
 * How long the provider may say of a notified order that it isn't paid, before
 * that is believed.  A waiting order can still be paid after a day.
 */
#define UNPAID_MS (3 * 24 * INT64CONST(3600000))

/* Bytes of a useless answer that are kept with the event. */
#define MAX_RAW_ANSWER 8192

/* A clock that goes wrong by more than that at once was set. */
#define CLOCK_STEP_MS 1000

/* A change of state of a notification. */
typedef struct Change
{
	const char *from;
	const char *to;
} Change;

static const Change notification_changes[] = {
	{TEGRO_WAITING, TEGRO_WAITING},		 {TEGRO_WAITING, TEGRO_CONFIRMED},
	{TEGRO_WAITING, TEGRO_STATE_REVIEW}, {TEGRO_WAITING, TEGRO_UNPAID},
	{TEGRO_WAITING, TEGRO_A_TEST},
};

/* When the clock was set last, by itself; 0: never, as far as seen here. */
static TimestampTz clock_set_at = 0;

int64
tegro_judge_backoff_ms(int failures)
{
	double ms = FIRST_BACKOFF_MS *
		(double) (INT64CONST(1) << Min(Max(failures - 1, 0), 20));

	/* varies by half, so that what failed together does not return together */
	return (int64) (Min(ms, MAX_BACKOFF_MS) *
					(0.75 + pg_prng_double(&pg_global_prng_state) / 2));
}

static bool
is_payout(const TegroItem *item)
{
	return strcmp(item->method, "createWithdrawal") == 0;
}

/*
 * Does a refusal's text match a pattern of the settings?  One that is no
 * regular expression matches nothing, which leaves the request in doubt.
 */
static bool
matches(const char *desc, const char *pattern, const char *setting)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool result = false;

	if (pattern == NULL || *pattern == '\0')
		return false;
	PG_TRY();
	{
		result = DatumGetBool(
			DirectFunctionCall2Coll(textregexeq, DEFAULT_COLLATION_OID,
									CStringGetTextDatum(desc),
									CStringGetTextDatum(pattern)));
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_INVALID_REGULAR_EXPRESSION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("parameter \"%s\" is not a regular expression: %s",
						setting, error->message)));
	}
	PG_END_TRY();
	return result;
}

/* An SQLSTATE's five characters, palloc'd. */
static char *
sqlstate_text(int sqlstate)
{
	return pstrdup(unpack_sql_state(sqlstate));
}

/* A decision that leaves all as it is, to be changed. */
static TegroDecision *
begin_decision(const TegroItem *item)
{
	TegroDecision *decision = palloc0(sizeof(TegroDecision));

	decision->state = item->state;
	decision->delay_ms = -1;
	decision->failures = item->failures;
	decision->absent = item->absent;
	decision->unknown_since = item->unknown_since;
	return decision;
}

static char *
join(const char *message, const char *detail)
{
	return detail ? psprintf("%s: %s", message, detail) : pstrdup(message);
}

/* Takes over what a call's outcome says. */
static void
put_outcome(TegroDecision *decision, const TegroCall *call)
{
	if (call->outcome.result != TEGRO_ANSWERED)
	{
		decision->sqlstate = sqlstate_text(
			tegro_error_sqlstate(call->outcome.result));
		decision->message = join(call->outcome.message, call->outcome.detail);
	}
}

/* A notification is looked up no more. */
static void
finish(TegroDecision *decision, const char *state)
{
	decision->state = state;
	decision->delay_ms = -1;
	decision->failures = 0;
	decision->absent = 0;
}

/* Has an event happen to a request; throws if it is impossible there. */
static void
happen(const TegroItem *item, TegroDecision *decision, TegroEvent event)
{
	TegroSubject subject = {item->state, item->method,
							item->unknown_since != 0, false};
	const TegroTransition *transition = tegro_transition_find(&subject, event);

	Assert(!item->is_notification);
	if (transition == NULL)
		elog(ERROR, "event \"%s\" is impossible for request " INT64_FORMAT " in state \"%s\"",
			 tegro_transition_event_name(event), item->id, item->state);
	decision->transition = transition;
	decision->state = transition->to;
	if (transition->effects & TEGRO_WITH_DOUBT)
		decision->unknown_since = tegro_transition_now();
}

/* The same, and the counters of failures begin anew. */
static void
happen_anew(const TegroItem *item, TegroDecision *decision, TegroEvent event,
			int64 delay_ms)
{
	happen(item, decision, event);
	decision->delay_ms = delay_ms;
	decision->failures = 0;
	decision->absent = 0;
}

/* It is ready once more, and waits for at least "delay_ms". */
static void
wait_ready(const TegroItem *item, TegroDecision *decision, TegroEvent event,
		   int64 delay_ms)
{
	Assert(delay_ms >= 0);
	happen(item, decision, event);
	decision->failures++;
	decision->delay_ms = Max(delay_ms,
							 tegro_judge_backoff_ms(decision->failures));
}

void
tegro_judge_watch_clock(void)
{
	static int64 last_offset_us = 0;
	TimestampTz now = GetCurrentTimestamp();
	int64 offset_us = now - tegro_clock_us();

	if (last_offset_us != 0 &&
		Max(offset_us - last_offset_us, last_offset_us - offset_us) >
			CLOCK_STEP_MS * INT64CONST(1000))
		clock_set_at = now;
	last_offset_us = offset_us;
}

/*
 * Milliseconds since the outcome became unknown.  If the clock was set since,
 * those since then: how long it was before is not known.
 */
static int64
doubt_ms(const TegroItem *item)
{
	TimestampTz now = tegro_transition_now();

	if (item->unknown_since == 0)
		return 0;
	if (clock_set_at != 0 &&
		(item->unknown_since < clock_set_at || item->unknown_since > now))
		return (now - clock_set_at) / 1000;
	return (now - item->unknown_since) / 1000;
}

/*
 * When a request that is in review, or comes there, is looked up next: for a
 * day, in case it shows up, if it may have been sent.  The day begins with the
 * review.
 */
static void
look_up_in_review(const TegroItem *item, TegroDecision *decision)
{
	int64 review_ms = tegro_review_after * INT64CONST(1000);

	Assert(strcmp(decision->state, TEGRO_STATE_REVIEW) == 0);
	decision->delay_ms = -1;
	decision->failures = 0;
	decision->absent = 0;
	if (item->unknown_since == 0)
		return;
	if (strcmp(item->state, TEGRO_STATE_REVIEW) != 0)
	{
		decision->unknown_since = tegro_transition_now();
		decision->delay_ms = review_ms / 4;
	}
	else if (doubt_ms(item) < REVIEW_LOOKUP_MS)
		decision->delay_ms = Max(doubt_ms(item) / 4, review_ms / 4);
}

/* This send was refused, and there is none to come. */
static void
refuse(const TegroItem *item, TegroDecision *decision)
{
	happen_anew(item, decision, TEGRO_EVENT_REFUSE, -1);
	if (strcmp(decision->state, TEGRO_STATE_REVIEW) != 0)
		return;
	look_up_in_review(item, decision);
	decision->message =
		psprintf("refused, but an earlier attempt may have taken effect: %s",
				 decision->message);
}

/* The provider said no: for good, for now, or to a repeat. */
static void
judge_refused(const TegroItem *item, TegroDecision *decision)
{
	const TegroOutcome *outcome = &item->call->outcome;

	/* before all else: it may have taken effect */
	if (matches(outcome->desc, tegro_duplicate_pattern,
				"tegro.duplicate_pattern"))
		happen_anew(item, decision, TEGRO_EVENT_DOUBT, 0);
	else if (outcome->unauthorized)
	{
		/* the key is wrong: so it is for the others of the shop */
		wait_ready(item, decision, TEGRO_EVENT_NOT_SENT, 0);
		decision->pause_until_reload = true;
	}
	else if (!matches(outcome->desc, tegro_retryable_pattern,
					  "tegro.retryable_pattern"))
		refuse(item, decision);
	else if (is_payout(item))
		/*
		 * Whoever is on the way may have repeated it: then this is the word to
		 * the repeat ("Wrong nonce"), and the payout was made.
		 */
		happen_anew(item, decision, TEGRO_EVENT_DOUBT, 0);
	else if (item->attempts < tegro_max_attempts)
		wait_ready(item, decision, TEGRO_EVENT_PUT_OFF, 0);
	else
		refuse(item, decision);
}

TegroDecision *
tegro_judge_sent(const TegroItem *item)
{
	const TegroCall *call = item->call;
	const TegroExchange *exchange = tegro_api_exchange(call);
	const TegroOutcome *outcome = &call->outcome;
	TegroDecision *decision = begin_decision(item);
	int64 pause_ms;

	Assert(item->task == TEGRO_SEND && !item->is_notification);
	Assert(strcmp(item->state, TEGRO_STATE_SENDING) == 0);
	Assert(exchange->end != TEGRO_EXCHANGE_OPEN);
	put_outcome(decision, call);
	decision->http_status = exchange->http_status;
	decision->attempt_message = decision->message;

	switch (outcome->result)
	{
		case TEGRO_ANSWERED:
			Assert(call->envelope != NULL);
			happen_anew(item, decision, TEGRO_EVENT_ACCEPT, -1);
			decision->answer = call->envelope;
			decision->outcome = "answered";
			return decision;

		case TEGRO_NOT_SENT:
		case TEGRO_MISCONFIGURED:
			/* what comes of this is sent again */
			if (exchange->handed_over)
				elog(ERROR, "request " INT64_FORMAT " was handed over, and is taken for unsent",
					 item->id);
			decision->outcome = "not sent";
			wait_ready(item, decision, TEGRO_EVENT_NOT_SENT, 0);
			return decision;

		case TEGRO_RATE_LIMITED:
			decision->outcome = "rate limited";
			pause_ms = Min(exchange->retry_after_s, MAX_PAUSE_MS / 1000) *
				1000;
			if (is_payout(item))
				/* whoever counts the requests may have passed it on */
				happen_anew(item, decision, TEGRO_EVENT_DOUBT,
							FIRST_BACKOFF_MS);
			else if (item->attempts >= tegro_max_attempts)
				refuse(item, decision);
			else
				wait_ready(item, decision, TEGRO_EVENT_PUT_OFF, pause_ms);
			decision->pause_ms = Max(pause_ms, FIRST_BACKOFF_MS);
			return decision;

		case TEGRO_REFUSED:
			decision->outcome = "refused";
			judge_refused(item, decision);
			return decision;

		case TEGRO_UNKNOWN:
		case TEGRO_UNREADABLE:
			break;
	}

	decision->outcome = "unknown";
	/* it may be our own request, sent back */
	tegro_error_mask(exchange->answer, exchange->answer_len,
					 exchange->request.signature);
	decision->raw_answer = exchange->answer;
	decision->raw_answer_len = Min(exchange->answer_len, MAX_RAW_ANSWER);
	if (outcome->unauthorized)
		decision->pause_until_reload = true;
	happen_anew(item, decision, TEGRO_EVENT_DOUBT, FIRST_BACKOFF_MS);
	return decision;
}

void
tegro_judge_not_again(const TegroItem *item, const char *why)
{
	TegroDecision *decision = item->decision;

	if (strcmp(decision->state, TEGRO_STATE_READY) != 0)
		return;
	happen_anew(item, decision, TEGRO_EVENT_NOT_SENT_AND_STOP, -1);
	decision->message = decision->message
		? psprintf("%s; %s", decision->message, why)
		: why;
}

TegroDecision *
tegro_judge_overdue(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item);

	Assert(item->task == TEGRO_SEND);
	happen_anew(item, decision, TEGRO_EVENT_OVERDUE, 0);
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);
	decision->message = psprintf("no answer in %d ms; it is looked up",
								 tegro_timeout);
	return decision;
}

TegroDecision *
tegro_judge_unsent(const TegroItem *item, const char *why)
{
	TegroDecision *decision = begin_decision(item);

	Assert(item->task == TEGRO_SEND);
	happen(item, decision, TEGRO_EVENT_NOT_SENT);
	decision->delay_ms = 0;
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_NOT_SENT);
	decision->message = why;
	decision->outcome = "not sent";
	decision->attempt_message = why;
	return decision;
}

TegroDecision *
tegro_judge_postponed(const TegroItem *item, const char *sqlstate,
					  const char *why)
{
	TegroDecision *decision = begin_decision(item);

	if (!item->is_notification)
		happen(item, decision, TEGRO_EVENT_POSTPONE);
	decision->failures++;
	decision->delay_ms = tegro_judge_backoff_ms(decision->failures);
	decision->sqlstate = sqlstate;
	/* a person must still see why it needs review */
	decision->message = strcmp(item->state, TEGRO_STATE_REVIEW) == 0 &&
			item->message
		? item->message
		: why;
	return decision;
}

TegroDecision *
tegro_judge_set_aside(const TegroItem *item, const char *sqlstate,
					  const char *why)
{
	TegroDecision *decision = begin_decision(item);

	if (item->is_notification)
		decision->state = TEGRO_STATE_REVIEW;
	else
		happen(item, decision, TEGRO_EVENT_WITHHOLD);
	/* where it cannot be looked up either, that ends here as well */
	if (strcmp(item->state, TEGRO_STATE_READY) == 0)
		look_up_in_review(item, decision);
	else
	{
		decision->failures = 0;
		decision->absent = 0;
	}
	decision->sqlstate = sqlstate;
	decision->message = why;
	return decision;
}

/* An event after which only the provider knows whether a request took effect. */
static TegroDecision *
doubt(const TegroItem *item, TegroEvent event, const char *message)
{
	TegroDecision *decision = begin_decision(item);

	happen_anew(item, decision, event, 0);
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);
	decision->message = message;
	return decision;
}

TegroDecision *
tegro_judge_orphaned(const TegroItem *item)
{
	return doubt(item, TEGRO_EVENT_LOSE,
				 "its delivery worker ended before it told the outcome; it is looked up");
}

TegroDecision *
tegro_judge_inherited(const TegroItem *item)
{
	/* the doubt is this server's now */
	return doubt(item, TEGRO_EVENT_INHERIT,
				 "it was enqueued before a failover or restore, and may have been sent there; it is looked up");
}

TegroDecision *
tegro_judge_conflict(const TegroItem *item)
{
	return doubt(item, TEGRO_EVENT_ON_RECORD,
				 "a send is on record that the request does not know of; it is looked up");
}

TegroDecision *
tegro_judge_rested(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item);

	if (!item->is_notification)
		happen(item, decision, TEGRO_EVENT_REST);
	decision->message = item->message;
	return decision;
}

/* Is a change of state among those? */
static bool
is_allowed(const Change *changes, int nchanges, const char *from,
		   const char *to)
{
	for (int i = 0; i < nchanges; i++)
	{
		if (strcmp(from, changes[i].from) == 0 &&
			strcmp(to, changes[i].to) == 0)
			return true;
	}
	return false;
}

void
tegro_judge_check(const TegroItem *item, const TegroDecision *decision,
				  const char *was)
{
	bool allowed;

	Assert(decision && decision->state && was);
	Assert(decision->delay_ms >= -1 && decision->pause_ms >= 0);
	Assert(decision->raw_answer_len <= MAX_RAW_ANSWER);
	Assert(decision->raw_answer_len == 0 || decision->raw_answer);

	if (item->is_notification)
		allowed = is_allowed(notification_changes,
							 lengthof(notification_changes), was,
							 decision->state);
	else
		allowed = decision->transition != NULL &&
			strcmp(decision->transition->from, was) == 0 &&
			strcmp(decision->transition->to, decision->state) == 0;

	if (!allowed)
		elog(ERROR, "%s " INT64_FORMAT " must not change from \"%s\" to \"%s\"",
			 item->is_notification ? "notification" : "request", item->id,
			 was, decision->state);
}

/*
 * Looking up.
 */

static bool
get_field(Jsonb *object, const char *name, JsonbValue *value)
{
	return object != NULL && JB_ROOT_IS_OBJECT(object) &&
		getKeyJsonValueFromContainer(&object->root, name, (int) strlen(name),
									 value) != NULL &&
		value->type != jbvNull;
}

/* The number that a field is, or is the text of; NULL if it is none. */
static Numeric
field_number(const JsonbValue *value)
{
	char *string;

	if (value->type == jbvNumeric)
		return value->val.numeric;
	string = tegro_scalar_text(value);
	/* plain decimals only: what numeric_in would throw at is none */
	if (string == NULL || *string == '\0' ||
		strspn(string, "0123456789.-") != strlen(string) ||
		strlen(string) > 100 || strchr(string, '.') != strrchr(string, '.') ||
		strrchr(string, '-') > string || strpbrk(string, "0123456789") == NULL)
		return NULL;
	return DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(string),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * How two values of a field differ, in words; NULL if they agree.  was: how the
 * first was asked for.
 */
static char *
compare(const char *name, const JsonbValue *asked, const JsonbValue *found,
		bool as_numbers, const char *was)
{
	char *asked_text = tegro_scalar_text(asked);
	char *found_text = tegro_scalar_text(found);
	Numeric asked_number = as_numbers ? field_number(asked) : NULL;
	Numeric found_number = as_numbers ? field_number(found) : NULL;
	bool same;

	if (asked_text == NULL || found_text == NULL)
		return NULL;
	same = strcmp(asked_text, found_text) == 0;
	if (!same && asked_number && found_number)
		same = DatumGetBool(
			DirectFunctionCall2(numeric_eq, NumericGetDatum(asked_number),
								NumericGetDatum(found_number)));
	return same ? NULL
				: psprintf("%s %s %s, %s is there", name, asked_text, was,
						   tegro_error_excerpt(found_text, strlen(found_text),
											   MAX_FOUND_LEN, NULL));
}

/*
 * The first of amount, currency and account in which they differ, in words; NULL
 * if none does.  amounts: whether amounts are compared.
 */
static char *
difference_in(bool amounts, Jsonb *asked, Jsonb *found, const char *was)
{
	static const char *const fields[] = {"amount", "currency", "account"};
	JsonbValue asked_value;
	JsonbValue found_value;
	char *differs;

	for (int i = amounts ? 0 : 1; i < lengthof(fields); i++)
	{
		if (get_field(asked, fields[i], &asked_value) &&
			get_field(found, fields[i], &found_value))
		{
			differs = compare(fields[i], &asked_value, &found_value, i == 0,
							  was);
			if (differs)
				return differs;
		}
	}
	return NULL;
}

char *
tegro_judge_difference(Jsonb *asked, Jsonb *found, const char *was)
{
	return difference_in(true, asked, found, was);
}

/* A field's text, for showing and comparing; NULL if it has none. */
static char *
get_text(Jsonb *object, const char *name)
{
	JsonbValue value;

	return get_field(object, name, &value) ? tegro_scalar_text(&value) : NULL;
}

/* A field's number; NULL if it has none. */
static Numeric
get_number(Jsonb *object, const char *name)
{
	JsonbValue value;

	return get_field(object, name, &value) ? field_number(&value) : NULL;
}

/*
 * Is what was found the item's own?  One who looks up by likeness, "1" for
 * "01", finds another's.
 */
static bool
is_own(const TegroItem *item, Jsonb *found)
{
	char *said = get_text(found, "payment_id");

	if (said && strcmp(said, item->reference) == 0)
		return true;
	said = get_text(found, "id");
	return said && item->by_number &&
		strcmp(said, get_text(item->lookup, "order_id")) == 0;
}

/* Is what was found an order with the fee on top of what was asked for? */
static bool
is_with_fee(const TegroItem *item, Jsonb *found)
{
	Numeric asked = get_number(item->params, "amount");
	Numeric amount = get_number(found, "amount");
	Numeric fee = get_number(found, "fee");

	return !is_payout(item) && asked && amount && fee &&
		DatumGetBool(
			DirectFunctionCall2(numeric_eq, NumericGetDatum(amount),
								DirectFunctionCall2(numeric_add,
													NumericGetDatum(asked),
													NumericGetDatum(fee))));
}

/*
 * How what was found differs from what an item asked for, in words; NULL if
 * they agree wherever both have a field.
 */
static char *
difference(const TegroItem *item, Jsonb *found)
{
	return difference_in(!is_with_fee(item, found), item->params, found,
						 "was asked for");
}

/* "data" of an envelope, as a document of its own; NULL if it is no object. */
static Jsonb *
get_data(Jsonb *envelope)
{
	JsonbValue value;

	if (!get_field(envelope, "data", &value) || value.type != jbvBinary ||
		!JsonContainerIsObject(value.val.binary.data))
		return NULL;
	return JsonbValueToJsonb(&value);
}

char *
tegro_judge_number(const TegroItem *item)
{
	Jsonb *data = get_data(item->answer);
	char *number;

	/* the answer to a lookup names an amount, and may be another's */
	if (data == NULL || get_text(data, "amount"))
		return NULL;
	number = is_payout(item) ? get_text(data, "order_id") : NULL;
	return number ? number : get_text(data, "id");
}

/* It was found. */
static TegroDecision *
judge_found(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item);
	Jsonb *found = get_data(item->call->envelope);
	const char *useless = NULL;
	char *difference_text;

	/* an answer that cannot be compared proves nothing */
	if (found == NULL)
		useless = "the lookup's answer has no object in \"data\"";
	else if (!is_own(item, found))
		useless = "the lookup's answer is about another number";
	else if (get_number(found, "amount") == NULL)
		useless = "the lookup's answer names no amount";
	if (useless)
		return tegro_judge_postponed(item,
									 sqlstate_text(TEGRO_ERRCODE_UNREADABLE),
									 useless);

	difference_text = difference(item, found);
	decision->answer = item->call->envelope;
	if (difference_text)
	{
		happen(item, decision, TEGRO_EVENT_DIFFER);
		look_up_in_review(item, decision);
		decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_CONFLICT);
		decision->message =
			psprintf("found under this reference, but different: %s",
					 difference_text);
		return decision;
	}

	happen_anew(item, decision, TEGRO_EVENT_FIND, -1);
	decision->message = is_payout(item)
		? "found by lookup"
		: "found by lookup, which gives no link to pay at; tegro_retry asks for another";
	return decision;
}

/*
 * An order is to be sent again: not at once every time, and not for ever.
 * After tegro.max_attempts a person decides.
 */
static void
send_again(const TegroItem *item, TegroDecision *decision, const char *message)
{
	Assert(strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0 && !is_payout(item));
	decision->absent = 0;
	if (item->attempts >= tegro_max_attempts)
	{
		happen(item, decision, TEGRO_EVENT_GIVE_UP);
		look_up_in_review(item, decision);
		decision->message =
			psprintf("sent %d times and never found; resolve it with tegro_resolve",
					 item->attempts);
		return;
	}
	happen(item, decision, TEGRO_EVENT_RESEND);
	decision->delay_ms = item->attempts > 1
		? tegro_judge_backoff_ms(item->attempts)
		: 0;
	decision->message = message;
}

/* It was not found, once more. */
static TegroDecision *
judge_absent(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item);
	int64 review_ms = tegro_review_after * INT64CONST(1000);
	int64 in_doubt_ms;

	/*
	 * What counts is when it was asked for.  A delivery worker that was stopped
	 * meanwhile must not take an old answer for one at this time.
	 */
	in_doubt_ms = doubt_ms(item) -
		(tegro_clock_us() - item->claimed_us) / 1000;

	decision->absent = item->absent + 1;
	decision->failures = 0;
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);

	if (strcmp(item->state, TEGRO_STATE_REVIEW) == 0)
	{
		happen(item, decision, TEGRO_EVENT_MISS);
		look_up_in_review(item, decision);
		decision->absent = item->absent + 1;
		decision->message = item->message;
		return decision;
	}

	if (!is_payout(item))
	{
		int64 needed_ms = tegro_timeout + ORDER_MARGIN_MS;

		if (decision->absent >= ORDER_ABSENT && in_doubt_ms >= needed_ms)
		{
			send_again(item, decision, "not found; it is sent again");
			return decision;
		}
		happen(item, decision, TEGRO_EVENT_MISS);
		decision->delay_ms = Max(needed_ms - in_doubt_ms, FIRST_BACKOFF_MS);
		decision->message = "not found so far; it is looked up again";
		return decision;
	}

	if (decision->absent >= PAYOUT_ABSENT && in_doubt_ms >= review_ms)
	{
		happen(item, decision, TEGRO_EVENT_GIVE_UP);
		look_up_in_review(item, decision);
		decision->message =
			"not found until the review deadline; resolve it with tegro_resolve";
		return decision;
	}

	/* spread over the time until the review deadline, the last just after it */
	happen(item, decision, TEGRO_EVENT_MISS);
	decision->delay_ms = decision->absent + 1 >= PAYOUT_ABSENT
		? Max(review_ms - in_doubt_ms + 100, review_ms / 10)
		: review_ms / 3;
	decision->delay_ms = Max(decision->delay_ms, 100);
	decision->message = "not found so far; it is looked up again";
	return decision;
}

bool
tegro_judge_is_not_found(const TegroCall *call)
{
	const TegroOutcome *outcome = &call->outcome;

	return outcome->found_nothing ||
		(outcome->result == TEGRO_REFUSED && !outcome->unauthorized &&
		 matches(outcome->desc, tegro_not_found_pattern,
				 "tegro.not_found_pattern"));
}

/* A lookup failed: that says nothing about what was looked up, however often. */
static TegroDecision *
judge_lookup_failed(const TegroItem *item)
{
	const TegroCall *call = item->call;
	const TegroExchange *exchange = tegro_api_exchange(call);
	TegroDecision *decision =
		tegro_judge_postponed(item,
							  sqlstate_text(
								  tegro_error_sqlstate(call->outcome.result)),
							  psprintf("the lookup failed: %s",
									   join(call->outcome.message,
											call->outcome.detail)));

	if (call->outcome.result == TEGRO_RATE_LIMITED)
	{
		decision->pause_ms =
			Min(Max(exchange->retry_after_s, 1), MAX_PAUSE_MS / 1000) * 1000;
		decision->delay_ms = Max(decision->delay_ms, decision->pause_ms);
	}
	if (call->outcome.unauthorized)
		decision->pause_until_reload = true;
	return decision;
}

TegroDecision *
tegro_judge_looked_up(const TegroItem *item)
{
	const TegroCall *call = item->call;

	Assert(item->task == TEGRO_LOOKUP && !item->is_notification);
	if (tegro_judge_is_not_found(call))
		return judge_absent(item);
	if (call->outcome.result == TEGRO_ANSWERED)
		return judge_found(item);

	return judge_lookup_failed(item);
}


/*
 * Notifications.
 */

/* Is a field there, and neither 0 nor false nor empty? */
static bool
is_set(Jsonb *object, const char *name)
{
	JsonbValue value;
	char *string;

	if (!get_field(object, name, &value))
		return false;
	if (value.type == jbvBool)
		return value.val.boolean;
	string = tegro_scalar_text(&value);
	return string == NULL || (*string != '\0' && strcmp(string, "0") != 0);
}

/* The provider does not say that it is paid; it may yet. */
static TegroDecision *
judge_unpaid(const TegroItem *item, const char *why)
{
	TegroDecision *decision = begin_decision(item);

	decision->outcome = "looked up";
	decision->failures++;
	if (doubt_ms(item) >= UNPAID_MS)
	{
		finish(decision, TEGRO_UNPAID);
		decision->message = psprintf("%s; it is looked up no more", why);
		return decision;
	}
	/* quick at first, for the lookup may lag; then ever less often */
	decision->delay_ms = Max(tegro_judge_backoff_ms(decision->failures),
							 doubt_ms(item) / 8);
	decision->message = psprintf("%s; it is looked up again", why);
	return decision;
}

/* The order was found. */
static TegroDecision *
judge_order(const TegroItem *item)
{
	TegroDecision *decision;
	Jsonb *found = get_data(item->call->envelope);
	char *said;
	char *differs;

	if (found == NULL)
		return tegro_judge_postponed(item,
									 sqlstate_text(TEGRO_ERRCODE_UNREADABLE),
									 "the lookup's answer has no object in \"data\"");

	/* what was found by the provider's number must be the shop's, too */
	said = get_text(found, "payment_id");
	if (said ? strcmp(said, item->reference) != 0 : item->by_number)
		return judge_unpaid(item, "the lookup found another order");
	said = get_text(found, "status");
	if (said == NULL || strcmp(said, TEGRO_STATUS_PAID) != 0)
		return judge_unpaid(item,
							psprintf("the provider says status %s, not paid",
									 said ? tegro_error_excerpt(said,
																strlen(said),
																20, NULL)
										  : "unknown"));

	decision = begin_decision(item);
	finish(decision, TEGRO_CONFIRMED);
	decision->outcome = "looked up";
	decision->answer = item->call->envelope;
	if (is_set(found, "test_order"))
	{
		finish(decision, TEGRO_A_TEST);
		decision->message = "the order was a test: nothing was paid";
		return decision;
	}

	/*
	 * The answer has an amount that can be compared, or nothing is certain.  A
	 * currency it may have by the provider's number alone, which is not
	 * documented; then the signed one counts, which agrees with the order's.
	 */
	if (get_number(found, "amount") == NULL)
		differs = "the lookup tells no amount";
	else
		differs = tegro_judge_difference(item->params, found, "was notified");
	if (differs == NULL && item->ordered)
	{
		differs = tegro_judge_difference(item->ordered, found, "was ordered");
		if (differs == NULL)
			differs = tegro_judge_difference(item->ordered, item->params,
											 "was ordered");
	}
	if (differs)
	{
		finish(decision, TEGRO_STATE_REVIEW);
		decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_CONFLICT);
		decision->message = psprintf("paid, but different: %s", differs);
	}
	return decision;
}

TegroDecision *
tegro_judge_notified(const TegroItem *item)
{
	const TegroCall *call = item->call;

	Assert(item->task == TEGRO_LOOKUP && item->is_notification);
	Assert(strcmp(item->state, TEGRO_WAITING) == 0);
	if (tegro_judge_is_not_found(call))
		return judge_unpaid(item, "the provider does not know the order");
	if (call->outcome.result == TEGRO_ANSWERED)
		return judge_order(item);

	return judge_lookup_failed(item);
}
