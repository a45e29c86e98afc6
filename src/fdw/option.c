/*-------------------------------------------------------------------------
 *
 * option.c
 *		What the options of foreign servers and tables say; the tables that
 *		IMPORT FOREIGN SCHEMA makes.
 *
 * Two options are all there is: a server's shop_id, and a table's list.  Keys
 * are none: every role can read pg_foreign_server and pg_foreign_table, and a
 * dump holds them.  Nor are there options of user mappings, since who may act
 * for which shop is already said in the credentials file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "src/fdw/option.h"

PG_FUNCTION_INFO_V1(tegro_fdw_validator);

#define OPTION_SHOP_ID "shop_id" /* of a server */
#define OPTION_LIST	   "list"	 /* of a table */

/* What IMPORT FOREIGN SCHEMA calls the provider's side. */
#define REMOTE_SCHEMA "tegro"

/* The option of that name; NULL if it is not given. */
static const char *
get_option(List *options, const char *name)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/* Refuses all options but the one that objects of this kind have. */
static void
check_names(List *options, const char *valid)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *option = lfirst(cell);

		if (valid && strcmp(option->defname, valid) == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", option->defname),
				 strstr(option->defname, "key") || strstr(option->defname, "password") || strstr(option->defname, "secret")
					 ? errhint("Keys are no options, which every role could read: they belong into the file that tegro.credentials_file names.")
					 : valid ? errhint("The valid option in this context is: %s", valid)
							 : errhint("There are no valid options in this context.")));
	}
}

static const TegroList *
find_list(const char *name)
{
	const TegroList *list = tegro_list_find(name);

	if (list == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("the provider has no list \"%s\"", name),
				 errhint("The lists are: %s.", tegro_list_names())));
	return list;
}

/*
 * tegro_fdw_validator(options text[], catalog oid) returns void
 */
Datum
tegro_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = PG_ARGISNULL(0)
		? NIL
		: untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);

	if (catalog == ForeignServerRelationId)
	{
		const char *shop_id = get_option(options, OPTION_SHOP_ID);

		check_names(options, OPTION_SHOP_ID);
		if (shop_id && *shop_id == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("option \"%s\" must not be empty", OPTION_SHOP_ID),
					 errhint("Give the shop's public key, or leave it out to use tegro.shop_id.")));
	}
	else if (catalog == ForeignTableRelationId)
	{
		const char *list = get_option(options, OPTION_LIST);

		check_names(options, OPTION_LIST);
		if (list == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
					 errmsg("option \"%s\" is missing", OPTION_LIST),
					 errhint("Name the list that the table shows, one of: %s.", tegro_list_names())));
		(void) find_list(list);
	}
	else
		check_names(options, NULL);
	PG_RETURN_VOID();
}

const TegroList *
tegro_option_list(Oid table)
{
	const char *name = get_option(GetForeignTable(table)->options,
								  OPTION_LIST);

	/* as when the wrapper's validator was dropped, or not yet there */
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"%s\" of foreign table \"%s\" is missing",
						OPTION_LIST, get_rel_name(table)),
				 errhint("Name the list that the table shows, one of: %s.", tegro_list_names())));
	return find_list(name);
}

char *
tegro_option_shop_id(Oid table)
{
	ForeignServer *server = GetForeignServer(GetForeignTable(table)->serverid);
	const char *shop_id = get_option(server->options, OPTION_SHOP_ID);

	return shop_id ? pstrdup(shop_id) : NULL;
}

/* Does LIMIT TO or EXCEPT name this list? */
static bool
is_named(ImportForeignSchemaStmt *stmt, const char *name)
{
	ListCell *cell;

	foreach(cell, stmt->table_list)
	{
		if (strcmp(((RangeVar *) lfirst(cell))->relname, name) == 0)
			return true;
	}
	return false;
}

static char *
create_table(const TegroList *list, const char *server)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE FOREIGN TABLE %s (",
					 quote_identifier(list->name));
	for (const TegroField *field = list->fields; field->name; field++)
		appendStringInfo(&sql, "%s%s pg_catalog.%s",
						 field == list->fields ? "" : ", ",
						 quote_identifier(field->name), field->type);
	if (tegro_list_has_other(list))
		appendStringInfoString(&sql,
							   ", " TEGRO_COLUMN_OTHER " pg_catalog.jsonb");
	appendStringInfo(&sql, ") SERVER %s OPTIONS (" OPTION_LIST " %s)",
					 quote_identifier(server), quote_literal_cstr(list->name));
	return sql.data;
}

List *
tegro_option_import(ImportForeignSchemaStmt *stmt, Oid server)
{
	const char *server_name = GetForeignServer(server)->servername;
	List *statements = NIL;
	ListCell *cell;

	if (strcmp(stmt->remote_schema, REMOTE_SCHEMA) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
				 errmsg("schema \"%s\" is not there on the provider's side", stmt->remote_schema),
				 errhint("Write IMPORT FOREIGN SCHEMA " REMOTE_SCHEMA " FROM SERVER %s.", quote_identifier(server_name))));
	check_names(stmt->options, NULL);
	foreach(cell, stmt->table_list)
		(void) find_list(((RangeVar *) lfirst(cell))->relname);

	for (const TegroList *list = tegro_lists; list->name; list++)
	{
		bool named = is_named(stmt, list->name);

		if (stmt->list_type == FDW_IMPORT_SCHEMA_LIMIT_TO ? named : !named)
			statements = lappend(statements, create_table(list, server_name));
	}
	return statements;
}
