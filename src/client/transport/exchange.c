/*-------------------------------------------------------------------------
 *
 * exchange.c
 *		One exchange: its options, its callbacks, and how it ended.
 *
 * Hazard: libcurl's callbacks must not throw.  They append within a bound, set
 * a flag and return.
 *
 * Lost bytes.  A callback that refuses bytes ends the exchange, but not if
 * libcurl calls it from curl_easy_pause(): then libcurl goes on with what comes
 * next, and reports success.  So what a callback refused is kept in "stop",
 * which counts more than libcurl's word, and the bytes are counted at the end.
 *
 * Reload.  libcurl keeps the certificate authorities that it has read for a
 * day, TLS sessions that it can resume without a certificate, and connections.
 * All three it uses only for the same names of files.  So after a reload the
 * same files get other names: "/./etc/..." is "/etc/..." (see spell_path()).
 * Another multi handle for each reload would do as well, but not for a worker
 * that has something in flight at any time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/error.h"
#include "src/base/injection.h"
#include "src/base/settings.h"
#include "src/client/transport/internal.h"

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
	TimestampTz reload; /* the last that was noticed */
	uint32 nreloads;	/* that were noticed */
} kept;

/* We stop an exchange: the first cause counts. */
static inline void
stop(struct TegroExchangeState *state, TegroStop why)
{
	if (state->flight.stop == TEGRO_STOP_NONE)
		state->flight.stop = why;
}

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
	Assert(exchange->answer_len <= exchange->request.answer_max);
	if (len > exchange->request.answer_max - exchange->answer_len)
		stop(state, TEGRO_STOP_TOO_LARGE);
	/* anything but "len" ends the exchange, sooner or later */
	if (state->flight.stop != TEGRO_STOP_NONE)
		return 0;
	if (exchange->answer_len + len > state->answer_room)
	{
		state->flight.answer_wanted = exchange->answer_len + len;
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
				state->flight.has_framing =
					false; /* a head, perhaps one of several */
			return true;
		case 'C':
		case 'c':
			if (!is_header(line, len, "Content-Length:", &value, &value_len))
				return true;
			if (state->flight.has_framing || value_len == 0 ||
				value_len > 18 || strspn(value, "0123456789") < value_len)
				return false;
			break;
		case 'T':
		case 't':
			if (!is_header(line, len, "Transfer-Encoding:", &value,
						   &value_len))
				return true;
			if (state->flight.has_framing || value_len != 7 ||
				pg_strncasecmp(value, "chunked", 7) != 0)
				return false;
			break;
		default:
			return true;
	}
	state->flight.has_framing = true;
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
	state->flight.header_bytes += len;
	if (state->flight.header_bytes > MAX_HEADER_BYTES)
		stop(state, TEGRO_STOP_TOO_LARGE);
	if (len > 0 && (bytes[0] == 'D' || bytes[0] == 'd'))
		keep_date(state->exchange, bytes, len);
	if (!check_framing(state, bytes, len))
		stop(state, TEGRO_STOP_FRAMING);
	return state->flight.stop == TEGRO_STOP_NONE ? len : 0;
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
	TegroExchange *exchange = state->exchange;
	TegroFlight *flight = &state->flight;
	long connections = 1;

	Assert(state->easy != NULL);
	Assert(exchange->end == TEGRO_EXCHANGE_OPEN);
	/* one of the host's addresses was refused, but another was good */
	if (flight->stop == TEGRO_STOP_ADDRESS)
		flight->stop = TEGRO_STOP_NONE;

	/*
	 * The fence: a process that was stopped, or a machine that slept, must
	 * not send what another may have taken over by now.
	 */
	if (exchange->handed_over)
		stop(state, TEGRO_STOP_REPEAT);
	else if (exchange->request.send_before_us > 0 &&
			 tegro_clock_us() > exchange->request.send_before_us)
		stop(state, TEGRO_STOP_TOO_LATE);
	if (flight->stop != TEGRO_STOP_NONE)
		return CURL_PREREQFUNC_ABORT;

	/* before it is looked at: from here on it is not shut down as idle */
	flight->socket = tegro_socket_take(state, own_port);
	if (flight->socket != CURL_SOCKET_BAD)
	{
		tegro_engine.nwaiting--;
		tegro_engine.nresolving -= flight->may_resolve;
	}
	if (curl_easy_getinfo(state->easy, CURLINFO_NUM_CONNECTS, &connections) ==
			CURLE_OK &&
		connections == 0 && tegro_socket_has_unread_bytes(flight->socket))
	{
		stop(state, TEGRO_STOP_STALE);
		return CURL_PREREQFUNC_ABORT;
	}
	/* what libcurl said before is about a connection that it did not use */
	exchange->problem[0] = '\0';
	exchange->handed_over = true;
	tegro_injection_point("request ready");
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
 * Another name for a file or directory, which no earlier reload gave it: the
 * number of the reload, a binary digit after the other, as "/." or "/", stands
 * before it.  Before the first reload it is the name as it is.
 */
