/*-------------------------------------------------------------------------
 *
 * plan.h
 *		Plans of foreign tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PLAN_H
#define TEGRO_PLAN_H

#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"

/*
 * What a plan carries.  fdw_private is a list of these; fdw_exprs has the
 * value that is looked up, of the field's type or an array of it, or nothing.
 */
enum
{
	TEGRO_PLAN_LOOK_UP, /* String: field by which rows are looked up, or "" */
	TEGRO_PLAN_COLUMNS, /* IntList: columns that are needed */
	TEGRO_PLAN_EXPECTED /* Integer: rows that the list may have; 0: unknown */
};

/*
 * The planner's three questions about a foreign table, as fdwapi.h has them:
 * GetForeignRelSize, GetForeignPaths, GetForeignPlan.  The first throws if the
 * table's options or columns are wrong.
 */
extern void tegro_plan_size(PlannerInfo *root, RelOptInfo *rel, Oid table);
extern void tegro_plan_paths(PlannerInfo *root, RelOptInfo *rel, Oid table);
extern ForeignScan *tegro_plan_make(PlannerInfo *root, RelOptInfo *rel,
									Oid table, ForeignPath *path, List *tlist,
									List *clauses, Plan *outer_plan);

#endif /* TEGRO_PLAN_H */
