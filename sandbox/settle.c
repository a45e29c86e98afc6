/*
 * settle.c
 *		How orders and withdrawals change their status.
 *
 * A withdrawal is accepted when it is made, which lowers the balance. Later it
 * is paid, or it fails or is returned, which gives the money back. An order
 * raises the balance once it is paid, and lowers it again when it is refunded.
 * Any other number is a status that the shop has never heard of: it moves no
 * money.
 *
 * What is planned is a timer with the number of the entry's plan. Each change
 * of status begins another plan, so that a timer which comes too late, because
 * a test has settled the entry by hand, changes nothing.
 */
#include "settle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rows.h"
#include "rules.h"
#include "timer.h"
#include "wanted.h"

static const char *const order_names[] = {
	[STATUS_NEW] = "new",		  [STATUS_PAID] = "paid",
	[STATUS_FAILED] = "failed",	  [STATUS_REFUNDED] = "refunded",
	[STATUS_PENDING] = "pending",
};

#define ORDER_NAME_COUNT ((int) (sizeof(order_names) / sizeof(order_names[0])))

static const char *const field_names[] = {
	"method", "order_id", "payment_id", "shop_id", "result", "ms",
};

#define FIELD_COUNT (sizeof(field_names) / sizeof(field_names[0]))

/* A change of status that a timer brings. */
struct planned
{
	enum book_name book;
	uint32_t record;
	uint64_t generation; /* of the books */
	uint16_t plan;
	int status;
	int64_t ms;
};

bool
settle_read(enum book_name book, const char *text, const char *name,
			int *status, struct text *reason)
{
	const char *const *names = book == BOOK_ORDERS ? order_names
												   : payout_step_names;
	int count = book == BOOK_ORDERS ? ORDER_NAME_COUNT : PAYOUT_STEP_COUNT;
	char *end;
	long number;

	for (int i = 0; i < count; i++)
		if (strcmp(text, names[i]) == 0)
		{
			*status = book == BOOK_ORDERS ? i : rules.payout_status[i];
			return true;
		}
	errno = 0;
	number = strtol(text, &end, 10);
	if (errno == 0 && end != text && *end == '\0' && number >= 0 &&
		number <= INT32_MAX)
	{
		*status = (int) number;
		return true;
	}
	text_string(reason, name);
	text_string(reason, " must be ");
	for (int i = 0; i < count; i++)
	{
		text_string(reason, names[i]);
		text_string(reason, ", ");
	}
	text_string(reason, "or a number from 0 to 2147483647");
	return false;
}

bool
settle_read_json(enum book_name book, const json_t *value, const char *name,
				 int *status, struct text *reason)
{
	struct text text = {0};
	bool is_good;

	if (json_is_integer(value))
		text_integer(&text, json_integer_value(value));
	else if (json_is_string(value))
		text_string(&text, json_string_value(value));
	text_byte(&text, '\0');
	is_good = settle_read(book, text.data, name, status, reason);
	text_free(&text);
	return is_good;
}

/*
 * Moves an entry's money: into the balance for an order that holds it, out of
 * it for a withdrawal, and back where it no longer does. A balance that is full
 * stays as it is: nobody has that much money.
 */
static void
hold_money(enum book_name book, struct entry *entry, bool holds)
{
	money *balance = &books_shop(entry->shop)->balance[entry->currency];
	money change = holds == (book == BOOK_ORDERS) ? entry->amount
												  : -entry->amount;
	money sum;

	if (entry->is_test || entry->holds_money == holds ||
		__builtin_add_overflow(*balance, change, &sum))
		return;
	*balance = sum;
	entry->holds_money = holds;
}

/* Dates the payment of an entry, once. */
static void
note_payment(struct entry *entry)
{
	if (entry->paid == 0)
		entry->paid = (uint32_t) time(NULL);
}

