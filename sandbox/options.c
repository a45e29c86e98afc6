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
	"  --nonce RULE             unique: refuse a nonce that the shop has used\n"
	"                           (default); rising: refuse one that is not above\n"
	"                           the last; any: take all\n"
	"  --deduplicate            refuse a payment_id that a withdrawal has used;\n"
	"                           without it, a repeated withdrawal pays twice\n"
	"  --page-size N            rows on a page of orders, withdrawals (default 100)\n"
	"  --latency MS             answer API requests so much later (default 0)\n"
	"  --no-user-agent-check    accept the default user agents of libraries, which\n"
	"                           the provider's CDN refuses with 403\n"
	"  --notify-url URL         where notifications of payments go\n"
	"\n"
	"What it tells\n"
	"  --journal FILE           append a JSON line to FILE for each API request\n"
	"  --help                   this text\n"
	"  --version                the version\n"
	"\n"
	"It prints one line, \"tegro-sandbox: listening on URL\", once it listens. The\n"
	"API is at URL/api/METHOD/, its controls (faults, payments, state) at\n"
	"URL/_sandbox/. SIGTERM and SIGINT end it.\n";

enum option_code
{
	OPTION_LISTEN = 256,
	OPTION_PORT,
	OPTION_TLS_CERT,
	OPTION_TLS_KEY,
	OPTION_JOURNAL,
	OPTION_SHOP,
	OPTION_NONCE,
	OPTION_DEDUPLICATE,
	OPTION_LATENCY,
	OPTION_PAGE_SIZE,
	OPTION_NOTIFY_URL,
	OPTION_READY_FILE,
	OPTION_THREADS,
	OPTION_PARENT_DEATH,
	OPTION_NO_USER_AGENT_CHECK,
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
	 {"no-user-agent-check", no_argument, NULL, OPTION_NO_USER_AGENT_CHECK},
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

static enum nonce_rule
read_nonce_rule(const char *text)
{
	if (strcmp(text, "unique") == 0)
		return NONCE_UNIQUE;
	if (strcmp(text, "rising") == 0)
		return NONCE_RISING;
	if (strcmp(text, "any") != 0)
		fail("--nonce must be unique, rising or any, not \"%s\"", text);
	return NONCE_ANY;
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
	int option;

	*options = (struct options){.http = {.listen = "127.0.0.1",
										 .threads = 2,
										 .check_user_agent = true},
								.provider = {.nonce_rule = NONCE_UNIQUE,
											 .page_size = 100}};
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
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
			case OPTION_NONCE:
				options->provider.nonce_rule = read_nonce_rule(optarg);
				break;
			case OPTION_DEDUPLICATE:
				options->provider.deduplicate = true;
				break;
			case OPTION_LATENCY:
				options->http.latency_ms = read_number("--latency", optarg, 0,
													   3600000);
				break;
			case OPTION_PAGE_SIZE:
				options->provider.page_size = read_number("--page-size",
														  optarg, 1, 10000);
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
			case OPTION_NO_USER_AGENT_CHECK:
				options->http.check_user_agent = false;
				break;
			case OPTION_HELP:
				fputs(help, stdout);
				exit(0);
			case OPTION_VERSION:
				puts("tegro-sandbox " VERSION);
				exit(0);
			default:
				/* getopt has said what is wrong. */
				fputs("tegro-sandbox: --help lists the options\n", stderr);
				exit(2);
		}
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
