/*-------------------------------------------------------------------------
 *
 * exchange.c
 *		One exchange: its options, its callbacks, and how it ended.
 *
 * Hazard: libcurl's callbacks must not throw.  They append within a bound, set
 * a flag and return.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "utils/memutils.h"

#include "src/base/error.h"
#include "src/base/killpoint.h"
#include "src/base/settings.h"
#include "src/client/transport/internal.h"

/*
 * Seconds after which an idle connection is not used again.  Servers close
 * theirs after a minute or so, and a request that meets such a close is one
 * whose outcome is unknown.
 */
#define MAX_IDLE_S 30L

/* An answer's buffer at first; most answers fit, and it doubles as needed. */
#define FIRST_ANSWER_ROOM 1024

/*
 * Bytes of headers that an answer may have.  The provider's have about 1 kB;
 * libcurl itself puts a limit on each header, but not every version on all.
 */
#define MAX_HEADER_BYTES (64 * 1024)

/*
 * Bodies from here on libcurl would announce with "Expect: 100-continue", and
 * wait for leave to send them: a request in two pieces.  (From 1 MB on, in
 * all versions so far; told not to, it looks through one header more.)
 */
#define EXPECT_BYTES (512 * 1024)

/* Handles that are kept for the next exchanges, some 20 kB each. */
#define MAX_IDLE_HANDLES 64

/* Connections that turn out unusable, before a new one is opened. */
#define MAX_STALE 3

/* What libcurl says of a header that is too long; before 8.6, as if in error. */
#if LIBCURL_VERSION_NUM >= 0x080600
#define CODE_OF_LONG_HEADER CURLE_TOO_LARGE
#else
#define CODE_OF_LONG_HEADER CURLE_OUT_OF_MEMORY
#endif

/* What all exchanges of a process share. */
static struct
{
	struct curl_slist *headers;
	int nidle;
	CURL *idle[MAX_IDLE_HANDLES]; /* set up for "setup" */
	char *setup;		/* the settings that handles are set up for */
	int64 setup_number; /* how often these have changed */
} kept;

/*
 * libcurl's callbacks.
 */

/* The answer's body comes in. */
static size_t
on_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct TegroExchangeState *state = arg;
	TegroExchange *exchange = state->exchange;
	size_t len = size * count;

	Assert(exchange->end == TEGRO_EXCHANGE_OPEN);
	Assert(exchange->answer_len <= state->answer_room);
	Assert(exchange->answer_len <= exchange->answer_max);
	if (len > exchange->answer_max - exchange->answer_len)
	{
		state->too_large = true;
		return 0; /* anything but "len" ends the exchange */
	}
	if (exchange->answer_len + len > state->answer_room)
	{
		state->answer_wanted = exchange->answer_len + len;
		tegro_engine.paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	memcpy(exchange->answer + exchange->answer_len, bytes, len);
	exchange->answer_len += len;
	return len;
}

/* Is a header's line "name: ..."?  Then where its value is, in the line. */
static bool
is_header(const char *line, size_t len, const char *name, const char **value,
		  size_t *value_len)
{
	size_t name_len = strlen(name);

	if (len <= name_len || pg_strncasecmp(line, name, name_len) != 0)
		return false;
	*value = line + name_len;
	*value_len = len - name_len;
	while (*value_len > 0 && (**value == ' ' || **value == '\t'))
		(*value)++, (*value_len)--;
	while (*value_len > 0 && strchr(" \t\r\n", (*value)[*value_len - 1]))
		(*value_len)--;
	return true;
}

/*
 * Is it certain where the answer ends?  Two lengths, or a length and chunks,
 * are how one answer is made to look like two; and libcurl would undo other
 * transfer encodings without being asked, past any limit of ours.
 */
