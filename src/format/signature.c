/*-------------------------------------------------------------------------
 *
 * signature.c
 *		The provider's signatures, on OpenSSL.
 *
 * A request carries the HMAC-SHA256 of its body under the shop's API key.
 * The key itself never travels.
 *
 * Payment links and notifications carry the MD5 of their fields with the
 * secret key behind them.  That is the provider's choice and weak by design:
 * two texts of one MD5 can be made, and with anything behind them they still
 * have one.  So nobody who can have the provider sign what he likes is kept
 * out by it, and nothing is credited on its word alone (see judge.c).
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
#include "src/format/signature.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

/*
 * Made at the first signature and kept, since to find and prepare an algorithm
 * takes OpenSSL longer than to sign a body.  It holds what it made of the last
 * key, until tegro_signature_forget().
 */
static EVP_MAC_CTX *hmac = NULL;

/* Makes "hmac" with its first key; false if OpenSSL refuses. */
static bool
create_hmac(const unsigned char *key, size_t key_len)
{
	char digest[] = OSSL_DIGEST_NAME_SHA2_256;
	OSSL_PARAM params[] =
		{OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		 OSSL_PARAM_construct_end()};
	EVP_MAC *algorithm = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);

	if (algorithm == NULL)
		return false;
	hmac = EVP_MAC_CTX_new(algorithm);
	EVP_MAC_free(algorithm); /* "hmac" has it now */
	return hmac != NULL && EVP_MAC_init(hmac, key, key_len, params) == 1;
}

void
tegro_signature_forget(void)
{
	EVP_MAC_CTX_free(hmac); /* clears what it frees */
	hmac = NULL;
}

/* Writes bytes as lower-case hex, and a NUL behind. */
static void
write_hex(const unsigned char *bytes, size_t len, char *hex)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++)
	{
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 0x0f];
	}
	hex[2 * len] = '\0';
}

bool
tegro_signature_mac(const char *key, size_t key_len, const char *message,
					size_t message_len, unsigned char mac[TEGRO_MAC_LEN])
{
	const unsigned char *key_bytes = (const unsigned char *) key;
	size_t mac_len = 0;

	if (!(hmac ? EVP_MAC_init(hmac, key_bytes, key_len, NULL) == 1
			   : create_hmac(key_bytes, key_len)) ||
		EVP_MAC_update(hmac, (const unsigned char *) message, message_len) !=
			1 ||
		EVP_MAC_final(hmac, mac, &mac_len, TEGRO_MAC_LEN) != 1 ||
		mac_len != TEGRO_MAC_LEN)
	{
		tegro_signature_forget();
		return false;
	}
	return true;
}

bool
tegro_signature_request(const char *key, size_t key_len, const char *message,
						size_t message_len, char hex[TEGRO_SIGNATURE_LEN + 1])
{
	unsigned char mac[TEGRO_MAC_LEN];

	hex[0] = '\0';
	if (!tegro_signature_mac(key, key_len, message, message_len, mac))
		return false;
	write_hex(mac, TEGRO_MAC_LEN, hex);
	return true;
}

bool
tegro_signature_form(const char *key, size_t key_len, const char *text,
					 size_t text_len, char hex[TEGRO_MD5_LEN + 1])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len = 0;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool done = context != NULL &&
		EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1 &&
		EVP_DigestUpdate(context, text, text_len) == 1 &&
		EVP_DigestUpdate(context, key, key_len) == 1 &&
		EVP_DigestFinal_ex(context, digest, &digest_len) == 1 &&
		digest_len * 2 == TEGRO_MD5_LEN;

	/* it has seen the key, and is wiped as it goes */
	EVP_MD_CTX_free(context);
	hex[0] = '\0';
	if (done)
		write_hex(digest, digest_len, hex);
	return done;
}

/*
 * The lower-case form of a hex digit, without a branch.  No other byte becomes
 * a hex digit: A to F alone, 0x41 to 0x46, become others.
 */
static char
lower_hex(char c)
{
	unsigned int u = (unsigned char) c;
	unsigned int is_upper = ((0x40 - u) & (u - 0x47)) >> 31;

	return (char) (u | is_upper << 5);
}

bool
tegro_signature_equal(const char *a, const char *b, size_t len)
{
	/* volatile: a compiler that saw through this could stop early */
	volatile unsigned char difference = 0;

	for (size_t i = 0; i < len; i++)
		difference |= (unsigned char) (lower_hex(a[i]) ^ lower_hex(b[i]));
	return difference == 0;
}
