/*
 * payment.c
 *		What a customer would do: pays an order, so that the shop is notified.
 *
 * The notification carries the fields that the provider documents and those
 * that integrations have seen, sorted by key and written as PHP's
 * http_build_query writes them; the signature is over that text. With "tamper"
 * the amount is changed after signing, which a shop must notice.
 *
 * Paying twice credits once, and notifies again: providers do repeat
 * notifications. A test order credits nothing.
 */
#include "payment.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "books.h"
#include "rows.h"
#include "signature.h"

/* Replays of one notification; more would only take longer. */
#define REPEAT_MAX 100000

static const char *const field_names[] = {
	"order_id", "payment_id", "shop_id", "notify_url", "repeat", "tamper",
};

#define FIELD_COUNT (sizeof(field_names) / sizeof(field_names[0]))

static const char *default_notify_url;

void
payment_configure(const char *notify_url)
{
	default_notify_url = notify_url;
}

static bool
refuse(struct text *reason, const char *text)
{
	text_string(reason, text);
	return false;
}

/* Checks names and types. */
static bool
check(const json_t *wanted, struct text *reason)
{
	const json_t *order_id = json_object_get(wanted, "order_id");
	const json_t *payment_id = json_object_get(wanted, "payment_id");
	const json_t *shop_id = json_object_get(wanted, "shop_id");
	const json_t *notify_url = json_object_get(wanted, "notify_url");
	const json_t *repeat = json_object_get(wanted, "repeat");
	const json_t *tamper = json_object_get(wanted, "tamper");
	const char *key;
	json_t *value;

	json_object_foreach((json_t *) wanted, key, value)
	{
		size_t i = 0;

		while (i < FIELD_COUNT && strcmp(key, field_names[i]) != 0)
			i++;
		if (i < FIELD_COUNT)
			continue;
		text_string(reason, "unknown field ");
		text_json_any(reason, key, strlen(key));
		return refuse(reason,
					  "; valid fields: order_id, payment_id, shop_id, "
					  "notify_url, repeat, tamper");
	}
	if ((order_id == NULL) == (payment_id == NULL))
		return refuse(reason,
					  "exactly one of \"order_id\" (the provider's "
					  "number) and \"payment_id\" (the shop's) must be there");
	if (order_id != NULL && !json_is_integer(order_id))
		return refuse(reason,
					  "\"order_id\" must be an integer, the provider's "
					  "number; the shop's own number goes to \"payment_id\"");
	if (payment_id != NULL && !json_is_string(payment_id))
		return refuse(reason, "\"payment_id\" must be a string");
	if (shop_id != NULL && !json_is_string(shop_id))
		return refuse(reason, "\"shop_id\" must be a string");
	if (notify_url != NULL && !json_is_string(notify_url))
		return refuse(reason, "\"notify_url\" must be a string");
	if (repeat != NULL &&
		(!json_is_integer(repeat) || json_integer_value(repeat) < 1 ||
		 json_integer_value(repeat) > REPEAT_MAX))
		return refuse(reason,
					  "\"repeat\" must be an integer from 1 to 100000");
	if (tamper != NULL && !json_is_boolean(tamper))
		return refuse(reason, "\"tamper\" must be true or false");
	return true;
}

/* Finds the order. Books' lock held. */
static bool
find_order(const json_t *wanted, uint32_t *record, struct text *reason)
{
	const json_t *order_id = json_object_get(wanted, "order_id");
	const json_t *payment_id = json_object_get(wanted, "payment_id");
	const json_t *shop_id = json_object_get(wanted, "shop_id");
	size_t shop = 0;

	if (shop_id != NULL &&
		books_find_shop(json_string_value(shop_id), &shop) == NULL)
		return refuse(reason, "unknown shop_id");
	if (order_id != NULL)
	{
		int64_t id = json_integer_value(order_id);

		/* The provider's numbers are unique over all shops. */
		for (size_t i = 0; books_shop(i) != NULL; i++)
			if ((shop_id == NULL || i == shop) &&
				books_find_id(BOOK_ORDERS, i, id, record))
				return true;
	}
	else if (books_find_reference(BOOK_ORDERS, shop,
								  json_string_value(payment_id),
								  json_string_length(payment_id), record))
		return true;
	return refuse(reason, "order not found");
}

/* Appends `&name=value`, form-encoded. */
static void
append_field(struct text *form, const char *name, const char *value,
			 size_t length)
{
	if (form->length > 0)
		text_byte(form, '&');
	text_string(form, name);
	text_byte(form, '=');
	text_form(form, value, length);
}

static void
append_number(struct text *form, const char *name, int64_t number)
{
	struct text digits = {0};

	text_integer(&digits, number);
	append_field(form, name, digits.data, digits.length);
	text_free(&digits);
}

static void
append_amount(struct text *form, money amount)
{
	struct text digits = {0};

	money_write(&digits, amount, 2);
	append_field(form, "amount", digits.data, digits.length);
	text_free(&digits);
}

