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

/* HMAC-SHA256, in bytes. */
#define TEGRO_MAC_LEN 32

/* A signature has two lower-case hex digits for each of them. */
#define TEGRO_SIGNATURE_LEN (2 * TEGRO_MAC_LEN)

/* MD5 is 16 bytes. */
#define TEGRO_MD5_LEN 32

/*
 * HMAC-SHA256 of "message" under "key", any bytes, 1 or more.
 *
 * mac: receives it.
 *
 * Returns false if the cryptographic library refused.  Never throws, and leaves
 * of the key what tegro_signature_request() does.
 */
extern bool tegro_signature_mac(const char *key, size_t key_len,
								const char *message, size_t message_len,
								unsigned char mac[TEGRO_MAC_LEN]);

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

/*
 * Signs the form-encoded text of a payment link or of a notification: MD5 of
 * "text" and "key" one behind the other, written as lower-case hex and
 * NUL-terminated.
 *
 * key, key_len: the shop's secret key.
 *
 * Returns false if the cryptographic library refused, as one that is confined
 * to FIPS does with MD5; "hex" is empty then.
 */
extern bool tegro_signature_form(const char *key, size_t key_len,
								 const char *text, size_t text_len,
								 char hex[TEGRO_MD5_LEN + 1]);

/*
 * Are two signatures of "len" hex digits the same?  Upper case and lower case
 * do not matter.  Takes as long for the first difference as for the last, so
 * that nobody can guess a signature byte by byte.
 */
extern bool tegro_signature_equal(const char *a, const char *b, size_t len);

#endif /* TEGRO_SIGNATURE_H */
