/*-------------------------------------------------------------------------
 *
 * sockets.c
 *		The sockets of libcurl's connections.
 *
 * They live in an epoll set, which tegro_transport_wait() waits for as one
 * descriptor.  A table says what is known of each, by its number.
 *
 * Idle connections.  libcurl keeps a connection for the next exchange, and
 * closes one that is too old when it looks for one to use.  A session may make
 * no other call, and sleep for hours in the client's hands.  So a timeout, by
 * SIGALRM, shuts connections down that have been idle for TEGRO_MAX_IDLE_S.
 * libcurl then finds them dead, and closes their descriptors, when it is next
 * used.
 *
 * Hazard: the timeout's handler can run between any two instructions.  It
 * touches only "idle_since", and sockets that have an entry there.  A socket
 * gets one when its exchange has ended, and loses it before an exchange uses
 * it or its descriptor is closed.  A connection that the handler shuts down
 * just before it is taken has an end of file to read, and is refused as stale.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "storage/fd.h"
#include "utils/timeout.h"

#include "src/base/settings.h"
#include "src/client/transport/internal.h"

/* Sockets of which something is remembered; more than a session ever has. */
#define MAX_KNOWN_SOCKETS 4096

/* Sockets served at one waking; more are served at the next. */
#define MAX_EVENTS 64

static int epoll_fd = -1;

/*
 * What is known of sockets by their number.  Those beyond are watched as well,
 * only at a higher price.
 */
static struct KnownSocket
{
	bool open;		 /* opened by tegro_socket_open() */
	bool stood;		 /* closed, and had a connection */
	uint8 wanted;	 /* CURL_POLL_*: what libcurl wants to be told of */
	uint8 watched;	 /* ... and what it is in the epoll set for, if own_port
					  * is set */
	uint16 own_port; /* of a connection that stood; 0: not known */
	int user_timeout_ms; /* TCP_USER_TIMEOUT, as it was set last */
	const struct TegroExchangeState *user; /* whose exchange is on it */
} sockets[MAX_KNOWN_SOCKETS];
static int nsockets; /* those beyond were never open */

/* Since when a connection is idle, on tegro_clock_us() in s; 0: it is not. */
static volatile sig_atomic_t idle_since[MAX_KNOWN_SOCKETS];

/* The timeout that shuts idle connections down; is it to be active? */
static TimeoutId idle_timeout;
static volatile sig_atomic_t idle_timeout_wanted = false;


/*
 * Idle connections.
 */

static sig_atomic_t
clock_s(void)
{
	return (sig_atomic_t) (tegro_clock_us() / 1000000);
}

/* The handler of the timeout: see above. */
static void
on_idle_timeout(void)
{
	sig_atomic_t now = clock_s();
	sig_atomic_t next_s = -1;

	for (int fd = 0; fd < nsockets; fd++)
	{
		sig_atomic_t since = idle_since[fd];
		sig_atomic_t left_s = since + TEGRO_MAX_IDLE_S - now;

		if (since == 0)
			continue;
		if (left_s <= 0)
		{
			idle_since[fd] = 0;
			(void) shutdown(fd, SHUT_RDWR);
		}
		else if (next_s < 0 || left_s < next_s)
			next_s = left_s;
	}
	idle_timeout_wanted = next_s >= 0;
	if (idle_timeout_wanted)
		enable_timeout_after(idle_timeout, next_s * 1000);
}

/*
 * A session that has caught an error has disabled all timeouts.  (After an
 * error in a transaction that has failed already, this waits for the next.)
 */
static void
on_transaction_end(XactEvent event, void *arg)
{
	if (idle_timeout_wanted && !get_timeout_active(idle_timeout))
		enable_timeout_after(idle_timeout, TEGRO_MAX_IDLE_S * 1000);
}

/*
 * Has libcurl find all idle connections dead, however short they have been idle.
 * It closes them when it is next used, which is now, and says so to the server:
 * for that they stay open for writing.
 */
void
tegro_sockets_close_idle(void)
{
	for (int fd = 0; fd < nsockets; fd++)
	{
		if (idle_since[fd] != 0)
		{
			idle_since[fd] = 0;
			(void) shutdown(fd, SHUT_RD);
		}
	}
}


/*
 * The table.
 */

