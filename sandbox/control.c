/*
 * control.c
 *		The sandbox's own endpoints, below /_sandbox/.
 *
 * They need no signature, and are no part of the journal.
 */
#include "control.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "fault.h"
#include "journal.h"
#include "books.h"
#include "methods.h"
#include "settle.h"
#include "state.h"

#define PREFIX "/_sandbox/"

static const char help[] =
	"tegro-sandbox: a stand-in for the payment API of Tegro.money\n"
	"\n"
	"POST   /api/METHOD/      the API: createOrder, shops, balance, order, orders,\n"
	"                         createWithdrawal, withdrawals, withdrawal, rates,\n"
	"                         modules\n"
	"\n"
	"GET    /pay/?...&sign=   opens a payment link, which makes its order; /pay?...\n"
	"                         does, too, and the same form posted to /pay/form/\n"
	"\n"
	"POST   /_sandbox/fault   queue a fault: {\"method\":\"createOrder\",\"skip\":0,\n"
	"                         \"times\":1,\"action\":\"execute_then_close\"}\n"
	"GET    /_sandbox/fault   the faults that are queued\n"
	"DELETE /_sandbox/fault   forget them\n"
	"POST   /_sandbox/pay     pay an order and notify the shop: {\"order_id\":755555}\n"
	"                         or {\"payment_id\":\"the shop's own number\"}\n"
	"POST   /_sandbox/settle  change the status of a withdrawal, or of an order:\n"
	"                         {\"payment_id\":\"the shop's own number\",\n"
	"                         \"result\":\"failed\"}\n"
	"GET    /_sandbox/state   orders, withdrawals, balances; ?shop_id=ID of another\n"
	"                         shop, ?summary=1 for the counts and balances only\n"
	"POST   /_sandbox/flush   answers once every line is in the journal\n"
	"POST   /_sandbox/reset   forget orders, withdrawals, nonces and faults\n";

static void
succeed(struct control_answer *answer)
{
	text_string(&answer->body, "{\"type\":\"success\"}\n");
}

/* Answers with an error; takes the reason over. */
static void
fail(struct control_answer *answer, int status, struct text *reason)
{
	answer->status = status;
	text_string(&answer->body, "{\"type\":\"error\",\"desc\":");
	text_json_any(&answer->body, reason->data, reason->length);
	text_string(&answer->body, "}\n");
	text_free(reason);
}

static void
fail_with(struct control_answer *answer, int status, const char *reason)
{
	struct text text = {0};

	text_string(&text, reason);
	fail(answer, status, &text);
}

/* Parses the body as an object; answers 400 and returns NULL where it is none. */
static json_t *
parse(const char *body, size_t length, struct control_answer *answer)
{
	json_error_t error;
	json_t *object = json_loadb(body, length,
								JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES,
								&error);

	if (object == NULL)
	{
		struct text reason = {0};

		text_string(&reason, "the body is not JSON: ");
		text_string(&reason, error.text);
		fail(answer, 400, &reason);
	}
	else if (!json_is_object(object))
	{
		json_decref(object);
		fail_with(answer, 400, "the body must be a JSON object");
		return NULL;
	}
	return object;
}

static void
add_fault(const char *body, size_t length, struct control_answer *answer)
{
	json_t *description = parse(body, length, answer);
	struct text reason = {0};

	if (description == NULL)
		return;
	if (fault_add(description, &reason))
		succeed(answer);
	else
		fail(answer, 400, &reason);
	json_decref(description);
}

static void
list_faults(struct control_answer *answer)
{
	json_t *list = fault_list();
	char *dump = json_dumps(list, JSON_COMPACT);

	text_string(&answer->body, "{\"type\":\"success\",\"data\":");
	text_string(&answer->body, dump);
	text_string(&answer->body, "}\n");
	free(dump);
	json_decref(list);
}

static void
pay(const char *body, size_t length, struct control_answer *answer)
{
	json_t *wanted = parse(body, length, answer);
	struct text reason = {0};

	if (wanted == NULL)
		return;
	answer->payment = payment_make(wanted, &reason);
	if (answer->payment == NULL)
		fail(answer, 400, &reason);
	json_decref(wanted);
}

static void
settle(const char *body, size_t length, struct control_answer *answer)
{
	json_t *wanted = parse(body, length, answer);
	struct text row = {0};
	struct text reason = {0};

	if (wanted == NULL)
		return;
	if (settle_as_wanted(wanted, &row, &reason))
	{
		text_string(&answer->body, "{\"type\":\"success\",\"data\":");
		text_append(&answer->body, row.data, row.length);
		text_string(&answer->body, "}\n");
	}
	else
		fail(answer, 400, &reason);
	text_free(&row);
	json_decref(wanted);
}

static void
show_state(const char *shop_id, const char *summary,
		   struct control_answer *answer)
{
	const struct shop *shop = shop_id == NULL ? books_shop(0)
											  : books_find_shop(shop_id, NULL);

	journal_flush();
	if (shop == NULL)
		fail_with(answer, 400, "unknown shop_id");
	else
		answer->stream =
			state_answer(shop, summary != NULL && strcmp(summary, "0") != 0);
}

bool
control_is_path(const char *path)
{
	return strncmp(path, PREFIX, sizeof(PREFIX) - 1) == 0 ||
		strcmp(path, "/_sandbox") == 0;
}

void
control_execute(const char *verb, const char *path, const char *shop_id,
				const char *summary, const char *body, size_t length,
				struct control_answer *answer)
{
	const char *name = path + strlen(PREFIX) -
		(path[strlen(PREFIX) - 1] == '\0');
	bool is_get = strcmp(verb, "GET") == 0;
	bool is_post = strcmp(verb, "POST") == 0;

	*answer = (struct control_answer){.status = 200,
									  .content_type = "application/json"};
	if (strcmp(name, "") == 0)
	{
		answer->allow = is_get ? NULL : "GET";
		answer->content_type = "text/plain; charset=utf-8";
		text_string(&answer->body, help);
	}
	else if (strcmp(name, "fault") == 0)
	{
		if (is_post)
			add_fault(body, length, answer);
		else if (is_get)
			list_faults(answer);
		else if (strcmp(verb, "DELETE") == 0)
		{
			fault_clear();
			succeed(answer);
		}
		else
			answer->allow = "GET, POST, DELETE";
	}
	else if (strcmp(name, "state") == 0)
	{
		if (is_get)
			show_state(shop_id, summary, answer);
		else
			answer->allow = "GET";
	}
	else if (strcmp(name, "pay") == 0)
	{
		if (is_post)
			pay(body, length, answer);
		else
			answer->allow = "POST";
	}
	else if (strcmp(name, "settle") == 0)
	{
		if (is_post)
			settle(body, length, answer);
		else
			answer->allow = "POST";
	}
	else if (strcmp(name, "flush") == 0)
	{
		if (is_post)
		{
			journal_flush();
			succeed(answer);
		}
		else
			answer->allow = "POST";
	}
	else if (strcmp(name, "reset") == 0)
	{
		if (is_post)
		{
			methods_reset();
			fault_clear();
			succeed(answer);
		}
		else
			answer->allow = "POST";
	}
	else
		fail_with(answer, 404, "no such endpoint; GET /_sandbox/ lists them");
	if (answer->allow != NULL)
	{
		struct text reason = {0};

		text_free(&answer->body);
		answer->content_type = "application/json";
		text_string(&reason, "this endpoint answers ");
		text_string(&reason, answer->allow);
		fail(answer, 405, &reason);
	}
}
