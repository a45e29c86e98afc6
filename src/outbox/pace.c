/*-------------------------------------------------------------------------
 *
 * pace.c
 *		Which shops may send now, by tegro.rate_limit.
 *
 * Each shop has a bucket of tokens, and each request that is claimed to be sent
 * takes one of its shop's.  The bucket fills with tegro.rate_limit tokens a
 * second, up to a tenth of that, and at least one.  Lookups take none, and do
 * not wait for any.
 *
 * A shop without a token must hold up no other, however many requests it has.
 * So it is much like a key that rests (pause.c):
 *
 *	1. A row that was found and whose shop has no token is left as it is, and its
 *	   shop is noted (tegro_pace_take).  It rests from then on.
 *	2. The claim of what is due by age passes over the shops that are noted, also
 *	   once they have tokens again (tegro_pace_resting).
 *	3. The shops that have tokens again are claimed by a statement of their own,
 *	   as many of their rows as they have tokens (tegro_pace_returning).  It
 *	   begins where their last one ended, which the note knows: so it does not
 *	   pass over the rows of other shops that rest, be it a hundred thousand.
 *	4. Where that finds nothing more, the note is forgotten.
 *
 * Anybody may enqueue for shops that do not exist, so what is kept is bounded.  A
 * shop that is not known has one token, and is forgotten only when it has one.
 * So to be forgotten gains nothing, and the limit holds.  While there is no place
 * for one more, all known shops have sent lately, and a new one waits until the
 * first of them has a token again; that is a second at most.
 *
 * Notes are bounded, too, for each row that a claim passes over is compared with
 * all of them.  Requests of shops that find no place are read by each claim that
 * comes by, and left.
 *
 * Buckets are of one process, as its connections are.  Its successor begins
 * with one token for each shop.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "src/base/compat.h"
#include "src/base/settings.h"
#include "src/client/keys.h"
#include "src/client/transport.h"
#include "src/outbox/pace.h"

/* Shops whose tokens are known, and those that are known to rest, at most. */
#define MAX_BUCKETS 4096
#define MAX_NOTES	512

/* By when any shop has a token again that has none, whatever the limit. */
#define A_TOKEN_US INT64CONST(1000000)

typedef struct Bucket
{
	uint64 shop_mark; /* must be first */
	double tokens;	  /* at_us */
	int64 at_us;	  /* on tegro_clock_us() */
} Bucket;

/* A shop that rests. */
typedef struct Note
{
	uint64 shop_mark; /* must be first */
	char *shop_id;
	TimestampTz from; /* what is due before is seen */
} Note;

struct TegroPace
{
	MemoryContext context;
	HTAB *buckets;		 /* of Bucket */
	HTAB *notes;		 /* of Note */
	int64 full_until_us; /* no bucket can be forgotten before */
	int64 left_until_us; /* a row was left without a note; when to look again */
};

