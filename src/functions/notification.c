/*-------------------------------------------------------------------------
 *
 * notification.c
 *		SQL functions that check and take notifications (webhooks).
 *
 * The provider POSTs a form to the shop's address when an order is paid.  Its
 * signature is the MD5 of all fields but "sign", written as PHP's ksort() and
 * http_build_query() do, with the shop's secret key behind them.
 *
 * Three ways lead here: the form as it came, the same as JSON, and its fields
 * as arguments, which is what PostgREST makes of a form.  All of them become
 * one list of names and values (query.c), and what is verified is what is
 * used: the fields are read from that very list.
 *
 * What a valid signature does not mean:
 *
 *	- That it is new.  It carries no time; see inbox.c.
 *	- That it is a notification.  A payment link is signed with the same key
 *	  in the same way, and every customer has one: its fields, posted here,
 *	  would say that he has paid.  A link's signature never covers
 *	  "payment_system", a notification's always does, so without that field
 *	  nothing is valid.
 *	- That it is the provider's, once the key has leaked.  So an order is
 *	  confirmed by asking the provider, and by nothing else.
 *
 * Whose key.  tegro_verify_notification() asks with the caller's.
 * tegro_notify() is for a role that may do nothing else, so it asks as the role
 * that registered the shop's callback, and a key that the session has set for
 * itself does not count: whoever brings the key can sign what he likes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "src/client/api.h"
#include "src/client/keys.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/outbox/inbox.h"
#include "src/format/query.h"
#include "src/functions/requests.h"
#include "src/base/settings.h"
#include "src/format/signature.h"

PG_FUNCTION_INFO_V1(tegro_verify_notification_text);
PG_FUNCTION_INFO_V1(tegro_verify_notification_jsonb);
PG_FUNCTION_INFO_V1(tegro_notify_text);
PG_FUNCTION_INFO_V1(tegro_notify_jsonb);
PG_FUNCTION_INFO_V1(tegro_notify_fields);
PG_FUNCTION_INFO_V1(tegro_on_payment);
PG_FUNCTION_INFO_V1(tegro_retry_notification);

/*
 * Longest form.  The provider's have some 300 bytes; what is larger is not
 * worth the work of looking at it, since anyone may send it.
 */
#define MAX_FORM_LEN (64 * 1024)

/*
 * Longest shop, status, currency or number of the provider's; the shop's own
 * number may be no longer where it is given out.
 */
#define MAX_KEY_LEN TEGRO_MAX_REFERENCE_LEN

/* Digits of an amount; more would be no money, and costs time to compare. */
#define MAX_AMOUNT_LEN 40

/* What came, decoded, in UTF-8. */
typedef struct Form
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	size_t nfields;
	bool valid; /* false: it can't be one of the provider's */
} Form;


/*
 * Reading.
 */

/*
 * The form as it came.  What is not ASCII is escaped in a form, so the server's
 * encoding does not matter here.
 */
static void
read_text(text *body, Form *form)
{
	size_t len = VARSIZE_ANY_EXHDR(body);
	char *bytes;

	form->valid = false;
	if (len > MAX_FORM_LEN)
		return;
	/* a copy, to be decoded in place */
	bytes = pnstrdup(VARDATA_ANY(body), len);
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) bytes[i] >= 0x80)
			return;
	}
	form->valid = tegro_query_read(bytes, len, form->fields, &form->nfields) ==
		TEGRO_QUERY_OK;
}

/* Server text in UTF-8; NULL if it is not text, as it may be in SQL_ASCII. */
static char *
to_utf8(const char *bytes, int len)
{
	char *copy = pnstrdup(bytes, len);

	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, copy, len, true) ? copy : NULL;
	return pg_server_to_any(copy, len, PG_UTF8);
}

