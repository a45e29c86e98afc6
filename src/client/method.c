/*-------------------------------------------------------------------------
 *
 * method.c
 *		The provider's methods, and the effect of each.
 *
 * The effect decides when a request may be repeated.  A method that this
 * version does not know is taken for one that moves money.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "src/client/method.h"
#include "src/client/stats.h"

/* Longest method name; the provider's are under 20. */
#define MAX_METHOD_LEN 64

static const TegroMethod methods[] = {
	{"createOrder", TEGRO_ORDERS, "order_id", "tegro_order"},
	{"shops", TEGRO_READS, NULL, NULL},
	{"balance", TEGRO_READS, NULL, NULL},
	{"order", TEGRO_READS, NULL, NULL, true},
	{"orders", TEGRO_READS, NULL, NULL},
	{"createWithdrawal", TEGRO_PAYS_OUT, "payment_id", "tegro_withdrawal"},
	{"withdrawals", TEGRO_READS, NULL, NULL},
	{"withdrawal", TEGRO_READS, NULL, NULL, true},
	{"rates", TEGRO_READS, NULL, NULL},
	{"modules", TEGRO_READS, NULL, NULL},
};

const TegroMethod *
tegro_method_find(const char *name)
{
	size_t len = strlen(name);
	TegroMethod *unknown;

	for (int i = 0; i < lengthof(methods); i++)
	{
		if (strcmp(name, methods[i].name) == 0)
			return &methods[i];

		/*
		 * The provider may not mind the case, but our rules for payouts hang
		 * on the name.
		 */
		if (pg_strcasecmp(name, methods[i].name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid method name \"%s\"",
							tegro_error_excerpt(name, len, 2 * MAX_METHOD_LEN, NULL)),
					 errhint("Write it as \"%s\".", methods[i].name)));
	}

	if (len == 0 || len > MAX_METHOD_LEN ||
		strspn(name,
			   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") !=
			len ||
		(name[0] >= '0' && name[0] <= '9'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid method name \"%s\"",
							tegro_error_excerpt(name, len, 2 * MAX_METHOD_LEN, NULL)),
				 errdetail("A method name is letters and digits, beginning with a letter, at most %d.", MAX_METHOD_LEN),
				 errhint("Give the name alone, such as \"balance\".")));

	unknown = palloc0(sizeof(TegroMethod));
	unknown->name = pstrdup(name);
	unknown->effect = TEGRO_UNKNOWN_EFFECT;
	return unknown;
}

int
tegro_method_number(const TegroMethod *method)
{
	StaticAssertStmt(lengthof(methods) < TEGRO_STATS_METHODS,
					 "too many methods to be counted apart");
	Assert(method->effect == TEGRO_UNKNOWN_EFFECT ||
		   (method >= methods && method < methods + lengthof(methods)));
	return method->effect == TEGRO_UNKNOWN_EFFECT ? TEGRO_STATS_METHODS - 1
												  : (int) (method - methods);
}

const char *
tegro_method_name(int number)
{
	if (number == TEGRO_STATS_METHODS - 1)
		return "(other)";
	return number < lengthof(methods) ? methods[number].name : NULL;
}

TegroEffect
tegro_method_effect(const char *name)
{
	return tegro_method_find(name)->effect;
}
