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
 * references are executed again (see method_rules.deduplicate), so that a
 * client which relies on more than is promised pays twice here, and not there.
 *
 * Only "Wrong authorization token" and "Empty required param …" are wordings
 * that were seen; all others are made up.
 */
#include "methods.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "rows.h"
#include "signature.h"
#include "timer.h"

/* The longest string that a param may be; entries store 16 bits of length. */
#define PARAM_MAX_BYTES 1024

/* An open success. The method's data follows, then a brace. */
#define SUCCESS "{\"type\":\"success\",\"desc\":\"\",\"data\":"

const char *const method_names[METHOD_COUNT] =
	{"createOrder",		 "shops",		"balance",	  "order", "orders",
	 "createWithdrawal", "withdrawals", "withdrawal", "rates", "modules"};

static struct method_rules rules = {NONCE_UNIQUE, false, 100};

/* Until when look-ups find nothing, on timer_now_ns's clock. Books' lock. */
static int64_t hidden_until_ns[BOOK_COUNT];

/* A request whose signature is right. */
struct call
{
	const json_t *params;
	struct shop *shop;
	size_t shop_number;
	struct outcome *outcome;
};

/* A param that may be written as a string or as an integer. */
struct param
{
	const char *string;
	size_t length;
	char digits[24];
};

enum method
method_find(const char *name, size_t length)
{
	for (int i = 0; i < METHOD_COUNT; i++)
		if (strlen(method_names[i]) == length &&
			memcmp(name, method_names[i], length) == 0)
			return i;
	return METHOD_UNKNOWN;
}

void
methods_configure(const struct method_rules *options)
{
	rules = *options;
}

/* Notes why a request is refused; returns false, for the caller to return. */
static bool
refuse(struct outcome *outcome, const char *reason, const char *name)
{
	snprintf(outcome->desc, sizeof(outcome->desc), "%s%s", reason, name);
	return false;
}

static bool
refuse_empty(const struct call *call, const char *name)
{
	return refuse(call->outcome, "Empty required param ", name);
}

static bool
refuse_wrong(const struct call *call, const char *name)
{
	return refuse(call->outcome, "Wrong param ", name);
}

/* Says whether a param is as good as not there. */
static bool
is_empty(const json_t *value)
{
	return value == NULL || json_is_null(value) || json_is_false(value) ||
		(json_is_string(value) && json_string_length(value) == 0) ||
		(json_is_array(value) && json_array_size(value) == 0) ||
		(json_is_object(value) && json_object_size(value) == 0);
}

/* Reads a value that is an integer, or a string or real that says one. */
static bool
read_integer(const json_t *value, int64_t *integer)
{
	if (json_is_integer(value))
	{
		*integer = json_integer_value(value);
		return true;
	}
	if (json_is_real(value))
	{
		double real = json_real_value(value);

		if (!(real > -9.0e18 && real < 9.0e18) ||
			real != (double) (int64_t) real)
			return false;
		*integer = (int64_t) real;
		return true;
	}
	if (json_is_string(value))
	{
		const char *string = json_string_value(value);
		size_t length = json_string_length(value);

		if (length == 0 || strspn(string, "0123456789") != length)
			return false;
		errno = 0;
		*integer = strtoll(string, NULL, 10);
		return errno == 0;
	}
	return false;
}

/* Reads a required param that is text. */
static bool
read_text(const struct call *call, const char *name, struct param *param)
{
	const json_t *value = json_object_get(call->params, name);

	if (is_empty(value))
		return refuse_empty(call, name);
	if (json_is_integer(value))
	{
		param->length = (size_t) snprintf(param->digits, sizeof(param->digits),
										  "%" JSON_INTEGER_FORMAT,
										  json_integer_value(value));
		param->string = param->digits;
		return true;
	}
	if (!json_is_string(value) || json_string_length(value) > PARAM_MAX_BYTES)
		return refuse_wrong(call, name);
	param->string = json_string_value(value);
	param->length = json_string_length(value);
	return true;
}

/* Reads an optional string, empty where it is not there or is none. */
static void
read_optional_string(const json_t *params, const char *name,
					 struct param *param)
{
	const json_t *value = json_object_get(params, name);

	param->string = "";
	param->length = 0;
	if (json_is_string(value) && json_string_length(value) <= PARAM_MAX_BYTES)
	{
		param->string = json_string_value(value);
		param->length = json_string_length(value);
	}
}

/* Reads what orders and withdrawals have in common. */
static bool
read_entry(const struct call *call, struct entry *entry)
{
	const json_t *amount = json_object_get(call->params, "amount");
	const json_t *system = json_object_get(call->params, "payment_system");
	struct param currency;
	int number;
	int64_t integer;

	if (!read_text(call, "currency", &currency))
		return false;
	number = currency_find(currency.string, currency.length);
	if (number < 0)
		return refuse_wrong(call, "currency");
	if (is_empty(amount))
		return refuse_empty(call, "amount");
	*entry = (struct entry){.payment_system = PAYMENT_SYSTEM_NONE,
							.created = (uint32_t) time(NULL),
							.shop = (uint16_t) call->shop_number,
							.currency = (uint8_t) number};
	if (!money_read(amount, &entry->amount) || entry->amount <= 0)
		return refuse_wrong(call, "amount");
	if (!is_empty(system))
	{
		if (!read_integer(system, &integer) || integer < 0 ||
			integer > INT32_MAX)
			return refuse_wrong(call, "payment_system");
		entry->payment_system = (int32_t) integer;
	}
	return true;
}

