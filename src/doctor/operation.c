/*-------------------------------------------------------------------------
 *
 * operation.c
 *		Is the outbox delivered, and what holds it up?
 *
 * Checks of the doctor: delivery, what waits and for how long, what waits for a
 * person, size.  All is seen with the caller's rights: where row-level security
 * hides rows from him, the row says of whose requests it speaks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "src/outbox/origin.h"
#include "src/doctor/operation.h"
#include "src/base/settings.h"
#include "src/outbox/wake.h"

/* What is due for longer than this is late. */
#define LATE_S 60

/* A worker that is started needs less than this to begin. */
#define START_S 10

/* Rows that are counted; more are "more than". */
#define MAX_COUNTED 10000

/* An outbox of this size should have a retention. */
#define MANY_ROWS 10e6


/*
 * Delivery.
 */

void
tegro_check_delivery(TegroDoctor *doctor)
{
	if (RecoveryInProgress())
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "This is a standby: it delivers nothing until it is promoted. Calls that read work.",
						  NULL);
	else if (IsBinaryUpgrade)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "The server is in binary-upgrade mode: nothing is sent from the outbox.",
						  "Start it without -b once pg_upgrade is done.");
	else if (!tegro_delivery_is_on())
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "tegro.delivery is off: nothing is sent from the outbox.",
						  "If this is not a copy of another database: ALTER SYSTEM SET tegro.delivery = on; SELECT pg_reload_conf();");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK, "tegro.delivery is on.",
						  NULL);
}

/*
 * Requests and notifications that are set aside, or will be by the next claim.
 * Those that are finished, and called back, do not count.
 */
void
tegro_check_origin(TegroDoctor *doctor)
{
	const char *own;
	int64 strangers = 0;
	int64 elsewhere = 0;
	int64 inherited = 0;
	int n;

	if (RecoveryInProgress())
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "A standby has its primary's origin.", NULL);
		return;
	}
	if (tegro_finding_query("SELECT number FROM %s.tegro_origin WHERE $1 IS NOT NULL",
							doctor->schema) == 0)
	{
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  "Table tegro_origin is empty: nothing is recorded, sent, looked up or called back.",
						  "SELECT tegro_take_over('why'); writes its row, and takes over what was enqueued before: orders are looked up, payouts go to review.");
		return;
	}
	own = tegro_origin_with(tegro_finding_text(0, 1));
	/* by the index of each condition */
	n = tegro_finding_query("SELECT origin, count(*), count(*) FILTER (WHERE sent) FROM"
							" (SELECT origin, attempts > 0 OR unknown_since IS NOT NULL AS sent FROM %1$s.tegro_outbox"
							"   WHERE aside IS NOT NULL"
							"  UNION ALL SELECT origin, attempts > 0 OR unknown_since IS NOT NULL FROM %1$s.tegro_outbox"
							"   WHERE next_at IS NOT NULL"
							"  UNION ALL SELECT origin, attempts > 0 OR unknown_since IS NOT NULL FROM %1$s.tegro_outbox"
							"   WHERE callback_at IS NOT NULL AND next_at IS NULL"
							"  UNION ALL SELECT origin, false FROM %1$s.tegro_notification"
							"   WHERE aside IS NOT NULL OR next_at IS NOT NULL OR callback_at IS NOT NULL) AS open"
							" WHERE $1 IS NOT NULL GROUP BY origin",
							doctor->schema);
	for (int i = 0; i < n; i++)
	{
		const char *origin = tegro_finding_text(i, 1);

		switch (tegro_origin_compare(origin, own))
		{
			case TEGRO_SAME:
				break;
			case TEGRO_SUCCESSOR:
				inherited += tegro_finding_int(i, 2);
				break;
			case TEGRO_STRANGER:
				strangers += tegro_finding_int(i, 2);
				if (!tegro_origin_same_address(origin, own))
					elsewhere += tegro_finding_int(i, 3);
				break;
		}
	}

	/* that were set aside before a setting was taken back */
	tegro_finding_query("SELECT count(*) FROM %1$s.tegro_outbox WHERE aside IS NOT NULL AND origin = %2$s AND $1 IS NOT NULL",
						doctor->schema, quote_literal_cstr(own));
	strangers += tegro_finding_int(0, 1);

	if (strangers > elsewhere)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("Requests and notifications of another origin are set aside%s: " INT64_FORMAT
								   ". This database may be a copy, and a copy must not pay. They are not sent, looked up or called back.",
								   tegro_finding_whose(doctor), strangers),
						  "If this database is to deliver them, and no other does, and only then: SELECT tegro_take_over('why'); orders are looked up, payouts go to review.");
	else if (strangers > 0)
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("Requests that were sent to another address than tegro.api_url, or with the key of a session, are set aside%s: " INT64_FORMAT
								   ". They cannot be looked up here.",
								   tegro_finding_whose(doctor), strangers),
						  "Ask the provider of that address, then decide on each: SELECT tegro_resolve(id, 'accepted', 'why'); or 'refused', or 'resend', which sends it to tegro.api_url. They are in tegro_outbox WHERE aside IS NOT NULL.");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  inherited > 0
							  ? "Requests from before a failover or restore are looked up before they are sent."
							  : "All requests that wait were enqueued in this database.",
						  NULL);
}

