/*
 * http.c
 *		The server: connections, requests, and answers that wait.
 *
 * libmicrohttpd runs some threads with an epoll each; a connection stays with
 * one of them. No thread ever waits for anything else: a request that has to
 * (--latency, a hold, a notification that must be sent first) suspends its
 * connection, and a timer or the sender of notifications resumes it. The handler
 * is called again then and goes on where `stage` says.
 *
 * Vocabulary: a request is *received* when its body is there, *executed* when
 * the provider has done what it asks, *answered* when the answer is handed to
 * the library.
 *
 * Hazards. While a connection is suspended, the library does not notice that
 * the client is gone: a held request executes all the same, as it would at a
 * provider. A resumed connection may run at once on its own thread: whoever
 * suspends sets everything up before the timer is added, and touches nothing
 * after. The library must not be stopped while anything is suspended.
 */
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "reply.h"
#include "control.h"
#include "fault.h"
#include "gateway.h"
#include "journal.h"
#include "books.h"
#include "checkout.h"
#include "methods.h"
#include "state.h"
#include "timer.h"

/* A longer body is refused. Ten times what the API can need. */
#define BODY_MAX_BYTES (1024 * 1024)

/* What a connection may use for its headers and buffers: MHD's own default. */
#define CONNECTION_MEMORY_BYTES (32 * 1024)

/* More connections than this wait in the listen queue. */
#define CONNECTIONS_MAX 20000
#define LISTEN_QUEUE	4096

#define API_PREFIX "/api/"

#define HTML_TYPE "text/html; charset=utf-8"

/* What the library parses of a posted form at a time. */
#define FORM_BUFFER_BYTES (64 * 1024)

/* A client's connection. */
struct peer
{
	uint64_t number; /* from 1 */
	uint64_t requests;
};

enum stage
{
	STAGE_RECEIVING,
	STAGE_HELD,		/* received, to be executed after a while */
	STAGE_EXECUTED, /* to be answered after a while */
	STAGE_NOTIFIED	/* a control request whose notification is out */
};

struct request
{
	enum stage stage;
	bool is_control;
	bool is_checkout;
	bool is_too_long;
	bool is_waiting;  /* it is counted among those that wait */
	bool is_detached; /* its strings are its own */
	uint64_t connection;
	uint64_t number;
	uint64_t generation; /* of the books, when it was received */
	enum method method;
	char *path;
	char *authorization;
	char *user_agent;
	struct text body;
	struct fault *fault;
	struct aside aside; /* what else is planned for it */
	struct outcome outcome;
	struct text surplus; /* what is to be sent behind the answer */
	struct payment *payment;
};

static struct MHD_Daemon *server;
static struct http_options settings;
static atomic_bool ending;
static atomic_ullong connection_count;

/* Frees a request. */
static void
request_free(struct request *request)
{
	if (request->is_waiting)
		state_waiting_add(-1);
	if (request->is_detached)
	{
		free(request->authorization);
		free(request->user_agent);
	}
	free(request->path);
	text_free(&request->body);
	text_free(&request->outcome.answer);
	text_free(&request->surplus);
	fault_release(request->fault);
	payment_free(request->payment);
	free(request);
}

/* Returns the method's name out of /api/NAME/, or NULL. */
static const char *
method_in_path(const char *path, size_t *length)
{
	const char *name = path + sizeof(API_PREFIX) - 1;

	if (strncmp(path, API_PREFIX, sizeof(API_PREFIX) - 1) != 0)
		return NULL;
	*length = strcspn(name, "/");
	if (*length == 0 || strcmp(name + *length, "/") != 0)
		return NULL;
	return name;
}

