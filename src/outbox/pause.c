/*-------------------------------------------------------------------------
 *
 * pause.c
 *		Keys that rest, because the provider refuses them for now.
 *
 * A pause follows HTTP 401 and 403, which say that a key is not accepted, and
 * 429, which says that it is used too often.  It concerns one shop and one API
 * key.  Roles can have different keys for the same shop, so the requests of a
 * role whose key has been revoked wait, and those of other roles go out.
 *
 * Which key a request is signed with depends on the role that enqueued it, and
 * only the credentials file tells (keys.c).  A claim reads rows, not keys.  So
 * it works in two steps:
 *
 *	1. A row that was found, and whose key rests, is left as it is, and its shop
 *	   and role are noted (tegro_pauses_hold).
 *	2. The statement that finds rows passes over the shops and roles that are
 *	   noted (tegro_pauses_names).
 *
 * A claim therefore finds at most as many rows of resting keys as it has room
 * for, each of them once for each shop and role, however many rows wait.  The
 * alternative, to ask beforehand which roles resolve to the key, needs a list of
 * all roles with requests, which is a scan of the outbox.
 *
 * A role whose line of the credentials file is for any shop can name shops
 * without end.  So a role begins at most MAX_SHOPS pauses of one key; the next
 * one is of that role and key, whatever the shop.  It is noted without a shop,
 * and all requests of the role wait, also those of other keys.  The key itself
 * does not rest for other roles: a role must not be able to stop them by shops
 * that do not exist.  What is kept is bounded by the roles and keys that there
 * are, whatever they enqueue.
 *
 * What is noted is forgotten after NOTE_MS, and then found again: a role that was
 * made a member of another, whose key is good, has that key from then on.
 *
 * Keys and shops are known by their marks (tegro_keys_mark), never kept.  Pauses
 * are of one process; its successor sends a request, and is refused as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/client/keys.h"
#include "src/outbox/pause.h"

/* How long it is remembered that a role's key for a shop rests. */
#define NOTE_MS (10 * 1000)

/* How many shops of one key rest each for itself, for what one role sent. */
#define MAX_SHOPS 16

/* What rests.  Fields of one size: it is hashed as bytes. */
typedef struct PauseKey
{
	uint64 key_mark;
	uint64 shop_mark; /* 0: any shop, of "role" alone */
	uint64 role;	  /* 0: any role */
} PauseKey;

/* What is left alone for a while. */
typedef struct Pause
{
	PauseKey key; /* must be first */
	Oid begun_by; /* the role whose request was refused */
	bool until_reload;
	int64 until_us;			 /* on tegro_clock_us() */
	TimestampTz reload_time; /* PgReloadTime when it began */
} Pause;

typedef struct NoteKey
{
	PauseKey pause;
	uint64 role;
} NoteKey;

/* A role whose requests are passed over, for one shop or for all. */
typedef struct Note
{
	NoteKey key; /* must be first */
	char *name;	 /* "ROLE SHOP", or "ROLE" */
	int64 until_us;
} Note;

struct TegroPauses
{
	MemoryContext context;
	HTAB *pauses; /* of Pause */
	HTAB *notes;  /* of Note */
};

