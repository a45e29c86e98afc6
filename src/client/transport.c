/*-------------------------------------------------------------------------
 *
 * transport.c
 *		Exchanges of a request for an answer, over https, on libcurl.
 *
 * One engine serves a single call and a thousand at once: libcurl's multi
 * interface, driven by the sockets and the one timer that it asks for.  All
 * exchanges of a process share it, and the connections that it keeps alive
 * from call to call.
 *
 * Waiting.  PostgreSQL's WaitEventSet can't drop a socket, and libcurl's come
 * and go.  So libcurl's sockets live in an epoll set of ours, and what
 * PostgreSQL waits for is its latch and that set, itself a descriptor.  A
 * cancel, a timeout or a shutdown sets the latch, and is served within
 * tegro_transport_wait() with nothing of libcurl on the stack.
 *
 * Never twice.  When a connection that was kept alive dies without an answer,
 * libcurl repeats the request on another, POST or not: the provider may have
 * carried out the first.  Its PREREQ callback runs each time when a
 * connection stands and the request is about to be written, and can stop it.
 * The first time we note that from here on the request may have been sent
 * ("handed over"); a second time is libcurl's repeat, and is stopped.  An
 * exchange that ends before the first time was certainly not sent.  (The
 * other cure, a body read through a callback that refuses to rewind, costs a
 * packet a request, since libcurl then sends head and body apart.)
 *
 * HTTP/1.1, not 2.  Measured (docs/benchmarks.md), 2 is slower for one call
 * after another and quicker for many at once, above all on new connections.
 * But with one request on a connection, a connection that is lost puts one
 * payment in doubt, not all that were in flight.
 *
 * Hazards:
 *
 *	- libcurl's callbacks must not throw: a longjmp through its frames leaves
 *	  it broken.  They append within a bound, set a flag and return.  Memory
 *	  is PostgreSQL's and grows outside: the callback pauses the exchange.
 *	- libcurl resolves names in threads, which inherit the signal mask, and
 *	  PostgreSQL's handlers must not run on them.  libcurl calls us just before
 *	  it resolves, and signals are blocked from there until it returns.
 *	- A thread stuck in getaddrinfo() outlives its exchange; QUICK_EXIT keeps
 *	  libcurl from waiting for it.
 *	- Nothing of libcurl runs in the postmaster: the engine is made at the
 *	  first exchange of a process.
 *
 * This is the only file that includes <curl/...>.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/base/killpoint.h"
#include "src/base/settings.h"
#include "src/client/transport.h"

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

/* Sockets of which something is remembered; more than a session ever has. */
#define MAX_KNOWN_SOCKETS 4096

/*
 * Threads that look names up at the same time.  From 8.20 on libcurl shares
 * them between look-ups, two for each, and has 20 at most; before, each look-up
 * has one of its own.  A look-up that is stuck keeps its threads when its call
 * has long ended, and must not keep the next from its own.
 */
#define MAX_RESOLVER_THREADS   256L
#define SHARED_THREADS_VERSION 0x081400

/* What libcurl says of a header that is too long; before 8.6, as if in error. */
#if LIBCURL_VERSION_NUM >= 0x080600
#define CODE_OF_LONG_HEADER CURLE_TOO_LARGE
#else
#define CODE_OF_LONG_HEADER CURLE_OUT_OF_MEMORY
#endif

/* Sockets served at one waking; more are served at the next. */
#define MAX_EVENTS 64