/* Writes a request into the journal. status 0: it gets no answer. */
static void
record(struct request *request, const char *verdict, const char *desc,
	   int status, bool is_deferred)
{
	struct journal_line line = {.connection = request->connection,
								.request = request->number,
								.method = request->path,
								.body = request->body.data,
								.body_length = request->body.length,
								.authorization = request->authorization,
								.user_agent = request->user_agent,
								.has_nonce = request->outcome.has_nonce,
								.nonce = request->outcome.nonce,
								.verdict = verdict,
								.desc = desc,
								.executed = request->outcome.executed,
								.fault = request->fault != NULL
									? action_names[request->fault->action]
									: NULL,
								.http_status = status,
								.deferred = is_deferred};
	char name[64];
	size_t length;
	const char *found = method_in_path(request->path, &length);

	if (!journal_is_open())
		return;
	if (found != NULL && length < sizeof(name))
	{
		memcpy(name, found, length);
		name[length] = '\0';
		line.method = name;
	}
	journal_write(&line);
}

/* Executes a request. */
static void
execute(struct request *request)
{
	methods_execute(request->method, request->body.data, request->body.length,
					request->authorization, &request->aside,
					&request->outcome);
}

/* Executes a request and records it. */
static void
execute_and_record(struct request *request, int status, bool is_deferred)
{
	const char *verdict;

	execute(request);
	verdict = request->fault != NULL && !is_deferred ? "fault"
		: request->outcome.success					 ? "success"
													 : "error";
	record(request, verdict, request->outcome.desc, status, is_deferred);
}

static void
resume(void *connection, bool is_ending)
{
	(void) is_ending;
	MHD_resume_connection(connection);
}

static void
resume_notified(void *connection)
{
	MHD_resume_connection(connection);
}

/* Suspends a connection; the handler is called again after so long. */
static enum MHD_Result
wait_at(struct MHD_Connection *connection, struct request *request,
		enum stage stage, int64_t ms)
{
	request->stage = stage;
	MHD_suspend_connection(connection);
	timer_add(ms, resume, connection);
	return MHD_YES;
}

/* Counts a request among those that wait for their execution. */
static void
note_waiting(struct request *request)
{
	books_lock();
	request->generation = books_generation();
	books_unlock();
	request->is_waiting = true;
	state_waiting_add(1);
}

/*
 * Says whether a request that waited is still to be executed: after a reset, it
 * belongs to what was forgotten, and must not turn up in the next test.
 */
static bool
is_still_wanted(struct request *request)
{
	bool is_wanted;

	books_lock();
	is_wanted = request->generation == books_generation();
	books_unlock();
	return is_wanted;
}

/* Executes a request whose connection is long closed. */
static void
execute_late(void *argument, bool is_ending)
{
	struct request *request = argument;

	if (!is_ending && is_still_wanted(request))
		execute_and_record(request, 0, true);
	request_free(request);
}

/* Copies what belongs to a request's connection, which may end before it. */
static void
detach(struct request *request)
{
	request->is_detached = true;
	if (request->authorization != NULL)
		request->authorization = strdup(request->authorization);
	if (request->user_agent != NULL)
		request->user_agent = strdup(request->user_agent);
}

/* Executes a request that was held. status 0: there is nobody to answer to. */
static void
execute_held(struct request *request, int status)
{
	request->is_waiting = false;
	state_waiting_add(-1);
	execute_and_record(request, status, true);
}

/* Answers an executed request. */
static enum MHD_Result
answer(struct MHD_Connection *connection, struct request *request)
{
	struct text *body = &request->outcome.answer;

	if (request->fault != NULL)
		switch (request->fault->action)
		{
			case ACTION_DRIP:
			case ACTION_CUT:
			case ACTION_LENGTH:
			case ACTION_ANSWER:
				return reply_send_broken(connection, request->fault, body,
										 &request->surplus);
			default:
				break;
		}
	return reply_send(connection, 200, "application/json", NULL, body);
}

/* Records a request that is refused before it reaches the API, and refuses it. */
static enum MHD_Result
refuse(struct MHD_Connection *connection, struct request *request, int status,
	   const char *desc, const char *page)
{
	struct text body = {0};

	if (page != NULL)
		text_string(&body, page);
	else
	{
		text_string(&body, "<html>\n<head><title>");
		text_string(&body, desc);
		text_string(&body, "</title></head>\n<body><h1>");
		text_string(&body, desc);
		text_string(&body, "</h1></body>\n</html>\n");
	}
	methods_read_nonce(request->body.data, request->body.length,
					   &request->outcome);
	record(request, "error", desc, status, false);
	return reply_send(connection, status, HTML_TYPE,
					  status == 405 ? "POST" : NULL, &body);
}

