/*
 * fault.c
 *		The faults that are queued, and which request meets which.
 *
 * There is a queue a method, and one for any. A request asks its method's queue
 * first, then the other; in each only the head counts: it passes `skip`
 * requests, then meets `times` of them, then makes way for the next. A head
 * that passes a request leaves it to the other queue.
 *
 * What a fault does is reply.c's and http.c's business.
 */
#include "fault.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <nettle/base64.h>

#include "settle.h"
#include "wanted.h"

/* Above a day, a wait is a mistake. */
#define MS_MAX SETTLE_MS_MAX

/* The most that an answer may weigh: a terabyte. */
#define ANSWER_MAX_BYTES (INT64_C(1) << 40)

/* The most entries that one request can find pushed in front of it. */
#define PUSH_MAX 100000

/* The queue for any method stands behind those of the methods. */
#define QUEUE_ANY	METHOD_COUNT
#define QUEUE_COUNT (METHOD_COUNT + 1)

const char *const action_names[ACTION_COUNT] = {
	"close_before_read",
	"close_after_read",
	"execute_then_close",
	"reset",
	"hold",
	"execute_then_hold",
	"execute_later",
	"drip",
	"cut",
	"length",
	"answer",
	"hide",
	"settle",
	"push",
};

/* The fields that some actions have beside method, skip, times and action. */
enum field
{
	FIELD_MS = 1 << 0,
	FIELD_BYTES = 1 << 1,
	FIELD_LENGTH = 1 << 2,
	FIELD_STATUS = 1 << 3,
	FIELD_HEADERS = 1 << 4,
	FIELD_BODY = 1 << 5,
	FIELD_BODY_BASE64 = 1 << 6,
	FIELD_REPEAT = 1 << 7,
	FIELD_EXECUTED = 1 << 8,
	FIELD_RESULT = 1 << 9,
	FIELD_COUNT = 1 << 10
};

static const struct
{
	const char *name;
	unsigned field; /* 0: every action has it */
} fields[] = {
	{"method", 0},
	{"skip", 0},
	{"times", 0},
	{"action", 0},
	{"ms", FIELD_MS},
	{"bytes", FIELD_BYTES},
	{"length", FIELD_LENGTH},
	{"status", FIELD_STATUS},
	{"headers", FIELD_HEADERS},
	{"body", FIELD_BODY},
	{"body_base64", FIELD_BODY_BASE64},
	{"repeat", FIELD_REPEAT},
	{"executed", FIELD_EXECUTED},
	{"result", FIELD_RESULT},
	{"count", FIELD_COUNT},
};

#define FIELD_NAME_COUNT (sizeof(fields) / sizeof(fields[0]))

/* Which fields an action may have, and which it must. */
static const struct
{
	unsigned allowed;
	unsigned required;
} action_fields[ACTION_COUNT] = {
	[ACTION_HOLD] = {FIELD_MS, FIELD_MS},
	[ACTION_EXECUTE_THEN_HOLD] = {FIELD_MS, FIELD_MS},
	[ACTION_EXECUTE_LATER] = {FIELD_MS, FIELD_MS},
	[ACTION_DRIP] = {FIELD_MS, FIELD_MS},
	[ACTION_CUT] = {FIELD_BYTES, FIELD_BYTES},
	[ACTION_LENGTH] = {FIELD_LENGTH | FIELD_BYTES, 0},
	[ACTION_ANSWER] = {FIELD_STATUS | FIELD_HEADERS | FIELD_BODY |
						   FIELD_BODY_BASE64 | FIELD_REPEAT | FIELD_EXECUTED,
					   0},
	[ACTION_HIDE] = {FIELD_MS, FIELD_MS},
	[ACTION_SETTLE] = {FIELD_RESULT | FIELD_MS, FIELD_RESULT},
	[ACTION_PUSH] = {FIELD_COUNT, FIELD_COUNT},
};

/* A fault in a queue, and how many requests it still passes and meets. */
struct queued
{
	struct queued *next;
	struct fault *fault;
	json_t *description;
	int64_t skip;
	int64_t times; /* -1: until it is deleted */
};

