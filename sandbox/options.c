/*
 * options.c
 *		The command line.
 *
 * A mistake is answered in one line that says what would have been right, with
 * exit status 2.
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "books.h"
#include "rules.h"
#include "settle.h"

#define VERSION "0.1.0"

/* The shop that is there when none is named. */
#define DEFAULT_SHOP \
	"D0F98E7D7742609DC508D86BB7500914:sandbox-api-key:sandbox-secret-key"

/* No PEM file has a megabyte. */
#define PEM_MAX_BYTES (1024 * 1024)

static const char help[] =
	"tegro-sandbox is a stand-in for the payment API of Tegro.money, to develop\n"
	"and test against. It moves no money and listens on the loopback interface only.\n"
	"\n"
	"Usage: tegro-sandbox [OPTION]...\n"
	"\n"
	"Where it listens\n"
	"  --listen ADDRESS         a loopback address (default 127.0.0.1)\n"
	"  --port N                 a port; 0, the default, takes any that is free\n"
	"  --tls-cert FILE          serve https with this certificate (PEM) and ...\n"
	"  --tls-key FILE           ... this private key; without the two, http\n"
	"  --ready-file FILE        write the base URL here once it listens\n"
	"  --threads N              threads that serve requests (default 2)\n"
	"  --parent-death           end when the process that started it ends\n"
	"\n"
	"What it stands in for\n"
	"  --shop ID:API_KEY:SECRET_KEY\n"
	"                           a shop; may be given several times. Without it:\n"
	"                           D0F98E7D7742609DC508D86BB7500914, with the API key\n"
	"                           sandbox-api-key and the secret key\n"
	"                           sandbox-secret-key\n"
	"  --latency MS             answer API requests so much later (default 0)\n"
	"  --notify-url URL         where notifications of payments go\n"
	"\n"
	"What is not documented, or differs between sources (the list below)\n"
	"  --user-agents RULE       reported: refuse the one that was reported as\n"
	"                           refused (default); named: refuse those of\n"
	"                           libraries, and none; any: take all\n"
	"  --nonce RULE             differ: refuse the shop's previous nonce (default);\n"
	"                           unique: refuse any that the shop has used; rising:\n"
	"                           refuse one that is not above the last; any: take all\n"
	"  --require LIST           params that must be there, with commas between:\n"
	"                           createWithdrawal.payment_system (default),\n"
	"                           createOrder.payment_system, createOrder.fields,\n"
	"                           createOrder.receipt; or none\n"
	"  --bad-receipt WHEN       refused: createOrder refuses a receipt that does not\n"
	"                           add up (default); kept: only the payment page does\n"
	"  --currencies LIST        refuse all currencies but these, with commas between\n"
	"  --deduplicate            refuse a payment_id that a withdrawal has used;\n"
	"                           without it, a repeated withdrawal pays twice\n"
	"  --payout-result STATUS   what becomes of a withdrawal: paid (default), failed,\n"
	"                           returned (after it was paid), a number, or accepted:\n"
	"                           nothing\n"
	"  --payout-delay MS        after so long (default 1000; 0: before it is answered)\n"
	"  --payout-statuses A,P,F,R\n"
	"                           the numbers of accepted, paid, failed, returned\n"
	"                           (default 0,1,2,3)\n"
	"  --payout-answer SHAPE    order_id: createWithdrawal answers order_id and\n"
	"                           balance (default); id: it answers id and status\n"
	"  --page-size N            rows on a page of orders, withdrawals (default 100)\n"
	"  --rows SHAPE             published: rows as documented (default); full: with\n"
	"                           currency, and account, fee and payment_system_id\n"
	"  --not-found HOW          error: a lookup that finds nothing is an error\n"
	"                           (default); empty, null: its data is [] or null\n"
	"  --fee PERCENT            what customers pay on top (default 0)\n"
	"  --fee-shown WHERE        in-amount: a paid order's amount contains the fee\n"
	"                           (default); apart: it does not\n"
	"  --notify-as TYPE         urlencoded (default), multipart or json\n"
	"  --notify-fields LIST     what notifications carry beside the documented fields:\n"
	"                           payment_id,payment_system,status (default), or none\n"
	"  --notify-sign CASE       lower (default) or upper\n"
	"  --notify-retries N       send again so often after a 5xx (default 3)\n"
	"  --notify-retry-delay MS  after so long (default 1000)\n"
	"  --check                  ask the shop before an order is paid: the address of\n"
	"                           its notifications; another answer than 2xx rejects it\n"
	"\n"
	"What it tells\n"
	"  --journal FILE           append a JSON line to FILE for each API request\n"
	"  --help                   this text\n"
	"  --version                the version\n"
	"\n"
	"It prints one line, \"tegro-sandbox: listening on URL\", once it listens. The\n"
	"API is at URL/api/METHOD/, its controls (faults, payments, state) at\n"
	"URL/_sandbox/. SIGTERM and SIGINT end it.\n"
	"\n"
	"What is a guess, the default, and where that comes from. docs: the provider's\n"
	"documentation; roskassa: that of RosKassa, the platform's earlier brand;\n"
	"clients: programs that others run; none: made up here.\n";