/* Does the part of a fault that comes before or in place of the execution. */
static enum MHD_Result
meet_fault(struct MHD_Connection *connection, struct request *request,
		   void **slot)
{
	struct fault *fault = request->fault;

	switch (fault->action)
	{
		case ACTION_EXECUTE_THEN_CLOSE:
			execute_and_record(request, 0, false);
			return MHD_NO;
		case ACTION_RESET:
			execute_and_record(request, 0, false);
			reply_reset(connection);
			return MHD_NO;
		case ACTION_EXECUTE_THEN_HOLD:
			execute_and_record(request, 200, false);
			return wait_at(connection, request, STAGE_EXECUTED,
						   fault->ms + settings.latency_ms);
		case ACTION_DRIP:
		case ACTION_CUT:
		case ACTION_LENGTH:
			execute_and_record(request, 200, false);
			return MHD_YES;
		case ACTION_ANSWER:
			if (fault->executed)
			{
				execute_and_record(request, fault->status, false);
				return MHD_YES;
			}
			break;
		default:
			break;
	}

	/* The others do not execute, or not yet. */
	methods_read_nonce(request->body.data, request->body.length,
					   &request->outcome);
	record(request, "fault", "",
		   fault->action == ACTION_ANSWER ? fault->status : 0, false);
	switch (fault->action)
	{
		case ACTION_HOLD:
			detach(request);
			note_waiting(request);
			return wait_at(connection, request, STAGE_HELD, fault->ms);
		case ACTION_EXECUTE_LATER:
			*slot = NULL;
			detach(request);
			note_waiting(request);
			timer_add(fault->ms, execute_late, request);
			return MHD_NO;
		case ACTION_ANSWER:
			return MHD_YES;
		default:
			return MHD_NO;
	}
}

/* Does what a received API request asks. */
static enum MHD_Result
serve_api(struct MHD_Connection *connection, struct request *request,
		  void **slot)
{
	if (request->fault == NULL)
		execute_and_record(request, 200, false);
	else
	{
		enum MHD_Result result = meet_fault(connection, request, slot);

		/* *slot is empty, or the stage is another, where it is not answered yet. */
		if (result != MHD_YES || request->stage != STAGE_RECEIVING)
			return result;
	}
	if (settings.latency_ms > 0)
		return wait_at(connection, request, STAGE_EXECUTED,
					   settings.latency_ms);
	return answer(connection, request);
}

/* Answers a control request. */
static enum MHD_Result
serve_control(struct MHD_Connection *connection, struct request *request,
			  const char *verb)
{
	struct control_answer result;

	control_execute(verb, request->path,
					MHD_lookup_connection_value(connection,
												MHD_GET_ARGUMENT_KIND,
												"shop_id"),
					MHD_lookup_connection_value(connection,
												MHD_GET_ARGUMENT_KIND,
												"summary"),
					request->body.data, request->body.length, &result);
	if (result.stream != NULL)
	{
		enum MHD_Result queued;

		MHD_add_response_header(result.stream, MHD_HTTP_HEADER_CONTENT_TYPE,
								result.content_type);
		queued = MHD_queue_response(connection, (unsigned) result.status,
									result.stream);
		MHD_destroy_response(result.stream);
		return queued;
	}
	if (result.payment != NULL)
	{
		request->payment = result.payment;
		if (payment_has_requests(result.payment))
		{
			request->stage = STAGE_NOTIFIED;
			MHD_suspend_connection(connection);
			payment_send(result.payment, resume_notified, connection);
			return MHD_YES;
		}
		payment_write(&result.body, result.payment);
	}
	return reply_send(connection, result.status, result.content_type,
					  result.allow, &result.body);
}

