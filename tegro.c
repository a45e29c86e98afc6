/*-------------------------------------------------------------------------
 *
 * tegro.c
 *		A PostgreSQL extension through which a database takes and pays out
 *		money with Tegro.money.
 *
 * This file only wires the rooms in src/ together; each opens with its own
 * purpose, design and hazards.  From the outside in:
 *
 *		calls			SQL functions of the synchronous calls
 *		fdw				foreign tables over the provider's lists
 *		plan			their plans: the list or look-ups, at what cost
 *		tuple			a list's rows -> tuples
 *		option			options of foreign servers and tables; import
 *		reader			reads a list row by row, pages ahead
 *		list			which lists there are, and what their rows hold
 *		doctor			what is wrong with an installation, and how to mend it
 *		installation	its checks of library, settings, keys, rights
 *		operation		its checks of the outbox
 *		provider		its check of network, key and clock
 *		finding			rows of the doctor
 *		monitor			SQL functions that show the counters
 *		notification	SQL functions that check and take notifications
 *		link			payment links
 *		requests		SQL functions of the outbox
 *		trigger			triggers that enqueue a request for each row
 *		report			the report: what there is, as a page to be read
 *		page			HTML: texts, charts
 *		payout			synchronous payouts, by a process of their own
 *		worker			background workers: delivery, callbacks, launcher
 *		delivery		the loop: claim, send, settle
 *		callback		calls functions back
 *		inbox			the notifications on record, and how they change
 *		outbox			the ledger: its rows, and how they change
 *		ledger			the statements on its tables
 *		ruling			what becomes of a request, by what was seen of it
 *		item.h			what deliverers pass on, and what becomes of it
 *		argument		arguments of SQL functions
 *		wake			finds a database's workers, or has them started
 *		identity		which database of which server this is
 *		api				the methods: build, sign, send, read, judge
 *		stats			counters of requests and how long they took
 *		answer			bytes -> the provider's envelope
 *		transport		exchanges over https, on libcurl
 *		settings		whose shop, which key
 *		error			outcome -> SQLSTATE, message, detail, hint
 *		credentials		lines of a credentials file
 *		nonce			numbers that no two requests share
 *		body			JSON as PHP writes it
 *		query			form encoding, as PHP reads and writes it
 *		signature		HMAC, MD5, on OpenSSL
 *		compat.h		what differs between PostgreSQL versions
 *		killpoint.h		places at which a test can have a process die
 *
 * A room may use those below it, never one above.
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

#include "src/compat.h"
#include "src/nonce.h"
#include "src/settings.h"
#include "src/stats.h"
#include "src/wake.h"
#include "src/worker.h"

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