static const char *
spell_path(const char *path)
{
	StringInfoData name;

	if (kept.nreloads == 0)
		return path;
	initStringInfo(&name);
	if (*path != '/')
		appendStringInfoChar(&name, '.');
	for (int bit = pg_leftmost_one_pos32(kept.nreloads); bit >= 0; bit--)
		appendStringInfoString(&name, (kept.nreloads >> bit) & 1 ? "/." : "/");
	if (*path != '/')
		appendStringInfoChar(&name, '/');
	appendStringInfoString(&name, path);
	return name.data;
}

/* Tells a new handle which authorities are trusted. */
static void
set_up_authorities(CURL *easy)
{
	char *bundle = NULL;
	char *directory = NULL;

	if (*tegro_ca_file)
	{
		/* these authorities instead of the system's, not beside them */
		SETOPT(easy, CURLOPT_CAINFO, spell_path(tegro_ca_file));
		SETOPT(easy, CURLOPT_CAPATH, NULL);
		return;
	}
	(void) curl_easy_getinfo(easy, CURLINFO_CAINFO, &bundle);
	(void) curl_easy_getinfo(easy, CURLINFO_CAPATH, &directory);
	if (bundle && access(bundle, R_OK) == 0)
	{
		/*
		 * The system's authorities in one file, which libcurl reads once.
		 * With a directory of them beside it, it reads all for each
		 * connection, some 20 ms.
		 */
		SETOPT(easy, CURLOPT_CAPATH, NULL);
		SETOPT(easy, CURLOPT_CAINFO, spell_path(bundle));
	}
	else if (directory)
		SETOPT(easy, CURLOPT_CAPATH, spell_path(directory));
}

/*
 * Sets a new handle up: all that is the same for every exchange under the
 * settings as they are.
 */
static void
set_up_handle(CURL *easy, bool loopback_only)
{
	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, CURLOPT_QUICK_EXIT, 1L);

	/* where to */
	SETOPT(easy, CURLOPT_PROTOCOLS_STR, loopback_only ? "http" : "https");
	SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	/* "" turns the environment's off; plain http goes to this machine */
	SETOPT(easy, CURLOPT_PROXY, loopback_only ? "" : tegro_proxy);
	SETOPT(easy, CURLOPT_NOPROXY, "");
	SETOPT(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SETOPT(easy, CURLOPT_RESOLVER_START_FUNCTION, on_resolve);
	SETOPT(easy, CURLOPT_OPENSOCKETFUNCTION, tegro_socket_open);
	SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, tegro_socket_close);
	SETOPT(easy, CURLOPT_MAXAGE_CONN, (long) TEGRO_MAX_IDLE_S);

	/* to whom */
	SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	set_up_authorities(easy);

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
	SETOPT(easy, CURLOPT_URL, exchange->request.url);
	SETOPT(easy, CURLOPT_OPENSOCKETDATA, state);
	SETOPT(easy, CURLOPT_FRESH_CONNECT, state->nstale > MAX_STALE ? 1L : 0L);
	SETOPT(easy, CURLOPT_POSTFIELDS, exchange->request.body);
	SETOPT(easy, CURLOPT_POSTFIELDSIZE_LARGE,
		   (curl_off_t) exchange->request.body_len);
	SETOPT(easy, CURLOPT_HTTPHEADER, &state->authorization);
	SETOPT(easy, CURLOPT_PREREQDATA, state);
	SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS,
		   (long) exchange->request.connect_timeout_ms);
	SETOPT(easy, CURLOPT_TIMEOUT_MS, (long) exchange->request.timeout_ms);
	SETOPT(easy, CURLOPT_WRITEDATA, state);
	SETOPT(easy, CURLOPT_HEADERDATA, state);
}