/* The epoll set, made where there is none yet, with all that goes with it. */
int
tegro_sockets_start(void)
{
	if (idle_timeout == 0)
	{
		idle_timeout = RegisterTimeout(USER_TIMEOUT, on_idle_timeout);
		RegisterXactCallback(on_transaction_end, NULL);
	}
	if (epoll_fd < 0)
	{
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_fd < 0)
			ereport(ERROR,
					(errcode_for_socket_access(),
					 errmsg("could not create an epoll descriptor: %m")));
		ReserveExternalFD();
	}
	return epoll_fd;
}

/* A socket's number will mean another from here on. */
static void
forget_socket(curl_socket_t fd)
{
	Assert(fd >= 0 && fd < MAX_KNOWN_SOCKETS);
	idle_since[fd] = 0;
	if (sockets[fd].own_port != 0)
		tegro_slots_count_connection(-1);
	sockets[fd] = (struct KnownSocket){0};
}

/* The port at this machine's end of a socket; 0 if it has none. */
static int
get_own_port(curl_socket_t fd)
{
	union
	{
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} own = {0};
	socklen_t len = sizeof(own);

	if (getsockname(fd, &own.any, &len) != 0)
		return 0;
	return ntohs(own.any.sa_family == AF_INET6 ? own.v6.sin6_port
											   : own.v4.sin_port);
}

/*
 * The socket of a connection that stands; CURL_SOCKET_BAD if it cannot be told.
 * libcurl does not say which it is about to use, but from which port.
 */
static curl_socket_t
find_socket(const struct TegroExchangeState *state, int own_port)
{
	curl_socket_t opened = state->flight.opened;
	curl_socket_t found = CURL_SOCKET_BAD;
	int nfound = 0;
	int nfree = 0;

	/* a new connection, which the exchange itself has opened */
	if (opened != CURL_SOCKET_BAD && sockets[opened].open &&
		sockets[opened].own_port == 0 && get_own_port(opened) == own_port)
		return opened;

	for (int fd = 0; fd < nsockets; fd++)
	{
		if (!sockets[fd].open || sockets[fd].own_port != own_port)
			continue;
		nfound++;
		if (nfound == 1 || sockets[fd].user == NULL)
			found = fd;
		nfree += sockets[fd].user == NULL;
	}

	/*
	 * It can still have a user, whose answer has just come.  Two sockets can
	 * have one port, if they lead to different hosts.
	 */
	if (nfound == 1 || nfree == 1)
		return found;
	if (nfound > 0)
		return CURL_SOCKET_BAD;

	/* its first time: ask all that have not been asked */
	for (int fd = 0; fd < nsockets; fd++)
	{
		struct KnownSocket *known = &sockets[fd];

		if (known->open && known->own_port == 0 &&
			get_own_port(fd) == own_port)
			return fd;
	}
	return CURL_SOCKET_BAD;
}

/*
 * Has the kernel give up what an exchange sent when nobody listens for its
 * answer any more: a request that we gave up, or died over, must not be
 * delivered much later.
 */
static void
set_user_timeout(curl_socket_t fd, const TegroExchange *exchange)
{
	unsigned int timeout_ms = (unsigned int) Min(exchange->request.timeout_ms,
												 tegro_timeout);

	if (fd < MAX_KNOWN_SOCKETS)
	{
		if (sockets[fd].user_timeout_ms == (int) timeout_ms)
			return;
		sockets[fd].user_timeout_ms = (int) timeout_ms;
	}
	(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms,
					  sizeof(timeout_ms));
}

/*
 * An exchange is about to use the connection from this port.  Returns its
 * socket, or CURL_SOCKET_BAD if it cannot be told.
 */
curl_socket_t
tegro_socket_take(const struct TegroExchangeState *state, int own_port)
{
	curl_socket_t fd = find_socket(state, own_port);

	if (fd == CURL_SOCKET_BAD)
		return fd;
	idle_since[fd] = 0;
	if (sockets[fd].own_port == 0)
	{
		sockets[fd].own_port = (uint16) own_port;
		tegro_slots_count_connection(1);
	}
	sockets[fd].user = state;
	set_user_timeout(fd, state->exchange);
	return fd;
}

/* An exchange has ended: if its connection is kept, it is idle. */
void
tegro_socket_give_back(const struct TegroExchangeState *state)
{
	curl_socket_t fd = state->flight.socket;

	/* it may be closed by now, and its number another's */
	if (fd == CURL_SOCKET_BAD || sockets[fd].user != state)
		return;
	Assert(sockets[fd].open && sockets[fd].own_port != 0);
	sockets[fd].user = NULL;
	idle_since[fd] = clock_s();
	idle_timeout_wanted = true;
	if (!get_timeout_active(idle_timeout))
		enable_timeout_after(idle_timeout, TEGRO_MAX_IDLE_S * 1000);
}

