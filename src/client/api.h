/*-------------------------------------------------------------------------
 *
 * api.h
 *		Calls of the API's methods.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_API_H
#define TEGRO_API_H

#include "utils/jsonb.h"

#include "src/base/error.h"
#include "src/client/method.h"
#include "src/client/transport.h"

/*
 * A call of a method: prepared once, built and sent once or more often.
 */
typedef struct TegroCall
{
	const TegroMethod *method;
	const char *shop_id;   /* whom it acts for, in server encoding */
	const char *reference; /* the shop's own number, or NULL */
	Jsonb *params;		   /* without "shop_id" */
	int position;		   /* the caller's, among several */
	uint64 key_mark;	   /* of the key that signs it; 0: none does */

	/* while it runs */
	bool done;
	int attempts; /* exchanges begun */

	/* once it is done */
	TegroOutcome outcome;
	Jsonb *envelope; /* the answer, where answered; else NULL */

	struct TegroCallState *state; /* api.c's own */
} TegroCall;

/* The request that a call would send, for showing. */
typedef struct TegroRequest
{
	const char *url;
	const char *body; /* pure ASCII, NUL-terminated */
	size_t body_len;
	int64 nonce;
	const char *signature; /* NULL if it was not asked for */
} TegroRequest;

/*
 * Prepares a call, and throws on all that is wrong with it before anything is
 * sent: 22023 (invalid_parameter_value) or 22004 for the method and its
 * parameters, TG006 for settings and keys.
 *
 * method: the method's name.
 * params: the method's parameters, an object; "shop_id" in it replaces
 * tegro.shop_id, "nonce" is refused.
 * role: whose keys are used; InvalidOid for a request that is not signed.
 *
 * The call lives in the current memory context, which must outlive it, as
 * "params" must.
 */
extern TegroCall *tegro_api_prepare(const char *method, Jsonb *params,
									Oid role);

/*
 * The same for a shop that "params" don't name; NULL: if they don't.  For
 * parameters that were checked before (parameters.h): what depends on settings,
 * which may have changed since, is not checked again.
 */
extern TegroCall *tegro_api_prepare_for_shop(const char *method, Jsonb *params,
											 const char *shop_id, Oid role);

/*
 * Throws 22023 if the shop's own number, of a parameter "name", is too long.
 * Calls and links have one limit, that of a notification, which would else be
 * refused for ever; PostgreSQL's own, for an entry of an index, is at some 2700
 * bytes, and depends on how well the number can be compressed.
 */
#define TEGRO_MAX_REFERENCE_LEN 500

extern void tegro_api_check_reference(const char *name, const char *reference);

/*
 * Builds the request of a prepared call, with a nonce of its own, and signs
 * it if the call was prepared with a role.  In the current memory context.
 */
extern TegroRequest tegro_api_build(TegroCall *call);

/*
 * One exchange of a prepared call, for who does his own waiting.
 *
 * tegro_api_send() puts a request in flight, to be moved by
 * tegro_transport_wait(); what it needs is kept in the current memory context.
 * timeout_ms: for the whole exchange; send_before_us: see TegroExchange.
 *
 * tegro_api_exchange() is its state; "end" tells when it is over.
 *
 * tegro_api_judge() then makes the call's outcome of it, in the current memory
 * context.  Returns true if a repeat would do no harm and may help.
 */
extern void tegro_api_send(TegroCall *call, const TegroRequest *request,
						   int timeout_ms, int64 send_before_us);
extern const TegroExchange *tegro_api_exchange(const TegroCall *call);
extern bool tegro_api_judge(TegroCall *call);

/*
 * Gives a call that was prepared without keys those of another call, for the
 * same shop, which must outlive it.
 */
extern void tegro_api_share_keys(TegroCall *call, const TegroCall *other);

/*
 * What tegro_api_run() calls for the i-th call, from 0: returns it, prepared, in
 * the current memory context or one that lives longer.  It must not throw on
 * what the caller could have found out before the first request.
 */
typedef TegroCall *(*TegroCallSource)(int i, void *arg);

/* What tegro_api_run() calls when a call is done; it may throw. */
typedef void (*TegroCallDone)(TegroCall *call, void *arg);

/*
 * Runs calls until all are done, at most "max_in_flight" at once, or fewer if
 * there are no more slots.  Asks "source" for each when it can be sent, and hands
 * it to "done" as it ends; what was made of it is gone after that.
 *
 * How a call ends is in its outcome.  Throws on a cancel and the like; if a
 * request that may change something had left by then, the error's detail says
 * so.
 */
extern void tegro_api_run(int ncalls, int max_in_flight,
						  TegroCallSource source, TegroCallDone done,
						  void *arg);

/*
 * The same step by step, for who takes answers while others are on their way,
 * and may leave off between statements.
 *
 * tegro_api_begin() puts a prepared call in flight, in the current memory
 * context; with that, on whatever way, it is stopped.
 *
 * tegro_api_advance() sees to it that it goes on, and returns true once it is
 * done.  Between two looks, tegro_transport_wait() moves it; wait_ms, which
 * the caller sets to -1, is lowered to the time after which to look again.
 *
 * While nobody looks, nothing moves: a call that was left alone for longer
 * than tegro.timeout ends as one that failed.
 */
extern void tegro_api_begin(TegroCall *call);
extern bool tegro_api_advance(TegroCall *call, long *wait_ms);

#endif /* TEGRO_API_H */
