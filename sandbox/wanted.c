/*
 * wanted.c
 *		What a control request wants: its fields, and the entry that it names.
 */
#include "wanted.h"

#include <string.h>

bool
wanted_refuse(struct text *reason, const char *text)
{
	text_string(reason, text);
	return false;
}

bool
wanted_number(const json_t *wanted, const char *name, int64_t least,
			  int64_t most, int64_t *number, struct text *reason)
{
	const json_t *value = json_object_get(wanted, name);

	if (value == NULL)
		return true;
	if (json_is_integer(value) && json_integer_value(value) >= least &&
		json_integer_value(value) <= most)
	{
		*number = json_integer_value(value);
		return true;
	}
	text_json_any(reason, name, strlen(name));
	text_string(reason, " must be an integer from ");
	text_integer(reason, least);
	text_string(reason, " to ");
	text_integer(reason, most);
	return false;
}

/* Checks the names of all fields. */
static bool
check_names(const json_t *wanted, const char *const *names, size_t name_count,
			struct text *reason)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *) wanted, key, value)
	{
		size_t i = 0;

		while (i < name_count && strcmp(key, names[i]) != 0)
			i++;
		if (i < name_count)
			continue;
		text_string(reason, "unknown field ");
		text_json_any(reason, key, strlen(key));
		text_string(reason, "; valid fields: ");
		for (i = 0; i < name_count; i++)
		{
			text_string(reason, i == 0 ? "" : ", ");
			text_string(reason, names[i]);
		}
		return false;
	}
	return true;
}

bool
wanted_check(const json_t *wanted, const char *const *names, size_t name_count,
			 struct text *reason)
{
	const json_t *order_id = json_object_get(wanted, "order_id");
	const json_t *payment_id = json_object_get(wanted, "payment_id");
	const json_t *shop_id = json_object_get(wanted, "shop_id");

	if (!check_names(wanted, names, name_count, reason))
		return false;
	if ((order_id == NULL) == (payment_id == NULL))
		return wanted_refuse(reason,
							 "exactly one of \"order_id\" (the provider's "
							 "number) and \"payment_id\" (the shop's) must be "
							 "there");
	if (order_id != NULL && !json_is_integer(order_id))
		return wanted_refuse(reason,
							 "\"order_id\" must be an integer, the provider's "
							 "number; the shop's own number goes to "
							 "\"payment_id\"");
	if (payment_id != NULL && !json_is_string(payment_id))
		return wanted_refuse(reason, "\"payment_id\" must be a string");
	if (shop_id != NULL && !json_is_string(shop_id))
		return wanted_refuse(reason, "\"shop_id\" must be a string");
	return true;
}

bool
wanted_find(const json_t *wanted, enum book_name book, uint32_t *record,
			struct text *reason)
{
	const json_t *order_id = json_object_get(wanted, "order_id");
	const json_t *payment_id = json_object_get(wanted, "payment_id");
	const json_t *shop_id = json_object_get(wanted, "shop_id");
	size_t shop = 0;

	if (shop_id != NULL &&
		books_find_shop(json_string_value(shop_id), &shop) == NULL)
		return wanted_refuse(reason, "unknown shop_id");
	if (order_id != NULL)
	{
		int64_t id = json_integer_value(order_id);

		/* The provider's numbers are unique over all shops. */
		for (size_t i = 0; books_shop(i) != NULL; i++)
			if ((shop_id == NULL || i == shop) &&
				books_find_id(book, i, id, record))
				return true;
	}
	else if (books_find_reference(book, shop, json_string_value(payment_id),
								  json_string_length(payment_id), record))
		return true;
	return wanted_refuse(reason,
						 book == BOOK_ORDERS ? "order not found"
											 : "withdrawal not found");
}
