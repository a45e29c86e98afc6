/*-------------------------------------------------------------------------
 *
 * store.c
 *		Runs the statements on the outbox's tables, as their owner.
 *
 * statement.c has the statements; enqueue.c, claim.c, change.c, outbox.c and
 * inbox.c say when which is run.  Each is planned once a session.
 *
 * Rights.  Callers have none on the tables.  The statements run as the
 * extension's owner, with a search_path of pg_catalog alone, so that no
 * object of the caller's can take the place of one of theirs.
 *
 * Other roles' code.  Before each statement that changes a table, or locks rows
 * of it, tegro_guard() makes sure that no trigger, rule, policy or foreign key
 * of somebody else runs within it.
 *
 * Many rows at once are handed to a statement as a relation of its own, as a
 * trigger's transition table is.  (Arrays and unnest() took three times as
 * long, for a dozen columns.)
 *
 * Hazard: rows found by a statement are gone with the next one, and with
 * tegro_store_leave(): they are copied first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "src/base/compat.h"
#include "src/outbox/guard.h"
#include "src/outbox/store.h"

/* The worker's, and set for each statement elsewhere. */
#define SEARCH_PATH "pg_catalog, pg_temp"

struct TegroStoreRows
{
	TupleDesc desc;
	Tuplestorestate *store;
};

/* The plans of this session, for the outbox in that schema. */
static SPIPlanPtr plans[TEGRO_N_STATEMENTS];
static int changed_tables[TEGRO_N_STATEMENTS]; /* of those that are planned */
static Oid plans_namespace = InvalidOid;
static char plans_schema[NAMEDATALEN];

void
tegro_store_enter_plainly(const TegroStore *store, TegroStoreScope *scope)
{
	char *schema;

	Assert(IsTransactionState());
	Assert(OidIsValid(store->namespace) && OidIsValid(store->owner));
	GetUserIdAndSecContext(&scope->user, &scope->security_context);
	SetUserIdAndSecContext(store->owner,
						   scope->security_context |
							   SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	/* another one, or the same under another name */
	schema = get_namespace_name(store->namespace);
	if (plans_namespace != store->namespace ||
		strcmp(plans_schema, schema ? schema : "") != 0)
	{
		for (int i = 0; i < TEGRO_N_STATEMENTS; i++)
		{
			if (plans[i])
				SPI_freeplan(plans[i]);
			plans[i] = NULL;
		}
		plans_namespace = store->namespace;
		strlcpy(plans_schema, schema ? schema : "", sizeof(plans_schema));
	}
}

void
tegro_store_enter(const TegroStore *store, TegroStoreScope *scope)
{
	if (OidIsValid(store->table))
	{
		LockRelationOid(store->table, AccessShareLock);
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(store->table)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("the outbox was dropped")));
	}
	tegro_store_enter_plainly(store, scope);
	if (strcmp(namespace_search_path, SEARCH_PATH) != 0)
		(void) set_config_option("search_path", SEARCH_PATH, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
}

void
tegro_store_leave(const TegroStoreScope *scope)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->security_context);
}

static char *
quoted_schema(const TegroStore *store)
{
	char *name = get_namespace_name(store->namespace);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("extension \"tegro\" is gone")));
	return pstrdup(quote_identifier(name));
}

const char *const tegro_store_planner_settings[TEGRO_N_PLANNER_SETTINGS] =
	{"enable_seqscan",	"enable_sort",		"enable_bitmapscan",
	 "enable_hashjoin", "enable_mergejoin", "jit"};

void
tegro_store_plan_by_index(GucAction action)
{
	for (int i = 0; i < TEGRO_N_PLANNER_SETTINGS; i++)
		(void) set_config_option(tegro_store_planner_settings[i], "off",
								 PGC_USERSET, PGC_S_SESSION, action, true, 0,
								 false);
}