static struct
{
	pthread_mutex_t lock;
	struct queued *heads[QUEUE_COUNT];
	atomic_int count; /* of all: where it is 0, no request locks */
} faults = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Appends `"name"`. */
static void
append_quoted(struct text *text, const char *name)
{
	text_json_any(text, name, strlen(name));
}

/* Appends ", " between names. */
static void
append_name(struct text *text, const char *name, bool *is_first)
{
	text_string(text, *is_first ? "" : ", ");
	text_string(text, name);
	*is_first = false;
}

static bool
find_queue(const json_t *value, int *queue, struct text *reason)
{
	const char *name = json_string_value(value);
	bool is_first = false;

	if (name != NULL && strcmp(name, "*") == 0)
	{
		*queue = QUEUE_ANY;
		return true;
	}
	if (name != NULL)
	{
		*queue = method_find(name, strlen(name));
		if (*queue != METHOD_UNKNOWN)
			return true;
		text_string(reason, "unknown method ");
		append_quoted(reason, name);
	}
	else
		text_string(reason,
					value == NULL ? "\"method\" is missing"
								  : "\"method\" must be a string");
	text_string(reason, "; valid methods: *");
	for (int i = 0; i < METHOD_COUNT; i++)
		append_name(reason, method_names[i], &is_first);
	return false;
}

static bool
find_action(const json_t *value, enum action *action, struct text *reason)
{
	const char *name = json_string_value(value);
	bool is_first = true;

	for (int i = 0; name != NULL && i < ACTION_COUNT; i++)
		if (strcmp(name, action_names[i]) == 0)
		{
			*action = i;
			return true;
		}
	if (name != NULL)
	{
		text_string(reason, "unknown action ");
		append_quoted(reason, name);
	}
	else
		text_string(reason,
					value == NULL ? "\"action\" is missing"
								  : "\"action\" must be a string");
	text_string(reason, "; valid actions: ");
	for (int i = 0; i < ACTION_COUNT; i++)
		append_name(reason, action_names[i], &is_first);
	return false;
}

/* Checks that all fields belong to the action, and that none is missing. */
static bool
check_fields(const json_t *description, enum action action,
			 struct text *reason)
{
	unsigned allowed = action_fields[action].allowed;
	bool is_first = true;
	const char *key;
	json_t *value;

	json_object_foreach((json_t *) description, key, value)
	{
		size_t i = 0;

		while (i < FIELD_NAME_COUNT && strcmp(key, fields[i].name) != 0)
			i++;
		if (i < FIELD_NAME_COUNT &&
			(fields[i].field == 0 || (fields[i].field & allowed) != 0))
			continue;
		text_string(reason, "unknown field ");
		append_quoted(reason, key);
		text_string(reason, " of action ");
		append_quoted(reason, action_names[action]);
		text_string(reason, "; valid fields: ");
		for (i = 0; i < FIELD_NAME_COUNT; i++)
			if (fields[i].field == 0 || (fields[i].field & allowed) != 0)
				append_name(reason, fields[i].name, &is_first);
		return false;
	}
	for (size_t i = 0; i < FIELD_NAME_COUNT; i++)
		if ((fields[i].field & action_fields[action].required) != 0 &&
			json_object_get(description, fields[i].name) == NULL)
		{
			append_quoted(reason, fields[i].name);
			text_string(reason, " is missing; action ");
			append_quoted(reason, action_names[action]);
			text_string(reason, " needs it");
			return false;
		}
	return true;
}

static bool
read_body(const json_t *description, struct fault *fault, struct text *reason)
{
	const json_t *plain = json_object_get(description, "body");
	const json_t *encoded = json_object_get(description, "body_base64");

	if (plain != NULL && encoded != NULL)
	{
		text_string(reason, "\"body\" and \"body_base64\" exclude each other");
		return false;
	}
	if ((plain != NULL && !json_is_string(plain)) ||
		(encoded != NULL && !json_is_string(encoded)))
	{
		text_string(reason,
					plain != NULL ? "\"body\" must be a string"
								  : "\"body_base64\" must be a string");
		return false;
	}
	if (plain != NULL)
		text_append(&fault->body, json_string_value(plain),
					json_string_length(plain));
	if (encoded != NULL)
	{
		struct base64_decode_ctx context;
		size_t length = json_string_length(encoded);
		size_t size = BASE64_DECODE_LENGTH(length);

		text_reserve(&fault->body, size);
		base64_decode_init(&context);
		if (!base64_decode_update(&context, &size,
								  (uint8_t *) fault->body.data, length,
								  json_string_value(encoded)) ||
			!base64_decode_final(&context))
		{
			text_string(reason, "\"body_base64\" is not base64");
			return false;
		}
		fault->body.length = size;
	}
	return true;
}

