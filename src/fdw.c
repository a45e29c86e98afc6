/*-------------------------------------------------------------------------
 *
 * fdw.c
 *		Foreign tables over the provider's lists.
 *
 * A foreign table shows one list (list.c) of one shop.  A scan reads it row by
 * row (reader.c), or looks up the rows that a condition names: with
 *
 *		id = x, payment_id = x, id = ANY (x), payment_id = ANY (x)
 *
 * one request for each value takes the place of the whole list.  x may be
 * anything that is known before the table is read: a constant, a parameter,
 * and with a nested loop the column of another table.  All conditions are
 * checked here again; the provider is only asked for fewer rows.
 *
 * What it costs.  A request stands for REQUEST_COST.  Requests of a list
 * overlap and look-ups of a nested loop don't, so the planner looks up what a
 * few rows name, and reads the list for many.
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
 *	- The provider's values go through the input functions of the columns'
 *	  types, which throw at what they can't read.  Only columns that the
 *	  query needs are read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/sampling.h"

#include "src/compat.h"
#include "src/option.h"
#include "src/reader.h"
#include "src/settings.h"

PG_FUNCTION_INFO_V1(tegro_fdw_handler);

/*
 * A request, in the planner's unit, the reading of a page from disk: 10 to 100
 * ms of waiting.  Not more, or it would compile a query (jit_above_cost) whose
 * time goes by elsewhere.
 */
#define REQUEST_COST 100.0

/* Reading a row of an answer, in cpu_tuple_cost: some 10 us. */
#define ROW_COST 10.0

/* Rows of a page, for the estimate; the provider does not say. */
#define EXPECTED_PAGE_ROWS 100.0

/* Values of an array whose length is not known when the query is planned. */
#define EXPECTED_KEYS 10.0

/* What the planner knows of a table; baserel->fdw_private. */
typedef struct TablePlan
{
	const TegroList *list;
	AttrNumber id;		   /* columns by which rows can be looked up, */
	AttrNumber payment_id; /* InvalidAttrNumber where it has none */
	int expected;		   /* rows at the last ANALYZE; 0: unknown */
} TablePlan;

/* A condition that names rows to look up. */
typedef struct LookUp
{
	AttrNumber column; /* InvalidAttrNumber: none; the list is read */
	Expr *value;
	bool is_array;
	double nkeys; /* how many, as far as can be told */
} LookUp;

/* What a plan carries; ForeignScan.fdw_private is a list of these. */
enum
{
	PLAN_LOOK_UP, /* String: field by which rows are looked up, or "" */
	PLAN_COLUMNS, /* IntList: columns that are needed */
	PLAN_EXPECTED /* Integer: rows that the list may have; 0: unknown */
};

/* A column to be filled. */
typedef struct ScanColumn
{
	int i;			  /* in the row, from 0 */
	const char *name; /* as the list has it */
	bool is_other;	  /* all fields that the list is not known to have */
	bool is_json;	  /* takes JSON as it is, not a string's content */
	FmgrInfo input;
	Oid io_param;
	int32 typmod;
} ScanColumn;

/* A scan under way; ForeignScanState.fdw_state. */
typedef struct ListScan
{
	Relation relation;
	const TegroList *list;
	char *shop_id; /* NULL: tegro.shop_id */
	Oid role;
	int expected;
	ScanColumn *columns;
	int ncolumns;
	TegroReaderCounts counts;

	ExprState *value; /* of the look-up; NULL if there is none */
	bool by_id;
	bool is_array;
	Oid value_type; /* of an array's elements */

	MemoryContext context; /* of the reader and its keys; reset at a rescan */
	TegroReader *reader;   /* NULL: not begun */
	bool nothing;		   /* no row can match: nobody is asked */

	/* for errors */
	const ScanColumn *column;
	JsonbContainer *row;
} ListScan;


/*
 * Planning.
 */

/*
 * Finds out what a table shows; throws if it has a column that its list can't
 * fill.
 */
