/*-------------------------------------------------------------------------
 *
 * api.c
 *		Calls of the API's methods: build, sign, send, read, judge.
 *
 * Vocabulary.  A *method* is one of the provider's ("createOrder").  A *call*
 * asks for one with parameters, for a shop.  An *exchange* (transport.h) is
 * one request of it and the answer; a call that is repeated has several, each
 * with a nonce of its own.  The *outcome* is how the call ended.
 *
 * When is a call repeated?  Only while that can do no harm, at most
 * tegro.read_retries times, and within tegro.timeout:
 *
 *	- any call, if certainly nothing of its request was written;
 *	- a call that only reads, also after a lost connection, an answer of HTTP
 *	  5xx, or "too many requests".
 *
 * What may have changed something is never sent again.  If the process dies
 * here, at any line: before tegro_exchange_start() nothing was sent; after it
 * the request may have taken effect, and nothing records it.  So orders made
 * in this way are for callers who can look them up, and payouts don't come
 * this way at all.
 *
 * How is an answer judged?  See judge(); the order of its questions matters.
 * When in doubt whether something took effect, the outcome is "unknown".
 *
 * Hazard: a call's envelope and texts live in a memory context of its own,
 * which goes when the call is handed over; whoever keeps them copies them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "src/client/answer.h"
#include "src/client/api.h"
#include "src/format/body.h"
#include "src/client/nonce.h"
#include "src/base/settings.h"
#include "src/client/keys.h"
#include "src/client/method.h"
#include "src/client/parameters.h"
#include "src/client/stats.h"

/*
 * Largest parameters, as JSON text.  A receipt with a thousand items has some
 * 100 kB; what is larger is a mistake that would be sent, and held in memory
 * several times over.
 */
#define MAX_PARAMS_LEN (16 * 1024 * 1024)

/* The first wait before a repeat; it doubles, and varies by half around that. */
#define FIRST_BACKOFF_MS 100

/* Longest "desc" that is shown. */
#define MAX_DESC_LEN 500

/* A call's own keys. */
typedef struct KeptKeys
{
	MemoryContextCallback on_reset;
	Size len;
	char bytes[FLEXIBLE_ARRAY_MEMBER]; /* each with its NUL */
} KeptKeys;

struct TegroCallState
{
	/* prepared */
	TegroKeys keys;	 /* api_key is NULL: not to be signed */
	char *shop_json; /* shop_id as the body holds it */
	char *rest;		 /* the other parameters, "{...}" in PHP's form */
	size_t rest_len;

	/* running */
	MemoryContext context; /* all of what follows; NULL: not begun */
	TegroExchange *exchange;
	bool in_flight;
	int64 begun_us; /* tegro_clock_us() at the first request */
	int64 next_us;	/* when to send again, if not in flight */
};


/*
 * Preparing.
 */

/*
 * JSON text in PHP's form, in UTF-8 and NUL-terminated; throws if it can't be
 * had.
 */
static char *
to_php(char *json, size_t *out_len)
{
	size_t len = strlen(json);
	char *utf8;
	char *out;
	size_t fault;
	size_t fault_len;

	if (len > MAX_PARAMS_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("parameters are too large"),
				 errdetail("They take %zu bytes; at most %d are sent.", len, MAX_PARAMS_LEN)));

	/* throws, as PostgreSQL does, for what UTF-8 doesn't have */
	utf8 = pg_server_to_any(json, (int) len, PG_UTF8);
	len = strlen(utf8);
	out = palloc_extended(TEGRO_BODY_BOUND(len) + 1, MCXT_ALLOC_HUGE);

	switch (tegro_body_write(utf8, len, out, out_len, &fault, &fault_len))
	{
		case TEGRO_BODY_OK:
			break;
		case TEGRO_BODY_LOSES_DIGITS:
			{
				int shown = (int) Min(fault_len, 60);

				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("number %.*s%s would lose digits",
								shown, utf8 + fault, shown < fault_len ? "..." : ""),
						 errdetail("The provider reads numbers as 64-bit integers or double precision, which can't hold it."),
						 errhint("Send it as a string: \"%.*s%s\".",
								 shown, utf8 + fault, shown < fault_len ? "..." : "")));
			}
			break;
		case TEGRO_BODY_TOO_DEEP:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("parameters are nested too deeply"),
					 errdetail("The provider reads at most %d levels.", TEGRO_BODY_MAX_DEPTH)));
			break;
		case TEGRO_BODY_NOT_UTF8:
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("parameters contain bytes that are not UTF-8 text")));
			break;
		case TEGRO_BODY_NOT_JSON:
			elog(ERROR, "unexpected JSON at byte %zu", fault);
			break;
	}
	Assert(*out_len <= TEGRO_BODY_BOUND(len));
	out[*out_len] = '\0';

	/* the bound is generous, and a batch keeps many of these */
	return repalloc(out, *out_len + 1);
}

