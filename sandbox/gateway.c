/*
 * gateway.c
 *		What stands in front of the provider: its CDN.
 *
 * It refuses the user agents that HTTP libraries send by default, and requests
 * without one; a client that gives its own name passes.
 */
#include "gateway.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

const char gateway_page[] =
	"<!DOCTYPE html>\n<html><head><title>Access denied</title></head>\n"
	"<body><h1>Access denied</h1>\n<p>The owner of this website has banned your "
	"access based on your browser's signature (error 1010).</p></body></html>\n";

/* The user agents that it refuses, by how they begin. */
static const char *const refused_prefixes[] = {
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
	if (user_agent == NULL || user_agent[0] == '\0')
		return true;
	for (size_t i = 0;
		 i < sizeof(refused_prefixes) / sizeof(refused_prefixes[0]); i++)
		if (strncasecmp(user_agent, refused_prefixes[i],
						strlen(refused_prefixes[i])) == 0)
			return true;
	return false;
}
