/*-------------------------------------------------------------------------
 *
 * option.h
 *		What the options of foreign servers and tables say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_OPTION_H
#define TEGRO_OPTION_H

#include "foreign/fdwapi.h"

#include "src/fdw/list.h"

/* The list that a foreign table shows; throws if its options name none. */
extern const TegroList *tegro_option_list(Oid table);

/*
 * The shop that the table's server names, palloc'd; NULL if it leaves that to
 * tegro.shop_id.
 */
extern char *tegro_option_shop_id(Oid table);

/* The statements by which IMPORT FOREIGN SCHEMA makes its tables. */
extern List *tegro_option_import(ImportForeignSchemaStmt *stmt, Oid server);

#endif /* TEGRO_OPTION_H */
