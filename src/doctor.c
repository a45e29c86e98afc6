/*-------------------------------------------------------------------------
 *
 * doctor.c
 *		What is wrong with an installation, and how to mend it.
 *
 * tegro_doctor() is a list of checks.  Each puts a row, or a few: what it
 * looked at, how that is (ok, warning, error, skipped), what it saw, and the
 * command that mends it.
 *
 *	- A check can fail as any code can: a table is locked, a right is missing,
 *	  a file is gone.  So each runs in a subtransaction, and its error is a
 *	  row.  An error of class TG is a finding: the checks of the keys are the
 *	  calls that a request would make.
 *	- All is seen with the caller's rights, and nothing with others'.  What
 *	  they don't reach is "skipped", with the right that is missing.
 *	- Nothing is changed, no worker is started, nothing is delivered.  One
 *	  request is sent, which reads, and only if the caller may call a function
 *	  that sends it.
 *	- It takes no longer than tegro.timeout: the checks of tables have the
 *	  first half, each a second at most, and the request has what is left.
 *	- No key is ever quoted: what is asked for of a setting with a key is where
 *	  it stands.
 *
 * "error" is what keeps something from working, or keys from being secret;
 * "warning" what will, or what a person should look at.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "src/api.h"
#include "src/argument.h"
#include "src/compat.h"
#include "src/identity.h"
#include "src/settings.h"
#include "src/stats.h"
#include "src/wake.h"

PG_FUNCTION_INFO_V1(tegro_doctor);

/* The longest that one check of tables may take. */
#define CHECK_MS 1000

/* Clocks that differ by more are worth a word: certificates, nonces. */
#define MAX_SKEW_S 30

/* What is due for longer than this is late. */
#define LATE_S 60

/* A worker that is started needs less than this to begin. */
#define START_S 10

/* Rows that are counted; more are "more than". */
#define MAX_COUNTED 10000

/* An outbox of this size should have a retention. */
#define MANY_ROWS 10e6

typedef enum Finding
{
	FINDING_OK,
	FINDING_WARNING,
	FINDING_ERROR,
	FINDING_SKIPPED
} Finding;

static const char *const status_names[] = {
	[FINDING_OK] = "ok",
	[FINDING_WARNING] = "warning",
	[FINDING_ERROR] = "error",
	[FINDING_SKIPPED] = "skipped",
};

typedef struct Doctor
{
	ReturnSetInfo *rsinfo;
	Oid namespace;		/* the extension's */
	const char *schema; /* ... quoted */
	const char *check;	/* the current one's name */
	int nrows;			/* that it has put */
	int64 begun_us;
	bool has_key; /* for tegro.shop_id and the current role */
	bool settings_are_right;
} Doctor;

/* Set when a check has taken too long, and was cancelled for that. */
static volatile sig_atomic_t took_too_long = false;


/*
 * Rows.
 */

static void
put_named(Doctor *doctor, const char *check, Finding status,
		  const char *detail, const char *hint)
{
	Datum values[4] = {CStringGetTextDatum(check),
					   CStringGetTextDatum(status_names[status]),
					   CStringGetTextDatum(detail),
					   hint ? CStringGetTextDatum(hint) : (Datum) 0};
	bool nulls[4] = {false, false, false, hint == NULL};

	tuplestore_putvalues(doctor->rsinfo->setResult, doctor->rsinfo->setDesc,
						 values, nulls);
	doctor->nrows++;
}

static void
put(Doctor *doctor, Finding status, const char *detail, const char *hint)
{
	put_named(doctor, doctor->check, status, detail, hint);
}

/*
 * Runs a query; in it $1 is the time now.  ("now()" is when the statement
 * began, and an index is not searched for clock_timestamp().)  Returns the
 * number of rows.
 */
static int pg_attribute_printf(1, 2) query(const char *format, ...)
{
	Oid types[1] = {TIMESTAMPTZOID};
	Datum values[1] = {TimestampTzGetDatum(GetCurrentTimestamp())};
	StringInfoData sql;

	initStringInfo(&sql);
	for (;;)
	{
		va_list args;
		int needed;

		va_start(args, format);
		needed = appendStringInfoVA(&sql, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&sql, needed);
	}
	if (SPI_execute_with_args(sql.data, 1, types, values, NULL, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\"", sql.data);
	return (int) SPI_processed;
}

/* A column, from 1, as text; "" for null. */
static const char *
text_of(int row, int column)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
							   column);

	return value ? value : "";
}

static int64
int_of(int row, int column)
{
	return strtoi64(text_of(row, column), NULL, 10);
}

/* Whose rows the caller's queries of the outbox see, where not all. */
static const char *
whose(Doctor *doctor)
{
	Oid table = get_relname_relid("tegro_outbox", doctor->namespace);

	return check_enable_rls(table, InvalidOid, true) == RLS_ENABLED
		? psprintf(" (of the requests that role \"%s\" may see)",
				   GetUserNameFromId(GetUserId(), false))
		: "";
}

static bool
sees_all_sessions(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}


/*
 * The library, and what it stands on.
 */

static void
check_library(Doctor *doctor)
{
	const char *objects;
	const char *installed;

	query(
		"SELECT extversion, (SELECT default_version FROM pg_available_extensions() WHERE name = 'tegro')"
		" FROM pg_extension WHERE extname = 'tegro' AND $1 IS NOT NULL");
	objects = text_of(0, 1);
	installed = text_of(0, 2);

	if (strcmp(objects, TEGRO_VERSION) != 0)
		put(doctor, FINDING_ERROR,
			psprintf("The library that this session has loaded is version %s, the extension's objects are version %s.",
					 TEGRO_VERSION, objects),
			psprintf("After an upgrade of the package: %s, then ALTER EXTENSION tegro UPDATE in each database.",
					 tegro_is_preloaded ? "restart the server"
										: "connect again"));
	else if (*installed && strcmp(objects, installed) != 0)
		put(doctor, FINDING_WARNING,
			psprintf("Version %s is in use, version %s is installed on this machine.",
					 objects, installed),
			psprintf("%s, then ALTER EXTENSION tegro UPDATE.",
					 tegro_is_preloaded ? "Restart the server"
										: "Connect again"));
	else
		put(doctor, FINDING_OK, psprintf("Version %s.", objects), NULL);
}

