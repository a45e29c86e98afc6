/*-------------------------------------------------------------------------
 *
 * retention.c
 *		Erases the contents of finished requests.
 *
 * A reference is never forgotten: if it were, the same payout could be made
 * again.  So no row is ever deleted.  A finished request that is old enough is
 * stripped instead: parameters, answers and messages go; the reference, the
 * state, times, decisions, amount, currency and a hash of the parameters stay.
 * With the hash, tegro_enqueue still tells the same request from another one.
 * A clock that jumps ahead therefore erases contents too early, and nothing else.
 *
 * The hash.  It must not help to find out what was erased: a plain hash of an
 * account number is undone by hashing all account numbers.  So it is an HMAC
 * under a random key in tegro_key, which only the owner reads.  It covers the
 * parameters as jsonb writes them, with numbers in their shortest form, since
 * 100.50 and 100.5 are equal parameters.  The text is in the database's encoding:
 * in a copy that has another one, text with letters other than ASCII hashes
 * differently, and then a repeated request counts as a different one, which is
 * an error and pays nothing.
 *
 * The key.  The first hash makes it, in its own transaction.  Two transactions
 * can make one each at the same time, and a restore can bring one more.  That is
 * why hashes are compared under every key, and why no key is ever deleted.
 *
 * The hash, the amount and the currency are computed here and not at enqueue,
 * which then costs nothing: until a request is stripped, its parameters tell all
 * of that.
 *
 * Finding what is old: by the partial index tegro_outbox_finished, which holds
 * what can be stripped, oldest first.  It needs no position to be remembered, and
 * a sweep over millions of stripped rows reads none of them.
 *
 * If the process dies before the commit, nothing was erased; after it, all was,
 * and the hash is on record.  Nothing here sends, or lets anything be sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "src/base/argument.h"
#include "src/base/compat.h"
#include "src/client/parameters.h"
#include "src/format/signature.h"
#include "src/outbox/retention.h"

/*
 * Requests that are stripped in one transaction.  The delivery worker does
 * nothing else meanwhile, some 30 ms.
 */
#define STRIP_MAX 1000

/* The length of a new key: a longer one would make SHA-256 no harder to guess. */
#define KEY_LEN 32

/* The keys, in the current memory context; an empty list if there is none. */
static List *
read_keys(const TegroStore *store)
{
	List *keys = NIL;
	uint64 nkeys = tegro_store_run(store, TEGRO_STMT_KEYS, NULL, NULL);
	bool isnull;

	for (uint64 i = 0; i < nkeys; i++)
		keys = lappend(keys,
					   DatumGetByteaPCopy(
						   tegro_store_column((int) i, 1, &isnull)));
	return keys;
}

static bytea *
make_key(const TegroStore *store)
{
	bytea *key = palloc(VARHDRSZ + KEY_LEN);
	Datum values[1] = {PointerGetDatum(key)};

	SET_VARSIZE(key, VARHDRSZ + KEY_LEN);
	if (!pg_strong_random(VARDATA(key), KEY_LEN))
		elog(ERROR, "could not generate a random key");
	if (tegro_store_run(store, TEGRO_STMT_MAKE_KEY, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("a key could not be put on record")));
	return key;
}

/* Parameters as text, the same for all that are equal. */
static const char *
canonical_text(Jsonb *params)
{
	TegroJsonbState state = {0};
	JsonbIterator *iterator = JsonbIteratorInit(&params->root);
	JsonbIteratorToken token;
	JsonbValue value;
	JsonbValue *whole = NULL;
	Jsonb *canonical;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		bool has_value = token == WJB_KEY || token == WJB_VALUE ||
			token == WJB_ELEM;

		if (has_value && value.type == jbvNumeric)
			value.val.numeric = DatumGetNumeric(
				DirectFunctionCall1(numeric_trim_scale,
									NumericGetDatum(value.val.numeric)));
		whole = tegro_push_jsonb(&state, token, has_value ? &value : NULL);
	}
	canonical = JsonbValueToJsonb(whole);
	return JsonbToCString(NULL, &canonical->root, VARSIZE(canonical));
}

/* The hash of a text under a key. */
static bytea *
hash_text(const bytea *key, const char *message)
{
	bytea *hash = palloc(VARHDRSZ + TEGRO_MAC_LEN);

	SET_VARSIZE(hash, VARHDRSZ + TEGRO_MAC_LEN);
	if (!tegro_signature_mac(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), message,
							 strlen(message), (unsigned char *) VARDATA(hash)))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not hash the parameters of a request"),
				 errdetail("OpenSSL refused HMAC-SHA256.")));
	return hash;
}

