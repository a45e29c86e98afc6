/*-------------------------------------------------------------------------
 *
 * tegro.c
 *		A PostgreSQL extension through which a database takes and pays out
 *		money with Tegro.money.
 *
 * This file wires the folders of src/ together and holds no logic.  Each file
 * there opens with its purpose, design and hazards.  From the top down:
 *
 *		functions	the functions that SQL calls
 *		doctor		what is wrong with an installation, and how to fix it
 *		report		the outbox as an HTML page
 *		fdw			foreign tables over the provider's lists
 *		worker		background workers: launcher, delivery, callbacks
 *		outbox		requests and notifications on record, and how they change
 *		client		one call of the provider: methods, engine, transport
 *		format		bodies, forms, signatures, credentials; free of PostgreSQL
 *		base		settings, errors, arguments, PostgreSQL's versions
 *
 * An include stays within its folder or points down this list.
 *
 * The library works when a session loads it by calling one of its functions.
 * From shared_preload_libraries it also has delivery go on by itself after a
 * restart of the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "src/base/compat.h"
#include "src/client/nonce.h"
#include "src/base/settings.h"
#include "src/client/stats.h"
#include "src/outbox/wake.h"
#include "src/worker/worker.h"

TEGRO_MODULE_MAGIC("tegro", TEGRO_VERSION);

void _PG_init(void);

static shmem_request_hook_type next_shmem_request_hook = NULL;

static void
request_shmem(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	tegro_nonce_request_shmem();
	tegro_stats_request_shmem();
	tegro_wake_request_shmem();
}

void
_PG_init(void)
{
	tegro_settings_define();

	if (process_shared_preload_libraries_in_progress)
	{
		next_shmem_request_hook = shmem_request_hook;
		shmem_request_hook = request_shmem;
		tegro_worker_register_launcher();
	}
}