enum option_code
{
	OPTION_LISTEN = 256,
	OPTION_PORT,
	OPTION_TLS_CERT,
	OPTION_TLS_KEY,
	OPTION_JOURNAL,
	OPTION_SHOP,
	OPTION_NONCE,
	OPTION_REQUIRE,
	OPTION_BAD_RECEIPT,
	OPTION_CURRENCIES,
	OPTION_PAYOUT_RESULT,
	OPTION_PAYOUT_DELAY,
	OPTION_PAYOUT_STATUSES,
	OPTION_PAYOUT_ANSWER,
	OPTION_ROWS,
	OPTION_NOT_FOUND,
	OPTION_FEE,
	OPTION_FEE_SHOWN,
	OPTION_NOTIFY_AS,
	OPTION_NOTIFY_FIELDS,
	OPTION_NOTIFY_SIGN,
	OPTION_NOTIFY_RETRIES,
	OPTION_NOTIFY_RETRY_DELAY,
	OPTION_CHECK,
	OPTION_DEDUPLICATE,
	OPTION_LATENCY,
	OPTION_PAGE_SIZE,
	OPTION_NOTIFY_URL,
	OPTION_READY_FILE,
	OPTION_THREADS,
	OPTION_PARENT_DEATH,
	OPTION_USER_AGENTS,
	OPTION_HELP,
	OPTION_VERSION
};

static const struct option long_options[] =
	{{"listen", required_argument, NULL, OPTION_LISTEN},
	 {"port", required_argument, NULL, OPTION_PORT},
	 {"tls-cert", required_argument, NULL, OPTION_TLS_CERT},
	 {"tls-key", required_argument, NULL, OPTION_TLS_KEY},
	 {"journal", required_argument, NULL, OPTION_JOURNAL},
	 {"shop", required_argument, NULL, OPTION_SHOP},
	 {"nonce", required_argument, NULL, OPTION_NONCE},
	 {"deduplicate", no_argument, NULL, OPTION_DEDUPLICATE},
	 {"latency", required_argument, NULL, OPTION_LATENCY},
	 {"page-size", required_argument, NULL, OPTION_PAGE_SIZE},
	 {"notify-url", required_argument, NULL, OPTION_NOTIFY_URL},
	 {"ready-file", required_argument, NULL, OPTION_READY_FILE},
	 {"threads", required_argument, NULL, OPTION_THREADS},
	 {"parent-death", no_argument, NULL, OPTION_PARENT_DEATH},
	 {"user-agents", required_argument, NULL, OPTION_USER_AGENTS},
	 {"require", required_argument, NULL, OPTION_REQUIRE},
	 {"bad-receipt", required_argument, NULL, OPTION_BAD_RECEIPT},
	 {"currencies", required_argument, NULL, OPTION_CURRENCIES},
	 {"payout-result", required_argument, NULL, OPTION_PAYOUT_RESULT},
	 {"payout-delay", required_argument, NULL, OPTION_PAYOUT_DELAY},
	 {"payout-statuses", required_argument, NULL, OPTION_PAYOUT_STATUSES},
	 {"payout-answer", required_argument, NULL, OPTION_PAYOUT_ANSWER},
	 {"rows", required_argument, NULL, OPTION_ROWS},
	 {"not-found", required_argument, NULL, OPTION_NOT_FOUND},
	 {"fee", required_argument, NULL, OPTION_FEE},
	 {"fee-shown", required_argument, NULL, OPTION_FEE_SHOWN},
	 {"notify-as", required_argument, NULL, OPTION_NOTIFY_AS},
	 {"notify-fields", required_argument, NULL, OPTION_NOTIFY_FIELDS},
	 {"notify-sign", required_argument, NULL, OPTION_NOTIFY_SIGN},
	 {"notify-retries", required_argument, NULL, OPTION_NOTIFY_RETRIES},
	 {"notify-retry-delay", required_argument, NULL,
	  OPTION_NOTIFY_RETRY_DELAY},
	 {"check", no_argument, NULL, OPTION_CHECK},
	 {"help", no_argument, NULL, OPTION_HELP},
	 {"version", no_argument, NULL, OPTION_VERSION},
	 {NULL, 0, NULL, 0}};

