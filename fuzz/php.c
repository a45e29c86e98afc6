/*-------------------------------------------------------------------------
 *
 * php.c
 *		Fuzzes src/format/body.c against PHP: is what it writes what PHP would have
 *		written, and does PHP indeed lose what it refuses?
 *
 * A PHP process (php.php) runs beside, and is told each input and what became
 * of it.  The program to run is in TEGRO_FUZZ_PHP; what it says is the fault.
 *
 * An input's first byte chooses how the others are read: as JSON text, or as
 * the choices of a generator of JSON.  The first finds what no generator
 * thought of, the second gets past PHP's parser each time.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/format/body.h"

/* What is not JSON text is dull for PHP beyond this. */
#define MAX_SIZE 4096

/* The choices that are left, and the text that they make. */
typedef struct Generator
{
	const uint8_t *next;
	const uint8_t *end;
	char *out;
	size_t len;
	size_t room;
} Generator;

static FILE *to_php = NULL;
static FILE *from_php = NULL;

static unsigned
choose(Generator *g, unsigned of)
{
	return g->next < g->end ? *g->next++ % of : 0;
}

static void
put(Generator *g, const char *text, size_t len)
{
	if (g->out == NULL || g->len + len > g->room)
	{
		g->room = 2 * (g->len + len);
		g->out = realloc(g->out, g->room);
		MUST(g->out != NULL);
	}
	memcpy(g->out + g->len, text, len);
	g->len += len;
}

static void
put_digits(Generator *g, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
	{
		char digit = (char) ('0' + choose(g, 10));

		if (i == 0 && digit == '0')
			digit = '1';
		put(g, &digit, 1);
	}
}

static void
put_number(Generator *g)
{
	/* where integers, doubles, and PHP's way of writing them have their ends */
	static const char *const edges[] = {"0",
										"9223372036854775807",
										"9223372036854775808",
										"0.00001",
										"100.00",
										"9007199254740993",
										"99999999999999.99",
										"1e25",
										"1.7976931348623157e308",
										"2.2250738585072014e-308",
										"5e-324",
										"0.30000000000000004",
										"4503599627370497.5",
										"123456789012345000000",
										"0.1000",
										"18446744073709551616"};

	if (choose(g, 4) == 0)
		put(g, "-", 1);
	switch (choose(g, 6))
	{
		case 5:
			/* doubles lie twice as far apart above a power of two as below */
			{
				char text[64];
				int exponent = (int) (choose(g, 256) * 8 + choose(g, 8)) -
					1024;
				int precision = 14 + (int) choose(g, 3);
				char *end;

				snprintf(text, sizeof(text), "%.*e", precision,
						 ldexp(1.0 + choose(g, 3) / 0x1p52, exponent));
				end = strchr(text, 'e');
				if (end != NULL && end[-1] >= '0' && end[-1] < '9')
					end[-1] += (char) choose(g, 2);
				put(g, text, strlen(text));
				return;
			}
		case 0:
			{
				const char *edge =
					edges[choose(g, sizeof(edges) / sizeof(*edges))];

				put(g, edge, strlen(edge));
				return;
			}
		case 1:
			put_digits(g, 1 + choose(g, 24));
			return;
		case 2:
			put(g, "0", 1);
			break;
		default:
			put_digits(g, 1 + choose(g, 20));
			break;
	}
	put(g, ".", 1);
	for (unsigned zeros = choose(g, 8); zeros > 0; zeros--)
		put(g, "0", 1);
	put_digits(g, 1 + choose(g, 18));
	if (choose(g, 4) == 0)
	{
		char exponent[8];

		snprintf(exponent, sizeof(exponent), "e%d",
				 (int) choose(g, 200) * 4 - 400);
		put(g, exponent, strlen(exponent));
	}
}