static void
check_libcurl(Doctor *doctor)
{
	bool suits;
	char *library = tegro_transport_library(&suits);

	if (suits)
		put(doctor, FINDING_OK, psprintf("%s.", library), NULL);
	else
		put(doctor, FINDING_ERROR,
			psprintf("%s resolves names synchronously, and no call is made with it: a name look-up could not be cancelled.",
					 library),
			"Install a libcurl that was built with a threaded resolver or c-ares (Debian's libcurl4 is), and connect again.");
}

static void
check_preload(Doctor *doctor)
{
	if (tegro_is_preloaded)
		put(doctor, FINDING_OK,
			"The library was loaded at the server's start.", NULL);
	else
		put(doctor, FINDING_WARNING,
			"The library is not preloaded. After a restart of the server, what waits in the outbox waits until the next request is enqueued, and sessions can be given wrong settings before they load it.",
			"Add tegro to shared_preload_libraries in postgresql.conf, and restart the server.");
}

static void
check_statistics(Doctor *doctor)
{
	if (tegro_stats_are_shared())
		put(doctor, FINDING_OK,
			psprintf("tegro_stat counts for the whole server, since %s.",
					 timestamptz_to_str(tegro_stats_since())),
			NULL);
	else
		put(doctor, FINDING_WARNING,
			"There is no shared memory left for counters: tegro_stat shows this session's own.",
			"Add tegro to shared_preload_libraries in postgresql.conf, and restart the server.");
}


/*
 * Settings.
 */

static void
check_settings(Doctor *doctor)
{
	tegro_settings_check();
	doctor->settings_are_right = true;

	if (tegro_lease * INT64CONST(1000) < tegro_timeout + INT64CONST(4000))
		put(doctor, FINDING_WARNING,
			psprintf("tegro.lease (%d s) is hardly longer than tegro.timeout (%d ms): requests lose their lease while their answers are still waited for, and are looked up.",
					 tegro_lease, tegro_timeout),
			psprintf("ALTER SYSTEM SET tegro.lease = '%ds'; SELECT pg_reload_conf();",
					 Max(60, tegro_timeout / 1000 * 3)));
	if (tegro_withdrawal_unknown == TEGRO_RESEND)
		put(doctor, FINDING_WARNING,
			psprintf("tegro.withdrawal_unknown is \"resend\": a payout that the provider does not show within %d s is paid again, if it was slow.",
					 tegro_settle_time),
			"ALTER SYSTEM SET tegro.withdrawal_unknown = 'review'; SELECT pg_reload_conf();");
	if (doctor->nrows == 0)
		put(doctor, FINDING_OK, "They are as they were configured.", NULL);
}