static JsonbValue *
get_param(Jsonb *params, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(&params->root, name,
										(int) strlen(name), value);
}

static Jsonb *
without_param(Jsonb *params, const char *name)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete,
											  JsonbPGetDatum(params),
											  CStringGetTextDatum(name)));
}

/* The shop's own number among the parameters, as text; throws if it is none. */
static char *
get_reference(Jsonb *params, const TegroMethod *method)
{
	JsonbValue value;
	char *reference = NULL;

	if (get_param(params, method->reference, &value) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is missing from the parameters", method->reference),
				 errdetail("Without it, what %s did could not be looked up.", method->name),
				 errhint("Give the shop's own number, a string that is not empty, or a number.")));
	if (value.type == jbvString &&
		!tegro_parameters_is_blank(value.val.string.val, value.val.string.len))
		reference = pnstrdup(value.val.string.val, value.val.string.len);
	else if (value.type == jbvNumeric)
	{
		/* 7 and 7.0 are sent as the same number */
		Datum number = DirectFunctionCall1(numeric_trim_scale,
										   NumericGetDatum(value.val.numeric));

		reference = DatumGetCString(DirectFunctionCall1(numeric_out, number));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a string that is not empty, or a number", method->reference),
				 errhint("Give the shop's own number, by which it is looked up what %s did.",
						 method->name)));
	tegro_api_check_reference(method->reference, reference);
	return reference;
}

void
tegro_api_check_reference(const char *name, const char *reference)
{
	if (strlen(reference) > TEGRO_MAX_REFERENCE_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is longer than %d bytes", name, TEGRO_MAX_REFERENCE_LEN)));
}

static void
wipe_keys(void *arg)
{
	KeptKeys *keys = arg;

	explicit_bzero(keys->bytes, keys->len);
}

/*
 * A call has keys of its own, wiped when its memory goes: a SET or a reload
 * may come before it is done, and they sign repeats, and mask what is shown.
 */
static void
keep_keys(struct TegroCallState *state, TegroKeys keys)
{
	Size api_size = strlen(keys.api_key) + 1;
	Size secret_size = strlen(keys.secret_key) + 1;
	KeptKeys *kept = palloc(offsetof(KeptKeys, bytes) + api_size +
							secret_size);

	/* one that is never reset would never wipe them */
	Assert(CurrentMemoryContext != TopMemoryContext);
	kept->len = api_size + secret_size;
	kept->on_reset.func = wipe_keys;
	kept->on_reset.arg = kept;
	memcpy(kept->bytes, keys.api_key, api_size);
	memcpy(kept->bytes + api_size, keys.secret_key, secret_size);
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &kept->on_reset);
	state->keys.api_key = kept->bytes;
	state->keys.secret_key = kept->bytes + api_size;
}

void
tegro_api_share_keys(TegroCall *call, const TegroCall *other)
{
	Assert(call->state->keys.api_key == NULL && other->state->keys.api_key);
	Assert(strcmp(call->shop_id, other->shop_id) == 0);
	call->state->keys = other->state->keys;
}

/* shop_id as the body holds it */
static const char *
shop_json(const TegroCall *call)
{
	struct TegroCallState *state = call->state;

	if (state->shop_json == NULL)
	{
		StringInfoData json;
		size_t len;

		initStringInfo(&json);
		escape_json(&json, call->shop_id);
		state->shop_json = to_php(json.data, &len);
	}
	return state->shop_json;
}

