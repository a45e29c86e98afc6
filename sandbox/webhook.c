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
#include <time.h>

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
	pthread_cond_t ending; /* `stopped` */
	bool started;
	bool stopped;
	struct webhook *first;
	struct webhook **last;
} sender = {.lock = PTHREAD_MUTEX_INITIALIZER,
			.changed = PTHREAD_COND_INITIALIZER,
			.ending = PTHREAD_COND_INITIALIZER,
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

void
webhook_add(struct webhook *webhook, const char *name, const char *value,
			size_t length)
{
	struct webhook_field *field;

	if (webhook->field_count == WEBHOOK_FIELDS_MAX)
		abort();
	field = &webhook->fields[webhook->field_count++];
	field->name = name;
	text_append(&field->value, value, length);
}

void
webhook_write_form(const struct webhook *webhook, struct text *text)
{
	for (int i = 0; i < webhook->field_count; i++)
	{
		const struct webhook_field *field = &webhook->fields[i];

		if (i > 0)
			text_byte(text, '&');
		text_string(text, field->name);
		text_byte(text, '=');
		text_form(text, field->value.data, field->value.length);
	}
}

/* Appends the fields as a JSON object of strings. */
static void
write_json(const struct webhook *webhook, struct text *text)
{
	text_byte(text, '{');
	for (int i = 0; i < webhook->field_count; i++)
	{
		const struct webhook_field *field = &webhook->fields[i];

		if (i > 0)
			text_byte(text, ',');
		text_json_any(text, field->name, strlen(field->name));
		text_byte(text, ':');
		text_json_any(text, field->value.data, field->value.length);
	}
	text_byte(text, '}');
}

/* Returns the fields as multipart/form-data. */
static curl_mime *
make_multipart(CURL *handle, const struct webhook *webhook)
{
	curl_mime *mime = curl_mime_init(handle);

	for (int i = 0; mime != NULL && i < webhook->field_count; i++)
	{
		curl_mimepart *part = curl_mime_addpart(mime);

		if (part == NULL ||
			curl_mime_name(part, webhook->fields[i].name) != CURLE_OK ||
			curl_mime_data(part, webhook->fields[i].value.data,
						   webhook->fields[i].value.length) != CURLE_OK)
			abort();
	}
	return mime;
}

/* Waits, unless the program ends. */
static void
wait_before_retry(int64_t ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&sender.lock);
	while (!sender.stopped &&
		   pthread_cond_timedwait(&sender.ending, &sender.lock, &until) == 0)
		;
	pthread_mutex_unlock(&sender.lock);
}

/* Sends one notification once; says whether it was accepted. */
static bool
send_once(CURL *handle, struct webhook *webhook)
{
	char error[CURL_ERROR_SIZE] = "";
	CURLcode result;

	webhook->status = 0;
	webhook->error[0] = '\0';
	webhook->requests++;
	SET(handle, CURLOPT_ERRORBUFFER, error);
	result = curl_easy_setopt(handle, CURLOPT_URL, webhook->url);
	if (result == CURLE_OK)
		result = curl_easy_perform(handle);
	if (result == CURLE_OK)
		curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &webhook->status);
	else
		snprintf(webhook->error, sizeof(webhook->error), "%s",
				 error[0] != '\0' ? error : curl_easy_strerror(result));
	/* `error` goes out of scope. */
	SET(handle, CURLOPT_ERRORBUFFER, NULL);
	return webhook->status >= 200 && webhook->status < 300;
}

/* Sends one notification, and again while the answer asks for it. */
static void
send_until_accepted(CURL *handle, struct webhook *webhook)
{
	for (int64_t i = 0; !is_stopped(); i++)
	{
		if (send_once(handle, webhook))
		{
			webhook->accepted++;
			return;
		}
		if (webhook->status < 500 || i >= webhook->retries)
			return;
		wait_before_retry(webhook->retry_ms);
	}
}

/* Sends one notification as often as it is to be sent. */
static void
send_all(CURL *handle, struct webhook *webhook)
{
	struct text body = {0};
	struct curl_slist *headers = NULL;
	curl_mime *mime = NULL;

	switch (webhook->type)
	{
		case WEBHOOK_MULTIPART:
			mime = make_multipart(handle, webhook);
			SET(handle, CURLOPT_MIMEPOST, mime);
			break;
		case WEBHOOK_JSON:
			write_json(webhook, &body);
			headers = curl_slist_append(NULL,
										"Content-Type: application/json");
			break;
		default:
			webhook_write_form(webhook, &body);
			break;
	}
	SET(handle, CURLOPT_HTTPHEADER, headers);
	if (mime == NULL)
	{
		SET(handle, CURLOPT_POSTFIELDS, body.data);
		SET(handle, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) body.length);
	}
	for (int64_t i = 0; i < webhook->repeat && !is_stopped(); i++)
		send_until_accepted(handle, webhook);
	SET(handle, CURLOPT_HTTPHEADER, NULL);
	SET(handle, CURLOPT_HTTPGET, 1L);
	curl_slist_free_all(headers);
	curl_mime_free(mime);
	text_free(&body);
}

static void *
run_sender(void *unused)
{
	CURL *handle = make_handle();

	(void) unused;
	pthread_mutex_lock(&sender.lock);
	for (;;)
	{
		struct webhook *webhook = sender.first;

		if (webhook == NULL && sender.stopped)
			break;
		if (webhook == NULL)
		{
			pthread_cond_wait(&sender.changed, &sender.lock);
			continue;
		}
		sender.first = webhook->next;
		if (sender.first == NULL)
			sender.last = &sender.first;
		pthread_mutex_unlock(&sender.lock);
		send_all(handle, webhook);
		webhook->done(webhook->argument);
		pthread_mutex_lock(&sender.lock);
	}
	pthread_mutex_unlock(&sender.lock);
	curl_easy_cleanup(handle);
	return NULL;
}

void
webhook_send(struct webhook *webhook)
{
	pthread_mutex_lock(&sender.lock);
	if (sender.stopped)
	{
		pthread_mutex_unlock(&sender.lock);
		webhook->done(webhook->argument);
		return;
	}
	for (int i = 0; i < THREAD_COUNT && !sender.started; i++)
		if (pthread_create(&sender.threads[i], NULL, run_sender, NULL) != 0)
			abort();
	sender.started = true;
	webhook->next = NULL;
	*sender.last = webhook;
	sender.last = &webhook->next;
	pthread_cond_signal(&sender.changed);
	pthread_mutex_unlock(&sender.lock);
}

void
webhook_free(struct webhook *webhook)
{
	if (webhook == NULL)
		return;
	free(webhook->url);
	for (int i = 0; i < webhook->field_count; i++)
		text_free(&webhook->fields[i].value);
	free(webhook);
}

void
webhook_stop(void)
{
	bool started;

	pthread_mutex_lock(&sender.lock);
	sender.stopped = true;
	started = sender.started;
	pthread_cond_broadcast(&sender.changed);
	pthread_cond_broadcast(&sender.ending);
	pthread_mutex_unlock(&sender.lock);
	for (int i = 0; i < THREAD_COUNT && started; i++)
		pthread_join(sender.threads[i], NULL);
}
