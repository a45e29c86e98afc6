/*-------------------------------------------------------------------------
 *
 * origin.c
 *		Which database of which server this is, and who its provider is.
 *
 * A copy of a database must not send the requests of its source: both would
 * pay.  So each request carries the origin under which it was enqueued, and a
 * delivery worker judges it by that, alone:
 *
 *		SYSTEM/DATABASE/TIMELINE/INODE/NUMBER/ADDRESS
 *
 * the system identifier of the cluster, the database's oid, the timeline, the
 * inode of PG_VERSION, which initdb writes once and nothing rewrites, the random
 * number of tegro_origin, and the address of the provider.
 *
 *	- All the same: deliver.
 *	- Only the timeline is newer: a standby that was promoted, or a restore to a
 *	  point in time.  The request may have been sent since, by the predecessor,
 *	  so it is looked up first.
 *	- Anything else: the request is set aside in its row until a person takes it
 *	  over.  The timeline the same with another inode is a data directory that
 *	  was copied; another database of the system is a template copy; another
 *	  system is a restored dump, or pg_upgrade's work; another number is a dump
 *	  that was restored over its source, or data that was loaded after a
 *	  TRUNCATE; another address is another provider, which does not know what
 *	  was sent.
 *
 * The number.  CREATE EXTENSION draws it, and so does a TRUNCATE of a table that
 * says what was sent, by a trigger.  No dump carries it.  pg_upgrade does, with
 * the files of all tables, but changes the system identifier.  A number that is
 * drawn without need does no harm: requests are set aside.
 *
 * A process remembers the number.  Whoever asks for it has locked tegro_outbox
 * as a writer does, for the rest of the transaction.  A TRUNCATE needs a
 * stronger lock, commits its new number in the same transaction, and
 * invalidates the table in the relation cache, so that the lock finds out
 * about it.  A claim thus judges rows by the number that holds until the claim
 * is committed.
 *
 * A payout that a session signs with a key of its own is recorded under the
 * address and a mark.  No worker has that key, so to every worker the request is
 * of another origin: nobody looks it up, or sends it, with another key.
 *
 * What can't be told apart: a snapshot of the storage below the file system,
 * started as it is; a restore of production made for staging, which has a
 * newer timeline as a failover has.  There, tegro.delivery = off and a
 * credentials file outside the data directory are what protects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "src/base/error.h"
#include "src/base/settings.h"
#include "src/outbox/guard.h"
#include "src/outbox/origin.h"

PG_FUNCTION_INFO_V1(tegro_new_origin);

/* What follows the address where a session has signed with its own key. */
#define OWN_KEY " with the key of a session"

/* Room for a number; those of tegro_origin have 32 digits. */
#define NUMBER_LEN 64

typedef struct Origin
{
	unsigned long long system;
	unsigned int database;
	unsigned int timeline;
	unsigned long long inode;
	const char *rest; /* number and address */
} Origin;

static bool has_own_key = false;

static char *
format(const Origin *origin)
{
	return psprintf("%llu/%u/%u/%llu/%s", origin->system, origin->database,
					origin->timeline, origin->inode, origin->rest);
}

static bool
parse(const char *string, Origin *origin)
{
	int end = 0;

	if (sscanf(string, "%llu/%u/%u/%llu/%n", &origin->system,
			   &origin->database, &origin->timeline, &origin->inode,
			   &end) != 4 ||
		end == 0)
		return false;
	origin->rest = string + end;
	return strchr(origin->rest, '/') != NULL;
}

char *
tegro_origin_with(const char *number)
{
	static Origin origin; /* but for the rest, the same while we live */

	Assert(OidIsValid(MyDatabaseId));
	if (origin.system == 0)
	{
		struct stat st;
		char *path = psprintf("%s/PG_VERSION", DataDir);

		if (stat(path, &st) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not stat file \"%s\": %m", path)));
		pfree(path);
		origin.database = MyDatabaseId;
		origin.timeline = (unsigned int) GetWALInsertionTimeLine();
		origin.inode = (unsigned long long) st.st_ino;
		origin.system = (unsigned long long) GetSystemIdentifier();
	}
	origin.rest = psprintf("%s/%s%s", number, tegro_api_url,
						   has_own_key ? OWN_KEY : "");
	return format(&origin);
}

