/*
 * webhook.c
 *		Sends notifications to a shop's address.
 *
 * A few threads take them from a queue, so that a receiver that hangs holds up
 * neither the API nor, mostly, the next notification. They start with the first
 * notification: most runs send none.
 *
 * The environment's proxies are ignored, and certificates are not checked: the
 * receiver is a program under development, likely with a certificate of its
 * own making, and what it is sent is signed with a key that is no secret.
 */
#include "webhook.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#define THREAD_COUNT 4

/* How long a receiver may take to answer. */
#define TIMEOUT_MS 10000L

#define USER_AGENT "tegro-sandbox notification"

static struct
{
	pthread_mutex_t lock;
	pthread_cond_t changed; /* the queue is not empty, or `stopped` */
	pthread_t threads[THREAD_COUNT];
	bool started;
	bool stopped;
	struct webhook *first;
	struct webhook **last;
} sender = {.lock = PTHREAD_MUTEX_INITIALIZER,
			.changed = PTHREAD_COND_INITIALIZER,
			.last = &sender.first};

static bool
is_stopped(void)
{
	bool stopped;

	pthread_mutex_lock(&sender.lock);
	stopped = sender.stopped;
	pthread_mutex_unlock(&sender.lock);
	return stopped;
}

/* libcurl asks this at least once a second: anything but 0 gives up. */
static int
check_progress(void *unused, curl_off_t download_total, curl_off_t download,
			   curl_off_t upload_total, curl_off_t upload)
{
	(void) unused;
	(void) download_total;
	(void) download;
	(void) upload_total;
	(void) upload;
	return is_stopped();
}

/* The answer's body is of no interest. */
static size_t
discard(char *bytes, size_t size, size_t count, void *unused)
{
	(void) bytes;
	(void) unused;
	return size * count;
}

/* Every option matters here, and none can fail but by a wrong libcurl. */
#define SET(handle, option, value)                                     \
	do                                                                 \
	{                                                                  \
		CURLcode set_result = curl_easy_setopt(handle, option, value); \
		if (set_result != CURLE_OK)                                    \
		{                                                              \
			fprintf(stderr, "tegro-sandbox: %s: %s\n", #option,        \
					curl_easy_strerror(set_result));                   \
			abort();                                                   \
		}                                                              \
	} while (0)

static CURL *
make_handle(void)
{
	CURL *handle = curl_easy_init();

	if (handle == NULL)
		abort();
	SET(handle, CURLOPT_NOSIGNAL, 1L);
	SET(handle, CURLOPT_PROTOCOLS_STR, "http,https");
	SET(handle, CURLOPT_PROXY, "");
	SET(handle, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
	SET(handle, CURLOPT_SSL_VERIFYPEER, 0L);
	SET(handle, CURLOPT_SSL_VERIFYHOST, 0L);
	SET(handle, CURLOPT_USERAGENT, USER_AGENT);
	SET(handle, CURLOPT_WRITEFUNCTION, discard);
	SET(handle, CURLOPT_NOPROGRESS, 0L);
	SET(handle, CURLOPT_XFERINFOFUNCTION, check_progress);
	return handle;
}

/* Sends one notification as often as it is to be sent. */
static void
send_all(CURL *handle, struct webhook *notification)
{
	char error[CURL_ERROR_SIZE];
	CURLcode result = curl_easy_setopt(handle, CURLOPT_URL, notification->url);

	SET(handle, CURLOPT_ERRORBUFFER, error);
	SET(handle, CURLOPT_POSTFIELDS, notification->form.data);
	SET(handle, CURLOPT_POSTFIELDSIZE_LARGE,
		(curl_off_t) notification->form.length);
	for (int64_t i = 0; i < notification->repeat && !is_stopped(); i++)
	{
		notification->status = 0;
		error[0] = '\0';
		if (result == CURLE_OK)
			result = curl_easy_perform(handle);
		if (result == CURLE_OK)
			curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE,
							  &notification->status);
		else
			snprintf(notification->error, sizeof(notification->error), "%s",
					 error[0] != '\0' ? error : curl_easy_strerror(result));
		if (notification->status >= 200 && notification->status < 300)
			notification->accepted++;
		result = CURLE_OK;
	}
	/* `error` goes out of scope. */
	SET(handle, CURLOPT_ERRORBUFFER, NULL);
}

static void *
run_sender(void *unused)
{
	CURL *handle = make_handle();

	(void) unused;
	pthread_mutex_lock(&sender.lock);
	for (;;)
	{
		struct webhook *notification = sender.first;

		if (notification == NULL && sender.stopped)
			break;
		if (notification == NULL)
		{
			pthread_cond_wait(&sender.changed, &sender.lock);
			continue;
		}
		sender.first = notification->next;
		if (sender.first == NULL)
			sender.last = &sender.first;
		pthread_mutex_unlock(&sender.lock);
		send_all(handle, notification);
		notification->done(notification->argument);
		pthread_mutex_lock(&sender.lock);
	}
	pthread_mutex_unlock(&sender.lock);
	curl_easy_cleanup(handle);
	return NULL;
}

void
webhook_send(struct webhook *notification)
{
	pthread_mutex_lock(&sender.lock);
	if (sender.stopped)
	{
		pthread_mutex_unlock(&sender.lock);
		notification->done(notification->argument);
		return;
	}
	for (int i = 0; i < THREAD_COUNT && !sender.started; i++)
		if (pthread_create(&sender.threads[i], NULL, run_sender, NULL) != 0)
			abort();
	sender.started = true;
	notification->next = NULL;
	*sender.last = notification;
	sender.last = &notification->next;
	pthread_cond_signal(&sender.changed);
	pthread_mutex_unlock(&sender.lock);
}

void
webhook_free(struct webhook *notification)
{
	if (notification == NULL)
		return;
	free(notification->url);
	text_free(&notification->form);
	free(notification);
}

void
webhook_stop(void)
{
	bool started;

	pthread_mutex_lock(&sender.lock);
	sender.stopped = true;
	started = sender.started;
	pthread_cond_broadcast(&sender.changed);
	pthread_mutex_unlock(&sender.lock);
	for (int i = 0; i < THREAD_COUNT && started; i++)
		pthread_join(sender.threads[i], NULL);
}
