/*
 * reply.c
 *		Sends answers, right ones and broken ones.
 *
 * A right answer is a buffer handed to the library. A broken one is a source
 * that the library reads: it can pause, stop short, or repeat a small body until
 * it has made a gigabyte, without ever holding more than a buffer of it.
 *
 * The right Content-Length is written beside any other that a fault gives. So a
 * wrong one is the length of a body that is announced and never completed,
 * or one that goes on after its end, past the library.
 *
 * Hazard: a source that has nothing to give must suspend its connection before
 * it returns 0, or the library spins.
 */
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include <gnutls/gnutls.h>

#include "timer.h"

#define JSON_TYPE "application/json"

/* A wrong Content-Length is this much too long unless the fault says another. */
#define LENGTH_EXCESS_BYTES 10

/* How much the library reads from a source at once; a drip gives single bytes. */
#define SOURCE_BLOCK_BYTES (64 * 1024)

/* How long a connection stays open that owes the client the rest of a body. */
#define OWING_MS 60000

/* A body that is read piece by piece. */
struct source
{
	struct MHD_Connection *connection;
	struct fault *fault; /* held: `unit` may be its body */
	struct text body;	 /* or this */
	const char *unit;	 /* what is repeated */
	size_t unit_length;
	uint64_t end;	  /* where it breaks off */
	int64_t drip_ms;  /* 0: all at once */
	int64_t owing_ms; /* how long it stays open after breaking off */
	bool waited;
};

enum MHD_Result
reply_send(struct MHD_Connection *connection, int status,
		   const char *content_type, const char *allow, struct text *body)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	response = MHD_create_response_from_buffer(body->length, body->data,
											   MHD_RESPMEM_MUST_FREE);
	*body = (struct text){0};
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
							content_type);
	if (allow != NULL)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
	result = MHD_queue_response(connection, (unsigned) status, response);
	MHD_destroy_response(response);
	return result;
}

static void
resume(void *connection, bool ending)
{
	(void) ending;
	MHD_resume_connection(connection);
}

/* Fills a buffer from a place in the endlessly repeated unit. */
static void
fill(const struct source *source, uint64_t position, char *buffer, size_t size)
{
	size_t offset = (size_t) (position % source->unit_length);
	size_t done = source->unit_length < size ? source->unit_length : size;
	size_t first = source->unit_length - offset;

	/* One turn of the unit, from the offset on … */
	if (first > done)
		first = done;
	memcpy(buffer, source->unit + offset, first);
	memcpy(buffer + first, source->unit, done - first);
	/* … and then what is there, again and again, twice as much each time. */
	while (done < size)
	{
		size_t more = done < size - done ? done : size - done;

		memcpy(buffer + done, buffer, more);
		done += more;
	}
}

/* Has the library ask again after a while. */
static ssize_t
ask_again_later(struct source *source, int64_t ms)
{
	source->waited = true;
	MHD_suspend_connection(source->connection);
	timer_add(ms, resume, source->connection);
	return 0;
}

static ssize_t
read_source(void *argument, uint64_t position, char *buffer, size_t size)
{
	struct source *source = argument;

	if (position >= source->end)
		return source->owing_ms > 0 && !source->waited
			? ask_again_later(source, source->owing_ms)
			: MHD_CONTENT_READER_END_WITH_ERROR;
	if (source->drip_ms > 0)
	{
		if (!source->waited)
			return ask_again_later(source, source->drip_ms);
		source->waited = false;
		size = 1;
	}
	if (size > source->end - position)
		size = (size_t) (source->end - position);
	fill(source, position, buffer, size);
	return (ssize_t) size;
}

static void
free_source(void *argument)
{
	struct source *source = argument;

	fault_release(source->fault);
	text_free(&source->body);
	free(source);
}

/* From 1.0 on, the library leaves its own Content-Length out where there is one. */
#if MHD_VERSION >= 0x01000000
#define ADDS_LENGTH false
#else
#define ADDS_LENGTH true
#endif

/*
 * Adds a fault's headers, a Content-Type where it has none, and the right
 * Content-Length beside any other, where the library does not.
 */
