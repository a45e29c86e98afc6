/*-------------------------------------------------------------------------
 *
 * slots.c
 *		File descriptors, accounted for with PostgreSQL's.
 *
 * PostgreSQL closes files of its own when a process has many open, and counts
 * on nobody else to take descriptors behind its back.  Whoever does so tells
 * fd.c: AcquireExternalFD() grants up to a third of what the process may open.
 * That cannot be done where descriptors are made, in libcurl's callbacks, for
 * it closes files.  So a slot is held for each descriptor before libcurl can
 * need it:
 *
 *	- one for each connection that stands, in use or idle;
 *	- one for each exchange in flight that has no connection yet, unless an
 *	  idle one is there for it.  libcurl is told to have no more connections
 *	  than that, and closes an idle one where none of them suits;
 *	- some more for each of these whose host is a name.
 *
 * Some are left to others.  fd.c refuses a descriptor to whoever asks once its
 * third is taken: postgres_fdw and dblink then fail, and so does each wait of
 * theirs, even while a transaction is aborted.  Idle connections hold slots for
 * half a minute after a batch.
 *
 * Where no slot can be had, an exchange waits until another has ended.  The
 * first one of a process never waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/fd.h"

#include "src/base/settings.h"
#include "src/client/transport/internal.h"

/*
 * Descriptors that an exchange can have for a while, beside its connection's,
 * if its host is a name: libcurl's pair of sockets for the thread that looks
 * the name up, one with which that asks or reads, and a connection that is
 * tried to a second address.
 */
#define RESOLVING_SLOTS 4

/*
 * Descriptors that are left to other extensions of the process: connections of
 * postgres_fdw or dblink, say, and what these wait with.  By default fd.c grants
 * some 330 in all; 16 of them are few, but more than most sessions need.
 */
#define SPARE_SLOTS 16

static int nslots;		 /* that are held */
static int nconnections; /* that stand */


/* A connection stands, or was closed.  In libcurl's callbacks. */
void
tegro_slots_count_connection(int change)
{
	nconnections += change;
	Assert(nconnections >= 0);
}

/* Exchanges, with "more" in flight, that need a connection to be opened. */
static int
count_unconnected(int more)
{
	int busy = tegro_engine.nin_flight - tegro_engine.nwaiting;
	int idle = Max(nconnections - busy, 0);

	return Max(tegro_engine.nwaiting + more - idle, 0);
}

/* The connections that there may be at most, for what is in flight. */
int
tegro_slots_connections(void)
{
	return Max(nconnections + count_unconnected(0), 1);
}

/* Slots to hold with "more" exchanges in flight, "resolving" of them to a name. */
static int
count_slots(int more, int resolving)
{
	int unconnected = count_unconnected(more);

	return nconnections + unconnected +
		RESOLVING_SLOTS *
		Min(unconnected, tegro_engine.nresolving + resolving);
}

/* Holds no more slots than that. */
static void
give_back(int wanted)
{
	while (nslots > wanted)
	{
		ReleaseExternalFD();
		nslots--;
	}
}

/*
 * Sees to it that so many slots are held; false if they cannot be had.  fd.c does
 * not say how many it would grant, so those for others are asked for as well, and
 * given back.
 */
static bool
acquire(int wanted)
{
	int held = nslots;
	bool granted;

	if (held >= wanted)
		return true;
	while (nslots < wanted + SPARE_SLOTS && AcquireExternalFD())
		nslots++;
	granted = nslots == wanted + SPARE_SLOTS;
	give_back(Max(nslots - SPARE_SLOTS, held));
	return granted;
}

/* Has slots for all that is in flight, whether fd.c grants them or not. */
void
tegro_slots_hold(void)
{
	int wanted = count_slots(0, 0);

	if (acquire(wanted))
		return;
	while (nslots < wanted)
	{
		ReserveExternalFD();
		nslots++;
	}
}

/* Gives back the slots that nothing needs any more. */
void
tegro_slots_release(void)
{
	give_back(count_slots(0, 0));
}

int
tegro_transport_descriptors(int wanted)
{
	bool resolves = tegro_exchange_resolves(tegro_api_url);
	int granted = 0;

	while (granted < wanted &&
		   acquire(count_slots(granted + 1, resolves ? granted + 1 : 0)))
		granted++;
	/* asking holds none: who asked may start fewer */
	tegro_slots_release();
	return tegro_engine.nin_flight == 0 ? Max(granted, Min(wanted, 1))
										: granted;
}
