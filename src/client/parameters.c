/*-------------------------------------------------------------------------
 *
 * parameters.c
 *		Checks of the parameters that make a payment.
 *
 * A reference is used for ever, so what is wrong with a request must be found
 * before it has one, not when the provider refuses it.  The provider does not
 * check everything either: a receipt that does not add up to the amount is
 * accepted, and the customer meets the error on the payment page.
 *
 * Amounts are decimal numbers, and are calculated with as such: numeric is
 * exact.  0.1 + 0.2 in floating point is 0.30000000000000004, which is a number
 * with 17 decimals and never meant.
 *
 * Names and values that the provider may have and that are not documented pass:
 * only what is certainly wrong is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "src/base/argument.h"
#include "src/base/error.h"
#include "src/base/settings.h"
#include "src/client/parameters.h"
#include "src/format/query.h"

/*
 * Longest number, in characters.  Amounts have some 20; this keeps a number
 * with a hundred thousand digits, which jsonb takes, from being multiplied.
 */
#define MAX_NUMBER_LEN 40

/* A parameter that is there and not null; false if there is none. */
static bool
get_value(JsonbContainer *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name),
										value) != NULL &&
		value->type != jbvNull;
}

/*
 * The number that a value is, or is the text of, as "100.50"; NULL if it is
 * none, or below zero.
 */
static Numeric
get_number(const JsonbValue *value)
{
	char *digits;

	if (value->type == jbvNumeric)
		digits = DatumGetCString(
			DirectFunctionCall1(numeric_out,
								NumericGetDatum(value->val.numeric)));
	else if (value->type == jbvString)
		digits = pnstrdup(value->val.string.val, value->val.string.len);
	else
		return NULL;
	if (strlen(digits) > MAX_NUMBER_LEN ||
		!tegro_query_is_amount(digits, strlen(digits)))
		return NULL;
	return DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static bool
is_zero(Numeric number)
{
	return DatumGetBool(
		DirectFunctionCall2(numeric_eq, NumericGetDatum(number),
							DirectFunctionCall1(int4_numeric,
												Int32GetDatum(0))));
}

/* A number for showing, without zeros behind its last decimal. */
static char *
show(Datum number)
{
	return DatumGetCString(
		DirectFunctionCall1(numeric_out,
							DirectFunctionCall1(numeric_trim_scale, number)));
}

static _Noreturn void
refuse_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is missing from the parameters", name),
			 errhint("createOrder needs currency, amount and order_id; createWithdrawal needs currency, amount, account and payment_id.")));
	pg_unreachable();
}

/* An item of a receipt as price times count; throws if it is none. */
static Datum
item_sum(const JsonbValue *item, int position)
{
	JsonbValue name;
	JsonbValue count_value;
	JsonbValue price_value;
	Numeric count = NULL;
	Numeric price = NULL;
	bool is_object = item->type == jbvBinary &&
		JsonContainerIsObject(item->val.binary.data);

	if (is_object && get_value(item->val.binary.data, "count", &count_value))
		count = get_number(&count_value);
	if (is_object && get_value(item->val.binary.data, "price", &price_value))
		price = get_number(&price_value);
	if (!is_object || !get_value(item->val.binary.data, "name", &name) ||
		name.type != jbvString || name.val.string.len == 0 || count == NULL ||
		is_zero(count) || price == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("item %d of \"receipt\" is not complete", position),
				 errdetail("An item has a \"name\", a \"count\" above zero and a \"price\" that is not negative."),
				 errhint("Write it as {\"name\": \"Tea\", \"count\": 2, \"price\": 600.05}.")));
	return DirectFunctionCall2(numeric_mul, NumericGetDatum(price),
							   NumericGetDatum(count));
}

/* Throws unless a receipt adds up to an amount. */
static void
check_receipt(const JsonbValue *receipt, Numeric amount)
{
	JsonbValue items;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue item;
	Datum sum = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));
	int position = 0;

	if (receipt->type != jbvBinary ||
		!JsonContainerIsObject(receipt->val.binary.data) ||
		!get_value(receipt->val.binary.data, "items", &items) ||
		items.type != jbvBinary ||
		!JsonContainerIsArray(items.val.binary.data) ||
		JsonContainerSize(items.val.binary.data) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"receipt\" must be an object with an array \"items\" that is not empty"),
				 errhint("Write it as {\"items\": [{\"name\": \"Tea\", \"count\": 2, \"price\": 600.05}]}.")));

	iterator = JsonbIteratorInit(items.val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_ELEM)
			sum = DirectFunctionCall2(numeric_add, sum,
									  item_sum(&item, ++position));
	}
	if (!DatumGetBool(
			DirectFunctionCall2(numeric_eq, sum, NumericGetDatum(amount))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"receipt\" does not add up to the amount"),
				 errdetail("Its items add up to %s, and the amount is %s.",
						   show(sum), show(NumericGetDatum(amount))),
				 errhint("The sum of \"price\" times \"count\" over all items must be \"amount\".")));
}