static TablePlan *
plan_table(Oid table)
{
	TablePlan *plan = palloc0(sizeof(TablePlan));
	Relation relation = table_open(table, NoLock);
	TupleDesc desc = RelationGetDescr(relation);

	plan->list = tegro_option_list(table);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		const char *name = NameStr(attribute->attname);

		if (attribute->attisdropped)
			continue;
		if (tegro_list_field(plan->list, name) == NULL &&
			!(tegro_list_has_other(plan->list) &&
			  strcmp(name, TEGRO_COLUMN_OTHER) == 0))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_COLUMN_NAME_NOT_FOUND),
					 errmsg("column \"%s\" of foreign table \"%s\" is not in the list \"%s\"",
							name, RelationGetRelationName(relation), plan->list->name),
					 errhint("It has: %s.", tegro_list_columns(plan->list))));
		if (plan->list->look_up == NULL)
			continue;
		if (strcmp(name, TEGRO_FIELD_ID) == 0 &&
			(attribute->atttypid == INT8OID ||
			 attribute->atttypid == INT4OID || attribute->atttypid == INT2OID))
			plan->id = attribute->attnum;
		if (strcmp(name, TEGRO_FIELD_PAYMENT_ID) == 0 &&
			(attribute->atttypid == TEXTOID ||
			 attribute->atttypid == VARCHAROID))
			plan->payment_id = attribute->attnum;
	}
	table_close(relation, NoLock);
	return plan;
}

/* The column of the table that an expression is, if it is nothing more. */
static AttrNumber
column_of(Node *node, Index relid)
{
	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node && IsA(node, Var) && ((Var *) node)->varno == relid &&
		((Var *) node)->varlevelsup == 0)
		return ((Var *) node)->varattno;
	return InvalidAttrNumber;
}

/* How many values an array has, as far as can be told. */
static double
count_keys(Node *array)
{
	if (IsA(array, Const) && !((Const *) array)->constisnull)
	{
		ArrayType *value = DatumGetArrayTypeP(((Const *) array)->constvalue);

		return ArrayGetNItems(ARR_NDIM(value), ARR_DIMS(value));
	}
	if (IsA(array, ArrayExpr) && !((ArrayExpr *) array)->multidims)
		return list_length(((ArrayExpr *) array)->elements);
	return EXPECTED_KEYS;
}

/* Is it a type, or an array of one, whose values begin_look_up() can read? */
static bool
is_readable(Oid type, bool is_array, Oid family)
{
	if (is_array)
		type = get_element_type(type);
	if (family == INTEGER_BTREE_FAM_OID)
		return type == INT8OID || type == INT4OID || type == INT2OID;
	/* there is a "text = name", too */
	return type == TEXTOID || type == VARCHAROID;
}

/*
 * Does a condition name rows to look up?
 *
 * Equality must be that of the provider, who compares numbers as numbers and
 * strings byte by byte; a collation that holds different strings to be equal
 * would ask for too few rows.
 */
static bool
match_look_up(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *rinfo,
			  LookUp *look_up)
{
	TablePlan *plan = rel->fdw_private;
	List *args;
	Oid opno;
	Oid collation;
	Oid family;
	Node *value = NULL;

	memset(look_up, 0, sizeof(*look_up));
	if (rinfo->pseudoconstant ||
		!restriction_is_securely_promotable(rinfo, rel))
		return false;
	if (IsA(rinfo->clause, OpExpr))
	{
		OpExpr *op = (OpExpr *) rinfo->clause;

		args = op->args;
		opno = op->opno;
		collation = op->inputcollid;
	}
	else if (IsA(rinfo->clause, ScalarArrayOpExpr) &&
			 ((ScalarArrayOpExpr *) rinfo->clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) rinfo->clause;

		args = op->args;
		opno = op->opno;
		collation = op->inputcollid;
		look_up->is_array = true;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	look_up->column = column_of(linitial(args), rel->relid);
	value = lsecond(args);
	if (look_up->column == InvalidAttrNumber && !look_up->is_array)
	{
		look_up->column = column_of(lsecond(args), rel->relid);
		value = linitial(args);
	}
	if (look_up->column == InvalidAttrNumber)
		return false;
	if (look_up->column == plan->id)
		family = INTEGER_BTREE_FAM_OID;
	else if (look_up->column == plan->payment_id)
		family = TEXT_BTREE_FAM_OID;
	else
		return false;
	if (get_op_opfamily_strategy(opno, family) != BTEqualStrategyNumber ||
		(OidIsValid(collation) && !get_collation_isdeterministic(collation)) ||
		!is_readable(exprType(value), look_up->is_array, family))
		return false;

	/* known before the table is read, and worth the same each time */
	if (bms_is_member(rel->relid, pull_varnos(root, value)) ||
		contain_volatile_functions(value) || contain_subplans(value))
		return false;

	look_up->value = (Expr *) value;
	look_up->nkeys = look_up->is_array ? count_keys(value) : 1;
	return true;
}

/* The first of these conditions that names rows by themselves. */
static bool
find_look_up(PlannerInfo *root, RelOptInfo *rel, List *clauses,
			 AttrNumber column, LookUp *look_up)
{
	ListCell *cell;

	foreach(cell, clauses)
	{
		if (match_look_up(root, rel, lfirst_node(RestrictInfo, cell),
						  look_up) &&
			(column == InvalidAttrNumber || column == look_up->column))
			return true;
	}
	return false;
}

static void
get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	TablePlan *plan = plan_table(table);
	LookUp look_up;

	rel->fdw_private = plan;
	/* known since the last ANALYZE, or else a guess */
	if (rel->tuples > 0)
		plan->expected = (int) Min(rel->tuples, (double) INT_MAX);
	else
		rel->tuples = plan->list->rows;
	set_baserel_size_estimates(root, rel);
	if (find_look_up(root, rel, rel->baserestrictinfo, InvalidAttrNumber,
					 &look_up))
		rel->rows = Min(rel->rows, Max(look_up.nkeys, 1));
}