void
tegro_check_backlog(TegroDoctor *doctor)
{
	bool running = tegro_wake_is_running(TEGRO_DELIVERY_WORKER);
	bool could_run = tegro_delivery_is_on();
	int64 due;
	int64 late_s;
	char *count;

	/* this can be said to everyone */
	if (running)
		tegro_finding_put_named(doctor, "worker", TEGRO_FINDING_OK,
								"The delivery worker of this database runs.",
								NULL);
	tegro_finding_query("SELECT count(*), coalesce(extract(epoch FROM $1 - min(next_at)), 0)::int8,"
						" (SELECT min(next_at) FROM %1$s.tegro_outbox WHERE next_at > $1)::timestamptz(0)"
						" FROM (SELECT next_at FROM %1$s.tegro_outbox WHERE next_at <= $1"
						" AND (claimed_until IS NULL OR claimed_until <= $1) ORDER BY next_at LIMIT %2$d) AS due",
						doctor->schema, MAX_COUNTED + 1);
	due = tegro_finding_int(0, 1);
	late_s = tegro_finding_int(0, 2);
	count = due > MAX_COUNTED ? psprintf("more than %d", MAX_COUNTED)
							  : psprintf(INT64_FORMAT, due);

	if (!running && (due == 0 || !could_run || late_s < START_S))
		tegro_finding_put_named(doctor, "worker", TEGRO_FINDING_OK,
								"No delivery worker runs; a commit that enqueues starts one.",
								NULL);
	else if (!running)
		tegro_finding_put_named(doctor, "worker", TEGRO_FINDING_ERROR,
								"No delivery worker runs, and requests are due.",
								"CALL tegro_deliver(); delivers them, or says why not. See the check \"worker slots\", and the server's log for why the worker ended.");

	if (due == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  *tegro_finding_text(0, 3)
							  ? psprintf("Nothing is due%s; the next is at %s.",
										 tegro_finding_whose(doctor),
										 tegro_finding_text(0, 3))
							  : psprintf("Nothing waits%s.",
										 tegro_finding_whose(doctor)),
						  NULL);
	else if (late_s < LATE_S)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("Requests that are due%s: %s, the first for " INT64_FORMAT
								   " s.",
								   tegro_finding_whose(doctor), count, late_s),
						  NULL);
	else
		tegro_finding_put(doctor,
						  could_run && !running ? TEGRO_FINDING_ERROR
												: TEGRO_FINDING_WARNING,
						  psprintf("Requests that are due%s: %s, the first for " INT64_FORMAT
								   " s.",
								   tegro_finding_whose(doctor), count, late_s),
						  running && could_run
							  ? "See the rate and the time left in tegro_outbox_summary. The log says if a shop pauses (\"tegro delivery pauses\"); tegro.max_concurrency and tegro.rate_limit are the limits."
							  : "See the checks \"delivery\", \"origin\" and \"worker\".");
}

