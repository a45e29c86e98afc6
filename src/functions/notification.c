/*-------------------------------------------------------------------------
 *
 * notification.c
 *		SQL functions that check and take notifications (webhooks).
 *
 * The provider POSTs a form to the shop's address when an order is paid.  Its
 * signature is the MD5 of all fields but "sign", written as PHP's ksort() and
 * http_build_query() do, with the shop's secret key behind them.
 *
 * There are two ways to bring one: its body as it came, urlencoded, multipart
 * or JSON (form.c, jsonform.c), and its fields as arguments, as PostgREST makes
 * them of a form.  Both become one list of names and values (query.c), and what
 * is verified is what is used: the fields are read from that very list.
 *
 * What a valid signature does not mean:
 *
 *	- That it is new.  It carries no time; see inbox.c.
 *	- That the provider sent it.  A payment link is signed with the same key in
 *	  the same way, and every customer has one.  The provider does not document
 *	  a field that only a notification has, so a link's fields are valid here.
 *	- That it is true, once the key has leaked.
 *
 * So a notification is a hint to look.  An order is confirmed by asking the
 * provider, and by nothing else.
 *
 * Whose key.  tegro_verify_notification() asks with the caller's.
 * tegro_notify() is for a role that may do nothing else, so it asks as the role
 * that registered the shop's callback, and a key that the session has set for
 * itself does not count: whoever brings the key can sign what he likes.
 *
 * One answer.  The caller may be anybody on the internet.  A wrong signature, a
 * shop that we do not have, a shop without a key and a credentials file that
 * can't be used give the same answer, after the same work: without a key, the
 * MD5 is made with another one.  Else anybody could find out which shops have
 * keys here.  The server's log has the cause.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "src/client/api.h"
#include "src/client/keys.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/outbox/inbox.h"
#include "src/format/form.h"
#include "src/format/query.h"
#include "src/functions/jsonform.h"
#include "src/functions/requests.h"
#include "src/base/settings.h"
#include "src/format/signature.h"

PG_FUNCTION_INFO_V1(tegro_verify_notification);
PG_FUNCTION_INFO_V1(tegro_notify_body);
PG_FUNCTION_INFO_V1(tegro_notify_fields);
PG_FUNCTION_INFO_V1(tegro_on_payment);
PG_FUNCTION_INFO_V1(tegro_retry_notification);

/*
 * Longest shop, status, currency or number of the provider's; the shop's own
 * number may be no longer where it is given out.
 */
#define MAX_KEY_LEN TEGRO_MAX_REFERENCE_LEN

/* Digits of an amount; more would be no money, and costs time to compare. */
#define MAX_AMOUNT_LEN 40

/* Bytes of a shop's public key that are shown in the log. */
#define MAX_SHOWN_LEN 64

/*
 * How often a process logs a notification that it did not verify, for each
 * cause, in ms.  Anybody can bring as many as he likes.
 */
#define LOG_INTERVAL_MS (60 * 1000)

/* Signs where there is no key; see "One answer" above. */
#define NO_KEY "no key, of a usual length"

/* What came, decoded, in UTF-8. */
typedef struct Form
{
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	size_t nfields;
	bool valid; /* false: it can't be one of the provider's */
} Form;

/* Why a notification is refused. */
typedef enum Cause
{
	CAUSE_NONE,
	CAUSE_FORM,		 /* it can't be one of the provider's */
	CAUSE_NO_KEY,	 /* no secret key for the shop */
	CAUSE_NO_KEYS,	 /* the credentials file can't be used */
	CAUSE_SIGNATURE, /* it is not signed with the shop's key */
} Cause;

typedef struct Verdict
{
	Cause cause;
	char *detail; /* for the log; NULL: CAUSE_NONE */
} Verdict;


/*
 * Reading.
 */

