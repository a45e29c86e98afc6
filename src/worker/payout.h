/*-------------------------------------------------------------------------
 *
 * payout.h
 *		Synchronous payouts, by a process of their own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PAYOUT_H
#define TEGRO_PAYOUT_H

#include "utils/jsonb.h"

#include "src/outbox/outbox.h"

/*
 * Pays out for "role", and waits for the outcome, up to tegro.timeout and a
 * little more.  Returns the provider's answer, in the current memory context.
 *
 * Throws what went wrong, with the SQLSTATE of its outcome.  The request is in
 * the outbox, and goes on, whatever becomes of the caller and its transaction
 * once it was handed over.
 */
extern Jsonb *tegro_payout(const TegroStore *store, Jsonb *params, Oid role);

#endif /* TEGRO_PAYOUT_H */
