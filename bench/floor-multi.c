/*-------------------------------------------------------------------------
 *
 * floor-multi.c
 *		What many calls at once cost with bare libcurl: its multi interface,
 *		driven by epoll (curl_multi_socket_action), which is the fastest that
 *		it has.
 *
 * A handle is used again as soon as its call has ended, and connections stay
 * open from one run to the next.
 *
 *-------------------------------------------------------------------------
 */
#include "floor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Sockets served at one waking; more are served at the next. */
#define MAX_EVENTS 64

struct floor_multi
{
	const struct target *target;
	CURLM *multi;
	int epoll_fd;
	int64_t timer_us; /* when libcurl wants to be called; -1: never */
	long connections;
	long in_flight;
	struct request requests[];
};

static void
check(CURLMcode code)
{
	if (code != CURLM_OK)
		fail("libcurl: %s", curl_multi_strerror(code));
}

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct floor_multi *floor = arg;
	struct epoll_event event = {.data.fd = fd};

	(void) easy;
	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(floor->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	event.events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) |
		((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
	if (epoll_ctl(floor->epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
				  &event) != 0)
		return -1;
	curl_multi_assign(floor->multi, fd, floor);
	return 0;
}

static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct floor_multi *floor = arg;

	(void) multi;
	floor->timer_us = timeout_ms < 0 ? -1 : now_us() + timeout_ms * 1000;
	return 0;
}

struct floor_multi *
floor_multi_open(const struct target *target, long in_flight)
{
	struct floor_multi *floor = calloc(1,
									   sizeof(struct floor_multi) +
										   (size_t) in_flight *
											   sizeof(struct request));

	if (floor == NULL)
		fail("out of memory");
	floor->target = target;
	floor->in_flight = in_flight;
	floor->timer_us = -1;
	floor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	floor->multi = curl_multi_init();
	if (floor->multi == NULL || floor->epoll_fd < 0)
		fail("libcurl's multi interface can't be set up");
	check(curl_multi_setopt(floor->multi, CURLMOPT_SOCKETFUNCTION, on_socket));
	check(curl_multi_setopt(floor->multi, CURLMOPT_SOCKETDATA, floor));
	check(curl_multi_setopt(floor->multi, CURLMOPT_TIMERFUNCTION, on_timer));
	check(curl_multi_setopt(floor->multi, CURLMOPT_TIMERDATA, floor));
	for (long i = 0; i < in_flight; i++)
		request_prepare(&floor->requests[i], target);
	return floor;
}

static void
start(struct floor_multi *floor, struct request *request)
{
	request_renew(request, floor->target);
	check(curl_multi_add_handle(floor->multi, request->easy));
}

/* Waits for the sockets or the timer, and lets libcurl move. */
static void
move(struct floor_multi *floor)
{
	struct epoll_event events[MAX_EVENTS];
	int running;
	int wait_ms = -1;
	int count;

	if (floor->timer_us >= 0)
	{
		int64_t left_us = floor->timer_us - now_us();

		wait_ms = left_us <= 0 ? 0 : (int) ((left_us + 999) / 1000);
	}
	if (wait_ms == 0)
	{
		floor->timer_us = -1;
		check(curl_multi_socket_action(floor->multi, CURL_SOCKET_TIMEOUT, 0,
									   &running));
		return;
	}
	count = epoll_wait(floor->epoll_fd, events, MAX_EVENTS, wait_ms);
	if (count < 0 && errno != EINTR)
		fail("epoll_wait: %s", strerror(errno));
	for (int i = 0; i < count; i++)
	{
		uint32_t ready = events[i].events;
		int what = ((ready & EPOLLIN) ? CURL_CSELECT_IN : 0) |
			((ready & EPOLLOUT) ? CURL_CSELECT_OUT : 0) |
			((ready & (EPOLLERR | EPOLLHUP)) ? CURL_CSELECT_ERR : 0);

		check(curl_multi_socket_action(floor->multi, events[i].data.fd, what,
									   &running));
	}
}

double
floor_multi_run(struct floor_multi *floor, long calls)
{
	int64_t start_us = now_us();
	long started = 0;
	long ended = 0;

	while (started < floor->in_flight && started < calls)
		start(floor, &floor->requests[started++]);

	while (ended < calls)
	{
		CURLMsg *message;
		int left;

		move(floor);
		while ((message = curl_multi_info_read(floor->multi, &left)) != NULL)
		{
			CURL *easy = message->easy_handle;
			CURLcode code = message->data.result;
			struct request *request;
			long connections = 0;

			curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &request);
			request_check(request, floor->target, code);
			curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections);
			floor->connections += connections;
			curl_multi_remove_handle(floor->multi, easy);
			ended++;
			if (started < calls)
			{
				start(floor, request);
				started++;
			}
		}
	}
	return (double) (now_us() - start_us) / 1e6;
}

long
floor_multi_connections(const struct floor_multi *floor)
{
	return floor->connections;
}

void
floor_multi_close(struct floor_multi *floor)
{
	for (long i = 0; i < floor->in_flight; i++)
		curl_easy_cleanup(floor->requests[i].easy);
	curl_multi_cleanup(floor->multi);
	close(floor->epoll_fd);
	free(floor);
}
