/*-------------------------------------------------------------------------
 *
 * memory.c
 *		What a session holds after many calls, and during a huge answer.
 *
 * Growth is counted from call 1,000 on: until then libcurl, OpenSSL and
 * PostgreSQL's caches fill.  Half of the calls are made a thousand a
 * statement, half in one statement.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <string.h>

#include "process.h"
#include "request.h"
#include "rounds.h"
#include "session.h"

#define FIRST_CALLS 1000
#define STATEMENTS	50
#define LAST_CALLS	49000

/* 1 GiB: a piece, and how often it is repeated. */
#define PIECE  "1 GB of it."
#define REPEAT (1024 * 1024 * 1024L / (long) strlen(PIECE))

static void
call(PGconn *session, long calls)
{
	session_number(session,
				   "SELECT count(tegro_balance()) FROM generate_series(1, %ld)",
				   calls);
}

/* kB in all memory contexts of the session. */
static double
contexts(PGconn *session)
{
	return session_number(session,
						  "SELECT sum(total_bytes) / 1024.0 FROM pg_backend_memory_contexts");
}

static size_t
discard(char *bytes, size_t size, size_t count, void *arg)
{
	(void) bytes;
	(void) arg;
	return size * count;
}

/* Has the sandbox answer the next call with a GB. */
static void
order_huge_answer(const struct target *target)
{
	char json[500];
	char url[1024];
	CURL *easy = curl_easy_init();
	long status = 0;

	snprintf(json, sizeof(json),
			 "{\"method\":\"balance\",\"action\":\"answer\",\"status\":200,\"body\":\"" PIECE
			 "\",\"repeat\":%ld}",
			 REPEAT);
	snprintf(url, sizeof(url), "%.*s/_sandbox/fault",
			 (int) (strstr(target->url, "/api/") - target->url), target->url);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	if (target->ca_file != NULL)
		curl_easy_setopt(easy, CURLOPT_CAINFO, target->ca_file);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, json);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
	if (curl_easy_perform(easy) != CURLE_OK ||
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK ||
		status / 100 != 2)
		fail("%s: the fault could not be set (status %ld)", url, status);
	curl_easy_cleanup(easy);
}

/* kB by which a huge answer raises the peak, while so much is allowed. */
static double
measure_huge_answer(const struct target *target, const char *allowed)
{
	PGconn *session = session_open();
	pid_t backend;
	PGresult *result;
	const char *state;
	double before, growth;

	session_set_server(session, "tegro.max_answer_size", allowed);
	PQfinish(session);
	session = session_open();
	backend = (pid_t) session_number(session, "SELECT pg_backend_pid()");
	session_execute(session, "SET jit = off");
	call(session, 100);
	/* an error, so that what PostgreSQL needs for one is there */
	PQclear(PQexec(session, "SELECT tegro_call('balance', '[]')"));
	order_huge_answer(target);
	before = process_memory(backend).peak;
	result = PQexec(session, "SELECT tegro_balance()");
	state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	if (state == NULL || strcmp(state, "TG004") != 0)
		fail("the huge answer ended with %s: %s",
			 state == NULL ? "success" : state, PQerrorMessage(session));
	growth = process_memory(backend).peak - before;
	printf("1 GB answered, %s allowed: the peak rises by %.0f kB.\n", allowed,
		   growth);
	PQclear(result);
	PQfinish(session);
	return growth;
}

int
main(void)
{
	struct target target;
	PGconn *session;
	pid_t backend;
	struct process_memory first, last;
	double first_contexts, last_contexts, small, large;
	int first_descriptors, descriptors, most_descriptors;

	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		fail("curl_global_init failed");
	target = request_configure();
	session = session_open();
	backend = (pid_t) session_number(session, "SELECT pg_backend_pid()");
	session_execute(session, "SET jit = off");

	printf("%d calls in one session.\n",
		   FIRST_CALLS + STATEMENTS * 1000 + LAST_CALLS);
	contexts(session);
	call(session, FIRST_CALLS);
	first_contexts = contexts(session);
	first = process_memory(backend);
	first_descriptors = most_descriptors = process_descriptors(backend);
	for (int i = 0; i < STATEMENTS; i++)
	{
		call(session, 1000);
		descriptors = process_descriptors(backend);
		if (descriptors > most_descriptors)
			most_descriptors = descriptors;
		if ((i + 1) % (STATEMENTS / 5) == 0)
		{
			last = process_memory(backend);
			printf("  %6d calls: RSS %.0f kB, PSS %.0f kB, private %.0f kB, %d descriptors\n",
				   FIRST_CALLS + (i + 1) * 1000, last.rss, last.pss,
				   last.private, descriptors);
			fflush(stdout);
		}
	}
	call(session, LAST_CALLS);
	last_contexts = contexts(session);
	last = process_memory(backend);
	descriptors = process_descriptors(backend);
	if (descriptors > most_descriptors)
		most_descriptors = descriptors;
	printf("  %6d calls: RSS %.0f kB, PSS %.0f kB, private %.0f kB, %d descriptors\n",
		   FIRST_CALLS + STATEMENTS * 1000 + LAST_CALLS, last.rss, last.pss,
		   last.private, descriptors);
	PQfinish(session);

	small = measure_huge_answer(&target, "'1MB'");
	large = measure_huge_answer(&target, "'32MB'");
	printf("\n");
	print_metric("memory_rss", last.rss, "kB");
	print_metric("memory_rss_growth", last.rss - first.rss, "kB");
	print_metric("memory_pss_growth", last.pss - first.pss, "kB");
	print_metric("memory_private_growth", last.private - first.private, "kB");
	print_metric("memory_peak_growth", last.peak - first.peak, "kB");
	print_metric("memory_contexts_growth", last_contexts - first_contexts,
				 "kB");
	print_metric("memory_descriptors_growth",
				 most_descriptors - first_descriptors, "descriptors");
	print_metric("memory_huge_answer_1MB", small, "kB");
	print_metric("memory_huge_answer_32MB", large, "kB");
	curl_global_cleanup();
	return 0;
}
