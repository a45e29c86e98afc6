/*-------------------------------------------------------------------------
 *
 * link.c
 *		Payment links: signed, and made without asking anyone.
 *
 *		SELECT tegro_payment_url('{"order_id": "123", "currency": "RUB",
 *								   "amount": 100}');
 *
 * A customer who opens the link is shown the provider's page; the order comes
 * into being there.  Five parameters are signed: shop_id, amount, order_id,
 * currency and, for a test, test=1.  All others travel beside them, and
 * the customer can change them.  So nothing may hang on those, and a name
 * that is none of them is refused: of a mistyped one nobody would ever hear.
 *
 * Amounts.  The provider signs again the text that it receives, so any text
 * will do, as long as it is the one that was signed.  Numbers are written as
 * a shop's PHP would: 100 and 100.00 are both "100".  A string stays as it
 * is: "100.00".
 *
 * Where the link points to follows from tegro.api_url: its page is the
 * neighbour of the API, https://tegro.money/pay/ of https://tegro.money/api,
 * and with a sandbox, the sandbox's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "src/client/api.h"
#include "src/client/keys.h"
#include "src/client/parameters.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/format/query.h"
#include "src/base/settings.h"
#include "src/format/signature.h"

PG_FUNCTION_INFO_V1(tegro_payment_url);

/*
 * Longest link.  Servers take some 8 kB of it, a receipt with many items may
 * have a way to more; what is beyond this is no link.
 */
#define MAX_URL_LEN (64 * 1024)

/* Levels of arrays inside each other; receipt[items][0][name] has four. */
#define MAX_LEVELS 16

/* What a parameter must be. */
typedef enum Kind
{
	KIND_STRING,   /* a string that is not empty; a number is taken too */
	KIND_AMOUNT,   /* a number above zero, or a string that is one */
	KIND_FLAG,	   /* 0, 1, true, false */
	KIND_INTEGER,  /* an integer, or a string of digits */
	KIND_LANGUAGE, /* "ru" or "en" */
	KIND_ADDRESS,  /* http:// or https:// */
	KIND_OBJECT
} Kind;

static const struct
{
	const char *name;
	Kind kind;
	bool is_signed;
	bool is_needed;
} parameters[] = {
	/* the signed ones in the order of their names, as they are signed */
	{"amount", KIND_AMOUNT, true, true},
	{"currency", KIND_STRING, true, true},
	{"order_id", KIND_STRING, true, true},
	{"shop_id", KIND_STRING, true, false}, /* tegro.shop_id */
	{"test", KIND_FLAG, true, false},
	{"fail_url", KIND_ADDRESS, false, false},
	{"fields", KIND_OBJECT, false, false},
	{"lang", KIND_LANGUAGE, false, false},
	{"notify_url", KIND_ADDRESS, false, false},
	{"payment_system", KIND_INTEGER, false, false},
	{"receipt", KIND_OBJECT, false, false},
	{"success_url", KIND_ADDRESS, false, false},
};

#define VALID_NAMES \
	"amount, currency, order_id, shop_id, test, fail_url, fields, lang, notify_url, payment_system, receipt, success_url"

static _Noreturn void
refuse(const char *name, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" of a payment link must be %s", name, what),
			 errhint("%s", hint)));
	pg_unreachable();
}

/* A number as PHP writes it; throws if it would lose a digit there. */
static char *
number_text(Numeric number)
{
	char *digits = DatumGetCString(
		DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
	size_t len = strlen(digits);
	char *out = palloc(len + 1);
	size_t out_len;

	if (tegro_query_number(digits, len, out, &out_len) != TEGRO_QUERY_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number %.60s can't be written into a payment link without loss", digits),
				 errdetail("PHP writes 14 digits of a number that is not whole."),
				 errhint("Give it as a string: \"%.60s\".", digits)));
	out[out_len] = '\0';
	return out;
}

/*
 * A scalar as http_build_query() writes it, in server encoding; NULL for null,
 * which it leaves out.
 */
static char *
scalar_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return number_text(value->val.numeric);
		case jbvBool:
			return pstrdup(value->val.boolean ? "1" : "0");
		default:
			return NULL;
	}
}

