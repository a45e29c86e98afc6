/*-------------------------------------------------------------------------
 *
 * origin.c
 *		Which database of which server this is.
 *
 * A copy of a database must not send the requests of its source: both would
 * pay.  So the outbox, and each request in it, carries the origin under
 * which it was written, and a delivery worker compares it with the server's own:
 *
 *		SYSTEM/DATABASE/TIMELINE/INODE
 *
 * the system identifier of the cluster, the database's oid, the timeline, and
 * the inode of PG_VERSION, which initdb writes once and nothing rewrites.
 *
 *	- All the same: the same database.
 *	- System and database the same, the timeline newer: a standby that was
 *	  promoted, or a restore to a point in time.  It is the successor, and its
 *	  requests may have been sent by the predecessor after what it knows.
 *	- Anything else: the timeline the same with another inode is a data
 *	  directory that was copied; another database of the system is a template
 *	  copy; another system is a restored dump, or pg_upgrade's work.
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
#include "miscadmin.h"
#include "utils/memutils.h"

#include "src/outbox/origin.h"

typedef struct Origin
{
	unsigned long long system;
	unsigned int database;
	unsigned int timeline;
	unsigned long long inode;
} Origin;

char *
tegro_origin_current(void)
{
	struct stat st;
	char *path = psprintf("%s/PG_VERSION", DataDir);

	Assert(OidIsValid(MyDatabaseId));
	if (stat(path, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	pfree(path);
	return psprintf("%llu/%u/%u/%llu",
					(unsigned long long) GetSystemIdentifier(), MyDatabaseId,
					(unsigned int) GetWALInsertionTimeLine(),
					(unsigned long long) st.st_ino);
}

const char *
tegro_origin_own(void)
{
	static char *origin = NULL;

	/* in recovery the insert that follows says what is wrong */
	if (origin == NULL && !RecoveryInProgress())
		origin = MemoryContextStrdup(TopMemoryContext, tegro_origin_current());
	return origin ? origin : "";
}

static bool
parse(const char *string, Origin *origin)
{
	int end = 0;

	return sscanf(string, "%llu/%u/%u/%llu%n", &origin->system,
				  &origin->database, &origin->timeline, &origin->inode,
				  &end) == 4 &&
		string[end] == '\0';
}

TegroKinship
tegro_origin_compare(const char *then, const char *now)
{
	Origin a;
	Origin b;

	if (!parse(then, &a) || !parse(now, &b) || a.system != b.system ||
		a.database != b.database)
		return TEGRO_STRANGER;
	if (b.timeline > a.timeline)
		return TEGRO_SUCCESSOR;
	return b.timeline == a.timeline && b.inode == a.inode ? TEGRO_SAME
														  : TEGRO_STRANGER;
}
