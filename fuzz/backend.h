/*-------------------------------------------------------------------------
 *
 * backend.h
 *		The harnesses that run inside a PostgreSQL backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_FUZZ_BACKEND_H
#define TEGRO_FUZZ_BACKEND_H

#include <stddef.h>
#include <stdint.h>

/*
 * As LLVMFuzzerTestOneInput, in a memory context that is reset afterwards.  An
 * error that is thrown is a fault.
 */
extern void tegro_fuzz_answer(const uint8_t *data, size_t size);
extern void tegro_fuzz_notification(const uint8_t *data, size_t size);

/*
 * Copies bytes to where nobody may touch what is behind them, but for what
 * their alignment leaves free.  Good until the next call.
 */
extern char *tegro_fuzz_at_fence(const void *bytes, size_t len,
								 size_t alignment);

#endif /* TEGRO_FUZZ_BACKEND_H */
