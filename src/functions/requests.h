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
 * The name of a callback as it is kept: with schema and arguments.  Throws if
 * it can't be called by the current role with what callbacks are called with.
 */
extern char *tegro_requests_callback_name(Oid function);

#endif /* TEGRO_REQUESTS_H */
