/*-------------------------------------------------------------------------
 *
 * list.c
 *		The provider's lists: how each is asked for, and what its rows hold.
 *
 * The provider documents the fields of shops, balances, orders and
 * withdrawals, the latter in the documentation of its earlier brand.  Those of
 * modules are a guess, by what orders have; a guess that is wrong costs nothing:
 * a field that is not sent reads as null, and one that is not known goes to the
 * column "other_fields".
 *
 * Numbers that mean something (status, test_order) stay numbers: a value that
 * the documentation does not name is data, not an error.  Times carry no zone,
 * so their columns don't either.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "src/fdw/list.h"

static const TegroField shops_fields[] = {
	{"id", "int8"},
	{"name", "text"},
	{"url", "text"},
	{"desc", "text"},
	{"status", "int4"},
	{"public_key", "text"},
	{"date_added", "timestamp"},
	{NULL},
};

static const TegroField balances_fields[] = {
	{"currency", "text"},
	{"amount", "numeric"},
	{NULL},
};

static const TegroField orders_fields[] = {
	{"id", "int8"},
	{"payment_id", "text"},
	{"status", "int4"},
	{"amount", "numeric"},
	{"fee", "numeric"},
	{"currency_id", "int4"},
	{"payment_system_id", "int4"},
	{"email", "text"},
	{"test_order", "int4"},
	{"date_created", "timestamp"},
	{"date_payed", "timestamp"},
	{NULL},
};

static const TegroField withdrawals_fields[] = {
	{"id", "int8"},
	{"payment_id", "text"},
	{"status", "int4"},
	{"amount", "numeric"},
	{"currency_id", "int4"},
	{"date_created", "timestamp"},
	{"date_payed", "timestamp"},
	{NULL},
};

static const TegroField modules_fields[] = {
	{"id", "int8"},		{"name", "text"}, {"currency", "text"},
	{"status", "int4"}, {NULL},
};

const TegroList tegro_lists[] = {
	{"shops", "shops", false, NULL, "shops", false, shops_fields, 10},
	{"balances", "balance", false, NULL, "balance", true, balances_fields, 10},
	{"orders", "orders", true, "order", NULL, false, orders_fields, 10000},
	{"withdrawals", "withdrawals", true, "withdrawal", NULL, false,
	 withdrawals_fields, 10000},
	{"modules", "modules", false, NULL, NULL, false, modules_fields, 20},
	{NULL},
};

const TegroList *
tegro_list_find(const char *name)
{
	for (const TegroList *list = tegro_lists; list->name; list++)
	{
		if (strcmp(list->name, name) == 0)
			return list;
	}
	return NULL;
}

const TegroField *
tegro_list_field(const TegroList *list, const char *name)
{
	for (const TegroField *field = list->fields; field->name; field++)
	{
		if (strcmp(field->name, name) == 0)
			return field;
	}
	return NULL;
}

bool
tegro_list_has_other(const TegroList *list)
{
	return !list->by_currency;
}

char *
tegro_list_names(void)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const TegroList *list = tegro_lists; list->name; list++)
		appendStringInfo(&out, "%s%s", out.len > 0 ? ", " : "", list->name);
	return out.data;
}

char *
tegro_list_columns(const TegroList *list)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const TegroField *field = list->fields; field->name; field++)
		appendStringInfo(&out, "%s%s", out.len > 0 ? ", " : "", field->name);
	if (tegro_list_has_other(list))
		appendStringInfoString(&out, ", " TEGRO_COLUMN_OTHER);
	return out.data;
}
