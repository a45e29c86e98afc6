/*-------------------------------------------------------------------------
 *
 * judge.c
 *		What becomes of a request, by what was seen of it.
 *
 * These are the rules by which money never leaves twice:
 *
 *		ready    -> sending		claimed, on record, committed (outbox.c)
 *		ready    -> unknown		it comes from another server: look first
 *		ready    -> review		a payout, and the role that enqueued it may not pay
 *								out any more
 *		ready, unknown,
 *		review   -> review		its role does not exist, and so has no key
 *		sending  -> ready		certainly not sent; or refused for now
 *		sending  -> done		answered
 *		sending  -> failed		refused
 *		sending  -> review		refused, after an attempt in doubt
 *		sending  -> unknown		refused as a duplicate; or a payout refused for
 *								now, or for its rate: a gateway says that, too,
 *								of what it has passed on
 *		sending  -> unknown		all else, and where the delivery worker is gone
 *		unknown  -> done		found, by its number, with an amount, and it
 *								agrees with what was asked
 *		unknown  -> review		found, but different
 *		unknown  -> ready		an order, not found twice, the second time
 *								when its request must have ended
 *		unknown  -> review		a payout, not found three times over the
 *								settle time
 *		unknown  -> review		an order, sent tegro.max_attempts times and
 *								never found
 *		review   -> done		found after all: what may have been sent is
 *								looked up for a day
 *		unknown, review, failed, cancelled,
 *		ready    -> done		answered late, and not sent since (store.c)
 *
 * Why an order may be sent again and a payout not: a second order is a second
 * link that nobody pays, and a customer is waiting; a second payout is money
 * gone.
 *
 * A doubt stays on record.  unknown_since is set once a send may have taken
 * effect, and no decision of a person's clears it: so a later refusal, which is
 * about the later send, never makes the request "refused".
 *
 * A lookup that fails is not "not found"; nor is a refusal whose words don't
 * say so, nor an answer about something else.  The provider doesn't document
 * its words, so the patterns are settings, and what matches none of them leaves
 * the request where it is.
 *
 * And of notifications, by which money is credited: the provider must say of
 * the very order that it is paid, with the same amount, before anything is;
 * see tegro_judge_notified().
 *
 * How long a request is in doubt is measured by the clock that people set, for
 * it must outlast the process.  A delivery worker that sees it set counts anew from
 * there (tegro_judge_watch_clock): so no step makes the settle time shorter.
 * One that is started after the step can't know of it.
 *
 * model/outbox.pml is a model of this, checked exhaustively.
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

/* First and longest wait between attempts or lookups that come to nothing. */
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

/* Bytes of a useless answer that are kept with the attempt. */
#define MAX_RAW_ANSWER 8192

/* A clock that goes wrong by more than that at once was set. */
#define CLOCK_STEP_MS 1000

/* A change of state that a claim may end in. */
typedef struct Change
{
	const char *from;
	const char *to;
} Change;