/*
 * Begins a body: all before the nonce, and all between it and the parameters,
 * are these.
 */
#define BODY_BEGIN "{\"nonce\":"
#define BODY_SHOP  ",\"shop_id\":"

/* Digits of the nonces that are sent. */
#define NONCE_LEN 16

/*
 * Refuses a body that is larger than a request of this provider can be.  What
 * is in the outbox already is not asked: it was let in under another limit.
 */
static void
check_size(const TegroCall *call)
{
	size_t size = strlen(BODY_BEGIN) + NONCE_LEN + strlen(BODY_SHOP) +
		strlen(shop_json(call)) + call->state->rest_len;

	if (size > (size_t) tegro_max_request_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("request is too large"),
				 errdetail("Its body has %zu bytes; tegro.max_request_size allows %d kB.",
						   size, tegro_max_request_size)));
}

TegroCall *
tegro_api_prepare(const char *method, Jsonb *params, Oid role)
{
	TegroCall *call = tegro_api_prepare_for_shop(method, params, NULL, role);

	tegro_parameters_check(call->method, call->params);
	check_size(call);
	return call;
}

TegroCall *
tegro_api_prepare_for_shop(const char *method, Jsonb *params,
						   const char *shop_id, Oid role)
{
	TegroCall *call = palloc0(sizeof(TegroCall));
	struct TegroCallState *state = palloc0(sizeof(struct TegroCallState));
	JsonbValue value;

	call->state = state;
	call->method = tegro_method_find(method);

	if (!JB_ROOT_IS_OBJECT(params))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameters must be a JSON object"),
				 errhint("Write them as '{\"name\": value, ...}'.")));
	/*
	 * A provider that wants nonces to rise would take no request of the shop
	 * after one with the greatest.
	 */
	if (get_param(params, "nonce", &value) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"nonce\" cannot be given as a parameter"),
				 errhint("Leave it out: each request gets a nonce that has not been used before.")));

	if (shop_id)
		call->shop_id = pstrdup(shop_id);
	else if (get_param(params, "shop_id", &value) != NULL)
	{
		if (value.type != jbvString || value.val.string.len == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"shop_id\" must be a string"),
					 errhint("Give the shop's public key, or leave it out to use tegro.shop_id.")));
		call->shop_id = pnstrdup(value.val.string.val, value.val.string.len);
		params = without_param(params, "shop_id");
	}
	else
		call->shop_id = pstrdup(tegro_settings_shop_id());

	if (call->method->reference)
		call->reference = get_reference(params, call->method);

	if (OidIsValid(role))
	{
		keep_keys(state, tegro_keys_find(call->shop_id, role));
		call->key_mark = tegro_keys_mark(state->keys.api_key);
	}

	call->params = params;
	state->rest = to_php(JsonbToCString(NULL, &params->root, VARSIZE(params)),
						 &state->rest_len);
	Assert(state->rest_len >= 2 && state->rest[0] == '{' &&
		   state->rest[state->rest_len - 1] == '}');
	Assert(call->reference || call->method->reference == NULL);
	return call;
}


/*
 * Sending.
 */

TegroRequest
tegro_api_build(TegroCall *call)
{
	struct TegroCallState *state = call->state;
	TegroRequest request;
	StringInfoData body;

	Assert(state->rest != NULL);
	request.url = psprintf("%s/%s/", tegro_api_url, call->method->name);
	request.nonce = tegro_nonce_next();

	initStringInfo(&body);
	appendStringInfo(&body, BODY_BEGIN INT64_FORMAT BODY_SHOP "%s",
					 request.nonce, shop_json(call));
	/* "rest" is an object: its brace becomes a comma, if anything follows */
	if (state->rest_len > 2)
		appendStringInfoChar(&body, ',');
	appendBinaryStringInfo(&body, state->rest + 1, (int) state->rest_len - 1);
	request.body = body.data;
	request.body_len = body.len;

	request.signature = NULL;
	if (state->keys.api_key)
	{
		char *signature = palloc(TEGRO_SIGNATURE_LEN + 1);

		if (!tegro_signature_request(state->keys.api_key,
									 strlen(state->keys.api_key), request.body,
									 request.body_len, signature))
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("could not sign the request"),
					 errhint("OpenSSL refused HMAC-SHA256; check its configuration.")));
		request.signature = signature;
	}
	return request;
}

