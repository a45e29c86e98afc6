/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the files of transport/ share: the engine, an exchange's state,
 *		and the functions by which they call each other.
 *
 * Only files in this folder include <curl/...>.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_TRANSPORT_INTERNAL_H
#define TEGRO_TRANSPORT_INTERNAL_H

#include <curl/curl.h>
#include <signal.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/latch.h"

#include "src/base/compat.h"
#include "src/client/transport.h"

/*
 * Seconds after which an idle connection is not used again, and is closed.
 * Servers close theirs after a minute or so, and a request that meets such a
 * close is one whose outcome is unknown.
 */
#define TEGRO_MAX_IDLE_S 30

/*
 * Why we stopped an exchange.  The first cause counts: what libcurl reports
 * after it is a consequence.
 */
typedef enum TegroStop
{
	TEGRO_STOP_NONE,
	TEGRO_STOP_ADDRESS,	  /* an address that requests must not go to */
	TEGRO_STOP_STALE,	  /* bytes to be read before anything was sent */
	TEGRO_STOP_TOO_LATE,  /* send_before_us had passed */
	TEGRO_STOP_REPEAT,	  /* libcurl was about to send it once more */
	TEGRO_STOP_FRAMING,	  /* the head leaves open where the answer ends */
	TEGRO_STOP_TOO_LARGE, /* the answer, or its head */
	TEGRO_STOP_LOST_BYTES /* libcurl received more than we kept, or less than
						   * was announced */
} TegroStop;

/* What begins anew each time when an exchange is put in flight. */
typedef struct TegroFlight
{
	TegroStop stop;
	bool loopback_only;	  /* plain http */
	bool may_resolve;	  /* its host is a name */
	bool has_framing;	  /* a header told where the answer ends */
	size_t answer_wanted; /* room to make before going on, or 0 */
	size_t header_bytes;
	curl_socket_t opened; /* the last that was opened for it, and */
	curl_socket_t socket; /* the one of its connection; CURL_SOCKET_BAD: none */
} TegroFlight;

struct TegroExchangeState
{
	TegroExchange *exchange;
	MemoryContextCallback on_reset; /* stops it when its memory goes */
	CURL *easy;		 /* libcurl's handle while in flight, or NULL */
	int64 setup;	 /* kept.setup_number that it is set up for */
	dlist_node node; /* in tegro_engine.in_flight, while easy is set */
	struct curl_slist authorization; /* in front of kept.headers */
	struct curl_slist no_expect;	 /* ... and of this, for a large body */
	char authorization_line[sizeof("Authorization: Bearer ") +
							TEGRO_SIGNATURE_LEN];
	size_t answer_room; /* bytes that "answer" can hold */
	int nstale;			/* how often it was stopped as stale */
	TegroFlight flight;
};

/* One a process; nothing in it until the first exchange. */
typedef struct TegroEngine
{
	CURLM *multi;
	WaitEventSet *wait_set;
	dlist_head in_flight;
	int nin_flight;
	int nwaiting;		  /* of these, have no connection yet */
	int nresolving;		  /* ... and a host that is a name */
	int max_idle;		  /* connections that libcurl is told to keep */
	int max_connections;  /* ... and to have */
	int ended;			  /* exchanges that ended since last told */
	bool paused;		  /* some wait for room for their answers */
	bool failed;		  /* a socket could not be watched */
	bool shares_threads;  /* libcurl keeps those that resolve names */
	bool signals_blocked; /* by tegro_engine_block_signals() */
	sigset_t signals;	  /* ... and they were these */
	int64 timer_us;		  /* when libcurl wants to be called; -1: never */
} TegroEngine;

extern TegroEngine tegro_engine;

/*
 * While libcurl is on the stack.  None of its callbacks throws, allocates or
 * waits: in a server with assertions that is a critical section, in which
 * PostgreSQL does not let them.  In any other it is none, for a mistake there
 * is no reason to restart the server.
 */
static inline void
tegro_enter_libcurl(void)
{
#ifdef USE_ASSERT_CHECKING
	START_CRIT_SECTION();
#endif
}

static inline void
tegro_leave_libcurl(void)
{
#ifdef USE_ASSERT_CHECKING
	END_CRIT_SECTION();
#endif
}

/* engine.c */
extern void tegro_engine_start(void);
extern void tegro_engine_check(CURLMcode code, const char *what);
extern void tegro_engine_move(curl_socket_t fd, int events);
extern bool tegro_engine_block_signals(void);
extern void tegro_engine_restore_signals(void);

/* sockets.c */
extern int tegro_sockets_start(void);
extern void tegro_sockets_serve(void);
extern void tegro_sockets_close_idle(void);
extern curl_socket_t tegro_socket_open(void *arg, curlsocktype purpose,
									   struct curl_sockaddr *address);
extern int tegro_socket_close(void *arg, curl_socket_t fd);
extern int tegro_socket_want(CURL *easy, curl_socket_t fd, int what, void *arg,
							 void *told);
extern bool tegro_socket_stood(const struct TegroExchangeState *state);
extern curl_socket_t tegro_socket_take(const struct TegroExchangeState *state,
									   int own_port);
extern void tegro_socket_give_back(const struct TegroExchangeState *state);
extern bool tegro_socket_has_unread_bytes(curl_socket_t fd);

/* slots.c */
extern void tegro_slots_hold(void);
extern void tegro_slots_release(void);
extern int tegro_slots_connections(void);
extern void tegro_slots_count_connection(int change);

/* exchange.c */
extern bool tegro_exchange_resolves(const char *url);
extern void tegro_exchange_prepare(void);
extern void tegro_exchange_make_room(void);
extern void tegro_exchange_end(struct TegroExchangeState *state,
							   CURLcode code);

#endif /* TEGRO_TRANSPORT_INTERNAL_H */