/* What the configuration files have that is not taken. */
static void
check_configuration(Doctor *doctor)
{
	int n = query(
		"SELECT name, sourcefile, sourceline, error FROM pg_file_settings"
		" WHERE name ILIKE 'tegro.%%' AND error IS NOT NULL AND $1 IS NOT NULL");

	for (int i = 0; i < n; i++)
		put(doctor, FINDING_ERROR,
			psprintf("%s, %s line %s: %s.", text_of(i, 1), text_of(i, 2),
					 text_of(i, 3), text_of(i, 4)),
			"Correct or remove the line, then SELECT pg_reload_conf(). The settings are listed in docs/reference.md.");
	if (n == 0)
		put(doctor, FINDING_OK,
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

static void
check_patterns(Doctor *doctor)
{
	const struct
	{
		const char *name;
		char *value;
	} patterns[] = {{"tegro.not_found", tegro_not_found},
					{"tegro.repeatable", tegro_repeatable},
					{"tegro.duplicate", tegro_duplicate}};

	for (int i = 0; i < lengthof(patterns); i++)
	{
		ErrorData *error = tegro_error_catch(match_nothing, patterns[i].value,
											 CurrentMemoryContext);

		if (error)
			put(doctor, FINDING_ERROR,
				psprintf("%s: %s. What it is to recognize is not recognized.",
						 patterns[i].name, error->message),
				psprintf("ALTER SYSTEM RESET %s; SELECT pg_reload_conf(); or correct it.",
						 patterns[i].name));
	}
	if (doctor->nrows == 0)
		put(doctor, FINDING_OK,
			"The patterns of the provider's words are regular expressions.",
			NULL);
}


/*
 * Keys.
 */

/* The shop and its key, found as a call finds them; throws TG006. */
static void
check_credentials(Doctor *doctor)
{
	const char *shop = tegro_settings_shop_id();
	GucSource source = tegro_setting_source("tegro.api_key");
	const char *file = GetConfigOption("tegro.credentials_file", true, false);

	(void) tegro_settings_credentials(shop, GetUserId());
	doctor->has_key = true;
	if (source == PGC_S_DEFAULT)
		put(doctor, FINDING_OK,
			psprintf("The credentials file has a key for shop \"%s\" and role \"%s\".",
					 shop, GetUserNameFromId(GetUserId(), false)),
			NULL);
	else if (source > PGC_S_DATABASE && (file == NULL || *file == '\0'))
		put(doctor, FINDING_WARNING,
			"The key is this session's own. The worker, which delivers the outbox, does not have it.",
			"Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration.");
	else
		put(doctor, FINDING_OK,
			psprintf("tegro.api_key is set, for shop \"%s\".", shop), NULL);
}

/* The same for the key of links and notifications; throws TG006. */
static void
check_secret_key(Doctor *doctor)
{
	if (!doctor->has_key)
	{
		put(doctor, FINDING_SKIPPED, "See the check \"credentials\".", NULL);
		return;
	}
	(void) tegro_settings_secret_key(tegro_settings_shop_id(), GetUserId(),
									 false);
	put(doctor, FINDING_OK,
		"There is one, for payment links and notifications.", NULL);
}

static void
check_credentials_place(Doctor *doctor)
{
	const char *file = GetConfigOption("tegro.credentials_file", true, false);

	if (file == NULL || *file == '\0')
		put(doctor, FINDING_SKIPPED, "tegro.credentials_file is not set.",
			NULL);
	else if (!is_absolute_path(file) || path_is_prefix_of_path(DataDir, file))
		put(doctor, FINDING_WARNING,
			"The credentials file lies in the data directory: base backups and copies of it carry the keys along.",
			"Move it elsewhere, /etc/postgresql for example, set tegro.credentials_file to that, and reload the configuration.");
	else
		put(doctor, FINDING_OK,
			"The credentials file lies outside the data directory.", NULL);
}

#define MOVE_KEY \
	" Put the keys into the file that tegro.credentials_file names. Get new ones from Tegro, for these may have been read."

static void
check_keys_in_configuration(Doctor *doctor)
{
	int n;

	/* what needs no rights: where this session's come from */
	if (!superuser() &&
		(tegro_setting_source("tegro.api_key") == PGC_S_FILE ||
		 tegro_setting_source("tegro.secret_key") == PGC_S_FILE))
	{
		put(doctor, FINDING_ERROR,
			"A key stands in postgresql.conf. Every role can SHOW it in a session that has not loaded the library.",
			"As a superuser, call tegro_doctor() to see where." MOVE_KEY);
		return;
	}
	n = query(
		"SELECT name, sourcefile, sourceline FROM pg_file_settings"
		" WHERE name ~* '^tegro\\.(api|secret)_key$' AND setting <> '' AND $1 IS NOT NULL");
	for (int i = 0; i < n; i++)
		put(doctor, FINDING_ERROR,
			psprintf("%s stands in %s, line %s. Every role can SHOW it in a session that has not loaded the library.",
					 text_of(i, 1), text_of(i, 2), text_of(i, 3)),
			psprintf("%s; SELECT pg_reload_conf();%s",
					 strstr(text_of(i, 2), "postgresql.auto.conf")
						 ? psprintf("ALTER SYSTEM RESET %s", text_of(i, 1))
						 : "Remove the line",
					 MOVE_KEY));
	if (n == 0)
		put(doctor, FINDING_OK, "No key stands in the configuration files.",
			NULL);
}

/* What ALTER ROLE, ALTER DATABASE and ALTER FUNCTION ... SET have kept. */
static void
check_keys_in_catalogs(Doctor *doctor)
{
	/* every role may read these, and so may we */
	int n = query(
		"SELECT what, rest, split_part(c, '=', 1), catalog FROM ("
		" SELECT CASE WHEN setrole = 0 AND setdatabase = 0 THEN 'ROLE ALL'"
		" WHEN setrole = 0 THEN format('DATABASE %%I', d.datname)"
		" ELSE format('ROLE %%I', pg_get_userbyid(setrole)) END AS what,"
		" CASE WHEN setrole <> 0 AND setdatabase <> 0 THEN format(' IN DATABASE %%I', d.datname) ELSE '' END AS rest,"
		" 'pg_db_role_setting' AS catalog, setconfig AS config"
		" FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase"
		" UNION ALL SELECT 'ROUTINE ' || oid::regprocedure::text, '', 'pg_proc', proconfig"
		" FROM pg_proc WHERE proconfig IS NOT NULL) AS s CROSS JOIN LATERAL unnest(config) AS c"
		" WHERE c ~* '^tegro\\.(api|secret)_key=.' AND $1 IS NOT NULL ORDER BY 1, 2, 3");

	for (int i = 0; i < n; i++)
		put(doctor, FINDING_ERROR,
			psprintf("%s is set by ALTER %s%s. Every role can read it in %s, and dumps have it.",
					 text_of(i, 3), text_of(i, 1), text_of(i, 2),
					 text_of(i, 4)),
			psprintf("ALTER %s%s RESET %s;" MOVE_KEY, text_of(i, 1),
					 text_of(i, 2), text_of(i, 3)));
	if (n == 0)
		put(doctor, FINDING_OK,
			"No key is set by ALTER ROLE, ALTER DATABASE or ALTER FUNCTION.",
			NULL);
}

/* A key that was given to this session: where may it be read by now? */
static void
check_keys_of_session(Doctor *doctor)
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
			put(doctor, FINDING_WARNING,
				psprintf("%s came with the connection (PGOPTIONS or \"options\"), where the client's environment, command line or service file shows it.",
						 names[i]),
				"Put the keys into the file that tegro.credentials_file names.");
		else if (source == PGC_S_SESSION)
			put(doctor, is_logged ? FINDING_ERROR : FINDING_WARNING,
				is_logged
					? psprintf("%s was set by a statement, and the server logs statements (log_statement is %s, log_min_duration_statement is %s): the key may stand in the log.",
							   names[i], log_statement, log_min_duration)
					: psprintf("%s was set by a statement. It is logged as soon as log_statement is \"all\", and pg_stat_statements may have kept it.",
							   names[i]),
				psprintf("RESET %s;" MOVE_KEY, names[i]));
	}
	if (doctor->nrows == 0)
		put(doctor, FINDING_OK, "No key was given to this session.", NULL);
}