/* Milliseconds that a call that was begun still has. */
static int64
left_ms(TegroCall *call)
{
	return tegro_timeout - (tegro_clock_us() - call->state->begun_us) / 1000;
}

void
tegro_api_send(TegroCall *call, const TegroRequest *request, int timeout_ms,
			   int64 send_before_us)
{
	struct TegroCallState *state = call->state;
	TegroExchange *exchange = state->exchange;

	tegro_refuse_in_binary_upgrade();
	if (request->signature == NULL)
		elog(ERROR, "request to be sent is not signed");
	Assert(request->body_len > 0 && request->body[request->body_len] == '\0');
	Assert(timeout_ms > 0 && send_before_us >= 0);
	/* a call has one request on its way */
	Assert(exchange == NULL || exchange->end != TEGRO_EXCHANGE_OPEN);
	if (exchange == NULL)
		exchange = state->exchange = tegro_exchange_create();
	exchange->request.url = request->url;
	exchange->request.body = request->body;
	exchange->request.body_len = request->body_len;
	strlcpy(exchange->request.signature, request->signature,
			sizeof(exchange->request.signature));
	exchange->request.connect_timeout_ms = Min(tegro_connect_timeout,
											   tegro_timeout);
	exchange->request.timeout_ms = timeout_ms;
	exchange->request.send_before_us = send_before_us;
	exchange->request.answer_max = (size_t) tegro_max_answer_size * 1024;

	call->attempts++;
	tegro_exchange_start(exchange);
}

const TegroExchange *
tegro_api_exchange(const TegroCall *call)
{
	return call->state->exchange;
}

/* Sends a call's request, for the first time or, for advance(), again. */
void
tegro_api_begin(TegroCall *call)
{
	struct TegroCallState *state = call->state;
	MemoryContext old;
	TegroRequest request;

	/* it would be on record nowhere: see payout.c */
	if (call->method->effect == TEGRO_PAYS_OUT)
		elog(ERROR, "payout is to be sent past the outbox");
	Assert(!state->in_flight && !call->done);
	/* what may have changed something is not sent again */
	Assert(call->attempts == 0 || call->method->effect == TEGRO_READS ||
		   call->state->exchange->end == TEGRO_EXCHANGE_NOT_SENT);
	if (state->context == NULL)
	{
		state->context = AllocSetContextCreate(CurrentMemoryContext,
											   "tegro call",
											   ALLOCSET_DEFAULT_SIZES);
		state->begun_us = tegro_clock_us();
	}

	old = MemoryContextSwitchTo(state->context);
	request = tegro_api_build(call);
	tegro_api_send(call, &request, (int) Max(left_ms(call), 1), 0);
	state->in_flight = true;
	MemoryContextSwitchTo(old);
}


/*
 * Judging.
 */

/* "HTTP 200; name lookup 0.1 ms, connection 0.3 ms, ...", for a detail. */
static char *
describe_exchange(TegroCall *call)
{
	const TegroExchange *exchange = call->state->exchange;
	StringInfoData out;

	initStringInfo(&out);
	if (exchange->http_status > 0)
		appendStringInfo(&out, "HTTP %d; ", exchange->http_status);
	if (exchange->kept_alive)
		appendStringInfoString(&out, "connection kept alive, ");
	else if (exchange->name_lookup_us > 0)
		appendStringInfo(&out, "name lookup %.1f ms, ",
						 exchange->name_lookup_us / 1000.0);
	if (exchange->connect_us > 0 && !exchange->kept_alive)
		appendStringInfo(&out, "connection %.1f ms, ",
						 exchange->connect_us / 1000.0);
	if (exchange->tls_us > 0 && !exchange->kept_alive)
		appendStringInfo(&out, "TLS %.1f ms, ", exchange->tls_us / 1000.0);
	if (exchange->first_byte_us > 0)
		appendStringInfo(&out, "first byte %.1f ms, ",
						 exchange->first_byte_us / 1000.0);
	appendStringInfo(&out, "total %.1f ms", exchange->total_us / 1000.0);
	if (call->attempts > 1)
		appendStringInfo(&out, "; attempt %d", call->attempts);
	return out.data;
}

