/*-------------------------------------------------------------------------
 *
 * tuple.c
 *		Makes tuples of the rows of a list.
 *
 * A row is a JSON object, and each of its fields has a column of the same
 * name; "other_fields" takes what the list is not known to have.  Only the
 * columns that are asked for are filled.
 *
 * Hazard: the provider's values go through the input functions of the
 * columns' types, which throw at what they can't read.  An error context says
 * which column of which row it was.  These errors repeat the value, which may
 * be a megabyte of control characters: what is not fit to be shown is cut out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/fdw/tuple.h"

/* A column to be filled. */
typedef struct ScanColumn
{
	int i;			  /* in the row, from 0 */
	const char *name; /* as the list has it */
	bool is_other;	  /* all fields that the list is not known to have */
	bool is_json;	  /* takes JSON as it is, not a string's content */
	Oid type;
	FmgrInfo input;
	Oid io_param;
	int32 typmod;
} ScanColumn;

struct TegroTupleMaker
{
	Relation relation;
	const TegroList *list;
	int ncolumns;
	ScanColumn *columns;

	/* for errors */
	const ScanColumn *column;
	JsonbContainer *row;
};

void
tegro_tuple_check(Relation relation, const TegroList *list)
{
	TupleDesc desc = RelationGetDescr(relation);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		const char *name = NameStr(attribute->attname);

		if (attribute->attisdropped)
			continue;
		if (tegro_list_field(list, name) == NULL &&
			!(tegro_list_has_other(list) &&
			  strcmp(name, TEGRO_COLUMN_OTHER) == 0))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_COLUMN_NAME_NOT_FOUND),
					 errmsg("column \"%s\" of foreign table \"%s\" is not in the list \"%s\"",
							name, RelationGetRelationName(relation), list->name),
					 errhint("It has: %s.", tegro_list_columns(list))));
	}
}

TegroTupleMaker *
tegro_tuple_prepare(Relation relation, const TegroList *list, List *columns)
{
	TegroTupleMaker *maker = palloc0(sizeof(TegroTupleMaker));
	TupleDesc desc = RelationGetDescr(relation);
	ListCell *cell;

	maker->relation = relation;
	maker->list = list;
	maker->columns = palloc0(list_length(columns) * sizeof(ScanColumn));
	foreach(cell, columns)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc,
													lfirst_int(cell) - 1);
		ScanColumn *column = &maker->columns[maker->ncolumns];
		Oid type;
		Oid input;

		Assert(lfirst_int(cell) >= 1 && lfirst_int(cell) <= desc->natts);
		if (attribute->attisdropped)
			continue;
		column->i = attribute->attnum - 1;
		column->name = pstrdup(NameStr(attribute->attname));
		column->is_other = tegro_list_field(list, column->name) == NULL;
		column->type = attribute->atttypid;
		type = getBaseType(column->type);
		column->is_json = type == JSONBOID || type == JSONOID;
		getTypeInputInfo(attribute->atttypid, &input, &column->io_param);
		fmgr_info(input, &column->input);
		column->typmod = attribute->atttypmod;
		maker->ncolumns++;
	}
	return maker;
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
	char *string;

	if (value->type == jbvNull)
		return NULL;
	if (is_json)
		return json_text(value);
	string = tegro_scalar_text(value);
	return string ? string : json_text(value);
}

/* The fields of a row that its list is not known to have, as JSON. */
static char *
other_fields(const TegroList *list, JsonbContainer *row)
{
	TegroJsonbState state = {0};
	JsonbIterator *iterator = JsonbIteratorInit(row);
	JsonbIteratorToken token;
	JsonbValue value;
	bool known = false;

	tegro_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			known = tegro_list_field(list,
									 pnstrdup(value.val.string.val,
											  value.val.string.len)) != NULL;
		if ((token == WJB_KEY || token == WJB_VALUE) && !known)
			tegro_push_jsonb(&state, token, &value);
	}
	return json_text(tegro_push_jsonb(&state, WJB_END_OBJECT, NULL));
}

/* Says in errors which value of which row could not be read. */
static void
tell_value(void *arg)
{
	TegroTupleMaker *maker = arg;
	JsonbValue id;
	const char *string = NULL;

	if (maker->column == NULL)
		return;
	if (getKeyJsonValueFromContainer(maker->row, TEGRO_FIELD_ID,
									 strlen(TEGRO_FIELD_ID), &id))
		string = value_text(&id, false);
	if (string)
		errcontext("column \"%s\" of foreign table \"%s\", row with id %s",
				   maker->column->name,
				   RelationGetRelationName(maker->relation),
				   tegro_error_excerpt(string, strlen(string),
									   TEGRO_EXCERPT_LEN, NULL));
	else
		errcontext("column \"%s\" of foreign table \"%s\"",
				   maker->column->name,
				   RelationGetRelationName(maker->relation));
}

/*
 * Has a value read by the column's type; "string" is NULL for null, for which
 * it is called, too: a domain may forbid it.
 */
static Datum
read_value(ScanColumn *column, char *string)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile Datum datum = (Datum) 0;

	PG_TRY();
	{
		datum = InputFunctionCall(&column->input, string, column->io_param,
								  column->typmod);
	}
	PG_CATCH();
	{
		int sqlstate = geterrcode();
		const char *excerpt;

		/* of what it could not read it shows all, just as the provider sent it */
		if (string == NULL ||
			ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		excerpt = tegro_error_excerpt(string, strlen(string),
									  TEGRO_EXCERPT_LEN, NULL);
		if (strcmp(excerpt, string) == 0)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("invalid value of type %s: \"%s\"",
						format_type_be(column->type), excerpt)));
	}
	PG_END_TRY();
	return datum;
}

void
tegro_tuple_fill(TegroTupleMaker *maker, JsonbContainer *row, Datum *values,
				 bool *nulls)
{
	int natts = RelationGetDescr(maker->relation)->natts;
	ErrorContextCallback callback = {error_context_stack, tell_value, maker};

	memset(values, 0, natts * sizeof(Datum));
	memset(nulls, true, natts * sizeof(bool));

	error_context_stack = &callback;
	maker->row = row;
	for (int i = 0; i < maker->ncolumns; i++)
	{
		ScanColumn *column = &maker->columns[i];
		char *string = NULL;
		JsonbValue value;

		Assert(column->i >= 0 && column->i < natts);
		maker->column = column;
		if (column->is_other)
			string = other_fields(maker->list, row);
		else if (getKeyJsonValueFromContainer(row, column->name,
											  (int) strlen(column->name),
											  &value))
			string = value_text(&value, column->is_json);
		values[column->i] = read_value(column, string);
		nulls[column->i] = string == NULL;
	}
	maker->column = NULL;
	error_context_stack = callback.previous;
}
