/*-------------------------------------------------------------------------
 *
 * fdw.c
 *		Foreign tables over the provider's lists: scans, EXPLAIN, ANALYZE.
 *
 * A foreign table shows one list (list.c) of one shop.  plan.c chooses the
 * requests, a scan reads the rows one by one (reader.c), and tuple.c converts
 * each row to a tuple.
 *
 * Requests are signed with the keys of the role whose rights count for the
 * table: the current user, or the owner of the view through which the query
 * reaches the table.
 *
 * Rescans.  A scan keeps the rows that it has read in a tuplestore, which
 * spills to disk beyond work_mem.  A rescan that would send the same requests
 * returns the kept rows first.  If the scan before it stopped early, the
 * rescan then continues with the reader, whose pages may still be in flight.
 * So one scan node sees one and the same list for as long as its statement
 * runs.
 *
 * "The same requests" is decided by the requests themselves: the shop, and the
 * keys of the lookup.  The executor's chgParam would be too coarse, because
 * the parameters of a filter change the result but not the requests.  A rescan
 * with other keys discards the rows and asks again.  We keep the rows of the
 * last keys only: a bounded cache by key exists already, it is the Memoize
 * node that the planner puts above a parameterized nested loop.  A rescan
 * whose keys are all NULL sends nothing and discards nothing.
 *
 * Hazards:
 *
 *	- Nothing is sent before the executor asks for the first row: EXPLAIN sends
 *	  no request, and neither does a rescan that nobody reads.
 *	- A scan can rest between two rows for as long as a cursor does, while other
 *	  statements run.  Everything in flight belongs to the reader's memory
 *	  context, which is deleted with the query, however the query ends.  The
 *	  tuplestore's file belongs to the resource owner of the query.
 *	- tegro.shop_id can change between two rows.  A reader is bound to the shop
 *	  of its first request, so that no list mixes the rows of two shops, and a
 *	  rescan under another shop asks again.
 *	- The executor resets its per-tuple memory, in which iterate_scan() is
 *	  called, before it clears our slots.  A tuple that comes back from disk
 *	  must be read in memory that lives longer.
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
#include "utils/tuplestore.h"

#include "src/base/compat.h"
#include "src/base/settings.h"
#include "src/fdw/option.h"
#include "src/fdw/plan.h"
#include "src/fdw/reader.h"
#include "src/fdw/tuple.h"

PG_FUNCTION_INFO_V1(tegro_fdw_handler);

/* What a scan asks the provider for. */
typedef struct Question
{
	const char *shop_id;
	TegroKey *keys; /* sorted, without repetitions; NULL: the whole list */
	int nkeys;
} Question;

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

	ExprState *value; /* of the lookup; NULL if there is none */
	bool by_id;
	bool is_array;
	Oid value_type; /* of an array's elements */

	bool keeps;				   /* a rescan is possible: keep the rows */
	TupleTableSlot *kept_slot; /* for reading kept rows; NULL: none are kept */
	int64 reused;			   /* kept rows that were returned again */

	/* since the last rescan */
	bool begun;	  /* the question below is the current one */
	bool nothing; /* no row can match: no request is needed */

	/* the last requests, and the rows that came */
	MemoryContext context; /* of all that follows; NULL: none */
	Question question;
	TegroReader *reader;   /* NULL: all rows were read */
	Tuplestorestate *kept; /* NULL: rows are not kept */
} ListScan;


/*
 * Scanning.
 */

/*
 * Is it certain that nothing rescans this node?  Then its rows need not be
 * kept.
 *
 * A plan node rescans its outer child only if it is rescanned itself.  (The
 * exception is Memoize, which stands on the inner side of a nested loop.)  The
 * top of the plan is rescanned only by a cursor that announces it.  So the
 * nodes that we reach from the top by outer children alone run once.  We do
 * not look at other nodes, some of which also run once; keeping their rows in
 * vain costs a copy.
 */
static bool
runs_once(ForeignScanState *node, int flags)
{
	Plan *plan = node->ss.ps.state->es_plannedstmt->planTree;

	if (flags & EXEC_FLAG_REWIND)
		return false;
	while (plan && plan != node->ss.ps.plan)
		plan = IsA(plan, SubqueryScan) ? ((SubqueryScan *) plan)->subplan
									   : outerPlan(plan);
	return plan != NULL;
}

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
	scan->keeps = !runs_once(node, flags);
	if (scan->keeps)
		scan->kept_slot = ExecInitExtraTupleSlot(node->ss.ps.state,
												 RelationGetDescr(
													 scan->relation),
												 &TTSOpsMinimalTuple);
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
 * Finds the keys that the lookup's condition names.  Returns false if no row
 * can match.
 *
 * No row has a number below 1.  The provider cannot be asked for an empty
 * string: the whole list is read instead, and the condition is checked here.
 */
static bool
find_keys(const ListScan *scan, Datum value, bool is_null, Question *question)
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
			return true;
		nkeys++;
	}

	qsort(keys, nkeys, sizeof(TegroKey), compare_keys);
	for (int i = 0; i < nkeys; i++)
	{
		if (i == 0 || compare_keys(&keys[ndistinct - 1], &keys[i]) != 0)
			keys[ndistinct++] = keys[i];
	}
	question->keys = keys;
	question->nkeys = ndistinct;
	return ndistinct > 0;
}

