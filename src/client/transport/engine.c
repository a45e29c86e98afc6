/*-------------------------------------------------------------------------
 *
 * engine.c
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
 * The engine and its waiting are here; exchange.c has a single exchange,
 * sockets.c the sockets, slots.c the account of file descriptors.
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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/latch.h"

#include "src/base/error.h"
#include "src/client/transport/internal.h"

/*
 * Threads that look names up at the same time.  From 8.20 on libcurl shares
 * them between lookups, two for each, and has 20 at most; before, each lookup
 * has one of its own.  A lookup that is stuck keeps its threads when its call
 * has long ended, and must not keep the next from its own.
 */
#define MAX_RESOLVER_THREADS   256L
#define SHARED_THREADS_VERSION 0x081400

TegroEngine tegro_engine;


int64
tegro_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * INT64CONST(1000000) + now.tv_nsec / 1000;
}

/*
 * A thread that libcurl starts from here on must not take signals, other than
 * those that report a fault of its own.  tegro_engine_restore_signals() undoes it here.
 */
bool
tegro_engine_block_signals(void)
{
	sigset_t blocked;

	if (tegro_engine.signals_blocked)
		return true;
	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	sigdelset(&blocked, SIGABRT);
	sigdelset(&blocked, SIGTRAP);
	tegro_engine.signals_blocked = pthread_sigmask(SIG_SETMASK, &blocked,
												   &tegro_engine.signals) == 0;
	return tegro_engine.signals_blocked;
}

/* Undoes what tegro_engine_block_signals() did, now that libcurl has returned. */
void
tegro_engine_restore_signals(void)
{
	if (tegro_engine.signals_blocked)
	{
		pthread_sigmask(SIG_SETMASK, &tegro_engine.signals, NULL);
		tegro_engine.signals_blocked = false;
	}
}

/* libcurl tells when it wants to be called, sockets or not. */
static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	tegro_engine.timer_us = timeout_ms < 0
		? -1
		: tegro_clock_us() + timeout_ms * INT64CONST(1000);
	return 0;
}

void
tegro_engine_check(CURLMcode code, const char *what)
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
void
tegro_engine_start(void)
{
	static bool initialized = false;
	int epoll_fd;

	if (tegro_engine.wait_set)
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
					 errdetail("A name lookup could not be cancelled."),
					 errhint("Install a libcurl that was built with a threaded resolver or c-ares.")));
		code = curl_global_init(CURL_GLOBAL_ALL);
		if (code != CURLE_OK)
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_MISCONFIGURED),
					 errmsg("could not start libcurl"),
					 errdetail_internal("%s", curl_easy_strerror(code))));
		tegro_engine.shares_threads =
			curl_version_info(CURLVERSION_NOW)->version_num >=
			SHARED_THREADS_VERSION;
		tegro_engine.timer_us = -1;
		dlist_init(&tegro_engine.in_flight);
		initialized = true;
	}

	tegro_exchange_prepare();

	if (tegro_engine.multi == NULL)
	{
		CURLM *multi = curl_multi_init();

		if (multi == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION,
							  tegro_socket_want) != CURLM_OK ||
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
		tegro_engine.multi = multi;
	}

	epoll_fd = tegro_sockets_start();

	if (tegro_engine.wait_set == NULL)
	{
		WaitEventSet *set = tegro_create_process_wait_event_set(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
							  NULL);
		AddWaitEventToSet(set, WL_SOCKET_READABLE, epoll_fd, NULL, NULL);
		tegro_engine.wait_set = set;
	}
}

/* Serves what libcurl's callbacks left to do, and takes down what ended. */
static void
serve_exchanges(void)
{
	CURLMsg *message;
	int remaining;

	if (tegro_engine.paused)
		tegro_exchange_make_room();

	while ((message = curl_multi_info_read(tegro_engine.multi, &remaining)) !=
		   NULL)
	{
		struct TegroExchangeState *state = NULL;
		CURLcode code = message->data.result;

		if (message->msg == CURLMSG_DONE &&
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
							  (char **) &state) == CURLE_OK &&
			state != NULL)
			tegro_exchange_end(state, code);
	}
}

/* Lets libcurl move: on a socket's event, or on its timer. */
void
tegro_engine_move(curl_socket_t fd, int events)
{
	CURLMcode code;
	int running;

	/* it starts threads whenever it likes, not just after on_resolve() */
	if (tegro_engine.shares_threads)
		(void) tegro_engine_block_signals();
	tegro_enter_libcurl();
	code = curl_multi_socket_action(tegro_engine.multi, fd, events, &running);
	tegro_leave_libcurl();
	tegro_engine_restore_signals();

	if (tegro_engine.failed)
	{
		tegro_engine.failed = false;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not wait for another socket"),
				 errhint("Lower tegro.max_concurrency, or raise the limits of the server's user.")));
	}
	tegro_engine_check(code, "go on with its requests");
}

/* Milliseconds until libcurl's timer is due; -1 if it is not set. */
static long
timer_remaining_ms(void)
{
	int64 left_us;

	if (tegro_engine.timer_us < 0)
		return -1;
	/* rounded up, so as not to wake just before the time */
	left_us = tegro_engine.timer_us - tegro_clock_us();
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
	Assert(!tegro_engine.signals_blocked);
	tegro_engine_start();
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
			tegro_engine.timer_us = -1;
			tegro_engine_move(CURL_SOCKET_TIMEOUT, 0);
			serve_exchanges();
			wait_ms = timer_remaining_ms();
		}
		if (tegro_engine.ended > 0)
		{
			tegro_engine.ended = 0;
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

		/* delivery workers sleep here, too, and calls until their repeat */
		nevents = WaitEventSetWait(tegro_engine.wait_set, wait_ms, events,
								   lengthof(events),
								   dlist_is_empty(&tegro_engine.in_flight)
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
				tegro_sockets_serve();
			serve_exchanges();
		}

		if (tegro_engine.ended > 0)
		{
			tegro_engine.ended = 0;
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

char *
tegro_transport_library(bool *suits)
{
	const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	*suits = (info->features & CURL_VERSION_ASYNCHDNS) != 0;
	return psprintf("libcurl %s, %s", info->version,
					info->ssl_version ? info->ssl_version : "without TLS");
}
