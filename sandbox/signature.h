/*
 * signature.h
 *		The two signatures of the provider.
 */
#ifndef SIGNATURE_H
#define SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Says whether an Authorization header is "Bearer " and the lower-case hex
 * HMAC-SHA256 of the body under the API key. authorization may be NULL.
 */
bool signature_matches(const char *authorization, const char *api_key,
					   const char *body, size_t length);

/*
 * Writes 32 lower-case hex digits, unterminated: the MD5 of the text followed
 * by the key. With a form-encoded text it is the signature of links and
 * notifications.
 */
void signature_md5(const char *text, size_t length, const char *key,
				   char hex[32]);

#endif
