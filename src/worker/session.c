/*-------------------------------------------------------------------------
 *
 * session.c
 *		The session of a background worker: its connection, settings and
 *		transactions.
 *
 * A worker connects as the superuser that initdb made.  ALTER ROLE and ALTER
 * DATABASE can change nearly every setting of such a session, and some of them
 * would turn the worker against its purpose: session_replication_role disables
 * triggers, role takes its rights away, log_min_messages hides its warnings or
 * fills the log.  So settings on which the work depends are forced here.  There
 * are two kinds:
 *
 *	- those that the worker needs to have one certain value;
 *	- those for which the value of the configuration file counts.  The worker
 *	  copies that before it connects.
 *
 * Hazard: a forced setting no longer follows the configuration file.  So those
 * of the second kind are forced only where a catalog has changed them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "src/base/compat.h"
#include "src/outbox/store.h"
#include "src/worker/session.h"

/* Settings that have one certain value in a worker. */
static const struct
{
	const char *name;
	const char *value;
} fixed_settings[] = {
	{"role", "none"},
	{"search_path", "pg_catalog, pg_temp"},
	{"session_replication_role", "origin"},
	{"row_security", "on"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"statement_timeout", "0"},
	{"transaction_timeout", "0"}, /* from PostgreSQL 17 on */
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"lock_timeout", "1s"},
	/* an error ends what failed, and not the worker */
	{"exit_on_error", "off"},
	{"restrict_nonsystem_relation_kind", ""}, /* newer minor releases */
	/* how values are read and written */
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"bytea_output", "hex"},
	{"extra_float_digits", "1"},
	{"array_nulls", "on"},
	{"transform_null_equals", "off"},
	{"standard_conforming_strings", "on"},
	{"quote_all_identifiers", "off"},
	/* the statements of the outbox live by their indexes */
	{"enable_indexscan", "on"},
	{"plan_cache_mode", "auto"},
};

/*
 * Settings whose value in the configuration file counts.  Those of tegro may
 * also come from ALTER DATABASE: a database can have a shop of its own.
 */
static const struct
{
	const char *name;
	bool database_counts;
} file_settings[] = {
	{"synchronous_commit", false},
	{"TimeZone", false},
	{"timezone_abbreviations", false},
	{"lc_messages", false},
	{"log_min_messages", false},
	{"log_min_error_statement", false},
	{"log_error_verbosity", false},
	{"log_statement", false},
	{"log_duration", false},
	{"log_min_duration_statement", false},
	{"log_min_duration_sample", false},
	{"log_statement_sample_rate", false},
	{"log_transaction_sample_rate", false},
	{"log_parameter_max_length", false},
	{"log_parameter_max_length_on_error", false},
	{"log_lock_waits", false},
	{"log_parser_stats", false},
	{"log_planner_stats", false},
	{"log_executor_stats", false},
	{"log_statement_stats", false},
	{"debug_print_parse", false},
	{"debug_print_rewritten", false},
	{"debug_print_plan", false},
	{"track_activities", false},
	/* without them autovacuum does not see what the worker updates */
	{"track_counts", false},
	{"tegro.shop_id", true},
	{"tegro.connect_timeout", true},
	{"tegro.timeout", true},
	{"tegro.read_retries", true},
	{"tegro.max_concurrency", true},
};

static bool connected = false;

/*
 * A database that was dropped can't be connected to, and trying again is
 * useless: exit with 0, so that nobody does.  (A callback may call proc_exit;
 * the ones that are left still run.)
 */
static void
give_up_if_not_connected(int code, Datum arg)
{
	if (!connected && code != 0)
		proc_exit(0);
}

void
tegro_session_force(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* Did ALTER ROLE, or ALTER DATABASE where that does not count, set it? */
static bool
is_from_catalog(const char *name, bool database_counts)
{
	GucSource source = tegro_setting_source(name);

	return source >= PGC_S_GLOBAL && source <= PGC_S_DATABASE_USER &&
		!(database_counts && source == PGC_S_DATABASE);
}

/*
 * Forces the value that ALTER DATABASE gave to a setting.  Returns false if it
 * gave none.  ALTER ROLE takes precedence, and so hides the database's value
 * from GetConfigOption().
 */
static bool
force_value_of_database(const char *name)
{
	Oid types[] = {TEXTOID};
	Datum values[1];
	bool found;

	tegro_session_begin();
	values[0] = CStringGetTextDatum(name);
	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute_with_args("SELECT substr(c, length($1) + 2)"
							  " FROM pg_db_role_setting AS s"
							  " JOIN pg_database AS d ON d.oid = s.setdatabase"
							  " CROSS JOIN LATERAL unnest(s.setconfig) AS c"
							  " WHERE s.setrole = 0"
							  " AND d.datname = current_database()"
							  " AND starts_with(c, $1 || '=')",
							  1, types, values, NULL, true,
							  1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the settings of the database");
	found = SPI_processed > 0;
	if (found)
		tegro_session_force(name,
							SPI_getvalue(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1));
	SPI_finish();
	tegro_session_commit();
	return found;
}

void
tegro_session_connect(Oid database)
{
	char *of_file[lengthof(file_settings)];

	Assert(!connected && OidIsValid(database));
	on_proc_exit(give_up_if_not_connected, (Datum) 0);
	for (int i = 0; i < lengthof(file_settings); i++)
	{
		const char *value = GetConfigOption(file_settings[i].name, true,
											false);

		of_file[i] = value ? pstrdup(value) : NULL;
	}

	/*
	 * Answers are converted between transactions, for which PostgreSQL must
	 * know how beforehand: it does for the client's encoding.  It is set before
	 * the connection, which looks the conversion up.
	 */
	tegro_session_force("client_encoding", "UTF8");
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	connected = true;

	for (int i = 0; i < lengthof(fixed_settings); i++)
	{
		/* a server that does not have the setting does not need it */
		if (GetConfigOption(fixed_settings[i].name, true, false))
			tegro_session_force(fixed_settings[i].name,
								fixed_settings[i].value);
	}
	for (int i = 0; i < lengthof(file_settings); i++)
	{
		if (of_file[i] == NULL)
			continue;
		if (is_from_catalog(file_settings[i].name,
							file_settings[i].database_counts) &&
			!(file_settings[i].database_counts &&
			  force_value_of_database(file_settings[i].name)))
			tegro_session_force(file_settings[i].name, of_file[i]);
		pfree(of_file[i]);
	}
}

void
tegro_session_begin(void)
{
	Assert(!IsTransactionState());
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* a claim must be on disk, and where it is replicated, before it is sent */
	tegro_store_commit_durably();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
tegro_session_commit(void)
{
	Assert(IsTransactionState() && ActiveSnapshotSet());
	PopActiveSnapshot();
	/* one of ours that was left behind would be held for ever */
	Assert(!ActiveSnapshotSet());
	CommitTransactionCommand();
	pgstat_report_stat(false);
}

void
tegro_session_reload(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		Assert(!IsTransactionState());
		ProcessConfigFile(PGC_SIGHUP);
	}
}

void
tegro_session_report(const char *activity)
{
	if (activity)
		pgstat_report_activity(STATE_RUNNING, activity);
	else
		pgstat_report_activity(STATE_IDLE, NULL);
}
