/*
 * checkout.c
 *		The page that a payment link opens.
 *
 * A link needs no request before it: the order comes into being when the
 * customer opens it. Five of its fields are signed, by the MD5 of their text,
 * sorted, with the secret key behind it; the others are whatever the customer
 * makes of them.
 *
 * Whether opening a link twice makes two orders is not documented. Here it
 * does: a shop that looks an order up by its own number then finds the newest,
 * which may not be the one that was paid.
 */
#include "checkout.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "books.h"
#include "methods.h"
#include "signature.h"

/* The signed fields, in the order in which they are signed. */
static const char *const signed_names[] = {
	"amount", "currency", "order_id", "shop_id", "test",
};

#define SIGNED_COUNT (sizeof(signed_names) / sizeof(signed_names[0]))

bool
checkout_is_path(const char *path)
{
	return strcmp(path, "/pay") == 0 || strcmp(path, "/pay/") == 0 ||
		checkout_is_form(path);
}

bool
checkout_is_form(const char *path)
{
	return strcmp(path, "/pay/form/") == 0;
}

/* Finds a field: the last of its name, as PHP does. */
static const struct checkout_field *
find(const struct checkout_field *fields, size_t count, const char *name)
{
	const struct checkout_field *found = NULL;

	for (size_t i = 0; i < count; i++)
		if (strcmp(fields[i].name, name) == 0)
			found = &fields[i];
	return found;
}

static bool
is_signed(const struct checkout_field *fields, size_t count,
		  const char *secret_key)
{
	const struct checkout_field *sign = find(fields, count, "sign");
	struct text text = {0};
	char hex[32];

	for (size_t i = 0; i < SIGNED_COUNT; i++)
	{
		const struct checkout_field *field = find(fields, count,
												  signed_names[i]);

		if (field == NULL)
			continue;
		if (text.length > 0)
			text_byte(&text, '&');
		text_string(&text, signed_names[i]);
		text_byte(&text, '=');
		text_form(&text, field->value, field->length);
	}
	signature_md5(text.data, text.length, secret_key, hex);
	text_free(&text);
	return sign != NULL && sign->length == sizeof(hex) &&
		memcmp(sign->value, hex, sizeof(hex)) == 0;
}

static void
copy(json_t *params, const char *to, const struct checkout_field *fields,
	 size_t count, const char *name)
{
	const struct checkout_field *field = find(fields, count, name);

	/* what is not UTF-8 gives NULL, which is as good as not there */
	if (field != NULL)
		json_object_set_new(params, to,
							json_stringn(field->value, field->length));
}

/*
 * Reads receipt[items][NUMBER][name|count|price] into params as createOrder
 * has them. Other spellings are not taken for items.
 */
static void
add_item_field(json_t *items, const struct checkout_field *field)
{
	char number[16], member[8];
	int end = 0;
	json_t *item;

	if (sscanf(field->name, "receipt[items][%15[0-9]][%7[a-z]]%n", number,
			   member, &end) != 2 ||
		end == 0 || field->name[end] != '\0')
		return;
	item = json_object_get(items, number);
	if (item == NULL)
	{
		item = json_object();
		json_object_set_new(items, number, item);
	}
	json_object_set_new(item, member,
						json_stringn(field->value, field->length));
}

/* Returns the link's receipt, or NULL. */
static json_t *
make_receipt(const struct checkout_field *fields, size_t count)
{
	json_t *by_number = json_object();
	json_t *receipt = NULL;
	json_t *items, *item;
	const char *number;

	for (size_t i = 0; i < count; i++)
		add_item_field(by_number, &fields[i]);
	if (json_object_size(by_number) > 0)
	{
		items = json_array();
		json_object_foreach(by_number, number, item)
		{
			json_array_append(items, item);
		}
		receipt = json_object();
		json_object_set_new(receipt, "items", items);
	}
	json_decref(by_number);
	return receipt;
}

/* The link's fields as the params of createOrder. */
static json_t *
make_params(const struct checkout_field *fields, size_t count)
{
	const struct checkout_field *test = find(fields, count, "test");
	json_t *params = json_object();
	json_t *customer = json_object();

	copy(params, "amount", fields, count, "amount");
	copy(params, "currency", fields, count, "currency");
	copy(params, "order_id", fields, count, "order_id");
	copy(params, "payment_system", fields, count, "payment_system");
	copy(params, "notify_url", fields, count, "notify_url");
	copy(customer, "email", fields, count, "fields[email]");
	json_object_set_new(params, "fields", customer);
	/* NULL is not set */
	json_object_set_new(params, "receipt", make_receipt(fields, count));
	if (test != NULL && test->length > 0 && strcmp(test->value, "0") != 0)
		json_object_set_new(params, "test", json_integer(1));
	return params;
}

static void
write_head(struct text *page, const char *title)
{
	text_string(page, "<!DOCTYPE html>\n<html><head><title>");
	text_string(page, title);
	text_string(page, "</title></head>\n<body><h1>");
	text_string(page, title);
	text_string(page, "</h1>\n");
}

static int
refuse(struct text *page, int status, const char *reason)
{
	write_head(page, reason);
	text_string(page, "</body></html>\n");
	return status;
}

int
checkout_open(const struct checkout_field *fields, size_t count,
			  struct text *page)
{
	const struct checkout_field *shop_id = find(fields, count, "shop_id");
	const struct shop *shop;
	struct outcome outcome = {0};
	size_t number;
	json_t *params;
	int64_t id;

	shop = shop_id != NULL ? books_find_shop(shop_id->value, &number) : NULL;
	if (shop == NULL)
		return refuse(page, 404, "Wrong param shop_id");
	if (!is_signed(fields, count, shop->secret_key))
		return refuse(page, 403, "Неверная подпись");
	params = make_params(fields, count);
	id = methods_order(number, params, &outcome);
	json_decref(params);
	if (id < 0)
		return refuse(page, 400, outcome.desc);

	/* numbers only: what came with the link is not for the page */
	write_head(page, "Payment");
	text_string(page, "<p>Order <b id=\"order\">");
	text_integer(page, id);
	text_string(page,
				"</b> was made. This is a sandbox: nobody pays here but by</p>\n"
				"<pre>curl -d '{\"order_id\":");
	text_integer(page, id);
	text_string(page, "}' .../_sandbox/pay</pre>\n</body></html>\n");
	return 200;
}