void
tegro_origin_mark_own_key(void)
{
	has_own_key = true;
}

/* The number of the outbox, of which the table is locked. */
static char *
read_number(const TegroStore *store)
{
	MemoryContext caller = CurrentMemoryContext;
	char *number;

	/* not by an older snapshot: somebody may have drawn one since */
	PushActiveSnapshot(GetLatestSnapshot());
	if (tegro_store_look(store, TEGRO_STMT_GET_NUMBER, NULL, NULL) != 1)
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_MISCONFIGURED),
				 errmsg("table \"tegro_origin\" is empty"),
				 errdetail("Requests cannot be told from those of a copy, and nothing is recorded, sent, looked up or called back."),
				 errhint("SELECT tegro_take_over('why') writes its row, and sets aside what was enqueued before.")));
	MemoryContextSwitchTo(caller);
	number = tegro_store_text(0, 1);
	PopActiveSnapshot();
	return number;
}

const char *
tegro_origin_own(const TegroStore *store)
{
	static char *origin = NULL;
	static char *address = NULL; /* of it */
	static Oid namespace = InvalidOid;
	static uint64 changes;

	/* in recovery the insert that follows says what is wrong */
	if (RecoveryInProgress())
		return "";
	tegro_store_lock(store);
	if (origin == NULL || namespace != store->namespace ||
		changes != tegro_guard_changes() ||
		strcmp(address, tegro_api_url) != 0)
	{
		char *number = read_number(store);
		char *own = tegro_origin_with(number);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		char *new_origin = pstrdup(own);
		char *new_address = pstrdup(tegro_api_url);

		MemoryContextSwitchTo(old);
		if (origin)
		{
			pfree(origin);
			pfree(address);
		}
		origin = new_origin;
		address = new_address;
		namespace = store->namespace;
		/* if there were more while it was read, it is read again */
		changes = tegro_guard_changes();
		pfree(own);
		pfree(number);
	}
	return origin;
}

char *
tegro_origin_earlier(const char *origin)
{
	Origin earlier;

	if (!parse(origin, &earlier))
		elog(ERROR, "\"%s\" is no origin", origin);
	earlier.timeline = 0;
	return format(&earlier);
}

TegroKinship
tegro_origin_compare(const char *then, const char *now)
{
	Origin a;
	Origin b;

	if (!parse(then, &a) || !parse(now, &b) || a.system != b.system ||
		a.database != b.database || strcmp(a.rest, b.rest) != 0)
		return TEGRO_STRANGER;
	if (b.timeline > a.timeline)
		return TEGRO_SUCCESSOR;
	return b.timeline == a.timeline && b.inode == a.inode ? TEGRO_SAME
														  : TEGRO_STRANGER;
}

bool
tegro_origin_same_address(const char *then, const char *now)
{
	Origin a;
	Origin b;

	return parse(then, &a) && parse(now, &b) &&
		strcmp(strchr(a.rest, '/'), strchr(b.rest, '/')) == 0;
}

/* Writes the row of tegro_origin, and has every process read it again. */
static void
write_row(const TegroStore *store, TegroStatement which, const char *reason)
{
	Datum values[1] = {CStringGetTextDatum(reason)};

	if (tegro_store_run_alone(store, which, values, NULL) != 1)
		elog(ERROR, "the row of tegro_origin could not be written");
	CacheInvalidateRelcacheByRelid(
		get_relname_relid("tegro_origin", store->namespace));
}

void
tegro_origin_note(const TegroStore *store, const char *reason)
{
	write_row(store, TEGRO_STMT_NOTE_ORIGIN, reason);
}

/*
 * tegro_new_origin(): the trigger
 */
Datum
tegro_new_origin(PG_FUNCTION_ARGS)
{
	TegroStore store;
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("tegro_new_origin is a trigger function")));
	store = tegro_store_of_function(fcinfo->flinfo->fn_oid);
	write_row(&store, TEGRO_STMT_NEW_NUMBER,
			  psprintf("TRUNCATE of %s by %s",
					   RelationGetRelationName(data->tg_relation),
					   GetUserNameFromId(GetUserId(), false)));
	return PointerGetDatum(NULL);
}