static Cost
row_cost(RelOptInfo *rel, double rows)
{
	return rows *
		(ROW_COST * cpu_tuple_cost + rel->baserestrictcost.per_tuple);
}

static void
add_list_path(PlannerInfo *root, RelOptInfo *rel)
{
	const TegroList *list = ((TablePlan *) rel->fdw_private)->list;
	double trips = 1;
	Cost startup_cost;

	if (list->paged)
	{
		/* twice as many pages with each trip, up to max_concurrency */
		double pages = ceil(rel->tuples / EXPECTED_PAGE_ROWS) + 1;

		/* a double, as all costs are: NOLINTNEXTLINE(cert-flp30-c) */
		for (double at_once = 1; pages > 0; trips++)
		{
			pages -= at_once;
			if (at_once >= tegro_max_concurrency)
			{
				trips += ceil(Max(pages, 0) / at_once);
				break;
			}
			at_once = Min(at_once * 2, tegro_max_concurrency);
		}
	}
	startup_cost = REQUEST_COST + rel->baserestrictcost.startup;
	add_path(rel,
			 (Path *)
				 tegro_create_foreignscan_path(root, rel, rel->rows,
											   startup_cost,
											   startup_cost +
												   (trips - 1) * REQUEST_COST +
												   row_cost(rel, rel->tuples),
											   rel->lateral_relids, NIL));
}

/* A path that looks rows up, for each row of the tables in "outer". */
static void
add_look_up_path(PlannerInfo *root, RelOptInfo *rel, const LookUp *look_up,
				 Relids outer)
{
	double rows = Max(look_up->nkeys, 1);
	double trips = ceil(rows / tegro_max_concurrency);
	Cost startup_cost = REQUEST_COST + rel->baserestrictcost.startup;

	if (bms_is_empty(outer))
		rows = rel->rows;
	else
		(void) get_baserel_parampathinfo(root, rel, outer);
	add_path(rel,
			 (Path *)
				 tegro_create_foreignscan_path(root, rel, rows, startup_cost,
											   startup_cost +
												   (trips - 1) * REQUEST_COST +
												   row_cost(rel, rows),
											   outer,
											   list_make1_int(
												   look_up->column)));
}

/* For generate_implied_equalities_for_column(): is it the column in "arg"? */
static bool
is_column(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *class,
		  EquivalenceMember *member, void *arg)
{
	return column_of((Node *) member->em_expr, rel->relid) ==
		*(AttrNumber *) arg;
}

/* Paths that look up what these join conditions name. */
static void
add_join_paths(PlannerInfo *root, RelOptInfo *rel, List *clauses)
{
	ListCell *cell;

	foreach(cell, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, cell);
		LookUp look_up;
		Relids outer;

		if (!join_clause_is_movable_to(rinfo, rel) ||
			!match_look_up(root, rel, rinfo, &look_up))
			continue;
		outer = bms_union(rinfo->clause_relids, rel->lateral_relids);
		outer = bms_del_member(outer, rel->relid);
		if (!bms_is_empty(outer))
			add_look_up_path(root, rel, &look_up, outer);
	}
}

