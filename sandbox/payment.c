/*
 * payment.c
 *		What a customer would do: pays an order, so that the shop is notified.
 *
 * The notification carries the fields that the provider documents and those
 * that integrations have seen, sorted by key; the signature is over the text
 * that PHP's http_build_query makes of them, whatever the content type is. With
 * "tamper" the amount is changed after signing, which a shop must notice.
 *
 * Paying twice credits once, and notifies again: providers do repeat
 * notifications. With "again" it makes another order under the same number and
 * pays that. A test order credits nothing.
 *
 * With --check the shop is asked first, by a request like the notification of
 * an order that waits. The documentation says no more of it than that an
 * erroneous response rejects the order; all else is a guess.
 */
#include "payment.h"

#include <stdlib.h>
#include <string.h>

#include "books.h"
#include "rows.h"
#include "settle.h"
#include "signature.h"
#include "wanted.h"

/* Replays of one notification; more would only take longer. */
#define REPEAT_MAX 100000

static const char *const field_names[] = {
	"order_id", "payment_id", "shop_id", "notify_url", "repeat",
	"tamper",	"again",	  "as",		 "fields",	   "upper_case",
};

#define FIELD_COUNT (sizeof(field_names) / sizeof(field_names[0]))

/* How the shop is told, as the call and the rules have it. */
struct manner
{
	enum webhook_type type;
	unsigned extras;
	bool upper_case;
	bool tamper;
	int64_t repeat;
};

struct payment
{
	uint32_t record;
	uint64_t generation; /* of the books */
	char *url;			 /* NULL: the shop is not told */
	struct manner manner;
	struct text order;			  /* the order's row, as JSON */
	struct webhook *check;		  /* asks the shop first, or NULL */
	struct webhook *notification; /* or NULL */
	webhook_done done;
	void *argument;
};

static const char *default_notify_url;

void
payment_configure(const char *notify_url)
{
	default_notify_url = notify_url;
}

/* Reads the list of a notification's further fields. */
static bool
read_extras(const json_t *list, unsigned *extras, struct text *reason)
{
	bool is_good = list == NULL || json_is_array(list);

	if (list != NULL)
		*extras = 0;
	for (size_t i = 0; is_good && i < json_array_size(list); i++)
	{
		const char *name = json_string_value(json_array_get(list, i));
		int place = name != NULL ? rules_find(webhook_extra_names, name) : -1;

		is_good = place >= 0;
		if (is_good)
			*extras |= 1U << place;
	}
	return is_good ||
		wanted_refuse(reason,
					  "\"fields\" must be an array of \"payment_id\", "
					  "\"payment_system\", \"status\"");
}

static bool
read_type(const json_t *value, enum webhook_type *type, struct text *reason)
{
	const char *name = json_string_value(value);
	int place = name != NULL ? rules_find(webhook_type_names, name) : -1;

	if (place >= 0)
		*type = (enum webhook_type) place;
	return value == NULL || place >= 0 ||
		wanted_refuse(reason,
					  "\"as\" must be \"urlencoded\", \"multipart\" or "
					  "\"json\"");
}

static bool
read_boolean(const json_t *wanted, const char *name, bool *boolean,
			 struct text *reason)
{
	const json_t *value = json_object_get(wanted, name);

	if (value == NULL)
		return true;
	*boolean = json_is_true(value);
	if (json_is_boolean(value))
		return true;
	text_json_any(reason, name, strlen(name));
	return wanted_refuse(reason, " must be true or false");
}

/* Checks names and types, and reads how the shop is told. */
static bool
read_wanted(const json_t *wanted, struct manner *manner, bool *again,
			struct text *reason)
{
	const json_t *notify_url = json_object_get(wanted, "notify_url");

	*manner = (struct manner){.type = rules.notify_as,
							  .extras = rules.notify_extras,
							  .upper_case = rules.notify_upper_case,
							  .repeat = 1};
	if (!wanted_check(wanted, field_names, FIELD_COUNT, reason))
		return false;
	if (notify_url != NULL && !json_is_string(notify_url))
		return wanted_refuse(reason, "\"notify_url\" must be a string");
	return wanted_number(wanted, "repeat", 1, REPEAT_MAX, &manner->repeat,
						 reason) &&
		read_type(json_object_get(wanted, "as"), &manner->type, reason) &&
		read_extras(json_object_get(wanted, "fields"), &manner->extras,
					reason) &&
		read_boolean(wanted, "tamper", &manner->tamper, reason) &&
		read_boolean(wanted, "again", again, reason) &&
		read_boolean(wanted, "upper_case", &manner->upper_case, reason);
}

