/*-------------------------------------------------------------------------
 *
 * transport.h
 *		Exchanges of a request for an answer, over https.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_TRANSPORT_H
#define TEGRO_TRANSPORT_H

#include "src/format/signature.h"

/* What a request says of itself, beside its signature and User-Agent. */
#define TEGRO_CONTENT_TYPE "application/json"

/* How an exchange ended, as far as the network goes. */
typedef enum TegroExchangeEnd
{
	TEGRO_EXCHANGE_OPEN,	 /* it has not ended */
	TEGRO_EXCHANGE_COMPLETE, /* a whole answer came */
	TEGRO_EXCHANGE_NOT_SENT, /* nothing of the request was written */
	TEGRO_EXCHANGE_BROKEN	 /* the request may have arrived; no answer */
} TegroExchangeEnd;

/* What went wrong, where it decides what to do next. */
typedef enum TegroExchangeFault
{
	TEGRO_FAULT_NONE,
	TEGRO_FAULT_NETWORK,	 /* may pass by itself */
	TEGRO_FAULT_CERTIFICATE, /* the peer could not prove who it is */
	TEGRO_FAULT_SETTING,	 /* a setting is wrong */
	TEGRO_FAULT_TOO_LARGE,	 /* the answer passed answer_max */
	TEGRO_FAULT_TOO_LATE	 /* send_before_us had passed */
} TegroExchangeFault;

/*
 * A request, as its caller fills it in.  Strings must stay as they are until
 * the exchange has ended.
 */
typedef struct TegroExchangeRequest
{
	const char *url;
	const char *body; /* the bytes that are sent */
	size_t body_len;
	char signature[TEGRO_SIGNATURE_LEN + 1]; /* over "body" */
	int connect_timeout_ms;
	int timeout_ms;		  /* for all of it */
	size_t answer_max;	  /* bytes; a longer answer is an error */
	int64 send_before_us; /* on tegro_clock_us(); later, it is not sent;
						   * 0: no limit */
} TegroExchangeRequest;

/*
 * One request and its answer.  The caller fills in the request, starts the
 * exchange, and reads the rest once "end" says so.
 */
typedef struct TegroExchange
{
	TegroExchangeRequest request;

	/* the answer */
	TegroExchangeEnd end;
	TegroExchangeFault fault;
	bool handed_over; /* the connection stood and the request went to it: some
					   * of it may have been sent */
	int http_status;  /* 0 if none came */
	char *answer;	  /* body, NUL behind its end; palloc'd */
	size_t answer_len;
	int64 retry_after_s; /* Retry-After; 0 if none or not readable */
	char date[40];		 /* the answer's Date as it came; "" if none */
	char problem[256];	 /* where it failed, libcurl's words: foreign text */

	bool connected;	 /* TCP stood, if not more */
	bool kept_alive; /* on a connection of an earlier exchange */

	/* when each phase ended, microseconds from the start; 0 if it did not */
	int64 name_lookup_us;
	int64 connect_us;
	int64 tls_us;
	int64 first_byte_us;
	int64 total_us;

	struct TegroExchangeState *state; /* of transport/ */
} TegroExchange;

/*
 * Microseconds of a clock that nobody sets and that goes on while the machine
 * sleeps; for measuring time, not telling it.
 */
extern int64 tegro_clock_us(void);

/*
 * A new exchange in the current memory context, all zeroes.  When that
 * context goes away, whatever is still in flight is dropped with it: its
 * connection is closed, and libcurl forgets it.
 */
extern TegroExchange *tegro_exchange_create(void);

/*
 * How many of "wanted" more exchanges can be started now without running out
 * of file descriptors.  Where it says 0, treat that as the most that may be in
 * flight at once.  If no exchange is in flight, at least one can be started.
 */
extern int tegro_transport_descriptors(int wanted);

/*
 * Puts an exchange in flight.  It moves only within tegro_transport_wait().
 * Throws if libcurl cannot be set up; never for want of a slot.
 */
extern void tegro_exchange_start(TegroExchange *exchange);

/*
 * Takes an exchange out of flight, or makes a finished one ready to be
 * started again.  Never throws, never waits.
 */
extern void tegro_exchange_stop(TegroExchange *exchange);

/*
 * Moves all exchanges of this process until one ends, the latch is set, or
 * "timeout_ms" have passed (-1: no limit).  Returns true if one ended since
 * the last call: their "end" is then no longer OPEN.
 *
 * Serves interrupts, so it throws on a cancel; nothing of libcurl is on the
 * stack then.  Must not be called under a spinlock or an LWLock.
 */
extern bool tegro_transport_wait(long timeout_ms);

/* Where an exchange failed, for people: "during the TLS handshake". */
extern const char *tegro_exchange_phase(const TegroExchange *exchange);

/*
 * What an answer's Date says, in seconds since 1970; -1 if it has none that
 * can be read.
 */
extern int64 tegro_exchange_date(const TegroExchange *exchange);

/*
 * libcurl, its version and what it stands on, for people; palloc'd.  *suits
 * receives false if it can't be used, for want of an asynchronous resolver.
 */
extern char *tegro_transport_library(bool *suits);

#endif /* TEGRO_TRANSPORT_H */
