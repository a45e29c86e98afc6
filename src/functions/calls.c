/*-------------------------------------------------------------------------
 *
 * calls.c
 *		SQL functions of the synchronous calls.
 *
 * Each asks the provider while the statement waits, and returns the whole
 * envelope as the provider sent it, so that the provider's documentation
 * reads true.  What is no answer is an error; a NULL or an empty result never
 * stands for one.
 *
 * None of them is strict: a NULL argument that PostgreSQL passed over in
 * silence would look like an answer.
 *
 * Hazard: PostgreSQL decides how often a function in a query runs.  It runs
 * once a row; (f()).* runs it once a column; EXPLAIN ANALYZE and the refresh
 * of a materialized view run it too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "src/client/api.h"
#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/outbox/outbox.h"
#include "src/base/settings.h"
#include "src/worker/payout.h"

PG_FUNCTION_INFO_V1(tegro_call);
PG_FUNCTION_INFO_V1(tegro_create_order);
PG_FUNCTION_INFO_V1(tegro_shops);
PG_FUNCTION_INFO_V1(tegro_balance);
PG_FUNCTION_INFO_V1(tegro_order);
PG_FUNCTION_INFO_V1(tegro_orders);
PG_FUNCTION_INFO_V1(tegro_withdrawal);
PG_FUNCTION_INFO_V1(tegro_withdrawals);
PG_FUNCTION_INFO_V1(tegro_rates);
PG_FUNCTION_INFO_V1(tegro_modules);
PG_FUNCTION_INFO_V1(tegro_batch);
PG_FUNCTION_INFO_V1(tegro_preview);

/*
 * One call.
 */

typedef struct SingleCall
{
	TegroCall *call;
	Jsonb *result;
} SingleCall;

static TegroCall *
get_call(int i, void *arg)
{
	return ((SingleCall *) arg)->call;
}

/* Keeps the envelope, which goes when the call is done; raises all else. */
static void
keep_or_raise(TegroCall *call, void *arg)
{
	SingleCall *single = arg;

	if (call->outcome.result != TEGRO_ANSWERED)
		tegro_error_raise(&call->outcome);
	single->result = palloc(VARSIZE(call->envelope));
	memcpy(single->result, call->envelope, VARSIZE(call->envelope));
}

static Datum
call_method(const char *method, Jsonb *params)
{
	SingleCall single = {tegro_api_prepare(method, params, GetUserId())};

	tegro_api_run(1, 1, get_call, keep_or_raise, &single);
	return JsonbPGetDatum(single.result);
}

static Datum
call_without_params(const char *method)
{
	TegroJsonbState params = tegro_begin_params();

	return call_method(method, tegro_finish_params(&params));
}

static Datum
call_for_page(FunctionCallInfo fcinfo, const char *method)
{
	TegroJsonbState params = tegro_begin_params();
	int32 page;

	tegro_require_argument(fcinfo, 0, "page");
	page = PG_GETARG_INT32(0);
	if (page < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("page %d does not exist", page),
				 errhint("Pages count from 1.")));
	tegro_add_int_param(&params, "page", page);
	return call_method(method, tegro_finish_params(&params));
}

/*
 * Tegro's number (order_id) or the shop's (payment_id), exactly one of them.
 *
 * SQL has this twice: as (order_id bigint, payment_id text), and as
 * (reference text).  The second is there so that a string given by position,
 * '17854', is the shop's number; PostgreSQL would turn it into order_id
 * without a word, and find another order.  Its argument has a name of its own
 * because payment_id => '17854' would fit both.
 */
static Datum
call_for_one(FunctionCallInfo fcinfo, const char *method)
{
	TegroJsonbState params = tegro_begin_params();
	int payment_id_arg = PG_NARGS() - 1;
	bool has_order_id = payment_id_arg > 0 && !PG_ARGISNULL(0);
	bool has_payment_id = !PG_ARGISNULL(payment_id_arg);

	if (has_order_id == has_payment_id)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 has_order_id ?
				 errmsg("both \"order_id\" and \"payment_id\" are given") :
				 errmsg("neither \"order_id\" nor \"payment_id\" is given"),
				 errhint("Give one of the two: order_id => Tegro's number, or payment_id => the shop's own.")));
	if (has_order_id)
		tegro_add_int_param(&params, "order_id", PG_GETARG_INT64(0));
	else if (VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(payment_id_arg)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"payment_id\" must not be empty"),
				 errhint("Give the shop's own number.")));
	else
		tegro_add_text_param(&params, "payment_id",
							 PG_GETARG_TEXT_PP(payment_id_arg));
	return call_method(method, tegro_finish_params(&params));
}

