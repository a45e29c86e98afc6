/*
 * timer.c
 *		Things to do later, on one thread of their own.
 *
 * A binary heap ordered by the time that is due. Answers that wait (--latency,
 * hold, drip) are suspended connections with a timer, so that ten thousand of
 * them cost neither a thread nor a poll.
 *
 * Hazard: functions run without the lock, and may add timers themselves.
 */
#include "timer.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "text.h"

struct timer
{
	int64_t due_ns;
	uint64_t order; /* of those due together, first come first served */
	timer_function function;
	void *argument;
};

static struct
{
	pthread_mutex_t lock;
	pthread_cond_t changed; /* the earliest timer, or `stopped`, changed */
	pthread_t thread;
	struct timer *heap; /* heap[0] is due first */
	size_t count;
	size_t capacity;
	uint64_t added;
	bool stopped;
} timers;

int64_t
timer_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static bool
is_earlier(const struct timer *one, const struct timer *other)
{
	return one->due_ns < other->due_ns ||
		(one->due_ns == other->due_ns && one->order < other->order);
}

/* Puts a timer into the heap. The lock is held. */
static void
heap_push(struct timer timer)
{
	size_t place = timers.count++;

	if (timers.count > timers.capacity)
	{
		timers.capacity = timers.capacity == 0 ? 64 : timers.capacity * 2;
		timers.heap = must_reallocate(timers.heap,
									  timers.capacity * sizeof(struct timer));
	}
	while (place > 0 && is_earlier(&timer, &timers.heap[(place - 1) / 2]))
	{
		timers.heap[place] = timers.heap[(place - 1) / 2];
		place = (place - 1) / 2;
	}
	timers.heap[place] = timer;
}

/* Takes the timer that is due first. The lock is held, the heap not empty. */
static struct timer
heap_pop(void)
{
	struct timer first = timers.heap[0];
	struct timer last = timers.heap[--timers.count];
	size_t place = 0;

	for (;;)
	{
		size_t child = place * 2 + 1;

		if (child >= timers.count)
			break;
		if (child + 1 < timers.count &&
			is_earlier(&timers.heap[child + 1], &timers.heap[child]))
			child++;
		if (!is_earlier(&timers.heap[child], &last))
			break;
		timers.heap[place] = timers.heap[child];
		place = child;
	}
	timers.heap[place] = last;
	return first;
}

static void *
run_timers(void *unused)
{
	(void) unused;
	pthread_mutex_lock(&timers.lock);
	while (!timers.stopped)
	{
		int64_t now_ns;
		struct timer timer;

		if (timers.count == 0)
		{
			pthread_cond_wait(&timers.changed, &timers.lock);
			continue;
		}
		now_ns = timer_now_ns();
		if (timers.heap[0].due_ns > now_ns)
		{
			struct timespec due = {.tv_sec = timers.heap[0].due_ns /
									   INT64_C(1000000000),
								   .tv_nsec = timers.heap[0].due_ns %
									   INT64_C(1000000000)};

			pthread_cond_timedwait(&timers.changed, &timers.lock, &due);
			continue;
		}
		timer = heap_pop();
		pthread_mutex_unlock(&timers.lock);
		timer.function(timer.argument, false);
		pthread_mutex_lock(&timers.lock);
	}
	pthread_mutex_unlock(&timers.lock);
	return NULL;
}

void
timer_start(void)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&timers.lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&timers.changed, &attributes);
	pthread_condattr_destroy(&attributes);
	if (pthread_create(&timers.thread, NULL, run_timers, NULL) != 0)
		abort();
}

void
timer_add(int64_t ms, timer_function function, void *argument)
{
	struct timer timer = {.due_ns = timer_now_ns() + ms * INT64_C(1000000),
						  .function = function,
						  .argument = argument};

	pthread_mutex_lock(&timers.lock);
	if (timers.stopped)
	{
		pthread_mutex_unlock(&timers.lock);
		function(argument, true);
		return;
	}
	timer.order = timers.added++;
	heap_push(timer);
	/* Waking the thread costs a switch: only where it sleeps too long now. */
	if (timers.heap[0].order == timer.order)
		pthread_cond_signal(&timers.changed);
	pthread_mutex_unlock(&timers.lock);
}

void
timer_stop(void)
{
	pthread_mutex_lock(&timers.lock);
	timers.stopped = true;
	pthread_cond_signal(&timers.changed);
	pthread_mutex_unlock(&timers.lock);
	pthread_join(timers.thread, NULL);

	/* No one adds any more: timer_add looks at `stopped`. */
	while (timers.count > 0)
	{
		struct timer timer = heap_pop();

		timer.function(timer.argument, true);
	}
	free(timers.heap);
	timers.heap = NULL;
	pthread_cond_destroy(&timers.changed);
	/* The lock stays: timer_add may still be called, until the server ends. */
}