struct TegroExchangeState
{
	TegroExchange *exchange;
	MemoryContextCallback on_reset; /* stops it when its memory goes */
	CURL *easy;		 /* libcurl's handle while in flight, or NULL */
	int64 setup;	 /* engine.setup_number that it is set up for */
	dlist_node node; /* in engine.in_flight, while easy is set */
	struct curl_slist authorization; /* in front of engine.headers */
	struct curl_slist no_expect;	 /* ... and of this, for a large body */
	char authorization_line[sizeof("Authorization: Bearer ") +
							TEGRO_SIGNATURE_LEN];
	size_t answer_room;	  /* bytes that "answer" can hold */
	size_t answer_wanted; /* room to make before going on, or 0 */
	size_t header_bytes;
	bool loopback_only; /* plain http */
	bool too_large;
	bool too_late;
	bool has_framing;	  /* a header told where the answer ends */
	bool framing_refused; /* ... and another said otherwise */
	bool stale;			  /* its connection had something to read already */
	int nstale;			  /* how often that was so */
	bool repeat_stopped;  /* libcurl wanted to send again */
	bool address_refused;
	curl_socket_t last_opened; /* by on_open_socket(); or CURL_SOCKET_BAD */
};

/* One a process; nothing in it until the first exchange. */
static struct
{
	CURLM *multi;
	struct curl_slist *headers; /* those that all requests share */
	int epoll_fd;
	WaitEventSet *wait_set;
	dlist_head in_flight;
	int max_connections;  /* that libcurl is told to keep */
	int ended;			  /* exchanges that ended since last told */
	bool paused;		  /* some wait for room for their answers */
	bool failed;		  /* a socket could not be watched */
	bool shares_threads;  /* libcurl keeps those that resolve names */
	bool signals_blocked; /* by block_signals(); they were "signals" */
	sigset_t signals;
	int64 timer_us; /* when libcurl wants to be called; -1: never */
	int nidle;
	CURL *idle[MAX_IDLE_HANDLES]; /* set up for "setup" */
	char *setup;		/* the settings that handles are set up for */
	int64 setup_number; /* how often these have changed */

	/*
	 * What is known of sockets by their number.  Those beyond are watched as
	 * well, only at a higher price.
	 */
	struct KnownSocket
	{
		bool open;		 /* opened by on_open_socket() */
		bool stood;		 /* closed, and had a connection */
		uint8 wanted;	 /* CURL_POLL_*: what libcurl wants to be told of */
		uint8 watched;	 /* ... and what it is in the epoll set for, if
						   * own_port is set */
		uint16 own_port; /* of a connection that stood; 0: not known */
	} sockets[MAX_KNOWN_SOCKETS];
	int nsockets; /* those beyond were never open */
} engine;


int64
tegro_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * INT64CONST(1000000) + now.tv_nsec / 1000;
}

/*
 * While libcurl is on the stack.  None of its callbacks throws, allocates or
 * waits: in a server with assertions that is a critical section, in which
 * PostgreSQL does not let them.  In any other it is none, for a mistake there
 * is no reason to restart the server.
 */
static inline void
enter_libcurl(void)
{
#ifdef USE_ASSERT_CHECKING
	START_CRIT_SECTION();
#endif
}