/*
 * tegro_call(method text, params jsonb) returns jsonb
 */
Datum
tegro_call(PG_FUNCTION_ARGS)
{
	char *method = tegro_get_text(fcinfo, 0, "method");
	Jsonb *params = tegro_get_jsonb(fcinfo, 1, "params");

	/* a payout goes through the outbox, by whatever name it is asked for */
	if (tegro_method_effect(method) == TEGRO_PAYS_OUT)
	{
		TegroStore store = tegro_store_of_function(fcinfo->flinfo->fn_oid);

		return JsonbPGetDatum(tegro_payout(&store, params, GetUserId()));
	}
	return call_method(method, params);
}

/*
 * tegro_create_order(params jsonb) returns jsonb
 */
Datum
tegro_create_order(PG_FUNCTION_ARGS)
{
	return call_method("createOrder", tegro_get_jsonb(fcinfo, 0, "params"));
}

/*
 * tegro_shops() returns jsonb
 */
Datum
tegro_shops(PG_FUNCTION_ARGS)
{
	return call_without_params("shops");
}

/*
 * tegro_balance() returns jsonb
 */
Datum
tegro_balance(PG_FUNCTION_ARGS)
{
	return call_without_params("balance");
}

/*
 * tegro_order(order_id bigint, payment_id text) returns jsonb
 * tegro_order(reference text) returns jsonb
 */
Datum
tegro_order(PG_FUNCTION_ARGS)
{
	return call_for_one(fcinfo, "order");
}

/*
 * tegro_orders(page int) returns jsonb
 */
Datum
tegro_orders(PG_FUNCTION_ARGS)
{
	return call_for_page(fcinfo, "orders");
}

/*
 * tegro_withdrawal(order_id bigint, payment_id text) returns jsonb
 * tegro_withdrawal(reference text) returns jsonb
 */
Datum
tegro_withdrawal(PG_FUNCTION_ARGS)
{
	return call_for_one(fcinfo, "withdrawal");
}

/*
 * tegro_withdrawals(page int) returns jsonb
 */
Datum
tegro_withdrawals(PG_FUNCTION_ARGS)
{
	return call_for_page(fcinfo, "withdrawals");
}

/*
 * tegro_rates("from" text, "to" text) returns jsonb
 */
Datum
tegro_rates(PG_FUNCTION_ARGS)
{
	TegroJsonbState params = tegro_begin_params();

	if (!PG_ARGISNULL(0))
		tegro_add_text_param(&params, "from", PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		tegro_add_text_param(&params, "to", PG_GETARG_TEXT_PP(1));
	return call_method("rates", tegro_finish_params(&params));
}

/*
 * tegro_modules() returns jsonb
 */
Datum
tegro_modules(PG_FUNCTION_ARGS)
{
	return call_without_params("modules");
}

/*
 * Many calls.
 */

/*
 * The calls of a batch.  Each is prepared twice: all of them at first, to find
 * what is wrong before anything is sent, and again when its turn comes.  So
 * memory is taken for what is in flight, not for all.  The keys are those of the
 * first time, one call for each shop, for what was found then must not fail now.
 */
typedef struct Batch
{
	const char *method;
	Datum *elements;
	int nelements;
	List *signers; /* of TegroCall, with keys */
	ReturnSetInfo *rsinfo;
} Batch;

/* The call for a shop that has its keys; NULL if there is none. */
static TegroCall *
find_signer(const Batch *batch, const char *shop_id)
{
	ListCell *cell;

	foreach(cell, batch->signers)
	{
		TegroCall *call = lfirst(cell);

		if (strcmp(call->shop_id, shop_id) == 0)
			return call;
	}
	return NULL;
}

/* Makes a call of an element, from 0. */
static TegroCall *
make_call(int i, void *arg)
{
	Batch *batch = arg;
	/* all of them were checked before the first was sent */
	TegroCall *call = tegro_api_prepare_for_shop(batch->method,
												 DatumGetJsonbP(
													 batch->elements[i]),
												 NULL, InvalidOid);

	tegro_api_share_keys(call, find_signer(batch, call->shop_id));
	call->position = i + 1;
	return call;
}

/* A row for a call that is done. */
static void
put_row(TegroCall *call, void *arg)
{
	ReturnSetInfo *rsinfo = ((Batch *) arg)->rsinfo;
	Datum values[4];
	bool nulls[4] = {false, true, true, true};
	/* the texts go with the call */
	MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(call));

	values[0] = Int32GetDatum(call->position);
	if (call->outcome.result == TEGRO_ANSWERED)
	{
		values[1] = JsonbPGetDatum(call->envelope);
		nulls[1] = false;
	}
	else
	{
		const TegroOutcome *outcome = &call->outcome;

		values[2] = CStringGetTextDatum(
			unpack_sql_state(tegro_error_sqlstate(outcome->result)));
		values[3] = PointerGetDatum(cstring_to_text(tegro_error_for_client(
			outcome->detail
				? psprintf("%s: %s", outcome->message, outcome->detail)
				: outcome->message)));
		nulls[2] = nulls[3] = false;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	MemoryContextSwitchTo(caller);
}

/* Says in errors which of the parameters is meant. */
static void
tell_position(void *arg)
{
	errcontext("element %d of \"params\"", *(int *) arg);
}

/* Prepares each element once, which throws on all that is wrong with it. */
static void
check_batch(Batch *batch, const bool *element_nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "tegro batch check",
												  ALLOCSET_DEFAULT_SIZES);
	int position;
	ErrorContextCallback context = {error_context_stack, tell_position,
									&position};

	error_context_stack = &context;
	for (position = 1; position <= batch->nelements; position++)
	{
		Jsonb *params;
		TegroCall *call;

		CHECK_FOR_INTERRUPTS();
		if (element_nulls[position - 1])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("parameters must not be null")));
		MemoryContextReset(scratch);
		MemoryContextSwitchTo(scratch);
		params = DatumGetJsonbP(batch->elements[position - 1]);
		call = tegro_api_prepare(batch->method, params, InvalidOid);
		if (find_signer(batch, call->shop_id) == NULL)
		{
			MemoryContextSwitchTo(caller);
			batch->signers = lappend(batch->signers,
									 tegro_api_prepare(batch->method, params,
													   GetUserId()));
		}
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	error_context_stack = context.previous;
}