/* Adds a field; name and value are the server's encoding. */
static void
add_field(Form *form, const char *name, int name_len, const char *value,
		  int value_len)
{
	TegroQueryField *field = &form->fields[form->nfields];

	if (form->nfields == TEGRO_QUERY_MAX_FIELDS ||
		(field->name = to_utf8(name, name_len)) == NULL ||
		(field->value = to_utf8(value, value_len)) == NULL)
	{
		form->valid = false;
		return;
	}
	field->name_len = strlen(field->name);
	field->value_len = strlen(field->value);
	form->nfields++;
}

/*
 * The fields of a JSON object, as PHP's http_build_query() would write their
 * values.  Names with brackets, arrays and objects are no field of a
 * notification's, and have lost their order in a jsonb.
 */
static void
read_jsonb(Jsonb *object, Form *form)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	JsonbValue key;

	form->nfields = 0;
	form->valid = JB_ROOT_IS_OBJECT(object) &&
		VARSIZE(object) - VARHDRSZ <= MAX_FORM_LEN;
	if (!form->valid)
		return;

	memset(&key, 0, sizeof(key));
	iterator = JsonbIteratorInit(&object->root);
	while (form->valid &&
		   (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char *digits;
		char *out;
		size_t len;

		if (token == WJB_KEY)
		{
			key = value;
			form->valid = memchr(key.val.string.val, '[',
								 key.val.string.len) == NULL;
		}
		if (token != WJB_VALUE)
			continue;
		switch (value.type)
		{
			case jbvNull:
				break; /* PHP leaves it out */
			case jbvString:
				add_field(form, key.val.string.val, key.val.string.len,
						  value.val.string.val, value.val.string.len);
				break;
			case jbvBool:
				add_field(form, key.val.string.val, key.val.string.len,
						  value.val.boolean ? "1" : "0", 1);
				break;
			case jbvNumeric:
				digits = DatumGetCString(
					DirectFunctionCall1(numeric_out,
										NumericGetDatum(value.val.numeric)));
				out = palloc(strlen(digits) + 1);
				form->valid = tegro_query_number(digits, strlen(digits), out,
												 &len) == TEGRO_QUERY_OK;
				if (form->valid)
					add_field(form, key.val.string.val, key.val.string.len,
							  out, (int) len);
				break;
			default:
				form->valid = false;
				break;
		}
	}
}


/*
 * Verifying.
 */

/* The value of a field, if it is there; not NUL-terminated. */
static const TegroQueryField *
get(const Form *form, const char *name)
{
	return tegro_query_find(form->fields, form->nfields, name);
}

/* A field's value in server encoding; throws for what it doesn't have. */
static char *
get_text(const Form *form, const char *name)
{
	const TegroQueryField *field = get(form, name);
	char *value;

	if (field == NULL)
		return NULL;
	value = pnstrdup(field->value, field->value_len);
	return pg_any_to_server(value, (int) field->value_len, PG_UTF8);
}

/*
 * Is it a form of the provider's, apart from the signature?  Then it is sorted
 * as it is signed, and *shop_id says whose.
 */
static bool
is_notification(Form *form, char **shop_id)
{
	static const char *const needed[] = {"amount", "currency", "order_id",
										 "payment_system", "shop_id"};
	const TegroQueryField *sign;

	if (!form->valid ||
		tegro_query_sort(form->fields, form->nfields) != TEGRO_QUERY_OK)
		return false;
	for (int i = 0; i < lengthof(needed); i++)
	{
		const TegroQueryField *field = get(form, needed[i]);

		if (field == NULL || field->value_len == 0)
			return false;
	}
	sign = get(form, "sign");
	if (sign == NULL || sign->value_len != TEGRO_MD5_LEN)
		return false;

	/* a public key is plain ASCII, so any server can hold it */
	*shop_id = pnstrdup(get(form, "shop_id")->value,
						get(form, "shop_id")->value_len);
	for (const char *p = *shop_id; *p; p++)
	{
		if ((unsigned char) *p <= 0x20 || (unsigned char) *p >= 0x7f)
			return false;
	}
	return true;
}