static void
add_string(struct webhook *webhook, const char *name, const char *value)
{
	webhook_add(webhook, name, value, strlen(value));
}

static void
add_number(struct webhook *webhook, const char *name, int64_t number)
{
	struct text digits = {0};

	text_integer(&digits, number);
	webhook_add(webhook, name, digits.data, digits.length);
	text_free(&digits);
}

static void
add_amount(struct webhook *webhook, money amount)
{
	struct text digits = {0};

	money_write(&digits, amount, 2);
	webhook_add(webhook, "amount", digits.data, digits.length);
	text_free(&digits);
}

/* Adds the signed fields, sorted by name. Books' lock held. */
static void
add_fields(struct webhook *webhook, uint32_t record, unsigned extras)
{
	const struct entry *entry = books_entry(BOOK_ORDERS, record);
	size_t length;
	const char *reference = entry_string(entry, ENTRY_REFERENCE, &length);

	add_amount(webhook, row_amount(BOOK_ORDERS, entry));
	add_string(webhook, "currency", currency_code(entry->currency));
	webhook_add(webhook, "order_id", reference, length);
	if ((extras & EXTRA_PAYMENT_ID) != 0)
		add_number(webhook, "payment_id", books_id(BOOK_ORDERS, record));
	if ((extras & EXTRA_PAYMENT_SYSTEM) != 0 &&
		entry->payment_system != PAYMENT_SYSTEM_NONE)
		add_number(webhook, "payment_system", entry->payment_system);
	add_string(webhook, "shop_id", books_shop(entry->shop)->id);
	if ((extras & EXTRA_STATUS) != 0)
		add_number(webhook, "status", entry->status);
	if (entry->is_test)
		add_number(webhook, "test", 1);
}

/* Changes the amount, which is the first field. */
static void
tamper(struct webhook *webhook, money amount)
{
	webhook->fields[0].value.length = 0;
	money_write(&webhook->fields[0].value, amount + MONEY_ONE, 2);
}

