/*
 * timer.h
 *		Things to do later, on one thread of their own.
 */
#ifndef TIMER_H
#define TIMER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * What a timer calls. It must be quick: all timers share a thread. `ending`
 * says that the sandbox shuts down, and that the time has not come yet.
 */
typedef void (*timer_function)(void *argument, bool ending);

/* Starts the thread. */
void timer_start(void);

/*
 * Calls the function after so many milliseconds, on the timer thread. Once
 * timer_stop was called, it calls it at once, with ending = true.
 */
void timer_add(int64_t ms, timer_function function, void *argument);

/* Ends the thread; calls what was still waiting, with ending = true. */
void timer_stop(void);

/* Nanoseconds of the clock that never steps. */
int64_t timer_now_ns(void);

#endif