/* What to do about an outcome that is not known. */
static const char *
unknown_hint(TegroCall *call)
{
	if (call->method->lookup)
		return psprintf("It may have taken effect. Look it up with %s(payment_id => %s) before you repeat it.",
						call->method->lookup,
						quote_literal_cstr(call->reference));
	return "It may have taken effect. Find out before you repeat it.";
}

/* Does a refusal say that there were too many requests? */
static bool
is_about_rate(const char *desc)
{
	char *lower = asc_tolower(desc, strlen(desc));

	return strstr(lower, "too many requests") != NULL ||
		strstr(lower, "rate limit") != NULL;
}

/* An answer that is none, or none that can be trusted. */
static void
judge_useless(TegroCall *call, const char *why, const TegroSecrets *secrets)
{
	const TegroExchange *exchange = call->state->exchange;
	TegroOutcome *outcome = &call->outcome;
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "%s (%s)", why, describe_exchange(call));
	if (exchange->answer_len > 0)
		appendStringInfo(&detail, " The answer begins: %s",
						 tegro_error_excerpt(exchange->answer,
											 exchange->answer_len,
											 TEGRO_EXCERPT_LEN, secrets));
	outcome->detail = detail.data;

	if (call->method->effect == TEGRO_READS)
	{
		outcome->result = TEGRO_UNREADABLE;
		outcome->message = psprintf("could not read the answer to %s",
									call->method->name);
		if (exchange->fault == TEGRO_FAULT_TOO_LARGE)
			outcome->hint =
				"Raise tegro.max_answer_size if answers of this size are expected.";
		else if (exchange->http_status == 403)
			outcome->hint =
				"The provider's gateway turned the request away: check tegro.user_agent, and whether this server's address is allowed.";
		else
			outcome->hint =
				"Nothing was changed; it is safe to repeat this call.";
	}
	else
	{
		outcome->result = TEGRO_UNKNOWN;
		outcome->message = psprintf("the outcome of %s is unknown",
									call->method->name);
		outcome->hint = unknown_hint(call);
		if (exchange->http_status == 403)
			outcome->hint =
				psprintf("%s The provider's gateway may have turned it away: check tegro.user_agent, and whether this server's address is allowed.",
						 outcome->hint);
	}
}

/*
 * libcurl's words about what failed.  They can quote the other side, with the
 * name in its certificate, say.
 */
static char *
excerpt_problem(const TegroExchange *exchange, const TegroSecrets *secrets)
{
	return tegro_error_excerpt(exchange->problem, strlen(exchange->problem),
							   sizeof(exchange->problem), secrets);
}

/* The request was certainly not sent. */
static void
judge_not_sent(TegroCall *call, const TegroSecrets *secrets)
{
	const TegroExchange *exchange = call->state->exchange;
	TegroOutcome *outcome = &call->outcome;

	outcome->message = exchange->fault == TEGRO_FAULT_SETTING
		? "could not use the settings for the Tegro API"
		: "could not reach the Tegro API";
	outcome->detail = psprintf("%s, %s; nothing was sent. (%s)",
							   excerpt_problem(exchange, secrets),
							   tegro_exchange_phase(exchange),
							   describe_exchange(call));
	switch (exchange->fault)
	{
		case TEGRO_FAULT_SETTING:
			outcome->result = TEGRO_MISCONFIGURED;
			outcome->hint =
				"Check tegro.api_url, tegro.ca_file and tegro.proxy.";
			break;
		case TEGRO_FAULT_CERTIFICATE:
			outcome->result = TEGRO_NOT_SENT;
			outcome->hint =
				"Whoever answers could not prove to be the provider. Check tegro.api_url, the system's certificate authorities (or tegro.ca_file) and its clock.";
			break;
		default:
			outcome->result = TEGRO_NOT_SENT;
			outcome->hint = "It is safe to repeat this call.";
			break;
	}
}

