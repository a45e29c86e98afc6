/*-------------------------------------------------------------------------
 *
 * compat.h
 *		What differs between the PostgreSQL versions that tegro supports
 *		(15 to 19), under one name each.
 *
 * This is the only place that names PG_VERSION_NUM: code elsewhere reads as
 * if there were one PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_COMPAT_H
#define TEGRO_COMPAT_H

/* First: the headers of another version may not even compile. */
#if PG_VERSION_NUM < 150000
#error tegro needs PostgreSQL 15 or later
#endif
#if PG_VERSION_NUM >= 200000
#error tegro has not been tested with PostgreSQL 20 or later: use 15 to 19
#endif

#include "access/tupdesc.h"
#include "access/xlog.h"
#include "catalog/pg_proc.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "optimizer/pathnode.h"
#include "postmaster/bgworker.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/guc_tables.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#include "storage/waiteventset.h"
#else
#include "commands/explain.h"
#endif

/* Stands before a declaration, as 18's own does. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* From 18 on a library can say its name and version: pg_get_loaded_modules(). */
#if PG_VERSION_NUM >= 180000
#define TEGRO_MODULE_MAGIC(name_, version_) \
	PG_MODULE_MAGIC_EXT(.name = name_, .version = version_)
#else
#define TEGRO_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC
#endif

/*
 * What pg_stat_activity is to show of a wait.  Before 17 that is "Extension"
 * whatever is waited for; from then on it is "name", which "number" keeps:
 * a static variable, zero at first.  Not in the postmaster.
 */
static inline uint32
tegro_wait_event(uint32 *number, const char *name)
{
#if PG_VERSION_NUM >= 170000
	if (*number == 0)
		*number = WaitEventExtensionNew(name);
	return *number;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * A WaitEventSet that lives as long as the process.  From 17 on a set belongs
 * to a resource owner; none is what makes it outlive the transaction.
 */
static inline WaitEventSet *
tegro_create_process_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* A setting; NULL if there is none of that name. */
static inline const struct config_generic *
tegro_find_setting(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return find_option(name, false, true, LOG);
#else
	struct config_generic **settings = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		if (pg_strcasecmp(settings[i]->name, name) == 0)
			return settings[i];
	}
	return NULL;
#endif
}

/* All settings, and how many. */
static inline struct config_generic **
tegro_all_settings(int *count)
{
#if PG_VERSION_NUM >= 160000
	return get_guc_variables(count);
#else
	*count = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

/*
 * Where a setting has its value from; PGC_S_DEFAULT also for one that does not
 * exist.
 */
static inline GucSource
tegro_setting_source(const char *name)
{
	const struct config_generic *setting = tegro_find_setting(name);

	return setting ? setting->source : PGC_S_DEFAULT;
}

/* Did ALTER SYSTEM give a setting its value? */
static inline bool
tegro_setting_is_of_alter_system(const char *name)
{
	const struct config_generic *setting = tegro_find_setting(name);
	const char *file = setting ? setting->sourcefile : NULL;
	const char *end = "postgresql.auto.conf";

	return file && strlen(file) >= strlen(end) &&
		strcmp(file + strlen(file) - strlen(end), end) == 0;
}

/* May a role execute a function? */
static inline bool
tegro_may_execute(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) ==
		ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* The parts of a qualified name; throws if it is none. */
static inline List *
tegro_name_list(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return stringToQualifiedNameList(name, NULL);
#else
	return stringToQualifiedNameList(name);
#endif
}

/*
 * Has the last commit of this process reached the synchronous standbys that it
 * had to wait for?  It may not have where the wait was cancelled: PostgreSQL
 * then commits all the same.
 *
 * The answer must not come from a struct in shared memory.  Minor releases
 * change these: a library built against the headers of 16.2 took the flags of
 * WalSndCtl on 16.14 for its bool, and delivered nothing.  So this asks the
 * exported function and variables that decide when the server lets a waiting
 * commit go.  They say what the standbys have on disk now.  After a standby has
 * just been lost, the answer can be "no" for a commit that it had confirmed;
 * the claim is then made once more.
 *
 * This needs no transaction.
 */
static inline bool
tegro_commit_is_replicated(void)
{
	SyncRepStandbyData *standbys;
	int nstandbys;
	int nconfirmed = 0;

	if (max_wal_senders == 0 || SyncRepStandbyNames == NULL ||
		SyncRepStandbyNames[0] == '\0')
		return true;
	Assert(SyncRepConfig != NULL);
	/* with FIRST, no more than num_sync of them; with ANY, all that count */
	nstandbys = SyncRepGetCandidateStandbys(&standbys);
	for (int i = 0; i < nstandbys; i++)
	{
		if (XactLastCommitEnd <= standbys[i].flush)
			nconfirmed++;
	}
	pfree(standbys);
	return nconfirmed >= SyncRepConfig->num_sync;
}

/*
 * jsonb that is built token by token.  Begin with zeros; after the last token
 * "result" is the whole value.
 */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState TegroJsonbState;
#else
typedef struct TegroJsonbState
{
	JsonbValue *result;
	JsonbParseState *parse_state;
} TegroJsonbState;
#endif

/* Adds a token; returns "result", which is whole after the last one. */
static inline JsonbValue *
tegro_push_jsonb(TegroJsonbState *state, JsonbIteratorToken token,
				 JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parse_state, token, value);
#endif
	return state->result;
}

