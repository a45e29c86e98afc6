/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings, and whose shop is asked for with which key.
 *
 * Who may set what follows from what it could do: the address, the
 * authorities and the proxy decide who receives signed requests, so they are
 * the superuser's; the keys are the session's own or come from a file that
 * only the administrator can name.
 *
 * Why there is a credentials file: a setting is a poor place for a key.
 * While this library is not loaded into a session, a key in postgresql.conf
 * is a placeholder that every role can SHOW; a key set by ALTER ROLE or ALTER
 * DATABASE can be read by every role in pg_db_role_setting and stands in
 * pg_dumpall; a key in a SET statement goes to the log under log_statement.
 * The file is read by the server alone, like a TLS key.
 *
 * Hazards:
 *
 *	- A check hook that fails without a message of its own makes PostgreSQL
 *	  quote the value.  For keys there is always a message.
 *	- The file's contents live in memory of our own and are zeroed before
 *	  they are freed.  PostgreSQL keeps the session's own keys, and frees them
 *	  as it frees any setting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/format/credentials.h"
#include "src/base/error.h"
#include "src/base/settings.h"
#include "src/format/signature.h"

/*
 * A credentials file is a few lines; 1 MB has room for some ten thousand.
 * More is not a credentials file, and would be read into every session.
 */
#define MAX_CREDENTIALS_FILE (1024 * 1024)

#define DEFAULT_API_URL "https://tegro.money/api"

/* The provider's CDN turns away libraries that don't say who they are. */
#define DEFAULT_USER_AGENT "tegro-postgresql/" TEGRO_VERSION

bool tegro_is_preloaded = false;

char *tegro_api_url = NULL;
char *tegro_ca_file = NULL;
char *tegro_proxy = NULL;
char *tegro_user_agent = NULL;
int tegro_max_answer_size = 1024;
int tegro_connect_timeout = 3000;
int tegro_timeout = 10000;
int tegro_read_retries = 2;
int tegro_max_concurrency = 32;

bool tegro_delivery = true;
int tegro_lease = 60;
int tegro_settle_time = 15 * 60;
int tegro_withdrawal_unknown = TEGRO_REVIEW;
int tegro_max_attempts = 20;
int tegro_rate_limit = 0;
int tegro_worker_idle = 60;
int tegro_retention = 0;
char *tegro_not_found = NULL;
char *tegro_repeatable = NULL;
char *tegro_duplicate = NULL;

static const struct config_enum_entry withdrawal_unknown_options[] =
	{{"review", TEGRO_REVIEW, false},
	 {"resend", TEGRO_RESEND, false},
	 {NULL, 0, false}};

static char *shop_id = NULL;
static char *api_key = NULL;
static char *secret_key = NULL;
static char *credentials_file = NULL;

/* The credentials file as it was read, taken apart. */
static char *file_bytes = NULL; /* what the fields point into */
static size_t file_bytes_len = 0;
static TegroCredentialsLine *file_lines = NULL;
static int file_nlines = 0;
static char *file_path = NULL; /* which file it was; NULL: none is read */
static TimestampTz file_reload_time = 0; /* PgReloadTime at the reading */


/*
 * Check hooks: GUC_check_errmsg and its like instead of ereport, by the rules
 * for such hooks.
 */

static bool
has_control_character(const char *s)
{
	for (; *s; s++)
	{
		if ((unsigned char) *s < 0x20 || *s == 0x7f)
			return true;
	}
	return false;
}

static bool
check_key(char **newval, void **extra, GucSource source)
{
	if (*newval && has_control_character(*newval))
	{
		GUC_check_errcode(ERRCODE_INVALID_PARAMETER_VALUE);
		GUC_check_errmsg("a key must not contain line breaks or other control characters");
		GUC_check_errhint("Copy the key again from the shop's page at Tegro, without what surrounds it.");
		return false;
	}
	return true;
}

