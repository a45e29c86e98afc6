/*-------------------------------------------------------------------------
 *
 * store.h
 *		The statements on the outbox's tables, and as whom they run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_STORE_H
#define TEGRO_STORE_H

#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "src/outbox/item.h"
#include "src/outbox/statement.h"

/* Where the outbox is, and whose. */
typedef struct TegroStore
{
	Oid namespace; /* the extension's schema */
	Oid owner;	   /* the extension's owner, who may all */

	/*
	 * tegro_outbox, for who keeps rows of it over transactions: if the
	 * extension is dropped and made anew, the same numbers are other requests.
	 * InvalidOid for all others.
	 */
	Oid table;
} TegroStore;

/*
 * While statements run: as whom, and with which search_path, it was before.
 */
typedef struct TegroStoreScope
{
	Oid user;
	int security_context;
	int guc_level;
} TegroStoreScope;

/*
 * Finds the outbox of this database.  Returns false if the extension is not
 * there.  Needs a transaction.
 */
extern bool tegro_store_find(TegroStore *store);

/* The outbox that a SQL function of this extension belongs to. */
extern TegroStore tegro_store_of_function(Oid function);

/*
 * Begins a scope in which statements run as the outbox's owner, with a
 * search_path of pg_catalog, and ends it.  Throws 42P01 if the outbox's table
 * is known and is there no more; it can't go while the transaction lasts.  In between, the current memory
 * context is SPI's, and goes with the scope.
 */
extern void tegro_store_enter(const TegroStore *store, TegroStoreScope *scope);
extern void tegro_store_leave(const TegroStoreScope *scope);

/*
 * The same for TEGRO_STMT_INSERT and TEGRO_STMT_GET_NUMBER alone, in which every
 * name has its schema and which use no operator: the search_path stays, since
 * changing it twice is expensive.
 */
extern void tegro_store_enter_plainly(const TegroStore *store,
									  TegroStoreScope *scope);

/* Locks and checks tegro_outbox, as a statement that inserts does. */
extern void tegro_store_lock(const TegroStore *store);

/*
 * Runs a statement with these parameters; "nulls" has an 'n' for each that is
 * null, or is NULL.  Returns how many rows it found or changed.
 */
extern uint64 tegro_store_run(const TegroStore *store, TegroStatement which,
							  Datum *values, const char *nulls);

/*
 * The same for a statement that only reads: it sees what the active snapshot
 * sees, and not, as the others do, what the transaction's does.
 */
extern uint64 tegro_store_look(const TegroStore *store, TegroStatement which,
							   Datum *values, const char *nulls);

/*
 * Rows for a statement that works on many at once: it finds them in a relation
 * "given".  They are made, in the scope's memory, for one statement, which
 * frees them when it is run.  "values" and "nulls" have an element for each
 * column that store.c lists for the statement.
 */
typedef struct TegroStoreRows TegroStoreRows;

extern TegroStoreRows *tegro_store_rows(TegroStatement which);
extern void tegro_store_add(TegroStoreRows *rows, Datum *values, bool *nulls);
extern uint64 tegro_store_run_rows(const TegroStore *store,
								   TegroStatement which, TegroStoreRows *rows);

/*
 * What is off while statements are planned: the outbox may be empty then and
 * have millions of rows when the plan is used, so that all ways are by index,
 * in its order.  A scan that is off has a cost by which PostgreSQL would compile
 * the plan, which takes longer than the statement.
 */
#define TEGRO_N_PLANNER_SETTINGS 6
extern const char *const tegro_store_planner_settings[TEGRO_N_PLANNER_SETTINGS];

/* Turns these off, as an action of SET, SET LOCAL or a function's SET. */
extern void tegro_store_plan_by_index(GucAction action);

/*
 * Has the current transaction's commit wait for the disk, and for synchronous
 * standbys: for what is acted on, or acknowledged to others, once it is
 * committed.  Under synchronous_commit = off it could be, and be lost.  It
 * holds for this transaction alone, since a reload may change the setting at
 * any time.
 */
extern void tegro_store_commit_durably(void);

/* Column "n", from 1, of row "row", from 0, of those just found. */
extern Datum tegro_store_column(int row, int n, bool *isnull);

/*
 * The same as a copy, in the current memory context, that outlives the
 * statement; NULL if it is null.
 */
extern char *tegro_store_text(int row, int n);
extern Jsonb *tegro_store_jsonb(int row, int n);

/*
 * A parameter, or nothing for NULL; strings of a list as an array; numbers of
 * requests or notifications, "n" of them as datums, as an array.
 */
extern Datum tegro_store_datum(const char *string);
extern Datum tegro_store_bytes(const char *bytes, size_t len);
extern Datum tegro_store_texts(List *strings);
extern Datum tegro_store_ids(Datum *ids, int n);

/* What "nulls" has for a parameter. */
extern char tegro_store_null(bool is_null);

/* Runs a statement in a scope of its own: for one that finds no rows to read. */
extern uint64 tegro_store_run_alone(const TegroStore *store,
									TegroStatement which, Datum *values,
									const char *nulls);

/*
 * What requests and notifications have in common.
 *
 * tegro_store_hold() locks an item's row, so that settling it waits for
 * nobody.  Throws 55P03 if someone else has it locked.
 *
 * tegro_store_hold_callback() locks the row of a callback that was taken, so
 * that nobody else calls it until the transaction ends.  Returns false if it is
 * another's by now.
 *
 * tegro_store_called_back() writes how a callback went; "message" is NULL where
 * it went well, "delay_ms" is until the next call, -1 for none.
 */
extern void tegro_store_hold(const TegroStore *store, const TegroItem *item);
extern bool tegro_store_hold_callback(const TegroStore *store,
									  const TegroItem *item);
extern void tegro_store_called_back(const TegroStore *store,
									const TegroItem *item, const char *message,
									int64 delay_ms);

#endif /* TEGRO_STORE_H */
