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
 * What is noted is forgotten after NOTE_MS, and then found again: a role that was
 * made a member of another, whose key is good, has that key from then on.
 *
 * Keys are known by their mark (tegro_keys_mark), never kept.  Pauses are of one
 * process; its successor sends a request, and is refused as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/outbox/pause.h"

/* How long it is remembered that a role's key for a shop rests. */
#define NOTE_MS (10 * 1000)

/* A shop and role whose key rests. */
typedef struct Note
{
	char *name; /* "ROLE SHOP" */
	int64 until_us;
} Note;

/* A shop and key that are left alone for a while. */
typedef struct Pause
{
	char *shop_id;
	uint64 key_mark;
	int64 until_us; /* on tegro_clock_us() */
	bool until_reload;
	TimestampTz reload_time; /* PgReloadTime when it began */
	List *notes;
} Pause;

struct TegroPauses
{
	MemoryContext context;
	List *list; /* of Pause */
};

TegroPauses *
tegro_pauses_create(MemoryContext context)
{
	TegroPauses *pauses = MemoryContextAllocZero(context, sizeof(TegroPauses));

	pauses->context = context;
	return pauses;
}

/* The pause of an item's shop and key; NULL if they do not rest. */
static Pause *
find(const TegroPauses *pauses, const TegroItem *item)
{
	ListCell *cell;

	Assert(item->call && item->call->key_mark != 0);
	foreach(cell, pauses->list)
	{
		Pause *pause = lfirst(cell);

		if (pause->key_mark == item->call->key_mark &&
			strcmp(pause->shop_id, item->shop_id) == 0)
			return pause;
	}
	return NULL;
}

bool
tegro_pauses_add(TegroPauses *pauses, const TegroItem *item, int64 ms,
				 bool until_reload)
{
	Pause *pause = find(pauses, item);
	bool is_new = pause == NULL;

	Assert(ms > 0);
	if (is_new)
	{
		MemoryContext old = MemoryContextSwitchTo(pauses->context);

		pause = palloc0(sizeof(Pause));
		pause->shop_id = pstrdup(item->shop_id);
		pause->key_mark = item->call->key_mark;
		pauses->list = lappend(pauses->list, pause);
		MemoryContextSwitchTo(old);
	}
	pause->until_us = Max(pause->until_us, tegro_clock_us() + ms * 1000);
	pause->until_reload |= until_reload;
	pause->reload_time = PgReloadTime;
	return is_new;
}

bool
tegro_pauses_hold(TegroPauses *pauses, const TegroItem *item)
{
	Pause *pause = pauses->list ? find(pauses, item) : NULL;
	MemoryContext old;
	Note *note;
	char *name;
	ListCell *cell;

	if (pause == NULL)
		return false;
	name = psprintf("%u %s", item->role, item->shop_id);
	foreach(cell, pause->notes)
	{
		if (strcmp(((Note *) lfirst(cell))->name, name) == 0)
			return true;
	}
	old = MemoryContextSwitchTo(pauses->context);
	note = palloc(sizeof(Note));
	note->name = pstrdup(name);
	note->until_us = tegro_clock_us() + NOTE_MS * INT64CONST(1000);
	pause->notes = lappend(pause->notes, note);
	MemoryContextSwitchTo(old);
	return true;
}

static void
free_note(Note *note)
{
	pfree(note->name);
	pfree(note);
}

bool
tegro_pauses_end(TegroPauses *pauses)
{
	int64 now_us = tegro_clock_us();
	bool any = false;
	ListCell *cell;

	foreach(cell, pauses->list)
	{
		Pause *pause = lfirst(cell);
		ListCell *note_cell;

		if (now_us < pause->until_us &&
			(!pause->until_reload || pause->reload_time == PgReloadTime))
			continue;
		foreach(note_cell, pause->notes)
			free_note(lfirst(note_cell));
		list_free(pause->notes);
		pfree(pause->shop_id);
		pfree(pause);
		pauses->list = foreach_delete_current(pauses->list, cell);
		any = true;
	}
	return any;
}

bool
tegro_pauses_any(const TegroPauses *pauses)
{
	return pauses->list != NIL;
}

int64
tegro_pauses_until(const TegroPauses *pauses, int64 until_us)
{
	ListCell *cell;

	foreach(cell, pauses->list)
		until_us = Min(until_us, ((Pause *) lfirst(cell))->until_us);
	return until_us;
}

List *
tegro_pauses_names(TegroPauses *pauses)
{
	int64 now_us = tegro_clock_us();
	List *names = NIL;
	ListCell *cell;

	foreach(cell, pauses->list)
	{
		Pause *pause = lfirst(cell);
		ListCell *note_cell;

		foreach(note_cell, pause->notes)
		{
			Note *note = lfirst(note_cell);

			if (now_us >= note->until_us)
			{
				free_note(note);
				pause->notes = foreach_delete_current(pause->notes, note_cell);
			}
			else
				names = lappend(names, note->name);
		}
	}
	return names;
}
