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
 * The number.  One number is one request, for ever.  So a template in which it
 * is a constant, or a "$column" within a string, which stands for itself, would
 * make one order of all rows, without a word; it must be a column.
 *
 * Rights.  To create such a trigger needs EXECUTE on the trigger function;
 * to fire it needs none, so whoever may insert an order asks for its payment.
 * The request is enqueued as the table's owner: his keys are used, and his
 * role runs the callback.  For that reason the callback's name must have its
 * schema: a search_path is the inserting role's, and could name another
 * function.
 *
 * Hazard: nothing says who created a trigger.  Whoever has TRIGGER on a table,
 * which GRANT ALL gives as well, could name a callback of his own, and it would
 * run as the table's owner.  So a trigger does not fire while anybody may
 * create some who doesn't have the owner's rights anyhow, there or on a
 * partitioned table above, whose triggers are cloned into its partitions.  One
 * that was created before the REVOKE stays; a person has to look at it, which
 * the hint says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "src/worker/callback.h"
#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/outbox/outbox.h"

PG_FUNCTION_INFO_V1(tegro_create_order_trigger);
PG_FUNCTION_INFO_V1(tegro_create_withdrawal_trigger);

/* What an error says of the trigger below which it was raised. */
typedef struct Place
{
	const char *trigger;
	const char *schema;
	const char *table;
} Place;

static void
tell_place(void *arg)
{
	const Place *place = arg;

	errcontext("trigger \"%s\" of table \"%s.%s\"", place->trigger,
			   place->schema, place->table);
}

/* Adds to a list of role names, as a REVOKE takes it. */
static void
add_grantee(StringInfo grantees, Oid grantee)
{
	appendStringInfo(grantees, "%s%s", grantees->len ? ", " : "",
					 grantee == ACL_ID_PUBLIC
						 ? "PUBLIC"
						 : tegro_error_identifier(
							   GetUserNameFromId(grantee, false)));
}

/*
 * Throws if somebody may create triggers on a table who doesn't have the rights
 * of "owner", as whom a trigger that fires for it enqueues.
 */
static void
require_owners_triggers(Oid table, Oid owner)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Form_pg_class class;
	char *name;
	StringInfoData grantees;
	Datum datum;
	bool isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", table);
	class = (Form_pg_class) GETSTRUCT(tuple);
	name = psprintf("%s.%s",
					tegro_error_identifier(
						get_namespace_name(class->relnamespace)),
					tegro_error_identifier(NameStr(class->relname)));
	if (!has_privs_of_role(class->relowner, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("triggers of table %s could be another role's", name),
				 errdetail("They fire for its partition, and would enqueue as the owner of that, role \"%s\".",
						   tegro_error_for_client(GetUserNameFromId(owner, false))),
				 errhint("Look whose the triggers are, then give both tables to one role: ALTER TABLE %s OWNER TO %s.",
						 name,
						 tegro_error_identifier(GetUserNameFromId(owner, false)))));

	/* none written down: the owner's alone */
	datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	initStringInfo(&grantees);
	if (!isnull)
	{
		Acl *acl = DatumGetAclPCopy(datum);
		AclItem *items = ACL_DAT(acl);

		for (int i = 0; i < ACL_NUM(acl); i++)
		{
			Oid grantee = items[i].ai_grantee;

			if ((items[i].ai_privs & ACL_TRIGGER) != 0 &&
				(grantee == ACL_ID_PUBLIC ||
				 !has_privs_of_role(grantee, owner)))
				add_grantee(&grantees, grantee);
		}
	}
	ReleaseSysCache(tuple);
	if (grantees.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("triggers of table %s could be another role's", name),
				 errdetail("%s may create some, and this one would enqueue as role \"%s\", whoever created it.",
						   grantees.data,
						   tegro_error_for_client(GetUserNameFromId(owner, false))),
				 errhint("Look whose the triggers are, for they stay, then: REVOKE TRIGGER ON TABLE %s FROM %s.",
						 name, grantees.data)));
}

/*
 * The same for a relation that is fired for, and what it is a partition of.
 * Once a statement: flinfo lives as long, and is of one trigger of one table.
 */
static void
check_rights(FmgrInfo *flinfo, Relation relation)
{
	Oid owner = relation->rd_rel->relowner;
	Oid *checked = flinfo->fn_extra;
	Oid table = RelationGetRelid(relation);

	if (checked && *checked == owner)
		return;
	require_owners_triggers(table, owner);
	/* one that is being detached still has the triggers of what it was in */
	while (get_rel_relispartition(table))
	{
		table = get_partition_parent(table, true);
		require_owners_triggers(table, owner);
	}
	if (checked == NULL)
		checked = flinfo->fn_extra = MemoryContextAlloc(flinfo->fn_mcxt,
														sizeof(Oid));
	*checked = owner;
}

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
column_value(const char *name, int name_len, HeapTuple row,
			 const TriggerData *trigger, JsonbValue *value)
{
	TupleDesc tupdesc = RelationGetDescr(trigger->tg_relation);
	char *column = pnstrdup(name, name_len);
	int number = SPI_fnumber(tupdesc, column);
	char generated;
	Datum datum;
	bool isnull;
	Jsonb *json;

	if (number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of the trigger's template does not exist",
						tegro_error_for_client(column)),
				 errhint("The columns are: %s. Write \"$$\" for a dollar sign.", tegro_error_for_client(list_columns(tupdesc)))));
	/* it would read as null: no row has a virtual one, a BEFORE row has none yet */
	generated = TupleDescAttr(tupdesc, number - 1)->attgenerated;
	if (generated != '\0' &&
		(generated != ATTRIBUTE_GENERATED_STORED ||
		 TRIGGER_FIRED_BEFORE(trigger->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("generated column \"%s\" has no value when the trigger fires",
						tegro_error_for_client(column)),
				 errhint("Let the column be STORED, and the trigger AFTER.")));
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
fill_template(Jsonb *template, HeapTuple row, const TriggerData *trigger)
{
	JsonbIterator *iterator = JsonbIteratorInit(&template->root);
	TegroJsonbState state = {0};
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
							 trigger, &value);
		}
		result = tegro_push_jsonb(&state, token,
								  token == WJB_KEY || token == WJB_VALUE ||
										  token == WJB_ELEM
									  ? &value
									  : NULL);
	}
	return JsonbValueToJsonb(result);
}