/*
 * Delivery.
 */

static void
check_delivery(Doctor *doctor)
{
	if (RecoveryInProgress())
		put(doctor, FINDING_OK,
			"This is a standby: it delivers nothing until it is promoted. Calls that read work.",
			NULL);
	else if (!tegro_delivery)
		put(doctor, FINDING_WARNING,
			"tegro.delivery is off: nothing is sent from the outbox.",
			"If this is not a copy of another database: ALTER SYSTEM SET tegro.delivery = on; SELECT pg_reload_conf();");
	else
		put(doctor, FINDING_OK, "tegro.delivery is on.", NULL);
}

static void
check_identity(Doctor *doctor)
{
	const char *own;
	bool stranger = false;
	bool known;
	int n;

	if (RecoveryInProgress())
	{
		put(doctor, FINDING_SKIPPED, "A standby has its primary's identity.",
			NULL);
		return;
	}
	own = tegro_identity_current();
	n = query("SELECT identity FROM %s.tegro_identity WHERE $1 IS NOT NULL",
			  doctor->schema);
	known = n > 0;
	if (!known)
		n = query("SELECT DISTINCT identity FROM %s.tegro_outbox WHERE identity <> %s AND $1 IS NOT NULL",
				  doctor->schema, quote_literal_cstr(own));
	for (int i = 0; i < n; i++)
		stranger |= tegro_identity_compare(text_of(i, 1), own) ==
			TEGRO_STRANGER;

	if (stranger)
		put(doctor, FINDING_ERROR,
			psprintf("The outbox belongs to another database (%s) than this one (%s): this is a copy, and a copy must not pay. Nothing is sent.",
					 text_of(0, 1), own),
			"If this database is to deliver instead of the other, and only then: SELECT tegro_arm('why'); orders from before are looked up, payouts go to review.");
	else if (known && strcmp(text_of(0, 1), own) != 0)
		put(doctor, FINDING_OK,
			"This database follows another after a failover or restore; the first delivery notes it, and what was enqueued before is looked up first.",
			NULL);
	else
		put(doctor, FINDING_OK,
			known
				? "The outbox belongs to this database."
				: "Nothing was delivered yet; the first delivery makes the outbox this database's.",
			NULL);
}

static void
check_backlog(Doctor *doctor)
{
	bool running = tegro_wake_is_running(TEGRO_DELIVERY_WORKER);
	bool could_run = tegro_delivery && !RecoveryInProgress();
	int64 due;
	int64 late_s;
	char *count;

	/* this can be said to everyone */
	if (running)
		put_named(doctor, "worker", FINDING_OK,
				  "The delivery worker of this database runs.", NULL);
	query("SELECT count(*), coalesce(extract(epoch FROM $1 - min(next_at)), 0)::int8,"
		  " (SELECT min(next_at) FROM %1$s.tegro_outbox WHERE next_at > $1)::timestamptz(0)"
		  " FROM (SELECT next_at FROM %1$s.tegro_outbox WHERE next_at <= $1"
		  " AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at LIMIT %2$d) AS due",
		  doctor->schema, MAX_COUNTED + 1);
	due = int_of(0, 1);
	late_s = int_of(0, 2);
	count = due > MAX_COUNTED ? psprintf("more than %d", MAX_COUNTED)
							  : psprintf(INT64_FORMAT, due);

	if (!running && (due == 0 || !could_run || late_s < START_S))
		put_named(doctor, "worker", FINDING_OK,
				  "No delivery worker runs; a commit that enqueues starts one.",
				  NULL);
	else if (!running)
		put_named(doctor, "worker", FINDING_ERROR,
				  "No delivery worker runs, and requests are due.",
				  tegro_is_preloaded
					  ? "CALL tegro_deliver(); delivers them, or says why not. See the check \"worker slots\", and the server's log for why the worker ended."
					  : "CALL tegro_deliver(); delivers them, or says why not. The next request that is enqueued starts the worker, too; with tegro in shared_preload_libraries it starts with the server.");

	if (due == 0)
		put(doctor, FINDING_OK,
			*text_of(0, 3) ? psprintf("Nothing is due%s; the next is at %s.",
									  whose(doctor), text_of(0, 3))
						   : psprintf("Nothing waits%s.", whose(doctor)),
			NULL);
	else if (late_s < LATE_S)
		put(doctor, FINDING_OK,
			psprintf("Requests that are due%s: %s, the first for " INT64_FORMAT
					 " s.",
					 whose(doctor), count, late_s),
			NULL);
	else
		put(doctor, could_run && !running ? FINDING_ERROR : FINDING_WARNING,
			psprintf("Requests that are due%s: %s, the first for " INT64_FORMAT
					 " s.",
					 whose(doctor), count, late_s),
			running && could_run
				? "See the rate and the time left in tegro_outbox_summary. The log says if a shop pauses (\"tegro delivery pauses\"); tegro.max_concurrency and tegro.rate_limit are the limits."
				: "See the checks \"delivery\", \"identity\" and \"worker\".");
}

static void
check_worker_slots(Doctor *doctor)
{
	int64 used;

	if (!sees_all_sessions())
	{
		put(doctor, FINDING_SKIPPED,
			"It needs the rights of pg_monitor or a superuser.", NULL);
		return;
	}
	/* all but what is not a background worker */
	query(
		"SELECT count(*) FROM pg_stat_activity WHERE $1 IS NOT NULL AND backend_type NOT IN"
		" ('client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer',"
		" 'checkpointer', 'walwriter', 'startup', 'walreceiver', 'walsender', 'archiver',"
		" 'standalone backend', 'slotsync worker', 'walsummarizer', 'io worker')");
	used = int_of(0, 1);
	if (used < max_worker_processes)
		put(doctor, FINDING_OK,
			psprintf(INT64_FORMAT
					 " of %d background workers (max_worker_processes) run.",
					 used, max_worker_processes),
			NULL);
	else
		put(doctor,
			tegro_wake_is_running(TEGRO_DELIVERY_WORKER) ? FINDING_WARNING
														 : FINDING_ERROR,
			psprintf("All %d background workers (max_worker_processes) are taken: no delivery worker can be started.",
					 max_worker_processes),
			psprintf("ALTER SYSTEM SET max_worker_processes = %d; and restart the server. Until then: CALL tegro_deliver();",
					 max_worker_processes + 8));
}