/*
 * tegro_batch(method text, params jsonb[])
 *		returns table (position int, answer jsonb, sqlstate text, message text)
 *
 * All parameters are checked before the first request: an error here means
 * that nothing was sent.  From then on an error is a row, so that what one
 * call did is never lost because another failed.
 */
Datum
tegro_batch(PG_FUNCTION_ARGS)
{
	Batch batch = {.method = tegro_get_text(fcinfo, 0, "method")};
	ArrayType *params;
	bool *element_nulls;

	if (tegro_method_effect(batch.method) == TEGRO_PAYS_OUT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("payouts can't be made in a batch"),
				 errdetail("Each must be on record before it is sent."),
				 errhint("Put them into the outbox with tegro_enqueue: they are delivered many at a time.")));
	tegro_require_argument(fcinfo, 1, "params");
	params = PG_GETARG_ARRAYTYPE_P(1);
	deconstruct_array(params, JSONBOID, -1, false, TYPALIGN_INT,
					  &batch.elements, &element_nulls, &batch.nelements);
	check_batch(&batch, element_nulls);

	InitMaterializedSRF(fcinfo, 0);
	batch.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	tegro_api_run(batch.nelements, tegro_max_concurrency, make_call, put_row,
				  &batch);
	return (Datum) 0;
}

/*
 * What would be sent.
 */

/*
 * tegro_preview(method text, params jsonb)
 *		returns (url text, headers jsonb, body text)
 *
 * The request is not even signed.  The signature covers the body alone, and
 * not the method: with it, anyone could post the body of a previewed "balance"
 * to createWithdrawal, past the outbox.
 */
Datum
tegro_preview(PG_FUNCTION_ARGS)
{
	char *method = tegro_get_text(fcinfo, 0, "method");
	Jsonb *params = tegro_get_jsonb(fcinfo, 1, "params");
	/* shown as it is, whether it can be sent or not */
	TegroCall *call = tegro_api_prepare_for_shop(method, params, NULL,
												 InvalidOid);
	TegroRequest request = tegro_api_build(call);
	TegroJsonbState headers = tegro_begin_params();
	TupleDesc tupdesc;
	Datum values[3];
	bool nulls[3] = {false, false, false};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	tegro_add_text_param(&headers, "Content-Type",
						 cstring_to_text(TEGRO_CONTENT_TYPE));
	tegro_add_text_param(&headers, "Accept",
						 cstring_to_text(TEGRO_CONTENT_TYPE));
	tegro_add_text_param(&headers, "User-Agent",
						 cstring_to_text(tegro_user_agent));
	tegro_add_text_param(&headers, "Authorization",
						 cstring_to_text("Bearer ********"));

	values[0] = CStringGetTextDatum(request.url);
	values[1] = JsonbPGetDatum(tegro_finish_params(&headers));
	/* ASCII, whatever the server's encoding: body.c escapes all else */
	values[2] = CStringGetTextDatum(request.body);
	return HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}
