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
 * The library is loaded by shared_preload_libraries, and in no other way: then
 * the settings exist in every session from its start, the launcher runs, and
 * shared memory is requested as the server expects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "src/base/compat.h"
#include "src/base/settings.h"
#include "src/client/keys.h"
#include "src/client/nonce.h"
#include "src/client/stats.h"
#include "src/outbox/wake.h"
#include "src/worker/launcher.h"

TEGRO_MODULE_MAGIC("tegro", TEGRO_VERSION);

void _PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tegro is not in shared_preload_libraries"),
				 tegro_setting_is_of_alter_system("shared_preload_libraries")
					 ? errhint("Run this statement and restart the server:  ALTER SYSTEM SET shared_preload_libraries = %s%stegro",
							   shared_preload_libraries_string,
							   *shared_preload_libraries_string ? ", " : "")
					 : errhint("Add this line to postgresql.conf and restart the server:  shared_preload_libraries = '%s%stegro'",
							   shared_preload_libraries_string,
							   *shared_preload_libraries_string ? ", " : "")));

	tegro_settings_note_configured();
	tegro_settings_define();
	tegro_keys_define();
	tegro_settings_check_configured();
	MarkGUCPrefixReserved("tegro");

	tegro_nonce_request_shmem();
	tegro_stats_request_shmem();
	tegro_wake_request_shmem();

	/* pg_upgrade has the server in its hands: nothing is to be sent */
	if (!IsBinaryUpgrade)
		tegro_launcher_register();
}
