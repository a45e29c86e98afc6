/*-------------------------------------------------------------------------
 *
 * fdw.c
 *		Foreign tables over the provider's lists: scans, EXPLAIN, ANALYZE.
 *
 * A foreign table shows one list (list.c) of one shop.  plan.c decides what is
 * asked for, a scan reads it row by row (reader.c), and each row is made a
 * tuple (tuple.c).
 *
 * Whose keys?  Those of the role whose rights count for the table: the
 * current user, or the owner of the view through which it is reached.
 *
 * Hazards:
 *
 *	- Nothing is sent before the first row is wanted: EXPLAIN asks nobody.
 *	- A scan may rest between two rows for as long as a cursor does, and other
 *	  statements run meanwhile.  All that it has in flight belongs to the
 *	  reader's memory context, which goes with the query on whatever way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/sampling.h"

#include "src/base/compat.h"
#include "src/fdw/option.h"
#include "src/fdw/plan.h"
#include "src/fdw/reader.h"
#include "src/fdw/tuple.h"

PG_FUNCTION_INFO_V1(tegro_fdw_handler);

/* A scan under way; ForeignScanState.fdw_state. */
typedef struct ListScan
{
	Relation relation;
	const TegroList *list;
	char *shop_id; /* NULL: tegro.shop_id */
	Oid role;
	int expected;
	TegroTupleMaker *tuples;
	TegroReaderCounts counts;

	ExprState *value; /* of the look-up; NULL if there is none */
	bool by_id;
	bool is_array;
	Oid value_type; /* of an array's elements */

	MemoryContext context; /* of the reader and its keys; reset at a rescan */
	TegroReader *reader;   /* NULL: not begun */
	bool nothing;		   /* no row can match: nobody is asked */
} ListScan;


/*
 * Scanning.
 */