static void
add_headers(struct MHD_Response *response, const struct fault *fault,
			uint64_t length)
{
	bool has_type = false;
	bool has_length = false;
	bool is_chunked = false;

	for (size_t i = 0; i < fault->header_count; i++)
	{
		MHD_add_response_header(response, fault->headers[i].name,
								fault->headers[i].value);
		if (strcasecmp(fault->headers[i].name, MHD_HTTP_HEADER_CONTENT_TYPE) ==
			0)
			has_type = true;
		if (strcasecmp(fault->headers[i].name,
					   MHD_HTTP_HEADER_CONTENT_LENGTH) == 0)
			has_length = true;
		if (strcasecmp(fault->headers[i].name,
					   MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
			is_chunked = true;
	}
	if (!has_type)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
								JSON_TYPE);
	if (has_length && !is_chunked && !ADDS_LENGTH)
	{
		char text[24]; /* a 64-bit number */

		snprintf(text, sizeof(text), "%llu", (unsigned long long) length);
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_LENGTH,
								text);
	}
}

enum MHD_Result
reply_send_broken(struct MHD_Connection *connection, struct fault *fault,
				  struct text *body, struct text *surplus)
{
	struct source *source = must_allocate(sizeof(struct source));
	struct MHD_Response *response;
	enum MHD_Result result;
	unsigned status = 200;
	uint64_t length; /* what the header says */

	*source = (struct source){.connection = connection,
							  .fault = fault,
							  .body = *body};
	*body = (struct text){0};
	fault->users++;
	source->unit = source->body.data;
	source->unit_length = source->body.length;
	length = source->unit_length;
	if (fault->action == ACTION_ANSWER)
	{
		source->unit = fault->body.data;
		source->unit_length = fault->body.length;
		length = source->unit_length * (uint64_t) fault->repeat;
		status = (unsigned) fault->status;
	}
	source->end = length;
	if (fault->action == ACTION_DRIP)
		source->drip_ms = fault->ms;
	if ((fault->action == ACTION_CUT || fault->action == ACTION_LENGTH) &&
		fault->bytes >= 0 && (uint64_t) fault->bytes < length)
		source->end = (uint64_t) fault->bytes;
	if (fault->action == ACTION_LENGTH)
	{
		length = fault->length >= 0 ? (uint64_t) fault->length
									: length + LENGTH_EXCESS_BYTES;
		source->owing_ms = OWING_MS;
		/* What the header does not cover is sent behind the answer. */
		if (source->end > length)
			text_append(surplus, source->unit + length,
						(size_t) (source->end - length));
	}

	response = MHD_create_response_from_callback(length, SOURCE_BLOCK_BYTES,
												 read_source, source,
												 free_source);
	MHD_set_response_options(response, MHD_RF_INSANITY_HEADER_CONTENT_LENGTH,
							 MHD_RO_END);
	add_headers(response, fault, length);
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

void
reply_send_surplus(struct MHD_Connection *connection,
				   const struct text *surplus)
{
	const union MHD_ConnectionInfo *info;
	gnutls_session_t session = NULL;
	ssize_t sent;

	/* libmicrohttpd 1.0 hands out one union, which the next question changes */
	info = MHD_get_connection_info(connection,
								   MHD_CONNECTION_INFO_GNUTLS_SESSION);
	if (info != NULL)
		session = info->tls_session;
	info = MHD_get_connection_info(connection,
								   MHD_CONNECTION_INFO_CONNECTION_FD);

	/*
	 * Whether it is sent does not matter where it can't be: the client is gone,
	 * or has not read the answer yet.
	 */
	if (session != NULL)
		sent = gnutls_record_send(session, surplus->data, surplus->length);
	else if (info != NULL)
		sent = send(info->connect_fd, surplus->data, surplus->length,
					MSG_DONTWAIT | MSG_NOSIGNAL);
	(void) sent;
}

void
reply_reset(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	/*
	 * Dissolving the association sends the reset now. SO_LINGER would leave it
	 * to close(), before which the library says goodbye: the client would read
	 * an orderly end first.
	 */
	if (info != NULL)
		(void) connect(info->connect_fd, &nowhere, sizeof(nowhere));
}
