/*-------------------------------------------------------------------------
 *
 * installation.c
 *		Is tegro installed and set up as it should be?
 *
 * Checks of the doctor: library, settings, keys, rights, durability.
 *
 *	- No key is ever quoted: what is asked for of a setting with a key is where
 *	  it stands.
 *	- The checks of the keys are the calls that a request would make, so they
 *	  can't say anything else than it does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/doctor/installation.h"
#include "src/base/settings.h"
#include "src/client/keys.h"
#include "src/client/stats.h"
#include "src/client/transport.h"


/*
 * The library, and what it stands on.
 */

void
tegro_check_library(TegroDoctor *doctor)
{
	const char *objects;
	const char *installed;

	tegro_finding_query(
		"SELECT extversion, (SELECT default_version FROM pg_available_extensions() WHERE name = 'tegro')"
		" FROM pg_extension WHERE extname = 'tegro' AND $1 IS NOT NULL");
	objects = tegro_finding_text(0, 1);
	installed = tegro_finding_text(0, 2);

	if (strcmp(objects, TEGRO_VERSION) != 0)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("The library that this session has loaded is version %s, the extension's objects are version %s.",
								   TEGRO_VERSION, objects),
						  "After an upgrade of the package: restart the server, then ALTER EXTENSION tegro UPDATE in each database.");
	else if (*installed && strcmp(objects, installed) != 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Version %s is in use, version %s is installed on this machine.",
								   objects, installed),
						  "Restart the server, then ALTER EXTENSION tegro UPDATE.");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("Version %s.", objects), NULL);
}

void
tegro_check_libcurl(TegroDoctor *doctor)
{
	bool suits;
	char *library = tegro_transport_library(&suits);

	if (suits)
		tegro_finding_put(doctor, TEGRO_FINDING_OK, psprintf("%s.", library),
						  NULL);
	else
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("%s resolves names synchronously, and no call is made with it: a name lookup could not be cancelled.",
								   library),
						  "Install a libcurl that was built with a threaded resolver or c-ares (Debian's libcurl4 is), and restart the server.");
}


/*
 * Settings.
 */

void
tegro_check_settings(TegroDoctor *doctor)
{
	/* a delivery worker keeps a margin of 2 s: see send_item() */
	if (tegro_claim_timeout <= 2)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("tegro.claim_timeout (%d s) leaves no time to send in: hardly anything of the outbox is sent, and no answer is waited for.",
								   tegro_claim_timeout),
						  psprintf("ALTER SYSTEM SET tegro.claim_timeout = '%ds'; SELECT pg_reload_conf();",
								   Max(60, tegro_timeout / 1000 * 3)));
	else if (tegro_claim_timeout * INT64CONST(1000) <
			 tegro_timeout + INT64CONST(4000))
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("tegro.claim_timeout (%d s) is hardly longer than tegro.timeout (%d ms): an answer that takes longer than %d s is not waited for, and its request is looked up.",
								   tegro_claim_timeout, tegro_timeout,
								   Min(tegro_claim_timeout - 2,
									   tegro_timeout / 1000)),
						  psprintf("ALTER SYSTEM SET tegro.claim_timeout = '%ds'; SELECT pg_reload_conf();",
								   Max(60, tegro_timeout / 1000 * 3)));
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "They are as they were configured.", NULL);
}

/* Settings of roles and databases, and whose they are: ALTER ... */
#define SET_BY                                                                \
	"CASE WHEN setrole = 0 AND setdatabase = 0 THEN 'ROLE ALL'"               \
	" WHEN setrole = 0 THEN format('DATABASE %%I', d.datname)"                \
	" WHEN setdatabase = 0 THEN format('ROLE %%I', pg_get_userbyid(setrole))" \
	" ELSE format('ROLE %%I IN DATABASE %%I', pg_get_userbyid(setrole), d.datname) END"
#define FROM_SETTINGS \
	" FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase"

/* What the configuration files have that is not taken. */
void
tegro_check_configuration(TegroDoctor *doctor)
{
	int n = tegro_finding_query(
		"SELECT name, sourcefile, sourceline, error FROM pg_file_settings"
		" WHERE name ILIKE 'tegro.%%' AND error IS NOT NULL AND $1 IS NOT NULL");

	for (int i = 0; i < n; i++)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("%s, %s line %s: %s.",
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 2),
								   tegro_finding_text(i, 3),
								   tegro_finding_text(i, 4)),
						  "Correct or remove the line, then SELECT pg_reload_conf(). The settings are listed in docs/reference.md.");
	/*
	 * From before the library was preloaded, or from a dump: they have no
	 * effect, and each session of theirs is warned.
	 */
	n = tegro_finding_query(
		"SELECT " SET_BY ", split_part(c, '=', 1)" FROM_SETTINGS
		" CROSS JOIN LATERAL unnest(setconfig) AS c"
		" WHERE c ~* '^tegro\\.' AND $1 IS NOT NULL"
		" AND c !~* '^tegro\\.(shop_id|api_key|secret_key|connect_timeout|timeout|read_retries|max_concurrency)='"
		" ORDER BY 1, 2");
	for (int i = 0; i < n; i++)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("ALTER %s has set %s, which counts only in the configuration file: it has no effect.",
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 2)),
						  psprintf("ALTER %s RESET ALL; it resets its other settings as well: note them first, in pg_db_role_setting.",
								   tegro_finding_text(i, 1)));
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "All lines of the configuration files that begin with tegro. are in force.",
						  NULL);
}

