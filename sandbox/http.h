/*
 * http.h
 *		The server: connections, requests, and answers that wait.
 */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

struct http_options
{
	const char *listen;			 /* an address of the loopback interface */
	uint16_t port;				 /* 0: any that is free */
	const char *tls_certificate; /* PEM text, or NULL for plain http */
	const char *tls_key;
	unsigned threads;
	int64_t latency_ms;
};

/*
 * Starts to serve. Appends the base URL. Returns false where it can't, and
 * appends the reason instead. The timers must run.
 */
bool http_start(const struct http_options *options, struct text *text);

/*
 * From now on, requests that wait are closed instead of answered. To be called
 * before timer_stop and webhook_stop, which wake them.
 */
void http_begin_stop(void);

/* Closes all connections and stops. Nothing may wait any more. */
void http_stop(void);

#endif
