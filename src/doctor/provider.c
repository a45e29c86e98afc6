/*-------------------------------------------------------------------------
 *
 * provider.c
 *		Does the provider answer?
 *
 * A check of the doctor.  It sends one request, which reads, and only if the
 * caller may call a function that sends it; from how that ends it tells about
 * the network, the key, and the clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "src/client/api.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/doctor/provider.h"
#include "src/base/settings.h"

/* Clocks that differ by more are worth a word: certificates, nonces. */
#define MAX_SKEW_S 30

/* May the caller have a read sent, and by which method? */
static const char *
callable_method(TegroDoctor *doctor)
{
	static const struct
	{
		const char *function;
		const char *method;
		int nargs;
	} functions[] = {{"tegro_balance", "balance", 0},
					 {"tegro_shops", "shops", 0},
					 {"tegro_modules", "modules", 0},
					 {"tegro_call", "balance", 2}};
	Oid types[2] = {TEXTOID, JSONBOID};

	for (int i = 0; i < lengthof(functions); i++)
	{
		Oid function =
			GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							CStringGetDatum(functions[i].function),
							PointerGetDatum(
								buildoidvector(types, functions[i].nargs)),
							ObjectIdGetDatum(doctor->namespace));

		if (OidIsValid(function) && tegro_may_execute(function, GetUserId()))
			return functions[i].method;
	}
	return NULL;
}

/* The host of tegro.api_url, with its port. */
static char *
host_and_port(void)
{
	const char *host = strstr(tegro_api_url, "://") + 3;

	return pnstrdup(host, strcspn(host, "/"));
}

static const char *
network_hint(const TegroExchange *exchange, const TegroOutcome *outcome)
{
	char *address = host_and_port();
	char *port = strrchr(address, ']') ? strchr(strrchr(address, ']'), ':')
									   : strchr(address, ':');
	const char *at = port ? address : psprintf("%s:443", address);
	const char *host = port ? pnstrdup(address, (Size) (port - address))
							: address;

	if (exchange->fault == TEGRO_FAULT_SETTING)
		return outcome->hint;
	if (exchange->connected || exchange->fault == TEGRO_FAULT_CERTIFICATE)
		return psprintf("Try \"openssl s_client -connect %s -servername %s </dev/null\" on the server. Check the clock, the system's certificate authorities (apt-get install ca-certificates), tegro.ca_file, and proxies that take TLS apart.",
						at, host);
	if (exchange->name_lookup_us == 0)
		return psprintf("Try \"getent ahosts %s\" on the server. Check tegro.api_url, /etc/resolv.conf and the name servers there.",
						host);
	return psprintf("Try \"curl -v %s\" on the server. Check tegro.api_url, and whether a firewall or proxy (tegro.proxy) is in the way.",
					tegro_api_url);
}

static char *
describe_times(const TegroExchange *exchange)
{
	if (exchange->kept_alive)
		return "over a connection that was open";
	return psprintf("name lookup %.1f ms, connection %.1f ms, TLS %.1f ms",
					exchange->name_lookup_us / 1000.0,
					Max(exchange->connect_us - exchange->name_lookup_us, 0) /
						1000.0,
					Max(exchange->tls_us - exchange->connect_us, 0) / 1000.0);
}

static void
judge_clock(TegroDoctor *doctor, const TegroExchange *exchange)
{
	int64 theirs = tegro_exchange_date(exchange);
	int64 ours = (int64) time(NULL);
	int64 ahead = ours - theirs;

	if (theirs < 0)
		tegro_finding_put_named(doctor, "clock", TEGRO_FINDING_SKIPPED,
								"No answer came that tells the provider's time.",
								NULL);
	else if (ahead > MAX_SKEW_S || ahead < -MAX_SKEW_S)
		tegro_finding_put_named(doctor, "clock", TEGRO_FINDING_WARNING,
								psprintf("This server's clock is " INT64_FORMAT
										 " s %s the provider's. Nonces are made of it, and certificates are checked by it.",
										 ahead > 0 ? ahead : -ahead,
										 ahead > 0 ? "ahead of" : "behind"),
								"Set the clock: run \"timedatectl set-ntp true\" on the server, or install chrony.");
	else
		tegro_finding_put_named(doctor, "clock", TEGRO_FINDING_OK,
								psprintf("It is within %d s of the provider's.",
										 MAX_SKEW_S),
								NULL);
}