static HTAB *
create_table(const char *name, MemoryContext context, Size key_size, Size size)
{
	HASHCTL control = {.keysize = key_size,
					   .entrysize = size,
					   .hcxt = context};

	return hash_create(name, MAX_SHOPS, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

TegroPauses *
tegro_pauses_create(MemoryContext context)
{
	TegroPauses *pauses = MemoryContextAllocZero(context, sizeof(TegroPauses));

	pauses->context = context;
	pauses->pauses = create_table("tegro pauses", context, sizeof(PauseKey),
								  sizeof(Pause));
	pauses->notes = create_table("tegro passed over", context, sizeof(NoteKey),
								 sizeof(Note));
	return pauses;
}

/* The pause of an item's key, by shop or by role. */
static PauseKey
key_by_shop(const TegroItem *item)
{
	Assert(item->call && item->call->key_mark != 0);
	return (PauseKey){item->call->key_mark, tegro_keys_mark(item->shop_id), 0};
}

static PauseKey
key_by_role(const TegroItem *item)
{
	return (PauseKey){item->call->key_mark, 0, item->role};
}

/* Has the role begun as many pauses of its key as it can? */
static bool
is_full(const TegroPauses *pauses, const TegroItem *item)
{
	HASH_SEQ_STATUS scan;
	Pause *pause;
	int nshops = 0;

	hash_seq_init(&scan, pauses->pauses);
	while ((pause = hash_seq_search(&scan)) != NULL)
	{
		if (pause->key.key_mark == item->call->key_mark &&
			pause->begun_by == item->role)
			nshops++;
	}
	return nshops >= MAX_SHOPS;
}

TegroPauseBegun
tegro_pauses_add(TegroPauses *pauses, const TegroItem *item, int64 ms,
				 bool until_reload)
{
	PauseKey key = key_by_shop(item);
	TegroPauseBegun begun = TEGRO_PAUSE_OF_SHOP;
	Pause *pause;
	bool found;

	Assert(ms > 0);
	if (hash_search(pauses->pauses, &key, HASH_FIND, NULL) == NULL &&
		is_full(pauses, item))
	{
		key = key_by_role(item);
		begun = TEGRO_PAUSE_OF_ROLE;
	}
	pause = hash_search(pauses->pauses, &key, HASH_ENTER, &found);
	if (!found)
	{
		pause->begun_by = item->role;
		pause->until_us = 0;
		pause->until_reload = false;
	}
	pause->until_us = Max(pause->until_us, tegro_clock_us() + ms * 1000);
	pause->until_reload |= until_reload;
	pause->reload_time = PgReloadTime;
	return found ? TEGRO_PAUSE_GOES_ON : begun;
}

bool
tegro_pauses_hold(TegroPauses *pauses, const TegroItem *item)
{
	NoteKey key = {.role = item->role};
	Note *note;
	char *name;

	if (!tegro_pauses_any(pauses))
		return false;
	key.pause = key_by_role(item);
	if (hash_search(pauses->pauses, &key.pause, HASH_FIND, NULL) == NULL)
	{
		key.pause = key_by_shop(item);
		if (hash_search(pauses->pauses, &key.pause, HASH_FIND, NULL) == NULL)
			return false;
	}
	if (hash_search(pauses->notes, &key, HASH_FIND, NULL) != NULL)
		return true;
	name = MemoryContextStrdup(pauses->context,
							   key.pause.shop_mark == 0
								   ? psprintf("%u", item->role)
								   : psprintf("%u %s", item->role,
											  item->shop_id));
	note = hash_search(pauses->notes, &key, HASH_ENTER, NULL);
	note->name = name;
	note->until_us = tegro_clock_us() + NOTE_MS * INT64CONST(1000);
	return true;
}

/* Forgets the notes that are over, and those of pauses that are. */
static void
end_notes(TegroPauses *pauses)
{
	int64 now_us = tegro_clock_us();
	HASH_SEQ_STATUS scan;
	Note *note;

	hash_seq_init(&scan, pauses->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
	{
		if (now_us < note->until_us &&
			hash_search(pauses->pauses, &note->key.pause, HASH_FIND, NULL))
			continue;
		pfree(note->name);
		hash_search(pauses->notes, &note->key, HASH_REMOVE, NULL);
	}
}

bool
tegro_pauses_end(TegroPauses *pauses)
{
	int64 now_us = tegro_clock_us();
	bool any = false;
	HASH_SEQ_STATUS scan;
	Pause *pause;

	hash_seq_init(&scan, pauses->pauses);
	while ((pause = hash_seq_search(&scan)) != NULL)
	{
		if (now_us < pause->until_us &&
			(!pause->until_reload || pause->reload_time == PgReloadTime))
			continue;
		hash_search(pauses->pauses, &pause->key, HASH_REMOVE, NULL);
		any = true;
	}
	if (any)
		end_notes(pauses);
	return any;
}

bool
tegro_pauses_any(const TegroPauses *pauses)
{
	return hash_get_num_entries(pauses->pauses) > 0;
}

int64
tegro_pauses_until(const TegroPauses *pauses, int64 until_us)
{
	HASH_SEQ_STATUS scan;
	Pause *pause;

	hash_seq_init(&scan, pauses->pauses);
	while ((pause = hash_seq_search(&scan)) != NULL)
		until_us = Min(until_us, pause->until_us);
	return until_us;
}

List *
tegro_pauses_names(TegroPauses *pauses)
{
	List *names = NIL;
	HASH_SEQ_STATUS scan;
	Note *note;

	end_notes(pauses);
	hash_seq_init(&scan, pauses->notes);
	while ((note = hash_seq_search(&scan)) != NULL)
		names = lappend(names, note->name);
	return names;
}