/* Appends "&name=value", encoded, to a query. */
static void
append_pair(StringInfo query, const char *name, const char *value)
{
	TegroQueryField field;
	char *out;
	size_t len;

	/* throws, as PostgreSQL does, for what UTF-8 doesn't have */
	field.name = pg_server_to_any(name, (int) strlen(name), PG_UTF8);
	field.name_len = strlen(field.name);
	field.value = pg_server_to_any(value, (int) strlen(value), PG_UTF8);
	field.value_len = strlen(field.value);

	out = palloc(tegro_query_room(&field, 1));
	len = tegro_query_write(&field, 1, out);
	if (query->len + len > MAX_URL_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("payment link is too long"),
				 errdetail("It would have more than %d bytes.", MAX_URL_LEN),
				 errhint("Make the order with tegro_create_order instead, which takes a receipt of any length.")));
	if (query->len > 0)
		appendStringInfoChar(query, '&');
	appendBinaryStringInfo(query, out, (int) len);
	pfree(out);
}

/* Appends all that an array or object holds, flat: "name[key][0]=value". */
static void
append_nested(StringInfo query, const char *name, JsonbContainer *container,
			  int level)
{
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue value;
	char *key = NULL;
	int index = 0;

	if (level > MAX_LEVELS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of a payment link is nested too deeply",
						tegro_error_excerpt(name, strlen(name), 60, NULL)),
				 errdetail("At most %d levels are written.", MAX_LEVELS)));
	CHECK_FOR_INTERRUPTS();

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char *inner;

		if (token == WJB_KEY)
		{
			key = pnstrdup(value.val.string.val, value.val.string.len);
			continue;
		}
		if (token != WJB_VALUE && token != WJB_ELEM)
			continue;
		inner = token == WJB_VALUE ? psprintf("%s[%s]", name, key)
								   : psprintf("%s[%d]", name, index++);
		if (value.type == jbvBinary)
			append_nested(query, inner, value.val.binary.data, level + 1);
		else
		{
			char *string = scalar_text(&value);

			if (string)
				append_pair(query, inner, string);
		}
	}
}

/* A parameter's text, checked; NULL where it is not given. */
static char *
parameter_text(Jsonb *params, int n)
{
	const char *name = parameters[n].name;
	JsonbValue value;
	char *string;
	const char *p;

	if (getKeyJsonValueFromContainer(&params->root, name, (int) strlen(name),
									 &value) == NULL ||
		value.type == jbvNull)
	{
		if (parameters[n].is_needed)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" is missing from the parameters of a payment link", name),
					 errhint("A link needs amount, currency and order_id.")));
		return NULL;
	}

	string = value.type == jbvBinary ? NULL : scalar_text(&value);
	switch (parameters[n].kind)
	{
		case KIND_STRING:
			if (string == NULL || value.type == jbvBool ||
				tegro_parameters_is_blank(string, strlen(string)))
				refuse(name, "a string that is not empty",
					   "A number is taken too.");
			if (strcmp(name, "order_id") == 0)
				tegro_api_check_reference(name, string);
			break;
		case KIND_AMOUNT:
			if (string == NULL || value.type == jbvBool ||
				!tegro_query_is_amount(string, strlen(string)) ||
				strspn(string, "0.") == strlen(string))
				refuse(name, "a number above zero",
					   "Write it as 100.50 or as \"100.50\".");
			break;
		case KIND_FLAG:
			if (string == NULL ||
				(strcmp(string, "0") != 0 && strcmp(string, "1") != 0))
				refuse(name, "0 or 1", "With 1, nothing is really paid.");
			/* no program signs test=0, so the provider may not expect it */
			if (*string == '0')
				return NULL;
			break;
		case KIND_INTEGER:
			if (string == NULL || *string == '\0' || value.type == jbvBool ||
				strspn(string, "0123456789") != strlen(string))
				refuse(name, "an integer",
					   "tegro_modules() lists the payment systems.");
			break;
		case KIND_LANGUAGE:
			if (string == NULL ||
				(strcmp(string, "ru") != 0 && strcmp(string, "en") != 0))
				refuse(name, "\"ru\" or \"en\"",
					   "Leave it out, and the provider chooses.");
			break;
		case KIND_ADDRESS:
			if (string == NULL || value.type != jbvString ||
				(pg_strncasecmp(string, "https://", 8) != 0 &&
				 pg_strncasecmp(string, "http://", 7) != 0))
				refuse(name, "an address",
					   "It begins with https:// or http://.");
			for (p = string; *p; p++)
			{
				if ((unsigned char) *p <= 0x20 || *p == 0x7f)
					refuse(name, "an address",
						   "It has no spaces and no control characters.");
			}
			break;
		case KIND_OBJECT:
			if (value.type != jbvBinary ||
				!JsonContainerIsObject(value.val.binary.data))
				refuse(name, "an object",
					   "Write it as {\"email\": ...}, or {\"items\": [...]}.");
			break;
	}
	return string;
}

