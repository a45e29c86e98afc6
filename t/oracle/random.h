/*-------------------------------------------------------------------------
 *
 * random.h
 *		Numbers from a seed, for the programs that try a room alone.
 *
 * Whoever includes it sets "state" to the seed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_TEST_RANDOM_H
#define TEGRO_TEST_RANDOM_H

#include <stddef.h>
#include <stdint.h>

static uint64_t state;

/* splitmix64 */
static uint64_t
next_random(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static size_t
below(size_t limit)
{
	return (size_t) (next_random() % limit);
}

#endif /* TEGRO_TEST_RANDOM_H */
