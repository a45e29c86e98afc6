/*
 * signature.c
 *		The two signatures of the provider.
 *
 * Requests carry an HMAC-SHA256 over the body's bytes as they arrived; links
 * and notifications carry an MD5 over the form-encoded fields with the secret
 * key behind them. Both are nettle's, on purpose: most clients use OpenSSL's
 * or PHP's, so the two sides check each other.
 *
 * The comparison takes no constant time. The keys of a sandbox are no secret.
 */
#include "signature.h"

#include <string.h>
#include <strings.h>

#include <nettle/base16.h>
#include <nettle/hmac.h>
#include <nettle/md5.h>

bool
signature_matches(const char *authorization, const char *api_key,
				  const char *body, size_t length)
{
	static const char scheme[] = "Bearer ";
	struct hmac_sha256_ctx context;
	uint8_t digest[SHA256_DIGEST_SIZE];
	char hex[BASE16_ENCODE_LENGTH(SHA256_DIGEST_SIZE)];

	if (authorization == NULL ||
		strncasecmp(authorization, scheme, sizeof(scheme) - 1) != 0)
		return false;
	authorization += sizeof(scheme) - 1;
	if (strlen(authorization) != sizeof(hex))
		return false;
	hmac_sha256_set_key(&context, strlen(api_key), (const uint8_t *) api_key);
	hmac_sha256_update(&context, length, (const uint8_t *) body);
	hmac_sha256_digest(&context, sizeof(digest), digest);
	base16_encode_update(hex, sizeof(digest), digest);
	return memcmp(authorization, hex, sizeof(hex)) == 0;
}

void
signature_md5(const char *text, size_t length, const char *key, char hex[32])
{
	struct md5_ctx context;
	uint8_t digest[MD5_DIGEST_SIZE];

	md5_init(&context);
	md5_update(&context, length, (const uint8_t *) text);
	md5_update(&context, strlen(key), (const uint8_t *) key);
	md5_digest(&context, sizeof(digest), digest);
	base16_encode_update(hex, sizeof(digest), digest);
}