/* The one request, and who asks for it. */
typedef struct ProviderCheck
{
	TegroDoctor *doctor;
	TegroCall *call;
} ProviderCheck;

static TegroCall *
get_call(int i, void *arg)
{
	return ((ProviderCheck *) arg)->call;
}

/* Makes rows of how the request ended. */
static void
judge_call(TegroCall *call, void *arg)
{
	TegroDoctor *doctor = ((ProviderCheck *) arg)->doctor;
	const TegroExchange *exchange = tegro_api_exchange(call);
	const TegroOutcome *outcome = &call->outcome;
	const char *hint = outcome->hint;
	char *detail = psprintf("%s. %s", outcome->message ? outcome->message : "",
							outcome->detail ? outcome->detail : "");

	detail[0] = pg_toupper((unsigned char) detail[0]);
	if (exchange->end == TEGRO_EXCHANGE_NOT_SENT)
	{
		tegro_finding_put_named(doctor, "network", TEGRO_FINDING_ERROR, detail,
								network_hint(exchange, outcome));
		tegro_finding_put_named(doctor, "provider", TEGRO_FINDING_SKIPPED,
								"It could not be reached.", NULL);
		judge_clock(doctor, exchange);
		return;
	}
	tegro_finding_put_named(doctor, "network", TEGRO_FINDING_OK,
							psprintf("%s was reached, %s.", tegro_api_url,
									 describe_times(exchange)),
							NULL);

	switch (outcome->result)
	{
		case TEGRO_ANSWERED:
			tegro_finding_put(doctor, TEGRO_FINDING_OK,
							  psprintf("It accepts the key of shop \"%s\": %s was answered in %.1f ms.",
									   call->shop_id, call->method->name,
									   exchange->total_us / 1000.0),
							  NULL);
			break;
		case TEGRO_RATE_LIMITED:
			tegro_finding_put(doctor, TEGRO_FINDING_WARNING, detail,
							  "Ask for less at once: lower tegro.max_concurrency, or set tegro.rate_limit for the outbox.");
			break;
		case TEGRO_REFUSED:
			if (outcome->unauthorized)
				hint =
					psprintf("Copy the API key of shop \"%s\" anew from its page at Tegro into the credentials file (it is not the secret key), then SELECT pg_reload_conf().",
							 call->shop_id);
			else if (strcasestr(outcome->desc, "nonce") != NULL)
				hint =
					"The provider has seen a greater nonce, or the same: check the clock (timedatectl), and whether another program uses this shop's key and counts in nanoseconds. Give it a shop of its own.";
			tegro_finding_put(doctor, TEGRO_FINDING_ERROR, detail, hint);
			break;
		default:
			if (exchange->http_status == 403)
				hint =
					"The provider's CDN turned the request away (\"error 1010\" means: by its User-Agent). ALTER SYSTEM RESET tegro.user_agent; SELECT pg_reload_conf(); or set one that says who you are; else ask Tegro to let this server's address in.";
			tegro_finding_put(doctor, TEGRO_FINDING_ERROR, detail, hint);
	}
	judge_clock(doctor, exchange);
}

void
tegro_check_provider(TegroDoctor *doctor)
{
	const char *method = callable_method(doctor);
	TegroJsonbState params = tegro_begin_params();
	ProviderCheck check = {doctor};
	int left_ms;

	if (method == NULL)
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  psprintf("Role \"%s\" may execute none of tegro_balance, tegro_shops, tegro_modules and tegro_call.",
								   GetUserNameFromId(GetUserId(), false)),
						  "GRANT EXECUTE ON FUNCTION tegro_balance() to it, or call tegro_doctor() as another role.");
		return;
	}
	if (!doctor->has_key)
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "Without a key nothing can be asked: see the check \"credentials\".",
						  NULL);
		return;
	}
	left_ms = (int) Max(tegro_timeout -
							(tegro_clock_us() - doctor->begun_us) / 1000,
						1);
	check.call = tegro_api_prepare(method, tegro_finish_params(&params),
								   GetUserId());
	tegro_finding_set_number("tegro.timeout", left_ms);
	tegro_finding_set_number("tegro.read_retries", 0);
	tegro_api_run(1, 1, get_call, judge_call, &check);
}