/* Writes the fields, sorted by key, from "amount" on. Books' lock held. */
static void
write_form(struct text *form, uint32_t record, money amount)
{
	const struct entry *entry = books_entry(BOOK_ORDERS, record);
	const char *currency = currency_codes[entry->currency];
	const char *shop_id = books_shop(entry->shop)->id;
	size_t length;
	const char *reference = entry_string(entry, ENTRY_REFERENCE, &length);

	append_amount(form, amount);
	append_field(form, "currency", currency, strlen(currency));
	append_field(form, "order_id", reference, length);
	append_number(form, "payment_id", books_id(BOOK_ORDERS, record));
	append_number(form, "payment_system", entry->payment_system);
	append_field(form, "shop_id", shop_id, strlen(shop_id));
	append_number(form, "status", entry->status);
	if (entry->is_test)
		append_number(form, "test", 1);
}

/* Chooses the address: the call's, the order's, the program's. Lock held. */
static char *
choose_url(const json_t *wanted, const struct entry *entry)
{
	const json_t *given = json_object_get(wanted, "notify_url");
	size_t length;
	const char *own = entry_string(entry, ENTRY_NOTIFY_URL, &length);

	if (given != NULL)
		return strdup(json_string_value(given));
	if (length > 0)
		return strndup(own, length);
	return default_notify_url != NULL ? strdup(default_notify_url) : NULL;
}

/* Prepares the notification of a paid order. Books' lock held. */
static struct webhook *
prepare(const json_t *wanted, uint32_t record)
{
	const struct entry *entry = books_entry(BOOK_ORDERS, record);
	const char *secret_key = books_shop(entry->shop)->secret_key;
	const json_t *repeat = json_object_get(wanted, "repeat");
	char *url = choose_url(wanted, entry);
	struct webhook *notification;
	struct text *form;
	char sign[32];

	if (url == NULL)
		return NULL;
	notification = must_allocate(sizeof(struct webhook));
	*notification = (struct webhook){.url = url,
									 .repeat = repeat != NULL
										 ? json_integer_value(repeat)
										 : 1};
	form = &notification->form;
	write_form(form, record, entry->amount);
	signature_md5(form->data, form->length, secret_key, sign);
	if (json_is_true(json_object_get(wanted, "tamper")))
	{
		form->length = 0;
		write_form(form, record, entry->amount + MONEY_ONE);
	}
	append_field(form, "sign", sign, sizeof(sign));
	return notification;
}

/* Marks an order paid, once. Books' lock held. */
static void
pay(struct entry *entry)
{
	struct shop *shop = books_shop(entry->shop);

	if (entry->status == STATUS_PAID)
		return;
	entry->status = STATUS_PAID;
	entry->paid = (uint32_t) time(NULL);
	if (entry->payment_system == PAYMENT_SYSTEM_NONE)
		entry->payment_system = ROW_DEFAULT_PAYMENT_SYSTEM;
	/* A balance that is full stays as it is: nobody has that much money. */
	if (!entry->is_test &&
		shop->balance[entry->currency] <= INT64_MAX - entry->amount)
		shop->balance[entry->currency] += entry->amount;
}

struct payment *
payment_make(const json_t *wanted, struct text *reason)
{
	struct payment *payment;
	uint32_t record;

	if (!check(wanted, reason))
		return NULL;
	books_lock();
	if (!find_order(wanted, &record, reason))
	{
		books_unlock();
		return NULL;
	}
	payment = must_allocate(sizeof(struct payment));
	*payment = (struct payment){0};
	pay(books_entry(BOOK_ORDERS, record));
	row_write(&payment->order, BOOK_ORDERS, record);
	payment->notification = prepare(wanted, record);
	books_unlock();
	return payment;
}

void
payment_write(struct text *text, const struct payment *payment)
{
	const struct webhook *notification = payment->notification;

	text_string(text, "{\"type\":\"success\",\"data\":{\"order\":");
	text_append(text, payment->order.data, payment->order.length);
	if (notification == NULL)
		text_string(text,
					",\"notified\":false,\"notification_status\":null,"
					"\"notifications_accepted\":0,\"notification_error\":"
					"\"there is no notify_url\"}}\n");
	else
	{
		text_string(text,
					notification->accepted == notification->repeat
						? ",\"notified\":true"
						: ",\"notified\":false");
		text_string(text, ",\"notification_status\":");
		if (notification->status > 0)
			text_integer(text, notification->status);
		else
			text_string(text, "null");
		text_string(text, ",\"notifications_accepted\":");
		text_integer(text, notification->accepted);
		text_string(text, ",\"notification_error\":");
		if (notification->error[0] != '\0')
			text_json_any(text, notification->error,
						  strlen(notification->error));
		else
			text_string(text, "null");
		text_string(text, "}}\n");
	}
}

void
payment_free(struct payment *payment)
{
	if (payment == NULL)
		return;
	text_free(&payment->order);
	webhook_free(payment->notification);
	free(payment);
}