static void
match_nothing(void *pattern)
{
	(void) DirectFunctionCall2Coll(textregexeq, DEFAULT_COLLATION_OID,
								   CStringGetTextDatum(""),
								   CStringGetTextDatum((char *) pattern));
}

void
tegro_check_patterns(TegroDoctor *doctor)
{
	const struct
	{
		const char *name;
		char *value;
	} patterns[] = {{"tegro.not_found_pattern", tegro_not_found_pattern},
					{"tegro.retryable_pattern", tegro_retryable_pattern},
					{"tegro.duplicate_pattern", tegro_duplicate_pattern}};

	for (int i = 0; i < lengthof(patterns); i++)
	{
		ErrorData *error = tegro_error_catch(match_nothing, patterns[i].value,
											 CurrentMemoryContext);

		if (error)
			tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
							  psprintf("%s: %s. What it is to recognize is not recognized.",
									   patterns[i].name, error->message),
							  psprintf("ALTER SYSTEM RESET %s; SELECT pg_reload_conf(); or correct it.",
									   patterns[i].name));
	}
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "The patterns of the provider's words are regular expressions.",
						  NULL);
}


/*
 * Keys.
 */

/* The shop and its key, found as a call finds them; throws TG006. */
void
tegro_check_credentials(TegroDoctor *doctor)
{
	const char *shop = tegro_settings_shop_id();
	const char *file = GetConfigOption("tegro.credentials_file", true, false);

	(void) tegro_keys_find(shop, GetUserId());
	doctor->has_key = true;
	if (tegro_setting_source("tegro.api_key") == PGC_S_DEFAULT)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("The credentials file has a key for shop \"%s\" and role \"%s\".",
								   shop,
								   GetUserNameFromId(GetUserId(), false)),
						  NULL);
	else if (!tegro_keys_is_servers("tegro.api_key") &&
			 (file == NULL || *file == '\0'))
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "The key is this session's own. The worker, which delivers the outbox, does not have it.",
						  "Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration.");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("tegro.api_key is set, for shop \"%s\".",
								   shop),
						  NULL);
}

/* The same for the key of links and notifications; throws TG006. */
void
tegro_check_secret_key(TegroDoctor *doctor)
{
	if (!doctor->has_key)
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "See the check \"credentials\".", NULL);
		return;
	}
	(void) tegro_keys_secret(tegro_settings_shop_id(), GetUserId(), false);
	tegro_finding_put(doctor, TEGRO_FINDING_OK,
					  "There is one, for payment links and notifications.",
					  NULL);
}

void
tegro_check_credentials_place(TegroDoctor *doctor)
{
	const char *file = GetConfigOption("tegro.credentials_file", true, false);

	if (file == NULL || *file == '\0')
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "tegro.credentials_file is not set.", NULL);
	else if (!is_absolute_path(file) || path_is_prefix_of_path(DataDir, file))
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "The credentials file lies in the data directory: base backups and copies of it carry the keys along.",
						  "Move it elsewhere, /etc/postgresql for example, set tegro.credentials_file to that, and reload the configuration.");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "The credentials file lies outside the data directory.",
						  NULL);
}

#define MOVE_KEY \
	" Put the keys into the file that tegro.credentials_file names. Get new ones from Tegro, for these may have been read."

void
tegro_check_keys_in_configuration(TegroDoctor *doctor)
{
	int n;

	/* what needs no rights: where this session's come from */
	if (!superuser() &&
		(tegro_setting_source("tegro.api_key") == PGC_S_FILE ||
		 tegro_setting_source("tegro.secret_key") == PGC_S_FILE))
	{
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "A key stands in a configuration file. pg_file_settings shows it, and copies of the file carry it along.",
						  "As a superuser, call tegro_doctor() to see where." MOVE_KEY);
		return;
	}
	n = tegro_finding_query(
		"SELECT name, sourcefile, sourceline FROM pg_file_settings"
		" WHERE name ~* '^tegro\\.(api|secret)_key$' AND setting <> '' AND $1 IS NOT NULL");
	for (int i = 0; i < n; i++)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("%s stands in %s, line %s. pg_file_settings shows it, and copies of the file carry it along.",
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 2),
								   tegro_finding_text(i, 3)),
						  psprintf("%s; SELECT pg_reload_conf();%s",
								   strstr(tegro_finding_text(i, 2),
										  "postgresql.auto.conf")
									   ? psprintf("ALTER SYSTEM RESET %s",
												  tegro_finding_text(i, 1))
									   : "Remove the line",
								   MOVE_KEY));
	if (n == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "No key stands in the configuration files.", NULL);
}

