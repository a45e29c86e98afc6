/*
 * rules.c
 *		How the stand-in provider behaves where the real one's behaviour is not
 *		documented, or where its sources disagree.
 *
 * A default follows the documentation where it says anything, then the public
 * clients, then whatever is worse for a careless client.  The table of guesses
 * is printed by --help and stands in docs/sandbox.md; a test compares the two.
 *
 * The sources: "docs" is the provider's documentation, "roskassa" that of
 * RosKassa, the earlier brand of the same platform, "clients" are programs that
 * other people run against the provider, "none" is nobody: invented here.
 */
#include "rules.h"

#include <stddef.h>
#include <string.h>

const char *const webhook_type_names[WEBHOOK_TYPE_COUNT + 1] = {"urlencoded",
																"multipart",
																"json", NULL};

const char *const webhook_extra_names[4] = {"payment_id", "payment_system",
											"status", NULL};

const char *const payout_step_names[PAYOUT_STEP_COUNT] = {"accepted", "paid",
														  "failed",
														  "returned"};

struct rules rules = {
	.nonce = NONCE_DIFFER,
	.user_agents = USER_AGENTS_REPORTED,
	.required = REQUIRE_PAYOUT_SYSTEM,
	.page_size = 100,
	.payout_status = {0, 1, 2, 3},
	.payout_result = 1,
	.payout_delay_ms = 1000,
	.notify_extras = EXTRA_PAYMENT_ID | EXTRA_PAYMENT_SYSTEM | EXTRA_STATUS,
	.notify_retries = 3,
	.notify_retry_ms = 1000,
};

int
rules_find(const char *const *words, const char *word)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	return -1;
}

const struct guess guesses[] = {
	{"user agents refused with 403", "Node's built-in fetch only",
	 "--user-agents", "clients: one report"},
	{"nonces accepted", "other than the previous", "--nonce", "docs"},
	{"a payment_id used again", "pays again", "--deduplicate", "none"},
	{"an order_id used again", "another order", NULL, "none"},
	{"params needed by some sources", "createWithdrawal.payment_system",
	 "--require", "roskassa, clients; receipt: clients"},
	{"a receipt that does not add up", "refused", "--bad-receipt",
	 "docs: an error on the payment page; its text: clients"},
	{"numbers as strings, texts as integers", "taken", NULL,
	 "roskassa: payment_id; others: none"},
	{"currencies known", "any text", "--currencies", "docs: about 34"},
	{"currency_id", "1 RUB, 2 USD, 3 EUR, 4 UAH, then as met", NULL,
	 "docs: 1, and the order of balances"},
	{"rows on a page", "100", "--page-size", "none"},
	{"members of rows", "the published ones", "--rows",
	 "docs; withdrawals: roskassa"},
	{"how a lookup finds nothing", "an error", "--not-found",
	 "clients: empty data; the error: none"},
	{"fees that customers pay", "0 percent", "--fee", "roskassa"},
	{"where a paid order shows its fee", "in amount and fee", "--fee-shown",
	 "none"},
	{"a new payout's later status", "paid", "--payout-result", "none"},
	{"when it comes", "1000 ms", "--payout-delay", "none"},
	{"numbers of accepted, paid, failed, returned", "0,1,2,3",
	 "--payout-statuses",
	 "roskassa: 0 with date_payed null; others as of orders"},
	{"createWithdrawal's answer", "order_id and balance", "--payout-answer",
	 "roskassa"},
	{"numbers of new, paid, failed, refunded, pending orders", "0,1,2,3,4",
	 NULL, "clients"},
	{"the balance of a payout", "falls at once, rises if failed or returned",
	 NULL, "none"},
	{"a test order", "made by test=1 in createOrder", NULL,
	 "docs: of links only"},
	{"a payment link opened twice", "two orders", NULL, "none"},
	{"what shops are notified of", "paid orders", NULL, "none"},
	{"content type of notifications", "urlencoded", "--notify-as",
	 "clients: all three"},
	{"further fields of notifications", "payment_id,payment_system,status",
	 "--notify-fields",
	 "docs in Russian: payment_system; clients: the others"},
	{"letters of their signature", "lower case", "--notify-sign",
	 "docs; clients: either"},
	{"notifications answered with 5xx", "3 times more", "--notify-retries",
	 "clients: 500 asks for another; how often: none"},
	{"time between them", "1000 ms", "--notify-retry-delay", "none"},
	{"a request before an order is paid", "none", "--check",
	 "docs name a Check request, and nothing of its shape"},
	{"error texts", "made up but for five", NULL, "docs, clients"},
	{"shapes of rates and modules", "made up", NULL, "none"},
	{"pages for 403, 404, 405, and of links", "made up", NULL, "none"},
	{NULL, NULL, NULL, NULL},
};
