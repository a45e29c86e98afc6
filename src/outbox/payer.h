/*-------------------------------------------------------------------------
 *
 * payer.h
 *		Which roles may pay out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PAYER_H
#define TEGRO_PAYER_H

#include "src/outbox/store.h"

/*
 * Returns true if the role exists and has EXECUTE on
 * tegro_create_withdrawal(jsonb) of this outbox.  Otherwise returns false and
 * stores the reason in *why: a clause that is palloc'd in the current memory
 * context.
 *
 * Asks the system caches only, in the current transaction, so the answer is as
 * new as the transaction's last look at the catalogs.  A superuser may always.
 */
extern bool tegro_payer_may(const TegroStore *store, Oid role, char **why);

/* Throws 42501 if the role may not pay out. */
extern void tegro_payer_require(const TegroStore *store, Oid role);

#endif /* TEGRO_PAYER_H */