static inline void
leave_libcurl(void)
{
#ifdef USE_ASSERT_CHECKING
	END_CRIT_SECTION();
#endif
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
	Assert(exchange->answer_len <= exchange->answer_max);
	if (len > exchange->answer_max - exchange->answer_len)
	{
		state->too_large = true;
		return 0; /* anything but "len" ends the exchange */
	}
	if (exchange->answer_len + len > state->answer_room)
	{
		state->answer_wanted = exchange->answer_len + len;
		engine.paused = true;
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

/*
 * A thread that libcurl starts from here on must not take signals, other than
 * those that report a fault of its own.  restore_signals() undoes it here.
 */
static bool
block_signals(void)
{
	sigset_t blocked;

	if (engine.signals_blocked)
		return true;
	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	sigdelset(&blocked, SIGABRT);
	sigdelset(&blocked, SIGTRAP);
	engine.signals_blocked = pthread_sigmask(SIG_SETMASK, &blocked,
											 &engine.signals) == 0;
	return engine.signals_blocked;
}

/* Undoes what block_signals() did, now that libcurl has returned. */
static void
restore_signals(void)
{
	if (engine.signals_blocked)
	{
		pthread_sigmask(SIG_SETMASK, &engine.signals, NULL);
		engine.signals_blocked = false;
	}
}

/* A name is about to be resolved, by a thread. */
static int
on_resolve(void *resolver, void *reserved, void *arg)
{
	return block_signals() ? 0 : 1;
}

/*
 * Does a connection of ours, kept alive, have something to be read already:
 * a late word of the server's, or one answer too many?  It would be taken for
 * the answer to what is sent now.  libcurl doesn't say which socket it is
 * about to use, but from which port.
 */
static bool
has_unread_bytes(int own_port)
{
	char byte;

	for (int fd = 0; fd < engine.nsockets; fd++)
	{
		struct KnownSocket *known = &engine.sockets[fd];

		if (known->open && known->own_port == own_port)
			return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
	}

	/* its first time: ask all that have not been asked */
	for (int fd = 0; fd < engine.nsockets; fd++)
	{
		struct KnownSocket *known = &engine.sockets[fd];
		union
		{
			struct sockaddr any;
			struct sockaddr_in v4;
			struct sockaddr_in6 v6;
		} own = {0};
		socklen_t len = sizeof(own);

		if (!known->open || known->own_port != 0 ||
			getsockname(fd, &own.any, &len) != 0 ||
			own_port !=
				ntohs(own.any.sa_family == AF_INET6 ? own.v6.sin6_port
													: own.v4.sin_port))
			continue;
		known->own_port = (uint16) own_port;
		return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
	}
	return false;
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
		connections == 0 && has_unread_bytes(own_port))
	{
		state->stale = true;
		return CURL_PREREQFUNC_ABORT;
	}
	state->exchange->handed_over = true;
	tegro_kill_point("request ready");
	return CURL_PREREQFUNC_OK;
}

/* Is it an address that names this machine, or one of its own link? */
static void
classify_address(const struct sockaddr *address, bool *loopback,
				 bool *link_local)
{
	uint32 v4 = 0;
	bool is_v4 = false;

	*loopback = *link_local = false;
	if (address->sa_family == AF_INET)
	{
		v4 = ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr);
		is_v4 = true;
	}
	else if (address->sa_family == AF_INET6)
	{
		const struct in6_addr *v6 =
			&((const struct sockaddr_in6 *) address)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(v6))
		{
			memcpy(&v4, &v6->s6_addr[12], sizeof(v4));
			v4 = ntohl(v4);
			is_v4 = true;
		}
		else
		{
			*loopback = IN6_IS_ADDR_LOOPBACK(v6);
			*link_local = IN6_IS_ADDR_LINKLOCAL(v6);
		}
	}
	if (is_v4)
	{
		*loopback = (v4 >> 24) == 127;
		*link_local = (v4 >> 16) == 0xa9fe; /* 169.254.0.0/16 */
	}
}

/* A socket's number will mean another from here on. */
static void
forget_socket(curl_socket_t fd)
{
	Assert(fd >= 0 && fd < MAX_KNOWN_SOCKETS);
	engine.sockets[fd] = (struct KnownSocket){0};
}

/*
 * A connection is about to be opened.  Whatever a name resolves to, plain
 * http stays on this machine, and nothing goes to a link-local address, where
 * clouds keep their metadata services.
 */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct TegroExchangeState *state = arg;
	bool loopback;
	bool link_local;
	unsigned int timeout_ms;
	curl_socket_t fd;

	classify_address(&address->addr, &loopback, &link_local);
	if (link_local || (state->loopback_only && !loopback))
	{
		state->address_refused = true;
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	/* what we gave up, or died over, must not be delivered much later */
	timeout_ms = (unsigned int) tegro_timeout;
	if (fd >= 0)
		(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms,
						  sizeof(timeout_ms));
	if (fd >= 0 && fd < MAX_KNOWN_SOCKETS)
	{
		forget_socket(fd);
		engine.sockets[fd].open = true;
		state->last_opened = fd;
		engine.nsockets = Max(engine.nsockets, fd + 1);
	}
	return fd;
}

