/*
 * methods.c
 *		The ten methods of the payment API.
 *
 * A request is checked in the order in which the provider seems to: the body is
 * a JSON object, it names the shop, the signature is that shop's, the nonce
 * keeps the rule, the method's own params are there. A nonce is used up as soon
 * as the signature is right, whatever becomes of the request.
 *
 * What the provider documents nowhere is chosen against the client: repeated
 * references are executed again (see --deduplicate), so that a
 * client which relies on more than is promised pays twice here, and not there.
 *
 * docs/sandbox.md names the few error texts that were seen; all others are made
 * up.
 */
#include "methods.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "orders.h"
#include "params.h"
#include "rows.h"
#include "signature.h"
#include "timer.h"
#include "withdrawals.h"

/* An open success. The method's data follows, then a brace. */
#define SUCCESS "{\"type\":\"success\",\"desc\":\"\",\"data\":"

const char *const method_names[METHOD_COUNT] =
	{"createOrder",		 "shops",		"balance",	  "order", "orders",
	 "createWithdrawal", "withdrawals", "withdrawal", "rates", "modules"};

/* The reference of entries that only push others away. */
#define PUSHED "pushed %zu"

/* Until when lookups find nothing, on timer_now_ns's clock. Books' lock. */
static int64_t hidden_until_ns[BOOK_COUNT];

enum method
method_find(const char *name, size_t length)
{
	for (int i = 0; i < METHOD_COUNT; i++)
		if (strlen(method_names[i]) == length &&
			memcmp(name, method_names[i], length) == 0)
			return i;
	return METHOD_UNKNOWN;
}


static bool
is_hidden(enum book_name book)
{
	/* The clock is only read where something was ever hidden. */
	return hidden_until_ns[book] != 0 &&
		timer_now_ns() < hidden_until_ns[book];
}

/* order, withdrawal */
static bool
find_one(struct call *call, enum book_name book, struct text *data)
{
	const json_t *id_value = json_object_get(call->params, "order_id");
	struct param payment_id;
	int64_t id;
	uint32_t record;
	bool is_found;

	if (!param_is_empty(id_value))
		is_found = param_integer(id_value, &id) &&
			books_find_id(book, call->shop_number, id, &record);
	else if (param_is_empty(json_object_get(call->params, "payment_id")))
		return param_refuse_empty(call, "order_id");
	else if (!param_text(call, "payment_id", &payment_id))
		return false;
	else
		is_found = books_find_reference(book, call->shop_number,
										payment_id.string, payment_id.length,
										&record);
	if (is_found && !is_hidden(book))
		row_write(data, book, record);
	else if (rules.not_found == NOT_FOUND_EMPTY)
		text_string(data, "[]");
	else if (rules.not_found == NOT_FOUND_NULL)
		text_string(data, "null");
	else
		return param_refuse(call->outcome,
							book == BOOK_ORDERS ? "Order not found"
												: "Withdrawal not found",
							"");
	return true;
}

/* Makes the entries that push those of a list towards later pages. */
static void
push_entries(const struct call *call, enum book_name book, int64_t count)
{
	struct entry entry = {.amount = MONEY_ONE,
						  .payment_system = PAYMENT_SYSTEM_NONE,
						  .created = (uint32_t) time(NULL),
						  .shop = (uint16_t) call->shop_number};

	/* they are a test's: no money moves for them, as for a test order */
	entry.is_test = true;
	for (int64_t i = 0; i < count; i++)
	{
		char reference[32];
		int length = snprintf(reference, sizeof(reference), PUSHED,
							  call->shop->records[book].count + 1);

		books_add(book, entry, reference, (size_t) length, "", 0, "", 0);
	}
}

