/*-------------------------------------------------------------------------
 *
 * finding.h
 *		Rows of the doctor: what a check found.
 *
 * A check is a function void (TegroDoctor *).  It runs within SPI, with a
 * search_path of pg_catalog, with the caller's rights, and in a subtransaction:
 * what it throws becomes a row (doctor.c).  What it allocates lives as long as
 * SPI's memory context does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_FINDING_H
#define TEGRO_FINDING_H

#include "nodes/execnodes.h"

/*
 * "error" is what keeps something from working, or keys from being secret;
 * "warning" what will, or what a person should look at.
 */
typedef enum TegroFinding
{
	TEGRO_FINDING_OK,
	TEGRO_FINDING_WARNING,
	TEGRO_FINDING_ERROR,
	TEGRO_FINDING_SKIPPED
} TegroFinding;

/* One call of tegro_doctor(). */
typedef struct TegroDoctor
{
	ReturnSetInfo *rsinfo;
	Oid namespace;		/* the extension's */
	const char *schema; /* ... quoted */
	const char *check;	/* the current one's name */
	int nrows;			/* that it has put */
	int64 begun_us;		/* on tegro_clock_us() */

	/* what checks tell those that come after them */
	bool has_key; /* for tegro.shop_id and the current role */
} TegroDoctor;

/*
 * Puts a row, under the current check's name or another.  hint: the command
 * that mends it; may be NULL.
 */
extern void tegro_finding_put(TegroDoctor *doctor, TegroFinding status,
							  const char *detail, const char *hint);
extern void tegro_finding_put_named(TegroDoctor *doctor, const char *check,
									TegroFinding status, const char *detail,
									const char *hint);

/*
 * Runs a query; in it $1, which it must use, is the time now.  ("now()" is when
 * the statement began, and an index is not searched for clock_timestamp().)
 * Returns the number of rows.
 */
extern int tegro_finding_query(const char *format, ...)
	pg_attribute_printf(1, 2);

/* A column of the last query's rows, from 1: as text, "" for null; a number. */
extern const char *tegro_finding_text(int row, int column);
extern int64 tegro_finding_int(int row, int column);

/*
 * Puts the first n rows of the last query, whose columns are check, status,
 * detail and hint.  Throws if a status is not one of ours.
 */
extern void tegro_finding_put_rows(TegroDoctor *doctor, int n);

/*
 * Whose rows the caller's queries of the outbox see: words to go into a
 * sentence, "" where it is everyone's.
 */
extern const char *tegro_finding_whose(TegroDoctor *doctor);

/* Does pg_stat_activity show the caller everyone's sessions? */
extern bool tegro_finding_sees_all_sessions(void);

/* Takes a number for a setting until the check is over. */
extern void tegro_finding_set_number(const char *name, int value);

#endif /* TEGRO_FINDING_H */