/* Has TCP got a connection there? */
static bool
is_connected(curl_socket_t fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	return getpeername(fd, (struct sockaddr *) &peer, &len) == 0;
}

/*
 * Did the connection that an exchange opened last stand, as far as TCP goes?
 * libcurl 8.14 tells nothing of one until TLS stands, too.
 */
static bool
stood(const struct TegroExchangeState *state)
{
	curl_socket_t fd = state->last_opened;

	if (fd == CURL_SOCKET_BAD)
		return false;
	Assert(fd >= 0 && fd < engine.nsockets);
	return engine.sockets[fd].open ? is_connected(fd)
								   : engine.sockets[fd].stood;
}

/*
 * A connection is closed.  (libcurl 7.88 doesn't tell of sockets that it opened
 * and never got connected.  What is remembered of those is stale, and nothing
 * may rely on it: own_port, which only a connection that stood gets, tells.)
 */
static int
on_close_socket(void *arg, curl_socket_t fd)
{
	if (fd >= 0 && fd < MAX_KNOWN_SOCKETS)
	{
		bool had_stood = is_connected(fd);

		forget_socket(fd);
		engine.sockets[fd].stood = had_stood;
	}
	return close(fd);
}

/* Has a socket in the epoll set, for what libcurl wants to be told of. */
static bool
watch_socket(curl_socket_t fd, int what)
{
	struct KnownSocket *known = fd < MAX_KNOWN_SOCKETS ? &engine.sockets[fd]
													   : NULL;
	struct epoll_event event = {0};

	Assert(fd >= 0 && engine.epoll_fd >= 0);
	Assert(what != CURL_POLL_REMOVE && what <= PG_UINT8_MAX);
	if (known && known->own_port != 0 && known->watched == what)
		return true;
	event.data.fd = fd;
	event.events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) |
		((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
	/* whether it is there still is found out by trying */
	if (epoll_ctl(engine.epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0 &&
		(errno != ENOENT ||
		 epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0))
	{
		engine.failed = true;
		return false;
	}
	if (known)
		known->watched = (uint8) what;
	return true;
}

/*
 * libcurl tells which socket it wants to be told of.
 *
 * It does so anew for each request, and takes it back after it.  To save
 * system calls, a socket stays in the epoll set in between.  The kernel takes
 * it out when it is closed; if something happens on it that nobody waits for,
 * serve_socket() does.
 */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *told)
{
	Assert(fd >= 0);
	if (fd < MAX_KNOWN_SOCKETS)
		engine.sockets[fd].wanted = what == CURL_POLL_REMOVE ? 0
															 : (uint8) what;
	else if (what == CURL_POLL_REMOVE)
		(void) epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	return what == CURL_POLL_REMOVE || watch_socket(fd, what) ? 0 : -1;
}

/* libcurl tells when it wants to be called, sockets or not. */
static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	engine.timer_us = timeout_ms < 0
		? -1
		: tegro_clock_us() + timeout_ms * INT64CONST(1000);
	return 0;
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

static void
check_multi(CURLMcode code, const char *what)
{
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("libcurl could not %s: %s", what, curl_multi_strerror(code))));
}

/*
 * Makes the engine.  Each piece is kept as soon as it exists, so that a
 * failure half-way is mended by the next call and leaks nothing.
 */