static void
put_string(Generator *g)
{
	static const char *const pieces[] = {"a",
										 "/",
										 "\\\"",
										 "\\\\",
										 "\\n",
										 "\\b",
										 "\\f",
										 "\\r",
										 "\\t",
										 "\\u0001",
										 "\\u001f",
										 "\x7f",
										 " ",
										 "\xc2\x80",
										 "\xd0\xa7",
										 "\xdf\xbf",
										 "\xe0\xa0\x80",
										 "\xed\x9f\xbf",
										 "\xee\x80\x80",
										 "\xef\xbf\xbf",
										 "\xf0\x90\x80\x80",
										 "\xf0\x9f\x98\x80",
										 "\xf4\x8f\xbf\xbf",
										 "0",
										 "1",
										 "<",
										 "'",
										 "&",
										 "\xe2\x80\xa8",
										 "z"};

	put(g, "\"", 1);
	for (unsigned n = choose(g, 12); n > 0; n--)
	{
		const char *piece =
			pieces[choose(g, sizeof(pieces) / sizeof(*pieces))];

		put(g, piece, strlen(piece));
	}
	put(g, "\"", 1);
}

static void
put_value(Generator *g, int depth)
{
	static const char *const literals[] = {"true", "false", "null"};
	unsigned kind = depth < 100 ? choose(g, 8) : 7;

	switch (kind)
	{
		case 0:
		case 1:
			put(g, kind == 0 ? "{" : "[", 1);
			for (unsigned i = 0, n = choose(g, 6); i < n; i++)
			{
				if (i > 0)
					put(g, ", ", 2);
				if (kind == 0)
				{
					put_string(g);
					put(g, ": ", 2);
				}
				put_value(g, depth + 1);
			}
			put(g, kind == 0 ? "}" : "]", 1);
			break;
		case 2:
			put_string(g);
			break;
		case 3:
			{
				const char *literal = literals[choose(g, 3)];

				put(g, literal, strlen(literal));
				break;
			}
		default:
			put_number(g);
			break;
	}
}

static void
start_php(void)
{
	char *const command[] = {"php", "-n", getenv("TEGRO_FUZZ_PHP"), NULL};
	struct sigaction alarm_action;
	int down[2], up[2];
	pid_t pid;

	MUST(command[2] != NULL);
	MUST(pipe(down) == 0 && pipe(up) == 0);
	signal(SIGPIPE, SIG_IGN);
	/* libFuzzer's, which looks for inputs that take too long */
	MUST(sigaction(SIGALRM, NULL, &alarm_action) == 0);
	alarm_action.sa_flags |= SA_RESTART;
	MUST(sigaction(SIGALRM, &alarm_action, NULL) == 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0)
	{
		dup2(down[0], STDIN_FILENO);
		dup2(up[1], STDOUT_FILENO);
		close(down[1]);
		close(up[0]);
		execvp(command[0], command);
		_exit(127);
	}
	close(down[0]);
	close(up[1]);
	to_php = fdopen(down[1], "w");
	from_php = fdopen(up[0], "r");
	MUST(to_php != NULL && from_php != NULL);
}

/* Has PHP judge; aborts if it finds a fault. */
static void
ask_php(const char *json, size_t len, TegroBodyStatus status, const char *out,
		size_t out_len, size_t fault, size_t fault_len)
{
	char verdict[8192];

	if (to_php == NULL)
		start_php();
	fprintf(to_php, "%d %zu %zu %zu %zu\n", (int) status, len, out_len, fault,
			fault_len);
	fwrite(json, 1, len, to_php);
	fwrite(out, 1, out_len, to_php);
	fflush(to_php);
	if (fgets(verdict, sizeof(verdict), from_php) == NULL)
		strcpy(verdict, "PHP is gone\n");
	if (strcmp(verdict, "fine\n") != 0)
	{
		fprintf(stderr, "%s", verdict);
		abort();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Generator g;
	char *out;
	size_t out_len, fault, fault_len;
	TegroBodyStatus status;

	if (size < 2 || size > MAX_SIZE)
		return 0;
	memset(&g, 0, sizeof(g));
	g.next = data + 1;
	g.end = data + size;
	if (data[0] & 1)
		put(&g, (const char *) data + 1, size - 1);
	else
		put_value(&g, 0);

	out = just(TEGRO_BODY_BOUND(g.len));
	status = tegro_body_write(g.out, g.len, out, &out_len, &fault, &fault_len);
	ask_php(g.out, g.len, status, out, out_len, fault, fault_len);
	free(out);
	free(g.out);
	return 0;
}