void
tegro_check_worker_slots(TegroDoctor *doctor)
{
	int64 used;

	if (!tegro_finding_sees_all_sessions())
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "It needs the rights of pg_monitor or a superuser.",
						  NULL);
		return;
	}
	/* all but what is not a background worker */
	tegro_finding_query(
		"SELECT count(*) FROM pg_stat_activity WHERE $1 IS NOT NULL AND backend_type NOT IN"
		" ('client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer',"
		" 'checkpointer', 'walwriter', 'startup', 'walreceiver', 'walsender', 'archiver',"
		" 'standalone backend', 'slotsync worker', 'walsummarizer', 'io worker')");
	used = tegro_finding_int(0, 1);
	if (used < max_worker_processes)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf(INT64_FORMAT
								   " of %d background workers (max_worker_processes) run.",
								   used, max_worker_processes),
						  NULL);
	else
		tegro_finding_put(doctor,
						  tegro_wake_is_running(TEGRO_DELIVERY_WORKER)
							  ? TEGRO_FINDING_WARNING
							  : TEGRO_FINDING_ERROR,
						  psprintf("All %d background workers (max_worker_processes) are taken: no delivery worker can be started.",
								   max_worker_processes),
						  psprintf("ALTER SYSTEM SET max_worker_processes = %d; and restart the server. Until then: CALL tegro_deliver();",
								   max_worker_processes + 8));
}

/* What waits for a person, and callbacks that were given up. */
void
tegro_check_review(TegroDoctor *doctor)
{
	tegro_finding_query("SELECT count(*) FILTER (WHERE state = 'review'),"
						" string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE state = 'review' AND n <= 5),"
						" date_trunc('second', $1 - min(enqueued_at) FILTER (WHERE state = 'review')),"
						" min(id) FILTER (WHERE state = 'review'),"
						" count(*) FILTER (WHERE callback_state = 'failed'),"
						" min(id) FILTER (WHERE callback_state = 'failed'),"
						" (array_agg(callback_message ORDER BY id) FILTER (WHERE callback_state = 'failed'))[1]"
						" FROM (SELECT id, state, enqueued_at, callback_state, callback_message,"
						" row_number() OVER (PARTITION BY state ORDER BY id) AS n FROM %s.tegro_outbox"
						" WHERE state = 'review' OR callback_state = 'failed') AS o",
						doctor->schema);
	if (tegro_finding_int(0, 1) > 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Requests in review%s: %s (%s%s), the oldest for %s. They may have been paid. Those that show up with Tegro within a day are accepted by themselves; the others need a decision.",
								   tegro_finding_whose(doctor),
								   tegro_finding_text(0, 1),
								   tegro_finding_text(0, 2),
								   tegro_finding_int(0, 1) > 5 ? ", ..." : "",
								   tegro_finding_text(0, 3)),
						  psprintf("SELECT tegro_explain(id) FROM tegro_outbox WHERE state = 'review'; find each with Tegro, then SELECT tegro_resolve(%s, 'accepted', 'how you know'), or 'refused', or 'resend'.",
								   tegro_finding_text(0, 4)));
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("Nothing waits for a decision%s.",
								   tegro_finding_whose(doctor)),
						  NULL);
	if (tegro_finding_int(0, 5) > 0)
		tegro_finding_put_named(doctor, "callbacks", TEGRO_FINDING_ERROR,
								psprintf("Callbacks that were given up%s: %s. Request %s: %s.",
										 tegro_finding_whose(doctor),
										 tegro_finding_text(0, 5),
										 tegro_finding_text(0, 6),
										 tegro_finding_text(0, 7)),
								psprintf("Mend the function, then SELECT tegro_refresh(%s). All of them: WHERE callback_state = 'failed'.",
										 tegro_finding_text(0, 6)));
}

