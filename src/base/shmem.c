/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Areas of shared memory, requested while the library is preloaded.
 *
 * A module requests its area by name and size in one call.  This file keeps
 * the requests in a list and passes them on at the two moments at which the
 * server asks for them: before it allocates shared memory, and after.
 * compat.h knows how each version of PostgreSQL asks.
 *
 * The list lives in the memory of each process.  Child processes inherit it,
 * together with the pointers to the areas.  Where they do not (EXEC_BACKEND),
 * the server loads the library in each of them, the modules request their
 * areas again, and the existing areas are found by name.
 *
 * After a crash the postmaster allocates shared memory anew, without loading
 * the library again, so the list must outlive the first allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "src/base/compat.h"
#include "src/base/shmem.h"

/* More than there are modules with an area. */
#define MAX_AREAS 8

typedef struct Area
{
	const char *name;
	Size size;
	void **pointer;
	void (*init)(void *area);
} Area;

static Area areas[MAX_AREAS];
static int n_areas = 0;

/* Before the server allocates shared memory. */
static void
request_areas(void *arg)
{
	for (int i = 0; i < n_areas; i++)
		tegro_reserve_shmem(areas[i].name, areas[i].size, areas[i].pointer);
}

/* After it has done so. */
static void
init_areas(void *arg)
{
	for (int i = 0; i < n_areas; i++)
	{
		if (tegro_find_shmem(areas[i].name, areas[i].size, areas[i].pointer))
			areas[i].init(*areas[i].pointer);
	}
}

void
tegro_shmem_request(const char *name, Size size, void **pointer,
					void (*init)(void *area))
{
	if (!process_shared_preload_libraries_in_progress)
		elog(ERROR, "shared memory for \"%s\" is requested too late", name);
	if (n_areas == MAX_AREAS)
		elog(ERROR, "too many requests for shared memory");
	if (n_areas == 0)
		tegro_register_shmem_callbacks(request_areas, init_areas);

	areas[n_areas].name = name;
	areas[n_areas].size = size;
	areas[n_areas].pointer = pointer;
	areas[n_areas].init = init;
	n_areas++;
}
