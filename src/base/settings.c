/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings, except those of keys: see src/client/keys.c.
 *
 * Who sets a setting follows from what it could do.  The address, the
 * authorities and the proxy decide which server receives signed requests, and
 * the outbox's settings how carefully money is handled.  Neither is a role's or
 * a session's decision: they stand in the configuration file (PGC_SIGHUP), and
 * SET, ALTER ROLE, ALTER DATABASE and connection options cannot change them.
 * A session chooses its shop and how long it waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <limits.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "src/base/error.h"
#include "src/base/settings.h"

#define DEFAULT_API_URL "https://tegro.money/api"

/* The provider's CDN turns away libraries that don't say who they are. */
#define DEFAULT_USER_AGENT "tegro-postgresql/" TEGRO_VERSION

char *tegro_api_url = NULL;
char *tegro_ca_file = NULL;
char *tegro_proxy = NULL;
char *tegro_user_agent = NULL;
int tegro_max_answer_size = 1024;
int tegro_max_request_size = 64;
int tegro_connect_timeout = 3000;
int tegro_timeout = 10000;
int tegro_read_retries = 2;
int tegro_max_concurrency = 32;

int tegro_claim_timeout = 60;
int tegro_review_after = 15 * 60;
int tegro_max_attempts = 20;
int tegro_max_amount_decimals = 12;
int tegro_rate_limit = 0;
int tegro_worker_idle_timeout = 60;
int tegro_retention = 0;
char *tegro_not_found_pattern = NULL;
char *tegro_retryable_pattern = NULL;
char *tegro_duplicate_pattern = NULL;

static char *shop_id = NULL;
static bool delivery = true;


/*
 * Check hooks: GUC_check_errmsg and its like instead of ereport, by the rules
 * for such hooks.
 */

bool
tegro_settings_has_control_character(const char *s)
{
	for (; *s; s++)
	{
		if ((unsigned char) *s < 0x20 || *s == 0x7f)
			return true;
	}
	return false;
}

bool
tegro_settings_check_printable(char **newval, void **extra, GucSource source)
{
	if (*newval && tegro_settings_has_control_character(*newval))
	{
		GUC_check_errdetail("The value must not contain line breaks or other control characters.");
		return false;
	}
	return true;
}

/*
 * The host of "http://HOST..." is this machine, by its literal address or the
 * name that libcurl itself resolves to the loopback.
 */
static bool
is_loopback_host(const char *host, size_t len)
{
	char buf[INET6_ADDRSTRLEN];
	struct in_addr v4;

	if (len == 5 && strncmp(host, "[::1]", 5) == 0)
		return true;
	if (len == 9 && pg_strncasecmp(host, "localhost", 9) == 0)
		return true;
	if (len >= sizeof(buf))
		return false;
	memcpy(buf, host, len);
	buf[len] = '\0';
	return inet_pton(AF_INET, buf, &v4) == 1 &&
		(ntohl(v4.s_addr) >> 24) == 127;
}

/*
 * scheme://host[:port][/path] in the few characters that need no second
 * thought: no user, no query, no escapes, nothing that two parsers could read
 * differently.
 */