static bool
check_framing(struct TegroExchangeState *state, const char *line, size_t len)
{
	const char *value;
	size_t value_len;

	switch (len > 0 ? line[0] : '\0')
	{
		case 'H':
			if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
				state->has_framing =
					false; /* a head, perhaps one of several */
			return true;
		case 'C':
		case 'c':
			if (!is_header(line, len, "Content-Length:", &value, &value_len))
				return true;
			if (state->has_framing || value_len == 0 || value_len > 18 ||
				strspn(value, "0123456789") < value_len)
				return false;
			break;
		case 'T':
		case 't':
			if (!is_header(line, len, "Transfer-Encoding:", &value,
						   &value_len))
				return true;
			if (state->has_framing || value_len != 7 ||
				pg_strncasecmp(value, "chunked", 7) != 0)
				return false;
			break;
		default:
			return true;
	}
	state->has_framing = true;
	return true;
}

/* Keeps what "Date:" says, if it is that and not longer than dates are. */
static void
keep_date(TegroExchange *exchange, const char *line, size_t len)
{
	const char *value;
	size_t value_len;

	if (is_header(line, len, "Date:", &value, &value_len) &&
		value_len < sizeof(exchange->date))
	{
		memcpy(exchange->date, value, value_len);
		exchange->date[value_len] = '\0';
	}
}

/* A line of the answer's head comes in; it is counted, not kept. */
static size_t
on_header(char *bytes, size_t size, size_t count, void *arg)
{
	struct TegroExchangeState *state = arg;
	size_t len = size * count;

	Assert(state->exchange->end == TEGRO_EXCHANGE_OPEN);
	state->header_bytes += len;
	if (state->header_bytes > MAX_HEADER_BYTES)
	{
		state->too_large = true;
		return 0;
	}
	if (len > 0 && (bytes[0] == 'D' || bytes[0] == 'd'))
		keep_date(state->exchange, bytes, len);
	if (!check_framing(state, bytes, len))
	{
		state->framing_refused = true;
		return 0;
	}
	return len;
}

/* A name is about to be resolved, by a thread. */
static int
on_resolve(void *resolver, void *reserved, void *arg)
{
	return tegro_engine_block_signals() ? 0 : 1;
}

/* A connection stands, and the request is about to be written to it. */
static int
on_ready_to_send(void *arg, char *peer_address, char *own_address,
				 int peer_port, int own_port)
{
	struct TegroExchangeState *state = arg;
	long connections = 1;

	Assert(state->easy != NULL);
	Assert(state->exchange->end == TEGRO_EXCHANGE_OPEN);
	if (state->exchange->handed_over)
	{
		state->repeat_stopped = true;
		return CURL_PREREQFUNC_ABORT;
	}

	/*
	 * The fence: a process that was stopped, or a machine that slept, must
	 * not send what another may have taken over by now.
	 */
	if (state->exchange->send_before_us > 0 &&
		tegro_clock_us() > state->exchange->send_before_us)
	{
		state->too_late = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (curl_easy_getinfo(state->easy, CURLINFO_NUM_CONNECTS, &connections) ==
			CURLE_OK &&
		connections == 0 && tegro_socket_has_unread_bytes(own_port))
	{
		state->stale = true;
		return CURL_PREREQFUNC_ABORT;
	}
	state->exchange->handed_over = true;
	tegro_kill_point("request ready");
	return CURL_PREREQFUNC_OK;
}


/*
 * Setting up.
 */

static void
check_setopt(CURLcode code, const char *option)
{
	if (code != CURLE_OK)
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_MISCONFIGURED),
				 errmsg("could not set libcurl's option %s", option),
				 errdetail_internal("%s", curl_easy_strerror(code)),
				 errhint("This extension needs libcurl 7.88 or later, built with TLS.")));
}

