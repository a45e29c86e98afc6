/*-------------------------------------------------------------------------
 *
 * jsonform.c
 *		A notification's fields from JSON.
 *
 * The signature is over the text that PHP's http_build_query() makes of the
 * fields, so each value must become the text that was signed:
 *
 *		string			its text
 *		number			its text as it stands: 100.00 is "100.00"
 *		true, false		"1" and "0"
 *		null			no field
 *
 * These are refused: a name that occurs twice, also where one of the two is
 * null; arrays and objects; a number with an exponent, whose text PHP would not
 * have signed.
 *
 * The parser is PostgreSQL's, token by token.  jsonb does not do: it drops all
 * but the last of equal names, and loses the text of a number.
 *
 * Hazard: PostgreSQL's parser calls itself for each level.  The callbacks stop
 * it at the second level, before the stack can grow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/functions/jsonform.h"

typedef struct Reader
{
	TegroQueryField *fields;
	size_t nfields; /* with those that are null, whose value is NULL */
	int depth;
} Reader;

/* Ends the parser; tegro_jsonform_read() catches it. */
static _Noreturn void
stop(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("JSON is not a notification")));
	pg_unreachable();
}

static TegroJsonVerdict
begin_object(void *state)
{
	Reader *reader = state;

	if (++reader->depth > 1)
		stop();
	TEGRO_JSON_CONTINUE;
}

static TegroJsonVerdict
begin_array(void *state)
{
	stop();
	TEGRO_JSON_CONTINUE;
}

static TegroJsonVerdict
take_name(void *state, char *name, bool isnull)
{
	Reader *reader = state;
	TegroQueryField *field = &reader->fields[reader->nfields];

	if (reader->nfields == TEGRO_QUERY_MAX_FIELDS)
		stop();
	/* brackets are how an array would be written, which no JSON name is */
	field->name = strchr(name, '[') ? NULL : tegro_to_utf8(name, strlen(name));
	if (field->name == NULL)
		stop();
	field->name_len = strlen(field->name);
	field->value = NULL;
	field->value_len = 0;
	for (size_t i = 0; i < reader->nfields; i++)
	{
		if (strcmp(reader->fields[i].name, field->name) == 0)
			stop();
	}
	reader->nfields++;
	TEGRO_JSON_CONTINUE;
}

static TegroJsonVerdict
take_value(void *state, char *token, JsonTokenType type)
{
	Reader *reader = state;
	TegroQueryField *field;
	const char *value = NULL;

	if (reader->depth != 1)
		stop(); /* the whole of it is a scalar */
	field = &reader->fields[reader->nfields - 1];
	switch (type)
	{
		case JSON_TOKEN_STRING:
			value = tegro_to_utf8(token, strlen(token));
			break;
		case JSON_TOKEN_NUMBER:
			value = strpbrk(token, "eE") ? NULL : pstrdup(token);
			break;
		case JSON_TOKEN_TRUE:
			value = "1";
			break;
		case JSON_TOKEN_FALSE:
			value = "0";
			break;
		case JSON_TOKEN_NULL:
			TEGRO_JSON_CONTINUE;
		default:
			break;
	}
	if (value == NULL)
		stop();
	field->value = value;
	field->value_len = strlen(value);
	TEGRO_JSON_CONTINUE;
}

bool
tegro_jsonform_read(char *json, size_t len, TegroQueryField *fields,
					size_t *nfields)
{
	MemoryContext context = CurrentMemoryContext;
	Reader reader = {fields};
	JsonSemAction actions = {&reader};
	volatile bool is_valid = false;
	size_t kept = 0;

	actions.object_start = begin_object;
	actions.array_start = begin_array;
	actions.object_field_start = take_name;
	actions.scalar = take_value;

	PG_TRY();
	{
		JsonLexContext *lexer = tegro_create_json_lexer(json, len);

		is_valid = pg_parse_json(lexer, &actions) == JSON_SUCCESS;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!tegro_error_is_about_data(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();

	for (size_t i = 0; is_valid && i < reader.nfields; i++)
	{
		if (fields[i].value != NULL)
			fields[kept++] = fields[i];
	}
	*nfields = kept;
	return is_valid;
}
