/*-------------------------------------------------------------------------
 *
 * compat.h
 *		What differs between the PostgreSQL versions that tegro supports
 *		(15 to 18), under one name each.
 *
 * This is the only place that names PG_VERSION_NUM: code elsewhere reads as
 * if there were one PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_COMPAT_H
#define TEGRO_COMPAT_H

#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/guc_tables.h"

#if PG_VERSION_NUM < 150000
#error tegro needs PostgreSQL 15 or later
#endif

#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

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

/*
 * Where a setting has its value from; PGC_S_DEFAULT also for one that does not
 * exist.
 */
static inline GucSource
tegro_setting_source(const char *name)
{
#if PG_VERSION_NUM >= 160000
	struct config_generic *setting = find_option(name, false, true, LOG);

	return setting ? setting->source : PGC_S_DEFAULT;
#else
	struct config_generic **settings = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		if (strcmp(settings[i]->name, name) == 0)
			return settings[i]->source;
	}
	return PGC_S_DEFAULT;
#endif
}

/* May the current role execute a function? */
static inline bool
tegro_may_execute(Oid function)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, GetUserId(),
						   ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

#endif							/* TEGRO_COMPAT_H */