/* What waits for a person, and callbacks that were given up. */
static void
check_review(Doctor *doctor)
{
	query("SELECT count(*) FILTER (WHERE state = 'review'),"
		  " string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE state = 'review' AND n <= 5),"
		  " date_trunc('second', $1 - min(enqueued_at) FILTER (WHERE state = 'review')),"
		  " min(id) FILTER (WHERE state = 'review'),"
		  " count(*) FILTER (WHERE callback_state = 'failed'),"
		  " min(id) FILTER (WHERE callback_state = 'failed'),"
		  " (array_agg(callback_message ORDER BY id) FILTER (WHERE callback_state = 'failed'))[1]"
		  " FROM (SELECT *, row_number() OVER (PARTITION BY state ORDER BY id) AS n FROM %s.tegro_outbox"
		  " WHERE state = 'review' OR callback_state = 'failed') AS o",
		  doctor->schema);
	if (int_of(0, 1) > 0)
		put(doctor, FINDING_WARNING,
			psprintf("Requests in review%s: %s (%s%s), the oldest for %s. They may have been paid, and nothing goes on with them by itself.",
					 whose(doctor), text_of(0, 1), text_of(0, 2),
					 int_of(0, 1) > 5 ? ", ..." : "", text_of(0, 3)),
			psprintf("SELECT id, reference, message FROM tegro_outbox WHERE state = 'review'; find each with Tegro, then SELECT tegro_resolve(%s, 'done', 'how you know'), or 'failed', or 'resend'.",
					 text_of(0, 4)));
	else
		put(doctor, FINDING_OK,
			psprintf("Nothing waits for a decision%s.", whose(doctor)), NULL);
	if (int_of(0, 5) > 0)
		put_named(doctor, "callbacks", FINDING_ERROR,
				  psprintf("Callbacks that were given up%s: %s. Request %s: %s.",
						   whose(doctor), text_of(0, 5), text_of(0, 6),
						   text_of(0, 7)),
				  psprintf("Mend the function, then SELECT tegro_retry(%s). All of them: WHERE callback_state = 'failed'.",
						   text_of(0, 6)));
}

static void
check_callbacks(Doctor *doctor)
{
	query("SELECT count(*), min(id), (array_agg(callback_message ORDER BY id))[1]"
		  " FROM %s.tegro_outbox WHERE callback_at IS NOT NULL AND callback_message IS NOT NULL AND $1 IS NOT NULL",
		  doctor->schema);
	if (int_of(0, 1) > 0)
		put(doctor, FINDING_WARNING,
			psprintf("Callbacks that failed, and are called again%s: %s. Request %s: %s.",
					 whose(doctor), text_of(0, 1), text_of(0, 2),
					 text_of(0, 3)),
			psprintf("Mend the function; it is called again by itself, or at once after SELECT tegro_retry(%s).",
					 text_of(0, 2)));
	else
		put(doctor, FINDING_OK, psprintf("None is repeated%s.", whose(doctor)),
			NULL);
}

static void
check_failing(Doctor *doctor)
{
	query("SELECT count(*), min(id), date_trunc('second', $1 - min(enqueued_at)),"
		  " (array_agg(message ORDER BY id))[1] FROM %s.tegro_outbox"
		  " WHERE next_at IS NOT NULL AND failures > 0 AND enqueued_at < $1 - interval '10 min'",
		  doctor->schema);
	if (int_of(0, 1) > 0)
		put(doctor, FINDING_WARNING,
			psprintf("Requests older than ten minutes that come to nothing time and again%s: %s, the oldest for %s. Request %s: %s.",
					 whose(doctor), text_of(0, 1), text_of(0, 3),
					 text_of(0, 2),
					 *text_of(0, 4) ? text_of(0, 4)
									: "no reason is on record"),
			psprintf("Mend what the message says, then SELECT tegro_retry(%s), or wait: they are tried again by themselves.",
					 text_of(0, 2)));
	else
		put(doctor, FINDING_OK,
			psprintf("None fails for long%s.", whose(doctor)), NULL);
}

static void
check_notifications(Doctor *doctor)
{
	query("SELECT count(*) FILTER (WHERE state = 'waiting' AND waiting_since < $1 - interval '10 min'),"
		  " count(*) FILTER (WHERE state = 'review'), count(*) FILTER (WHERE callback_state = 'failed'),"
		  " min(id), (array_agg(coalesce(callback_message, message) ORDER BY id))[1]"
		  " FROM %s.tegro_notification WHERE state = 'review' OR callback_state = 'failed'"
		  " OR (state = 'waiting' AND waiting_since < $1 - interval '10 min')",
		  doctor->schema);
	if (int_of(0, 4) > 0)
		put(doctor, FINDING_WARNING,
			psprintf("Notifications that wait for more than ten minutes: %s; in review: %s; whose callback was given up: %s. Notification %s: %s.",
					 text_of(0, 1), text_of(0, 2), text_of(0, 3),
					 text_of(0, 4),
					 *text_of(0, 5) ? text_of(0, 5)
									: "no reason is on record"),
			psprintf("SELECT id, order_id, state, message FROM tegro_notification WHERE state IN ('waiting', 'review'); then SELECT tegro_retry_notification(%s).",
					 text_of(0, 4)));
	else
		put(doctor, FINDING_OK, "None waits for long.", NULL);
}


