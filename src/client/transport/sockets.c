/*-------------------------------------------------------------------------
 *
 * sockets.c
 *		The sockets of libcurl's connections.
 *
 * They live in an epoll set, which tegro_transport_wait() waits for as one
 * descriptor.  What is known of each is kept by its number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

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
} sockets[MAX_KNOWN_SOCKETS];
static int nsockets; /* those beyond were never open */


/* The epoll set, made where there is none yet. */
int
tegro_sockets_start(void)
{
	if (epoll_fd < 0)
	{
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_fd < 0)
			ereport(ERROR,
					(errcode_for_socket_access(),
					 errmsg("could not create an epoll descriptor: %m")));
	}
	return epoll_fd;
}

/* A socket's number will mean another from here on. */
static void
forget_socket(curl_socket_t fd)
{
	Assert(fd >= 0 && fd < MAX_KNOWN_SOCKETS);
	sockets[fd] = (struct KnownSocket){0};
}

/*
 * Does a connection of ours, kept alive, have something to be read already:
 * a late word of the server's, or one answer too many?  It would be taken for
 * the answer to what is sent now.  libcurl doesn't say which socket it is
 * about to use, but from which port.
 */
bool
tegro_socket_has_unread_bytes(int own_port)
{
	char byte;

	for (int fd = 0; fd < nsockets; fd++)
	{
		struct KnownSocket *known = &sockets[fd];

		if (known->open && known->own_port == own_port)
			return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
	}

	/* its first time: ask all that have not been asked */
	for (int fd = 0; fd < nsockets; fd++)
	{
		struct KnownSocket *known = &sockets[fd];
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
		sockets[fd].open = true;
		state->last_opened = fd;
		nsockets = Max(nsockets, fd + 1);
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
bool
tegro_socket_stood(const struct TegroExchangeState *state)
{
	curl_socket_t fd = state->last_opened;

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