static bool
check_api_url(char **newval, void **extra, GucSource source)
{
	const char *url = *newval;
	const char *host;
	const char *p;
	size_t host_len;
	bool http = false;
	size_t len = strlen(url);

	if (pg_strncasecmp(url, "https://", 8) == 0)
		host = url + 8;
	else if (pg_strncasecmp(url, "http://", 7) == 0)
	{
		host = url + 7;
		http = true;
	}
	else
	{
		GUC_check_errdetail("The address must begin with https://.");
		return false;
	}

	if (*host == '[')
	{
		host_len = strspn(host + 1, "0123456789abcdefABCDEF:.") + 1;
		if (host[host_len] != ']')
			host_len = 0;
		else
			host_len++;
	}
	else
		host_len =
			strspn(host,
				   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
	p = host + host_len;
	if (host_len > 0 && *p == ':')
	{
		size_t digits = strspn(p + 1, "0123456789");
		long port = digits > 0 && digits <= 5 ? strtol(p + 1, NULL, 10) : 0;

		if (port < 1 || port > 65535)
			host_len = 0;
		p += 1 + digits;
	}
	if (host_len > 0 && *p == '/')
		p +=
			strspn(p,
				   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._~-");
	if (host_len == 0 || *p != '\0')
	{
		GUC_check_errdetail("The address must have the form https://host[:port][/path], without user, query or escapes.");
		return false;
	}
	if (http && !is_loopback_host(host, host_len))
	{
		GUC_check_errdetail("Plain http is only for an address of this machine, such as http://127.0.0.1:8080/api.");
		return false;
	}

	/* "…/api/" and "…/api" are the same place */
	while (len > 0 && (*newval)[len - 1] == '/')
		(*newval)[--len] = '\0';
	return true;
}

static bool
check_proxy(char **newval, void **extra, GucSource source)
{
	static const char *const schemes[] = {"http://", "https://", "socks5://",
										  "socks5h://"};

	if (*newval == NULL || **newval == '\0')
		return true;
	for (int i = 0; i < lengthof(schemes); i++)
	{
		if (pg_strncasecmp(*newval, schemes[i], strlen(schemes[i])) != 0)
			continue;
		if (!tegro_settings_has_control_character(*newval))
			return true;
		/* a message of our own: PostgreSQL's quotes the value */
		GUC_check_errmsg("invalid value for parameter \"tegro.proxy\"");
		GUC_check_errdetail("The value must not contain line breaks or other control characters.");
		return false;
	}
	GUC_check_errmsg("invalid value for parameter \"tegro.proxy\"");
	GUC_check_errdetail("A proxy begins with http://, https://, socks5:// or socks5h://.");
	return false;
}

const char *
tegro_settings_masked(const char *value)
{
	return value && *value ? "********" : "";
}

static const char *
show_proxy(void)
{
	/* its address may carry a password */
	return superuser() || !tegro_proxy ? tegro_proxy
									   : tegro_settings_masked(tegro_proxy);
}

/* Settings of tegro that the configuration has, before they are defined. */
static List *configured = NIL;

static bool
is_placeholder(const struct config_generic *setting)
{
	return (setting->flags & GUC_CUSTOM_PLACEHOLDER) != 0;
}

void
tegro_settings_note_configured(void)
{
	int count;
	struct config_generic **settings = tegro_all_settings(&count);

	for (int i = 0; i < count; i++)
	{
		if (is_placeholder(settings[i]) &&
			settings[i]->source != PGC_S_DEFAULT &&
			pg_strncasecmp(settings[i]->name, "tegro.", 6) == 0)
			configured = lappend(configured, pstrdup(settings[i]->name));
	}
}

void
tegro_settings_check_configured(void)
{
	ListCell *cell;

	foreach(cell, configured)
	{
		const char *name = lfirst(cell);
		const struct config_generic *setting = tegro_find_setting(name);
		bool exists = setting && !is_placeholder(setting);

		if (exists && setting->source != PGC_S_DEFAULT)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 exists ? errmsg("the value of parameter \"%s\" is not valid", name)
						: errmsg("unrecognized configuration parameter \"%s\"", name),
				 errdetail("With its default instead, the server could send requests that it must not send."),
				 errhint("Correct or remove the line in the server's configuration, and start the server again.")));
	}
	list_free_deep(configured);
	configured = NIL;
}

