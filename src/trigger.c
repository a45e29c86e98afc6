/*-------------------------------------------------------------------------
 *
 * trigger.c
 *		Triggers that put a request into the outbox for each row.
 *
 *		CREATE TRIGGER ask_for_payment AFTER INSERT ON orders
 *		FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger(
 *			'{"order_id": "$number", "amount": "$total", "currency": "RUB"}',
 *			'shop.order_answered');
 *
 * In the template a string "$column" stands for that column of the new row,
 * with its type: a number becomes a JSON number.  "$$..." is a string that
 * begins with "$".
 *
 * Rights.  To create such a trigger needs EXECUTE on the trigger function;
 * to fire it needs none, so whoever may insert an order asks for its payment.
 * The request is enqueued as the table's owner: his keys are used, and his
 * role runs the callback.  For that reason the callback's name must have its
 * schema: a search_path is the inserting role's, and could name another
 * function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "src/compat.h"
#include "src/outbox.h"

PG_FUNCTION_INFO_V1(tegro_create_order_trigger);
PG_FUNCTION_INFO_V1(tegro_create_withdrawal_trigger);

/* The names of a table's columns, for a hint. */
static char *
list_columns(TupleDesc tupdesc)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		if (!TupleDescAttr(tupdesc, i)->attisdropped)
			appendStringInfo(&names, "%s%s", names.len ? ", " : "",
							 NameStr(TupleDescAttr(tupdesc, i)->attname));
	}
	return names.data;
}

/* Any value as jsonb, by PostgreSQL's own rules for its type. */
static Jsonb *
value_to_jsonb(Datum value, Oid type)
{
	FmgrInfo to_jsonb_info;

	/* to_jsonb learns the type of its argument from the expression it is in */
	fmgr_info(F_TO_JSONB, &to_jsonb_info);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(
												 makeNullConst(type, -1,
															   InvalidOid)),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &to_jsonb_info);
	return DatumGetJsonbP(FunctionCall1(&to_jsonb_info, value));
}

/* A column of the row as a JSON value; throws if there is no such column. */
static void
column_value(const char *name, int name_len, HeapTuple row, TupleDesc tupdesc,
			 JsonbValue *value)
{
	char *column = pnstrdup(name, name_len);
	int number = SPI_fnumber(tupdesc, column);
	Datum datum;
	bool isnull;
	Jsonb *json;

	if (number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of the trigger's template does not exist", column),
				 errhint("The columns are: %s. Write \"$$\" for a dollar sign.", list_columns(tupdesc))));
	datum = SPI_getbinval(row, tupdesc, number, &isnull);
	if (isnull)
	{
		value->type = jbvNull;
		return;
	}

	json = value_to_jsonb(datum, SPI_gettypeid(tupdesc, number));
	if (JB_ROOT_IS_SCALAR(json))
		(void) JsonbExtractScalar(&json->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &json->root;
		value->val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
}

/* The template with the columns of the row put in. */
static Jsonb *
fill_template(Jsonb *template, HeapTuple row, TupleDesc tupdesc)
{
	JsonbIterator *iterator = JsonbIteratorInit(&template->root);
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;
	JsonbValue value;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if ((token == WJB_VALUE || token == WJB_ELEM) &&
			value.type == jbvString && value.val.string.len > 0 &&
			value.val.string.val[0] == '$')
		{
			value.val.string.val++;
			value.val.string.len--;
			/* "$$..." has become "$..." */
			if (value.val.string.len == 0 || value.val.string.val[0] != '$')
				column_value(value.val.string.val, value.val.string.len, row,
							 tupdesc, &value);
		}
		result = pushJsonbValue(&state, token,
								token == WJB_KEY || token == WJB_VALUE ||
										token == WJB_ELEM
									? &value
									: NULL);
	}
	return JsonbValueToJsonb(result);
}

/* The callback's name as it is kept; throws if the owner can't call it. */
static char *
callback_name(const char *name, Oid owner)
{
	static const Oid types[4] = {INT8OID, TEXTOID, TEXTOID, JSONBOID};
	List *names = tegro_name_list(name);
	Oid function;

	if (list_length(names) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("callback \"%s\" has no schema", name),
				 errhint("Name it as schema.function: a trigger fires under any search_path.")));
	function = LookupFuncName(names, 4, types, true);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("callback %s(bigint, text, text, jsonb) does not exist", name),
				 errhint("A callback takes (id bigint, state text, reference text, answer jsonb).")));
	if (!tegro_may_execute(function, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute callback %s",
						GetUserNameFromId(owner, false), name),
				 errdetail("The table's owner runs it.")));
	return format_procedure_qualified(function);
}

static Datum
enqueue_for_row(FunctionCallInfo fcinfo, const char *method)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TegroLedger ledger = tegro_ledger_of_function(fcinfo->flinfo->fn_oid);
	HeapTuple row;
	Relation relation;
	Oid owner;
	Jsonb *template;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by trigger manager")));
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be fired FOR EACH ROW by INSERT or UPDATE",
						trigger->tg_trigger->tgname)));
	if (trigger->tg_trigger->tgnargs < 1 || trigger->tg_trigger->tgnargs > 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have one or two arguments",
						trigger->tg_trigger->tgname),
				 errhint("Argument 1 is the request's parameters as JSON, with \"$column\" for columns; argument 2 the callback.")));

	relation = trigger->tg_relation;
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple
													 : trigger->tg_trigtuple;
	owner = relation->rd_rel->relowner;
	template = DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in,
							CStringGetDatum(trigger->tg_trigger->tgargs[0])));
	if (!JB_ROOT_IS_OBJECT(template))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the template of trigger \"%s\" must be a JSON object",
						trigger->tg_trigger->tgname)));

	(void) tegro_outbox_enqueue(&ledger, method,
								fill_template(template, row,
											  RelationGetDescr(relation)),
								owner,
								trigger->tg_trigger->tgnargs < 2
									? NULL
									: callback_name(trigger->tg_trigger
														->tgargs[1],
													owner),
								0, NULL);
	return PointerGetDatum(row);
}

/*
 * tegro_create_order_trigger(template, callback) returns trigger
 */
Datum
tegro_create_order_trigger(PG_FUNCTION_ARGS)
{
	return enqueue_for_row(fcinfo, "createOrder");
}

/*
 * tegro_create_withdrawal_trigger(template, callback) returns trigger
 */
Datum
tegro_create_withdrawal_trigger(PG_FUNCTION_ARGS)
{
	return enqueue_for_row(fcinfo, "createWithdrawal");
}
