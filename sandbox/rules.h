/*
 * rules.h
 *		How the stand-in provider behaves where the real one's behaviour is not
 *		documented, or where its sources disagree.
 */
#ifndef RULES_H
#define RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "money.h"

enum nonce_rule
{
	NONCE_DIFFER, /* another than the shop's previous one */
	NONCE_UNIQUE, /* never seen before for this shop */
	NONCE_RISING, /* above every one before */
	NONCE_ANY
};

enum user_agent_rule
{
	USER_AGENTS_REPORTED, /* refuse those that somebody reported as refused */
	USER_AGENTS_NAMED,	  /* refuse those that name no program of your own */
	USER_AGENTS_ANY
};

/* How a lookup says that there is no such order or withdrawal. */
enum not_found_rule
{
	NOT_FOUND_ERROR, /* an error */
	NOT_FOUND_EMPTY, /* a success whose data is [] */
	NOT_FOUND_NULL	 /* a success whose data is null */
};

/* Parameters that only some sources call required: bits of `required`. */
enum requirement
{
	REQUIRE_PAYOUT_SYSTEM = 1 << 0,
	REQUIRE_ORDER_SYSTEM = 1 << 1,
	REQUIRE_FIELDS = 1 << 2,
	REQUIRE_RECEIPT = 1 << 3
};

/* The content type of a notification. */
enum webhook_type
{
	WEBHOOK_URLENCODED,
	WEBHOOK_MULTIPART,
	WEBHOOK_JSON,
	WEBHOOK_TYPE_COUNT
};

/* Ends with NULL. */
extern const char *const webhook_type_names[WEBHOOK_TYPE_COUNT + 1];

/* Fields of a notification that only some sources name: bits. */
enum webhook_extra
{
	EXTRA_PAYMENT_ID = 1 << 0,
	EXTRA_PAYMENT_SYSTEM = 1 << 1,
	EXTRA_STATUS = 1 << 2
};

/* The fields' names, by bit; ends with NULL. */
extern const char *const webhook_extra_names[4];

/* The places of `payout_status`. */
enum payout_step
{
	PAYOUT_ACCEPTED,
	PAYOUT_PAID,
	PAYOUT_FAILED,
	PAYOUT_RETURNED,
	PAYOUT_STEP_COUNT
};

extern const char *const payout_step_names[PAYOUT_STEP_COUNT];

struct rules
{
	enum user_agent_rule user_agents;
	enum nonce_rule nonce;
	bool deduplicate;		/* refuse a payment_id that was executed before */
	unsigned required;		/* of enum requirement */
	bool keep_receipts;		/* a wrong receipt is noticed at payment only */
	const char *currencies; /* those known, with commas between; NULL: any */
	int64_t page_size;
	bool full_rows; /* rows have more members than the published ones */
	enum not_found_rule not_found;
	money fee_percent; /* what customers pay on top of an order's amount */
	bool fee_apart;	   /* a paid order's amount does not contain the fee */

	int payout_status[PAYOUT_STEP_COUNT]; /* the numbers */
	int payout_result;					  /* the status that payouts come to */
	int64_t payout_delay_ms;			  /* after so long */
	bool payout_answer_id;				  /* createWithdrawal answers "id" */

	enum webhook_type notify_as;
	unsigned notify_extras; /* of enum webhook_extra */
	bool notify_upper_case; /* the signature in capitals */
	int64_t notify_retries; /* after an answer of 500 and above */
	int64_t notify_retry_ms;
	bool check; /* ask the shop before an order is paid */
};

/* Set while the command line is read, before any thread starts. */
extern struct rules rules;

/* Returns the place of a word in a list that ends with NULL, or -1. */
int rules_find(const char *const *words, const char *word);

/* A rule in words: the table that --help prints. */
struct guess
{
	const char *behaviour;
	const char *choice; /* the default */
	const char *option; /* that changes it, or NULL */
	const char *source;
};

/* Ends with a guess without behaviour. */
extern const struct guess guesses[];

#endif