/* Is the signature of a sorted form over all its other fields? */
static bool
is_signed(const Form *form, const char *key)
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	size_t nfields = 0;
	const TegroQueryField *sign = get(form, "sign");
	char expected[TEGRO_MD5_LEN + 1];
	char *query;
	size_t len;

	for (size_t i = 0; i < form->nfields; i++)
	{
		if (&form->fields[i] != sign)
			fields[nfields++] = form->fields[i];
	}
	query = palloc(tegro_query_room(fields, nfields) + 1);
	len = tegro_query_write(fields, nfields, query);
	if (!tegro_signature_form(key, strlen(key), query, len, expected))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not check the signature of a notification"),
				 errhint("OpenSSL refused MD5; check its configuration.")));
	return tegro_signature_equal(sign->value, expected, TEGRO_MD5_LEN);
}

static bool
verify(Form *form)
{
	char *shop_id;

	return is_notification(form, &shop_id) &&
		is_signed(form, tegro_keys_secret(shop_id, GetUserId(), false));
}

/*
 * tegro_verify_notification(text) returns boolean
 */
Datum
tegro_verify_notification_text(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));

	tegro_require_argument(fcinfo, 0, "notification");
	read_text(PG_GETARG_TEXT_PP(0), form);
	PG_RETURN_BOOL(verify(form));
}

/*
 * tegro_verify_notification(jsonb) returns boolean
 */
Datum
tegro_verify_notification_jsonb(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));

	read_jsonb(tegro_get_jsonb(fcinfo, 0, "notification"), form);
	PG_RETURN_BOOL(verify(form));
}


/*
 * Taking.
 */

static _Noreturn void
refuse_field(const char *name, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" of a notification is not %s", name, what),
			 errdetail("Its signature is right; it was not recorded.")));
	pg_unreachable();
}

/* A field that becomes a key of the record. */
static char *
get_key(const Form *form, const char *name)
{
	char *value = get_text(form, name);

	if (value && strlen(value) > MAX_KEY_LEN)
		refuse_field(name, psprintf("at most %d bytes long", MAX_KEY_LEN));
	return value;
}

/* All fields but the signature, which nobody needs again. */
static Jsonb *
all_fields(const Form *form)
{
	TegroJsonbState params = tegro_begin_params();

	for (size_t i = 0; i < form->nfields; i++)
	{
		char *name = pnstrdup(form->fields[i].name, form->fields[i].name_len);
		char *value = pnstrdup(form->fields[i].value,
							   form->fields[i].value_len);

		if (strcmp(name, "sign") == 0)
			continue;
		name = pg_any_to_server(name, (int) form->fields[i].name_len, PG_UTF8);
		value = pg_any_to_server(value, (int) form->fields[i].value_len,
								 PG_UTF8);
		tegro_add_text_param(&params, name, cstring_to_text(value));
	}
	return tegro_finish_params(&params);
}

/* Makes a record of a verified form; throws for what can't be one. */
static void
fill(const Form *form, TegroNotification *notification)
{
	char *amount = get_text(form, "amount");
	char *test = get_text(form, "test");

	notification->shop_id = get_key(form, "shop_id");
	notification->order_id = get_key(form, "order_id");
	notification->currency = get_key(form, "currency");
	notification->payment_id = get_key(form, "payment_id");

	if (strlen(amount) > MAX_AMOUNT_LEN ||
		!tegro_query_is_amount(amount, strlen(amount)))
		refuse_field("amount", "an amount");
	notification->amount = DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(amount),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

	/* the documented notification has none, and tells of a payment */
	notification->status = get_key(form, "status");
	if (notification->status == NULL || *notification->status == '\0' ||
		pg_strcasecmp(notification->status, "paid") == 0)
		notification->status = TEGRO_STATUS_PAID;

	/* whatever it says: if it may be a test it is one */
	notification->test = test && *test != '\0' && strcmp(test, "0") != 0;
	notification->fields = all_fields(form);
}