void
tegro_check_callbacks(TegroDoctor *doctor)
{
	tegro_finding_query("SELECT count(*), min(id), (array_agg(callback_message ORDER BY id))[1]"
						" FROM %s.tegro_outbox WHERE callback_at IS NOT NULL AND callback_message IS NOT NULL AND $1 IS NOT NULL",
						doctor->schema);
	if (tegro_finding_int(0, 1) > 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Callbacks that failed, and are called again%s: %s. Request %s: %s.",
								   tegro_finding_whose(doctor),
								   tegro_finding_text(0, 1),
								   tegro_finding_text(0, 2),
								   tegro_finding_text(0, 3)),
						  psprintf("Mend the function; it is called again by itself, or at once after SELECT tegro_refresh(%s).",
								   tegro_finding_text(0, 2)));
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("None is repeated%s.",
								   tegro_finding_whose(doctor)),
						  NULL);
}

void
tegro_check_failing(TegroDoctor *doctor)
{
	tegro_finding_query("SELECT count(*), min(id), date_trunc('second', $1 - min(enqueued_at)),"
						" (array_agg(message ORDER BY id))[1] FROM %s.tegro_outbox"
						" WHERE next_at IS NOT NULL AND failures > 0 AND enqueued_at < $1 - interval '10 min'",
						doctor->schema);
	if (tegro_finding_int(0, 1) > 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Requests older than ten minutes that come to nothing time and again%s: %s, the oldest for %s. Request %s: %s.",
								   tegro_finding_whose(doctor),
								   tegro_finding_text(0, 1),
								   tegro_finding_text(0, 3),
								   tegro_finding_text(0, 2),
								   *tegro_finding_text(0, 4)
									   ? tegro_finding_text(0, 4)
									   : "no reason is on record"),
						  psprintf("Mend what the message says, then SELECT tegro_refresh(%s), or wait: they are tried again by themselves.",
								   tegro_finding_text(0, 2)));
	else
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("None fails for long%s.",
								   tegro_finding_whose(doctor)),
						  NULL);
}

void
tegro_check_notifications(TegroDoctor *doctor)
{
	tegro_finding_query("SELECT count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'review'),"
						" min(id), (array_agg(message ORDER BY id))[1] FROM %s.tegro_notification WHERE state = 'review'"
						" OR (state = 'waiting' AND waiting_since < $1 - interval '10 min')",
						doctor->schema);
	if (tegro_finding_int(0, 3) > 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Notifications that wait for more than ten minutes: %s; in review: %s. Notification %s: %s.",
								   tegro_finding_text(0, 1),
								   tegro_finding_text(0, 2),
								   tegro_finding_text(0, 3),
								   *tegro_finding_text(0, 4)
									   ? tegro_finding_text(0, 4)
									   : "no reason is on record"),
						  psprintf("SELECT id, order_id, state, message FROM tegro_notification WHERE state IN ('waiting', 'review'); then SELECT tegro_retry_notification(%s).",
								   tegro_finding_text(0, 3)));

	/* a payment that is confirmed, and of which the shop was not told */
	tegro_finding_query("SELECT count(*) FILTER (WHERE callback_state = 'failed'), count(*) FILTER (WHERE callback_state <> 'failed'),"
						" min(id), (array_agg(callback_message ORDER BY id))[1] FROM %s.tegro_notification"
						" WHERE $1 IS NOT NULL AND (callback_state = 'failed'"
						" OR (callback_at IS NOT NULL AND callback_message IS NOT NULL))",
						doctor->schema);
	if (tegro_finding_int(0, 3) > 0)
		tegro_finding_put(doctor,
						  tegro_finding_int(0, 1) > 0 ? TEGRO_FINDING_ERROR
													  : TEGRO_FINDING_WARNING,
						  psprintf("Payments that are confirmed, and whose callback was given up: %s; whose callback failed, and is called again: %s. Notification %s: %s.",
								   tegro_finding_text(0, 1),
								   tegro_finding_text(0, 2),
								   tegro_finding_text(0, 3),
								   *tegro_finding_text(0, 4)
									   ? tegro_finding_text(0, 4)
									   : "no reason is on record"),
						  psprintf("Mend the function, then SELECT tegro_retry_notification(%s). All of them: SELECT id, callback, callback_message FROM tegro_notification WHERE callback_state IN ('waiting', 'failed');",
								   tegro_finding_text(0, 3)));
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK, "None waits for long.",
						  NULL);
}

