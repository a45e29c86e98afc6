/*-------------------------------------------------------------------------
 *
 * nonce.h
 *		Numbers that no two requests of this server share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_NONCE_H
#define TEGRO_NONCE_H

/*
 * Reserves the shared memory of this room.  To be called from a
 * shmem_request_hook where the library is preloaded; without it the few bytes
 * come out of the slack that every server keeps.
 */
extern void tegro_nonce_request_shmem(void);

/*
 * The next nonce: microseconds of the clock since 1970, and greater than any
 * that another session of this server got, also where the clock stepped back.
 *
 * Throws if shared memory has no room for the counter; allocates nothing
 * else.
 */
extern int64 tegro_nonce_next(void);

#endif /* TEGRO_NONCE_H */
