/*-------------------------------------------------------------------------
 *
 * nonce.c
 *		Numbers that no two requests of this server share.
 *
 * The provider refuses a request whose nonce it has seen.  Clients of one
 * process use the clock; PostgreSQL has many processes, and two of them can
 * read the same microsecond, or a clock that was set back.  So one counter in
 * shared memory holds the last nonce given out, and the next is the clock or
 * one more than that, whichever is greater.
 *
 * The counter is found by its name, by whichever session asks first, so it
 * needs no shared_preload_libraries (autoprewarm keeps its state in the same
 * way).
 *
 * Limits: the counter begins anew when the server restarts, from the clock.
 * Several servers that act for one shop share nothing but the time: two of
 * them asking within the same microsecond is what the provider would refuse,
 * and a refused request took no effect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "src/client/nonce.h"

typedef struct NonceShared
{
	pg_atomic_uint64 last; /* the last nonce given out, 0 at first */
} NonceShared;

static NonceShared *nonce_shared = NULL;

void
tegro_nonce_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(NonceShared)));
}

static void
attach(void)
{
	NonceShared *shared;
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("tegro nonce", sizeof(NonceShared), &found);
	if (!found)
		pg_atomic_init_u64(&shared->last, 0);
	LWLockRelease(AddinShmemInitLock);
	nonce_shared = shared;
}

int64
tegro_nonce_next(void)
{
	/* PostgreSQL counts from 2000, everyone else from 1970 */
	const int64 epoch_shift = ((int64) (POSTGRES_EPOCH_JDATE -
										UNIX_EPOCH_JDATE)) *
		SECS_PER_DAY * USECS_PER_SEC;
	uint64 now = (uint64) (GetCurrentTimestamp() + epoch_shift);
	uint64 last;
	uint64 next;

	if (nonce_shared == NULL)
		attach();

	last = pg_atomic_read_u64(&nonce_shared->last);
	do
	{
		next = Max(now, last + 1);
	} while (
		!pg_atomic_compare_exchange_u64(&nonce_shared->last, &last, next));

	return (int64) next;
}