/* orders, withdrawals */
static bool
find_page(struct call *call, enum book_name book, struct text *data)
{
	const json_t *page_value = json_object_get(call->params, "page");
	const struct record_list *records = &call->shop->records[book];
	int64_t count;
	int64_t page = 1;
	int64_t first;

	if (call->aside != NULL)
		push_entries(call, book, call->aside->push);
	count = is_hidden(book) ? 0 : (int64_t) records->count;

	if (!param_is_empty(page_value) &&
		(!param_integer(page_value, &page) || page < 1))
		return param_refuse_wrong(call, "page");
	text_byte(data, '[');
	if (page - 1 <= count / rules.page_size)
	{
		first = count - 1 - (page - 1) * rules.page_size;
		for (int64_t i = first; i >= 0 && i > first - rules.page_size; i--)
		{
			if (i < first)
				text_byte(data, ',');
			row_write(data, book, record_list_at(records, (size_t) i));
		}
	}
	text_byte(data, ']');
	return true;
}

/* Reads a currency that may be left out: -1. */
static bool
read_rate_currency(const struct call *call, const char *name, int *currency)
{
	struct param code;

	*currency = -1;
	if (param_is_empty(json_object_get(call->params, name)))
		return true;
	if (!param_text(call, name, &code))
		return false;
	*currency = currency_find(code.string, code.length);
	if (*currency < 0)
		*currency = CURRENCY_MAX; /* a currency without rates */
	return true;
}

static bool
find_rates(struct call *call, struct text *data)
{
	int from, to;

	if (!read_rate_currency(call, "from", &from) ||
		!read_rate_currency(call, "to", &to))
		return false;
	row_write_rates(data, from, to);
	return true;
}

/* Checks the nonce and notes that it was used. */
static bool
use_nonce(struct call *call)
{
	struct outcome *outcome = call->outcome;
	struct shop *shop = call->shop;
	bool is_good = true;

	if (!outcome->has_nonce)
		return param_is_empty(json_object_get(call->params, "nonce"))
			? param_refuse_empty(call, "nonce")
			: param_refuse(outcome, "Wrong nonce", "");
	switch (rules.nonce)
	{
		case NONCE_DIFFER:
			is_good = !shop->has_last_nonce ||
				outcome->nonce != shop->last_nonce;
			break;
		case NONCE_UNIQUE:
			is_good = nonce_set_add(&shop->nonces, (uint64_t) outcome->nonce);
			break;
		case NONCE_RISING:
			is_good = !shop->has_last_nonce ||
				outcome->nonce > shop->last_nonce;
			break;
		case NONCE_ANY:
			break;
	}
	if (is_good)
	{
		shop->last_nonce = outcome->nonce;
		shop->has_last_nonce = true;
	}
	return is_good || param_refuse(outcome, "Wrong nonce", "");
}

/* Executes a call whose signature is right. Books' lock held. */
static bool
execute(enum method method, struct call *call, struct text *data)
{
	if (!use_nonce(call))
		return false;
	text_string(data, SUCCESS);
	switch (method)
	{
		case METHOD_CREATE_ORDER:
			return order_create(call, data);
		case METHOD_SHOPS:
			text_string(data, "{\"user_id\":1,\"shops\":");
			row_write_shops(data);
			text_byte(data, '}');
			return true;
		case METHOD_BALANCE:
			text_string(data, "{\"user_id\":1,\"balance\":");
			row_write_balances(data, call->shop);
			text_byte(data, '}');
			return true;
		case METHOD_ORDER:
			return find_one(call, BOOK_ORDERS, data);
		case METHOD_ORDERS:
			return find_page(call, BOOK_ORDERS, data);
		case METHOD_CREATE_WITHDRAWAL:
			return withdrawal_create(call, data);
		case METHOD_WITHDRAWALS:
			return find_page(call, BOOK_WITHDRAWALS, data);
		case METHOD_WITHDRAWAL:
			return find_one(call, BOOK_WITHDRAWALS, data);
		case METHOD_RATES:
			return find_rates(call, data);
		case METHOD_MODULES:
			row_write_modules(data);
			return true;
		case METHOD_UNKNOWN:
			break;
	}
	return param_refuse(call->outcome, "Unknown method", "");
}

