/*
 * orders.c
 *		createOrder, and the orders of payment links.
 *
 * A receipt is a list of items whose prices, times their counts, add up to the
 * amount. The documentation says that another sum is an error on the payment
 * page; here it is one of createOrder, unless --bad-receipt says otherwise, for
 * the sooner a shop learns of it the better.
 */
#include "orders.h"

#include "rows.h"

/* Seen by people who run clients. */
#define RECEIPT_MISSING "Не указан обязательный параметр receipt"
#define RECEIPT_WRONG	"Стоимость товара не сходится с суммой оплаты"

/* Adds an item of a receipt to its sum. */
static bool
add_item(const json_t *item, money *sum)
{
	money price, count;

	return !param_is_empty(json_object_get(item, "name")) &&
		money_read(json_object_get(item, "price"), &price) && price >= 0 &&
		money_read(json_object_get(item, "count"), &count) && count > 0 &&
		!__builtin_add_overflow(*sum, money_multiply(price, count), sum);
}

/* Checks that a receipt is there where it must be, and that it is right. */
static bool
check_receipt(const struct call *call, unsigned required, struct entry *entry)
{
	const json_t *receipt = json_object_get(call->params, "receipt");
	const json_t *items = json_object_get(receipt, "items");
	money sum = 0;

	if (param_is_empty(receipt))
		return (required & REQUIRE_RECEIPT) == 0 ||
			param_refuse(call->outcome, RECEIPT_MISSING, "");
	if (!json_is_array(items) || json_array_size(items) == 0)
		return param_refuse_wrong(call, "receipt");
	for (size_t i = 0; i < json_array_size(items); i++)
		if (!add_item(json_array_get(items, i), &sum))
			return param_refuse_wrong(call, "receipt");
	if (sum == entry->amount)
		return true;
	entry->is_unpayable = rules.keep_receipts;
	return rules.keep_receipts ||
		param_refuse(call->outcome, RECEIPT_WRONG, "");
}

bool
order_add(const struct call *call, unsigned required, uint32_t *record)
{
	struct entry entry;
	struct param order_id, email, notify_url;
	const json_t *test = json_object_get(call->params, "test");
	const json_t *fields = json_object_get(call->params, "fields");

	if (!param_entry(call, (required & REQUIRE_ORDER_SYSTEM) != 0, &entry) ||
		!param_text(call, "order_id", &order_id))
		return false;
	if ((required & REQUIRE_FIELDS) != 0 && param_is_empty(fields))
		return param_refuse_empty(call, "fields");
	if (!check_receipt(call, required, &entry))
		return false;
	param_optional(fields, "email", &email);
	param_optional(call->params, "notify_url", &notify_url);
	entry.is_test = !param_is_empty(test) &&
		!(json_is_integer(test) && json_integer_value(test) == 0);
	entry.fee = money_multiply(entry.amount, rules.fee_percent) / 100;
	*record = books_add(BOOK_ORDERS, entry, order_id.string, order_id.length,
						email.string, email.length, notify_url.string,
						notify_url.length);
	return true;
}

bool
order_create(const struct call *call, struct text *data)
{
	uint32_t record = 0;

	if (!order_add(call, rules.required, &record))
		return false;
	text_string(data, "{\"id\":");
	text_integer(data, books_id(BOOK_ORDERS, record));
	text_string(data, ",\"url\":");
	row_write_order_url(data, record);
	text_byte(data, '}');
	call->outcome->executed = true;
	return true;
}