/* The fields of a payment link, as they come. */
struct form
{
	struct checkout_field fields[CHECKOUT_FIELDS_MAX];
	struct text values[CHECKOUT_FIELDS_MAX]; /* of a posted form */
	size_t count;
};

static enum MHD_Result
add_query_field(void *argument, enum MHD_ValueKind kind, const char *name,
				size_t name_length, const char *value, size_t length)
{
	struct form *form = argument;

	(void) kind;
	(void) name_length;
	if (form->count == CHECKOUT_FIELDS_MAX)
		return MHD_NO;
	form->fields[form->count++] =
		(struct checkout_field){name, value != NULL ? value : "", length};
	return MHD_YES;
}

/* A posted field; a long one comes in pieces, and offset says where it goes on. */
static enum MHD_Result
add_form_field(void *argument, enum MHD_ValueKind kind, const char *name,
			   const char *file_name, const char *content_type,
			   const char *transfer_encoding, const char *data,
			   uint64_t offset, size_t size)
{
	struct form *form = argument;

	(void) kind;
	(void) file_name;
	(void) content_type;
	(void) transfer_encoding;
	if (offset == 0)
	{
		if (form->count == CHECKOUT_FIELDS_MAX)
			return MHD_NO;
		form->fields[form->count++].name = strdup(name != NULL ? name : "");
	}
	if (form->count > 0 && size > 0)
		text_append(&form->values[form->count - 1], data, size);
	return MHD_YES;
}

/* Reads a posted form of either content type. */
static bool
read_form(struct MHD_Connection *connection, struct request *request,
		  struct form *form)
{
	struct MHD_PostProcessor *processor =
		MHD_create_post_processor(connection, FORM_BUFFER_BYTES,
								  add_form_field, form);
	bool is_good;

	if (processor == NULL)
		return false;
	is_good = MHD_post_process(processor, request->body.data,
							   request->body.length) == MHD_YES;
	is_good = MHD_destroy_post_processor(processor) == MHD_YES && is_good;
	for (size_t i = 0; i < form->count; i++)
	{
		text_byte(&form->values[i], '\0');
		form->fields[i].value = form->values[i].data;
		form->fields[i].length = form->values[i].length - 1;
	}
	return is_good;
}

/* Frees a form, and the names and values where it was posted. */
static void
form_free(struct form *form, bool is_posted)
{
	for (size_t i = 0; is_posted && i < form->count; i++)
	{
		free((char *) form->fields[i].name);
		text_free(&form->values[i]);
	}
	free(form);
}

/* Opens a payment link, for a customer: no CDN, no journal. */
static enum MHD_Result
serve_checkout(struct MHD_Connection *connection, struct request *request,
			   const char *verb)
{
	bool is_form = checkout_is_form(request->path);
	const char *allowed = is_form ? MHD_HTTP_METHOD_POST : MHD_HTTP_METHOD_GET;
	struct form *form;
	struct text page = {0};
	int status = 400;

	if (strcmp(verb, allowed) != 0)
		return reply_send(connection, 405, HTML_TYPE, allowed, &page);
	if (request->is_too_long)
		return reply_send(connection, 413, HTML_TYPE, NULL, &page);
	form = must_allocate(sizeof(struct form));
	memset(form, 0, sizeof(*form));
	if (!is_form)
		MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND,
									add_query_field, form);
	if (!is_form || read_form(connection, request, form))
		status = checkout_open(form->fields, form->count, &page);
	form_free(form, is_form);
	return reply_send(connection, status, HTML_TYPE, NULL, &page);
}

/* Does what a request asks, now that it is received. */
static enum MHD_Result
serve(struct MHD_Connection *connection, struct request *request,
	  const char *verb, void **slot)
{
	size_t length;

	if (request->is_control)
		return serve_control(connection, request, verb);
	if (request->is_checkout)
		return serve_checkout(connection, request, verb);
	if (gateway_refuses(request->user_agent))
		return refuse(connection, request, 403, "error 1010", gateway_page);
	if (method_in_path(request->path, &length) == NULL)
		return refuse(connection, request, 404, "404 Not Found", NULL);
	if (strcmp(verb, MHD_HTTP_METHOD_POST) != 0)
		return refuse(connection, request, 405, "405 Method Not Allowed",
					  NULL);
	if (request->is_too_long)
		return refuse(connection, request, 413, "413 Content Too Large", NULL);
	return serve_api(connection, request, slot);
}

