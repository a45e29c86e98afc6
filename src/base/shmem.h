/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		Areas of shared memory, requested while the library is preloaded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_SHMEM_H
#define TEGRO_SHMEM_H

/*
 * Requests an area of "size" bytes.  Call it from _PG_init while the server
 * loads shared_preload_libraries; elsewhere it throws.
 *
 * When the postmaster starts, and again after a crash, the server allocates
 * the area, sets *pointer, and calls "init" with the area's address.  Every
 * process finds *pointer set.  "init" fills in the whole area: its bytes are
 * not zero after a crash.
 *
 * "name" is unique in the server and stays valid; pg_shmem_allocations shows
 * it.
 */
extern void tegro_shmem_request(const char *name, Size size, void **pointer,
								void (*init)(void *area));

#endif /* TEGRO_SHMEM_H */