static bool
check_printable(char **newval, void **extra, GucSource source)
{
	if (*newval && has_control_character(*newval))
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
		if (pg_strncasecmp(*newval, schemes[i], strlen(schemes[i])) == 0)
			return check_printable(newval, extra, source);
	}
	GUC_check_errmsg("invalid value for parameter \"tegro.proxy\"");
	GUC_check_errdetail("A proxy begins with http://, https://, socks5:// or socks5h://.");
	return false;
}

static const char *
show_masked(const char *value)
{
	return value && *value ? "********" : "";
}

static const char *
show_api_key(void)
{
	return show_masked(api_key);
}

/* A key that is no longer set can't sign any more. */
static void
forget_api_key(const char *value, void *extra)
{
	tegro_signature_forget();
}

static const char *
show_secret_key(void)
{
	return show_masked(secret_key);
}

static const char *
show_proxy(void)
{
	/* its address may carry a password */
	return superuser() || !tegro_proxy ? tegro_proxy
									   : show_masked(tegro_proxy);
}

/*
 * The settings that are not everyone's, and whether the value of the
 * placeholder for it was refused when it was defined.
 *
 * While this library is not loaded, "tegro.api_url" is a placeholder, and a
 * role that may not set the real one can set that: by SET, in PGOPTIONS.  When
 * the real one is defined PostgreSQL warns and drops the value, but the
 * administrator's, which it replaced, is gone as well.  What remains is the
 * built-in default, and a test server would ask the real provider.  Such a
 * session makes no calls.  (Under shared_preload_libraries there are no
 * placeholders.)
 */
static struct
{
	const char *name;
	bool refused;
} guarded_settings[] = {
	{"tegro.api_url"},		   {"tegro.ca_file"},
	{"tegro.proxy"},		   {"tegro.user_agent"},
	{"tegro.max_answer_size"}, {"tegro.credentials_file"},
};

void
tegro_settings_check(void)
{
	for (int i = 0; i < lengthof(guarded_settings); i++)
	{
		const char *name = guarded_settings[i].name;

		/* a reload may have mended it since */
		if (guarded_settings[i].refused &&
			tegro_setting_source(name) == PGC_S_DEFAULT)
			ereport(ERROR,
					(errcode(TEGRO_ERRCODE_MISCONFIGURED),
					 errmsg("parameter \"%s\" is not as it was configured", name),
					 errdetail("A value that is not valid, or that this role may not set, was given before the extension's library was loaded, and replaced the configured one."),
					 errhint("Connect again without setting it. With tegro in shared_preload_libraries such a setting is refused at once.")));
	}
}

