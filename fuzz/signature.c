/*-------------------------------------------------------------------------
 *
 * signature.c
 *		Fuzzes src/format/signature.c: keys and messages of any length are signed as
 *		OpenSSL's plain functions do it, and compared but for the case of digits.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <ctype.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "src/format/signature.h"

static void
write_hex(const unsigned char *bytes, size_t len, char *hex)
{
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
}

/* The same bytes, but for the case of A to F? */
static bool
same_digits(const char *a, const char *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (a[i] != b[i] &&
			!(isxdigit((unsigned char) a[i]) &&
			  tolower((unsigned char) a[i]) == tolower((unsigned char) b[i])))
			return false;
	}
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned digest_len;
	char expected[2 * EVP_MAX_MD_SIZE + 1];
	char hmac[TEGRO_SIGNATURE_LEN + 1];
	char md5[TEGRO_MD5_LEN + 1];
	size_t key_len, len;
	char *key, *message, *both;

	/* the first byte says how much is key; a key has 1 byte or more */
	if (size < 2)
		return 0;
	key_len = 1 + data[0] % (size - 1);
	len = size - 1 - key_len;
	key = just_copy(data + 1, key_len);
	message = just_copy(data + 1 + key_len, len);

	MUST(tegro_signature_request(key, key_len, message, len, hmac));
	MUST(HMAC(EVP_sha256(), key, (int) key_len, (unsigned char *) message, len,
			  digest, &digest_len) != NULL);
	write_hex(digest, digest_len, expected);
	MUST(strcmp(hmac, expected) == 0);

	/* once more, with the key that it has kept; and after it forgot it */
	MUST(tegro_signature_request(key, key_len, message, len, hmac));
	MUST(strcmp(hmac, expected) == 0);
	if (data[0] & 1)
		tegro_signature_forget();

	both = just(size - 1);
	if (len > 0)
		memcpy(both, message, len);
	memcpy(both + len, key, key_len);
	MUST(tegro_signature_form(key, key_len, message, len, md5));
	MUST(EVP_Digest(both, size - 1, digest, &digest_len, EVP_md5(), NULL) ==
		 1);
	write_hex(digest, digest_len, expected);
	MUST(strcmp(md5, expected) == 0);

	if (key_len == len)
		MUST(tegro_signature_equal(key, message, len) ==
			 same_digits(key, message, len));
	MUST(tegro_signature_equal(key, key, key_len));

	free(key);
	free(message);
	free(both);
	return 0;
}