static bool
add_order(struct call *call, uint32_t *record)
{
	struct entry entry;
	struct param order_id, email, notify_url;
	const json_t *test = json_object_get(call->params, "test");

	if (!read_entry(call, &entry) || !read_text(call, "order_id", &order_id))
		return false;
	read_optional_string(json_object_get(call->params, "fields"), "email",
						 &email);
	read_optional_string(call->params, "notify_url", &notify_url);
	entry.is_test = !is_empty(test) &&
		!(json_is_integer(test) && json_integer_value(test) == 0);
	*record = books_add(BOOK_ORDERS, entry, order_id.string, order_id.length,
						email.string, email.length, notify_url.string,
						notify_url.length);
	return true;
}

static bool
create_order(struct call *call, struct text *data)
{
	uint32_t record;

	if (!add_order(call, &record))
		return false;
	text_string(data, "{\"id\":");
	text_integer(data, books_id(BOOK_ORDERS, record));
	text_string(data, ",\"url\":");
	row_write_order_url(data, record);
	text_byte(data, '}');
	call->outcome->executed = true;
	return true;
}

static bool
create_withdrawal(struct call *call, struct text *data)
{
	struct entry entry;
	struct param account, payment_id;
	uint32_t record;

	if (!read_entry(call, &entry) || !read_text(call, "account", &account) ||
		!read_text(call, "payment_id", &payment_id))
		return false;
	if (rules.deduplicate &&
		books_find_reference(BOOK_WITHDRAWALS, call->shop_number,
							 payment_id.string, payment_id.length, &record))
		return refuse(call->outcome, "Duplicate payment_id", "");
	if (call->shop->balance[entry.currency] < entry.amount)
		return refuse(call->outcome, "Insufficient funds", "");
	call->shop->balance[entry.currency] -= entry.amount;
	entry.status = STATUS_PAID;
	record = books_add(BOOK_WITHDRAWALS, entry, payment_id.string,
					   payment_id.length, account.string, account.length, "",
					   0);
	text_string(data, "{\"id\":");
	text_integer(data, books_id(BOOK_WITHDRAWALS, record));
	text_string(data, ",\"status\":1}");
	call->outcome->executed = true;
	return true;
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

	if (!is_empty(id_value))
		is_found = read_integer(id_value, &id) &&
			books_find_id(book, call->shop_number, id, &record);
	else if (is_empty(json_object_get(call->params, "payment_id")))
		return refuse_empty(call, "order_id");
	else if (!read_text(call, "payment_id", &payment_id))
		return false;
	else
		is_found = books_find_reference(book, call->shop_number,
										payment_id.string, payment_id.length,
										&record);
	if (!is_found || is_hidden(book))
		return refuse(call->outcome,
					  book == BOOK_ORDERS ? "Order not found"
										  : "Withdrawal not found",
					  "");
	row_write(data, book, record);
	return true;
}

/* orders, withdrawals */
static bool
find_page(struct call *call, enum book_name book, struct text *data)
{
	const json_t *page_value = json_object_get(call->params, "page");
	const struct record_list *records = &call->shop->records[book];
	int64_t count = is_hidden(book) ? 0 : (int64_t) records->count;
	int64_t page = 1;
	int64_t first;

	if (!is_empty(page_value) &&
		(!read_integer(page_value, &page) || page < 1))
		return refuse_wrong(call, "page");
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
	if (is_empty(json_object_get(call->params, name)))
		return true;
	if (!read_text(call, name, &code))
		return false;
	*currency = currency_find(code.string, code.length);
	return *currency >= 0 || refuse_wrong(call, name);
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
		return is_empty(json_object_get(call->params, "nonce"))
			? refuse_empty(call, "nonce")
			: refuse(outcome, "Wrong nonce", "");
	if (rules.nonce_rule == NONCE_UNIQUE)
		is_good = nonce_set_add(&shop->nonces, (uint64_t) outcome->nonce);
	else if (rules.nonce_rule == NONCE_RISING)
	{
		is_good = !shop->has_last_nonce || outcome->nonce > shop->last_nonce;
		if (is_good)
			shop->last_nonce = outcome->nonce;
		shop->has_last_nonce = true;
	}
	return is_good || refuse(outcome, "Wrong nonce", "");
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
			return create_order(call, data);
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
			return create_withdrawal(call, data);
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
	return refuse(call->outcome, "Unknown method", "");
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
	outcome->has_nonce = read_integer(json_object_get(params, "nonce"),
									  &outcome->nonce);
}

/* Everything but the writing of the refusal. */
static bool
check_and_execute(enum method method, const json_t *params, const char *body,
				  size_t length, const char *authorization,
				  struct outcome *outcome)
{
	struct call call = {.params = params, .outcome = outcome};
	const json_t *shop_id = json_object_get(params, "shop_id");
	bool success;

	if (params == NULL)
		return refuse(outcome, "Wrong request body", "");
	note_nonce(params, outcome);
	if (is_empty(shop_id))
		return refuse_empty(&call, "shop_id");
	if (json_is_string(shop_id))
		call.shop = books_find_shop(json_string_value(shop_id),
									&call.shop_number);
	if (call.shop == NULL)
		return refuse_wrong(&call, "shop_id");
	if (!signature_matches(authorization, call.shop->api_key, body, length))
		return refuse(outcome, "Wrong authorization token", "");
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
	if (add_order(&call, &record))
		id = books_id(BOOK_ORDERS, record);
	books_unlock();
	return id;
}

void
methods_execute(enum method method, const char *body, size_t length,
				const char *authorization, struct outcome *outcome)
{
	json_t *params = parse(body, length);

	outcome->success = check_and_execute(method, params, body, length,
										 authorization, outcome);
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