void
tegro_settings_define(void)
{
	/* Keys appear in no list.  RESET ALL wipes them, for poolers' sake. */
	const int key_flags = GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL |
		GUC_NOT_IN_SAMPLE;

	tegro_is_preloaded = process_shared_preload_libraries_in_progress;
	/* an attempt that failed leaves a placeholder, too, but without a value */
	for (int i = 0; i < lengthof(guarded_settings); i++)
		guarded_settings[i].refused =
			tegro_setting_source(guarded_settings[i].name) != PGC_S_DEFAULT;

	DefineCustomStringVariable("tegro.shop_id",
							   "Shop to act for: its public key at Tegro.",
							   NULL,
							   &shop_id, "", PGC_USERSET, 0,
							   check_printable, NULL, NULL);
	DefineCustomStringVariable("tegro.api_key",
							   "Key that signs requests, for this session.",
							   "Safer in the file that tegro.credentials_file names: "
							   "statements are logged, and settings of roles and databases can be read by every role.",
							   &api_key, "", PGC_USERSET, key_flags,
							   check_key, forget_api_key, show_api_key);
	DefineCustomStringVariable("tegro.secret_key",
							   "Key that signs payment links and notifications, for this session.",
							   "Safer in the file that tegro.credentials_file names.",
							   &secret_key, "", PGC_USERSET, key_flags,
							   check_key, NULL, show_secret_key);
	DefineCustomStringVariable("tegro.credentials_file",
							   "File with the keys of the shops.",
							   "Lines of the form shop_id:role:api_key:secret_key, \"*\" for any shop or role. "
							   "It must belong to the server's user and be closed to all others (mode 0600). "
							   "Read again after each reload. A relative name is taken from the data directory.",
							   &credentials_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_printable, NULL, NULL);

	DefineCustomStringVariable("tegro.api_url",
							   "Address of the Tegro API.",
							   "https; plain http only to an address of this machine, for tests.",
							   &tegro_api_url, DEFAULT_API_URL, PGC_SUSET, 0,
							   check_api_url, NULL, NULL);
	DefineCustomStringVariable("tegro.ca_file",
							   "File with the certificate authorities to trust, instead of the system's.",
							   "Certificate checks can't be turned off.",
							   &tegro_ca_file, "", PGC_SUSET, 0,
							   check_printable, NULL, NULL);
	DefineCustomStringVariable("tegro.proxy",
							   "Proxy through which the API is reached.",
							   "The proxies that the server's environment names are ignored.",
							   &tegro_proxy, "", PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_proxy, NULL, show_proxy);
	DefineCustomStringVariable("tegro.user_agent",
							   "User-Agent header that requests carry.",
							   "The provider's CDN turns away the default names of HTTP libraries.",
							   &tegro_user_agent, DEFAULT_USER_AGENT, PGC_SUSET, 0,
							   check_printable, NULL, NULL);
	DefineCustomIntVariable("tegro.max_answer_size",
							"Size at which an answer is cut off.",
							"A longer answer is an error, and takes no more memory than this.",
							&tegro_max_answer_size, 1024, 1, 256 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tegro.connect_timeout",
							"Time allowed for name look-up, connection and TLS together.",
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
							 &tegro_delivery, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.lease",
							"How long a deliverer may keep a request to itself.",
							"After that its outcome counts as unknown, and is looked up. Must exceed tegro.timeout well.",
							&tegro_lease, 60, 1, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.settle_time",
							"How long the provider may take to show a payout that it got.",
							"A payout that can't be found in this time is left to a person, or sent again: see tegro.withdrawal_unknown.",
							&tegro_settle_time, 15 * 60, 1, 30 * 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomEnumVariable("tegro.withdrawal_unknown",
							 "What happens to a payout that may have been sent and can't be found.",
							 "\"review\" leaves it to a person; \"resend\" sends it again, and pays twice if the provider is slower than tegro.settle_time.",
							 &tegro_withdrawal_unknown, TEGRO_REVIEW, withdrawal_unknown_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.max_attempts",
							"How often a request that the provider refuses for now is sent.",
							NULL,
							&tegro_max_attempts, 20, 1, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.rate_limit",
							"Requests a second that a deliverer sends at most; 0 for no limit.",
							NULL,
							&tegro_rate_limit, 0, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.worker_idle",
							"How long the background worker stays when nothing waits.",
							NULL,
							&tegro_worker_idle, 60, 0, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("tegro.retention",
							"How long requests that are finished stay in the outbox; 0 for ever.",
							"What is deleted is forgotten: the same reference can then be paid again.",
							&tegro_retention, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.not_found",
							   "Regular expression for refusals that say that there is no such order or withdrawal.",
							   "The provider's wording is not documented. A refusal that doesn't match is never taken for \"not found\".",
							   &tegro_not_found, "(?i)not found|no such|does ?n.t exist|не найден|не существует",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.repeatable",
							   "Regular expression for refusals after which the same request may be sent again.",
							   "The provider's wording is not documented.",
							   &tegro_repeatable, "(?i)nonce|too many|rate limit|try again|temporar|слишком много|повторите|попробуйте",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("tegro.duplicate",
							   "Regular expression for refusals that say that the request was carried out before.",
							   "Such a request is looked up. The provider's wording is not documented.",
							   &tegro_duplicate, "(?i)duplicate|already|exists|дублик|уже ",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);

	for (int i = 0; i < lengthof(guarded_settings); i++)
		guarded_settings[i].refused &=
			tegro_setting_source(guarded_settings[i].name) == PGC_S_DEFAULT;

	MarkGUCPrefixReserved("tegro");
}

static void
refuse_no_shop(void)
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
		refuse_no_shop();
	return shop_id;
}

/* Forgets the credentials file, leaving no copy of a key in memory. */
static void
forget_file(void)
{
	tegro_signature_forget();
	if (file_bytes)
	{
		explicit_bzero(file_bytes, file_bytes_len);
		pfree(file_bytes);
	}
	if (file_lines)
		pfree(file_lines);
	if (file_path)
		pfree(file_path);
	file_bytes = NULL;
	file_bytes_len = 0;
	file_lines = NULL;
	file_nlines = 0;
	file_path = NULL;
}

/* The path is for the log: it is the administrator's, as the setting is. */
static void
refuse_file(const char *path, const char *detail, const char *hint)
{
	forget_file();
	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("could not use the credentials file"),
			 errdetail_internal("%s", detail),
			 errdetail_log("File \"%s\": %s", path, detail),
			 errhint("%s", hint)));
}

