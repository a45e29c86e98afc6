/*-------------------------------------------------------------------------
 *
 * argument.h
 *		Arguments of SQL functions, and parameters that functions build.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ARGUMENT_H
#define TEGRO_ARGUMENT_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "src/base/compat.h"

/* Argument "n", from 0; each throws 22004, with its name, if it is NULL. */
extern void tegro_require_argument(FunctionCallInfo fcinfo, int n,
								   const char *name);
extern char *tegro_get_text(FunctionCallInfo fcinfo, int n, const char *name);
extern Jsonb *tegro_get_jsonb(FunctionCallInfo fcinfo, int n,
							  const char *name);

/* An object of parameters: begin, add, finish.  In the current context. */
extern TegroJsonbState tegro_begin_params(void);
extern void tegro_add_text_param(TegroJsonbState *state, const char *name,
								 text *string);
extern void tegro_add_int_param(TegroJsonbState *state, const char *name,
								int64 number);
extern Jsonb *tegro_finish_params(TegroJsonbState *state);

/*
 * Text in server encoding, "len" bytes without a NUL, as UTF-8.  NULL if it has
 * none: in SQL_ASCII, bytes that are not UTF-8.  In the current context.
 */
extern char *tegro_to_utf8(const char *bytes, size_t len);

/* A string's text, or a number's; NULL for all else.  In the current context. */
extern char *tegro_scalar_text(const JsonbValue *value);

#endif /* TEGRO_ARGUMENT_H */
