/*-------------------------------------------------------------------------
 *
 * query.h
 *		Form encoding, both ways, as PHP reads and writes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_QUERY_H
#define TEGRO_QUERY_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Most fields of a form that is read.  The provider's have ten; a receipt that
 * it sends along has three for each item.  Anyone can send a form, and each
 * name is compared with each other one.
 */
#define TEGRO_QUERY_MAX_FIELDS 100

/*
 * Longest name and value of a form, decoded, in bytes.  The provider's names
 * have up to 30; a merchant's reference has at most 500.  The rest is room for
 * fields that the provider may add.
 */
#define TEGRO_QUERY_MAX_NAME_LEN  256
#define TEGRO_QUERY_MAX_VALUE_LEN (8 * 1024)

typedef enum TegroQueryStatus
{
	TEGRO_QUERY_OK,
	TEGRO_QUERY_BAD_ESCAPE,	  /* "%" without two hex digits */
	TEGRO_QUERY_NOT_TEXT,	  /* a NUL, or bytes that are not UTF-8 */
	TEGRO_QUERY_BAD_NAME,	  /* a name that could be read in two ways */
	TEGRO_QUERY_REPEATED,	  /* one name twice, or as a value and an array */
	TEGRO_QUERY_TOO_MANY,	  /* more than TEGRO_QUERY_MAX_FIELDS */
	TEGRO_QUERY_TOO_LONG,	  /* a body, name or value above its limit */
	TEGRO_QUERY_BAD_PART,	  /* multipart that breaks a rule of multipart.c */
	TEGRO_QUERY_IS_JSON,	  /* JSON, which src/format does not read */
	TEGRO_QUERY_LOSES_DIGITS, /* a number that PHP would round */
} TegroQueryStatus;

/* A field: pointers into someone else's bytes, not NUL-terminated. */
typedef struct TegroQueryField
{
	const char *name; /* flat: "order_id", "receipt[items][0][name]" */
	size_t name_len;
	const char *value;
	size_t value_len;
} TegroQueryField;

/* Room that "len" bytes may need once they are encoded. */
#define TEGRO_QUERY_BOUND(len) (3 * (len))

/*
 * Encodes bytes as PHP's urlencode() does, which is what http_build_query()
 * makes of names and values alike: a space is "+", everything but A-Z, a-z,
 * 0-9, "-", "_" and "." is %XX, in upper-case hex.
 *
 * out: TEGRO_QUERY_BOUND(len) bytes.  Returns how many were written.
 */
extern size_t tegro_query_encode(const char *bytes, size_t len, char *out);

/* Are these bytes text: UTF-8 without a NUL? */
extern bool tegro_query_is_text(const char *bytes, size_t len);

/*
 * Takes an application/x-www-form-urlencoded body apart, and decodes it in
 * place; the fields point into it, in its order.
 *
 * fields: room for TEGRO_QUERY_MAX_FIELDS.  nfields: receives how many.
 */
extern TegroQueryStatus tegro_query_read(char *body, size_t len,
										 TegroQueryField *fields,
										 size_t *nfields);

/*
 * Brings fields into the order in which they are signed, PHP's ksort() of the
 * outermost names.  Refuses fields which PHP, of one version or another, or
 * another reader, could take for others; see query.c.  Refuses names and
 * values above their limits.
 */
extern TegroQueryStatus tegro_query_sort(TegroQueryField *fields,
										 size_t nfields);

/*
 * Writes fields as http_build_query() does, in their order.
 *
 * out: 3 * (all names and values) + 2 * nfields bytes, which is what
 * tegro_query_room() returns.  Returns how many were written.
 */
extern size_t tegro_query_room(const TegroQueryField *fields, size_t nfields);
extern size_t tegro_query_write(const TegroQueryField *fields, size_t nfields,
								char *out);

/* The field of that name, or NULL. */
extern const TegroQueryField *tegro_query_find(const TegroQueryField *fields,
											   size_t nfields,
											   const char *name);

/* Is this an amount: digits, and perhaps a point and more digits? */
extern bool tegro_query_is_amount(const char *text, size_t len);

/*
 * Rewrites a plain decimal ("100.00", as PostgreSQL writes a numeric) as PHP's
 * http_build_query() would write that number.
 *
 * out: "len" bytes.  out_len: receives how many were written.
 */
extern TegroQueryStatus tegro_query_number(const char *text, size_t len,
										   char *out, size_t *out_len);

#endif /* TEGRO_QUERY_H */
