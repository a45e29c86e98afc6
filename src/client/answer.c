/*-------------------------------------------------------------------------
 *
 * answer.c
 *		The provider's answer, from bytes to an envelope.
 *
 * The provider wraps everything it says as
 *
 *		{"type": "success", "desc": "", "data": ...}
 *		{"type": "error", "desc": "the reason"}
 *
 * but what comes may be a gateway's HTML page, half an answer, or whatever
 * someone who wants to harm sends.  PostgreSQL's own JSON parser reads it: it
 * knows about depth, surrogates and encodings, and reports trouble by
 * throwing.  That is caught here, for a bad answer is not the caller's error,
 * and what to make of it depends on what was asked.
 *
 * A number takes as many digits as its exponent says: 1e131071 takes eight bytes
 * here, and 128 kB wherever it is shown or read.  How many digits an answer may
 * have is bounded for all of its numbers together.
 *
 * Catching without a subtransaction is sound because all that can be left
 * half-done in between is memory: the parser takes no lock, buffer or
 * catalog entry that outlives it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "src/base/error.h"
#include "src/client/answer.h"

/*
 * Digits that exponents may add to an answer's numbers, all together.  Real
 * answers have no exponents at all; jsonb allows some 131,000 digits a number.
 */
#define MAX_ADDED_DIGITS (1024 * 1024)

/* Longest message of the parser that is shown. */
#define MAX_WHY_LEN 500

/*
 * Do exponents add too many digits to the numbers?  Of text that is not JSON it
 * says anything.
 */
static bool
has_too_many_digits(const char *bytes, size_t len)
{
	const char *end = bytes + len;
	int64 added = 0;
	bool in_string = false;

	for (const char *at = bytes; at < end; at++)
	{
		int64 exponent = 0;

		if (*at == '"')
			in_string = !in_string;
		else if (in_string && *at == '\\')
			at++;
		if (in_string || (*at != 'e' && *at != 'E') || at == bytes ||
			!isdigit((unsigned char) at[-1]))
			continue;
		if (at + 1 < end && (at[1] == '+' || at[1] == '-'))
			at++;
		while (at + 1 < end && isdigit((unsigned char) at[1]))
		{
			at++;
			exponent = Min(exponent * 10 + (*at - '0'), MAX_ADDED_DIGITS + 1);
		}
		added += exponent;
		if (added > MAX_ADDED_DIGITS)
			return true;
	}
	return false;
}

/* Parses JSON; returns NULL and says why if it can't be. */
static Jsonb *
parse(const char *bytes, size_t len, const char **why)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb *volatile envelope = NULL;

	PG_TRY();
	{
		char *json = pg_any_to_server(bytes, (int) len, PG_UTF8);

		envelope = DatumGetJsonbP(
			DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!tegro_error_is_about_data(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		/* from 16 on, PostgreSQL's message doesn't say what can't be held */
		if (error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER &&
			GetDatabaseEncoding() != PG_UTF8)
			*why =
				psprintf("It is not usable JSON: %s; the database's encoding is %s.",
						 tegro_error_excerpt(error->message,
											 strlen(error->message),
											 MAX_WHY_LEN, NULL),
						 GetDatabaseEncodingName());
		else
			*why = psprintf("It is not usable JSON: %s.",
							tegro_error_excerpt(error->message,
												strlen(error->message),
												MAX_WHY_LEN, NULL));
	}
	PG_END_TRY();

	return envelope;
}

static JsonbValue *
get_key(Jsonb *object, const char *key, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(&object->root, key, (int) strlen(key),
										value);
}

/* Is a value null, false, {} or []? */
static bool
is_empty(const JsonbValue *value)
{
	if (value->type == jbvBinary)
		return JsonContainerSize(value->val.binary.data) == 0;
	return value->type == jbvNull ||
		(value->type == jbvBool && !value->val.boolean);
}

void
tegro_answer_read(const char *bytes, size_t len, TegroAnswer *answer)
{
	JsonbValue value;

	memset(answer, 0, sizeof(*answer));
	answer->kind = TEGRO_ANSWER_UNREADABLE;

	if (len == 0)
	{
		answer->why = "It is empty.";
		return;
	}
	if (memchr(bytes, '\0', len) != NULL)
	{
		answer->why = "It contains NUL bytes.";
		return;
	}

	if (has_too_many_digits(bytes, len))
	{
		answer->why =
			"It is not usable JSON: its numbers have too many digits.";
		return;
	}

	answer->envelope = parse(bytes, len, &answer->why);
	if (answer->envelope == NULL)
		return;

	if (!JB_ROOT_IS_OBJECT(answer->envelope))
		answer->why = "It is not a JSON object.";
	else if (get_key(answer->envelope, "type", &value) == NULL ||
			 value.type != jbvString || value.val.string.len == 0)
		answer->why = "It has no \"type\".";
	else if (value.val.string.len == 7 &&
			 memcmp(value.val.string.val, "success", 7) == 0)
	{
		bool has_data = get_key(answer->envelope, "data", &value) != NULL;

		answer->no_data = has_data && is_empty(&value);
		if (!has_data || value.type == jbvNull)
			answer->why = "It says \"success\", but has no \"data\".";
		else
			answer->kind = TEGRO_ANSWER_SUCCESS;
	}
	else
	{
		answer->kind = TEGRO_ANSWER_REFUSAL;
		if (get_key(answer->envelope, "desc", &value) != NULL &&
			value.type == jbvString)
			answer->desc = pnstrdup(value.val.string.val,
									value.val.string.len);
		else
			answer->desc = pstrdup("");
	}

	if (answer->kind == TEGRO_ANSWER_UNREADABLE)
		answer->envelope = NULL;
}