/*
 * Throws the kept handles away if the settings that they are set up for have
 * changed, or the files that these name may have: after a reload.
 */
static void
check_setup(bool loopback_only)
{
	const char *parts[] = {loopback_only ? "http" : "https", tegro_proxy,
						   tegro_ca_file, tegro_user_agent};
	const char *known = kept.setup;
	Size len = 0;

	Assert(kept.nidle >= 0 && kept.nidle <= MAX_IDLE_HANDLES);

	if (kept.reload != PgReloadTime)
	{
		/* nothing that was read before it is used again */
		if (kept.setup)
		{
			kept.nreloads++;
			tegro_sockets_close_idle();
		}
		kept.reload = PgReloadTime;
		known = NULL;
	}

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

/*
 * Tells libcurl how many connections it may have: no more than there are slots
 * for; and how many of them it may keep: as many as may be in flight at once.
 */
static void
limit_connections(void)
{
	int most = tegro_slots_connections();

	if (tegro_engine.max_idle != tegro_max_concurrency)
	{
		tegro_engine_check(curl_multi_setopt(tegro_engine.multi,
											 CURLMOPT_MAXCONNECTS,
											 (long) tegro_max_concurrency),
						   "limit its idle connections");
		tegro_engine.max_idle = tegro_max_concurrency;
	}
	if (tegro_engine.max_connections != most)
	{
		tegro_engine_check(curl_multi_setopt(tegro_engine.multi,
											 CURLMOPT_MAX_TOTAL_CONNECTIONS,
											 (long) most),
						   "limit its connections");
		tegro_engine.max_connections = most;
	}
}

/* Is the host of a URL a name, neither an address nor "localhost"? */
bool
tegro_exchange_resolves(const char *url)
{
	const char *host = strstr(url, "://");
	size_t len;

	if (host == NULL)
		return true;
	host += 3;
	len = strcspn(host, ":/");
	return *host != '[' && strspn(host, "0123456789.") < len &&
		!(len == 9 && pg_strncasecmp(host, "localhost", 9) == 0);
}

/* Puts an exchange in flight, for the first time or on another connection. */
static void
put_in_flight(TegroExchange *exchange)
{
	static char no_expect[] = "Expect:";
	struct TegroExchangeState *state = exchange->state;
	const TegroExchangeRequest *request = &exchange->request;
	CURLMcode code;
	bool fresh = false;

	Assert(state->easy == NULL && state->exchange == exchange);
	/* what was handed over goes through here once more only for its caller */
	Assert(state->flight.stop != TEGRO_STOP_STALE || !exchange->handed_over);
	Assert(request->url && request->body);
	Assert(strlen(request->signature) == TEGRO_SIGNATURE_LEN);
	Assert(request->timeout_ms > 0 && request->connect_timeout_ms > 0);
	Assert(request->answer_max > 0);

	/* all of it but the request and the buffer for the answer */
	*exchange = (TegroExchange){
		.request = *request,
		.answer = exchange->answer,
		.state = state,
	};
	exchange->answer[0] = '\0';
	state->flight = (TegroFlight){
		.loopback_only = pg_strncasecmp(request->url, "http://", 7) == 0,
		.may_resolve = tegro_exchange_resolves(request->url),
		.opened = CURL_SOCKET_BAD,
		.socket = CURL_SOCKET_BAD,
	};

	snprintf(state->authorization_line, sizeof(state->authorization_line),
			 "Authorization: Bearer %s", request->signature);
	state->authorization.data = state->authorization_line;
	state->authorization.next = kept.headers;
	if (request->body_len >= EXPECT_BYTES)
	{
		state->authorization.next = &state->no_expect;
		state->no_expect.data = no_expect;
		state->no_expect.next = kept.headers;
	}

	check_setup(state->flight.loopback_only);
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
	tegro_engine.nin_flight++;
	tegro_engine.nwaiting++;
	tegro_engine.nresolving += state->flight.may_resolve;
	state->setup = kept.setup_number;

	/* From here on tegro_exchange_stop() takes back whatever was done. */
	if (fresh)
		set_up_handle(state->easy, state->flight.loopback_only);
	set_options(state->easy, state);
	tegro_slots_hold();
	limit_connections();
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
	tegro_engine.nin_flight--;
	if (state->flight.socket == CURL_SOCKET_BAD)
	{
		tegro_engine.nwaiting--;
		tegro_engine.nresolving -= state->flight.may_resolve;
	}

	/* harmless where it was never added */
	tegro_enter_libcurl();
	(void) curl_multi_remove_handle(tegro_engine.multi, easy);
	tegro_leave_libcurl();
	tegro_engine_restore_signals();
	tegro_socket_give_back(state);
	tegro_slots_release();
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

/* Has libcurl received as many bytes as we have kept, and were announced? */
static bool
is_whole(CURL *easy, const TegroExchange *exchange)
{
	curl_off_t received = -1;
	curl_off_t announced = -1;

	if (curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &received) !=
			CURLE_OK ||
		curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T,
						  &announced) != CURLE_OK)
		return false;
	return (size_t) received == exchange->answer_len &&
		(announced < 0 || announced == received);
}