static void
begin_scan(ForeignScanState *node, int flags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	ListScan *scan = palloc0(sizeof(ListScan));
	const char *field = strVal(
		list_nth(plan->fdw_private, TEGRO_PLAN_LOOK_UP));

	node->fdw_state = scan;
	scan->relation = node->ss.ss_currentRelation;
	scan->list = tegro_option_list(RelationGetRelid(scan->relation));
	scan->shop_id = tegro_option_shop_id(RelationGetRelid(scan->relation));
	if (flags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	scan->role = tegro_scan_role(node);
	scan->expected = intVal(list_nth(plan->fdw_private, TEGRO_PLAN_EXPECTED));
	scan->tuples = tegro_tuple_prepare(scan->relation, scan->list,
									   list_nth(plan->fdw_private,
												TEGRO_PLAN_COLUMNS));
	scan->context = AllocSetContextCreate(CurrentMemoryContext, "tegro scan",
										  ALLOCSET_SMALL_SIZES);
	if (*field)
	{
		Node *value = linitial(plan->fdw_exprs);
		Oid element = get_element_type(exprType(value));

		scan->value = ExecInitExpr((Expr *) value, &node->ss.ps);
		scan->by_id = strcmp(field, TEGRO_FIELD_ID) == 0;
		scan->is_array = OidIsValid(element);
		scan->value_type = scan->is_array ? element : exprType(value);
	}
}

/* The number that an integer of some width is. */
static int64
get_integer(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

static int
compare_keys(const void *a, const void *b)
{
	const TegroKey *left = a;
	const TegroKey *right = b;
	Size left_len;
	Size right_len;
	int result;

	if (left->payment_id == NULL)
		return left->id < right->id ? -1 : left->id > right->id;
	left_len = VARSIZE_ANY_EXHDR(left->payment_id);
	right_len = VARSIZE_ANY_EXHDR(right->payment_id);
	result = memcmp(VARDATA_ANY(left->payment_id),
					VARDATA_ANY(right->payment_id), Min(left_len, right_len));
	return result != 0		   ? result
		: left_len < right_len ? -1
							   : left_len > right_len;
}

/*
 * Has the reader look up what the condition names.
 *
 * Numbers below 1 are nobody's.  The provider can't be asked for an empty
 * string; there the list is read after all, and the condition does the rest.
 */
static void
begin_look_up(ListScan *scan, Datum value, bool is_null)
{
	Datum *values = &value;
	bool *nulls = &is_null;
	int nvalues = 1;
	TegroKey *keys;
	int nkeys = 0;
	int ndistinct = 0;

	if (scan->is_array && is_null)
		nvalues = 0;
	else if (scan->is_array)
	{
		int16 len;
		bool by_value;
		char align;

		get_typlenbyvalalign(scan->value_type, &len, &by_value, &align);
		deconstruct_array(DatumGetArrayTypePCopy(value), scan->value_type, len,
						  by_value, align, &values, &nulls, &nvalues);
	}

	keys = palloc0((nvalues + 1) * sizeof(TegroKey));
	for (int i = 0; i < nvalues; i++)
	{
		TegroKey *key = &keys[nkeys];

		if (nulls[i])
			continue;
		if (scan->by_id)
		{
			key->id = get_integer(values[i], scan->value_type);
			nkeys += key->id >= 1;
			continue;
		}
		key->payment_id = DatumGetTextPCopy(values[i]);
		if (VARSIZE_ANY_EXHDR(key->payment_id) == 0)
			return;
		nkeys++;
	}

	qsort(keys, nkeys, sizeof(TegroKey), compare_keys);
	for (int i = 0; i < nkeys; i++)
	{
		if (i == 0 || compare_keys(&keys[ndistinct - 1], &keys[i]) != 0)
			keys[ndistinct++] = keys[i];
	}
	if (ndistinct == 0)
		scan->nothing = true;
	else
		tegro_reader_look_up(scan->reader, keys, ndistinct);
}

static void
begin_reading(ForeignScanState *node, ListScan *scan)
{
	MemoryContext old = MemoryContextSwitchTo(scan->context);

	Assert(scan->reader == NULL && !scan->nothing);
	scan->reader = tegro_reader_begin(scan->list, scan->shop_id, scan->role,
									  scan->expected, &scan->counts);
	if (scan->value)
	{
		bool is_null;
		Datum value = ExecEvalExprSwitchContext(scan->value,
												node->ss.ps.ps_ExprContext,
												&is_null);

		begin_look_up(scan, value, is_null);
	}
	MemoryContextSwitchTo(old);
}


static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	JsonbContainer *row;

	ExecClearTuple(slot);
	if (scan->reader == NULL)
		begin_reading(node, scan);
	row = scan->nothing ? NULL : tegro_reader_next(scan->reader);
	if (row)
	{
		tegro_tuple_fill(scan->tuples, row, slot->tts_values,
						 slot->tts_isnull);
		ExecStoreVirtualTuple(slot);
	}
	return slot;
}

static void
rescan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;

	if (scan->context)
		MemoryContextReset(scan->context);
	scan->reader = NULL;
	scan->nothing = false;
}

static void
end_scan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;

	if (scan && scan->context)
		MemoryContextDelete(scan->context);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	ListScan *scan = node->fdw_state;
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	const char *field = strVal(
		list_nth(plan->fdw_private, TEGRO_PLAN_LOOK_UP));
	const char *asks;

	if (*field)
		asks = psprintf("%s, by %s", scan->list->look_up, field);
	else
		asks = psprintf("%s%s", scan->list->method,
						scan->list->paged ? ", page by page" : "");
	ExplainPropertyText("Asks", asks, es);
	if (es->verbose)
	{
		const char *shop_id = scan->shop_id
			? scan->shop_id
			: GetConfigOption("tegro.shop_id", true, false);

		ExplainPropertyText("Shop", shop_id ? shop_id : "", es);
	}
	if (es->analyze)
	{
		ExplainPropertyInteger("Requests", NULL, scan->counts.requests, es);
		ExplainPropertyInteger("Requests at Once", NULL, scan->counts.at_once,
							   es);
	}
}


