/*
 * gateway.c
 *		What stands in front of the provider: its CDN.
 *
 * There is one report of a refusal: of the user agent that Node's built-in
 * fetch sends. The provider's own PHP sample sends none at all, and its Python
 * samples send that of requests. --user-agents named is for clients that want
 * to be sure: it refuses what HTTP libraries send by default, and none.
 */
#include "gateway.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "rules.h"

const char gateway_page[] =
	"<!DOCTYPE html>\n<html><head><title>Access denied</title></head>\n"
	"<body><h1>Access denied</h1>\n<p>The owner of this website has banned your "
	"access based on your browser's signature (error 1010).</p></body></html>\n";

/* The user agents of libraries, by how they begin. */
static const char *const library_prefixes[] = {
	"curl/",
	"libcurl",
	"python-requests",
	"python-urllib",
	"python-httpx",
	"aiohttp",
	"go-http-client",
	"java/",
	"java-http-client",
	"apache-httpclient",
	"okhttp",
	"wget/",
	"guzzlehttp",
	"libwww-perl",
	"lwp::",
	"http-tiny",
	"node-fetch",
	"axios/",
	"undici",
	"got (",
	"ruby",
	"faraday",
	"reqwest",
	"php/",
};

bool
gateway_refuses(const char *user_agent)
{
	if (rules.user_agents == USER_AGENTS_ANY)
		return false;
	if (rules.user_agents == USER_AGENTS_REPORTED)
		return user_agent != NULL &&
			(strcasecmp(user_agent, "node") == 0 ||
			 strncasecmp(user_agent, "undici", strlen("undici")) == 0);
	if (user_agent == NULL || user_agent[0] == '\0' ||
		strcasecmp(user_agent, "node") == 0)
		return true;
	for (size_t i = 0;
		 i < sizeof(library_prefixes) / sizeof(library_prefixes[0]); i++)
		if (strncasecmp(user_agent, library_prefixes[i],
						strlen(library_prefixes[i])) == 0)
			return true;
	return false;
}