/* The body as it came, a text. */
static void
read_body(Datum datum, Form *form)
{
	text *body;
	char *utf8;
	TegroQueryStatus status;

	/* one that is stored compressed must not grow beyond the limit here */
	form->valid = false;
	if (toast_raw_datum_size(datum) - VARHDRSZ > TEGRO_FORM_MAX_LEN)
		return;
	body = DatumGetTextPP(datum);
	utf8 = tegro_to_utf8(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
	if (utf8 == NULL)
		return;
	status = tegro_form_read(utf8, strlen(utf8), form->fields, &form->nfields);
	form->valid = status == TEGRO_QUERY_IS_JSON
		? tegro_jsonform_read(text_to_cstring(body), VARSIZE_ANY_EXHDR(body),
							  form->fields, &form->nfields)
		: status == TEGRO_QUERY_OK;
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
										 "shop_id"};
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

/*
 * The secret key of a shop that a stranger named; NULL, and why, if there is
 * none.  A file that can't be used is an error to everybody else.
 */
static const char *
find_key(const char *shop_id, Oid role, bool trusted, Verdict *verdict)
{
	MemoryContext context = CurrentMemoryContext;
	const char *volatile key = NULL;
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		key = tegro_keys_find_secret(shop_id, role, trusted);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != TEGRO_ERRCODE_MISCONFIGURED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();

	if (error)
	{
		verdict->cause = CAUSE_NO_KEYS;
		verdict->detail = psprintf("%s: %s", error->message,
								   error->detail_log ? error->detail_log
													 : error->detail);
	}
	else if (key == NULL)
		verdict->cause = CAUSE_NO_KEY;
	return key;
}

/*
 * Is a notification, sorted by is_notification(), signed with the shop's key,
 * as "role" has it?
 */
static Verdict
check_signature(const Form *form, const char *shop_id, Oid role, bool trusted)
{
	Verdict verdict = {CAUSE_NONE, NULL};
	const char *key = find_key(shop_id, role, trusted, &verdict);
	bool is_right = is_signed(form, key ? key : NO_KEY);
	const char *role_name = GetUserNameFromId(role, true);
	const char *shown = tegro_error_excerpt(shop_id, strlen(shop_id),
											MAX_SHOWN_LEN, NULL);

	if (verdict.cause == CAUSE_NONE && !is_right)
		verdict.cause = CAUSE_SIGNATURE;
	if (verdict.cause == CAUSE_NO_KEY)
		verdict.detail =
			psprintf("There is no secret key for shop \"%s\" and role \"%s\".",
					 shown, role_name ? role_name : "-");
	else if (verdict.cause == CAUSE_SIGNATURE)
		verdict.detail = psprintf("The signature is not that of shop \"%s\".",
								  shown);
	return verdict;
}

/* Tells the administrator, but not the caller, why verifying failed. */
static void
log_refusal(const Verdict *verdict)
{
	static TimestampTz logged_at[CAUSE_SIGNATURE + 1];
	TimestampTz now = GetCurrentTimestamp();

	if (now >= logged_at[verdict->cause] &&
		!TimestampDifferenceExceeds(logged_at[verdict->cause], now,
									LOG_INTERVAL_MS))
		return;
	logged_at[verdict->cause] = now;
	/* LOG would reach a client that asks for it by client_min_messages */
	ereport(LOG_SERVER_ONLY,
			(errmsg("notification was not verified"),
			 errdetail_internal("%s", verdict->detail),
			 errhidestmt(true),
			 errhidecontext(true)));
}

/*
 * tegro_verify_notification(text) returns boolean
 */
Datum
tegro_verify_notification(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));
	Verdict verdict;
	char *shop_id;

	tegro_require_argument(fcinfo, 0, "notification");
	read_body(PG_GETARG_DATUM(0), form);
	if (!is_notification(form, &shop_id))
		PG_RETURN_BOOL(false);
	verdict = check_signature(form, shop_id, GetUserId(), false);
	if (verdict.cause != CAUSE_NONE)
		log_refusal(&verdict);
	PG_RETURN_BOOL(verdict.cause == CAUSE_NONE);
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
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	TegroTarget target = {GetUserId(), NULL};
	Verdict verdict = {CAUSE_FORM, "It is not a notification."};
	TegroNotification notification;
	char *shop_id;

	if (is_notification(form, &shop_id))
	{
		(void) tegro_inbox_target(&store, shop_id, &target);
		verdict = check_signature(form, shop_id, target.role, true);
	}
	/* of class 28, which PostgREST answers with 403 */
	if (verdict.cause != CAUSE_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("notification is not signed by the provider"),
				 errdetail("It was not recorded."),
				 errdetail_log("It was not recorded.  %s", verdict.detail)));

	fill(form, &notification);
	return tegro_inbox_record(&store, &notification, &target);
}

