/*-------------------------------------------------------------------------
 *
 * list.h
 *		The provider's lists: how each is asked for, and what its rows hold.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_LIST_H
#define TEGRO_LIST_H

/* The field, Tegro's number, by which rows are told apart and looked up. */
#define TEGRO_FIELD_ID "id"

/* The field with the shop's own number, by which they are looked up, too. */
#define TEGRO_FIELD_PAYMENT_ID "payment_id"

/* The column with all fields of a row that its list is not known to have. */
#define TEGRO_COLUMN_OTHER "other_fields"

typedef struct TegroField
{
	const char *name; /* as the provider has it; the column's name, too */
	const char *type; /* in pg_catalog, of the column that IMPORT makes */
} TegroField;

typedef struct TegroList
{
	const char *name;	/* as foreign tables name it */
	const char *method; /* that gives it, or a page of it */
	bool paged;			/* it comes page by page, newest row first */
	const char *lookup; /* method that gives one row; NULL if none */
	const char *member; /* of "data" that holds it; NULL: "data" itself */
	bool by_currency;	/* {"RUB": "1.00"} instead of a list of objects */
	const TegroField *fields; /* up to one without a name */
	double rows; /* what to expect where nothing better is known */
} TegroList;

/* All of them, up to one without a name. */
extern const TegroList tegro_lists[];

/* The list of that name; NULL if there is none. */
extern const TegroList *tegro_list_find(const char *name);

/* The field of that name; NULL if the list has none. */
extern const TegroField *tegro_list_field(const TegroList *list,
										  const char *name);

/* Whether rows carry fields beyond the known ones, which a column can have. */
extern bool tegro_list_has_other(const TegroList *list);

/* For hints: "shops, balances, ...", and what columns a table may have. */
extern char *tegro_list_names(void);
extern char *tegro_list_columns(const TegroList *list);

#endif /* TEGRO_LIST_H */