/*
 * What ALTER ROLE, ALTER DATABASE and ALTER FUNCTION ... SET have kept from a
 * time when the library was not loaded.
 */
void
tegro_check_keys_in_catalogs(TegroDoctor *doctor)
{
	/* every role may read these, and so may we */
	int n = tegro_finding_query(
		"SELECT what, split_part(c, '=', 1), catalog FROM ("
		" SELECT " SET_BY
		" AS what, 'pg_db_role_setting' AS catalog, setconfig AS config" FROM_SETTINGS
		" UNION ALL SELECT 'ROUTINE ' || oid::regprocedure::text, 'pg_proc', proconfig"
		" FROM pg_proc WHERE proconfig IS NOT NULL) AS s CROSS JOIN LATERAL unnest(config) AS c"
		" WHERE c ~* '^tegro\\.(api|secret)_key=.' AND $1 IS NOT NULL ORDER BY 1, 2");

	for (int i = 0; i < n; i++)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("%s is set by ALTER %s. Every role can read it in %s, and dumps have it.",
								   tegro_finding_text(i, 2),
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 3)),
						  psprintf("ALTER %s RESET %s;" MOVE_KEY,
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 2)));
	if (n == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "No key is set by ALTER ROLE, ALTER DATABASE or ALTER FUNCTION.",
						  NULL);
}

/* A key that was given to this session: where may it be read by now? */
void
tegro_check_keys_of_session(TegroDoctor *doctor)
{
	static const char *const names[] = {"tegro.api_key", "tegro.secret_key"};
	const char *log_statement = GetConfigOption("log_statement", true, false);
	const char *log_min_duration =
		GetConfigOption("log_min_duration_statement", true, false);
	bool is_logged = (log_statement && strcmp(log_statement, "all") == 0) ||
		(log_min_duration && strcmp(log_min_duration, "-1") != 0);

	for (int i = 0; i < lengthof(names); i++)
	{
		GucSource source = tegro_setting_source(names[i]);

		if (source == PGC_S_CLIENT)
			tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
							  psprintf("%s came with the connection (PGOPTIONS or \"options\"), where the client's environment, command line or service file shows it.",
									   names[i]),
							  "Put the keys into the file that tegro.credentials_file names.");
		else if (source == PGC_S_SESSION)
			tegro_finding_put(doctor,
							  is_logged ? TEGRO_FINDING_ERROR
										: TEGRO_FINDING_WARNING,
							  is_logged
								  ? psprintf("%s was set by a statement, and the server logs statements (log_statement is %s, log_min_duration_statement is %s): the key may stand in the log.",
											 names[i], log_statement,
											 log_min_duration)
								  : psprintf("%s was set by a statement. It is logged as soon as log_statement is \"all\", and pg_stat_statements may have kept it.",
											 names[i]),
							  psprintf("RESET %s;" MOVE_KEY, names[i]));
	}
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "No key was given to this session.", NULL);
}


/*
 * Rights and durability.
 */

/* All that the catalogs tell: several checks, which are a query. */
void
tegro_check_rights(TegroDoctor *doctor)
{
	int n =
		tegro_finding_query("SELECT \"check\", status, detail, hint FROM %s.tegro_doctor_rights()"
							" WHERE $1 IS NOT NULL",
							doctor->schema);

	tegro_finding_put_rows(doctor, n);
}

void
tegro_check_durability(TegroDoctor *doctor)
{
	const char *names = GetConfigOption("synchronous_standby_names", true,
										false);

	if (!enableFsync)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  "fsync is off: after a crash of the machine, nobody knows what was sent, and payouts can be sent twice.",
						  "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();");
	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "synchronous_commit is off: a crash can lose requests that were just enqueued, with the transactions that enqueued them. What was sent is on record all the same.",
						  "SET LOCAL synchronous_commit = on in transactions that enqueue, or ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();");
	if (names && *names && !RecoveryInProgress())
	{
		if (!tegro_finding_sees_all_sessions())
			tegro_finding_put_named(doctor, "synchronous standby",
									TEGRO_FINDING_SKIPPED,
									"It needs the rights of pg_monitor or a superuser.",
									NULL);
		else if (
			tegro_finding_query(
				"SELECT 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND $1 IS NOT NULL") >
			0)
			tegro_finding_put_named(doctor, "synchronous standby",
									TEGRO_FINDING_OK,
									"One is connected; claims wait for it.",
									NULL);
		else
			tegro_finding_put_named(doctor, "synchronous standby",
									TEGRO_FINDING_ERROR,
									psprintf("synchronous_standby_names is %s, and none is connected: commits wait, and nothing is sent.",
											 names),
									"Bring the standby back, or name another: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();");
	}
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "What is committed is on disk.", NULL);
}