/* Goes on with a request that has waited. */
static enum MHD_Result
go_on(struct MHD_Connection *connection, struct request *request)
{
	struct text body = {0};

	if (ending)
		return MHD_NO;
	if (request->stage == STAGE_NOTIFIED)
	{
		payment_write(&body, request->payment);
		return reply_send(connection, 200, "application/json", NULL, &body);
	}
	if (request->stage == STAGE_HELD)
	{
		if (!is_still_wanted(request))
			return MHD_NO;
		execute_held(request, 200);
		if (settings.latency_ms > 0)
			return wait_at(connection, request, STAGE_EXECUTED,
						   settings.latency_ms);
	}
	return answer(connection, request);
}

/* Makes a request when its headers are there; chooses the fault it meets. */
static struct request *
begin(struct MHD_Connection *connection, const char *path, const char *verb)
{
	struct request *request = must_allocate(sizeof(struct request));
	struct peer *peer =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)
			->socket_context;
	const char *name;
	size_t length;

	*request = (struct request){.method = METHOD_UNKNOWN,
								.path = strdup(path),
								.connection = peer->number,
								.number = ++peer->requests,
								.is_control = control_is_path(path),
								.is_checkout = checkout_is_path(path)};
	if (request->is_control || request->is_checkout)
		return request;
	request->authorization =
		(char *) MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
											 MHD_HTTP_HEADER_AUTHORIZATION);
	request->user_agent =
		(char *) MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
											 MHD_HTTP_HEADER_USER_AGENT);
	name = method_in_path(path, &length);
	if (name == NULL || strcmp(verb, MHD_HTTP_METHOD_POST) != 0)
		return request;
	request->method = method_find(name, length);
	/* What the CDN refuses does not reach the provider, and meets no fault. */
	if (gateway_refuses(request->user_agent))
		return request;
	request->fault = fault_take(request->method, &request->aside);
	if (request->aside.hide_ms > 0)
		methods_hide(request->method, request->aside.hide_ms);
	return request;
}

/* The library calls this for each request: once, then for its body, then again. */
static enum MHD_Result
handle(void *unused, struct MHD_Connection *connection, const char *path,
	   const char *verb, const char *version, const char *data, size_t *size,
	   void **slot)
{
	struct request *request = *slot;

	(void) unused;
	(void) version;
	if (request == NULL)
	{
		request = begin(connection, path, verb);
		*slot = request;
		if (request->fault == NULL ||
			request->fault->action != ACTION_CLOSE_BEFORE_READ)
			return MHD_YES;
		record(request, "fault", "", 0, false);
		return MHD_NO;
	}
	if (*size > 0)
	{
		if (request->body.length + *size > BODY_MAX_BYTES)
			request->is_too_long = true;
		else
			text_append(&request->body, data, *size);
		*size = 0;
		return MHD_YES;
	}
	if (request->stage != STAGE_RECEIVING)
		return go_on(connection, request);
	return serve(connection, request, verb, slot);
}

static void
complete(void *unused, struct MHD_Connection *connection, void **slot,
		 enum MHD_RequestTerminationCode code)
{
	struct request *request = *slot;

	(void) unused;
	if (request == NULL)
		return;
	/* its time has come, but the library saw first that the client has gone */
	if (request->stage == STAGE_HELD && request->is_waiting && !ending &&
		is_still_wanted(request))
		execute_held(request, 0);
	if (request->surplus.length > 0 &&
		code == MHD_REQUEST_TERMINATED_COMPLETED_OK)
		reply_send_surplus(connection, &request->surplus);
	request_free(request);
	*slot = NULL;
}