/*
 * Rights, durability, size.
 */

static void
check_rights(Doctor *doctor)
{
	StringInfoData open;
	StringInfoData revoke;
	int n = query(
		"WITH o AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
		" WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'tegro')"
		" SELECT DISTINCT kind, name FROM ("
		" SELECT 'ROUTINE' AS kind, p.oid::regprocedure::text AS name, coalesce(proacl, acldefault('f', proowner)) AS acl"
		" FROM o JOIN pg_proc p ON p.oid = objid WHERE classid = 'pg_proc'::regclass"
		" UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass::text, relacl"
		" FROM o JOIN pg_class c ON c.oid = objid WHERE classid = 'pg_class'::regclass"
		" UNION ALL SELECT 'TABLE', attrelid::regclass::text, attacl"
		" FROM o JOIN pg_attribute a ON a.attrelid = objid WHERE classid = 'pg_class'::regclass AND attacl IS NOT NULL"
		" UNION ALL SELECT 'FOREIGN DATA WRAPPER', quote_ident(fdwname), fdwacl"
		" FROM o JOIN pg_foreign_data_wrapper f ON f.oid = objid WHERE classid = 'pg_foreign_data_wrapper'::regclass"
		" ) AS x CROSS JOIN LATERAL aclexplode(acl) AS a WHERE a.grantee = 0 AND $1 IS NOT NULL ORDER BY 1, 2");

	if (n == 0)
	{
		put(doctor, FINDING_OK, "Nothing of the extension is open to PUBLIC.",
			NULL);
		return;
	}
	initStringInfo(&open);
	initStringInfo(&revoke);
	for (int i = 0; i < n; i++)
	{
		appendStringInfo(&open, "%s%s", i > 0 ? ", " : "", text_of(i, 2));
		appendStringInfo(&revoke, "%sREVOKE ALL ON %s %s FROM PUBLIC;",
						 i > 0 ? " " : "", text_of(i, 1), text_of(i, 2));
	}
	put(doctor, FINDING_ERROR,
		psprintf("Every role has rights on %s.", open.data), revoke.data);
}

static void
check_durability(Doctor *doctor)
{
	const char *names = GetConfigOption("synchronous_standby_names", true,
										false);

	if (!enableFsync)
		put(doctor, FINDING_ERROR,
			"fsync is off: after a crash of the machine, nobody knows what was sent, and payouts can be sent twice.",
			"ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();");
	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		put(doctor, FINDING_WARNING,
			"synchronous_commit is off: a crash can lose requests that were just enqueued, with the transactions that enqueued them. What was sent is on record all the same.",
			"SET LOCAL synchronous_commit = on in transactions that enqueue, or ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();");
	if (names && *names && !RecoveryInProgress())
	{
		if (!sees_all_sessions())
			put_named(doctor, "synchronous standby", FINDING_SKIPPED,
					  "It needs the rights of pg_monitor or a superuser.",
					  NULL);
		else if (
			query(
				"SELECT 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND $1 IS NOT NULL") >
			0)
			put_named(doctor, "synchronous standby", FINDING_OK,
					  "One is connected; claims wait for it.", NULL);
		else
			put_named(doctor, "synchronous standby", FINDING_ERROR,
					  psprintf("synchronous_standby_names is %s, and none is connected: commits wait, and nothing is sent.",
							   names),
					  "Bring the standby back, or name another: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();");
	}
	if (doctor->nrows == 0)
		put(doctor, FINDING_OK, "What is committed is on disk.", NULL);
}

static void
check_size(Doctor *doctor)
{
	double rows;

	query("SELECT greatest(c.reltuples, 0)::int8, pg_size_pretty(pg_total_relation_size(c.oid)),"
		  " pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid), reloptions @> '{autovacuum_enabled=false}'"
		  " FROM pg_class c WHERE c.oid = '%s.tegro_outbox'::regclass AND $1 IS NOT NULL",
		  doctor->schema);
	rows = (double) int_of(0, 1);
	if (rows >= MANY_ROWS && tegro_retention == 0)
		put(doctor, FINDING_WARNING,
			psprintf("The outbox has some %.0f rows (%s), and keeps them for ever.",
					 rows, text_of(0, 2)),
			"If numbers of that age never come again: ALTER SYSTEM SET tegro.retention = '400d'; SELECT pg_reload_conf(); what is deleted is forgotten, and could be paid again.");
	if (int_of(0, 4) > 10000 && int_of(0, 4) > 4 * int_of(0, 3))
		put(doctor, FINDING_WARNING,
			psprintf("The outbox has %s dead rows beside %s live ones: something keeps VACUUM from removing them.",
					 text_of(0, 4), text_of(0, 3)),
			psprintf("VACUUM (VERBOSE) %s.tegro_outbox; if they stay, see the check \"old snapshots\".",
					 doctor->schema));
	if (strcmp(text_of(0, 5), "t") == 0)
		put(doctor, FINDING_WARNING,
			"Autovacuum is turned off for the outbox.",
			psprintf("ALTER TABLE %s.tegro_outbox RESET (autovacuum_enabled);",
					 doctor->schema));
	if (doctor->nrows == 0)
		put(doctor, FINDING_OK,
			psprintf("The outbox has some %.0f rows (%s).", rows,
					 text_of(0, 2)),
			NULL);
}