/*
 * Reads the whole file into file_bytes.  Everything is asked of the open
 * descriptor, so that it can't be exchanged between the check and the use;
 * O_NONBLOCK keeps a FIFO from holding us.
 */
static void
read_file_bytes(const char *path)
{
	struct stat st;
	size_t got = 0;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
	{
		int error = errno;
		char *detail = psprintf("It could not be opened: %s.",
								strerror(error));

		if (error == ELOOP)
			refuse_file(path, "It is a symbolic link.",
						"Set tegro.credentials_file to the file itself.");
		if (error == EACCES)
			refuse_file(path, detail,
						psprintf("Give it to the server's user (chown %u) with mode 0600, and let him pass the directories above it.",
								 (unsigned) geteuid()));
		refuse_file(path, detail,
					"Create the file that tegro.credentials_file names, owned by the server's user and with mode 0600.");
	}

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
	{
		close(fd);
		refuse_file(path, "It is not a regular file.",
					"Set tegro.credentials_file to a regular file.");
	}
	if (st.st_uid != geteuid() || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		close(fd);
		refuse_file(path,
					psprintf("It belongs to user %u with mode %04o.",
							 (unsigned) st.st_uid,
							 (unsigned) st.st_mode & 07777),
					psprintf("Give it to the server's user (chown %u) and close it to all others (chmod 0600).",
							 (unsigned) geteuid()));
	}
	if (st.st_size > MAX_CREDENTIALS_FILE)
	{
		close(fd);
		refuse_file(path, "It is larger than 1 MB.",
					"Set tegro.credentials_file to a file with a line for each shop.");
	}

	/* one byte more, for a NUL behind the last line; nothing is thrown while it is open */
	file_bytes =
		MemoryContextAllocExtended(TopMemoryContext, (Size) st.st_size + 1,
								   MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
	if (file_bytes == NULL)
	{
		close(fd);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("The credentials file could not be read.")));
	}
	file_bytes_len = (size_t) st.st_size + 1;
	while (got < (size_t) st.st_size)
	{
		ssize_t n = read(fd, file_bytes + got, (size_t) st.st_size - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t) n;
	}
	close(fd);
	if (got < (size_t) st.st_size)
		refuse_file(path, "It could not be read to its end.",
					"Reload the configuration once it is whole.");
}

