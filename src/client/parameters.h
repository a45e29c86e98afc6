/*-------------------------------------------------------------------------
 *
 * parameters.h
 *		Checks of the parameters that make a payment.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PARAMETERS_H
#define TEGRO_PARAMETERS_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "src/client/method.h"

/* Is a text of "len" bytes, in server encoding, empty, or blank throughout? */
extern bool tegro_parameters_is_blank(const char *bytes, size_t len);

/*
 * Throws 22023 unless a method that makes an order or a payout has the
 * parameters that it needs: currency, an amount, for a payout an account; and
 * where there is a receipt, it adds up to the amount.  Accepts anything for
 * other methods.
 *
 * params: an object.  The merchant's reference is checked by
 * tegro_api_prepare(), which needs it as text.
 */
extern void tegro_parameters_check(const TegroMethod *method, Jsonb *params);

/*
 * Throws 22023 unless "amount" of an object is a number above zero, or a string
 * that is one, with at most tegro.max_amount_decimals decimals, and "receipt",
 * if there is one that is not null, adds up to it.  For payment links.
 */
extern void tegro_parameters_check_amount(Jsonb *params);

/*
 * "amount" of parameters, a number or a string that is one, in the current
 * memory context; NULL if there is none.
 */
extern Numeric tegro_parameters_amount(Jsonb *params);

/*
 * Parameters of a lookup by the provider's number, {"order_id": number}, in
 * the current memory context.
 *
 * number: as text, or NULL.  Returns NULL if it is not a number of at most 18
 * digits, the first of which is not 0.
 */
extern Jsonb *tegro_parameters_by_number(const char *number);

#endif /* TEGRO_PARAMETERS_H */