/* Reports a mistake and ends the program. */
static _Noreturn void
fail(const char *format, ...)
{
	va_list arguments;

	fputs("tegro-sandbox: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs("\n", stderr);
	exit(2);
}

static int64_t
read_number(const char *name, const char *text, int64_t least, int64_t most)
{
	char *end;
	long long number;

	errno = 0;
	number = strtoll(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || number < least ||
		number > most)
		fail("%s must be an integer from %lld to %lld, not \"%s\"", name,
			 (long long) least, (long long) most, text);
	return number;
}

/* Returns the place of a word in a list that ends with NULL. */
static int
read_choice(const char *name, const char *text, const char *const *choices)
{
	int place = rules_find(choices, text);
	struct text list = {0};

	if (place >= 0)
		return place;
	for (int i = 0; choices[i] != NULL; i++)
	{
		if (i > 0)
			text_string(&list, choices[i + 1] == NULL ? " or " : ", ");
		text_string(&list, choices[i]);
	}
	text_byte(&list, '\0');
	fail("%s must be %s, not \"%s\"", name, list.data, text);
}

/*
 * Returns a set of words, with commas between, as bits by their place in a list
 * that ends with NULL. The word "none" stands for no bit.
 */
static unsigned
read_set(const char *name, const char *text, const char *const *choices)
{
	char *copy = strdup(text);
	char *rest = copy;
	char *word;
	unsigned set = 0;

	if (strcmp(text, "none") != 0)
		while ((word = strsep(&rest, ",")) != NULL)
			set |= 1U << read_choice(name, word, choices);
	free(copy);
	return set;
}

static money
read_percent(const char *name, const char *text)
{
	money percent;

	if (!money_read_text(text, strlen(text), &percent) || percent < 0 ||
		percent > 100 * MONEY_ONE)
		fail("%s must be a number from 0 to 100, not \"%s\"", name, text);
	return percent;
}

/* Reads the four numbers of a withdrawal's steps. */
static void
read_statuses(const char *name, const char *text)
{
	int end = 0;
	int *numbers = rules.payout_status;

	if (strspn(text, "0123456789,") != strlen(text) ||
		sscanf(text, "%9d,%9d,%9d,%9d%n", &numbers[0], &numbers[1],
			   &numbers[2], &numbers[3], &end) != PAYOUT_STEP_COUNT ||
		text[end] != '\0')
		fail("%s must be four numbers with commas between, not \"%s\"", name,
			 text);
}

static int
read_result(const char *name, const char *text)
{
	struct text reason = {0};
	int status;

	if (!settle_read(BOOK_WITHDRAWALS, text, name, &status, &reason))
		fail("%.*s, not \"%s\"", (int) reason.length, reason.data, text);
	return status;
}

/* Reads an option that is one of the rules; returns false for any other. */
static bool
read_rule(int option, const char *text, const char **payout_result)
{
	static const char *const user_agents[] = {"reported", "named", "any",
											  NULL};
	static const char *const nonces[] = {"differ", "unique", "rising", "any",
										 NULL};
	static const char *const requirements[] =
		{"createWithdrawal.payment_system", "createOrder.payment_system",
		 "createOrder.fields", "createOrder.receipt", NULL};
	static const char *const bad_receipts[] = {"refused", "kept", NULL};
	static const char *const payout_answers[] = {"order_id", "id", NULL};
	static const char *const row_shapes[] = {"published", "full", NULL};
	static const char *const not_found[] = {"error", "empty", "null", NULL};
	static const char *const fees[] = {"in-amount", "apart", NULL};
	static const char *const cases[] = {"lower", "upper", NULL};

	switch (option)
	{
		case OPTION_USER_AGENTS:
			rules.user_agents = read_choice("--user-agents", text,
											user_agents);
			return true;
		case OPTION_NONCE:
			rules.nonce = read_choice("--nonce", text, nonces);
			return true;
		case OPTION_REQUIRE:
			rules.required = read_set("--require", text, requirements);
			return true;
		case OPTION_BAD_RECEIPT:
			rules.keep_receipts = read_choice("--bad-receipt", text,
											  bad_receipts) == 1;
			return true;
		case OPTION_CURRENCIES:
			rules.currencies = text;
			return true;
		case OPTION_DEDUPLICATE:
			rules.deduplicate = true;
			return true;
		case OPTION_PAYOUT_RESULT:
			/* its names depend on --payout-statuses, which may come later */
			*payout_result = text;
			return true;
		case OPTION_PAYOUT_DELAY:
			rules.payout_delay_ms = read_number("--payout-delay", text, 0,
												SETTLE_MS_MAX);
			return true;
		case OPTION_PAYOUT_STATUSES:
			read_statuses("--payout-statuses", text);
			return true;
		case OPTION_PAYOUT_ANSWER:
			rules.payout_answer_id = read_choice("--payout-answer", text,
												 payout_answers) == 1;
			return true;
		case OPTION_PAGE_SIZE:
			rules.page_size = read_number("--page-size", text, 1, 10000);
			return true;
		case OPTION_ROWS:
			rules.full_rows = read_choice("--rows", text, row_shapes) == 1;
			return true;
		case OPTION_NOT_FOUND:
			rules.not_found = read_choice("--not-found", text, not_found);
			return true;
		case OPTION_FEE:
			rules.fee_percent = read_percent("--fee", text);
			return true;
		case OPTION_FEE_SHOWN:
			rules.fee_apart = read_choice("--fee-shown", text, fees) == 1;
			return true;
		case OPTION_NOTIFY_AS:
			rules.notify_as = read_choice("--notify-as", text,
										  webhook_type_names);
			return true;
		case OPTION_NOTIFY_FIELDS:
			rules.notify_extras = read_set("--notify-fields", text,
										   webhook_extra_names);
			return true;
		case OPTION_NOTIFY_SIGN:
			rules.notify_upper_case = read_choice("--notify-sign", text,
												  cases) == 1;
			return true;
		case OPTION_NOTIFY_RETRIES:
			rules.notify_retries = read_number("--notify-retries", text, 0,
											   1000);
			return true;
		case OPTION_NOTIFY_RETRY_DELAY:
			rules.notify_retry_ms = read_number("--notify-retry-delay", text,
												0, SETTLE_MS_MAX);
			return true;
		case OPTION_CHECK:
			rules.check = true;
			return true;
		default:
			return false;
	}
}

/* Prints the help, and what is a guess. */
static void
print_help(void)
{
	fputs(help, stdout);
	for (const struct guess *guess = guesses; guess->behaviour != NULL;
		 guess++)
	{
		printf("  %s%s%s\n", guess->behaviour,
			   guess->option != NULL ? ": " : "",
			   guess->option != NULL ? guess->option : "");
		printf("      %s (%s)\n", guess->choice, guess->source);
	}
}

/* Adds a shop; its parts stay in memory for as long as the program runs. */
static void
add_shop(const char *text)
{
	const char *first = strchr(text, ':');
	const char *second = first == NULL ? NULL : strchr(first + 1, ':');
	char *id, *api_key, *secret_key;

	if (second == NULL || strchr(second + 1, ':') != NULL || first == text ||
		second == first + 1 || second[1] == '\0')
		fail(
			"--shop must be ID:API_KEY:SECRET_KEY, none of them empty or with "
			"a colon");
	id = strndup(text, (size_t) (first - text));
	api_key = strndup(first + 1, (size_t) (second - first - 1));
	secret_key = strdup(second + 1);
	if (!books_add_shop(id, api_key, secret_key))
	{
		free(id);
		free(api_key);
		free(secret_key);
		fail("--shop \"%.*s\" is there twice, or the shops are too many",
			 (int) (first - text), text);
	}
	/* the books keeps them: NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
}

/* Reads a whole file as a string. */
static char *
read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text;
	size_t length;

	if (file == NULL)
		fail("could not open \"%s\": %s", path, strerror(errno));
	text = must_allocate(PEM_MAX_BYTES + 1);
	length = fread(text, 1, PEM_MAX_BYTES, file);
	if (ferror(file))
		fail("could not read \"%s\": %s", path, strerror(errno));
	fclose(file);
	text[length] = '\0';
	return must_reallocate(text, length + 1);
}

void
options_read(int argc, char **argv, struct options *options)
{
	const char *certificate = NULL;
	const char *key = NULL;
	const char *payout_result = "paid";
	int option;

	*options = (struct options){.http = {.listen = "127.0.0.1", .threads = 2}};
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
	{
		if (read_rule(option, optarg, &payout_result))
			continue;
		switch (option)
		{
			case OPTION_LISTEN:
				options->http.listen = optarg;
				break;
			case OPTION_PORT:
				options->http.port = (uint16_t) read_number("--port", optarg,
															0, 65535);
				break;
			case OPTION_TLS_CERT:
				certificate = optarg;
				break;
			case OPTION_TLS_KEY:
				key = optarg;
				break;
			case OPTION_JOURNAL:
				options->journal = optarg;
				break;
			case OPTION_SHOP:
				add_shop(optarg);
				break;
			case OPTION_LATENCY:
				options->http.latency_ms = read_number("--latency", optarg, 0,
													   3600000);
				break;
			case OPTION_NOTIFY_URL:
				options->notify_url = optarg;
				break;
			case OPTION_READY_FILE:
				options->ready_file = optarg;
				break;
			case OPTION_THREADS:
				options->http.threads = (unsigned) read_number("--threads",
															   optarg, 1, 64);
				break;
			case OPTION_PARENT_DEATH:
				options->parent_death = true;
				break;
			case OPTION_HELP:
				print_help();
				exit(0);
			case OPTION_VERSION:
				puts("tegro-sandbox " VERSION);
				exit(0);
			default:
				/* getopt has said what is wrong. */
				fputs("tegro-sandbox: --help lists the options\n", stderr);
				exit(2);
		}
	}
	rules.payout_result = read_result("--payout-result", payout_result);
	if (optind < argc)
		fail("\"%s\" is no option; --help lists them", argv[optind]);
	if ((certificate == NULL) != (key == NULL))
		fail("--tls-cert and --tls-key go together");
	if (certificate != NULL)
	{
		options->http.tls_certificate = read_file(certificate);
		options->http.tls_key = read_file(key);
	}
	if (books_shop(0) == NULL)
		add_shop(DEFAULT_SHOP);
}

void
options_free(struct options *options)
{
	const struct shop *shop;

	free((char *) options->http.tls_certificate);
	free((char *) options->http.tls_key);
	for (size_t i = 0; (shop = books_shop(i)) != NULL; i++)
	{
		free((char *) shop->id);
		free((char *) shop->api_key);
		free((char *) shop->secret_key);
	}
}