static void
start_engine(void)
{
	static bool initialized = false;

	StaticAssertStmt(sizeof(((TegroExchange *) NULL)->problem) >=
						 CURL_ERROR_SIZE,
					 "libcurl's error texts do not fit");
	if (engine.wait_set)
		return;

	/* not in the postmaster, whose children would share what it made */
	Assert(IsUnderPostmaster || !IsPostmasterEnvironment);
	if (!initialized)
	{
		CURLcode code;

		if ((curl_version_info(CURLVERSION_NOW)->features &
			 CURL_VERSION_ASYNCHDNS) == 0)
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_MISCONFIGURED),
					 errmsg("libcurl resolves names synchronously"),
					 errdetail("A name look-up could not be cancelled."),
					 errhint("Install a libcurl that was built with a threaded resolver or c-ares.")));
		code = curl_global_init(CURL_GLOBAL_ALL);
		check_setopt(code, "curl_global_init");
		engine.shares_threads =
			curl_version_info(CURLVERSION_NOW)->version_num >=
			SHARED_THREADS_VERSION;
		engine.epoll_fd = -1;
		engine.timer_us = -1;
		dlist_init(&engine.in_flight);
		initialized = true;
	}

	if (engine.headers == NULL)
	{
		struct curl_slist *list =
			curl_slist_append(NULL, "Content-Type: " TEGRO_CONTENT_TYPE);

		if (list == NULL ||
			curl_slist_append(list, "Accept: " TEGRO_CONTENT_TYPE) == NULL)
		{
			curl_slist_free_all(list);
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		engine.headers = list;
	}

	if (engine.multi == NULL)
	{
		CURLM *multi = curl_multi_init();

		if (multi == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) !=
				CURLM_OK ||
			curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) !=
				CURLM_OK)
		{
			curl_multi_cleanup(multi);
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("libcurl could not be told how to wait")));
		}
#if LIBCURL_VERSION_NUM >= SHARED_THREADS_VERSION
		/* an older one, loaded in its place, does not know it: no harm */
		(void) curl_multi_setopt(multi, CURLMOPT_RESOLVE_THREADS_MAX,
								 MAX_RESOLVER_THREADS);
