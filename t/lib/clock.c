/*
 * clock.c
 *		The clock that people set, off by what a file says; by LD_PRELOAD.
 *
 * TEGRO_TEST_CLOCK names the file, which holds an int64 of microseconds.  The
 * monotonic clocks are left alone, as by those who set a clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_us;

__attribute__((constructor)) static void
map_offset(void)
{
	const char *path = getenv("TEGRO_TEST_CLOCK");
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void	   *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		offset_us = map;
	if (fd >= 0)
		close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int			status = (int) syscall(SYS_clock_gettime, clock, now);

	if (status == 0 && offset_us &&
		(clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
	{
		int64_t		us = now->tv_sec * INT64_C(1000000) + now->tv_nsec / 1000 + *offset_us;

		now->tv_sec = us / 1000000;
		now->tv_nsec = us % 1000000 * 1000 + now->tv_nsec % 1000;
	}
	return status;
}

int
gettimeofday(struct timeval *now, void *zone)
{
	struct timespec precise;

	clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *result)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (result)
		*result = now.tv_sec;
	return now.tv_sec;
}