/*
 * tegro_notify(text) returns boolean
 */
Datum
tegro_notify_body(PG_FUNCTION_ARGS)
{
	Form *form = palloc0(sizeof(Form));

	tegro_require_argument(fcinfo, 0, "notification");
	read_body(PG_GETARG_DATUM(0), form);
	PG_RETURN_BOOL(notify(fcinfo, form));
}

/*
 * tegro_notify(shop_id text, amount text, order_id text, currency text,
 *				sign text, payment_system text, test text, status text,
 *				payment_id text) returns boolean
 *
 * An argument that is NULL is a field that was not there.
 */
Datum
tegro_notify_fields(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"shop_id",	"amount", "order_id",
										"currency", "sign",	  "payment_system",
										"test",		"status", "payment_id"};
	Form *form = palloc0(sizeof(Form));

	form->valid = true;
	for (int i = 0; i < lengthof(names) && form->valid; i++)
	{
		TegroQueryField *field = &form->fields[form->nfields];
		text *value;

		if (PG_ARGISNULL(i))
			continue;
		field->name = names[i];
		field->name_len = strlen(names[i]);
		form->valid = toast_raw_datum_size(PG_GETARG_DATUM(i)) - VARHDRSZ <=
			TEGRO_QUERY_MAX_VALUE_LEN;
		if (!form->valid)
			break;
		value = PG_GETARG_TEXT_PP(i);
		field->value = tegro_to_utf8(VARDATA_ANY(value),
									 VARSIZE_ANY_EXHDR(value));
		form->valid = field->value != NULL;
		field->value_len = form->valid ? strlen(field->value) : 0;
		form->nfields++;
	}
	PG_RETURN_BOOL(notify(fcinfo, form));
}

/*
 * tegro_on_payment(callback regprocedure, shop_id text) returns void
 */
Datum
tegro_on_payment(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	char *callback = PG_ARGISNULL(0)
		? NULL
		: tegro_requests_callback_name(PG_GETARG_OID(0));
	const char *shop_id = PG_ARGISNULL(1)
		? tegro_settings_shop_id()
		: text_to_cstring(PG_GETARG_TEXT_PP(1));

	/* who has no key for the shop has no business with its payments */
	(void) tegro_keys_secret(shop_id, GetUserId(), true);
	if (!tegro_inbox_register(&store, shop_id, callback, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("payments of shop \"%s\" are another role's",
						tegro_error_for_client(shop_id)),
				 errhint("Call this as a member of the role that registered the callback, or have it withdrawn with tegro_on_payment(NULL).")));
	PG_RETURN_VOID();
}

/*
 * tegro_retry_notification(id bigint) returns void
 */
Datum
tegro_retry_notification(PG_FUNCTION_ARGS)
{
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	int64 id;

	tegro_require_argument(fcinfo, 0, "id");
	id = PG_GETARG_INT64(0);
	if (tegro_inbox_retry(&store, id, GetUserId()))
		PG_RETURN_VOID();
	if (!tegro_inbox_sees(&store, id, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("notification " INT64_FORMAT " is not on record", id),
				 errdetail("Or it was taken for another role.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("there is nothing to be retried for notification " INT64_FORMAT, id),
			 errdetail("It is settled, or it differs from another one of its order, which no lookup can settle."),
			 errhint("Look at its state and message in tegro_notification.")));
	pg_unreachable();
}
