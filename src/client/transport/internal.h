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
	curl_socket_t last_opened; /* by tegro_socket_open(), or CURL_SOCKET_BAD */
};

/* One a process; nothing in it until the first exchange. */
typedef struct TegroEngine
{
	CURLM *multi;
	WaitEventSet *wait_set;
	dlist_head in_flight;
	int max_connections;  /* that libcurl is told to keep */
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
extern curl_socket_t tegro_socket_open(void *arg, curlsocktype purpose,
									   struct curl_sockaddr *address);
extern int tegro_socket_close(void *arg, curl_socket_t fd);
extern int tegro_socket_want(CURL *easy, curl_socket_t fd, int what, void *arg,
							 void *told);
extern bool tegro_socket_stood(const struct TegroExchangeState *state);
extern bool tegro_socket_has_unread_bytes(int own_port);

/* exchange.c */
extern void tegro_exchange_prepare(void);
extern void tegro_exchange_make_room(void);
extern void tegro_exchange_end(struct TegroExchangeState *state,
							   CURLcode code);

#endif /* TEGRO_TRANSPORT_INTERNAL_H */
