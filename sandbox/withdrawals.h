/*
 * withdrawals.h
 *		createWithdrawal.
 */
#ifndef WITHDRAWALS_H
#define WITHDRAWALS_H

#include "params.h"

/*
 * Accepts a payout, plans what becomes of it, and appends the method's data.
 * Returns false where it refuses. Books' lock held.
 */
bool withdrawal_create(const struct call *call, struct text *data);

#endif
