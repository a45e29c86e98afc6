/*-------------------------------------------------------------------------
 *
 * report.c
 *		tegro_report(): the outbox's last day, as a page to be read.
 *
 * It only reads, and as who calls: with the caller's rights, row security
 * included, so it shows nobody what he could not select himself.  All of it
 * is one snapshot, the statement's.
 *
 * How much is read.  Nothing is indexed by time, for an index costs with each
 * request, and a report is rare.  But numbers rise with time.  So the outbox is
 * read from its end, by its primary key, until a whole block of requests is
 * older than what is asked for; what is left to do is found by the index of
 * what is due, however old it is.  Missed is what was enqueued before that and
 * finished since; the page says so.  What waits for a person, requests and
 * notifications, may be of any age, and none of it may be missed: for that, and
 * for nothing else, the whole tables are read.
 *
 * The page itself is written by page.c; nothing that anyone else wrote is
 * appended here but by tegro_page_text().  The commands that it advises have
 * nothing in them but numbers: they are there to be copied into a shell.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/outbox/store.h"
#include "src/report/page.h"
#include "src/base/settings.h"

PG_FUNCTION_INFO_V1(tegro_report);

/* Requests, or notifications, that are read at most: some seconds' work. */
#define READ_MAX 1000000

/* How many are looked at before it is decided whether to go on. */
#define READ_BLOCK 10000

/* Bars of a chart: at most what a phone can show, at least what is a chart. */
#define BARS_MAX 96
#define BARS_MIN 12

/* Requests that are shown one by one, and kinds of failures. */
#define SHOWN_MAX 50

/* Characters of a text that are shown. */
#define TEXT_MAX 300

/*
 * Upper ends of the classes of times, in milliseconds; what is longer is in
 * one more.
 */
static const double class_ms[] = {1,   2,	5,	  10,	20,	  50,	 100,
								  200, 500, 1000, 2000, 5000, 10000, 20000};

#define CLASSES ((int) lengthof(class_ms) + 1)

typedef struct Report
{
	StringInfoData page;
	Oid namespace;		/* the extension's */
	const char *schema; /* its name, quoted */
	StringInfoData
		prefix; /* for commands on the page: "schema.", or "" where it goes without saying */
	TimestampTz since;
	TimestampTz until;
	int64 first; /* the first request that is read by its number */
	int64 first_notification;
	Datum for_person; /* the numbers of what waits for a person, an array */
	int64 n_for_person;
	int64 n_review; /* of them those in review, the others' callbacks failed */
	bool cut;		/* there were more than READ_MAX */
	int bars;
	double bar_s;	  /* seconds that a bar stands for */
	char **bar_names; /* when each begins */
	char *ticks[TEGRO_PAGE_TICKS];
} Report;

/*
 * Runs a query, in which %1$s is the extension's schema, $1 the time since
 * when, $2 until when, $3 the first number, $4 the seconds of a bar, and $5 the
 * numbers of what waits for a person.
 * What it finds is in SPI_tuptable.
 */
static uint64
find(const Report *report, const char *query)
{
	Oid types[5] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, FLOAT8OID,
					INT8ARRAYOID};
	Datum values[5] = {TimestampTzGetDatum(report->since),
					   TimestampTzGetDatum(report->until),
					   Int64GetDatum(report->first),
					   Float8GetDatum(report->bar_s), report->for_person};
	StringInfoData statement;
	const char *nulls = report->for_person ? NULL : "    n";
	int result;

	initStringInfo(&statement);
	appendStringInfo(&statement, query, report->schema);
	result = SPI_execute_with_args(statement.data, 5, types, values, nulls,
								   true, 0);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed: %s",
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* Column "n", from 1, of row "row", from 0; 0 where it is null. */
static Datum
value_at(uint64 row, int n)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
								n, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* The same as text, "" where it is null. */
static const char *
text_at(uint64 row, int n)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
							   n);

	return value ? value : "";
}

/* A time in the session's time zone, by strftime's rules. */
static char *
time_text(TimestampTz time, const char *format)
{
	char name[100];
	pg_time_t seconds = timestamptz_to_time_t(time);

	pg_strftime(name, sizeof(name), format,
				pg_localtime(&seconds, session_timezone));
	return pstrdup(name);
}

