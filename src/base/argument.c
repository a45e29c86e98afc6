/*-------------------------------------------------------------------------
 *
 * argument.c
 *		Arguments of SQL functions, parameters that functions build, and values
 *		in JSON.
 *
 * Shared by the rooms that define SQL functions.  None of those is strict, so
 * that a NULL is an error with a name and not an answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "src/base/argument.h"

void
tegro_require_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
}

char *
tegro_get_text(FunctionCallInfo fcinfo, int n, const char *name)
{
	tegro_require_argument(fcinfo, n, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

Jsonb *
tegro_get_jsonb(FunctionCallInfo fcinfo, int n, const char *name)
{
	tegro_require_argument(fcinfo, n, name);
	return PG_GETARG_JSONB_P(n);
}

/*
 * Parameters that a function builds itself: begin, add, finish.
 */

TegroJsonbState
tegro_begin_params(void)
{
	TegroJsonbState state = {0};

	tegro_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	return state;
}

static void
add_param(TegroJsonbState *state, const char *name, JsonbValue *value)
{
	JsonbValue key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = (int) strlen(name);
	tegro_push_jsonb(state, WJB_KEY, &key);
	tegro_push_jsonb(state, WJB_VALUE, value);
}

void
tegro_add_text_param(TegroJsonbState *state, const char *name, text *string)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = VARDATA_ANY(string);
	value.val.string.len = VARSIZE_ANY_EXHDR(string);
	add_param(state, name, &value);
}

void
tegro_add_int_param(TegroJsonbState *state, const char *name, int64 number)
{
	JsonbValue value;

	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(
		DirectFunctionCall1(int8_numeric, Int64GetDatum(number)));
	add_param(state, name, &value);
}

Jsonb *
tegro_finish_params(TegroJsonbState *state)
{
	return JsonbValueToJsonb(tegro_push_jsonb(state, WJB_END_OBJECT, NULL));
}

char *
tegro_to_utf8(const char *bytes, size_t len)
{
	int encoding = GetDatabaseEncoding();
	size_t room = len * MAX_CONVERSION_GROWTH + 1;
	char *utf8;
	Oid conversion;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, bytes, (int) len, true)
			? pnstrdup(bytes, len)
			: NULL;
	conversion = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(conversion))
		return NULL;
	utf8 = palloc(room);
	if (pg_do_encoding_conversion_buf(conversion, encoding, PG_UTF8,
									  (unsigned char *) unconstify(char *,
																   bytes),
									  (int) len, (unsigned char *) utf8,
									  (int) room, true) != (int) len)
		return NULL;
	return utf8;
}

char *
tegro_scalar_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out,
									NumericGetDatum(value->val.numeric)));
		default:
			return NULL;
	}
}