static const Change request_changes[] = {
	{TEGRO_STATE_READY, TEGRO_STATE_READY},
	{TEGRO_STATE_READY, TEGRO_STATE_UNKNOWN},
	{TEGRO_STATE_READY, TEGRO_STATE_REVIEW},
	{TEGRO_STATE_SENDING, TEGRO_STATE_READY},
	{TEGRO_STATE_SENDING, TEGRO_STATE_ACCEPTED},
	{TEGRO_STATE_SENDING, TEGRO_STATE_REFUSED},
	{TEGRO_STATE_SENDING, TEGRO_STATE_REVIEW},
	{TEGRO_STATE_SENDING, TEGRO_STATE_UNKNOWN},
	{TEGRO_STATE_SENDING, TEGRO_STATE_CANCELLED},
	{TEGRO_STATE_UNKNOWN, TEGRO_STATE_UNKNOWN},
	{TEGRO_STATE_UNKNOWN, TEGRO_STATE_ACCEPTED},
	{TEGRO_STATE_UNKNOWN, TEGRO_STATE_READY},
	{TEGRO_STATE_UNKNOWN, TEGRO_STATE_REVIEW},
	{TEGRO_STATE_REVIEW, TEGRO_STATE_REVIEW},
	{TEGRO_STATE_REVIEW, TEGRO_STATE_ACCEPTED},
	/* nothing is left to be done for these */
	{TEGRO_STATE_ACCEPTED, TEGRO_STATE_ACCEPTED},
	{TEGRO_STATE_REFUSED, TEGRO_STATE_REFUSED},
	{TEGRO_STATE_CANCELLED, TEGRO_STATE_CANCELLED},
};

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
begin_decision(const TegroItem *item, const char *state)
{
	TegroDecision *decision = palloc0(sizeof(TegroDecision));

	Assert(state != NULL);
	decision->state = state;
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

static void
finish(TegroDecision *decision, const char *state)
{
	decision->state = state;
	decision->delay_ms = -1;
	decision->failures = 0;
	decision->absent = 0;
}

static void
doubt(TegroDecision *decision, int64 delay_ms)
{
	decision->state = TEGRO_STATE_UNKNOWN;
	decision->delay_ms = delay_ms;
	decision->failures = 0;
	decision->absent = 0;
	decision->unknown_since = GetCurrentTimestamp();
}

static void
wait_ready(TegroDecision *decision, int64 delay_ms)
{
	Assert(delay_ms >= 0);
	decision->state = TEGRO_STATE_READY;
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
	TimestampTz now = GetCurrentTimestamp();

	if (item->unknown_since == 0)
		return 0;
	if (clock_set_at != 0 &&
		(item->unknown_since < clock_set_at || item->unknown_since > now))
		return (now - clock_set_at) / 1000;
	return (now - item->unknown_since) / 1000;
}

/*
 * A person has it from now on, or has had it.  It is looked up for a day, in
 * case it shows up, if it may have been sent; the day begins with the review.
 */
static void
put_in_review(const TegroItem *item, TegroDecision *decision)
{
	int64 settle_ms = tegro_review_after * INT64CONST(1000);

	finish(decision, TEGRO_STATE_REVIEW);
	if (item->unknown_since == 0)
		return;
	if (strcmp(item->state, TEGRO_STATE_REVIEW) != 0)
	{
		decision->unknown_since = GetCurrentTimestamp();
		decision->delay_ms = settle_ms / 4;
	}
	else if (doubt_ms(item) < REVIEW_LOOKUP_MS)
		decision->delay_ms = Max(doubt_ms(item) / 4, settle_ms / 4);
}

/*
 * This attempt was refused, and there is none to come: it failed, unless an
 * earlier one is in doubt.
 */
static void
give_up(const TegroItem *item, TegroDecision *decision)
{
	Assert(strcmp(item->state, TEGRO_STATE_SENDING) == 0);
	if (item->unknown_since == 0)
	{
		finish(decision, TEGRO_STATE_REFUSED);
		return;
	}
	put_in_review(item, decision);
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
		doubt(decision, 0);
	else if (outcome->unauthorized)
	{
		/* the key is wrong: so it is for the others of the shop */
		wait_ready(decision, 0);
		decision->not_sent = true;
		decision->pause_until_reload = true;
	}
	else if (!matches(outcome->desc, tegro_retryable_pattern,
					  "tegro.retryable_pattern"))
		give_up(item, decision);
	else if (is_payout(item))
		/*
		 * Whoever is on the way may have repeated it: then this is the word to
		 * the repeat ("Wrong nonce"), and the payout was made.
		 */
		doubt(decision, 0);
	else if (item->attempts < tegro_max_attempts)
		wait_ready(decision, 0);
	else
		give_up(item, decision);
}

TegroDecision *
tegro_judge_sent(const TegroItem *item)
{
	const TegroCall *call = item->call;
	const TegroExchange *exchange = tegro_api_exchange(call);
	const TegroOutcome *outcome = &call->outcome;
	TegroDecision *decision = begin_decision(item, item->state);
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
			finish(decision, TEGRO_STATE_ACCEPTED);
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
			decision->not_sent = true;
			wait_ready(decision, 0);
			return decision;

		case TEGRO_RATE_LIMITED:
			decision->outcome = "rate limited";
			pause_ms = Min(exchange->retry_after_s, MAX_PAUSE_MS / 1000) *
				1000;
			if (is_payout(item))
				/* whoever counts the requests may have passed it on */
				doubt(decision, FIRST_BACKOFF_MS);
			else if (item->attempts >= tegro_max_attempts)
				give_up(item, decision);
			else
				wait_ready(decision, pause_ms);
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
	doubt(decision, FIRST_BACKOFF_MS);
	return decision;
}

void
tegro_judge_not_again(TegroDecision *decision, const char *why)
{
	if (strcmp(decision->state, TEGRO_STATE_READY) != 0)
		return;
	finish(decision, TEGRO_STATE_CANCELLED);
	decision->message = decision->message
		? psprintf("%s; %s", decision->message, why)
		: why;
}

TegroDecision *
tegro_judge_overdue(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item, TEGRO_STATE_UNKNOWN);

	Assert(item->task == TEGRO_SEND);
	doubt(decision, 0);
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);
	decision->message = psprintf("no answer in %d ms; it is looked up",
								 tegro_timeout);
	return decision;
}

TegroDecision *
tegro_judge_unsent(const TegroItem *item, const char *why)
{
	TegroDecision *decision = begin_decision(item, TEGRO_STATE_READY);

	Assert(item->task == TEGRO_SEND);
	Assert(strcmp(item->state, TEGRO_STATE_SENDING) == 0);
	decision->delay_ms = 0;
	decision->not_sent = true;
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
	TegroDecision *decision = begin_decision(item, item->state);

	decision->failures++;
	decision->delay_ms = tegro_judge_backoff_ms(decision->failures);
	decision->sqlstate = sqlstate;
	/* a person must still see why he has it */
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
	TegroDecision *decision = begin_decision(item, item->state);

	/* where it can't be looked up either, that ends here as well */
	if (strcmp(item->state, TEGRO_STATE_READY) == 0)
		put_in_review(item, decision);
	else
		finish(decision, TEGRO_STATE_REVIEW);
	decision->sqlstate = sqlstate;
	decision->message = why;
	return decision;
}