static void
settle_order(struct entry *entry)
{
	switch (entry->status)
	{
		case STATUS_PAID:
			note_payment(entry);
			if (entry->payment_system == PAYMENT_SYSTEM_NONE)
				entry->payment_system = ROW_DEFAULT_PAYMENT_SYSTEM;
			hold_money(BOOK_ORDERS, entry, true);
			break;
		case STATUS_NEW:
		case STATUS_FAILED:
		case STATUS_PENDING:
			entry->paid = 0;
			hold_money(BOOK_ORDERS, entry, false);
			break;
		case STATUS_REFUNDED:
			hold_money(BOOK_ORDERS, entry, false);
			break;
		default:
			break;
	}
}

static void
settle_withdrawal(struct entry *entry)
{
	if (entry->status == rules.payout_status[PAYOUT_PAID])
	{
		note_payment(entry);
		hold_money(BOOK_WITHDRAWALS, entry, true);
	}
	else if (entry->status == rules.payout_status[PAYOUT_ACCEPTED])
	{
		entry->paid = 0;
		hold_money(BOOK_WITHDRAWALS, entry, true);
	}
	else if (entry->status == rules.payout_status[PAYOUT_FAILED])
	{
		entry->paid = 0;
		hold_money(BOOK_WITHDRAWALS, entry, false);
	}
	else if (entry->status == rules.payout_status[PAYOUT_RETURNED])
		hold_money(BOOK_WITHDRAWALS, entry, false);
}

void
settle_now(enum book_name book, struct entry *entry, int status)
{
	entry->status = status;
	entry->plan++;
	if (book == BOOK_ORDERS)
		settle_order(entry);
	else
		settle_withdrawal(entry);
}

/* Says whether an entry must be paid before it can have a status. */
static bool
is_paid_first(enum book_name book, const struct entry *entry, int status)
{
	return book == BOOK_WITHDRAWALS && entry->paid == 0 &&
		status == rules.payout_status[PAYOUT_RETURNED];
}

static void
run(void *argument, bool is_ending)
{
	struct planned *planned = argument;
	struct entry *entry;

	books_lock();
	if (!is_ending && planned->generation == books_generation())
	{
		entry = books_entry(planned->book, planned->record);
		if (entry->plan == planned->plan)
		{
			if (is_paid_first(planned->book, entry, planned->status))
			{
				settle_now(planned->book, entry,
						   rules.payout_status[PAYOUT_PAID]);
				settle_later(planned->book, planned->record, planned->status,
							 planned->ms);
			}
			else
				settle_now(planned->book, entry, planned->status);
		}
	}
	books_unlock();
	free(planned);
}

void
settle_later(enum book_name book, uint32_t record, int status, int64_t ms)
{
	struct entry *entry = books_entry(book, record);
	struct planned *planned;

	if (ms == 0)
	{
		if (is_paid_first(book, entry, status))
			settle_now(book, entry, rules.payout_status[PAYOUT_PAID]);
		settle_now(book, entry, status);
		return;
	}
	planned = must_allocate(sizeof(struct planned));
	*planned = (struct planned){.book = book,
								.record = record,
								.generation = books_generation(),
								.plan = ++entry->plan,
								.status = status,
								.ms = ms};
	timer_add(ms, run, planned);
}

bool
settle_as_wanted(const json_t *wanted, struct text *row, struct text *reason)
{
	const json_t *method = json_object_get(wanted, "method");
	const char *name = json_string_value(method);
	enum book_name book = BOOK_WITHDRAWALS;
	uint32_t record;
	int status;
	int64_t ms = 0;
	bool is_found;

	if (!wanted_check(wanted, field_names, FIELD_COUNT, reason))
		return false;
	if (name != NULL && strcmp(name, "order") == 0)
		book = BOOK_ORDERS;
	else if (method != NULL &&
			 (name == NULL || strcmp(name, "withdrawal") != 0))
		return wanted_refuse(reason,
							 "\"method\" must be \"withdrawal\" (the default) "
							 "or \"order\"");
	if (!settle_read_json(book, json_object_get(wanted, "result"),
						  "\"result\"", &status, reason) ||
		!wanted_number(wanted, "ms", 0, SETTLE_MS_MAX, &ms, reason))
		return false;
	books_lock();
	is_found = wanted_find(wanted, book, &record, reason);
	if (is_found)
	{
		settle_later(book, record, status, ms);
		row_write(row, book, record);
	}
	books_unlock();
	return is_found;
}