#define SETOPT(easy, option, value) \
	check_setopt(curl_easy_setopt((easy), (option), (value)), #option)

/* Makes what all exchanges share, where it is not there yet. */
void
tegro_exchange_prepare(void)
{
	StaticAssertStmt(sizeof(((TegroExchange *) NULL)->problem) >=
						 CURL_ERROR_SIZE,
					 "libcurl's error texts do not fit");
	if (kept.headers == NULL)
	{
		struct curl_slist *list =
			curl_slist_append(NULL, "Content-Type: " TEGRO_CONTENT_TYPE);

		if (list == NULL ||
			curl_slist_append(list, "Accept: " TEGRO_CONTENT_TYPE) == NULL)
		{
			curl_slist_free_all(list);
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		kept.headers = list;
	}
}

/* Stops an exchange when the memory that holds it goes away. */
static void
on_memory_reset(void *arg)
{
	tegro_exchange_stop(arg);
}

TegroExchange *
tegro_exchange_create(void)
{
	TegroExchange *exchange = palloc0(sizeof(TegroExchange));
	struct TegroExchangeState *state = palloc0(
		sizeof(struct TegroExchangeState));

	exchange->state = state;
	state->exchange = exchange;
	state->answer_room = FIRST_ANSWER_ROOM;
	exchange->answer = palloc(FIRST_ANSWER_ROOM + 1);
	state->on_reset.func = on_memory_reset;
	state->on_reset.arg = exchange;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &state->on_reset);
	return exchange;
}

/*
 * Sets a new handle up: all that is the same for every exchange under the
 * settings as they are.
 */
static void
set_up_handle(CURL *easy, bool loopback_only)
{
	char *bundle = NULL;

	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, CURLOPT_QUICK_EXIT, 1L);

	/* where to */
	SETOPT(easy, CURLOPT_PROTOCOLS_STR, loopback_only ? "http" : "https");
	SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	/* "" turns the environment's proxies off; plain http goes to this machine */
	SETOPT(easy, CURLOPT_PROXY, loopback_only ? "" : tegro_proxy);
	SETOPT(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SETOPT(easy, CURLOPT_RESOLVER_START_FUNCTION, on_resolve);
	SETOPT(easy, CURLOPT_OPENSOCKETFUNCTION, tegro_socket_open);
	SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, tegro_socket_close);
	SETOPT(easy, CURLOPT_MAXAGE_CONN, MAX_IDLE_S);

	/* to whom */
	SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (*tegro_ca_file)
	{
		/* these authorities instead of the system's, not beside them */
		SETOPT(easy, CURLOPT_CAINFO, tegro_ca_file);
		SETOPT(easy, CURLOPT_CAPATH, NULL);
	}
	else if (curl_easy_getinfo(easy, CURLINFO_CAINFO, &bundle) == CURLE_OK &&
			 bundle && access(bundle, R_OK) == 0)
	{
		/*
		 * The system's authorities in one file, which libcurl reads once.
		 * With a directory of them beside it, it reads all for each
		 * connection, some 20 ms.
		 */
		SETOPT(easy, CURLOPT_CAPATH, NULL);
	}

	/* what */
	SETOPT(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SETOPT(easy, CURLOPT_POST, 1L);
	SETOPT(easy, CURLOPT_USERAGENT, tegro_user_agent);
	SETOPT(easy, CURLOPT_PREREQFUNCTION, on_ready_to_send);

	/* what comes back */
	SETOPT(easy, CURLOPT_WRITEFUNCTION, on_body);
	SETOPT(easy, CURLOPT_HEADERFUNCTION, on_header);
}

/* Tells a handle that is set up about an exchange. */
static void
set_options(CURL *easy, struct TegroExchangeState *state)
{
	TegroExchange *exchange = state->exchange;

	SETOPT(easy, CURLOPT_PRIVATE, state);
	SETOPT(easy, CURLOPT_ERRORBUFFER, exchange->problem);
	SETOPT(easy, CURLOPT_URL, exchange->url);
	SETOPT(easy, CURLOPT_OPENSOCKETDATA, state);
	SETOPT(easy, CURLOPT_FRESH_CONNECT, state->nstale > MAX_STALE ? 1L : 0L);
	SETOPT(easy, CURLOPT_POSTFIELDS, exchange->body);
	SETOPT(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) exchange->body_len);
	SETOPT(easy, CURLOPT_HTTPHEADER, &state->authorization);
	SETOPT(easy, CURLOPT_PREREQDATA, state);
	SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS,
		   (long) exchange->connect_timeout_ms);
	SETOPT(easy, CURLOPT_TIMEOUT_MS, (long) exchange->timeout_ms);
	SETOPT(easy, CURLOPT_WRITEDATA, state);
	SETOPT(easy, CURLOPT_HEADERDATA, state);
}

/*
 * Throws the kept handles away if the settings that they are set up for have
 * changed.
 */