/* What tegro_on_payment registered: can it still be called? */
void
tegro_check_payment_callback(TegroDoctor *doctor)
{
	int n =
		tegro_finding_query("SELECT shop_id, callback, CASE WHEN rolname IS NULL THEN format('its role (%%s) was dropped', role::oid)"
							" WHEN f IS NULL THEN 'there is no such function any more'"
							" WHEN NOT has_schema_privilege(role, pronamespace, 'USAGE') OR NOT has_function_privilege(role, f, 'EXECUTE')"
							" THEN format('role \"%%s\", which registered it, may not execute it any more', rolname) END"
							" FROM (SELECT shop_id, callback, role::oid AS role, to_regprocedure(callback) AS f FROM %s.tegro_payment_callback) AS c"
							" LEFT JOIN pg_roles r ON r.oid = role LEFT JOIN pg_proc p ON p.oid = f"
							" WHERE $1 IS NOT NULL ORDER BY 1",
							doctor->schema);
	int broken = 0;

	for (int i = 0; i < n; i++)
	{
		if (!*tegro_finding_text(i, 3))
			continue;
		broken++;
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("Nobody will be told of payments of shop \"%s\": %s was to be called, and %s.",
								   tegro_finding_text(i, 1),
								   tegro_finding_text(i, 2),
								   tegro_finding_text(i, 3)),
						  "Mend the function or its rights, or register another with tegro_on_payment, as the role that is to run it.");
	}
	if (broken == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  n == 0 ? "None is registered."
								 : "What is registered can be called.",
						  NULL);
}


/*
 * Size.
 */

void
tegro_check_size(TegroDoctor *doctor)
{
	double rows;

	tegro_finding_query("SELECT greatest(c.reltuples, 0)::int8, pg_size_pretty(pg_total_relation_size(c.oid)),"
						" pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid), reloptions @> '{autovacuum_enabled=false}'"
						" FROM pg_class c WHERE c.oid = '%s.tegro_outbox'::regclass AND $1 IS NOT NULL",
						doctor->schema);
	rows = (double) tegro_finding_int(0, 1);
	if (rows >= MANY_ROWS && tegro_retention == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("The outbox has some %.0f rows (%s), and keeps their parameters and answers for ever.",
								   rows, tegro_finding_text(0, 2)),
						  "If parameters and answers of that age are not needed: ALTER SYSTEM SET tegro.retention = '400d'; SELECT pg_reload_conf(); references stay known.");
	if (tegro_finding_int(0, 4) > 10000 &&
		tegro_finding_int(0, 4) > 4 * tegro_finding_int(0, 3))
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("The outbox has %s dead rows beside %s live ones: something keeps VACUUM from removing them.",
								   tegro_finding_text(0, 4),
								   tegro_finding_text(0, 3)),
						  psprintf("VACUUM (VERBOSE) %s.tegro_outbox; if they stay, see the check \"old snapshots\".",
								   doctor->schema));
	if (strcmp(tegro_finding_text(0, 5), "t") == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  "Autovacuum is turned off for the outbox.",
						  psprintf("ALTER TABLE %s.tegro_outbox RESET (autovacuum_enabled);",
								   doctor->schema));
	if (doctor->nrows == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  psprintf("The outbox has some %.0f rows (%s).", rows,
								   tegro_finding_text(0, 2)),
						  NULL);
}

/* Delivery slows down while what it leaves behind can't be removed. */
void
tegro_check_snapshots(TegroDoctor *doctor)
{
	int n;

	if (!tegro_finding_sees_all_sessions())
	{
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "It needs the rights of pg_monitor or a superuser.",
						  NULL);
		return;
	}
	n = tegro_finding_query(
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
		tegro_finding_put(doctor, TEGRO_FINDING_WARNING,
						  psprintf("Delivery slows down: %s.",
								   tegro_finding_text(i, 1)),
						  psprintf("If it is not needed: %s",
								   tegro_finding_text(i, 2)));
	if (n == 0)
		tegro_finding_put(doctor, TEGRO_FINDING_OK,
						  "None is older than ten minutes.", NULL);
}