/* Reads the credentials file, unless it is read already. */
static void
read_file(void)
{
	TegroCredentialsReader reader = {NULL};
	TegroCredentialsLine line;
	TegroCredentialsStatus status;
	int room = 0;

	if (file_path && file_reload_time == PgReloadTime &&
		strcmp(file_path, credentials_file) == 0)
		return;

	forget_file();
	read_file_bytes(credentials_file);

	reader.bytes = file_bytes;
	reader.len = file_bytes_len - 1;
	while ((status = tegro_credentials_next(&reader, &line)) ==
		   TEGRO_CREDENTIALS_LINE)
	{
		if (file_nlines == room)
		{
			room = room ? room * 2 : 8;
			file_lines = file_lines
				? repalloc(file_lines, room * sizeof(*file_lines))
				: MemoryContextAlloc(TopMemoryContext,
									 room * sizeof(*file_lines));
		}
		file_lines[file_nlines++] = line;
	}
	if (status == TEGRO_CREDENTIALS_HAS_NUL)
		refuse_file(credentials_file, "It contains NUL bytes.",
					"Write it as plain text, a line for each shop.");
	if (status == TEGRO_CREDENTIALS_BAD_LINE)
		refuse_file(credentials_file,
					psprintf("Line %d does not have the form shop_id:role:api_key:secret_key.",
							 reader.line_number),
					"Write \"*\" for any shop or any role, and \"\\:\" for a colon within a field.");

	file_path = MemoryContextStrdup(TopMemoryContext, credentials_file);
	file_reload_time = PgReloadTime;
}

/*
 * Does a line's role fit?  As in pg_hba.conf, a superuser is a member only of
 * what he was made a member of: a line that names a role means that role.
 */
static bool
role_fits(const char *name, Oid role)
{
	Oid line_role;

	if (strcmp(name, "*") == 0)
		return true;
	line_role = get_role_oid(name, true);
	return OidIsValid(line_role) && is_member_of_role_nosuper(role, line_role);
}

/* The first line of the credentials file that fits both; NULL if none does. */
static const TegroCredentialsLine *
find_line(const char *shop, Oid role)
{
	read_file();
	for (int i = 0; i < file_nlines; i++)
	{
		const TegroCredentialsLine *line = &file_lines[i];

		if ((strcmp(line->shop_id, "*") == 0 ||
			 strcmp(line->shop_id, shop) == 0) &&
			role_fits(line->role, role))
			return line;
	}
	return NULL;
}

/* A field without the blanks around it. */
static char *
trim(const char *field)
{
	char *trimmed = pstrdup(field + strspn(field, " \t"));
	size_t len = strlen(trimmed);

	while (len > 0 && (trimmed[len - 1] == ' ' || trimmed[len - 1] == '\t'))
		trimmed[--len] = '\0';
	return trimmed;
}

/*
 * Why no line fits.  Blanks belong to a field, and can't be seen: a line that
 * would fit but for them is worth a word.
 */
static const char *
why_no_line(const char *shop, Oid role)
{
	for (int i = 0; i < file_nlines; i++)
	{
		char *line_shop = trim(file_lines[i].shop_id);

		if ((strcmp(line_shop, "*") == 0 || strcmp(line_shop, shop) == 0) &&
			role_fits(trim(file_lines[i].role), role))
			return "No line of the credentials file fits both; one would but for blanks around its shop or role, which count.";
	}
	return "No line of the credentials file fits both.";
}

TegroCredentials
tegro_settings_credentials(const char *shop, Oid role)
{
	TegroCredentials credentials;

	if (api_key && *api_key)
	{
		credentials.api_key = api_key;
		credentials.secret_key = secret_key ? secret_key : "";
		return credentials;
	}

	if (credentials_file && *credentials_file)
	{
		const TegroCredentialsLine *line = find_line(shop, role);

		if (line)
		{
			credentials.api_key = line->api_key;
			credentials.secret_key = line->secret_key;
			return credentials;
		}
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_MISCONFIGURED),
				 errmsg("no API key for shop \"%s\" and role \"%s\"",
						shop, GetUserNameFromId(role, false)),
				 errdetail_internal("%s", why_no_line(shop, role)),
				 errhint("Add the line shop_id:role:api_key:secret_key to the file that tegro.credentials_file names and reload the configuration, or set tegro.api_key for this session.")));
	}

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("no API key is set"),
			 errhint("Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration, or set tegro.api_key for this session.")));
	pg_unreachable();
}