static bool
is_same(const Question *a, const Question *b)
{
	if (strcmp(a->shop_id, b->shop_id) != 0 ||
		(a->keys == NULL) != (b->keys == NULL) || a->nkeys != b->nkeys)
		return false;
	for (int i = 0; i < a->nkeys; i++)
	{
		if (compare_keys(&a->keys[i], &b->keys[i]) != 0)
			return false;
	}
	return true;
}

/* The shop whose list is read, if the table's server names this one or NULL. */
static const char *
choose_shop(const char *shop_id)
{
	return shop_id ? shop_id : tegro_settings_shop_id();
}

/* Discards the kept rows, and stops the requests in flight. */
static void
discard(ListScan *scan)
{
	if (scan->kept_slot)
		ExecClearTuple(scan->kept_slot);
	if (scan->kept)
		tuplestore_end(scan->kept);
	if (scan->context)
		MemoryContextDelete(scan->context);
	scan->kept = NULL;
	scan->reader = NULL;
	scan->context = NULL;
}

/* Begins to read the answer to a question that lives in "context". */
static void
ask(ListScan *scan, MemoryContext context, const Question *question)
{
	MemoryContext old;

	discard(scan);
	scan->context = context;
	scan->question = *question;

	old = MemoryContextSwitchTo(context);
	scan->reader = tegro_reader_begin(scan->list, question->shop_id,
									  scan->role, scan->expected,
									  &scan->counts);
	if (question->keys)
		tegro_reader_lookup(scan->reader, question->keys, question->nkeys);
	if (scan->keeps)
		scan->kept = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(old);
}

/*
 * Before the first row of a scan, or of a rescan: goes back to the first kept
 * row if the question is the same as before, or else asks it.
 */
static void
begin_rows(ForeignScanState *node, ListScan *scan)
{
	MemoryContext context =
		AllocSetContextCreate(node->ss.ps.state->es_query_cxt, "tegro scan",
							  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Question question = {0};

	if (scan->value)
	{
		bool is_null;
		Datum value = ExecEvalExprSwitchContext(scan->value,
												node->ss.ps.ps_ExprContext,
												&is_null);

		scan->nothing = !find_keys(scan, value, is_null, &question);
	}
	if (!scan->nothing)
		question.shop_id = pstrdup(choose_shop(scan->shop_id));
	MemoryContextSwitchTo(old);

	scan->begun = true;
	if (scan->nothing)
		MemoryContextDelete(context);
	else if (scan->kept && is_same(&question, &scan->question))
	{
		tuplestore_rescan(scan->kept);
		MemoryContextDelete(context);
	}
	else
		ask(scan, context, &question);
}

/* Puts the next kept row into the slot; false if there is none. */
static bool
next_kept_row(ListScan *scan, TupleTableSlot *slot)
{
	TupleTableSlot *kept = scan->kept_slot;
	MemoryContext old;
	bool found;

	if (scan->kept == NULL)
		return false;
	/* the slot frees what is read from disk: see Hazards above */
	old = MemoryContextSwitchTo(scan->context);
	found = tuplestore_gettupleslot(scan->kept, true, false, kept);
	MemoryContextSwitchTo(old);
	if (!found)
		return false;

	Assert(kept->tts_tupleDescriptor->natts ==
		   slot->tts_tupleDescriptor->natts);
	slot_getallattrs(kept);
	memcpy(slot->tts_values, kept->tts_values,
		   kept->tts_tupleDescriptor->natts * sizeof(Datum));
	memcpy(slot->tts_isnull, kept->tts_isnull,
		   kept->tts_tupleDescriptor->natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	scan->reused++;
	return true;
}

/* Puts the reader's next row into the slot, and keeps it, if there is one. */
static void
read_row(ListScan *scan, TupleTableSlot *slot)
{
	JsonbContainer *row = tegro_reader_next(scan->reader);

	if (row == NULL)
	{
		tegro_reader_end(scan->reader);
		scan->reader = NULL;
		return;
	}
	tegro_tuple_fill(scan->tuples, row, slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	if (scan->kept)
		tuplestore_putvalues(scan->kept, slot->tts_tupleDescriptor,
							 slot->tts_values, slot->tts_isnull);
}

static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(slot);
	if (!scan->begun)
		begin_rows(node, scan);
	if (!scan->nothing && !next_kept_row(scan, slot) && scan->reader)
		read_row(scan, slot);
	return slot;
}

static void
rescan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;

	scan->begun = false;
	scan->nothing = false;
}

static void
end_scan(ForeignScanState *node)
{
	ListScan *scan = node->fdw_state;

	if (scan)
		discard(scan);
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
		asks = psprintf("%s, by %s", scan->list->lookup, field);
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
		if (scan->reused > 0 || es->format != EXPLAIN_FORMAT_TEXT)
			ExplainPropertyInteger("Rows Reused", NULL, scan->reused, es);
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
	reader = tegro_reader_begin(list, choose_shop(tegro_option_shop_id(table)),
								GetUserId(), 0, &counts);
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