/* How long, as people say it. */
static char *
duration_text(double ms)
{
	if (ms < 0.95)
		return pstrdup("under 1 ms");
	if (ms < 999.5)
		return psprintf("%.3g ms", ms < 10 ? ms : rint(ms));
	if (ms < 60 * 1000)
		return psprintf("%.3g s", ms / 1000);
	if (ms < 3600 * 1000)
		return psprintf("%.0f min", ms / (60 * 1000));
	if (ms < 48.0 * 3600 * 1000)
		return psprintf("%.0f h", ms / (3600 * 1000));
	return psprintf("%.0f days", ms / (24.0 * 3600 * 1000));
}

static char *
count_text(int64 count)
{
	char digits[32];
	StringInfoData grouped;

	snprintf(digits, sizeof(digits), INT64_FORMAT, count);
	initStringInfo(&grouped);
	for (int i = 0, n = (int) strlen(digits); i < n; i++)
	{
		if (i > 0 && (n - i) % 3 == 0)
			appendStringInfoChar(&grouped, ',');
		appendStringInfoChar(&grouped, digits[i]);
	}
	return grouped.data;
}

/* May the caller read this table of the extension's? */
static bool
may_read(const Report *report, const char *table)
{
	return pg_class_aclcheck(get_relname_relid(table, report->namespace),
							 GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* Throws if he may not: without these tables there is no report. */
static void
must_read(const Report *report, const char *table)
{
	if (!may_read(report, table))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", table),
				 errdetail("The report shows what its reader may see of the outbox."),
				 errhint("GRANT SELECT ON %1$s.tegro_outbox, %1$s.tegro_event TO %2$s;",
						 report->schema,
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

/*
 * Finds the first number to be read in a table, by the time at which its rows
 * came.  The time from when on there is something, if not since "since", goes
 * to "oldest".
 */
static int64
find_first(Report *report, const char *query, TimestampTz *oldest)
{
	int64 first = PG_INT64_MAX;
	int64 read = 0;

	for (;;)
	{
		int64 count;

		report->first = first;
		(void) find(report, query);
		count = DatumGetInt64(value_at(0, 1));
		if (count == 0)
			break;
		first = DatumGetInt64(value_at(0, 2));
		*oldest = Min(*oldest, DatumGetTimestampTz(value_at(0, 3)));
		read += count;
		if (DatumGetTimestampTz(value_at(0, 4)) < report->since)
		{
			/* as far as it must be; what is older does not matter */
			*oldest = DT_NOBEGIN;
			break;
		}
		if (read >= READ_MAX)
		{
			report->cut = true;
			break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	return first;
}

/* What waits for a person, of any age. */
static void
find_for_person(Report *report)
{
	(void)
		find(report,
			 "SELECT coalesce(array_agg(id), '{}'), count(*), count(*) FILTER (WHERE state = 'review')"
			 " FROM %1$s.tegro_outbox WHERE state = 'review' OR callback_state = 'failed'");
	report->for_person = value_at(0, 1);
	report->n_for_person = DatumGetInt64(value_at(0, 2));
	report->n_review = DatumGetInt64(value_at(0, 3));
}

/* Of what the report tells: from which request on, and from when. */
static void
find_range(Report *report)
{
	TimestampTz oldest = report->until;
	TimestampTz least = report->until - USECS_PER_SEC;

	report->first =
		find_first(report,
				   "SELECT count(*), min(id), min(enqueued_at), max(enqueued_at)"
				   " FROM (SELECT id, enqueued_at FROM %1$s.tegro_outbox"
				   " WHERE id < $3 ORDER BY id DESC LIMIT " CppAsString2(
					   READ_BLOCK) ") AS block",
				   &oldest);
	/* an outbox that is younger: from its first request on */
	if (oldest != report->until && oldest > report->since)
		report->since = oldest;
	if (TIMESTAMP_NOT_FINITE(report->since))
		report->since = report->until - USECS_PER_DAY;
	report->since = Min(report->since, least);

	if (may_read(report, "tegro_notification"))
	{
		int64 first = report->first;

		report->first_notification =
			find_first(report,
					   "SELECT count(*), min(id), min(received_at), max(received_at)"
					   " FROM (SELECT id, received_at FROM %1$s.tegro_notification"
					   " WHERE id < $3 ORDER BY id DESC LIMIT " CppAsString2(
						   READ_BLOCK) ") AS block",
					   &oldest);
		report->first = first;
	}
}

/* How the time is divided into bars, and what is written below them. */
static void
divide_time(Report *report)
{
	double seconds = (double) (report->until - report->since) / USECS_PER_SEC;
	const char *format = seconds > 300 * 86400.0 ? "%Y-%m-%d"
		: seconds > 2 * 86400.0					 ? "%m-%d"
		: seconds > 20 * 60.0					 ? "%H:%M"
												 : "%H:%M:%S";

	/* not so narrow that a minute has more than one bar, while there are many */
	report->bars = (int) Min(Max(seconds / 60, BARS_MIN), BARS_MAX);
	report->bar_s = seconds / report->bars;
	report->bar_names = palloc(sizeof(char *) * report->bars);
	for (int i = 0; i < report->bars; i++)
		report->bar_names[i] = time_text(report->since +
											 (TimestampTz) (i * report->bar_s *
															USECS_PER_SEC),
										 "%Y-%m-%d %H:%M:%S");
	for (int i = 0; i < TEGRO_PAGE_TICKS; i++)
		report->ticks[i] = time_text(report->since +
										 (report->until - report->since) * i /
											 (TEGRO_PAGE_TICKS - 1),
									 format);
}

static void
put_head(Report *report)
{
	StringInfo page = &report->page;
	Oid outbox = get_relname_relid("tegro_outbox", report->namespace);

	tegro_page_begin(page, "Tegro outbox");
	appendStringInfoString(page,
						   "<header><h1>Tegro outbox</h1>\n<p class=\"soft\">Database ");
	tegro_page_text(page, get_database_name(MyDatabaseId), 0);
	appendStringInfo(page, ", %s to %s, times in ",
					 time_text(report->since, "%Y-%m-%d %H:%M:%S"),
					 time_text(report->until, "%Y-%m-%d %H:%M:%S"));
	tegro_page_text(page, pg_get_timezone_name(session_timezone), 0);
	appendStringInfoString(page, ".");
	if (report->cut)
		appendStringInfo(page,
						 " There were more than %s requests since the time asked for; it begins later.",
						 count_text(READ_MAX));
	/* who sees part of it must know that it is a part */
	if (check_enable_rls(outbox, InvalidOid, true) == RLS_ENABLED)
	{
		appendStringInfoString(page, " Only requests of role ");
		tegro_page_text(page, GetUserNameFromId(GetUserId(), false), 0);
		appendStringInfoString(page,
							   ", and of roles that it belongs to, are counted.");
	}
	appendStringInfoString(page, "</p></header>\n");
}

static void
put_tile(Report *report, const char *name, const char *value, const char *note,
		 bool alert)
{
	appendStringInfo(&report->page,
					 "<li%s><span class=\"soft\">%s</span><b>%s</b>",
					 alert ? " class=\"alert\"" : "", name, value);
	if (note)
		appendStringInfo(&report->page, "<span class=\"soft\">%s</span>",
						 note);
	appendStringInfoString(&report->page, "</li>\n");
}

/* What there is, in numbers. */
static void
put_tiles(Report *report)
{
	int64 waiting, in_doubt, done, failed;
	double oldest_s;
	const char *note = NULL;

	(void) find(report,
				"SELECT count(*) FILTER (WHERE state IN ('ready', 'sending')),"
				" count(*) FILTER (WHERE state = 'unknown'),"
				/* what is put off is not late */
				" extract(epoch FROM $2 - min(next_at)"
				" FILTER (WHERE state = 'ready' AND next_at < $2))::float8"
				" FROM %1$s.tegro_outbox WHERE next_at IS NOT NULL");
	waiting = DatumGetInt64(value_at(0, 1));
	in_doubt = DatumGetInt64(value_at(0, 2));
	oldest_s = value_at(0, 3) ? DatumGetFloat8(value_at(0, 3)) : 0;
	if (oldest_s >= 1)
		note = psprintf("overdue by %s", duration_text(1000 * oldest_s));

	(void)
		find(report,
			 "SELECT count(*) FILTER (WHERE state = 'accepted'),"
			 " count(*) FILTER (WHERE state = 'refused') FROM %1$s.tegro_outbox"
			 " WHERE id >= $3 AND finished_at >= $1");
	done = DatumGetInt64(value_at(0, 1));
	failed = DatumGetInt64(value_at(0, 2));

	appendStringInfoString(&report->page, "<ul class=\"tiles\">\n");
	put_tile(report, "Done", count_text(done), NULL, false);
	put_tile(report, "Refused", count_text(failed), NULL, false);
	put_tile(report, "Waiting", count_text(waiting), note, oldest_s >= 60);
	put_tile(report, "In doubt", count_text(in_doubt),
			 in_doubt ? "looked up by itself" : NULL, false);
	put_tile(report, "In review", count_text(report->n_review),
			 report->n_review ? "a person decides" : NULL,
			 report->n_review > 0);
	appendStringInfoString(&report->page, "</ul>\n");
}

/* One request that waits for a person: row "row" of what put_review found. */
static void
put_request(Report *report, uint64 row)
{
	StringInfo page = &report->page;
	const char *id = text_at(row, 1);
	const char *method = text_at(row, 2);
	bool payout = strcmp(method, "createWithdrawal") == 0;
	bool review = strcmp(text_at(row, 5), "review") == 0;
	/* the lookup, which an operator may execute, is of the session's shop */
	bool other_shop = strcmp(text_at(row, 4),
							 GetConfigOption("tegro.shop_id", false, false)) !=
		0;

	appendStringInfo(page, "<article><h3>Request %s: %s ", id,
					 payout ? "payout" : "order");
	tegro_page_text(page, text_at(row, 3), TEXT_MAX);
	appendStringInfoString(page, "</h3>\n<dl><dt>Amount</dt><dd>");
	tegro_page_text(page, text_at(row, 6), TEXT_MAX);
	appendStringInfoString(page, "</dd><dt>Shop</dt><dd>");
	tegro_page_text(page, text_at(row, 4), TEXT_MAX);
	appendStringInfoString(page, "</dd><dt>Of role</dt><dd>");
	tegro_page_text(page, text_at(row, 7), TEXT_MAX);
	appendStringInfo(page, "</dd><dt>%s</dt><dd>",
					 review ? "In doubt since" : "Finished");
	tegro_page_text(page, text_at(row, 8), TEXT_MAX);
	appendStringInfo(page, "</dd><dt>%s</dt><dd>",
					 review ? "What happened" : "The callback says");
	tegro_page_text(page, text_at(row, 9), TEXT_MAX);
	appendStringInfoString(page, "</dd></dl>\n<pre>");

	if (review)
		appendStringInfo(page,
						 "<i class=\"soft\">-- how it was sent, and what the provider has</i>\n"
						 "SELECT %1$stegro_explain(%2$s);\n"
						 "%5$s"
						 "SELECT %1$stegro_%3$s(payment_id =&#x3e; reference) FROM %1$stegro_outbox WHERE id = %2$s;\n"
						 "%6$s"
						 "<i class=\"soft\">-- then one of these, with how you know:</i>\n"
						 "<i class=\"soft\">-- it took effect</i>\n"
						 "SELECT %1$stegro_resolve(%2$s, &#39;accepted&#39;, &#39;&#x2026;&#39;);\n"
						 "<i class=\"soft\">-- it did not, and is not to be sent</i>\n"
						 "SELECT %1$stegro_resolve(%2$s, &#39;refused&#39;, &#39;&#x2026;&#39;);\n"
						 "<i class=\"soft\">-- it did not; send it again%4$s</i>\n"
						 "SELECT %1$stegro_resolve(%2$s, &#39;resend&#39;, &#39;&#x2026;&#39;);",
						 report->prefix.data, id,
						 payout ? "withdrawal" : "order",
						 payout ? ". If you are wrong, it is paid twice" : "",
						 other_shop
							 ? psprintf("SELECT set_config(&#39;tegro.shop_id&#39;, shop_id, false) FROM %stegro_outbox WHERE id = %s;\n",
										report->prefix.data, id)
							 : "",
						 other_shop ? "RESET tegro.shop_id;\n" : "");
	else
		appendStringInfo(page,
						 "<i class=\"soft\">-- mend the function, then have it called again</i>\n"
						 "SELECT %stegro_refresh(%s);",
						 report->prefix.data, id);
	appendStringInfoString(page, "</pre></article>\n");
}

/* What waits for a person, and what he may do about it. */
static void
put_review(Report *report)
{
	StringInfo page = &report->page;
	uint64 found =
		find(report,
			 "SELECT id, method, reference, shop_id, state,"
			 " concat_ws(' ', coalesce(params ->> 'amount', amount::text), coalesce(params ->> 'currency', currency)),"
			 " pg_get_userbyid(enqueued_by::oid),"
			 " to_char(CASE WHEN state = 'review' THEN coalesce(unknown_since, enqueued_at)"
			 " ELSE finished_at END, 'YYYY-MM-DD HH24:MI:SS'),"
			 " CASE WHEN state = 'review' THEN message ELSE callback_message END"
			 " FROM %1$s.tegro_outbox WHERE id = ANY ($5)"
			 " ORDER BY state = 'review' DESC, id LIMIT " CppAsString2(
				 SHOWN_MAX));

	appendStringInfo(page, "<section%s><h2>For a person</h2>\n",
					 found > 0 ? " class=\"alert\"" : "");
	if (found == 0)
	{
		appendStringInfoString(page,
							   "<p>Nothing is in review, and no callback was given up.</p></section>\n");
		return;
	}
	appendStringInfo(page,
					 "<p>%s waiting%s. Where a request is in review, nothing that can be done by itself would be"
					 " safe: find out from the provider what became of it, by its number, its amount and its"
					 " account; look at the balance; then decide.</p>\n",
					 count_text(report->n_for_person),
					 found < (uint64) report->n_for_person
						 ? psprintf("; the first %d are shown", SHOWN_MAX)
						 : "");
	for (uint64 i = 0; i < found; i++)
		put_request(report, i);
	appendStringInfoString(page, "</section>\n");
}

/* How many were not finished, at the end of each bar's time. */
static void
put_backlog(Report *report)
{
	double *backlog = palloc0(sizeof(double) * report->bars);
	double before = 0;
	double most = 0;
	uint64 found;
	TegroPageChart chart = {.title = "Backlog",
							.nseries = 1,
							.nbars = report->bars,
							.bar_names = report->bar_names,
							.least_top = 2,
							.gaps = false};

	/* what is due may be older than the first that is read; -1 is before all */
	found =
		find(report,
			 "SELECT greatest(-1, floor(extract(epoch FROM at - $1)::float8 / $4))::int4, sum(change)"
			 " FROM (SELECT enqueued_at, finished_at FROM %1$s.tegro_outbox WHERE id >= $3"
			 " UNION ALL SELECT enqueued_at, finished_at FROM %1$s.tegro_outbox"
			 " WHERE id < $3 AND next_at IS NOT NULL"
			 " UNION ALL SELECT enqueued_at, finished_at FROM %1$s.tegro_outbox"
			 " WHERE id = ANY ($5) AND id < $3 AND next_at IS NULL) AS o,"
			 " LATERAL (VALUES (enqueued_at, 1), (finished_at, -1)) AS c (at, change)"
			 " WHERE at < $2 GROUP BY 1");
	for (uint64 i = 0; i < found; i++)
	{
		int bar = DatumGetInt32(value_at(i, 1));
		double change = (double) DatumGetInt64(value_at(i, 2));

		if (bar < 0)
			before += change;
		else
			backlog[Min(bar, report->bars - 1)] += change;
	}
	for (int i = 0; i < report->bars; i++)
	{
		before += backlog[i];
		/* a request that was sent again has lost when it first ended */
		backlog[i] = Max(before, 0);
		most = Max(most, backlog[i]);
	}
	chart.about =
		psprintf("Requests that were not finished: at most %s, now %s.",
				 count_text((int64) most),
				 count_text((int64) backlog[report->bars - 1]));
	chart.names[0] = "not finished";
	chart.values[0] = backlog;
	memcpy(chart.ticks, report->ticks, sizeof(chart.ticks));
	tegro_page_chart(&report->page, &chart);
}

/* The sends since when, one by one: also those of requests that are older. */
#define ATTEMPTS                                                                                    \
	"(SELECT * FROM %1$s.tegro_event WHERE outbox_id >= $3 AND event = 'send' AND started_at >= $1" \
	" UNION ALL SELECT a.* FROM %1$s.tegro_outbox AS o"                                             \
	" JOIN %1$s.tegro_event AS a ON a.outbox_id = o.id"                                             \
	" WHERE o.id < $3 AND o.next_at IS NOT NULL AND a.event = 'send' AND a.started_at >= $1) AS attempt"

/* How many a minute were sent, and how that ended. */
static void
put_sends(Report *report)
{
	static const char *const names[] = {"answered", "refused", "no answer"};
	double *values[lengthof(names)];
	int64 totals[lengthof(names)] = {0};
	uint64 found;
	TegroPageChart chart = {.title = "Sent, a minute",
							.nseries = lengthof(names),
							.nbars = report->bars,
							.bar_names = report->bar_names,
							.least_top = 0.1,
							.gaps = true};

	for (int i = 0; i < (int) lengthof(names); i++)
	{
		values[i] = palloc0(sizeof(double) * report->bars);
		chart.names[i] = names[i];
		chart.values[i] = values[i];
	}
	/* what was never answered may be on its way, until its lease has ended */
	found =
		find(report,
			 psprintf("SELECT floor(extract(epoch FROM started_at - $1)::float8 / $4)::int4,"
					  " count(*) FILTER (WHERE outcome = 'answered'),"
					  " count(*) FILTER (WHERE outcome IN ('refused', 'rate limited')),"
					  " count(*) FILTER (WHERE outcome IN ('unknown', 'not sent')"
					  " OR (outcome IS NULL AND started_at < $2 - interval '%d s'))"
					  " FROM %s WHERE started_at < $2 GROUP BY 1",
					  tegro_claim_timeout, ATTEMPTS));
	for (uint64 i = 0; i < found; i++)
	{
		int bar = Min(Max(DatumGetInt32(value_at(i, 1)), 0), report->bars - 1);

		for (int n = 0; n < (int) lengthof(names); n++)
		{
			int64 count = DatumGetInt64(value_at(i, n + 2));

			totals[n] += count;
			values[n][bar] += (double) count * 60 / report->bar_s;
		}
	}
	chart.about =
		psprintf("In all %s answered, %s refused, %s without an answer.",
				 count_text(totals[0]), count_text(totals[1]),
				 count_text(totals[2]));
	memcpy(chart.ticks, report->ticks, sizeof(chart.ticks));
	tegro_page_chart(&report->page, &chart);
}

/* How long the answers took. */
static void
put_times(Report *report)
{
	StringInfo page = &report->page;
	int64 counts[CLASSES] = {0};
	int64 total = 0;
	int64 most = 1;
	int first = CLASSES;
	int last = -1;
	StringInfoData ends;
	uint64 found;

	initStringInfo(&ends);
	for (int i = 0; i < CLASSES - 1; i++)
		appendStringInfo(&ends, "%s%g", i > 0 ? "," : "", class_ms[i]);
	found =
		find(report,
			 psprintf("SELECT width_bucket(ms, ARRAY[%s]::float8[]), count(*),"
					  " percentile_disc(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (ORDER BY ms)"
					  " FROM (SELECT extract(epoch FROM ended_at - started_at)::float8 * 1000"
					  " FROM %s WHERE outcome IN ('answered', 'refused', 'rate limited')) AS t (ms)"
					  " GROUP BY GROUPING SETS ((1), ())",
					  ends.data, ATTEMPTS));
	appendStringInfoString(page,
						   "<figure><figcaption><h2>How long answers took</h2>");
	for (uint64 i = 0; i < found; i++)
	{
		bool isnull;
		Datum number = SPI_getbinval(SPI_tuptable->vals[i],
									 SPI_tuptable->tupdesc, 1, &isnull);
		int64 count = DatumGetInt64(value_at(i, 2));

		if (!isnull)
		{
			int n = DatumGetInt32(number);

			counts[n] = count;
			most = Max(most, count);
			first = Min(first, n);
			last = Max(last, n);
		}
		else if (count > 0)
		{
			Datum *shares;
			int nshares;

			total = count;
			deconstruct_array(DatumGetArrayTypeP(value_at(i, 3)), FLOAT8OID,
							  sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
							  &shares, NULL, &nshares);
			Assert(nshares == 4);
			appendStringInfo(page,
							 "<p>Half within %s, 90 of 100 within %s, 99 of 100 within %s;"
							 " the longest %s.</p></figcaption>\n<div class=\"bars\">\n",
							 duration_text(DatumGetFloat8(shares[0])),
							 duration_text(DatumGetFloat8(shares[1])),
							 duration_text(DatumGetFloat8(shares[2])),
							 duration_text(DatumGetFloat8(shares[3])));
		}
	}
	if (total == 0)
	{
		appendStringInfoString(page,
							   "<p>No answer came.</p></figcaption></figure>\n");
		return;
	}
	for (int i = first; i <= last; i++)
	{
		const char *from = i > 0 ? duration_text(class_ms[i - 1]) : NULL;
		const char *to = i < CLASSES - 1 ? duration_text(class_ms[i]) : NULL;
		const char *label = from == NULL ? "under 1 ms"
			: to == NULL				 ? psprintf("%s and more", from)
										 : psprintf("%s to %s", from, to);

		tegro_page_bar(page, label, (double) counts[i] / (double) most,
					   count_text(counts[i]));
	}
	appendStringInfoString(page, "</div></figure>\n");
}

/* What went wrong, each kind once. */
static void
put_failures(Report *report)
{
	StringInfo page = &report->page;
	/* times and attempts differ from message to message; its words don't */
	uint64 found =
		find(report,
			 "SELECT coalesce(outcome, 'not seen'), http_status,"
			 " regexp_replace(left(message, 500), ' [(][^()]*(total|kept)[^()]*[)]', ''),"
			 " count(*), to_char(max(started_at), 'YYYY-MM-DD HH24:MI')"
			 " FROM " ATTEMPTS
			 " WHERE outcome <> 'answered' OR ended_at IS NULL"
			 " GROUP BY 1, 2, 3 ORDER BY 4 DESC, 5 DESC LIMIT 20");

	if (found == 0)
		return;
	appendStringInfoString(page,
						   "<section><h2>What failed</h2>\n<table><thead><tr><th>Outcome</th>"
						   "<th>Message</th><th class=\"number\">Times</th></tr></thead><tbody>\n");
	for (uint64 i = 0; i < found; i++)
	{
		appendStringInfoString(page, "<tr><td>");
		tegro_page_text(page, text_at(i, 1), 0);
		if (*text_at(i, 2))
			appendStringInfo(page, "<small>HTTP %s</small>", text_at(i, 2));
		appendStringInfoString(page, "</td><td>");
		tegro_page_text(page, text_at(i, 3), TEXT_MAX);
		appendStringInfo(page,
						 "<small>last at %s</small></td><td class=\"number\">%s</td></tr>\n",
						 text_at(i, 5),
						 count_text(DatumGetInt64(value_at(i, 4))));
	}
	appendStringInfoString(page, "</tbody></table></section>\n");
}

/* What the provider told by itself. */
static void
put_notifications(Report *report)
{
	StringInfo page = &report->page;
	int64 first = report->first;
	uint64 found;

	if (!may_read(report, "tegro_notification"))
	{
		appendStringInfoString(page,
							   "<section><h2>Notifications</h2><p class=\"soft\">This role may not read tegro_notification.</p></section>\n");
		return;
	}
	report->first = report->first_notification;
	found =
		find(report,
			 "SELECT state, count(*), to_char(max(received_at), 'YYYY-MM-DD HH24:MI:SS')"
			 " FROM %1$s.tegro_notification"
			 " WHERE id >= $3 AND received_at >= $1 GROUP BY 1 ORDER BY 2 DESC, 1");
	report->first = first;
	appendStringInfoString(page, "<section><h2>Notifications</h2>\n");
	if (found == 0)
		appendStringInfoString(page, "<p>None came.</p>\n");
	else
	{
		appendStringInfoString(page,
							   "<table><thead><tr><th>State</th><th>Last at</th><th class=\"number\">How many</th></tr></thead><tbody>\n");
		for (uint64 i = 0; i < found; i++)
		{
			appendStringInfoString(page, "<tr><td>");
			tegro_page_text(page, text_at(i, 1), 0);
			appendStringInfo(page,
							 "</td><td>%s</td><td class=\"number\">%s</td></tr>\n",
							 text_at(i, 3),
							 count_text(DatumGetInt64(value_at(i, 2))));
		}
		appendStringInfoString(page, "</tbody></table>\n");
	}

	found =
		find(report,
			 "SELECT id, state, order_id, concat_ws(' ', amount, currency),"
			 " CASE WHEN state = 'review' THEN message ELSE callback_message END"
			 " FROM %1$s.tegro_notification WHERE state = 'review' OR callback_state = 'failed'"
			 " ORDER BY id LIMIT " CppAsString2(SHOWN_MAX));
	for (uint64 i = 0; i < found; i++)
	{
		appendStringInfo(page, "<article><h3>Notification %s: order ",
						 text_at(i, 1));
		tegro_page_text(page, text_at(i, 3), TEXT_MAX);
		appendStringInfoString(page, "</h3>\n<dl><dt>Amount</dt><dd>");
		tegro_page_text(page, text_at(i, 4), TEXT_MAX);
		appendStringInfoString(page, "</dd><dt>What happened</dt><dd>");
		tegro_page_text(page, text_at(i, 5), TEXT_MAX);
		appendStringInfo(page,
						 "</dd></dl>\n<pre>SELECT %stegro_retry_notification(%s);</pre></article>\n",
						 report->prefix.data, text_at(i, 1));
	}
	appendStringInfoString(page, "</section>\n");
}

/* What is wrong with the installation. */
static void
put_findings(Report *report)
{
	StringInfo page = &report->page;
	Oid doctor = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
								 CStringGetDatum("tegro_doctor"),
								 PointerGetDatum(buildoidvector(NULL, 0)),
								 ObjectIdGetDatum(report->namespace));
	uint64 found;
	bool any = false;
	int well = 0;

	if (!OidIsValid(doctor))
		return;
	appendStringInfoString(page, "<section><h2>Installation</h2>\n");
	if (!tegro_may_execute(doctor, GetUserId()))
	{
		appendStringInfoString(page,
							   "<p class=\"soft\">This role may not execute tegro_doctor.</p></section>\n");
		return;
	}
	found =
		find(report,
			 "SELECT \"check\", status, detail, hint FROM %1$s.tegro_doctor()");
	for (uint64 i = 0; i < found; i++)
	{
		if (strcmp(text_at(i, 2), "ok") == 0)
			continue;
		if (!any)
			appendStringInfoString(page,
								   "<table><thead><tr><th>Check</th><th>Finding</th></tr></thead><tbody>\n");
		any = true;
		appendStringInfoString(page, "<tr><td>");
		tegro_page_text(page, text_at(i, 1), TEXT_MAX);
		appendStringInfo(page, "</td><td><span class=\"%s\">",
						 strcmp(text_at(i, 2), "skipped") == 0 ? "soft"
															   : "bad");
		tegro_page_text(page, text_at(i, 2), TEXT_MAX);
		appendStringInfoString(page, "</span>: ");
		tegro_page_text(page, text_at(i, 3), 3 * TEXT_MAX);
		if (*text_at(i, 4))
		{
			appendStringInfoString(page, "<small>");
			tegro_page_text(page, text_at(i, 4), 3 * TEXT_MAX);
			appendStringInfoString(page, "</small>");
		}
		appendStringInfoString(page, "</td></tr>\n");
	}
	if (any)
		appendStringInfoString(page, "</tbody></table>\n");

	/* what is well is named, so that it is known to have been looked at */
	for (uint64 i = 0; i < found; i++)
	{
		bool is_well = true;

		/* a check may have several rows; it is well if all of them are */
		for (uint64 j = 0; j < found && is_well; j++)
			is_well = strcmp(text_at(j, 2), "ok") == 0 ||
				strcmp(text_at(j, 1), text_at(i, 1)) != 0;
		if (!is_well)
			continue;
		appendStringInfoString(page,
							   well == 0
								   ? "<p class=\"soft\">All is well with: "
								   : ", ");
		tegro_page_text(page, text_at(i, 1), TEXT_MAX);
		well++;
	}
	appendStringInfoString(page,
						   well > 0 ? ".</p></section>\n" : "</section>\n");
}

static void
put_foot(Report *report)
{
	appendStringInfoString(&report->page,
						   "<footer class=\"soft\"><p>Times of answers are from the claim, just before the send,"
						   " to the record of the answer.");
	if (report->first < PG_INT64_MAX)
		appendStringInfo(&report->page,
						 " Counted are all requests from number " INT64_FORMAT
						 " on, and whatever is left to do. One that was enqueued before that and finished since is not.",
						 report->first);
	appendStringInfoString(&report->page, "</p></footer>\n");
	tegro_page_end(&report->page);
}

/*
 * tegro_report(since timestamptz) returns text
 */
Datum
tegro_report(PG_FUNCTION_ARGS)
{
	Report report = {
		.namespace = tegro_store_of_function(fcinfo->flinfo->fn_oid).namespace};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", "since")));
	report.since = PG_GETARG_TIMESTAMPTZ(0);
	report.until = GetCurrentTimestamp();
	if (report.since >= report.until)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"since\" is not in the past")));
	report.schema = quote_identifier(get_namespace_name(report.namespace));
	must_read(&report, "tegro_outbox");
	must_read(&report, "tegro_event");
	/* the caller's memory: what SPI allocates goes with SPI_finish */
	initStringInfo(&report.page);
	initStringInfo(&report.prefix);
	if (strcmp(report.schema, "public") != 0)
		tegro_page_text(&report.prefix, psprintf("%s.", report.schema), 0);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	find_range(&report);
	find_for_person(&report);
	divide_time(&report);
	put_head(&report);
	put_tiles(&report);
	put_review(&report);
	put_backlog(&report);
	put_sends(&report);
	put_times(&report);
	put_failures(&report);
	put_notifications(&report);
	put_findings(&report);
	put_foot(&report);
	SPI_finish();
	PG_RETURN_TEXT_P(
		cstring_to_text_with_len(report.page.data, report.page.len));
}