/* Throws for a name that is no parameter. */
static void
check_names(Jsonb *params)
{
	JsonbIterator *iterator = JsonbIteratorInit(&params->root);
	JsonbIteratorToken token;
	JsonbValue key;

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		bool known = false;

		if (token != WJB_KEY)
			continue;
		for (int i = 0; i < lengthof(parameters) && !known; i++)
			known = strlen(parameters[i].name) == key.val.string.len &&
				memcmp(parameters[i].name, key.val.string.val,
					   key.val.string.len) == 0;
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("payment links have no parameter \"%s\"",
							tegro_error_excerpt(key.val.string.val, key.val.string.len, 60, NULL)),
					 errhint("Valid parameters are: %s.", VALID_NAMES)));
	}
}

/* The page for payments that belongs to the API's address. */
static char *
page_url(void)
{
	size_t len = strlen(tegro_api_url);

	if (len > 4 && pg_strcasecmp(tegro_api_url + len - 4, "/api") == 0)
		len -= 4;
	return psprintf("%.*s/pay/", (int) len, tegro_api_url);
}

/*
 * tegro_payment_url(params jsonb) returns text
 */
Datum
tegro_payment_url(PG_FUNCTION_ARGS)
{
	Jsonb *params = tegro_get_jsonb(fcinfo, 0, "params");
	const char *shop_id = NULL;
	const char *key;
	char *texts[lengthof(parameters)];
	char sign[TEGRO_MD5_LEN + 1];
	StringInfoData query;

	if (!JB_ROOT_IS_OBJECT(params))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameters must be a JSON object"),
				 errhint("Write them as '{\"name\": value, ...}'.")));
	check_names(params);

	initStringInfo(&query);
	for (int i = 0; i < lengthof(parameters); i++)
	{
		texts[i] = parameter_text(params, i);
		if (strcmp(parameters[i].name, "shop_id") == 0)
		{
			if (texts[i] == NULL)
				texts[i] = pstrdup(tegro_settings_shop_id());
			shop_id = texts[i];
		}
		if (parameters[i].is_signed && texts[i])
			append_pair(&query, parameters[i].name, texts[i]);
	}

	key = tegro_keys_secret(shop_id, GetUserId(), false);
	if (!tegro_signature_form(key, strlen(key), query.data, query.len, sign))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not sign the payment link"),
				 errhint("OpenSSL refused MD5; check its configuration.")));

	for (int i = 0; i < lengthof(parameters); i++)
	{
		const char *name = parameters[i].name;
		JsonbValue value;

		if (parameters[i].is_signed)
			continue;
		if (parameters[i].kind != KIND_OBJECT)
		{
			if (texts[i])
				append_pair(&query, name, texts[i]);
		}
		else if (getKeyJsonValueFromContainer(&params->root, name,
											  (int) strlen(name),
											  &value) != NULL &&
				 value.type == jbvBinary)
			append_nested(&query, name, value.val.binary.data, 1);
	}
	append_pair(&query, "sign", sign);
	/* behind what says more exactly how a link is written */
	tegro_parameters_check_amount(params);

	PG_RETURN_TEXT_P(
		cstring_to_text(psprintf("%s?%s", page_url(), query.data)));
}