static bool
judge(TegroCall *call)
{
	const TegroExchange *exchange = call->state->exchange;
	TegroOutcome *outcome = &call->outcome;
	bool reads = call->method->effect == TEGRO_READS;
	TegroSecrets secrets = {{call->state->keys.api_key,
							 call->state->keys.secret_key,
							 exchange->request.signature}};
	TegroAnswer answer;

	memset(outcome, 0, sizeof(*outcome));
	outcome->desc = "";
	outcome->unauthorized = exchange->http_status == 401 ||
		exchange->http_status == 403;
	call->envelope = NULL;

	if (exchange->end == TEGRO_EXCHANGE_NOT_SENT)
	{
		judge_not_sent(call, &secrets);
		return exchange->fault == TEGRO_FAULT_NETWORK;
	}

	if (exchange->end == TEGRO_EXCHANGE_BROKEN)
	{
		judge_useless(call,
					  psprintf("%s, %s.", excerpt_problem(exchange, &secrets),
							   tegro_exchange_phase(exchange)),
					  &secrets);
		return reads && exchange->fault == TEGRO_FAULT_NETWORK;
	}

	tegro_answer_read(exchange->answer, exchange->answer_len, &answer);

	/* 429 comes from a gateway as often as from the provider: any body will do */
	if ((exchange->http_status == 429 &&
		 answer.kind != TEGRO_ANSWER_SUCCESS) ||
		(answer.kind == TEGRO_ANSWER_REFUSAL && exchange->http_status < 500 &&
		 is_about_rate(answer.desc)))
	{
		outcome->result = TEGRO_RATE_LIMITED;
		outcome->message = "Tegro accepts no more requests for now";
		outcome->detail = exchange->retry_after_s > 0
			? psprintf("It asks to wait " INT64_FORMAT " s. (%s)",
					   exchange->retry_after_s, describe_exchange(call))
			: psprintf("It does not say for how long. (%s)",
					   describe_exchange(call));
		outcome->hint =
			"It did not act on the request. Wait, then repeat it; ask for less at once.";
		return reads;
	}

	/*
	 * An HTTP 5xx says that the provider stumbled, perhaps half-way: what it
	 * says in the body, be it "error" or "success", is not to be trusted.
	 */
	if (answer.kind == TEGRO_ANSWER_REFUSAL && exchange->http_status < 500)
	{
		const char *desc = tegro_error_excerpt(answer.desc,
											   strlen(answer.desc),
											   MAX_DESC_LEN, &secrets);

		outcome->result = TEGRO_REFUSED;
		outcome->message = psprintf("Tegro refused %s", call->method->name);
		outcome->detail = *desc
			? psprintf("It says: \"%s\". (%s)", desc, describe_exchange(call))
			: psprintf("It gives no reason. (%s)", describe_exchange(call));
		outcome->desc = answer.desc;
		if (strstr(answer.desc, "uthoriz") != NULL)
			outcome->unauthorized = true;
		if (outcome->unauthorized)
			outcome->hint =
				psprintf("Check that the API key is the one of shop \"%s\".",
						 call->shop_id);
		return false;
	}

	/* some say so that there is no such thing, and not by an error */
	if (answer.no_data && call->method->finds_one &&
		exchange->http_status >= 200 && exchange->http_status <= 299)
	{
		outcome->result = TEGRO_REFUSED;
		outcome->found_nothing = true;
		outcome->message = psprintf("Tegro refused %s", call->method->name);
		outcome->detail = psprintf("It found nothing. (%s)",
								   describe_exchange(call));
		return false;
	}

	if (answer.kind == TEGRO_ANSWER_SUCCESS && exchange->http_status >= 200 &&
		exchange->http_status <= 299)
	{
		outcome->result = TEGRO_ANSWERED;
		call->envelope = answer.envelope;
		return false;
	}

	judge_useless(call,
				  answer.kind == TEGRO_ANSWER_UNREADABLE
					  ? answer.why
					  : psprintf("It says \"%s\", but with HTTP status %d.",
								 answer.kind == TEGRO_ANSWER_SUCCESS
									 ? "success"
									 : "error",
								 exchange->http_status),
				  &secrets);
	return reads && exchange->http_status >= 500;
}