/*
 * Throws unless the shop's own number is a column: what is no column is the
 * same for all rows.
 */
static void
require_number(Jsonb *template, const char *number)
{
	JsonbValue value;

	if (getKeyJsonValueFromContainer(&template->root, number,
									 (int) strlen(number), &value) == NULL ||
		value.type != jbvString || value.val.string.len < 2 ||
		value.val.string.val[0] != '$' || value.val.string.val[1] == '$')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of the trigger's template must be a column", number),
				 errdetail("Each row needs a number of its own; rows with the same number are one request."),
				 errhint("Write \"%s\": \"$column\". For a prefix, make a column of it: ADD COLUMN number text GENERATED ALWAYS AS ('order ' || id::text) STORED.",
						 number)));
}

/* The end of a function's name, where its arguments may begin. */
static size_t
name_end(const char *name)
{
	bool quoted = false;
	size_t i = 0;

	for (; name[i] && (quoted || name[i] != '('); i++)
	{
		if (name[i] == '"')
			quoted = !quoted;
	}
	return i;
}

/*
 * The callback's name as it is kept; throws if the owner can't call it.  It may
 * have its arguments behind it, as for tegro_enqueue().
 */
static char *
callback_name(const char *name, Oid owner)
{
	static const Oid types[4] = {INT8OID, TEXTOID, TEXTOID, JSONBOID};
	size_t end = name_end(name);
	List *names;
	Oid function;

	if (strspn(name, " \t\n") == strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the trigger's callback is empty"),
				 errhint("Name it as schema.function, or leave argument 2 out.")));
	names = tegro_name_list(pnstrdup(name, end));
	if (list_length(names) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("callback \"%s\" has no schema",
						tegro_error_for_client(name)),
				 errhint("Name it as schema.function: a trigger fires under any search_path.")));
	function = LookupFuncName(names, 4, types, true);
	if (name[end] != '\0' &&
		DatumGetObjectId(
			DirectFunctionCall1(regprocedurein, CStringGetDatum(name))) !=
			function)
		function = InvalidOid;
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("callback %s(bigint, text, text, jsonb) does not exist",
						tegro_error_for_client(pnstrdup(name, end))),
				 errhint("A callback takes (id bigint, state text, reference text, answer jsonb).")));
	tegro_callback_require_function(function);
	if (!tegro_may_execute(function, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute callback %s",
						tegro_error_for_client(GetUserNameFromId(owner, false)),
						tegro_error_for_client(name)),
				 errdetail("The table's owner runs it.")));
	return format_procedure_qualified(function);
}

/* "number" is the parameter that has the shop's own number. */
static void
enqueue_row(FunctionCallInfo fcinfo, HeapTuple row, const char *method,
			const char *number)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	char **args = trigger->tg_trigger->tgargs;
	TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	Relation relation = trigger->tg_relation;
	Oid owner = relation->rd_rel->relowner;
	Jsonb *template;

	if (trigger->tg_trigger->tgnargs < 1 || trigger->tg_trigger->tgnargs > 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have one or two arguments",
						tegro_error_for_client(trigger->tg_trigger->tgname)),
				 errhint("Argument 1 is the request's parameters as JSON, with \"$column\" for columns; argument 2 the callback.")));
	check_rights(fcinfo->flinfo, relation);

	template = DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(args[0])));
	if (!JB_ROOT_IS_OBJECT(template))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the template of trigger \"%s\" must be a JSON object",
						tegro_error_for_client(trigger->tg_trigger->tgname))));
	require_number(template, number);

	(void) tegro_outbox_enqueue(&store, method,
								fill_template(template, row, trigger), owner,
								trigger->tg_trigger->tgnargs < 2
									? NULL
									: callback_name(args[1], owner),
								0, NULL);
}

static Datum
enqueue_for_row(FunctionCallInfo fcinfo, const char *method,
				const char *number)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Place place;
	ErrorContextCallback context;
	HeapTuple row;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by trigger manager")));

	/* names that need no lookup when an error asks for them */
	place.trigger = trigger->tg_trigger->tgname;
	place.schema = SPI_getnspname(trigger->tg_relation);
	place.table = RelationGetRelationName(trigger->tg_relation);
	context.callback = tell_place;
	context.arg = &place;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be fired FOR EACH ROW by INSERT or UPDATE",
						tegro_error_for_client(trigger->tg_trigger->tgname))));
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple
													 : trigger->tg_trigtuple;
	enqueue_row(fcinfo, row, method, number);

	error_context_stack = context.previous;
	return PointerGetDatum(row);
}

/*
 * tegro_create_order_trigger(template, callback) returns trigger
 */
Datum
tegro_create_order_trigger(PG_FUNCTION_ARGS)
{
	return enqueue_for_row(fcinfo, "createOrder", "order_id");
}

/*
 * tegro_create_withdrawal_trigger(template, callback) returns trigger
 */
Datum
tegro_create_withdrawal_trigger(PG_FUNCTION_ARGS)
{
	return enqueue_for_row(fcinfo, "createWithdrawal", "payment_id");
}
