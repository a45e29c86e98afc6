/*
 * rows.c
 *		How orders, withdrawals and the fixed lists look in an answer.
 *
 * Documented are the shapes of orders, withdrawals, shops and balances. Made up
 * here: those of modules and rates, what --rows full adds to orders and
 * withdrawals, and every value that no request has set.
 */
#include "rows.h"

#include <string.h>

#include "rules.h"
#include "signature.h"

/* When the account, its shops and its payment systems came to be. */
#define LONG_AGO "2020-11-03 18:04:07"

static void
append_entry_string(struct text *text, const struct entry *entry,
					enum entry_string_name name)
{
	size_t length;
	const char *string = entry_string(entry, name, &length);

	text_json_any(text, string, length);
}

/* Appends `,"name":"amount"` with eight decimals. */
static void
append_amount(struct text *text, const char *name, money amount)
{
	text_string(text, ",\"");
	text_string(text, name);
	text_string(text, "\":\"");
	money_write(text, amount, MONEY_DECIMALS);
	text_byte(text, '"');
}

static void
append_payment_system(struct text *text, const struct entry *entry)
{
	text_string(text, ",\"payment_system_id\":");
	if (entry->payment_system == PAYMENT_SYSTEM_NONE)
		text_string(text, "null");
	else
		text_integer(text, entry->payment_system);
}

/* Appends the members that both kinds of rows begin with. */
static void
append_head(struct text *text, const struct entry *entry, int64_t id)
{
	text_string(text, "{\"id\":");
	text_integer(text, id);
	text_string(text, ",\"date_created\":\"");
	text_timestamp(text, entry->created);
	if (entry->paid == 0)
		text_string(text, "\",\"date_payed\":null");
	else
	{
		text_string(text, "\",\"date_payed\":\"");
		text_timestamp(text, entry->paid);
		text_byte(text, '"');
	}
	text_string(text, ",\"status\":");
	text_integer(text, entry->status);
}

static void
append_currency_id(struct text *text, const struct entry *entry)
{
	text_string(text, ",\"currency_id\":");
	text_integer(text, entry->currency + 1);
}

static void
append_currency(struct text *text, const struct entry *entry)
{
	const char *code = currency_code(entry->currency);

	text_string(text, ",\"currency\":");
	text_json_any(text, code, strlen(code));
}

money
row_amount(enum book_name book, const struct entry *entry)
{
	return book == BOOK_ORDERS && entry->paid != 0 && !rules.fee_apart
		? entry->amount + entry->fee
		: entry->amount;
}

/* Appends an order without its closing brace. */
static void
append_order(struct text *text, const struct entry *entry, int64_t id)
{
	append_head(text, entry, id);
	append_payment_system(text, entry);
	append_currency_id(text, entry);
	if (rules.full_rows)
		append_currency(text, entry);
	append_amount(text, "amount", row_amount(BOOK_ORDERS, entry));
	append_amount(text, "fee", entry->fee);
	text_string(text, ",\"email\":");
	append_entry_string(text, entry, ENTRY_PARTY);
	text_string(text,
				entry->is_test ? ",\"test_order\":1" : ",\"test_order\":0");
	text_string(text, ",\"payment_id\":");
	append_entry_string(text, entry, ENTRY_REFERENCE);
}

/* Appends a withdrawal without its closing brace. */
static void
append_withdrawal(struct text *text, const struct entry *entry, int64_t id)
{
	append_head(text, entry, id);
	append_currency_id(text, entry);
	if (rules.full_rows)
	{
		append_payment_system(text, entry);
		append_currency(text, entry);
		text_string(text, ",\"account\":");
		append_entry_string(text, entry, ENTRY_PARTY);
	}
	append_amount(text, "amount", entry->amount);
	if (rules.full_rows)
		append_amount(text, "fee", 0);
	text_string(text, ",\"payment_id\":");
	append_entry_string(text, entry, ENTRY_REFERENCE);
}

static void
append_row(struct text *text, enum book_name book, const struct entry *entry,
		   uint32_t record)
{
	if (book == BOOK_ORDERS)
		append_order(text, entry, books_id(book, record));
	else
		append_withdrawal(text, entry, books_id(book, record));
}

void
row_write(struct text *text, enum book_name book, uint32_t record)
{
	append_row(text, book, books_entry(book, record), record);
	text_byte(text, '}');
}