void
tegro_settings_define(void)
{
	DefineCustomStringVariable("tegro.shop_id",
							   "Shop to act for: its public key at Tegro.",
							   NULL,
							   &shop_id, "", PGC_USERSET, 0,
							   tegro_settings_check_printable, NULL, NULL);
	DefineCustomStringVariable("tegro.api_url",
							   "Address of the Tegro API.",
							   "https; plain http only to an address of this machine, for tests.",
							   &tegro_api_url, DEFAULT_API_URL, PGC_SIGHUP, 0,
							   check_api_url, NULL, NULL);
	DefineCustomStringVariable("tegro.ca_file",
							   "File with the certificate authorities to trust, instead of the system's.",
							   "Certificate checks can't be turned off.",
							   &tegro_ca_file, "", PGC_SIGHUP, 0,
							   tegro_settings_check_printable, NULL, NULL);
	/*
	 * pg_settings shows reset_val without our show hook, to every role that has
	 * pg_read_all_settings.  So the proxy appears in no list.
	 */
	DefineCustomStringVariable("tegro.proxy",
							   "Proxy through which the API is reached.",
							   "The proxies that the server's environment names are ignored.",
							   &tegro_proxy, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_proxy, NULL, show_proxy);
	DefineCustomStringVariable("tegro.user_agent",
							   "User-Agent header that requests carry.",
							   "The provider's CDN turns away the default names of HTTP libraries.",
							   &tegro_user_agent, DEFAULT_USER_AGENT, PGC_SIGHUP, 0,
							   tegro_settings_check_printable, NULL, NULL);
	DefineCustomIntVariable("tegro.max_answer_size",
							"Size at which an answer is cut off.",
							"A longer answer is an error, and takes no more memory than this.",
							&tegro_max_answer_size, 1024, 1, 256 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.max_request_size",
							"Size of the largest body that a request may have.",
							"A larger one is refused before anything is sent or recorded.",
							&tegro_max_request_size, 64, 1, 64 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tegro.connect_timeout",
							"Time allowed for name lookup, connection and TLS together.",
							NULL,
							&tegro_connect_timeout, 3000, 1, 10 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.timeout",
							"Time allowed for a call, repeats included.",
							NULL,
							&tegro_timeout, 10000, 1, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.read_retries",
							"How often a call that changes nothing, or was not sent, is repeated.",
							"A call that may have moved money is never repeated.",
							&tegro_read_retries, 2, 0, 100,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.max_concurrency",
							"How many requests a session keeps in flight at once.",
							NULL,
							&tegro_max_concurrency, 32, 1, 1024,
							PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("tegro.delivery",
							 "Delivers the requests that wait in the outbox.",
							 "Turn it off on copies of a database whose requests are not theirs to send.",
							 &delivery, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.claim_timeout",
							"How long a delivery worker may keep a request to itself.",
							"After that its outcome counts as unknown, and is looked up. Must exceed tegro.timeout well.",
							&tegro_claim_timeout, 60, 1, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.review_after",
							"How long the provider may take to show a payout that it got.",
							"A payout that can't be found in this time is left to a person.",
							&tegro_review_after, 15 * 60, 1, 30 * 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.max_attempts",
							"How often a request that the provider refuses for now is sent.",
							NULL,
							&tegro_max_attempts, 20, 1, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.max_amount_decimals",
							"Most decimals that the amount of an order or a payout may have.",
							"More are a slip of floating point.",
							&tegro_max_amount_decimals, 12, 0, 30,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.rate_limit",
							"Requests a second that a delivery worker sends at most for each shop; 0 for no limit.",
							"Lookups are not counted.",
							&tegro_rate_limit, 0, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.worker_idle_timeout",
							"How long the background worker stays when nothing waits.",
							NULL,
							&tegro_worker_idle_timeout, 60, 0, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.retention",
							"How long finished requests keep their parameters, answers and messages; 0 for ever.",
							"Their references, amounts, states and decisions are kept for ever.",
							&tegro_retention, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.not_found_pattern",
							   "Regular expression for refusals that say that there is no such order or withdrawal.",
							   "The provider's wording is not documented. A refusal that doesn't match is never taken for \"not found\".",
							   &tegro_not_found_pattern, "(?i)not found|no such|does ?n.t exist|не найден|не существует",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.retryable_pattern",
							   "Regular expression for refusals after which the same request may be sent again.",
							   "The provider's wording is not documented.",
							   &tegro_retryable_pattern, "(?i)nonce|too many|rate limit|try again|temporar|слишком много|повторите|попробуйте",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.duplicate_pattern",
							   "Regular expression for refusals that say that the request was carried out before.",
							   "Such a request is looked up. The provider's wording is not documented.",
							   &tegro_duplicate_pattern, "(?i)duplicate|already|exists|дублик|уже ",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
}

bool
tegro_delivery_is_on(void)
{
	return delivery && !IsBinaryUpgrade && !RecoveryInProgress();
}

void
tegro_refuse_in_binary_upgrade(void)
{
	if (IsBinaryUpgrade)
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_NOT_SENT),
				 errmsg("requests are not sent in binary-upgrade mode"),
				 errhint("Try again once pg_upgrade is done.")));
}

void
tegro_settings_refuse_no_shop(void)
{
	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("no shop is set"),
			 errhint("Set tegro.shop_id to the shop's public key, or give \"shop_id\" in the parameters.")));
}

const char *
tegro_settings_shop_id(void)
{
	if (shop_id == NULL || *shop_id == '\0')
		tegro_settings_refuse_no_shop();
	return shop_id;
}
