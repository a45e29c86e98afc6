/*
 * withdrawals.c
 *		createWithdrawal.
 *
 * A success says that a payout was accepted. Whether it is paid shows later, in
 * its status and its date_payed.
 */
#include "withdrawals.h"

#include "rows.h"
#include "settle.h"

/* Takes the money and books the payout. */
static uint32_t
accept(const struct call *call, struct entry *entry,
	   const struct param *payment_id, const struct param *account)
{
	const struct aside *aside = call->aside;
	bool is_planned = aside != NULL && aside->has_result;
	uint32_t record;

	call->shop->balance[entry->currency] -= entry->amount;
	entry->holds_money = true;
	entry->status = rules.payout_status[PAYOUT_ACCEPTED];
	record = books_add(BOOK_WITHDRAWALS, *entry, payment_id->string,
					   payment_id->length, account->string, account->length,
					   "", 0);
	if (is_planned)
		settle_later(BOOK_WITHDRAWALS, record, aside->result,
					 aside->result_ms);
	else if (rules.payout_result != rules.payout_status[PAYOUT_ACCEPTED])
		settle_later(BOOK_WITHDRAWALS, record, rules.payout_result,
					 rules.payout_delay_ms);
	return record;
}

bool
withdrawal_create(const struct call *call, struct text *data)
{
	struct entry entry;
	struct param account, payment_id;
	uint32_t record;

	if (!param_entry(call, (rules.required & REQUIRE_PAYOUT_SYSTEM) != 0,
					 &entry) ||
		!param_text(call, "account", &account) ||
		!param_text(call, "payment_id", &payment_id))
		return false;
	if (rules.deduplicate &&
		books_find_reference(BOOK_WITHDRAWALS, call->shop_number,
							 payment_id.string, payment_id.length, &record))
		return param_refuse(call->outcome, "Duplicate payment_id", "");
	if (call->shop->balance[entry.currency] < entry.amount)
		return param_refuse(call->outcome, "Insufficient funds", "");
	record = accept(call, &entry, &payment_id, &account);
	if (rules.payout_answer_id)
	{
		text_string(data, "{\"id\":");
		text_integer(data, books_id(BOOK_WITHDRAWALS, record));
		text_string(data, ",\"status\":");
		text_integer(data, books_entry(BOOK_WITHDRAWALS, record)->status);
	}
	else
	{
		text_string(data, "{\"order_id\":");
		text_integer(data, books_id(BOOK_WITHDRAWALS, record));
		text_string(data, ",\"balance\":");
		row_write_balances(data, call->shop);
	}
	text_byte(data, '}');
	call->outcome->executed = true;
	return true;
}