static void
check_setup(bool loopback_only)
{
	const char *parts[] = {loopback_only ? "http" : "https", tegro_proxy,
						   tegro_ca_file, tegro_user_agent};
	const char *known = kept.setup;
	Size len = 0;

	Assert(kept.nidle >= 0 && kept.nidle <= MAX_IDLE_HANDLES);

	/* the parts, each with its NUL, are what kept.setup holds */
	for (int i = 0; known && i < lengthof(parts); i++)
	{
		if (strcmp(known, parts[i]) != 0)
			known = NULL;
		else
			known += strlen(known) + 1;
	}
	if (known)
		return;

	while (kept.nidle > 0)
		curl_easy_cleanup(kept.idle[--kept.nidle]);
	if (kept.setup)
		pfree(kept.setup);
	kept.setup = NULL;
	kept.setup_number++;
	for (int i = 0; i < lengthof(parts); i++)
		len += strlen(parts[i]) + 1;
	kept.setup = MemoryContextAlloc(TopMemoryContext, len);
	len = 0;
	for (int i = 0; i < lengthof(parts); i++)
	{
		memcpy(kept.setup + len, parts[i], strlen(parts[i]) + 1);
		len += strlen(parts[i]) + 1;
	}
}

/* Puts an exchange in flight, for the first time or on another connection. */
static void
put_in_flight(TegroExchange *exchange)
{
	static char no_expect[] = "Expect:";
	struct TegroExchangeState *state = exchange->state;
	CURLMcode code;
	bool fresh = false;

	Assert(state->easy == NULL && state->exchange == exchange);
	/* what was handed over goes through here once more only for its caller */
	Assert(!state->stale || !exchange->handed_over);
	Assert(exchange->url && exchange->body);
	Assert(strlen(exchange->signature) == TEGRO_SIGNATURE_LEN);
	Assert(exchange->timeout_ms > 0 && exchange->connect_timeout_ms > 0);
	Assert(exchange->answer_max > 0);
	exchange->end = TEGRO_EXCHANGE_OPEN;
	exchange->fault = TEGRO_FAULT_NONE;
	exchange->handed_over = exchange->kept_alive = exchange->connected = false;
	exchange->http_status = 0;
	exchange->answer_len = 0;
	exchange->answer[0] = '\0';
	exchange->retry_after_s = 0;
	exchange->date[0] = '\0';
	exchange->problem[0] = '\0';
	exchange->name_lookup_us = exchange->connect_us = exchange->tls_us = 0;
	exchange->first_byte_us = exchange->total_us = 0;
	state->answer_wanted = 0;
	state->header_bytes = 0;
	state->loopback_only = pg_strncasecmp(exchange->url, "http://", 7) == 0;
	state->has_framing = state->framing_refused = state->stale = false;
	state->too_large = state->too_late = false;
	state->repeat_stopped = state->address_refused = false;
	state->last_opened = CURL_SOCKET_BAD;
	snprintf(state->authorization_line, sizeof(state->authorization_line),
			 "Authorization: Bearer %s", exchange->signature);
	state->authorization.data = state->authorization_line;
	state->authorization.next = kept.headers;
	if (exchange->body_len >= EXPECT_BYTES)
	{
		state->authorization.next = &state->no_expect;
		state->no_expect.data = no_expect;
		state->no_expect.next = kept.headers;
	}

	check_setup(state->loopback_only);
	if (kept.nidle > 0)
		state->easy = kept.idle[--kept.nidle];
	else
	{
		state->easy = curl_easy_init();
		if (state->easy == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		fresh = true;
	}
	dlist_push_tail(&tegro_engine.in_flight, &state->node);
	state->setup = kept.setup_number;

	/* From here on tegro_exchange_stop() takes back whatever was done. */
	if (fresh)
		set_up_handle(state->easy, state->loopback_only);
	set_options(state->easy, state);
	tegro_enter_libcurl();
	code = curl_multi_add_handle(tegro_engine.multi, state->easy);
	tegro_leave_libcurl();
	tegro_engine_check(code, "add a request");
}

void
tegro_exchange_start(TegroExchange *exchange)
{
	Assert(exchange->state->easy == NULL);
	Assert(CritSectionCount == 0);
	tegro_engine_start();
	if (tegro_engine.max_connections != tegro_max_concurrency)
	{
		/* libcurl's own limit follows what is in flight, and closes the rest */
		tegro_engine_check(curl_multi_setopt(tegro_engine.multi,
											 CURLMOPT_MAXCONNECTS,
											 (long) tegro_max_concurrency),
						   "keep its connections");
		tegro_engine.max_connections = tegro_max_concurrency;
	}
	exchange->state->nstale = 0;
	put_in_flight(exchange);
}

void
tegro_exchange_stop(TegroExchange *exchange)
{
	struct TegroExchangeState *state = exchange->state;
	CURL *easy = state->easy;

	if (easy == NULL)
		return;
	Assert(!dlist_is_empty(&tegro_engine.in_flight));
	state->easy = NULL;
	dlist_delete(&state->node);

	/* harmless where it was never added */
	tegro_enter_libcurl();
	(void) curl_multi_remove_handle(tegro_engine.multi, easy);
	tegro_leave_libcurl();
	tegro_engine_restore_signals();
	/* what these point to goes away, and some are used on clean-up */
	(void) curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL);
	(void) curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
	/* kept only if it is set up, and still for the settings of now */
	if (kept.nidle < MAX_IDLE_HANDLES &&
		exchange->end != TEGRO_EXCHANGE_OPEN &&
		state->setup == kept.setup_number)
		kept.idle[kept.nidle++] = easy;
	else
		curl_easy_cleanup(easy);
}