static void
get_paths(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	TablePlan *plan = rel->fdw_private;
	AttrNumber columns[] = {plan->id, plan->payment_id};
	LookUp look_up;

	/* nothing can be better than that, whatever the estimates say */
	if (find_look_up(root, rel, rel->baserestrictinfo, InvalidAttrNumber,
					 &look_up))
	{
		add_look_up_path(root, rel, &look_up, rel->lateral_relids);
		return;
	}

	add_list_path(root, rel);
	add_join_paths(root, rel, rel->joininfo);
	for (int i = 0; rel->has_eclass_joins && i < lengthof(columns); i++)
	{
		if (columns[i] != InvalidAttrNumber)
			add_join_paths(root, rel,
						   generate_implied_equalities_for_column(root, rel,
																  is_column,
																  &columns[i],
																  rel->lateral_referencers));
	}
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *rel, Oid table, ForeignPath *path,
		 List *tlist, List *clauses, Plan *outer_plan)
{
	Bitmapset *used = NULL;
	List *columns = NIL;
	List *values = NIL;
	const char *field = "";
	LookUp look_up;
	ListCell *cell;

	/* the columns that are needed, for the result or for conditions */
	pull_varattnos((Node *) rel->reltarget->exprs, rel->relid, &used);
	foreach(cell, clauses)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, cell)->clause,
					   rel->relid, &used);
	for (AttrNumber i = 1; i <= rel->max_attr; i++)
	{
		if (bms_is_member(i - FirstLowInvalidHeapAttributeNumber, used) ||
			bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used))
			columns = lappend_int(columns, i);
	}

	if (path->fdw_private != NIL)
	{
		if (!find_look_up(root, rel, clauses, linitial_int(path->fdw_private),
						  &look_up))
			elog(ERROR, "condition of the look-up is gone");
		field = look_up.column == ((TablePlan *) rel->fdw_private)->id
			? TEGRO_FIELD_ID
			: TEGRO_FIELD_PAYMENT_ID;
		values = list_make1(look_up.value);
	}

	return make_foreignscan(tlist, extract_actual_clauses(clauses, false),
							rel->relid, values,
							list_make3(makeString(pstrdup(field)), columns,
									   makeInteger(
										   ((TablePlan *) rel->fdw_private)
											   ->expected)),
							NIL, NIL, outer_plan);
}


/*
 * Scanning.
 */

/* Finds the columns that are to be filled. */
static void
prepare_columns(ListScan *scan, List *numbers)
{
	TupleDesc desc = RelationGetDescr(scan->relation);
	ListCell *cell;

	scan->columns = palloc0(list_length(numbers) * sizeof(ScanColumn));
	foreach(cell, numbers)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc,
													lfirst_int(cell) - 1);
		ScanColumn *column = &scan->columns[scan->ncolumns];
		Oid type;
		Oid input;

		if (attribute->attisdropped)
			continue;
		column->i = attribute->attnum - 1;
		column->name = pstrdup(NameStr(attribute->attname));
		column->is_other = tegro_list_field(scan->list, column->name) == NULL;
		type = getBaseType(attribute->atttypid);
		column->is_json = type == JSONBOID || type == JSONOID;
		getTypeInputInfo(attribute->atttypid, &input, &column->io_param);
		fmgr_info(input, &column->input);
		column->typmod = attribute->atttypmod;
		scan->ncolumns++;
	}
}

static void
begin_scan(ForeignScanState *node, int flags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	ListScan *scan = palloc0(sizeof(ListScan));
	const char *field = strVal(list_nth(plan->fdw_private, PLAN_LOOK_UP));

	node->fdw_state = scan;
	scan->relation = node->ss.ss_currentRelation;
	scan->list = tegro_option_list(RelationGetRelid(scan->relation));
	scan->shop_id = tegro_option_shop_id(RelationGetRelid(scan->relation));
	if (flags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	scan->role = tegro_scan_role(node);
	scan->expected = intVal(list_nth(plan->fdw_private, PLAN_EXPECTED));
	prepare_columns(scan, list_nth(plan->fdw_private, PLAN_COLUMNS));
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
	MemoryContext old;
	Datum value = 0;
	bool is_null = false;

	old = MemoryContextSwitchTo(scan->context);
	scan->reader = tegro_reader_begin(scan->list, scan->shop_id, scan->role,
									  scan->expected, &scan->counts);
	if (scan->value)
	{
		ExprContext *econtext = node->ss.ps.ps_ExprContext;

		value = ExecEvalExprSwitchContext(scan->value, econtext, &is_null);
		begin_look_up(scan, value, is_null);
	}
	MemoryContextSwitchTo(old);
}

/* A value's JSON, as text. */
static char *
json_text(JsonbValue *value)
{
	Jsonb *json = JsonbValueToJsonb(value);

	return JsonbToCString(NULL, &json->root, VARSIZE(json));
}

/* A value as the text that an input function reads; NULL for null. */
static char *
value_text(JsonbValue *value, bool is_json)
{
	if (value->type == jbvNull)
		return NULL;
	if (is_json)
		return json_text(value);
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out,
									NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			return json_text(value);
	}
}

