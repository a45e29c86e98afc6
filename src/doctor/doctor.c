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
 *	  first half, each a tenth at most, and the request has what is left.
 *
 * The checks are in installation.c, operation.c and provider.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timeout.h"

#include "src/base/error.h"
#include "src/doctor/installation.h"
#include "src/doctor/operation.h"
#include "src/doctor/provider.h"
#include "src/base/settings.h"
#include "src/client/transport.h"

PG_FUNCTION_INFO_V1(tegro_doctor);

/* The part of tegro.timeout that one check of tables may take: a tenth. */
#define CHECK_SHARE 10

/* Set when a check has taken too long, and was cancelled for that. */
static volatile sig_atomic_t took_too_long = false;

static const struct
{
	const char *name;
	void (*check)(TegroDoctor *doctor);
} checks[] = {
	{"library", tegro_check_library},
	{"libcurl", tegro_check_libcurl},
	{"settings", tegro_check_settings},
	{"configuration", tegro_check_configuration},
	{"patterns", tegro_check_patterns},
	{"credentials", tegro_check_credentials},
	{"secret key", tegro_check_secret_key},
	{"credentials file", tegro_check_credentials_place},
	{"keys in files", tegro_check_keys_in_configuration},
	{"keys in catalogs", tegro_check_keys_in_catalogs},
	{"keys in session", tegro_check_keys_of_session},
	{"rights", tegro_check_rights},
	{"durability", tegro_check_durability},
	{"delivery", tegro_check_delivery},
	{"origin", tegro_check_origin},
	{"worker slots", tegro_check_worker_slots},
	{"backlog", tegro_check_backlog},
	{"failing", tegro_check_failing},
	{"review", tegro_check_review},
	{"callbacks", tegro_check_callbacks},
	{"notifications", tegro_check_notifications},
	{"payment callback", tegro_check_payment_callback},
	{"size", tegro_check_size},
	{"old snapshots", tegro_check_snapshots},
	{"provider", tegro_check_provider},
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
	TegroDoctor *doctor;
	void (*check)(TegroDoctor *doctor);
} Visit;

/* How long one check of tables may take, in milliseconds. */
static int
check_ms(void)
{
	return Max(tegro_timeout / CHECK_SHARE, 1);
}

static void
make_visit(void *arg)
{
	Visit *visit = arg;
	int guc_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	/* a table that someone has locked must not hold us */
	tegro_finding_set_number("lock_timeout", check_ms());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	visit->check(visit->doctor);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/* A check's error, as a row; throws it on if it is not the check's. */
static void
put_error(TegroDoctor *doctor, ErrorData *error)
{
	char *detail = psprintf("%s.%s%s", error->message,
							error->detail ? " " : "",
							error->detail ? error->detail : "");

	/* for the log, and so for superusers: which file it is */
	if (superuser() && error->detail_log)
		detail = psprintf("%s. %s", error->message, error->detail_log);
	detail[0] = pg_toupper((unsigned char) detail[0]);

	if (took_too_long && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "It would have taken too long.",
						  "Raise tegro.timeout for this session and try again.");
	else if (error->elevel >= FATAL ||
			 error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			 ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
				 ERRCODE_TO_CATEGORY(ERRCODE_ADMIN_SHUTDOWN))
		ReThrowError(error);
	else if (ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
			 ERRCODE_TO_CATEGORY(TEGRO_ERRCODE_REFUSED))
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR, detail, error->hint);
	else if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  psprintf("Role \"%s\" may not look: %s.",
								   GetUserNameFromId(GetUserId(), false),
								   error->message),
						  "Grant it that right, or call tegro_doctor() as a superuser.");
	else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		tegro_finding_put(doctor, TEGRO_FINDING_SKIPPED,
						  "Someone has the table locked.",
						  "See who in pg_locks, and try again.");
	else
		tegro_finding_put(doctor, TEGRO_FINDING_ERROR,
						  psprintf("The check itself failed: %s", detail),
						  error->hint);
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
	TegroDoctor doctor = {0};

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
		bool has_limit = checks[i].check != tegro_check_provider;
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
								 (int) Max(Min(left_ms, check_ms()), 1));
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