/* Adds one header, and tries it on the library that will have to send it. */
static bool
add_header(struct fault *fault, struct MHD_Response *trial, const char *name,
		   const json_t *value, struct text *reason)
{
	struct fault_header *header;

	if (!json_is_string(value) ||
		MHD_add_response_header(trial, name, json_string_value(value)) !=
			MHD_YES)
	{
		text_string(reason, "header ");
		append_quoted(reason, name);
		text_string(reason,
					json_is_string(value)
						? " can't be sent like this"
						: " must be a string or an array of strings");
		return false;
	}
	fault->headers = must_reallocate(fault->headers,
									 (fault->header_count + 1) *
										 sizeof(struct fault_header));
	header = &fault->headers[fault->header_count++];
	header->name = strdup(name);
	header->value = strdup(json_string_value(value));
	return true;
}

static bool
read_headers(const json_t *description, struct fault *fault,
			 struct text *reason)
{
	json_t *headers = json_object_get(description, "headers");
	struct MHD_Response *trial;
	const char *name;
	json_t *value;
	bool is_good = true;

	if (headers == NULL)
		return true;
	if (!json_is_object(headers))
	{
		text_string(reason, "\"headers\" must be an object");
		return false;
	}
	trial = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	MHD_set_response_options(trial, MHD_RF_INSANITY_HEADER_CONTENT_LENGTH,
							 MHD_RO_END);
	json_object_foreach(headers, name, value)
	{
		size_t count = json_is_array(value) ? json_array_size(value) : 1;

		for (size_t i = 0; is_good && i < count; i++)
			is_good = add_header(fault, trial, name,
								 json_is_array(value)
									 ? json_array_get(value, i)
									 : value,
								 reason);
	}
	MHD_destroy_response(trial);
	return is_good;
}

/* Reads the fields that the action may have; they were checked by name. */
static bool
read_fields(const json_t *description, struct fault *fault,
			struct text *reason)
{
	const json_t *executed = json_object_get(description, "executed");
	int64_t status = 200;

	if (!wanted_number(description, "ms", 0, MS_MAX, &fault->ms, reason) ||
		!wanted_number(description, "bytes", 0, ANSWER_MAX_BYTES,
					   &fault->bytes, reason) ||
		!wanted_number(description, "length", 0, ANSWER_MAX_BYTES,
					   &fault->length, reason) ||
		!wanted_number(description, "status", 200, 999, &status, reason) ||
		!read_body(description, fault, reason) ||
		!read_headers(description, fault, reason) ||
		!wanted_number(description, "repeat", 1, ANSWER_MAX_BYTES,
					   &fault->repeat, reason) ||
		!wanted_number(description, "count", 1, PUSH_MAX, &fault->count,
					   reason))
		return false;
	if (fault->action == ACTION_SETTLE &&
		!settle_read_json(BOOK_WITHDRAWALS,
						  json_object_get(description, "result"), "\"result\"",
						  &fault->result, reason))
		return false;
	fault->status = (int) status;
	if (fault->body.length > 0 &&
		fault->repeat > ANSWER_MAX_BYTES / (int64_t) fault->body.length)
	{
		text_string(reason, "an answer can't have more than a terabyte");
		return false;
	}
	if (executed != NULL && !json_is_boolean(executed))
	{
		text_string(reason, "\"executed\" must be true or false");
		return false;
	}
	fault->executed = json_is_true(executed);
	return true;
}

