/*
 * journal.c
 *		The record of every request, a JSON line each.
 *
 * Lines gather in a buffer; a thread writes it every 50 ms while there is
 * something to write, and sleeps otherwise. The file is opened with O_APPEND
 * and written by whole lines, so that it can be read, copied or followed while
 * the sandbox runs, and survives a restart.
 *
 * The journal is what tests judge by. So a line that can't be written ends the
 * program: a journal with a hole would testify falsely.
 *
 * Two locks: `lock` covers the buffer, and is held for a copy only; `writing`
 * is held while a buffer is taken and written, so that lines keep their order.
 * Whoever needs both takes `writing` first.
 */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

/* How long a line may stay in memory. */
#define FLUSH_INTERVAL_MS 50

/* A buffer of this size is written at once, so that bursts stay in bounds. */
#define FLUSH_SIZE_BYTES (1024 * 1024)

static struct
{
	pthread_mutex_t lock;
	pthread_mutex_t writing;
	pthread_cond_t changed; /* the buffer is no longer empty, or `stopped` */
	pthread_t thread;
	struct text lines;
	struct text spare; /* the buffer that was written last; `writing` */
	bool stopped;
	int file;
} journal = {.lock = PTHREAD_MUTEX_INITIALIZER,
			 .writing = PTHREAD_MUTEX_INITIALIZER,
			 .file = -1};

static void
write_whole(const char *bytes, size_t length)
{
	while (length > 0)
	{
		ssize_t written = write(journal.file, bytes, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
		{
			fprintf(stderr, "tegro-sandbox: could not write the journal: %s\n",
					strerror(errno));
			_exit(1);
		}
		bytes += written;
		length -= (size_t) written;
	}
}

void
journal_flush(void)
{
	struct text taken;

	if (journal.file < 0)
		return;
	pthread_mutex_lock(&journal.writing);
	pthread_mutex_lock(&journal.lock);
	taken = journal.lines;
	journal.lines = journal.spare;
	journal.lines.length = 0;
	pthread_mutex_unlock(&journal.lock);
	write_whole(taken.data, taken.length);
	journal.spare = taken;
	pthread_mutex_unlock(&journal.writing);
}

static void *
flush_regularly(void *unused)
{
	(void) unused;
	pthread_mutex_lock(&journal.lock);
	for (;;)
	{
		struct timespec due;

		while (!journal.stopped && journal.lines.length == 0)
			pthread_cond_wait(&journal.changed, &journal.lock);
		if (journal.stopped)
			break;
		clock_gettime(CLOCK_MONOTONIC, &due);
		due.tv_nsec += FLUSH_INTERVAL_MS * 1000000L;
		due.tv_sec += due.tv_nsec / 1000000000L;
		due.tv_nsec %= 1000000000L;
		while (!journal.stopped && journal.lines.length < FLUSH_SIZE_BYTES &&
			   pthread_cond_timedwait(&journal.changed, &journal.lock, &due) ==
				   0)
			;
		pthread_mutex_unlock(&journal.lock);
		journal_flush();
		pthread_mutex_lock(&journal.lock);
	}
	pthread_mutex_unlock(&journal.lock);
	return NULL;
}

bool
journal_open(const char *path)
{
	pthread_condattr_t attributes;

	journal.file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (journal.file < 0)
		return false;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&journal.changed, &attributes);
	pthread_condattr_destroy(&attributes);
	if (pthread_create(&journal.thread, NULL, flush_regularly, NULL) != 0)
		abort();
	return true;
}

bool
journal_is_open(void)
{
	return journal.file >= 0;
}

/* Appends `,"name":` and the string, or null. */
static void
append_member(struct text *line, const char *name, const char *value)
{
	text_string(line, ",\"");
	text_string(line, name);
	text_string(line, "\":");
	if (value == NULL)
		text_string(line, "null");
	else
		text_json_any(line, value, strlen(value));
}

/* Appends what follows the time. */
static void
append_line(struct text *line, const struct journal_line *entry)
{
	text_string(line, ",\"connection\":");
	text_integer(line, (int64_t) entry->connection);
	text_string(line, ",\"request\":");
	text_integer(line, (int64_t) entry->request);
	append_member(line, "method", entry->method);
	text_string(line, ",\"body\":");
	if (!text_json(line, entry->body, entry->body_length))
	{
		line->length -= strlen("\"body\":");
		text_string(line, "\"body_base64\":\"");
		text_base64(line, entry->body, entry->body_length);
		text_byte(line, '"');
	}
	append_member(line, "authorization", entry->authorization);
	append_member(line, "user_agent", entry->user_agent);
	text_string(line, ",\"nonce\":");
	if (entry->has_nonce)
		text_integer(line, entry->nonce);
	else
		text_string(line, "null");
	append_member(line, "verdict", entry->verdict);
	append_member(line, "desc", entry->desc);
	text_string(line,
				entry->executed ? ",\"executed\":true"
								: ",\"executed\":false");
	append_member(line, "fault", entry->fault);
	text_string(line, ",\"http_status\":");
	if (entry->http_status > 0)
		text_integer(line, entry->http_status);
	else
		text_string(line, "null");
	if (entry->deferred)
		text_string(line, ",\"deferred\":true");
	text_string(line, "}\n");
}

void
journal_write(const struct journal_line *entry)
{
	struct text *lines = &journal.lines;
	struct timespec now;
	char stamp[48];
	bool wake;

	if (journal.file < 0)
		return;
	pthread_mutex_lock(&journal.lock);
	wake = lines->length == 0;
	/* The clock is read under the lock, so that times rise from line to line. */
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(stamp, sizeof(stamp), "{\"time\":%lld.%06ld",
			 (long long) now.tv_sec, now.tv_nsec / 1000);
	text_string(lines, stamp);
	append_line(lines, entry);
	if (wake || lines->length >= FLUSH_SIZE_BYTES)
		pthread_cond_signal(&journal.changed);
	pthread_mutex_unlock(&journal.lock);
}

void
journal_close(void)
{
	if (journal.file < 0)
		return;
	pthread_mutex_lock(&journal.lock);
	journal.stopped = true;
	pthread_cond_signal(&journal.changed);
	pthread_mutex_unlock(&journal.lock);
	pthread_join(journal.thread, NULL);
	journal_flush();
	close(journal.file);
	journal.file = -1;
	text_free(&journal.lines);
	text_free(&journal.spare);
}
