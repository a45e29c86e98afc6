/*-------------------------------------------------------------------------
 *
 * nonce.h
 *		Numbers that no two requests of this server share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_NONCE_H
#define TEGRO_NONCE_H

/* Requests the shared memory of this file; called by _PG_init. */
extern void tegro_nonce_request_shmem(void);

/*
 * The next nonce: microseconds of the clock since 1970, and greater than any
 * that another session of this server got, also where the clock stepped back.
 * Allocates nothing and throws nothing.
 */
extern int64 tegro_nonce_next(void);

#endif /* TEGRO_NONCE_H */