static void
note_connection(void *unused, struct MHD_Connection *connection,
				void **context, enum MHD_ConnectionNotificationCode code)
{
	(void) unused;
	(void) connection;
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
	{
		struct peer *peer = must_allocate(sizeof(struct peer));

		*peer = (struct peer){.number = ++connection_count};
		*context = peer;
	}
	else
	{
		free(*context);
		*context = NULL;
	}
}

/* Reads an address of the loopback interface. */
static bool
read_address(const char *text, uint16_t port, struct sockaddr_storage *storage)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *) storage;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) storage;

	memset(storage, 0, sizeof(*storage));
	if (strcmp(text, "localhost") == 0)
		text = "127.0.0.1";
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
	{
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
	{
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
	}
	return false;
}

/* The library's last complaint. Its threads complain, too, while they run. */
static struct
{
	pthread_mutex_t lock;
	char line[256];
} complaint = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void
complain(void *unused, const char *format, va_list arguments)
{
	(void) unused;
	pthread_mutex_lock(&complaint.lock);
	vsnprintf(complaint.line, sizeof(complaint.line), format, arguments);
	complaint.line[strcspn(complaint.line, "\n")] = '\0';
	pthread_mutex_unlock(&complaint.lock);
}

bool
http_start(const struct http_options *options, struct text *text)
{
	unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
	struct sockaddr_storage address;
	struct MHD_OptionItem items[16];
	int count = 0;
	char port[16];

	settings = *options;
	if (!read_address(options->listen, options->port, &address))
	{
		text_string(text,
					"--listen must be a loopback address (127.0.0.1, ::1), "
					"not \"");
		text_string(text, options->listen);
		text_string(text, "\": keys of a sandbox protect nothing");
		return false;
	}
	if (address.ss_family == AF_INET6)
		flags |= MHD_USE_IPv6;
	items[count++] = (struct MHD_OptionItem){MHD_OPTION_SOCK_ADDR, 0,
											 &address};
	items[count++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT,
											 CONNECTIONS_MAX, NULL};
	items[count++] =
		(struct MHD_OptionItem){MHD_OPTION_CONNECTION_MEMORY_LIMIT,
								CONNECTION_MEMORY_BYTES, NULL};
	items[count++] = (struct MHD_OptionItem){MHD_OPTION_LISTEN_BACKLOG_SIZE,
											 LISTEN_QUEUE, NULL};
	if (options->threads > 1)
		items[count++] = (struct MHD_OptionItem){MHD_OPTION_THREAD_POOL_SIZE,
												 options->threads, NULL};
	if (options->tls_certificate != NULL)
	{
		flags |= MHD_USE_TLS;
		items[count++] =
			(struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0,
									(void *) options->tls_certificate};
		items[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0,
												 (void *) options->tls_key};
	}
	items[count] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};

	server = MHD_start_daemon(flags | MHD_USE_ERROR_LOG, options->port, NULL,
							  NULL, handle, NULL, MHD_OPTION_EXTERNAL_LOGGER,
							  complain, NULL, MHD_OPTION_NOTIFY_COMPLETED,
							  complete, NULL, MHD_OPTION_NOTIFY_CONNECTION,
							  note_connection, NULL, MHD_OPTION_ARRAY, items,
							  MHD_OPTION_END);
	if (server == NULL)
	{
		text_string(text, complaint.line);
		return false;
	}
	text_string(text,
				options->tls_certificate != NULL ? "https://" : "http://");
	text_string(text, address.ss_family == AF_INET6 ? "[" : "");
	text_string(text,
				strcmp(options->listen, "localhost") == 0 ? "127.0.0.1"
														  : options->listen);
	text_string(text, address.ss_family == AF_INET6 ? "]:" : ":");
	snprintf(port, sizeof(port), "%u",
			 (unsigned) MHD_get_daemon_info(server, MHD_DAEMON_INFO_BIND_PORT)
				 ->port);
	text_string(text, port);
	return true;
}

void
http_begin_stop(void)
{
	ending = true;
}

void
http_stop(void)
{
	MHD_stop_daemon(server);
	server = NULL;
}
