/*-------------------------------------------------------------------------
 *
 * error.h
 *		How a call ended, and how that is told.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ERROR_H
#define TEGRO_ERROR_H

/* SQLSTATEs of class TG, which no standard and no other extension uses. */
#define TEGRO_ERRCODE_REFUSED		MAKE_SQLSTATE('T', 'G', '0', '0', '1')
#define TEGRO_ERRCODE_NOT_SENT		MAKE_SQLSTATE('T', 'G', '0', '0', '2')
#define TEGRO_ERRCODE_UNKNOWN		MAKE_SQLSTATE('T', 'G', '0', '0', '3')
#define TEGRO_ERRCODE_UNREADABLE	MAKE_SQLSTATE('T', 'G', '0', '0', '4')
#define TEGRO_ERRCODE_RATE_LIMITED	MAKE_SQLSTATE('T', 'G', '0', '0', '5')
#define TEGRO_ERRCODE_MISCONFIGURED MAKE_SQLSTATE('T', 'G', '0', '0', '6')
#define TEGRO_ERRCODE_CONFLICT		MAKE_SQLSTATE('T', 'G', '0', '0', '7')

/* Bytes of an unreadable answer that are shown. */
#define TEGRO_EXCERPT_LEN 200

typedef enum TegroResult
{
	TEGRO_ANSWERED,		/* the provider did what was asked */
	TEGRO_REFUSED,		/* it said no */
	TEGRO_NOT_SENT,		/* nothing of the request was written */
	TEGRO_UNKNOWN,		/* it may have taken effect */
	TEGRO_UNREADABLE,	/* a lookup without a usable answer */
	TEGRO_RATE_LIMITED, /* too many requests; it did not act */
	TEGRO_MISCONFIGURED /* a setting must be mended first */
} TegroResult;

/* How a call ended.  The texts are palloc'd or constant, in server encoding. */
typedef struct TegroOutcome
{
	TegroResult result;
	const char *message; /* primary message; NULL where answered */
	const char *detail;	 /* or NULL */
	const char *hint;	 /* or NULL */
	const char *desc;	 /* the provider's words of a refusal, else "" */
	bool unauthorized;	 /* the key, or this server, is not accepted */
	bool found_nothing;	 /* a lookup's success, with "data" that is empty */
} TegroOutcome;

/* What must never be shown, as the bytes of it. */
typedef struct TegroSecrets
{
	const char *items[3]; /* NULL or empty ones are passed over */
} TegroSecrets;

/* The SQLSTATE of a result, packed as ereport takes it. */
extern int tegro_error_sqlstate(TegroResult result);

/*
 * Raises an outcome that is not TEGRO_ANSWERED as an ERROR.  (C's word for it:
 * PostgreSQL's own changed in 18.)
 */
extern _Noreturn void tegro_error_raise(const TegroOutcome *outcome);

/*
 * Does some work in a subtransaction, so that it can fail without the rest.
 * Returns the error, in "context", or NULL.
 */
extern ErrorData *tegro_error_catch(void (*work)(void *arg), void *arg,
									MemoryContext context);

/*
 * Is an error about the data that PostgreSQL's parser of JSON was given?  All
 * that it throws is, as 0A000 on 15 for an escape that the database's encoding
 * does not have, except a cancel (class 57) and a lack of memory (class 53).
 */
extern bool tegro_error_is_about_data(int sqlerrcode);

/*
 * Makes foreign bytes fit to be shown: at most "max_len" of them, in server
 * encoding, control characters, what is not text and what the client's encoding
 * does not have as \xNN, and secrets as "********".  Returns a palloc'd string,
 * with "..." where it was cut.
 */
extern char *tegro_error_excerpt(const char *bytes, size_t len, size_t max_len,
								 const TegroSecrets *secrets);

/*
 * Text in server encoding, made fit to be shown: control characters, invisible
 * ones, line ends, and each character that the client's encoding does not have,
 * as \xNN.  With one of the last, an error that quotes it would reach the client
 * as one about its encoding, and its SQLSTATE would be lost.  May return its
 * argument.  Every text that is not the extension's own passes through this or
 * tegro_error_excerpt() before it is shown or logged.
 */
extern const char *tegro_error_for_client(const char *message);

/*
 * The same for an error context callback, which must not look into catalogs: if
 * the two encodings differ, it escapes all that is not ASCII.
 */
extern const char *tegro_error_in_context(const char *message);

/*
 * A name for a command that is shown, quoted where necessary; U&"..." with
 * escapes, where tegro_error_for_client() would change it.
 */
extern const char *tegro_error_identifier(const char *name);

/* Makes a secret unreadable wherever it stands in these bytes. */
extern void tegro_error_mask(char *bytes, size_t len, const char *secret);

#endif /* TEGRO_ERROR_H */
