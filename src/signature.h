/*-------------------------------------------------------------------------
 *
 * signature.h
 *		The provider's signatures.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_SIGNATURE_H
#define TEGRO_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>

/* HMAC-SHA256 is 32 bytes, two lower-case hex digits each. */
#define TEGRO_SIGNATURE_LEN 64

/*
 * Signs a request body: HMAC-SHA256 of "message" under "key", written as
 * lower-case hex and NUL-terminated.
 *
 * key, key_len: the shop's API key, any bytes, 1 or more.
 * message, message_len: exactly the bytes that are sent, 0 or more.
 * hex: receives the signature.
 *
 * Returns false if the cryptographic library refused; "hex" is empty then.
 * Never throws.  A little memory of OpenSSL's stays until
 * tegro_signature_forget(), with what can sign for this key in it.
 */
extern bool tegro_signature_request(const char *key, size_t key_len,
									const char *message, size_t message_len,
									char hex[TEGRO_SIGNATURE_LEN + 1]);

/* Forgets the last key, leaving nothing of it in memory.  Never throws. */
extern void tegro_signature_forget(void);

#endif /* TEGRO_SIGNATURE_H */
