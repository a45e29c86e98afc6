/*-------------------------------------------------------------------------
 *
 * request.c
 *		What the floors share: the request that tegro sends for
 *		tegro_balance(), or for an order of the outbox, made with as little as
 *		will do.
 *
 * A floor is what the network, TLS and libcurl cost anyone.  So it does once
 * what can be done once: options are set when the handle is made, headers and
 * body are written in place, nothing is allocated, the answer is looked at and
 * not parsed.  What differs from request to request differs here too: the
 * nonce, the body, its signature.
 *
 *-------------------------------------------------------------------------
 */
#include "request.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As tegro's, so that both send as many bytes. */
#define USER_AGENT "tegro-postgresql/1.0"

/* Any value does: the floors talk to this machine. */
#define TIMEOUT_MS		   10000L
#define CONNECT_TIMEOUT_MS 3000L

#define SIGNATURE_BYTES 32

#define SETOPT(easy, option, value)                                   \
	do                                                                \
	{                                                                 \
		CURLcode setopt_code = curl_easy_setopt(easy, option, value); \
		if (setopt_code != CURLE_OK)                                  \
			fail(#option ": %s", curl_easy_strerror(setopt_code));    \
	} while (0)

int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

void
fail(const char *format, ...)
{
	va_list arguments;

	fputs("bench: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs("\n", stderr);
	exit(1);
}

long
read_number(const char *what, const char *text)
{
	char *end;
	long number = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || number < 0)
		fail("%s must be a number, not \"%s\"", what, text);
	return number;
}

const char *
require_environment(const char *name)
{
	const char *value = getenv(name);

	if (value == NULL || *value == '\0')
		fail("%s is not set; run this with script/bench", name);
	return value;
}

/* The target whose address is still to be set. */
static struct target
configure(void)
{
	return (struct target){.http_version = CURL_HTTP_VERSION_1_1,
						   .ca_file = getenv("TEGRO_SANDBOX_CA"),
						   .shop_id = require_environment("TEGRO_SHOP_ID"),
						   .api_key = require_environment("TEGRO_API_KEY")};
}

/* Sets the address of one of the sandbox's methods. */
static void
set_method(struct target *target, const char *method)
{
	static char address[1024];

	snprintf(address, sizeof(address), "%s/api/%s/",
			 require_environment("TEGRO_SANDBOX_URL"), method);
	target->url = address;
	target->check_answer = true;
}

struct target
request_configure(void)
{
	struct target target = configure();
	const char *url = getenv("BENCH_URL");

	if (url != NULL)
		target.url = url;
	else
		set_method(&target, "balance");
	return target;
}

struct target
request_configure_order(void)
{
	struct target target = configure();

	set_method(&target, "createOrder");
	target.order = true;
	return target;
}

static size_t
on_answer(char *bytes, size_t size, size_t count, void *arg)
{
	struct request *request = arg;
	size_t length = size * count;

	if (length > ANSWER_ROOM - request->answer_length)
		return 0;
	memcpy(request->answer + request->answer_length, bytes, length);
	request->answer_length += length;
	return length;
}

void
request_prepare(struct request *request, const struct target *target)
{
	static char content_type[] = "Content-Type: application/json";
	static char accept[] = "Accept: application/json";
	static char expect[] = "Expect:";
	CURL *easy = curl_easy_init();

	if (easy == NULL)
		fail("curl_easy_init failed");
	request->easy = easy;
	request->headers[0].data = request->authorization;
	request->headers[0].next = &request->headers[1];
	request->headers[1].data = content_type;
	request->headers[1].next = &request->headers[2];
	request->headers[2].data = accept;
	request->headers[2].next = &request->headers[3];
	request->headers[3].data = expect;
	request->headers[3].next = NULL;

	SETOPT(easy, CURLOPT_PRIVATE, request);
	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, CURLOPT_URL, target->url);
	SETOPT(easy, CURLOPT_HTTP_VERSION, target->http_version);
	/* With HTTP/2, wait for the one connection instead of opening more. */
	SETOPT(easy, CURLOPT_PIPEWAIT,
		   (long) (target->http_version != CURL_HTTP_VERSION_1_1));
	if (target->ca_file != NULL)
		SETOPT(easy, CURLOPT_CAINFO, target->ca_file);
	SETOPT(easy, CURLOPT_POST, 1L);
	SETOPT(easy, CURLOPT_HTTPHEADER, request->headers);
	SETOPT(easy, CURLOPT_USERAGENT, USER_AGENT);
	SETOPT(easy, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
	SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	SETOPT(easy, CURLOPT_WRITEFUNCTION, on_answer);
	SETOPT(easy, CURLOPT_WRITEDATA, request);
}

void
request_renew(struct request *request, const struct target *target)
{
	static const char digits[] = "0123456789abcdef";
	static int64_t last_nonce;
	static long last_order;
	unsigned char signature[EVP_MAX_MD_SIZE];
	unsigned signature_length = 0;
	struct timespec now;
	int64_t nonce;
	int length;
	char *hex;

	clock_gettime(CLOCK_REALTIME, &now);
	nonce = now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
	if (nonce <= last_nonce)
		nonce = last_nonce + 1;
	last_nonce = nonce;

	length = snprintf(request->body, sizeof(request->body),
					  "{\"nonce\":%lld,\"shop_id\":\"%s\"", (long long) nonce,
					  target->shop_id);
	if (target->order)
		length +=
			snprintf(request->body + length,
					 sizeof(request->body) - (size_t) length,
					 ",\"amount\":100.5,\"currency\":\"RUB\",\"order_id\":\"F-%08ld\"",
					 ++last_order);
	request->body[length++] = '}';
	if (HMAC(EVP_sha256(), target->api_key, (int) strlen(target->api_key),
			 (const unsigned char *) request->body, (size_t) length, signature,
			 &signature_length) == NULL ||
		signature_length != SIGNATURE_BYTES)
		fail("OpenSSL could not sign");

	hex = stpcpy(request->authorization, "Authorization: Bearer ");
	for (unsigned i = 0; i < SIGNATURE_BYTES; i++)
	{
		*hex++ = digits[signature[i] >> 4];
		*hex++ = digits[signature[i] & 0x0f];
	}
	*hex = '\0';

	SETOPT(request->easy, CURLOPT_POSTFIELDS, request->body);
	SETOPT(request->easy, CURLOPT_POSTFIELDSIZE, (long) length);
	request->answer_length = 0;
}

void
request_check(const struct request *request, const struct target *target,
			  CURLcode code)
{
	static const char success[] = "{\"type\":\"success\"";
	long status = 0;
	long version = 0;

	if (code != CURLE_OK)
		fail("%s: %s", target->url, curl_easy_strerror(code));
	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		fail("%s answers with status %ld", target->url, status);
	if (target->check_answer &&
		(request->answer_length < strlen(success) ||
		 memcmp(request->answer, success, strlen(success)) != 0))
		fail("%s answers: %.*s", target->url, (int) request->answer_length,
			 request->answer);
	curl_easy_getinfo(request->easy, CURLINFO_HTTP_VERSION, &version);
	if ((target->http_version == CURL_HTTP_VERSION_2TLS) !=
		(version == CURL_HTTP_VERSION_2_0))
		fail("%s answers in another version of HTTP", target->url);
}