#endif
		engine.multi = multi;
	}

	if (engine.epoll_fd < 0)
	{
		engine.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (engine.epoll_fd < 0)
			ereport(ERROR,
					(errcode_for_socket_access(),
					 errmsg("could not create an epoll descriptor: %m")));
	}

	if (engine.wait_set == NULL)
	{
		WaitEventSet *set = tegro_create_process_wait_event_set(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
							  NULL);
		AddWaitEventToSet(set, WL_SOCKET_READABLE, engine.epoll_fd, NULL,
						  NULL);
		engine.wait_set = set;
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
	SETOPT(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
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
	const char *known = engine.setup;
	Size len = 0;

	Assert(engine.nidle >= 0 && engine.nidle <= MAX_IDLE_HANDLES);

	/* the parts, each with its NUL, are what engine.setup holds */
	for (int i = 0; known && i < lengthof(parts); i++)
	{
		if (strcmp(known, parts[i]) != 0)
			known = NULL;
		else
			known += strlen(known) + 1;
	}
	if (known)
		return;

	while (engine.nidle > 0)
		curl_easy_cleanup(engine.idle[--engine.nidle]);
	if (engine.setup)
		pfree(engine.setup);
	engine.setup = NULL;
	engine.setup_number++;
	for (int i = 0; i < lengthof(parts); i++)
		len += strlen(parts[i]) + 1;
	engine.setup = MemoryContextAlloc(TopMemoryContext, len);
	len = 0;
	for (int i = 0; i < lengthof(parts); i++)
	{
		memcpy(engine.setup + len, parts[i], strlen(parts[i]) + 1);
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
	state->authorization.next = engine.headers;
	if (exchange->body_len >= EXPECT_BYTES)
	{
		state->authorization.next = &state->no_expect;
		state->no_expect.data = no_expect;
		state->no_expect.next = engine.headers;
	}

	check_setup(state->loopback_only);
	if (engine.nidle > 0)
		state->easy = engine.idle[--engine.nidle];
	else
	{
		state->easy = curl_easy_init();
		if (state->easy == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		fresh = true;
	}
	dlist_push_tail(&engine.in_flight, &state->node);
	state->setup = engine.setup_number;

	/* From here on tegro_exchange_stop() takes back whatever was done. */
	if (fresh)
		set_up_handle(state->easy, state->loopback_only);
	set_options(state->easy, state);
	enter_libcurl();
	code = curl_multi_add_handle(engine.multi, state->easy);
	leave_libcurl();
	check_multi(code, "add a request");
}

void
tegro_exchange_start(TegroExchange *exchange)
{
	Assert(exchange->state->easy == NULL);
	Assert(CritSectionCount == 0);
	start_engine();
	if (engine.max_connections != tegro_max_concurrency)
	{
		/* libcurl's own limit follows what is in flight, and closes the rest */
		check_multi(curl_multi_setopt(engine.multi, CURLMOPT_MAXCONNECTS,
									  (long) tegro_max_concurrency),
					"keep its connections");
		engine.max_connections = tegro_max_concurrency;
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
	Assert(!dlist_is_empty(&engine.in_flight));
	state->easy = NULL;
	dlist_delete(&state->node);

	/* harmless where it was never added */
	enter_libcurl();
	(void) curl_multi_remove_handle(engine.multi, easy);
	leave_libcurl();
	restore_signals();
	/* what these point to goes away, and some are used on clean-up */
	(void) curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL);
	(void) curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
	/* kept only if it is set up, and still for the settings of now */
	if (engine.nidle < MAX_IDLE_HANDLES &&
		exchange->end != TEGRO_EXCHANGE_OPEN &&
		state->setup == engine.setup_number)
		engine.idle[engine.nidle++] = easy;
	else
		curl_easy_cleanup(easy);
}


/*
 * Moving.
 */

static int64
get_time(CURL *easy, CURLINFO what)
{
	curl_off_t us = 0;

	return curl_easy_getinfo(easy, what, &us) == CURLE_OK ? (int64) us : 0;
}

/* Takes down how an exchange ended. */
static void
end_exchange(struct TegroExchangeState *state, CURLcode code)
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
			exchange->connected = port > 0 || stood(state);
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
	engine.ended++;
	tegro_exchange_stop(exchange);
}

/* Makes room for the answers that wait for it. */
static void
make_room(void)
{
	dlist_iter iter;

	dlist_foreach(iter, &engine.in_flight)
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
			enter_libcurl();
			(void) curl_easy_pause(state->easy, CURLPAUSE_CONT);
			leave_libcurl();
			restore_signals();
		}
	}
	engine.paused = false;
}

/* Serves what libcurl's callbacks left to do, and takes down what ended. */
static void
serve_exchanges(void)
{
	CURLMsg *message;
	int remaining;

	if (engine.paused)
		make_room();

	while ((message = curl_multi_info_read(engine.multi, &remaining)) != NULL)
	{
		struct TegroExchangeState *state = NULL;
		CURLcode code = message->data.result;

		if (message->msg == CURLMSG_DONE &&
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
							  (char **) &state) == CURLE_OK &&
			state != NULL)
			end_exchange(state, code);
	}
}

/* Lets libcurl move: on a socket's event, or on its timer. */
static void
move_exchanges(curl_socket_t fd, int events)
{
	CURLMcode code;
	int running;

	/* it starts threads whenever it likes, not just after on_resolve() */
	if (engine.shares_threads)
		(void) block_signals();
	enter_libcurl();
	code = curl_multi_socket_action(engine.multi, fd, events, &running);
	leave_libcurl();
	restore_signals();

	if (engine.failed)
	{
		engine.failed = false;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not wait for another socket"),
				 errhint("Lower tegro.max_concurrency, or raise the limits of the server's user.")));
	}
	check_multi(code, "go on with its requests");
}