/* The fields of a row that its list is not known to have, as JSON. */
static char *
other_fields(const TegroList *list, JsonbContainer *row)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(row);
	JsonbIteratorToken token;
	JsonbValue value;
	bool known = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			known = tegro_list_field(list,
									 pnstrdup(value.val.string.val,
											  value.val.string.len)) != NULL;
		if ((token == WJB_KEY || token == WJB_VALUE) && !known)
			pushJsonbValue(&state, token, &value);
	}
	return json_text(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Says in errors which value of which row could not be read. */
static void
tell_value(void *arg)
{
	ListScan *scan = arg;
	JsonbValue id;
	const char *string = NULL;

	if (scan->column == NULL)
		return;
	if (getKeyJsonValueFromContainer(scan->row, TEGRO_FIELD_ID,
									 strlen(TEGRO_FIELD_ID), &id))
		string = value_text(&id, false);
	if (string)
		errcontext("column \"%s\" of foreign table \"%s\", row with id %s",
				   scan->column->name, RelationGetRelationName(scan->relation),
				   string);
	else
		errcontext("column \"%s\" of foreign table \"%s\"", scan->column->name,
				   RelationGetRelationName(scan->relation));
}

/* Makes a tuple of a row; all else but the columns needed is null. */
static void
fill(ListScan *scan, JsonbContainer *row, Datum *values, bool *nulls)
{
	int natts = RelationGetDescr(scan->relation)->natts;
	ErrorContextCallback callback = {error_context_stack, tell_value, scan};

	memset(values, 0, natts * sizeof(Datum));
	memset(nulls, true, natts * sizeof(bool));

	error_context_stack = &callback;
	scan->row = row;
	for (int i = 0; i < scan->ncolumns; i++)
	{
		ScanColumn *column = &scan->columns[i];
		char *string = NULL;
		JsonbValue value;

		scan->column = column;
		if (column->is_other)
			string = other_fields(scan->list, row);
		else if (getKeyJsonValueFromContainer(row, column->name,
											  (int) strlen(column->name),
											  &value))
			string = value_text(&value, column->is_json);
		/* called for null, too: a domain may forbid it */
		values[column->i] = InputFunctionCall(&column->input, string,
											  column->io_param,
											  column->typmod);
		nulls[column->i] = string == NULL;
	}
	scan->column = NULL;
	error_context_stack = callback.previous;
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
		fill(scan, row, slot->tts_values, slot->tts_isnull);
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
	const char *field = strVal(list_nth(plan->fdw_private, PLAN_LOOK_UP));
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
	ListScan scan = {0};
	List *columns = NIL;
	JsonbContainer *row;

	*total = *dead = 0;
	scan.relation = relation;
	scan.list = plan_table(table)->list;
	for (int i = 1; i <= natts; i++)
		columns = lappend_int(columns, i);
	prepare_columns(&scan, columns);
	scan.reader = tegro_reader_begin(scan.list, tegro_option_shop_id(table),
									 GetUserId(), 0, &scan.counts);
	reservoir_init_selection_state(&reservoir, wanted);

	while ((row = tegro_reader_next(scan.reader)) != NULL)
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
				heap_freetuple(rows[place]);
			}
			to_skip -= 1;
		}
		if (place < 0)
			continue;

		old = MemoryContextSwitchTo(row_context);
		fill(&scan, row, values, nulls);
		MemoryContextSwitchTo(old);
		tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
		rows[place] = tuple;
		MemoryContextReset(row_context);
	}
	tegro_reader_end(scan.reader);
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

	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
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