static bool
notify(FunctionCallInfo fcinfo, Form *form)
{
	TegroLedger ledger = tegro_ledger_of_function(fcinfo->flinfo->fn_oid);
	TegroTarget target = {GetUserId(), NULL};
	TegroNotification notification;
	char *shop_id;

	if (is_notification(form, &shop_id))
	{
		(void) tegro_inbox_target(&ledger, shop_id, &target);
		if (is_signed(form, tegro_keys_secret(shop_id, target.role, true)))
		{
			fill(form, &notification);
			return tegro_inbox_record(&ledger, &notification, &target);
		}
	}
	/* of class 28, which PostgREST answers with 403 */
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("notification is not signed by the provider"),
			 errdetail("It was not recorded.")));
	pg_unreachable();
}

/*
 * tegro_notify(text) returns boolean
 */
Datum
tegro_notify_text(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));

	tegro_require_argument(fcinfo, 0, "notification");
	read_text(PG_GETARG_TEXT_PP(0), form);
	PG_RETURN_BOOL(notify(fcinfo, form));
}

/*
 * tegro_notify(jsonb) returns boolean
 */
Datum
tegro_notify_jsonb(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));

	read_jsonb(tegro_get_jsonb(fcinfo, 0, "notification"), form);
	PG_RETURN_BOOL(notify(fcinfo, form));
}

/*
 * tegro_notify(shop_id text, amount text, order_id text, payment_system text,
 *				currency text, sign text, test text, status text,
 *				payment_id text) returns boolean
 *
 * An argument that is NULL is a field that was not there.
 */
Datum
tegro_notify_fields(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"shop_id",	 "amount",
										"order_id",	 "payment_system",
										"currency",	 "sign",
										"test",		 "status",
										"payment_id"};
	Form *form = palloc0(sizeof(Form));

	form->valid = true;
	for (int i = 0; i < lengthof(names); i++)
	{
		text *value;

		if (PG_ARGISNULL(i))
			continue;
		value = PG_GETARG_TEXT_PP(i);
		if (VARSIZE_ANY_EXHDR(value) > MAX_FORM_LEN)
			form->valid = false;
		else
			add_field(form, names[i], (int) strlen(names[i]),
					  VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	}
	PG_RETURN_BOOL(notify(fcinfo, form));
}

/*
 * tegro_on_payment(callback regprocedure, shop_id text) returns void
 */
Datum
tegro_on_payment(PG_FUNCTION_ARGS)
{
	TegroLedger ledger = tegro_ledger_of_function(fcinfo->flinfo->fn_oid);
	char *callback = PG_ARGISNULL(0)
		? NULL
		: tegro_requests_callback_name(PG_GETARG_OID(0));
	const char *shop_id = PG_ARGISNULL(1)
		? tegro_settings_shop_id()
		: text_to_cstring(PG_GETARG_TEXT_PP(1));

	/* who has no key for the shop has no business with its payments */
	(void) tegro_keys_secret(shop_id, GetUserId(), true);
	if (!tegro_inbox_register(&ledger, shop_id, callback, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("payments of shop \"%s\" are another role's", shop_id),
				 errhint("Call this as a member of the role that registered the callback, or have it withdrawn with tegro_on_payment(NULL).")));
	PG_RETURN_VOID();
}

/*
 * tegro_retry_notification(id bigint) returns void
 */
Datum
tegro_retry_notification(PG_FUNCTION_ARGS)
{
	TegroLedger ledger = tegro_ledger_of_function(fcinfo->flinfo->fn_oid);
	int64 id;

	tegro_require_argument(fcinfo, 0, "id");
	id = PG_GETARG_INT64(0);
	if (tegro_inbox_retry(&ledger, id, GetUserId()))
		PG_RETURN_VOID();
	if (!tegro_inbox_sees(&ledger, id, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("notification " INT64_FORMAT " is not on record", id),
				 errdetail("Or it was taken for another role.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("there is nothing to be retried for notification " INT64_FORMAT, id),
			 errdetail("It is settled, or it differs from another one of its order, which no look-up can settle."),
			 errhint("Look at its state and message in tegro_notification.")));
	pg_unreachable();
}