/*
 * Ending.
 */

static int64
get_time(CURL *easy, CURLINFO what)
{
	curl_off_t us = 0;

	return curl_easy_getinfo(easy, what, &us) == CURLE_OK ? (int64) us : 0;
}

/* Takes down how an exchange ended. */
void
tegro_exchange_end(struct TegroExchangeState *state, CURLcode code)
{
	TegroExchange *exchange = state->exchange;
	CURL *easy = state->easy;
	long status = 0;
	long connections = 0;
	long port = 0;
	curl_off_t retry_after = 0;

	Assert(easy != NULL);
	Assert(exchange->end == TEGRO_EXCHANGE_OPEN);
	if (state->stale)
	{
		/* nothing was sent: the connection goes, another is taken */
		state->nstale++;
		exchange->end = TEGRO_EXCHANGE_NOT_SENT;
		tegro_exchange_stop(exchange);
		put_in_flight(exchange);
		return;
	}

	if (curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
		exchange->http_status = (int) status;
	if (status >= 300 &&
		curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after) ==
			CURLE_OK)
		exchange->retry_after_s = (int64) retry_after;
	if (exchange->handed_over &&
		curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections) ==
			CURLE_OK)
		exchange->kept_alive = connections == 0;
	if (exchange->kept_alive)
		exchange->connected = true;
	else
	{
		/* libcurl stops the clock of connecting only after TLS, if that fails */
		if (curl_easy_getinfo(easy, CURLINFO_LOCAL_PORT, &port) == CURLE_OK)
			exchange->connected = port > 0 || tegro_socket_stood(state);
		exchange->name_lookup_us = get_time(easy, CURLINFO_NAMELOOKUP_TIME_T);
		exchange->connect_us = get_time(easy, CURLINFO_CONNECT_TIME_T);
		exchange->tls_us = get_time(easy, CURLINFO_APPCONNECT_TIME_T);
	}
	/* libcurl counts this from the request where no byte came */
	if (state->header_bytes > 0)
		exchange->first_byte_us = get_time(easy,
										   CURLINFO_STARTTRANSFER_TIME_T);
	exchange->total_us = get_time(easy, CURLINFO_TOTAL_TIME_T);
	exchange->answer[exchange->answer_len] = '\0';

	if (code == CURLE_OK)
		exchange->end = TEGRO_EXCHANGE_COMPLETE;
	else
	{
		exchange->end = exchange->handed_over ? TEGRO_EXCHANGE_BROKEN
											  : TEGRO_EXCHANGE_NOT_SENT;
		if (exchange->problem[0] == '\0')
			strlcpy(exchange->problem, curl_easy_strerror(code),
					sizeof(exchange->problem));

		switch (code)
		{
			case CURLE_PEER_FAILED_VERIFICATION:
			case CURLE_SSL_ISSUER_ERROR:
			case CURLE_SSL_INVALIDCERTSTATUS:
				exchange->fault = TEGRO_FAULT_CERTIFICATE;
				break;
			case CURLE_SSL_CACERT_BADFILE:
			case CURLE_SSL_CIPHER:
			case CURLE_UNSUPPORTED_PROTOCOL:
			case CURLE_URL_MALFORMAT:
			case CURLE_NOT_BUILT_IN:
			case CURLE_COULDNT_RESOLVE_PROXY:
				exchange->fault = TEGRO_FAULT_SETTING;
				break;
			default:
				exchange->fault = TEGRO_FAULT_NETWORK;
				break;
		}
		if (state->repeat_stopped)
		{
			/* the times are those of the connection for the repeat */
			exchange->kept_alive = true;
			exchange->name_lookup_us = exchange->connect_us =
				exchange->tls_us = 0;
			strlcpy(exchange->problem,
					"The connection was lost before an answer came",
					sizeof(exchange->problem));
		}
		else if (state->framing_refused)
			strlcpy(exchange->problem,
					"The answer's head leaves open where the answer ends",
					sizeof(exchange->problem));
		else if (code == CODE_OF_LONG_HEADER && exchange->handed_over)
			strlcpy(exchange->problem,
					"A header of the answer is too long, or memory ran out",
					sizeof(exchange->problem));
		else if (state->too_late)
		{
			exchange->fault = TEGRO_FAULT_TOO_LATE;
			strlcpy(exchange->problem, "The time to send it had passed",
					sizeof(exchange->problem));
		}
		else if (state->too_large)
		{
			exchange->fault = TEGRO_FAULT_TOO_LARGE;
			strlcpy(exchange->problem, "The answer is too large",
					sizeof(exchange->problem));
		}
		else if (state->address_refused && !exchange->handed_over)
		{
			exchange->fault = TEGRO_FAULT_SETTING;
			strlcpy(exchange->problem,
					state->loopback_only
						? "The name of the API's host leads away from this machine, where plain http is not allowed"
						: "The name of the API's host leads to a link-local address",
					sizeof(exchange->problem));
		}
	}

	/* the two that say what was sent must agree */
	Assert(exchange->end != TEGRO_EXCHANGE_OPEN);
	Assert((exchange->end == TEGRO_EXCHANGE_NOT_SENT) ==
		   !exchange->handed_over);
	Assert((exchange->end == TEGRO_EXCHANGE_COMPLETE) ==
		   (exchange->fault == TEGRO_FAULT_NONE));
	tegro_engine.ended++;
	tegro_exchange_stop(exchange);
}