bool
tegro_api_judge(TegroCall *call)
{
	bool may_repeat;

	Assert(call->state->exchange->end != TEGRO_EXCHANGE_OPEN);
	may_repeat = judge(call);
	Assert((call->outcome.result == TEGRO_ANSWERED) ==
		   (call->envelope != NULL));
	Assert(call->envelope || call->outcome.message);
	Assert(call->outcome.desc != NULL);
	/* the rule that no payment is made twice by us */
	Assert(!may_repeat || call->method->effect == TEGRO_READS ||
		   call->state->exchange->end == TEGRO_EXCHANGE_NOT_SENT);
	tegro_stats_count(tegro_method_number(call->method), call->state->exchange,
					  call->outcome.result, call->attempts > 1);
	return may_repeat;
}

/*
 * Moves a call on, if there is anything to do for it: judges an exchange that
 * ended, sends again what waited long enough.  Returns true once it is done.
 *
 * wait_ms: lowered to the time after which it wants to be moved again.
 */
static bool
advance(TegroCall *call, long *wait_ms)
{
	struct TegroCallState *state = call->state;

	Assert(state->context != NULL);
	Assert(call->attempts > 0);
	if (state->in_flight && state->exchange->end != TEGRO_EXCHANGE_OPEN)
	{
		MemoryContext old = MemoryContextSwitchTo(state->context);
		bool may_repeat = tegro_api_judge(call);

		MemoryContextSwitchTo(old);
		state->in_flight = false;
		if (!may_repeat || call->attempts > tegro_read_retries)
			call->done = true;
		else
		{
			double backoff_ms = FIRST_BACKOFF_MS *
				(double) (1 << Min(call->attempts - 1, 10)) *
				(0.5 + pg_prng_double(&pg_global_prng_state));

			backoff_ms = Max(backoff_ms,
							 state->exchange->retry_after_s * 1000.0);

			/* a repeat that could not end in time is not begun */
			if (backoff_ms >= (double) left_ms(call))
				call->done = true;
			else
				state->next_us = tegro_clock_us() +
					(int64) (backoff_ms * 1000);
		}
	}
	if (call->done)
		return true;

	if (!state->in_flight)
	{
		/* rounded up, so as not to wake just before the time */
		int64 pause_ms = (state->next_us - tegro_clock_us() + 999) / 1000;

		if (pause_ms <= 0)
			tegro_api_begin(call);
		else if (*wait_ms < 0 || *wait_ms > pause_ms)
			*wait_ms = (long) pause_ms;
	}
	return false;
}

/* A call of a run that is not done yet, and the memory that goes with it. */
typedef struct RunningCall
{
	TegroCall *call;
	MemoryContext context;
} RunningCall;

typedef struct RunState
{
	MemoryContext context; /* of the run; those of its calls are below it */
	RunningCall *running;
	int nrunning;
	int begun; /* calls, from the first on */

	/* calls that are done, and took or may have taken effect */
	int nsent;
	const TegroMethod *sent_method;
	const char *sent_reference; /* of the first of them */
} RunState;

static const char *
reference_of(const TegroCall *call)
{
	return call->reference ? call->reference : call->shop_id;
}

/*
 * Says with an error that ends a run, a cancel, say, that a request that may
 * change something has left.  An error context callback may add to the error
 * that is being raised.
 */
static void
tell_what_was_sent(void *arg)
{
	RunState *run = arg;
	int nsent = run->nsent;
	const TegroMethod *method = run->sent_method;
	const char *reference = run->sent_reference;
	int category = ERRCODE_TO_CATEGORY(geterrcode());

	/* messages of other kinds, and our own errors, which say it themselves */
	if (category == ERRCODE_SUCCESSFUL_COMPLETION ||
		category == ERRCODE_WARNING ||
		category == ERRCODE_TO_CATEGORY(TEGRO_ERRCODE_REFUSED))
		return;
	for (int i = 0; i < run->nrunning; i++)
	{
		const TegroCall *call = run->running[i].call;

		if (call->method->effect != TEGRO_READS && call->state->in_flight &&
			call->state->exchange->handed_over)
		{
			nsent++;
			method = call->method;
			reference = reference_of(call);
		}
	}
	if (nsent == 1)
		errdetail("The request %s for \"%s\" had already been sent, and may take effect.",
				  method->name, tegro_error_in_context(reference));
	else if (nsent > 1)
		errdetail("%d requests %s had already been sent, and may take effect.",
				  nsent, method->name);
}

