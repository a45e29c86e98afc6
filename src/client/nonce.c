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
 * Limits: the counter begins anew when the server restarts, from the clock.
 * Several servers that act for one shop share nothing but the time: two of
 * them asking within the same microsecond is what the provider would refuse,
 * and a refused request took no effect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "utils/timestamp.h"

#include "src/base/shmem.h"
#include "src/client/nonce.h"

typedef struct NonceShared
{
	pg_atomic_uint64 last; /* the last nonce given out, 0 at first */
} NonceShared;

static NonceShared *nonce_shared = NULL;

static void
init(void *area)
{
	pg_atomic_init_u64(&((NonceShared *) area)->last, 0);
}

void
tegro_nonce_request_shmem(void)
{
	tegro_shmem_request("tegro nonce", sizeof(NonceShared),
						(void **) &nonce_shared, init);
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

	last = pg_atomic_read_u64(&nonce_shared->last);
	do
	{
		next = Max(now, last + 1);
	} while (
		!pg_atomic_compare_exchange_u64(&nonce_shared->last, &last, next));

	/* nobody has had it, and as a bigint it is positive */
	Assert(next > last && next <= PG_INT64_MAX);
	return (int64) next;
}
