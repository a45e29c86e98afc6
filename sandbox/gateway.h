/*
 * gateway.h
 *		What stands in front of the provider: its CDN.
 */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <stdbool.h>

/* The HTML page that goes with its status 403. */
extern const char gateway_page[];

/* Says whether the CDN refuses a user agent, which may be NULL. */
bool gateway_refuses(const char *user_agent);

#endif
