/*-------------------------------------------------------------------------
 *
 * signature.c
 *		The provider's signatures, on OpenSSL.
 *
 * A request carries the HMAC-SHA256 of its body under the shop's API key.
 * The key itself never travels.
 *
 * This is the only file that includes <openssl/...>.  It knows nothing of
 * PostgreSQL, so that it can be tested and fuzzed without a server.
 *
 * Hazard: the caller must sign the very bytes that it sends.  A body that is
 * built twice can differ (another nonce), and the provider then answers
 * "Wrong authorization token".
 *
 *-------------------------------------------------------------------------
 */
#include "src/signature.h"

#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

bool
tegro_signature_request(const char *key, size_t key_len, const char *message,
						size_t message_len, char hex[TEGRO_SIGNATURE_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int mac_len = 0;

	hex[0] = '\0';
	if (key_len > INT_MAX)
		return false;
	if (HMAC(EVP_sha256(), key, (int) key_len, (const unsigned char *) message,
			 message_len, mac, &mac_len) == NULL ||
		mac_len * 2 != TEGRO_SIGNATURE_LEN)
		return false;

	for (unsigned int i = 0; i < mac_len; i++)
	{
		hex[2 * i] = digits[mac[i] >> 4];
		hex[2 * i + 1] = digits[mac[i] & 0x0f];
	}
	hex[TEGRO_SIGNATURE_LEN] = '\0';
	return true;
}
