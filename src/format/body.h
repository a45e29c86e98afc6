/*-------------------------------------------------------------------------
 *
 * body.h
 *		JSON text as PHP would have written it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_BODY_H
#define TEGRO_BODY_H

#include <stddef.h>

/*
 * Arrays and objects inside each other, the outermost included: PHP's
 * json_decode gives up beyond this, and so would the provider.
 */
#define TEGRO_BODY_MAX_DEPTH 511

typedef enum TegroBodyStatus
{
	TEGRO_BODY_OK,
	TEGRO_BODY_LOSES_DIGITS, /* a number that PHP would round */
	TEGRO_BODY_TOO_DEEP,	 /* more than TEGRO_BODY_MAX_DEPTH levels */
	TEGRO_BODY_NOT_UTF8,	 /* a string that is not UTF-8 */
	TEGRO_BODY_NOT_JSON		 /* not what a JSON writer emits */
} TegroBodyStatus;

/*
 * Room that tegro_body_write may need for "len" bytes of JSON.  Two bytes of
 * UTF-8 become the six of \uXXXX; the worst is a list of numbers such as
 * 1e16, which five bytes ask for eighteen (PostgreSQL never writes these).
 */
#define TEGRO_BODY_BOUND(len) (4 * (len) + 24)

/*
 * Rewrites JSON text as PHP's json_encode(json_decode(...)) would.
 *
 * json, json_len: one JSON value, UTF-8, as a JSON writer emits it (its
 * grammar is the writer's business; whatever the bytes are, nothing outside
 * them is read).
 * out: receives the text, not NUL-terminated; TEGRO_BODY_BOUND(json_len)
 * bytes, must not overlap "json".
 * out_len: receives its length.
 * fault, fault_len: receive where in "json" the trouble is, when there is.
 *
 * Allocates nothing, never throws.
 */
extern TegroBodyStatus tegro_body_write(const char *json, size_t json_len,
										char *out, size_t *out_len,
										size_t *fault, size_t *fault_len);

#endif /* TEGRO_BODY_H */