/* Parses a body, as leniently about numbers as PHP is. NULL: no object. */
static json_t *
parse(const char *body, size_t length)
{
	json_error_t error;
	json_t *params = json_loadb(body, length, JSON_ALLOW_NUL, &error);

	/* An integer beyond 64 bits is a float to PHP, an error to jansson. */
	if (params == NULL &&
		json_error_code(&error) == json_error_numeric_overflow)
		params = json_loadb(body, length,
							JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
	if (json_is_object(params))
		return params;
	json_decref(params);
	return NULL;
}

static void
note_nonce(const json_t *params, struct outcome *outcome)
{
	outcome->has_nonce = param_integer(json_object_get(params, "nonce"),
									   &outcome->nonce);
}

/* Everything but the writing of the refusal. */
static bool
check_and_execute(enum method method, const json_t *params, const char *body,
				  size_t length, const char *authorization,
				  const struct aside *aside, struct outcome *outcome)
{
	struct call call = {.params = params, .aside = aside, .outcome = outcome};
	const json_t *shop_id = json_object_get(params, "shop_id");
	bool success;

	if (params == NULL)
		return param_refuse(outcome, "Wrong request body", "");
	note_nonce(params, outcome);
	if (param_is_empty(shop_id))
		return param_refuse_empty(&call, "shop_id");
	if (json_is_string(shop_id))
		call.shop = books_find_shop(json_string_value(shop_id),
									&call.shop_number);
	if (call.shop == NULL)
		return param_refuse_wrong(&call, "shop_id");
	if (!signature_matches(authorization, call.shop->api_key, body, length))
		return param_refuse(outcome, "Wrong authorization token", "");
	books_lock();
	success = execute(method, &call, &outcome->answer);
	books_unlock();
	return success;
}

int64_t
methods_order(size_t shop_number, const json_t *params,
			  struct outcome *outcome)
{
	struct call call = {.params = (json_t *) params,
						.shop = books_shop(shop_number),
						.shop_number = shop_number,
						.outcome = outcome};
	uint32_t record;
	int64_t id = -1;

	books_lock();
	if (order_add(&call, rules.required & REQUIRE_RECEIPT, &record))
		id = books_id(BOOK_ORDERS, record);
	books_unlock();
	return id;
}

void
methods_execute(enum method method, const char *body, size_t length,
				const char *authorization, const struct aside *aside,
				struct outcome *outcome)
{
	json_t *params = parse(body, length);

	outcome->success = check_and_execute(method, params, body, length,
										 authorization, aside, outcome);
	json_decref(params);
	if (!outcome->success)
	{
		outcome->answer.length = 0;
		text_string(&outcome->answer, "{\"type\":\"error\",\"desc\":");
		text_json_any(&outcome->answer, outcome->desc, strlen(outcome->desc));
	}
	text_byte(&outcome->answer, '}');
}

void
methods_read_nonce(const char *body, size_t length, struct outcome *outcome)
{
	json_t *params = parse(body, length);

	if (params != NULL)
		note_nonce(params, outcome);
	json_decref(params);
}

void
methods_hide(enum method method, int64_t ms)
{
	int64_t until_ns = timer_now_ns() + ms * INT64_C(1000000);
	bool only_orders = method == METHOD_CREATE_ORDER ||
		method == METHOD_ORDER || method == METHOD_ORDERS;
	bool only_withdrawals = method == METHOD_CREATE_WITHDRAWAL ||
		method == METHOD_WITHDRAWAL || method == METHOD_WITHDRAWALS;

	books_lock();
	if (!only_withdrawals)
		hidden_until_ns[BOOK_ORDERS] = until_ns;
	if (!only_orders)
		hidden_until_ns[BOOK_WITHDRAWALS] = until_ns;
	books_unlock();
}

void
methods_reset(void)
{
	books_reset();
	books_lock();
	memset(hidden_until_ns, 0, sizeof(hidden_until_ns));
	books_unlock();
}
