/*-------------------------------------------------------------------------
 *
 * aside.c
 *		Rows that could not be claimed, and are left out for a while.
 *
 * One statement claims many rows.  One row for which it raises an error, a
 * constraint of the owner's that the row breaks, say, or a value that cannot be
 * read, would stop all of them.  So the rows of a claim that failed are claimed
 * one by one (delivery.c).  A row that fails by itself is set aside: claims
 * leave it out by its number, and it is tried by itself again, after one second
 * at first, later after ten minutes.
 *
 * The list is of one process, and short.  A successor begins without it, and
 * finds the same rows again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/client/transport.h"
#include "src/outbox/aside.h"
#include "src/outbox/store.h"

/* Each claim compares each row with each of these. */
#define MAX_ASIDE 1000

/* Milliseconds until a row is tried again: the first, and the last. */
#define FIRST_MS 1000
#define LAST_MS	 (10 * 60 * 1000)

/* Seconds between the lines of the log about one row. */
#define LOG_AGAIN_S (60 * 60)

typedef struct Aside
{
	TegroRow row;
	int64 pause_ms;
	int64 until_us;			 /* on tegro_clock_us() */
	int64 logged_us;		 /* likewise */
	TimestampTz reload_time; /* PgReloadTime when it was tried last */
} Aside;

struct TegroAsides
{
	MemoryContext context;
	List *list; /* of Aside */
};

TegroAsides *
tegro_asides_create(MemoryContext context)
{
	TegroAsides *asides = MemoryContextAllocZero(context, sizeof(TegroAsides));

	asides->context = context;
	return asides;
}

static bool
is_same(TegroRow a, TegroRow b)
{
	return a.id == b.id && a.is_notification == b.is_notification;
}

/* The entry of a row; NULL if it is not set aside. */
static Aside *
find(const TegroAsides *asides, TegroRow row)
{
	ListCell *cell;

	foreach(cell, asides->list)
	{
		Aside *aside = lfirst(cell);

		if (is_same(aside->row, row))
			return aside;
	}
	return NULL;
}

bool
tegro_asides_add(TegroAsides *asides, TegroRow row, const ErrorData *error,
				 int elevel)
{
	Aside *aside = find(asides, row);
	int64 now_us = tegro_clock_us();

	Assert(row.id > 0);
	if (aside == NULL)
	{
		MemoryContext old;

		if (list_length(asides->list) >= MAX_ASIDE)
			return false;
		old = MemoryContextSwitchTo(asides->context);
		aside = palloc0(sizeof(Aside));
		aside->row = row;
		asides->list = lappend(asides->list, aside);
		MemoryContextSwitchTo(old);
	}
	aside->pause_ms = aside->pause_ms == 0 ? FIRST_MS
										   : Min(aside->pause_ms * 2, LAST_MS);
	aside->until_us = now_us + aside->pause_ms * 1000;
	aside->reload_time = PgReloadTime;
	if (error &&
		(aside->logged_us == 0 ||
		 now_us - aside->logged_us > LOG_AGAIN_S * INT64CONST(1000000)))
	{
		aside->logged_us = now_us;
		/* a detail can have the row in it, and an account */
		ereport(elevel,
				(errcode(error->sqlerrcode),
				 row.is_notification
					 ? errmsg("notification " INT64_FORMAT " of tegro could not be claimed: %s",
							  row.id, error->message)
					 : errmsg("request " INT64_FORMAT " of the tegro outbox could not be claimed: %s",
							  row.id, error->message),
				 errhint("It is tried again at intervals, and after a reload of the configuration.")));
	}
	return true;
}

void
tegro_asides_remove(TegroAsides *asides, TegroRow row)
{
	Aside *aside = find(asides, row);

	if (aside)
	{
		asides->list = list_delete_ptr(asides->list, aside);
		pfree(aside);
	}
}

List *
tegro_asides_due(TegroAsides *asides)
{
	int64 now_us = tegro_clock_us();
	List *rows = NIL;
	ListCell *cell;

	foreach(cell, asides->list)
	{
		const Aside *aside = lfirst(cell);

		if (now_us >= aside->until_us || aside->reload_time != PgReloadTime)
		{
			TegroRow *row = palloc(sizeof(TegroRow));

			*row = aside->row;
			rows = lappend(rows, row);
		}
	}
	return rows;
}

bool
tegro_asides_any(const TegroAsides *asides)
{
	return asides->list != NIL;
}

int64
tegro_asides_until(const TegroAsides *asides, int64 until_us)
{
	ListCell *cell;

	foreach(cell, asides->list)
		until_us = Min(until_us, ((Aside *) lfirst(cell))->until_us);
	return until_us;
}

Datum
tegro_asides_ids(const TegroAsides *asides, bool notifications)
{
	int max = asides ? list_length(asides->list) : 0;
	Datum *ids = palloc((max + 1) * sizeof(Datum));
	int n = 0;

	for (int i = 0; i < max; i++)
	{
		const Aside *aside = list_nth(asides->list, i);

		if (aside->row.is_notification == notifications)
			ids[n++] = Int64GetDatum(aside->row.id);
	}
	return tegro_store_ids(ids, n);
}
