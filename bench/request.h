/*-------------------------------------------------------------------------
 *
 * request.h
 *		What the floors share: the request that tegro sends for
 *		tegro_balance(), or for an order of the outbox, made with as little as
 *		will do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_REQUEST_H
#define BENCH_REQUEST_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The answers that the floors ask for have some 120 bytes. */
#define ANSWER_ROOM 4096

/* A request, and the answer to it. */
struct request
{
	CURL *easy;
	char body[256];
	char authorization[128];
	struct curl_slist headers[4]; /* a list, without any allocation */
	char answer[ANSWER_ROOM];
	size_t answer_length;
};

/* Where to and in whose name; from the environment, see request_configure. */
struct target
{
	const char *url;	 /* of the method */
	const char *ca_file; /* NULL for plain http */
	const char *shop_id;
	const char *api_key;
	long http_version; /* CURL_HTTP_VERSION_... */
	bool check_answer; /* it must be a success of the provider */
	bool order;		   /* createOrder instead of balance */
};

/* Microseconds of a clock that nobody sets. */
int64_t now_us(void);

/* What script/server has set; ends the program where it has not. */
const char *require_environment(const char *name);

/* Reports a mistake and ends the program. */
_Noreturn void fail(const char *format, ...)
	__attribute__((format(printf, 1, 2)));

/* Reads a positive number from the command line. */
long read_number(const char *what, const char *text);

/*
 * Takes the target from TEGRO_SANDBOX_URL, TEGRO_SANDBOX_CA, TEGRO_SHOP_ID and
 * TEGRO_API_KEY, as script/server sets them; BENCH_URL, a complete address
 * whose answers are not looked into, goes before the sandbox.
 */
struct target request_configure(void);

/*
 * The same for the requests of the outbox: createOrder at the sandbox, each
 * with a number of its own.
 */
struct target request_configure_order(void);

/* Sets all that stays the same from request to request. */
void request_prepare(struct request *request, const struct target *target);

/* Writes the body with a nonce that was not there before, and signs it. */
void request_renew(struct request *request, const struct target *target);

/* Ends the program unless the exchange ended with the answer asked for. */
void request_check(const struct request *request, const struct target *target,
				   CURLcode code);

#endif