static HTAB *
create_table(const char *name, MemoryContext context, Size size)
{
	HASHCTL control = {.keysize = sizeof(uint64),
					   .entrysize = size,
					   .hcxt = context};

	return hash_create(name, 16, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

TegroPace *
tegro_pace_create(MemoryContext context)
{
	TegroPace *pace = MemoryContextAllocZero(context, sizeof(TegroPace));

	pace->context = context;
	pace->buckets = create_table("tegro pace", context, sizeof(Bucket));
	pace->notes = create_table("tegro shops that rest", context, sizeof(Note));
	return pace;
}

/* What is in a bucket now. */
static double
tokens_in(const Bucket *bucket, int64 now_us)
{
	return Min(bucket->tokens +
				   (double) (now_us - bucket->at_us) / 1e6 * tegro_rate_limit,
			   Max(tegro_rate_limit / 10.0, 1.0));
}

/* When it has a token. */
static int64
has_token_us(const Bucket *bucket)
{
	return bucket->tokens >= 1 ? bucket->at_us
							   : bucket->at_us +
			(int64) ((1 - bucket->tokens) * 1e6 / tegro_rate_limit) + 1;
}

/* What a shop has now; one that is not known has one. */
static double
tokens_of(const TegroPace *pace, uint64 shop_mark, int64 now_us)
{
	const Bucket *bucket = hash_search(pace->buckets, &shop_mark, HASH_FIND,
									   NULL);

	return bucket ? tokens_in(bucket, now_us) : 1;
}

/* Forgets buckets that are no poorer than an unknown shop's. */
static void
forget_buckets(TegroPace *pace, int64 now_us)
{
	HASH_SEQ_STATUS scan;
	Bucket *bucket;

	pace->full_until_us = now_us + A_TOKEN_US;
	hash_seq_init(&scan, pace->buckets);
	while ((bucket = hash_seq_search(&scan)) != NULL)
	{
		if (tokens_in(bucket, now_us) >= 1)
			hash_search(pace->buckets, &bucket->shop_mark, HASH_REMOVE, NULL);
		else
			pace->full_until_us = Min(pace->full_until_us,
									  has_token_us(bucket));
	}
}

/* A shop's bucket; NULL where there is no place for one more. */
static Bucket *
bucket_of(TegroPace *pace, uint64 shop_mark, int64 now_us)
{
	Bucket *bucket = hash_search(pace->buckets, &shop_mark, HASH_FIND, NULL);

	if (bucket)
		return bucket;
	if (hash_get_num_entries(pace->buckets) >= MAX_BUCKETS &&
		now_us >= pace->full_until_us)
		forget_buckets(pace, now_us);
	if (hash_get_num_entries(pace->buckets) >= MAX_BUCKETS)
		return NULL;
	bucket = hash_search(pace->buckets, &shop_mark, HASH_ENTER, NULL);
	bucket->tokens = 1;
	bucket->at_us = now_us;
	return bucket;
}

static void
remove_note(TegroPace *pace, Note *note)
{
	pfree(note->shop_id);
	hash_search(pace->notes, &note->shop_mark, HASH_REMOVE, NULL);
}

/* Has the shop rest. */
static void
add_note(TegroPace *pace, uint64 shop_mark, const char *shop_id,
		 TimestampTz due, bool first, int64 now_us)
{
	Note *note = hash_search(pace->notes, &shop_mark, HASH_FIND, NULL);

	if (note)
		note->from = Min(note->from, due);
	else if (hash_get_num_entries(pace->notes) >= MAX_NOTES)
		pace->left_until_us = now_us + A_TOKEN_US;
	else
	{
		char *name = MemoryContextStrdup(pace->context, shop_id);

		note = hash_search(pace->notes, &shop_mark, HASH_ENTER, NULL);
		note->shop_id = name;
		note->from = first ? due : DT_NOBEGIN;
	}
}

bool
tegro_pace_take(TegroPace *pace, const char *shop_id, TimestampTz due,
				bool first)
{
	int64 now_us = tegro_clock_us();
	uint64 shop_mark;
	Bucket *bucket;

	if (tegro_rate_limit <= 0)
		return true;
	shop_mark = tegro_keys_mark(shop_id);
	bucket = bucket_of(pace, shop_mark, now_us);
	if (bucket)
	{
		bucket->tokens = tokens_in(bucket, now_us);
		bucket->at_us = now_us;
		if (bucket->tokens >= 1)
		{
			bucket->tokens -= 1;
			return true;
		}
		add_note(pace, shop_mark, shop_id, due, first, now_us);
	}
	else
		pace->left_until_us = Max(pace->full_until_us, now_us + 1000);
	return false;
}

List *
tegro_pace_resting(TegroPace *pace, bool all)
{
	int64 now_us = tegro_clock_us();
	List *names = NIL;
	HASH_SEQ_STATUS scan;
	Note *note;

	if (!tegro_pace_any(pace))
		return NIL;
	/* what was left is looked for now, by this claim or by the sweep after it */
	if (all && now_us >= pace->left_until_us)
		pace->left_until_us = 0;
	hash_seq_init(&scan, pace->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
	{
		if (all || tokens_of(pace, note->shop_mark, now_us) < 1)
			names = lappend(names, note->shop_id);
	}
	return names;
}

List *
tegro_pace_returning(TegroPace *pace, int *places, TimestampTz *from)
{
	int64 now_us = tegro_clock_us();
	int64 tokens = 0;
	List *names = NIL;
	HASH_SEQ_STATUS scan;
	Note *note;

	*from = DT_NOEND;
	if (!tegro_pace_any(pace))
		return NIL;
	hash_seq_init(&scan, pace->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
	{
		int has = (int) tokens_of(pace, note->shop_mark, now_us);

		if (has < 1)
			continue;
		tokens += has;
		*from = Min(*from, note->from);
		names = lappend(names, note->shop_id);
	}
	*places = (int) Min(tokens, *places);
	return names;
}

void
tegro_pace_seen(TegroPace *pace, const List *shops, TimestampTz from)
{
	ListCell *cell;

	foreach(cell, shops)
	{
		uint64 shop_mark = tegro_keys_mark(lfirst(cell));
		Note *note = hash_search(pace->notes, &shop_mark, HASH_FIND, NULL);

		Assert(note != NULL);
		if (from == DT_NOEND)
			remove_note(pace, note);
		else
			note->from = Max(note->from, from);
	}
}

void
tegro_pace_unsee(TegroPace *pace)
{
	HASH_SEQ_STATUS scan;
	Note *note;

	hash_seq_init(&scan, pace->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
		note->from = DT_NOBEGIN;
}

bool
tegro_pace_any(TegroPace *pace)
{
	HASH_SEQ_STATUS scan;
	Note *note;

	if (tegro_rate_limit <= 0 && hash_get_num_entries(pace->notes) > 0)
	{
		/* it was turned off */
		hash_seq_init(&scan, pace->notes);
		while ((note = hash_seq_search(&scan)) != NULL)
			remove_note(pace, note);
		pace->left_until_us = 0;
	}
	return hash_get_num_entries(pace->notes) > 0 || pace->left_until_us != 0;
}

bool
tegro_pace_due(TegroPace *pace)
{
	int64 now_us = tegro_clock_us();

	if (!tegro_pace_any(pace))
		return false;
	return tegro_pace_until(pace, PG_INT64_MAX) <= now_us;
}

int64
tegro_pace_until(TegroPace *pace, int64 until_us)
{
	HASH_SEQ_STATUS scan;
	Note *note;

	if (!tegro_pace_any(pace))
		return until_us;
	if (pace->left_until_us != 0)
		until_us = Min(until_us, pace->left_until_us);
	hash_seq_init(&scan, pace->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
	{
		const Bucket *bucket = hash_search(pace->buckets, &note->shop_mark,
										   HASH_FIND, NULL);

		until_us = Min(until_us, bucket ? has_token_us(bucket) : 0);
	}
	return until_us;
}