void
tegro_parameters_check_amount(Jsonb *params)
{
	JsonbValue value;
	Numeric amount;
	int decimals;

	if (!get_value(&params->root, "amount", &value))
		refuse_missing("amount");
	amount = get_number(&value);
	if (amount == NULL || is_zero(amount))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"amount\" must be a number above zero"),
				 errhint("Write it as 100.50 or as \"100.50\".")));
	decimals = DatumGetInt32(
		DirectFunctionCall1(numeric_min_scale, NumericGetDatum(amount)));
	if (decimals > tegro_max_amount_decimals)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"amount\" %s has %d decimals", show(NumericGetDatum(amount)), decimals),
				 errdetail("At most %d are allowed (tegro.max_amount_decimals).", tegro_max_amount_decimals),
				 errhint("Floating point makes such numbers: calculate amounts with numeric, or round them.")));
	if (get_value(&params->root, "receipt", &value))
		check_receipt(&value, amount);
}

Numeric
tegro_parameters_amount(Jsonb *params)
{
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(params) ||
		!get_value(&params->root, "amount", &value))
		return NULL;
	return get_number(&value);
}

bool
tegro_parameters_is_blank(const char *bytes, size_t len)
{
	/* no-break space, U+2000 to U+200B, U+202F, U+3000, in UTF-8 */
	static const char *const blanks[] = {" ",
										 "\t",
										 "\n",
										 "\v",
										 "\f",
										 "\r",
										 "\xc2\xa0",
										 "\xe3\x80\x80",
										 "\xe2\x80\x80",
										 "\xe2\x80\x81",
										 "\xe2\x80\x82",
										 "\xe2\x80\x83",
										 "\xe2\x80\x84",
										 "\xe2\x80\x85",
										 "\xe2\x80\x86",
										 "\xe2\x80\x87",
										 "\xe2\x80\x88",
										 "\xe2\x80\x89",
										 "\xe2\x80\x8a",
										 "\xe2\x80\x8b",
										 "\xe2\x80\xaf"};

	while (len > 0)
	{
		size_t n = 0;

		for (int i = 0; i < lengthof(blanks) && n == 0; i++)
		{
			size_t blank_len = strlen(blanks[i]);

			if ((blank_len == 1 || GetDatabaseEncoding() == PG_UTF8) &&
				blank_len <= len && memcmp(bytes, blanks[i], blank_len) == 0)
				n = blank_len;
		}
		if (n == 0)
			return false;
		bytes += n;
		len -= n;
	}
	return true;
}

/* Throws unless a parameter is a string that is not empty. */
static void
require_text(Jsonb *params, const char *name, bool or_number)
{
	JsonbValue value;

	if (!get_value(&params->root, name, &value))
		refuse_missing(name);
	if ((value.type != jbvString ||
		 tegro_parameters_is_blank(value.val.string.val,
								   value.val.string.len)) &&
		(value.type != jbvNumeric || !or_number))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a string that is not empty", name)));
}

void
tegro_parameters_check(const TegroMethod *method, Jsonb *params)
{
	if (method->effect != TEGRO_ORDERS && method->effect != TEGRO_PAYS_OUT)
		return;
	require_text(params, "currency", false);
	if (method->effect == TEGRO_PAYS_OUT)
		require_text(params, "account", true);
	tegro_parameters_check_amount(params);
}

/* Is it a number of the provider's, a bigint above zero? */
static bool
is_number(const char *string)
{
	size_t len = strlen(string);

	return len > 0 && len <= 18 && strspn(string, "0123456789") == len &&
		string[0] != '0';
}

Jsonb *
tegro_parameters_by_number(const char *number)
{
	TegroJsonbState params;

	if (number == NULL || !is_number(number))
		return NULL;
	params = tegro_begin_params();
	tegro_add_int_param(&params, "order_id", strtoi64(number, NULL, 10));
	return tegro_finish_params(&params);
}