bytea *
tegro_retention_hash(const TegroStore *store, Jsonb *params)
{
	List *keys = read_keys(store);

	return hash_text(keys == NIL ? make_key(store) : linitial(keys),
					 canonical_text(params));
}

bool
tegro_retention_is_hash(const TegroStore *store, Jsonb *params,
						const bytea *hash)
{
	const char *asked = canonical_text(params);
	ListCell *cell;

	if (hash == NULL || VARSIZE_ANY_EXHDR(hash) != TEGRO_MAC_LEN)
		return false;
	foreach(cell, read_keys(store))
	{
		if (memcmp(VARDATA(hash_text(lfirst(cell), asked)), VARDATA_ANY(hash),
				   TEGRO_MAC_LEN) == 0)
			return true;
	}
	return false;
}

char *
tegro_retention_show_hash(const bytea *hash)
{
	size_t len = hash ? VARSIZE_ANY_EXHDR(hash) : 0;
	char *digits = palloc(len * 2 + 1);

	if (hash == NULL)
		return pstrdup("unknown");
	digits[hex_encode(VARDATA_ANY(hash), len, digits)] = '\0';
	return digits;
}

/* A text parameter, palloc'd; NULL if there is none. */
static char *
get_text(Jsonb *params, const char *name)
{
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(params) ||
		getKeyJsonValueFromContainer(&params->root, name, (int) strlen(name),
									 &value) == NULL)
		return NULL;
	return tegro_scalar_text(&value);
}

/* Adds row "row" of those just found to the rows that are stripped. */
static void
add_row(TegroStoreRows *rows, int row, const bytea *key, const char *note)
{
	Jsonb *params = tegro_store_jsonb(row, 2);
	Numeric amount = NULL;
	char *currency = NULL;
	bytea *hash = NULL;
	Datum values[5];
	bool nulls[5] = {false};
	bool isnull;

	/* those of a stripped request are on record already */
	if (params)
	{
		hash = hash_text(key, canonical_text(params));
		amount = tegro_parameters_amount(params);
		currency = get_text(params, "currency");
	}
	values[0] = tegro_store_column(row, 1, &isnull);
	values[1] = PointerGetDatum(hash);
	nulls[1] = hash == NULL;
	values[2] = NumericGetDatum(amount);
	nulls[2] = amount == NULL;
	values[3] = tegro_store_datum(currency);
	nulls[3] = currency == NULL;
	values[4] = tegro_store_datum(note);
	nulls[4] = note == NULL;
	tegro_store_add(rows, values, nulls);
}

/*
 * Strips the requests that a statement finds and locks.  Returns how many these
 * are.
 */
static uint64
strip(const TegroStore *store, TegroStatement which, Datum *values,
	  const char *note)
{
	TegroStoreScope scope;
	TegroStoreRows *rows;
	MemoryContext context;
	MemoryContext old;
	List *keys;
	uint64 nfound;

	tegro_store_enter(store, &scope);
	keys = read_keys(store);
	nfound = tegro_store_run(store, which, values, NULL);
	if (nfound > 0 && keys == NIL)
	{
		keys = list_make1(make_key(store));
		/* the rows that were found are gone with that */
		nfound = tegro_store_run(store, which, values, NULL);
	}
	if (nfound > 0)
	{
		rows = tegro_store_rows(TEGRO_STMT_STRIP);
		/* parameters can be large: one request's are in memory at a time */
		context = AllocSetContextCreate(CurrentMemoryContext,
										"tegro stripped request",
										ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(context);
		for (uint64 i = 0; i < nfound; i++)
		{
			add_row(rows, (int) i, linitial(keys), note);
			MemoryContextReset(context);
		}
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		if (tegro_store_run_rows(store, TEGRO_STMT_STRIP, rows) != nfound)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("finished requests could not be stripped")));
	}
	tegro_store_leave(&scope);
	return nfound;
}

bool
tegro_retention_strip_old(const TegroStore *store, TimestampTz before)
{
	Datum values[2] = {TimestampTzGetDatum(before), Int32GetDatum(STRIP_MAX)};

	return strip(store, TEGRO_STMT_OLD, values, NULL) == STRIP_MAX;
}

bool
tegro_retention_strip(const TegroStore *store, int64 id, Oid caller,
					  const char *note)
{
	Datum values[2] = {Int64GetDatum(id), ObjectIdGetDatum(caller)};

	return strip(store, TEGRO_STMT_FINISHED, values, note) > 0;
}
