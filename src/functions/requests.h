/*-------------------------------------------------------------------------
 *
 * requests.h
 *		SQL functions of the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_REQUESTS_H
#define TEGRO_REQUESTS_H

#include "src/outbox/outbox.h"

/*
 * Pays out with these parameters, as tegro_create_withdrawal() does: makes up
 * a payment_id if there is none.  For the functions that call any method.
 */
extern Jsonb *tegro_requests_pay_out(const TegroLedger *ledger, Jsonb *params);

/*
 * The name of a callback as it is kept: with schema and arguments.  Throws if
 * it can't be called by the current role with what callbacks are called with.
 */
extern char *tegro_requests_callback_name(Oid function);

#endif /* TEGRO_REQUESTS_H */