bool
fault_add(const json_t *description, struct text *reason)
{
	struct fault *fault;
	struct queued *queued;
	struct queued **place;
	enum action action;
	int queue;
	int64_t skip = 0;
	int64_t times = 1;

	if (!find_queue(json_object_get(description, "method"), &queue, reason) ||
		!find_action(json_object_get(description, "action"), &action,
					 reason) ||
		!check_fields(description, action, reason) ||
		!wanted_number(description, "skip", 0, INT64_MAX, &skip, reason) ||
		!wanted_number(description, "times", -1, INT64_MAX, &times, reason))
		return false;
	if (times == 0)
	{
		text_string(reason,
					"\"times\" must be at least 1, or -1 for every "
					"request until the fault is deleted");
		return false;
	}
	fault = must_allocate(sizeof(struct fault));
	*fault = (struct fault){.users = 1,
							.action = action,
							.bytes = -1,
							.length = -1,
							.repeat = 1};
	if (!read_fields(description, fault, reason))
	{
		fault_release(fault);
		return false;
	}
	queued = must_allocate(sizeof(struct queued));
	*queued = (struct queued){.fault = fault,
							  .description = json_deep_copy(description),
							  .skip = skip,
							  .times = times};
	pthread_mutex_lock(&faults.lock);
	for (place = &faults.heads[queue]; *place != NULL; place = &(*place)->next)
		;
	*place = queued;
	faults.count++;
	pthread_mutex_unlock(&faults.lock);
	return true;
}

/* Takes the first fault out of a queue and frees it. Lock held. */
static void
remove_queued(struct queued **place)
{
	struct queued *queued = *place;

	*place = queued->next;
	fault_release(queued->fault);
	json_decref(queued->description);
	free(queued);
	faults.count--;
}

/* Notes what does not use a request up; returns false for anything else. */
static bool
is_aside(const struct fault *fault, struct aside *aside)
{
	switch (fault->action)
	{
		case ACTION_HIDE:
			aside->hide_ms = fault->ms;
			return true;
		case ACTION_SETTLE:
			aside->has_result = true;
			aside->result = fault->result;
			aside->result_ms = fault->ms;
			return true;
		case ACTION_PUSH:
			aside->push += fault->count;
			return true;
		default:
			return false;
	}
}

/* Asks one queue. Lock held. */
static struct fault *
take_from(struct queued **place, struct aside *aside)
{
	while (*place != NULL)
	{
		struct queued *queued = *place;
		struct fault *fault = queued->fault;

		if (queued->skip > 0)
		{
			queued->skip--;
			return NULL;
		}
		fault->users++;
		if (queued->times > 0)
			queued->times--;
		if (queued->times == 0)
			remove_queued(place);
		else
			place = &queued->next;
		if (!is_aside(fault, aside))
			return fault;
		fault_release(fault);
	}
	return NULL;
}

struct fault *
fault_take(enum method method, struct aside *aside)
{
	struct fault *fault = NULL;

	*aside = (struct aside){0};
	if (faults.count == 0)
		return NULL;
	pthread_mutex_lock(&faults.lock);
	if (method != METHOD_UNKNOWN)
		fault = take_from(&faults.heads[method], aside);
	if (fault == NULL)
		fault = take_from(&faults.heads[QUEUE_ANY], aside);
	pthread_mutex_unlock(&faults.lock);
	return fault;
}

void
fault_release(struct fault *fault)
{
	if (fault == NULL || --fault->users > 0)
		return;
	for (size_t i = 0; i < fault->header_count; i++)
	{
		free(fault->headers[i].name);
		free(fault->headers[i].value);
	}
	free(fault->headers);
	text_free(&fault->body);
	free(fault);
}

json_t *
fault_list(void)
{
	json_t *list = json_array();

	pthread_mutex_lock(&faults.lock);
	for (int i = 0; i < QUEUE_COUNT; i++)
		for (struct queued *queued = faults.heads[i]; queued != NULL;
			 queued = queued->next)
		{
			json_t *copy = json_deep_copy(queued->description);

			json_object_set_new(copy, "skip", json_integer(queued->skip));
			json_object_set_new(copy, "times", json_integer(queued->times));
			json_array_append_new(list, copy);
		}
	pthread_mutex_unlock(&faults.lock);
	return list;
}

void
fault_clear(void)
{
	pthread_mutex_lock(&faults.lock);
	for (int i = 0; i < QUEUE_COUNT; i++)
		while (faults.heads[i] != NULL)
			remove_queued(&faults.heads[i]);
	pthread_mutex_unlock(&faults.lock);
}