/* Delivery slows down while what it leaves behind can't be removed. */
static void
check_snapshots(Doctor *doctor)
{
	int n;

	if (!sees_all_sessions())
	{
		put(doctor, FINDING_SKIPPED,
			"It needs the rights of pg_monitor or a superuser.", NULL);
		return;
	}
	n = query(
		"SELECT format('process %%s has had a snapshot open since %%s', pid, xact_start::timestamptz(0)),"
		" format('SELECT pg_terminate_backend(%%s);', pid)"
		" FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND xact_start < $1 - interval '10 min'"
		" UNION ALL SELECT format('transaction %%L is prepared since %%s', gid, prepared::timestamptz(0)),"
		" format('ROLLBACK PREPARED %%L; or COMMIT PREPARED', gid) FROM pg_prepared_xacts"
		" WHERE database = current_database() AND prepared < $1 - interval '10 min'"
		" UNION ALL SELECT format('replication slot %%s holds back the removal of rows, and nobody uses it', slot_name),"
		" format('SELECT pg_drop_replication_slot(%%L);', slot_name) FROM pg_replication_slots"
		" WHERE NOT active AND xmin IS NOT NULL");
	for (int i = 0; i < n; i++)
		put(doctor, FINDING_WARNING,
			psprintf("Delivery slows down: %s.", text_of(i, 1)),
			psprintf("If it is not needed: %s", text_of(i, 2)));
	if (n == 0)
		put(doctor, FINDING_OK, "None is older than ten minutes.", NULL);
}


/*
 * The provider.
 */

/* May the caller have a read sent, and by which method? */
static const char *
callable_method(Doctor *doctor)
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
		return psprintf("Try on the server: openssl s_client -connect %s -servername %s </dev/null. Check the clock, the system's certificate authorities (apt-get install ca-certificates), tegro.ca_file, and proxies that take TLS apart.",
						at, host);
	if (exchange->name_lookup_us == 0)
		return psprintf("Try on the server: getent ahosts %s. Check tegro.api_url, /etc/resolv.conf and the name servers there.",
						host);
	return psprintf("Try on the server: curl -v %s. Check tegro.api_url, and whether a firewall or proxy (tegro.proxy) is in the way.",
					tegro_api_url);
}

static char *
describe_times(const TegroExchange *exchange)
{
	if (exchange->kept_alive)
		return "over a connection that was open";
	return psprintf("name look-up %.1f ms, connection %.1f ms, TLS %.1f ms",
					exchange->name_lookup_us / 1000.0,
					Max(exchange->connect_us - exchange->name_lookup_us, 0) /
						1000.0,
					Max(exchange->tls_us - exchange->connect_us, 0) / 1000.0);
}

static void
judge_clock(Doctor *doctor, const TegroExchange *exchange)
{
	int64 theirs = tegro_exchange_date(exchange);
	int64 ours = (int64) time(NULL);
	int64 ahead = ours - theirs;

	if (theirs < 0)
		put_named(doctor, "clock", FINDING_SKIPPED,
				  "No answer came that tells the provider's time.", NULL);
	else if (ahead > MAX_SKEW_S || ahead < -MAX_SKEW_S)
		put_named(doctor, "clock", FINDING_WARNING,
				  psprintf("This server's clock is " INT64_FORMAT
						   " s %s the provider's. Nonces are made of it, and certificates are checked by it.",
						   ahead > 0 ? ahead : -ahead,
						   ahead > 0 ? "ahead of" : "behind"),
				  "Set the clock: timedatectl set-ntp true, or install chrony.");
	else
		put_named(doctor, "clock", FINDING_OK,
				  psprintf("It is within %d s of the provider's.", MAX_SKEW_S),
				  NULL);
}