/*
 * Does a connection of ours, kept alive, have something to be read already:
 * its end, a late word of the server's, or one answer too many?  It would be
 * taken for the answer to what is sent now.
 */
bool
tegro_socket_has_unread_bytes(curl_socket_t fd)
{
	char byte;

	return fd != CURL_SOCKET_BAD &&
		recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
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

/*
 * A connection is about to be opened.  Whatever a name resolves to, plain
 * http stays on this machine, and nothing goes to a link-local address, where
 * clouds keep their metadata services.
 */
curl_socket_t
tegro_socket_open(void *arg, curlsocktype purpose,
				  struct curl_sockaddr *address)
{
	struct TegroExchangeState *state = arg;
	bool loopback;
	bool link_local;
	curl_socket_t fd;

	classify_address(&address->addr, &loopback, &link_local);
	if (link_local || (state->flight.loopback_only && !loopback))
	{
		/* not if another address is good: see on_ready_to_send() */
		if (state->flight.stop == TEGRO_STOP_NONE)
			state->flight.stop = TEGRO_STOP_ADDRESS;
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd >= 0 && fd < MAX_KNOWN_SOCKETS)
	{
		forget_socket(fd);
		sockets[fd].open = true;
		state->flight.opened = fd;
		nsockets = Max(nsockets, fd + 1);
	}
	if (fd >= 0)
		set_user_timeout(fd, state->exchange);
	/* what libcurl said before is about a dead connection that it has closed */
	state->exchange->problem[0] = '\0';
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
bool
tegro_socket_stood(const struct TegroExchangeState *state)
{
	curl_socket_t fd = state->flight.opened;

	if (fd == CURL_SOCKET_BAD)
		return false;
	Assert(fd >= 0 && fd < nsockets);
	return sockets[fd].open ? is_connected(fd) : sockets[fd].stood;
}

/*
 * A connection is closed.  (libcurl 7.88 doesn't tell of sockets that it opened
 * and never got connected.  What is remembered of those is stale, and nothing
 * may rely on it: own_port, which only a connection that stood gets, tells.)
 */
int
tegro_socket_close(void *arg, curl_socket_t fd)
{
	if (fd >= 0 && fd < MAX_KNOWN_SOCKETS)
	{
		bool had_stood = is_connected(fd);

		forget_socket(fd);
		sockets[fd].stood = had_stood;
	}
	return close(fd);
}

/* Has a socket in the epoll set, for what libcurl wants to be told of. */
static bool
watch_socket(curl_socket_t fd, int what)
{
	struct KnownSocket *known = fd < MAX_KNOWN_SOCKETS ? &sockets[fd] : NULL;
	struct epoll_event event = {0};

	Assert(fd >= 0 && epoll_fd >= 0);
	Assert(what != CURL_POLL_REMOVE && what <= PG_UINT8_MAX);
	if (known && known->own_port != 0 && known->watched == what)
		return true;
	event.data.fd = fd;
	event.events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) |
		((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
	/* whether it is there still is found out by trying */
	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0 &&
		(errno != ENOENT ||
		 epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0))
	{
		tegro_engine.failed = true;
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
int
tegro_socket_want(CURL *easy, curl_socket_t fd, int what, void *arg,
				  void *told)
{
	Assert(fd >= 0);
	if (fd < MAX_KNOWN_SOCKETS)
		sockets[fd].wanted = what == CURL_POLL_REMOVE ? 0 : (uint8) what;
	else if (what == CURL_POLL_REMOVE)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	return what == CURL_POLL_REMOVE || watch_socket(fd, what) ? 0 : -1;
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
	if (fd < MAX_KNOWN_SOCKETS && sockets[fd].wanted == 0)
	{
		sockets[fd].watched = 0;
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return;
	}
	tegro_engine_move(fd,
					  ((event->events & EPOLLIN) ? CURL_CSELECT_IN : 0) |
						  ((event->events & EPOLLOUT) ? CURL_CSELECT_OUT : 0) |
						  ((event->events & (EPOLLERR | EPOLLHUP))
							   ? CURL_CSELECT_ERR
							   : 0));
}

/* Serves the sockets of the epoll set. */
void
tegro_sockets_serve(void)
{
	struct epoll_event ready[MAX_EVENTS];
	int nready = epoll_wait(epoll_fd, ready, MAX_EVENTS, 0);

	for (int i = 0; i < nready; i++)
		serve_socket(&ready[i]);
}