/*
 * A lexer of JSON in server encoding, in the current memory context, which
 * resolves the escapes of strings.
 */
static inline JsonLexContext *
tegro_create_json_lexer(char *json, size_t len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, GetDatabaseEncoding(),
										true);
#else
	return makeJsonLexContextCstringLen(json, (int) len, GetDatabaseEncoding(),
										true);
#endif
}

/*
 * What a callback of the JSON parser returns.  Before 16 that is nothing, and
 * only an error ends the parser.
 */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType TegroJsonVerdict;
#define TEGRO_JSON_CONTINUE return JSON_SUCCESS
#else
typedef void TegroJsonVerdict;
#define TEGRO_JSON_CONTINUE return
#endif

/* From 19 on a row type that was made column by column is to be completed. */
static inline void
tegro_finish_tuple_desc(TupleDesc desc)
{
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* The role whose rights count for a foreign table that is scanned. */
static inline Oid
tegro_scan_role(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
#if PG_VERSION_NUM >= 160000
	Oid role = plan->checkAsUser;
#else
	Oid role =
		exec_rt_fetch(plan->scan.scanrelid, node->ss.ps.state)->checkAsUser;
#endif

	return OidIsValid(role) ? role : GetUserId();
}

/* A path that scans a foreign table by itself, in no order. */
static inline ForeignPath *
tegro_create_foreignscan_path(PlannerInfo *root, RelOptInfo *rel, double rows,
							  Cost startup_cost, Cost total_cost, Relids outer,
							  List *fdw_private)
{
#if PG_VERSION_NUM >= 180000
	return create_foreignscan_path(root, rel, NULL, rows, 0, startup_cost,
								   total_cost, NIL, outer, NULL, NIL,
								   fdw_private);
#elif PG_VERSION_NUM >= 170000
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost,
								   total_cost, NIL, outer, NULL, NIL,
								   fdw_private);
#else
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost,
								   total_cost, NIL, outer, NULL, fdw_private);
#endif
}

/*
 * Shared memory, for base/shmem.c.
 *
 * tegro_register_shmem_callbacks() has the server call "request" before it
 * allocates shared memory, and "init" after that: when the postmaster starts
 * and after a crash.  Call it once, while the library is preloaded.  "request"
 * calls tegro_reserve_shmem() for each area, "init" calls tegro_find_shmem().
 *
 * From 19 on these are callbacks; the server sets *pointer by itself and calls
 * "init" only for new areas.  Before 19 they are hooks, each of which calls the
 * one that was set before it.
 */
typedef void (*TegroShmemCallback)(void *arg);

#if PG_VERSION_NUM >= 190000
static inline void
tegro_register_shmem_callbacks(TegroShmemCallback request,
							   TegroShmemCallback init)
{
	static ShmemCallbacks callbacks; /* the server keeps its address */

	callbacks.request_fn = request;
	callbacks.init_fn = init;
	RegisterShmemCallbacks(&callbacks);
}

static inline void
tegro_reserve_shmem(const char *name, Size size, void **pointer)
{
	ShmemRequestStruct(.name = name, .size = (ssize_t) size, .ptr = pointer);
}
#else
static TegroShmemCallback tegro_shmem_request_callback;
static TegroShmemCallback tegro_shmem_init_callback;
static shmem_request_hook_type tegro_next_shmem_request_hook;
static shmem_startup_hook_type tegro_next_shmem_startup_hook;

static inline void
tegro_shmem_request_hook(void)
{
	if (tegro_next_shmem_request_hook)
		tegro_next_shmem_request_hook();
	tegro_shmem_request_callback(NULL);
}

static inline void
tegro_shmem_startup_hook(void)
{
	if (tegro_next_shmem_startup_hook)
		tegro_next_shmem_startup_hook();
	/* with EXEC_BACKEND several processes come here at the same time */
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tegro_shmem_init_callback(NULL);
	LWLockRelease(AddinShmemInitLock);
}

static inline void
tegro_register_shmem_callbacks(TegroShmemCallback request,
							   TegroShmemCallback init)
{
	tegro_shmem_request_callback = request;
	tegro_shmem_init_callback = init;
	tegro_next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = tegro_shmem_request_hook;
	tegro_next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = tegro_shmem_startup_hook;
}

static inline void
tegro_reserve_shmem(const char *name, Size size, void **pointer)
{
	/* each area begins on a cache line */
	RequestAddinShmemSpace(CACHELINEALIGN(size));
}
#endif

/* Sets *pointer to a reserved area; is it new, that is, to be filled in? */
static inline bool
tegro_find_shmem(const char *name, Size size, void **pointer)
{
#if PG_VERSION_NUM >= 190000
	return true;
#else
	bool found;

	*pointer = ShmemInitStruct(name, size, &found);
	return !found;
#endif
}

/*
 * From 19 on, for bgw_flags: CREATE, ALTER and DROP DATABASE end the worker
 * where they need its database for themselves.  Before 19 they fail while the
 * worker is connected.
 */
#ifndef BGWORKER_INTERRUPTIBLE
#define BGWORKER_INTERRUPTIBLE 0
#endif

#endif /* TEGRO_COMPAT_H */