TegroDecision *
tegro_judge_orphaned(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item, TEGRO_STATE_UNKNOWN);

	doubt(decision, 0);
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);
	decision->message =
		"its delivery worker ended before it told the outcome; it is looked up";
	return decision;
}

TegroDecision *
tegro_judge_inherited(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item, TEGRO_STATE_UNKNOWN);

	/* any other state would lose what is known of it */
	Assert(strcmp(item->state, TEGRO_STATE_READY) == 0 ||
		   strcmp(item->state, TEGRO_STATE_UNKNOWN) == 0);
	doubt(decision, 0);
	decision->renew_origin = true; /* the doubt is this server's now */
	decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_UNKNOWN);
	decision->message =
		"it was enqueued before a failover or restore, and may have been sent there; it is looked up";
	return decision;
}

TegroDecision *
tegro_judge_settled(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item, item->state);

	decision->message = item->message;
	return decision;
}

/* Is an item's change among those? */
static bool
is_allowed(const Change *changes, int nchanges, const TegroItem *item)
{
	for (int i = 0; i < nchanges; i++)
	{
		if (strcmp(item->state, changes[i].from) == 0 &&
			strcmp(item->decision->state, changes[i].to) == 0)
			return true;
	}
	return false;
}

void
tegro_judge_check(const TegroItem *item)
{
	const TegroDecision *decision = item->decision;
	bool allowed;

	Assert(decision && decision->state && item->state);
	Assert(decision->delay_ms >= -1 && decision->pause_ms >= 0);
	Assert(decision->raw_answer_len <= MAX_RAW_ANSWER);
	Assert(decision->raw_answer_len == 0 || decision->raw_answer);

	if (item->is_notification)
		allowed = is_allowed(notification_changes,
							 lengthof(notification_changes), item);
	else
	{
		allowed = is_allowed(request_changes, lengthof(request_changes), item);

		/*
		 * A payout that left, or may have left, is sent again only where it
		 * certainly was not carried out.
		 */
		if (is_payout(item) && strcmp(decision->state, TEGRO_STATE_READY) == 0)
			allowed &= decision->not_sent ||
				strcmp(item->state, TEGRO_STATE_READY) == 0;
		/* nor does one fail of which an earlier send is in doubt */
		if (item->unknown_since != 0 &&
			strcmp(decision->state, TEGRO_STATE_REFUSED) == 0)
			allowed &= strcmp(item->state, TEGRO_STATE_REFUSED) == 0;
		/* an attempt counts unless it is certain that nothing came of it */
		if (decision->not_sent)
			allowed &= strcmp(decision->state, TEGRO_STATE_READY) == 0 ||
				strcmp(decision->state, TEGRO_STATE_CANCELLED) == 0;
	}

	if (!allowed)
		elog(ERROR, "%s " INT64_FORMAT " must not change from \"%s\" to \"%s\"",
			 item->is_notification ? "notification" : "request", item->id,
			 item->state, decision->state);
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
	TegroDecision *decision = begin_decision(item, item->state);
	Jsonb *found = get_data(item->call->envelope);
	const char *useless = NULL;
	char *difference_text;

	/* an answer that can't be compared settles nothing */
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
		put_in_review(item, decision);
		decision->sqlstate = sqlstate_text(TEGRO_ERRCODE_CONFLICT);
		decision->message =
			psprintf("found under this reference, but different: %s",
					 difference_text);
		return decision;
	}

	finish(decision, TEGRO_STATE_ACCEPTED);
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
		put_in_review(item, decision);
		decision->message =
			psprintf("sent %d times and never found; a person decides with tegro_resolve",
					 item->attempts);
		return;
	}
	decision->state = TEGRO_STATE_READY;
	decision->delay_ms = item->attempts > 1
		? tegro_judge_backoff_ms(item->attempts)
		: 0;
	decision->message = message;
}

/* It was not found, once more. */
static TegroDecision *
judge_absent(const TegroItem *item)
{
	TegroDecision *decision = begin_decision(item, item->state);
	int64 settle_ms = tegro_review_after * INT64CONST(1000);
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
		put_in_review(item, decision);
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
		decision->delay_ms = Max(needed_ms - in_doubt_ms, FIRST_BACKOFF_MS);
		decision->message = "not found so far; it is looked up again";
		return decision;
	}

	if (decision->absent >= PAYOUT_ABSENT && in_doubt_ms >= settle_ms)
	{
		put_in_review(item, decision);
		decision->message =
			"not found over the settle time; a person decides with tegro_resolve";
		return decision;
	}

	/* spread over the settle time, the last look just after it */
	decision->delay_ms = decision->absent + 1 >= PAYOUT_ABSENT
		? Max(settle_ms - in_doubt_ms + 100, settle_ms / 10)
		: settle_ms / 3;
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
	TegroDecision *decision = begin_decision(item, item->state);

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

	decision = begin_decision(item, item->state);
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
