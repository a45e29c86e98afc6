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
 * Catching without a subtransaction is sound because all that can be left
 * half-done in between is memory: the parser takes no lock, buffer or
 * catalog entry that outlives it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "src/client/answer.h"

/*
 * Is it the data's fault?  Class 22 is bad data, 54 a limit (too deep, too
 * large).  All else, a cancel or a lack of memory, is not about the answer.
 */
static bool
is_about_data(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED);
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
		if (!is_about_data(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		/* from 16 on, PostgreSQL's message doesn't say what can't be held */
		if (error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER &&
			GetDatabaseEncoding() != PG_UTF8)
			*why =
				psprintf("It is not usable JSON: %s; the database's encoding is %s.",
						 error->message, GetDatabaseEncodingName());
		else
			*why = psprintf("It is not usable JSON: %s.", error->message);
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
		if (get_key(answer->envelope, "data", &value) == NULL ||
			value.type == jbvNull)
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
