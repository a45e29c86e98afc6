/*-------------------------------------------------------------------------
 *
 * plan.c
 *		Plans of foreign tables: which list or rows to ask for, at what cost.
 *
 * A foreign table shows one list (list.c).  A plan reads all of it, or looks
 * up the rows that a condition names: with
 *
 *		id = x, payment_id = x, id = ANY (x), payment_id = ANY (x)
 *
 * one request for each value takes the place of the whole list.  x may be
 * anything that is known before the table is read: a constant, a parameter,
 * and with a nested loop the column of another table.  All conditions stay in
 * the plan and are checked again; the provider is only asked for fewer rows.
 *
 * What it costs.  A request stands for REQUEST_COST.  Requests of a list
 * overlap and lookups of a nested loop don't, so the planner looks up what a
 * few rows name, and reads the list for many.
 *
 * A rescan of the list sends no request (fdw.c), but we cannot say so:
 * cost_rescan() takes any foreign scan to cost the same each time.  So nested
 * loops over a list look more expensive than they are, and the planner puts a
 * Material node above the list.  That costs a second copy of the rows.  Paths
 * with lower costs would be worse: the first scan does pay for its requests.
 *
 * Hazard: nobody is asked anything here, so that EXPLAIN sends nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#include "src/base/compat.h"
#include "src/fdw/option.h"
#include "src/fdw/plan.h"
#include "src/base/settings.h"
#include "src/fdw/tuple.h"

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

/* Is it a type, or an array of one, whose values a lookup can take? */
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

/* A column by which rows can be looked up; InvalidAttrNumber if it has none. */
static AttrNumber
lookup_column(Oid table, const char *name, Oid family)
{
	AttrNumber column = get_attnum(table, name);

	if (column != InvalidAttrNumber &&
		!is_readable(get_atttype(table, column), false, family))
		column = InvalidAttrNumber;
	return column;
}

/*
 * Finds out what a table shows; throws if it has a column that its list can't
 * fill.
 */
static TablePlan *
plan_table(Oid table)
{
	TablePlan *plan = palloc0(sizeof(TablePlan));
	Relation relation = table_open(table, NoLock);

	plan->list = tegro_option_list(table);
	tegro_tuple_check(relation, plan->list);
	table_close(relation, NoLock);
	if (plan->list->lookup)
	{
		plan->id = lookup_column(table, TEGRO_FIELD_ID, INTEGER_BTREE_FAM_OID);
		plan->payment_id = lookup_column(table, TEGRO_FIELD_PAYMENT_ID,
										 TEXT_BTREE_FAM_OID);
	}
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

/*
 * Does a condition name rows to look up?
 *
 * Equality must be that of the provider, who compares numbers as numbers and
 * strings byte by byte; a collation that holds different strings to be equal
 * would ask for too few rows.
 */
static bool
match_lookup(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *rinfo,
			 LookUp *lookup)
{
	TablePlan *plan = rel->fdw_private;
	List *args;
	Oid opno;
	Oid collation;
	Oid family;
	Node *value = NULL;

	memset(lookup, 0, sizeof(*lookup));
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
		lookup->is_array = true;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	lookup->column = column_of(linitial(args), rel->relid);
	value = lsecond(args);
	if (lookup->column == InvalidAttrNumber && !lookup->is_array)
	{
		lookup->column = column_of(lsecond(args), rel->relid);
		value = linitial(args);
	}
	if (lookup->column == InvalidAttrNumber)
		return false;
	if (lookup->column == plan->id)
		family = INTEGER_BTREE_FAM_OID;
	else if (lookup->column == plan->payment_id)
		family = TEXT_BTREE_FAM_OID;
	else
		return false;
	if (get_op_opfamily_strategy(opno, family) != BTEqualStrategyNumber ||
		(OidIsValid(collation) && !get_collation_isdeterministic(collation)) ||
		!is_readable(exprType(value), lookup->is_array, family))
		return false;

	/* known before the table is read, and worth the same each time */
	if (bms_is_member(rel->relid, pull_varnos(root, value)) ||
		contain_volatile_functions(value) || contain_subplans(value))
		return false;

	lookup->value = (Expr *) value;
	lookup->nkeys = lookup->is_array ? count_keys(value) : 1;
	return true;
}

/* The first of these conditions that names rows by themselves. */
static bool
find_lookup(PlannerInfo *root, RelOptInfo *rel, List *clauses,
			AttrNumber column, LookUp *lookup)
{
	ListCell *cell;

	foreach(cell, clauses)
	{
		if (match_lookup(root, rel, lfirst_node(RestrictInfo, cell), lookup) &&
			(column == InvalidAttrNumber || column == lookup->column))
			return true;
	}
	return false;
}

void
tegro_plan_size(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	TablePlan *plan = plan_table(table);
	LookUp lookup;

	rel->fdw_private = plan;
	/* known since the last ANALYZE, or else a guess */
	if (rel->tuples > 0)
		plan->expected = (int) Min(rel->tuples, (double) INT_MAX);
	else
		rel->tuples = plan->list->rows;
	set_baserel_size_estimates(root, rel);
	if (find_lookup(root, rel, rel->baserestrictinfo, InvalidAttrNumber,
					&lookup))
		rel->rows = Min(rel->rows, Max(lookup.nkeys, 1));
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
add_lookup_path(PlannerInfo *root, RelOptInfo *rel, const LookUp *lookup,
				Relids outer)
{
	double rows = Max(lookup->nkeys, 1);
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
											   list_make1_int(lookup->column)));
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
		LookUp lookup;
		Relids outer;

		if (!join_clause_is_movable_to(rinfo, rel) ||
			!match_lookup(root, rel, rinfo, &lookup))
			continue;
		outer = bms_union(rinfo->clause_relids, rel->lateral_relids);
		outer = bms_del_member(outer, rel->relid);
		if (!bms_is_empty(outer))
			add_lookup_path(root, rel, &lookup, outer);
	}
}

void
tegro_plan_paths(PlannerInfo *root, RelOptInfo *rel, Oid table)
{
	TablePlan *plan = rel->fdw_private;
	AttrNumber columns[] = {plan->id, plan->payment_id};
	LookUp lookup;

	/* nothing can be better than that, whatever the estimates say */
	if (find_lookup(root, rel, rel->baserestrictinfo, InvalidAttrNumber,
					&lookup))
	{
		add_lookup_path(root, rel, &lookup, rel->lateral_relids);
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

ForeignScan *
tegro_plan_make(PlannerInfo *root, RelOptInfo *rel, Oid table,
				ForeignPath *path, List *tlist, List *clauses,
				Plan *outer_plan)
{
	TablePlan *plan = rel->fdw_private;
	Bitmapset *used = NULL;
	List *columns = NIL;
	List *values = NIL;
	const char *field = "";
	LookUp lookup;
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
		if (!find_lookup(root, rel, clauses, linitial_int(path->fdw_private),
						 &lookup))
			elog(ERROR, "condition of the lookup is gone");
		field = lookup.column == plan->id ? TEGRO_FIELD_ID
										  : TEGRO_FIELD_PAYMENT_ID;
		values = list_make1(lookup.value);
	}

	return make_foreignscan(tlist, extract_actual_clauses(clauses, false),
							rel->relid, values,
							list_make3(makeString(pstrdup(field)), columns,
									   makeInteger(plan->expected)),
							NIL, NIL, outer_plan);
}