/* Plans a statement, if it is not planned yet. */
static void
prepare(const TegroStore *store, TegroStatement which)
{
	Assert(which >= 0 && which < TEGRO_N_STATEMENTS);
	/* the scope forgets the plans of another schema */
	Assert(plans_namespace == store->namespace);
	if (plans[which] == NULL)
	{
		char *sql = psprintf(tegro_statements[which].text,
							 quoted_schema(store));
		SPIPlanPtr plan;

		Assert(tegro_statements[which].text != NULL);
		tegro_store_plan_by_index(GUC_ACTION_SAVE);
		plan = SPI_prepare_cursor(sql, tegro_statements[which].nargs,
								  (Oid *) tegro_statements[which].args,
								  CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed for \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		changed_tables[which] = tegro_guard_changed_tables(
			tegro_statements[which].text);
		plans[which] = plan;
	}
}

void
tegro_store_lock(const TegroStore *store)
{
	static int changed = 0;

	Assert(GetUserId() == store->owner);
	if (changed == 0)
		changed = tegro_guard_changed_tables(
			tegro_statements[TEGRO_STMT_INSERT].text);
	tegro_guard(store->namespace, changed);
}

static uint64
execute(const TegroStore *store, TegroStatement which, Datum *values,
		const char *nulls, bool read_only)
{
	int result;

	/* within a scope, in which callers' rights and names are shut out */
	Assert(GetUserId() == store->owner);
	Assert(InLocalUserIdChange());
	Assert(values || tegro_statements[which].nargs == 0);
	prepare(store, which);
	if (changed_tables[which] != 0)
		tegro_guard(store->namespace, changed_tables[which]);
	result = SPI_execute_plan(plans[which], values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

uint64
tegro_store_run(const TegroStore *store, TegroStatement which, Datum *values,
				const char *nulls)
{
	return execute(store, which, values, nulls, false);
}

uint64
tegro_store_look(const TegroStore *store, TegroStatement which, Datum *values,
				 const char *nulls)
{
	return execute(store, which, values, nulls, true);
}

/* What the rows are like that a statement is given. */
static TupleDesc
get_given(TegroStatement which)
{
	static TupleDesc known[TEGRO_N_STATEMENTS];
	const TegroGivenColumn *columns = tegro_statements[which].given;
	int ncolumns = 0;
	MemoryContext old;
	TupleDesc desc;

	Assert(columns != NULL);
	if (known[which])
		return known[which];

	while (columns[ncolumns].name)
		ncolumns++;
	old = MemoryContextSwitchTo(TopMemoryContext);
	desc = CreateTemplateTupleDesc(ncolumns);
	for (int i = 0; i < ncolumns; i++)
		TupleDescInitEntry(desc, (AttrNumber) (i + 1), columns[i].name,
						   columns[i].type, -1, 0);
	tegro_finish_tuple_desc(desc);
	known[which] = desc;
	MemoryContextSwitchTo(old);
	return desc;
}

TegroStoreRows *
tegro_store_rows(TegroStatement which)
{
	TegroStoreRows *rows = palloc(sizeof(TegroStoreRows));

	rows->desc = get_given(which);
	rows->store = tuplestore_begin_heap(false, false, work_mem);
	return rows;
}

void
tegro_store_add(TegroStoreRows *rows, Datum *values, bool *nulls)
{
	tuplestore_putvalues(rows->store, rows->desc, values, nulls);
}

uint64
tegro_store_run_rows(const TegroStore *store, TegroStatement which,
					 TegroStoreRows *rows)
{
	EphemeralNamedRelationData given =
		{.md = {.name = pstrdup("given"),
				.reliddesc = InvalidOid,
				.tupdesc = rows->desc,
				.enrtype = ENR_NAMED_TUPLESTORE,
				.enrtuples = (double) tuplestore_tuple_count(rows->store)},
		 .reldata = rows->store};
	uint64 nrows;

	Assert(rows->desc == get_given(which));
	if (SPI_register_relation(&given) != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed");
	nrows = tegro_store_run(store, which, NULL, NULL);
	SPI_unregister_relation(given.md.name);
	tuplestore_end(rows->store);
	return nrows;
}

Datum
tegro_store_column(int row, int n, bool *isnull)
{
	/* those of the statement that was run last */
	Assert(SPI_tuptable != NULL);
	Assert(row >= 0 && (uint64) row < SPI_tuptable->numvals);
	Assert(n >= 1 && n <= SPI_tuptable->tupdesc->natts);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, n,
						 isnull);
}

char *
tegro_store_text(int row, int n)
{
	bool isnull;
	Datum value = tegro_store_column(row, n, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

Jsonb *
tegro_store_jsonb(int row, int n)
{
	bool isnull;
	Datum value = tegro_store_column(row, n, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

Datum
tegro_store_datum(const char *string)
{
	return string ? CStringGetTextDatum(string) : (Datum) 0;
}

Datum
tegro_store_bytes(const char *bytes, size_t len)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, (int) len));
}

Datum
tegro_store_texts(List *strings)
{
	Datum *texts = palloc((list_length(strings) + 1) * sizeof(Datum));
	int n = 0;
	ListCell *cell;

	foreach(cell, strings)
		texts[n++] = CStringGetTextDatum((char *) lfirst(cell));
	return PointerGetDatum(
		construct_array(texts, n, TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
tegro_store_ids(Datum *ids, int n)
{
	Assert(n >= 0);
	return PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

char
tegro_store_null(bool is_null)
{
	return is_null ? 'n' : ' ';
}

uint64
tegro_store_run_alone(const TegroStore *store, TegroStatement which,
					  Datum *values, const char *nulls)
{
	TegroStoreScope scope;
	uint64 nrows;

	tegro_store_enter(store, &scope);
	nrows = tegro_store_run(store, which, values, nulls);
	tegro_store_leave(&scope);
	return nrows;
}

void
tegro_store_hold(const TegroStore *store, const TegroItem *item)
{
	Datum values[1] = {Int64GetDatum(item->id)};

	(void) tegro_store_run_alone(store,
								 item->is_notification
									 ? TEGRO_STMT_HOLD_NOTIFICATION
									 : TEGRO_STMT_HOLD,
								 values, NULL);
}

bool
tegro_store_hold_callback(const TegroStore *store, const TegroItem *item)
{
	Datum values[2] = {Int64GetDatum(item->id), Int64GetDatum(item->claim_no)};

	return tegro_store_run_alone(store,
								 item->is_notification
									 ? TEGRO_STMT_HOLD_NOTIFICATION_CALLBACK
									 : TEGRO_STMT_HOLD_CALLBACK,
								 values, NULL) > 0;
}

void
tegro_store_called_back(const TegroStore *store, const TegroItem *item,
						const char *message, int64 delay_ms)
{
	Datum values[4] = {Int64GetDatum(item->id), Int64GetDatum(item->claim_no),
					   tegro_store_datum(message),
					   TimestampTzGetDatum(
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   delay_ms))};
	char nulls[5] = "    ";

	nulls[2] = tegro_store_null(message == NULL);
	nulls[3] = tegro_store_null(delay_ms < 0);
	(void) tegro_store_run_alone(store,
								 item->is_notification
									 ? TEGRO_STMT_CALLED_BACK_NOTIFICATION
									 : TEGRO_STMT_CALLED_BACK,
								 values, nulls);
}

TegroStore
tegro_store_of_function(Oid function)
{
	static Oid known_function = InvalidOid;
	static TegroStore known;
	HeapTuple tuple;

	if (known_function == function)
		return known;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	known.namespace = ((Form_pg_proc) GETSTRUCT(tuple))->pronamespace;
	known.owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	known_function = function;
	return known;
}

void
tegro_store_commit_durably(void)
{
	Assert(IsTransactionState());
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	Assert(synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_FLUSH);
}

bool
tegro_store_find(TegroStore *store)
{
	bool found = false;

	Assert(IsTransactionState());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute("SELECT extnamespace, extowner FROM pg_catalog.pg_extension"
					" WHERE extname OPERATOR(pg_catalog.=) 'tegro'",
					true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
	{
		bool isnull;

		store->namespace = DatumGetObjectId(tegro_store_column(0, 1, &isnull));
		store->owner = DatumGetObjectId(tegro_store_column(0, 2, &isnull));
		store->table = get_relname_relid("tegro_outbox", store->namespace);
		found = OidIsValid(store->table);
	}
	SPI_finish();
	return found;
}