/* Makes a request that tells of an order. Books' lock held. */
static struct webhook *
make_webhook(const struct payment *payment)
{
	const struct entry *entry = books_entry(BOOK_ORDERS, payment->record);
	const char *secret_key = books_shop(entry->shop)->secret_key;
	struct webhook *webhook = must_allocate(sizeof(struct webhook));
	struct text form = {0};
	char sign[32];

	*webhook = (struct webhook){.url = strdup(payment->url),
								.type = payment->manner.type,
								.repeat = payment->manner.repeat,
								.retries = rules.notify_retries,
								.retry_ms = rules.notify_retry_ms};
	add_fields(webhook, payment->record, payment->manner.extras);
	webhook_write_form(webhook, &form);
	signature_md5(form.data, form.length, secret_key, sign);
	text_free(&form);
	for (size_t i = 0; payment->manner.upper_case && i < sizeof(sign); i++)
		if (sign[i] >= 'a' && sign[i] <= 'f')
			sign[i] -= 'a' - 'A';
	if (payment->manner.tamper)
		tamper(webhook, row_amount(BOOK_ORDERS, entry));
	webhook_add(webhook, "sign", sign, sizeof(sign));
	return webhook;
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

/* Gives the order a status, and prepares what tells of it. Lock held. */
static void
pay(struct payment *payment, int status)
{
	struct entry *entry = books_entry(BOOK_ORDERS, payment->record);

	if (entry->status != STATUS_PAID)
		settle_now(BOOK_ORDERS, entry, status);
	row_write(&payment->order, BOOK_ORDERS, payment->record);
	if (payment->url != NULL && entry->status == STATUS_PAID)
		payment->notification = make_webhook(payment);
}

/* Makes another order like this one. Books' lock held. */
static uint32_t
copy_order(uint32_t record)
{
	const struct entry *old = books_entry(BOOK_ORDERS, record);
	struct entry entry = *old;
	size_t reference_length, party_length, url_length;
	const char *reference = entry_string(old, ENTRY_REFERENCE,
										 &reference_length);
	const char *party = entry_string(old, ENTRY_PARTY, &party_length);
	const char *url = entry_string(old, ENTRY_NOTIFY_URL, &url_length);

	entry.status = STATUS_NEW;
	entry.paid = 0;
	entry.holds_money = false;
	return books_add(BOOK_ORDERS, entry, reference, reference_length, party,
					 party_length, url, url_length);
}

/* Pays, or prepares to ask the shop. Books' lock held. */
static struct payment *
begin(const json_t *wanted, uint32_t record, const struct manner *manner)
{
	struct payment *payment = must_allocate(sizeof(struct payment));
	const struct entry *entry = books_entry(BOOK_ORDERS, record);

	*payment = (struct payment){.record = record,
								.generation = books_generation(),
								.url = choose_url(wanted, entry),
								.manner = *manner};
	if (rules.check && payment->url != NULL && entry->status != STATUS_PAID)
	{
		payment->check = make_webhook(payment);
		payment->check->repeat = 1;
		payment->check->retries = 0;
	}
	else
		pay(payment, STATUS_PAID);
	return payment;
}

struct payment *
payment_make(const json_t *wanted, struct text *reason)
{
	struct payment *payment = NULL;
	struct manner manner;
	uint32_t record;
	bool again = false;

	if (!read_wanted(wanted, &manner, &again, reason))
		return NULL;
	books_lock();
	if (wanted_find(wanted, BOOK_ORDERS, &record, reason))
	{
		if (books_entry(BOOK_ORDERS, record)->is_unpayable)
			text_string(reason,
						"the payment page shows an error: the receipt "
						"does not add up to the amount");
		else
			payment = begin(wanted, again ? copy_order(record) : record,
							&manner);
	}
	books_unlock();
	return payment;
}

bool
payment_has_requests(const struct payment *payment)
{
	return payment->check != NULL || payment->notification != NULL;
}

/* Goes on once the shop has answered the request before the payment. */
static void
go_on(void *argument)
{
	struct payment *payment = argument;
	bool is_good = payment->check->accepted > 0;

	books_lock();
	/* after a reset there is no such order any more */
	if (payment->generation == books_generation())
		pay(payment, is_good ? STATUS_PAID : STATUS_FAILED);
	books_unlock();
	if (payment->notification == NULL)
	{
		payment->done(payment->argument);
		return;
	}
	payment->notification->done = payment->done;
	payment->notification->argument = payment->argument;
	webhook_send(payment->notification);
}

void
payment_send(struct payment *payment, webhook_done done, void *argument)
{
	struct webhook *first = payment->notification;

	payment->done = done;
	payment->argument = argument;
	if (payment->check != NULL)
	{
		first = payment->check;
		done = go_on;
		argument = payment;
	}
	first->done = done;
	first->argument = argument;
	webhook_send(first);
}

/* Says why nothing was told. */
static const char *
untold_reason(const struct payment *payment)
{
	return payment->check != NULL ? "the shop refused the request before it"
								  : "there is no notify_url";
}

void
payment_write(struct text *text, const struct payment *payment)
{
	const struct webhook *webhook = payment->notification;
	const char *error = webhook != NULL ? webhook->error
										: untold_reason(payment);

	text_string(text, "{\"type\":\"success\",\"data\":{\"order\":");
	if (payment->order.length > 0)
		text_append(text, payment->order.data, payment->order.length);
	else
		text_string(text, "null");
	text_string(text, ",\"notified\":");
	text_string(text,
				webhook != NULL && webhook->accepted == webhook->repeat
					? "true"
					: "false");
	text_string(text, ",\"notification_status\":");
	if (webhook != NULL && webhook->status > 0)
		text_integer(text, webhook->status);
	else
		text_string(text, "null");
	text_string(text, ",\"notifications_accepted\":");
	text_integer(text, webhook != NULL ? webhook->accepted : 0);
	text_string(text, ",\"notification_requests\":");
	text_integer(text, webhook != NULL ? webhook->requests : 0);
	text_string(text, ",\"notification_error\":");
	if (error[0] != '\0')
		text_json_any(text, error, strlen(error));
	else
		text_string(text, "null");
	text_string(text, "}}\n");
}

void
payment_free(struct payment *payment)
{
	if (payment == NULL)
		return;
	free(payment->url);
	text_free(&payment->order);
	webhook_free(payment->check);
	webhook_free(payment->notification);
	free(payment);
}