/*
 * Whether a setting is an administrator's.  A role can set for itself, by ALTER
 * ROLE or with its connection, what it can set in its sessions: that is the
 * session's user's.  What was set in the session is whose role ran the SET: the
 * session's user is the bootstrap superuser where a worker calls back, and
 * whoever calls a function that is SECURITY DEFINER.
 */
static bool
is_administrators(const char *name)
{
	GucSource source = tegro_setting_source(name);

	return source <= PGC_S_DATABASE ||
		superuser_arg(source < PGC_S_INTERACTIVE ? GetSessionUserId()
												 : tegro_setting_role(name));
}

const char *
tegro_settings_secret_key(const char *shop, Oid role, bool trusted)
{
	const char *hint =
		"Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration.";

	if (*shop == '\0')
		refuse_no_shop();
	if (secret_key && *secret_key &&
		(!trusted || is_administrators("tegro.secret_key")))
		return secret_key;

	if (credentials_file && *credentials_file)
	{
		const TegroCredentialsLine *line = find_line(shop, role);

		if (line && *line->secret_key != '\0')
			return line->secret_key;
		hint = line
			? "Write it as the fourth field of the shop's line, shop_id:role:api_key:secret_key, in the file that tegro.credentials_file names, and reload the configuration."
			: "Add the line shop_id:role:api_key:secret_key to the file that tegro.credentials_file names and reload the configuration.";
	}

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("no secret key for shop \"%s\"",
					tegro_error_excerpt(shop, strlen(shop), 64, NULL)),
			 errdetail("The secret key, which is not the API key, signs payment links and notifications."),
			 errhint("%s", hint)));
	pg_unreachable();
}

/*
 * The settings that go with a call when another process makes it.  Their
 * values are valid: they were checked when they were set here.
 */
static const struct
{
	const char *name;
	char **string; /* or */
	int *number;
	bool directs; /* says where a request goes, or who signs it */
} call_settings[] = {
	{"tegro.shop_id", &shop_id, NULL},
	{"tegro.api_key", &api_key, NULL, true},
	{"tegro.secret_key", &secret_key, NULL},
	{"tegro.api_url", &tegro_api_url, NULL, true},
	{"tegro.ca_file", &tegro_ca_file, NULL, true},
	{"tegro.proxy", &tegro_proxy, NULL, true},
	{"tegro.user_agent", &tegro_user_agent, NULL},
	{"tegro.max_answer_size", NULL, &tegro_max_answer_size},
	{"tegro.connect_timeout", NULL, &tegro_connect_timeout},
	{"tegro.timeout", NULL, &tegro_timeout},
	{"tegro.read_retries", NULL, &tegro_read_retries},
};

char *
tegro_settings_export(Size *len)
{
	StringInfoData out;

	/* values in the order of call_settings, a NUL behind each */
	initStringInfo(&out);
	for (int i = 0; i < lengthof(call_settings); i++)
	{
		if (call_settings[i].string)
			appendStringInfoString(&out,
								   *call_settings[i].string
									   ? *call_settings[i].string
									   : "");
		else
			appendStringInfo(&out, "%d", *call_settings[i].number);
		appendStringInfoChar(&out, '\0');
	}
	*len = out.len;
	return out.data;
}

bool
tegro_settings_import(const char *bytes, Size len)
{
	const char *end = bytes + len;
	bool differs = false;

	for (int i = 0; i < lengthof(call_settings) && bytes < end; i++)
	{
		char **string = call_settings[i].string;

		if (call_settings[i].directs &&
			strcmp(*string ? *string : "", bytes) != 0)
			differs = true;
		SetConfigOption(call_settings[i].name, bytes, PGC_SUSET,
						PGC_S_SESSION);
		bytes += strlen(bytes) + 1;
	}
	return differs;
}
