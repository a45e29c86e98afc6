/*
 * main.c
 *		tegro-sandbox: a stand-in for the payment API of Tegro.money.
 *
 * The map: options.c reads the command line; http.c takes requests, gateway.c
 * turns some away, journal.c records them, fault.c says which of them go wrong
 * and reply.c makes them go wrong; methods.c executes them on books.c, with
 * params.c, orders.c and withdrawals.c; rows.c writes what is found there;
 * checkout.c opens payment links; settle.c changes statuses, at once or later;
 * control.c is the sandbox's own interface, with wanted.c, payment.c, webhook.c
 * and state.c behind it. rules.c holds what is not documented. timer.c, text.c,
 * money.c, currency.c, index.c and signature.c serve them all.
 *
 * This file starts the parts and stops them in the only order in which that
 * works. Signals are blocked in all threads and taken by the main thread, so
 * there is no signal handler.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <curl/curl.h>

#include "fault.h"
#include "http.h"
#include "journal.h"
#include "books.h"
#include "webhook.h"
#include "options.h"
#include "payment.h"
#include "methods.h"
#include "text.h"
#include "timer.h"

/* Ends the program after a failure of the system's. */
static void
fail(const char *what, const char *path)
{
	fprintf(stderr, "tegro-sandbox: could not %s \"%s\": %s\n", what, path,
			strerror(errno));
	exit(1);
}

/* Writes the URL to a file, whole or not at all. */
static void
write_ready_file(const char *path, const struct text *url)
{
	size_t size = strlen(path) + 32;
	char *temporary = must_allocate(size);
	FILE *file;

	snprintf(temporary, size, "%s.%ld.tmp", path, (long) getpid());
	file = fopen(temporary, "w");
	if (file == NULL)
		fail("create", temporary);
	if (fwrite(url->data, 1, url->length, file) != url->length ||
		fclose(file) != 0)
		fail("write", temporary);
	if (rename(temporary, path) != 0)
		fail("create", path);
	free(temporary);
}

/* A benchmark may bring more connections than the usual soft limit has files. */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
	{
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int
main(int argc, char **argv)
{
	pid_t parent = getppid();
	struct options options;
	struct text url = {0};
	sigset_t signals;
	int received;

	options_read(argc, argv, &options);

	/* Before any thread starts: they inherit it. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (options.parent_death)
	{
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		/* It may have died before we asked. */
		if (getppid() != parent)
			return 0;
	}
	raise_file_limit();
	curl_global_init(CURL_GLOBAL_DEFAULT);

	payment_configure(options.notify_url);
	if (options.journal != NULL && !journal_open(options.journal))
		fail("open the journal", options.journal);
	timer_start();
	if (!http_start(&options.http, &url))
	{
		fprintf(stderr, "tegro-sandbox: %.*s\n", (int) url.length, url.data);
		text_free(&url);
		return 1;
	}
	if (options.ready_file != NULL)
		write_ready_file(options.ready_file, &url);
	printf("tegro-sandbox: listening on %.*s\n", (int) url.length, url.data);
	fflush(stdout);

	sigwait(&signals, &received);

	/*
	 * First nothing new may wait, then what waits is woken, then the server can
	 * stop; only then does nobody use the rest.
	 */
	http_begin_stop();
	webhook_stop();
	timer_stop();
	http_stop();
	journal_close();
	fault_clear();
	options_free(&options);
	books_free();
	text_free(&url);
	curl_global_cleanup();
	return 0;
}
