/*-------------------------------------------------------------------------
 *
 * finding.c
 *		Rows of the doctor: what a check found.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "src/base/error.h"
#include "src/doctor/finding.h"

static const char *const status_names[] = {
	[TEGRO_FINDING_OK] = "ok",
	[TEGRO_FINDING_WARNING] = "warning",
	[TEGRO_FINDING_ERROR] = "error",
	[TEGRO_FINDING_SKIPPED] = "skipped",
};

void
tegro_finding_put_named(TegroDoctor *doctor, const char *check,
						TegroFinding status, const char *detail,
						const char *hint)
{
	const char *shown = hint ? tegro_error_for_client(hint) : "";
	Datum values[4] = {CStringGetTextDatum(check),
					   CStringGetTextDatum(status_names[status]),
					   CStringGetTextDatum(tegro_error_for_client(detail)),
					   (Datum) 0};
	bool nulls[4] = {false, false, false, hint == NULL};

	if (hint && strcmp(shown, hint) != 0)
		shown =
			psprintf("%s (A name in it has characters that cannot be shown, here as \\xNN: the command does not work as it is.)",
					 shown);
	values[3] = CStringGetTextDatum(shown);
	tuplestore_putvalues(doctor->rsinfo->setResult, doctor->rsinfo->setDesc,
						 values, nulls);
	doctor->nrows++;
}

void
tegro_finding_put(TegroDoctor *doctor, TegroFinding status, const char *detail,
				  const char *hint)
{
	tegro_finding_put_named(doctor, doctor->check, status, detail, hint);
}

int
tegro_finding_query(const char *format, ...)
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

const char *
tegro_finding_text(int row, int column)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
							   column);

	return value ? value : "";
}

int64
tegro_finding_int(int row, int column)
{
	return strtoi64(tegro_finding_text(row, column), NULL, 10);
}

/* The status of that name. */
static TegroFinding
status_by_name(const char *name)
{
	for (int i = 0; i < lengthof(status_names); i++)
	{
		if (strcmp(name, status_names[i]) == 0)
			return (TegroFinding) i;
	}
	elog(ERROR, "a finding has the unknown status \"%s\"", name);
}

void
tegro_finding_put_rows(TegroDoctor *doctor, int n)
{
	for (int i = 0; i < n; i++)
	{
		const char *hint = tegro_finding_text(i, 4);

		tegro_finding_put_named(doctor, tegro_finding_text(i, 1),
								status_by_name(tegro_finding_text(i, 2)),
								tegro_finding_text(i, 3), *hint ? hint : NULL);
	}
}

const char *
tegro_finding_whose(TegroDoctor *doctor)
{
	Oid table = get_relname_relid("tegro_outbox", doctor->namespace);

	return check_enable_rls(table, InvalidOid, true) == RLS_ENABLED
		? psprintf(" (of the requests that role \"%s\" may see)",
				   GetUserNameFromId(GetUserId(), false))
		: "";
}

bool
tegro_finding_sees_all_sessions(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

void
tegro_finding_set_number(const char *name, int value)
{
	(void) set_config_option(name, psprintf("%d", value), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}