/*
 * Writing, which there is none of.
 */

static List *
plan_modify(PlannerInfo *root, ModifyTable *plan, Index relation, int subplan)
{
	RangeTblEntry *rte = planner_rt_fetch(relation, root);

	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot change foreign table \"%s\"", get_rel_name(rte->relid)),
			 errdetail("It shows a list of the provider's, which can only be read."),
			 errhint("Orders and payouts are made with tegro_create_order, tegro_create_withdrawal and tegro_enqueue.")));
	return NIL;
}


/*
 * ANALYZE, which reads the whole list.
 */

static int
acquire_sample(Relation relation, int level, HeapTuple *rows, int wanted,
			   double *total, double *dead)
{
	Oid table = RelationGetRelid(relation);
	int natts = RelationGetDescr(relation)->natts;
	Datum *values = palloc(natts * sizeof(Datum));
	bool *nulls = palloc(natts * sizeof(bool));
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "tegro row",
													  ALLOCSET_DEFAULT_SIZES);
	ReservoirStateData reservoir;
	double to_skip = -1;
	int nrows = 0;
	const TegroList *list = tegro_option_list(table);
	List *columns = NIL;
	TegroTupleMaker *tuples;
	TegroReaderCounts counts = {0};
	TegroReader *reader;
	JsonbContainer *row;

	*total = *dead = 0;
	tegro_tuple_check(relation, list);
	for (int i = 1; i <= natts; i++)
		columns = lappend_int(columns, i);
	tuples = tegro_tuple_prepare(relation, list, columns);
	reader = tegro_reader_begin(list, tegro_option_shop_id(table), GetUserId(),
								0, &counts);
	reservoir_init_selection_state(&reservoir, wanted);

	while ((row = tegro_reader_next(reader)) != NULL)
	{
		int place = -1;
		MemoryContext old;
		HeapTuple tuple;

		(*total)++;
		if (nrows < wanted)
			place = nrows++;
		else
		{
			/* as PostgreSQL's own: each row is as likely as any other */
			if (to_skip < 0)
				to_skip = reservoir_get_next_S(&reservoir, *total - 1, wanted);
			if (to_skip <= 0)
			{
				place = (int) (wanted *
							   sampler_random_fract(&reservoir.randstate));
				Assert(place >= 0 && place < wanted);
				heap_freetuple(rows[place]);
			}
			to_skip -= 1;
		}
		if (place < 0)
			continue;

		old = MemoryContextSwitchTo(row_context);
		tegro_tuple_fill(tuples, row, values, nulls);
		MemoryContextSwitchTo(old);
		tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
		rows[place] = tuple;
		MemoryContextReset(row_context);
	}
	Assert(nrows <= wanted && nrows <= *total);
	tegro_reader_end(reader);
	MemoryContextDelete(row_context);

	ereport(level,
			(errmsg("\"%s\": the list has %.0f rows; %d rows in sample",
					RelationGetRelationName(relation), *total, nrows)));
	return nrows;
}

static bool
analyze_table(Relation relation, AcquireSampleRowsFunc *function,
			  BlockNumber *pages)
{
	*function = acquire_sample;
	/* it has none; PostgreSQL takes 0 for a table that was never filled */
	*pages = 1;
	return true;
}

/*
 * tegro_fdw_handler() returns fdw_handler
 */
Datum
tegro_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = tegro_plan_size;
	routine->GetForeignPaths = tegro_plan_paths;
	routine->GetForeignPlan = tegro_plan_make;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
	routine->PlanForeignModify = plan_modify;
	routine->AnalyzeForeignTable = analyze_table;
	routine->ImportForeignSchema = tegro_option_import;
	PG_RETURN_POINTER(routine);
}