/* Counts a call that is done, if it took or may have taken effect. */
static void
count_sent(RunState *run, const TegroCall *call)
{
	if (call->method->effect == TEGRO_READS ||
		(call->outcome.result != TEGRO_ANSWERED &&
		 call->outcome.result != TEGRO_UNKNOWN))
		return;
	if (run->nsent++ == 0)
	{
		run->sent_method = call->method;
		run->sent_reference = MemoryContextStrdup(run->context,
												  reference_of(call));
	}
}

/* Has the source make the next call, and puts it in flight. */
static void
begin_next(RunState *run, TegroCallSource source, void *arg)
{
	RunningCall *next = &run->running[run->nrunning];

	next->context = AllocSetContextCreate(run->context, "tegro running call",
										  ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(next->context);
	next->call = source(run->begun, arg);
	run->begun++;
	run->nrunning++;
	tegro_api_begin(next->call);
	MemoryContextSwitchTo(run->context);
}

void
tegro_api_run(int ncalls, int max_in_flight, TegroCallSource source,
			  TegroCallDone done, void *arg)
{
	RunState run = {0};
	ErrorContextCallback context;
	MemoryContext caller = CurrentMemoryContext;

	Assert(ncalls >= 0 && max_in_flight > 0);
	/*
	 * All that is in flight hangs below this context: when it goes, on
	 * whatever way, the exchanges are stopped.
	 */
	run.context = AllocSetContextCreate(caller, "tegro calls",
										ALLOCSET_SMALL_SIZES);
	run.running = MemoryContextAlloc(run.context,
									 max_in_flight * sizeof(RunningCall));

	context.callback = tell_what_was_sent;
	context.arg = &run;
	context.previous = error_context_stack;
	error_context_stack = &context;

	PG_TRY();
	{
		while (run.begun < ncalls || run.nrunning > 0)
		{
			long wait_ms = -1;
			bool any_done = false;

			/* fill the free slots; the first needs none */
			while (run.begun < ncalls && run.nrunning < max_in_flight &&
				   (run.nrunning == 0 || tegro_transport_descriptors(1) > 0))
				begin_next(&run, source, arg);

			for (int i = 0; i < run.nrunning;)
			{
				RunningCall running = run.running[i];

				Assert(run.nrunning <= max_in_flight && !running.call->done);
				MemoryContextSwitchTo(running.context);
				if (advance(running.call, &wait_ms))
				{
					any_done = true;
					count_sent(&run, running.call);
					run.running[i] = run.running[--run.nrunning];
					MemoryContextSwitchTo(caller);
					done(running.call, arg);
					MemoryContextDelete(running.call->state->context);
					running.call->state->context = NULL;
					MemoryContextDelete(running.context);
				}
				else
					i++;
			}
			MemoryContextSwitchTo(run.context);

			/* wait, unless slots became free that can be filled first */
			if (run.nrunning > 0 && !(any_done && run.begun < ncalls))
				(void) tegro_transport_wait(wait_ms);
		}
	}
	PG_FINALLY();
	{
		for (int i = 0; i < run.nrunning; i++)
		{
			const TegroCall *call = run.running[i].call;

			if (call->state->in_flight)
				tegro_stats_count_cancelled(tegro_method_number(call->method),
											call->attempts > 1);
		}
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(run.context);
	}
	PG_END_TRY();
	/* not before: PG_END_TRY puts back what it was at PG_TRY */
	error_context_stack = context.previous;
}


/*
 * Step by step.
 */

bool
tegro_api_advance(TegroCall *call, long *wait_ms)
{
	return call->done || advance(call, wait_ms);
}