/* Makes room for the answers that wait for it. */
void
tegro_exchange_make_room(void)
{
	dlist_iter iter;

	dlist_foreach(iter, &tegro_engine.in_flight)
	{
		struct TegroExchangeState *state =
			dlist_container(struct TegroExchangeState, node, iter.cur);
		TegroExchange *exchange = state->exchange;

		while (state->answer_wanted > 0)
		{
			size_t room = Min(Max(state->answer_wanted,
								  2 * state->answer_room),
							  exchange->answer_max);

			Assert(room >= state->answer_wanted);
			exchange->answer = repalloc_huge(exchange->answer, room + 1);
			state->answer_room = room;
			state->answer_wanted = 0;
			/* calls on_body() again with what was held back */
			tegro_enter_libcurl();
			(void) curl_easy_pause(state->easy, CURLPAUSE_CONT);
			tegro_leave_libcurl();
			tegro_engine_restore_signals();
		}
	}
	tegro_engine.paused = false;
}

const char *
tegro_exchange_phase(const TegroExchange *exchange)
{
	if (exchange->first_byte_us > 0)
		return "while receiving the answer";
	if (exchange->handed_over)
		return "while waiting for the answer";
	if (exchange->connected)
		return "during the TLS handshake";
	if (exchange->name_lookup_us > 0)
		return "while connecting";
	return "during name look-up";
}

int64
tegro_exchange_date(const TegroExchange *exchange)
{
	return *exchange->date ? (int64) curl_getdate(exchange->date, NULL) : -1;
}