/* Serves what happened on a socket of the epoll set. */
static void
serve_socket(const struct epoll_event *event)
{
	curl_socket_t fd = event->data.fd;

	Assert(fd >= 0);
	/*
	 * If nobody waits for it, it is an idle connection that the server closed:
	 * it is taken out of the epoll set, and libcurl sees the rest when it is
	 * about to use it again.
	 */
	if (fd < MAX_KNOWN_SOCKETS && engine.sockets[fd].wanted == 0)
	{
		engine.sockets[fd].watched = 0;
		(void) epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return;
	}
	move_exchanges(fd,
				   ((event->events & EPOLLIN) ? CURL_CSELECT_IN : 0) |
					   ((event->events & EPOLLOUT) ? CURL_CSELECT_OUT : 0) |
					   ((event->events & (EPOLLERR | EPOLLHUP))
							? CURL_CSELECT_ERR
							: 0));
}

/* Serves the sockets of the epoll set. */
static void
serve_sockets(void)
{
	struct epoll_event ready[MAX_EVENTS];
	int nready = epoll_wait(engine.epoll_fd, ready, MAX_EVENTS, 0);

	for (int i = 0; i < nready; i++)
		serve_socket(&ready[i]);
}

/* Milliseconds until libcurl's timer is due; -1 if it is not set. */
static long
timer_remaining_ms(void)
{
	int64 left_us;

	if (engine.timer_us < 0)
		return -1;
	/* rounded up, so as not to wake just before the time */
	left_us = engine.timer_us - tegro_clock_us();
	return left_us <= 0 ? 0 : (long) ((left_us + 999) / 1000);
}

bool
tegro_transport_wait(long timeout_ms)
{
	static uint32 request_event = 0;
	static uint32 pause_event = 0;
	int64 start_us;

	Assert(timeout_ms >= -1);
	/* a cancel must be able to end the wait */
	Assert(InterruptHoldoffCount == 0 && CritSectionCount == 0);
	Assert(!engine.signals_blocked);
	start_engine();
	start_us = timeout_ms > 0 ? tegro_clock_us() : 0;

	for (;;)
	{
		WaitEvent events[2];
		int nevents;
		long wait_ms;
		bool latch_set = false;

		CHECK_FOR_INTERRUPTS();

		wait_ms = timer_remaining_ms();
		if (wait_ms == 0)
		{
			engine.timer_us = -1;
			move_exchanges(CURL_SOCKET_TIMEOUT, 0);
			serve_exchanges();
			wait_ms = timer_remaining_ms();
		}
		if (engine.ended > 0)
		{
			engine.ended = 0;
			return true;
		}

		if (timeout_ms >= 0)
		{
			long left_ms = timeout_ms;

			if (timeout_ms > 0)
				left_ms -= (long) ((tegro_clock_us() - start_us) / 1000);
			left_ms = Max(left_ms, 0);
			if (wait_ms < 0 || wait_ms > left_ms)
				wait_ms = left_ms;
		}

		/* deliverers sleep here, too, and calls until their repeat */
		nevents = WaitEventSetWait(engine.wait_set, wait_ms, events,
								   lengthof(events),
								   dlist_is_empty(&engine.in_flight)
									   ? tegro_wait_event(&pause_event,
														  "TegroPause")
									   : tegro_wait_event(&request_event,
														  "TegroRequest"));
		for (int i = 0; i < nevents; i++)
		{
			if (events[i].events & WL_LATCH_SET)
			{
				ResetLatch(MyLatch);
				latch_set = true;
			}
			else
				serve_sockets();
			serve_exchanges();
		}

		if (engine.ended > 0)
		{
			engine.ended = 0;
			return true;
		}
		if (latch_set)
		{
			CHECK_FOR_INTERRUPTS();
			return false;
		}
		if (timeout_ms == 0 ||
			(timeout_ms > 0 &&
			 tegro_clock_us() - start_us >= timeout_ms * INT64CONST(1000)))
			return false;
	}
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

char *
tegro_transport_library(bool *suits)
{
	const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	*suits = (info->features & CURL_VERSION_ASYNCHDNS) != 0;
	return psprintf("libcurl %s, %s", info->version,
					info->ssl_version ? info->ssl_version : "without TLS");
}