/* Makes rows of how the request ended. */
static void
judge_call(TegroCall *call, void *arg)
{
	Doctor *doctor = arg;
	const TegroExchange *exchange = tegro_api_exchange(call);
	const TegroOutcome *outcome = &call->outcome;
	const char *hint = outcome->hint;
	char *detail = psprintf("%s. %s", outcome->message ? outcome->message : "",
							outcome->detail ? outcome->detail : "");

	detail[0] = pg_toupper((unsigned char) detail[0]);
	if (exchange->end == TEGRO_EXCHANGE_NOT_SENT)
	{
		put_named(doctor, "network", FINDING_ERROR, detail,
				  network_hint(exchange, outcome));
		put_named(doctor, "provider", FINDING_SKIPPED,
				  "It could not be reached.", NULL);
		judge_clock(doctor, exchange);
		return;
	}
	put_named(doctor, "network", FINDING_OK,
			  psprintf("%s was reached, %s.", tegro_api_url,
					   describe_times(exchange)),
			  NULL);

	switch (outcome->result)
	{
		case TEGRO_ANSWERED:
			put(doctor, FINDING_OK,
				psprintf("It accepts the key of shop \"%s\": %s was answered in %.1f ms.",
						 call->shop_id, call->method->name,
						 exchange->total_us / 1000.0),
				NULL);
			break;
		case TEGRO_RATE_LIMITED:
			put(doctor, FINDING_WARNING, detail,
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
			put(doctor, FINDING_ERROR, detail, hint);
			break;
		default:
			if (exchange->http_status == 403)
				hint =
					"The provider's CDN turned the request away (\"error 1010\" means: by its User-Agent). RESET tegro.user_agent, or set one that says who you are; else ask Tegro to let this server's address in.";
			put(doctor, FINDING_ERROR, detail, hint);
	}
	judge_clock(doctor, exchange);
}

/* Takes a number for a setting until the check is over. */
static void
set_number(const char *name, int value)
{
	(void) set_config_option(name, psprintf("%d", value), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
check_provider(Doctor *doctor)
{
	const char *method = callable_method(doctor);
	JsonbParseState *params = tegro_begin_params();
	TegroCall *call;
	int left_ms;

	if (method == NULL)
	{
		put(doctor, FINDING_SKIPPED,
			psprintf("Role \"%s\" may execute none of tegro_balance, tegro_shops, tegro_modules and tegro_call.",
					 GetUserNameFromId(GetUserId(), false)),
			"GRANT EXECUTE ON FUNCTION tegro_balance() to it, or call tegro_doctor() as another role.");
		return;
	}
	if (!doctor->settings_are_right || !doctor->has_key)
	{
		put(doctor, FINDING_SKIPPED,
			"Without a key, or with settings that are wrong, nothing can be asked: see the checks \"settings\" and \"credentials\".",
			NULL);
		return;
	}
	left_ms = (int) Max(tegro_timeout -
							(tegro_clock_us() - doctor->begun_us) / 1000,
						1);
	call = tegro_api_prepare(method, tegro_finish_params(&params),
							 GetUserId());
	set_number("tegro.timeout", left_ms);
	set_number("tegro.read_retries", 0);
	tegro_api_run(&call, 1, 1, judge_call, doctor);
}


/*
 * The list.
 */

static const struct
{
	const char *name;
	void (*check)(Doctor *doctor);
} checks[] = {
	{"library", check_library},
	{"libcurl", check_libcurl},
	{"preload", check_preload},
	{"statistics", check_statistics},
	{"settings", check_settings},
	{"configuration", check_configuration},
	{"patterns", check_patterns},
	{"credentials", check_credentials},
	{"secret key", check_secret_key},
	{"credentials file", check_credentials_place},
	{"keys in files", check_keys_in_configuration},
	{"keys in catalogs", check_keys_in_catalogs},
	{"keys in session", check_keys_of_session},
	{"rights", check_rights},
	{"durability", check_durability},
	{"delivery", check_delivery},
	{"identity", check_identity},
	{"worker slots", check_worker_slots},
	{"backlog", check_backlog},
	{"failing", check_failing},
	{"review", check_review},
	{"callbacks", check_callbacks},
	{"notifications", check_notifications},
	{"size", check_size},
	{"old snapshots", check_snapshots},
	{"provider", check_provider},
};

/* A check's time is over: as if someone had cancelled the statement. */
static void
end_check(void)
{
	took_too_long = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* A check and where its rows go. */
typedef struct Visit
{
	Doctor *doctor;
	void (*check)(Doctor *doctor);
} Visit;

static void
make_visit(void *arg)
{
	Visit *visit = arg;
	int guc_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	/* a table that someone has locked must not hold us */
	set_number("lock_timeout", Min(CHECK_MS, Max(tegro_timeout / 10, 1)));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	visit->check(visit->doctor);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/* A check's error, as a row; throws it on if it is not the check's. */
static void
put_error(Doctor *doctor, ErrorData *error)
{
	char *detail = psprintf("%s.%s%s", error->message,
							error->detail ? " " : "",
							error->detail ? error->detail : "");

	detail[0] = pg_toupper((unsigned char) detail[0]);
	/* for the log, and so for superusers: which file it is */
	if (superuser() && error->detail_log)
		detail = psprintf("%s. %s", error->message, error->detail_log);
	detail[0] = pg_toupper((unsigned char) detail[0]);

	if (took_too_long && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		put(doctor, FINDING_SKIPPED, "It would have taken too long.",
			"Raise tegro.timeout for this session and try again.");
	else if (error->elevel >= FATAL ||
			 error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			 ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
				 ERRCODE_TO_CATEGORY(ERRCODE_ADMIN_SHUTDOWN))
		ReThrowError(error);
	else if (ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
			 ERRCODE_TO_CATEGORY(TEGRO_ERRCODE_REFUSED))
		put(doctor, FINDING_ERROR, detail, error->hint);
	else if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		put(doctor, FINDING_SKIPPED,
			psprintf("Role \"%s\" may not look: %s.",
					 GetUserNameFromId(GetUserId(), false), error->message),
			"Grant it that right, or call tegro_doctor() as a superuser.");
	else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		put(doctor, FINDING_SKIPPED, "Someone has the table locked.",
			"See who in pg_locks, and try again.");
	else
		put(doctor, FINDING_ERROR,
			psprintf("The check itself failed: %s", detail), error->hint);
	FreeErrorData(error);
}

/*
 * tegro_doctor() returns setof (check text, status text, detail text, hint text)
 */
Datum
tegro_doctor(PG_FUNCTION_ARGS)
{
	static bool timeout_registered = false;
	static TimeoutId check_timeout;
	Doctor doctor = {0};

	InitMaterializedSRF(fcinfo, 0);
	doctor.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	doctor.namespace = get_func_namespace(fcinfo->flinfo->fn_oid);
	doctor.schema = pstrdup(
		quote_identifier(get_namespace_name(doctor.namespace)));
	doctor.begun_us = tegro_clock_us();
	if (!timeout_registered)
	{
		check_timeout = RegisterTimeout(USER_TIMEOUT, end_check);
		timeout_registered = true;
	}

	for (int i = 0; i < lengthof(checks); i++)
	{
		Visit visit = {&doctor, checks[i].check};
		bool has_limit = checks[i].check != check_provider;
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		doctor.check = checks[i].name;
		doctor.nrows = 0;
		took_too_long = false;
		if (has_limit)
		{
			int64 left_ms = tegro_timeout / 2 -
				(tegro_clock_us() - doctor.begun_us) / 1000;

			enable_timeout_after(check_timeout,
								 (int) Max(Min(left_ms, CHECK_MS), 1));
		}
		error = tegro_error_catch(make_visit, &visit, CurrentMemoryContext);
		if (has_limit)
		{
			disable_timeout(check_timeout, false);
			/* it may have come too late to be noticed there */
			if (took_too_long)
				QueryCancelPending = false;
		}
		if (error)
			put_error(&doctor, error);
	}
	return (Datum) 0;
}
