/*-------------------------------------------------------------------------
 *
 * tuple.h
 *		Makes tuples of the rows of a list.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_TUPLE_H
#define TEGRO_TUPLE_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "src/fdw/list.h"

typedef struct TegroTupleMaker TegroTupleMaker;

/* Throws if a foreign table has a column that its list can't fill. */
extern void tegro_tuple_check(Relation relation, const TegroList *list);

/*
 * Prepares to fill these columns, a list of their numbers.  In the current
 * memory context; the relation must stay open.
 */
extern TegroTupleMaker *tegro_tuple_prepare(Relation relation,
											const TegroList *list,
											List *columns);

/*
 * Makes values of a row, for all columns of the relation; what was not asked
 * for is null.  They may point into the row.  In the current memory context.
 * Throws what the input functions of the columns' types do.
 */
extern void tegro_tuple_fill(TegroTupleMaker *maker, JsonbContainer *row,
							 Datum *values, bool *nulls);

#endif /* TEGRO_TUPLE_H */