/* Records what libcurl has measured. */
static void
record_times(struct TegroExchangeState *state)
{
	TegroExchange *exchange = state->exchange;
	CURL *easy = state->easy;
	long connections = 0;
	long port = 0;

	if (exchange->handed_over &&
		curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections) ==
			CURLE_OK)
		exchange->kept_alive = connections == 0;
	/* what is measured then is the connection for the repeat */
	if (state->flight.stop == TEGRO_STOP_REPEAT)
		exchange->kept_alive = true;
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
	if (state->flight.header_bytes > 0)
		exchange->first_byte_us = get_time(easy,
										   CURLINFO_STARTTRANSFER_TIME_T);
	exchange->total_us = get_time(easy, CURLINFO_TOTAL_TIME_T);
}

/* Records why libcurl could not go on. */
static void
record_failure(TegroExchange *exchange, CURLcode code)
{
	const char *problem = NULL;

	switch (code)
	{
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
			exchange->fault = TEGRO_FAULT_CERTIFICATE;
			break;
		case CURLE_SSL_CACERT_BADFILE:
			/* by the name that the administrator gave it: see spell_path() */
			if (*tegro_ca_file)
				snprintf(exchange->problem, sizeof(exchange->problem),
						 "error setting certificate file: %s", tegro_ca_file);
			exchange->fault = TEGRO_FAULT_SETTING;
			break;
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
	if (code == CODE_OF_LONG_HEADER && exchange->handed_over)
		problem = "A header of the answer is too long, or memory ran out";
	else if (exchange->problem[0] == '\0')
		problem = code == CURLE_OPERATION_TIMEDOUT ? "Operation timed out"
												   : curl_easy_strerror(code);
	if (problem)
		strlcpy(exchange->problem, problem, sizeof(exchange->problem));
}

/* Records why we stopped an exchange. */
static void
record_stop(TegroExchange *exchange, const TegroFlight *flight)
{
	TegroExchangeFault fault = TEGRO_FAULT_NETWORK;
	const char *problem = "";

	switch (flight->stop)
	{
		case TEGRO_STOP_ADDRESS:
			fault = TEGRO_FAULT_SETTING;
			problem = flight->loopback_only
				? "The name of the API's host leads away from this machine, where plain http is not allowed"
				: "The name of the API's host leads to a link-local address";
			break;
		case TEGRO_STOP_TOO_LATE:
			fault = TEGRO_FAULT_TOO_LATE;
			problem = "The time to send it had passed";
			break;
		case TEGRO_STOP_REPEAT:
			problem = "The connection was lost before an answer came";
			break;
		case TEGRO_STOP_FRAMING:
			problem = "The answer's head leaves open where the answer ends";
			break;
		case TEGRO_STOP_TOO_LARGE:
			fault = TEGRO_FAULT_TOO_LARGE;
			problem = "The answer is too large";
			break;
		case TEGRO_STOP_LOST_BYTES:
			problem = "Part of the answer was lost";
			break;
		case TEGRO_STOP_NONE:
		case TEGRO_STOP_STALE:
			Assert(false);
			break;
	}
	exchange->fault = fault;
	strlcpy(exchange->problem, problem, sizeof(exchange->problem));
}

/* Records how an exchange ended. */
void
tegro_exchange_end(struct TegroExchangeState *state, CURLcode code)
{
	TegroExchange *exchange = state->exchange;
	CURL *easy = state->easy;
	long status = 0;
	curl_off_t retry_after = 0;

	Assert(easy != NULL);
	Assert(exchange->end == TEGRO_EXCHANGE_OPEN);
	if (state->flight.stop == TEGRO_STOP_STALE)
	{
		/* nothing was sent: the connection goes, another is taken */
		state->nstale++;
		exchange->end = TEGRO_EXCHANGE_NOT_SENT;
		tegro_exchange_stop(exchange);
		put_in_flight(exchange);
		return;
	}

	exchange->answer[exchange->answer_len] = '\0';
	if (code == CURLE_OK && !is_whole(easy, exchange))
		stop(state, TEGRO_STOP_LOST_BYTES);
	if (curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
		exchange->http_status = (int) status;
	if (status >= 300 &&
		curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after) ==
			CURLE_OK)
		exchange->retry_after_s = (int64) retry_after;
	record_times(state);
	if (state->flight.stop != TEGRO_STOP_NONE)
		record_stop(exchange, &state->flight);
	else if (code != CURLE_OK)
		record_failure(exchange, code);
	exchange->end = exchange->fault == TEGRO_FAULT_NONE
		? TEGRO_EXCHANGE_COMPLETE
		: exchange->handed_over ? TEGRO_EXCHANGE_BROKEN
								: TEGRO_EXCHANGE_NOT_SENT;

	/* the two that say what was sent must agree */
	Assert((exchange->end == TEGRO_EXCHANGE_NOT_SENT) ==
		   !exchange->handed_over);
	tegro_engine.ended++;
	tegro_exchange_stop(exchange);
}

/* Makes room for the answer of an exchange that waits for it. */
static void
make_room(struct TegroExchangeState *state)
{
	TegroExchange *exchange = state->exchange;
	CURLcode code = CURLE_OK;

	while (state->flight.answer_wanted > 0 && code == CURLE_OK &&
		   state->flight.stop == TEGRO_STOP_NONE)
	{
		size_t room = Min(Max(state->flight.answer_wanted,
							  2 * state->answer_room),
						  exchange->request.answer_max);

		Assert(room >= state->flight.answer_wanted);
		exchange->answer = repalloc_huge(exchange->answer, room + 1);
		state->answer_room = room;
		state->flight.answer_wanted = 0;
		/* calls on_body() again with what was held back */
		tegro_enter_libcurl();
		code = curl_easy_pause(state->easy, CURLPAUSE_CONT);
		tegro_leave_libcurl();
		tegro_engine_restore_signals();
	}
	if (code != CURLE_OK)
		stop(state, TEGRO_STOP_LOST_BYTES);
	/* libcurl itself would go on without what was refused */
	if (state->flight.stop != TEGRO_STOP_NONE)
		tegro_exchange_end(state, code);
}

/* Makes room for the answers that wait for it. */
void
tegro_exchange_make_room(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &tegro_engine.in_flight)
	{
		struct TegroExchangeState *state =
			dlist_container(struct TegroExchangeState, node, iter.cur);

		if (state->flight.answer_wanted > 0)
			make_room(state);
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
	return "during name lookup";
}

int64
tegro_exchange_date(const TegroExchange *exchange)
{
	return *exchange->date ? (int64) curl_getdate(exchange->date, NULL) : -1;
}