void
row_write_counted(struct text *text, enum book_name book, uint32_t record)
{
	const struct entry *entry = books_entry(book, record);
	uint32_t newest = record;
	size_t length;
	const char *reference = entry_string(entry, ENTRY_REFERENCE, &length);

	books_find_reference(book, entry->shop, reference, length, &newest);
	append_row(text, book, entry, record);
	text_string(text, ",\"executions\":");
	text_integer(text, books_entry(book, newest)->execution);
	text_byte(text, '}');
}

void
row_write_order_url(struct text *text, uint32_t record)
{
	const struct entry *entry = books_entry(BOOK_ORDERS, record);
	struct text id = {0};
	char hex[32];

	/*
	 * The provider's 32 digits are random. These follow from the number, so
	 * that they need not be stored.
	 */
	text_integer(&id, books_id(BOOK_ORDERS, record));
	signature_md5(id.data, id.length, books_shop(entry->shop)->secret_key,
				  hex);
	text_string(text, "\"https:\\/\\/tegro.money\\/pay\\/complete\\/");
	text_append(text, id.data, id.length);
	text_string(text, "\\/");
	text_append(text, hex, sizeof(hex));
	text_string(text, "\\/\"");
	text_free(&id);
}

void
row_write_balances(struct text *text, const struct shop *shop)
{
	bool is_first = true;

	text_byte(text, '{');
	for (int i = 0; i < CURRENCY_MAX; i++)
	{
		const char *code = currency_code(i);

		if (!shop->has_currency[i])
			continue;
		if (!is_first)
			text_byte(text, ',');
		is_first = false;
		text_json_any(text, code, strlen(code));
		text_string(text, ":\"");
		money_write(text, shop->balance[i], 2);
		text_byte(text, '"');
	}
	text_byte(text, '}');
}

void
row_write_shops(struct text *text)
{
	const struct shop *shop;

	text_byte(text, '[');
	for (size_t i = 0; (shop = books_shop(i)) != NULL; i++)
	{
		int64_t number = (int64_t) i + 1;

		if (i > 0)
			text_byte(text, ',');
		text_string(text, "{\"id\":");
		text_integer(text, number);
		text_string(text, ",\"date_added\":\"" LONG_AGO "\",\"name\":\"DEMO");
		text_integer(text, number);
		text_string(text, "\",\"url\":\"https:\\/\\/demo");
		text_integer(text, number);
		text_string(text, "\",\"status\":1,\"public_key\":");
		text_json_any(text, shop->id, strlen(shop->id));
		text_string(text, ",\"desc\":\"DEMO");
		text_integer(text, number);
		text_string(text, " SHOP\"}");
	}
	text_byte(text, ']');
}

void
row_write_modules(struct text *text)
{
	text_string(text,
				"["
				"{\"id\":10,\"name\":\"Bank card\",\"currency\":\"RUB\","
				"\"status\":1},"
				"{\"id\":16,\"name\":\"Faster payments\",\"currency\":\"RUB\","
				"\"status\":1},"
				"{\"id\":22,\"name\":\"Bank card\",\"currency\":\"USD\","
				"\"status\":1},"
				"{\"id\":23,\"name\":\"Bank card\",\"currency\":\"EUR\","
				"\"status\":1}]");
}

void
row_write_rates(struct text *text, int from, int to)
{
	/* What one unit costs in RUB, by currency number; plausible, and fixed. */
	static const money in_rub[CURRENCY_FIRST_COUNT] = {MONEY_ONE,
													   INT64_C(9250000000),
													   INT64_C(10010000000),
													   INT64_C(225000000)};
	bool is_first = true;

	text_byte(text, '[');
	for (int i = 0; i < CURRENCY_FIRST_COUNT; i++)
		for (int j = 0; j < CURRENCY_FIRST_COUNT; j++)
		{
			if (i == j || (from >= 0 && from != i) || (to >= 0 && to != j))
				continue;
			text_string(text, is_first ? "{\"from\":\"" : ",{\"from\":\"");
			text_string(text, currency_code(i));
			text_string(text, "\",\"to\":\"");
			text_string(text, currency_code(j));
			text_byte(text, '"');
			append_amount(text, "rate", in_rub[i] * MONEY_ONE / in_rub[j]);
			text_byte(text, '}');
			is_first = false;
		}
	text_byte(text, ']');
}
