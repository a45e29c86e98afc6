/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What the harnesses share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_FUZZ_H
#define TEGRO_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What libFuzzer calls with each input. */
extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * A property that must hold for any input.  libFuzzer keeps the input of an
 * abort() as it does that of a crash.
 */
#define MUST(condition)                                                \
	do                                                                 \
	{                                                                  \
		if (!(condition))                                              \
		{                                                              \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, \
					#condition);                                       \
			abort();                                                   \
		}                                                              \
	} while (0)

/*
 * Memory of just so many bytes, so that AddressSanitizer sees the first one
 * beyond.
 */
static inline void *
just(size_t size)
{
	/* none of 0 bytes: what malloc() returns for these is its own business */
	void *memory = malloc(size > 0 ? size : 1);

	MUST(memory != NULL);
	return memory;
}

static inline char *
just_copy(const uint8_t *data, size_t size)
{
	char *copy = just(size);

	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

#endif /* TEGRO_FUZZ_H */
