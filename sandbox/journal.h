/*
 * journal.h
 *		The record of every request, a JSON line each.
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One line. Strings may be NULL where the line says null. */
struct journal_line
{
	uint64_t connection; /* a number of the sandbox's own, from 1 */
	uint64_t request;	 /* its number on that connection, from 1 */
	const char *method;	 /* or the path, where it names no method */
	const char *body;	 /* as it arrived */
	size_t body_length;
	const char *authorization;
	const char *user_agent;
	bool has_nonce;
	int64_t nonce;
	const char *verdict; /* success, error or fault */
	const char *desc;
	bool executed;	   /* state changed */
	const char *fault; /* the action of the fault that it met */
	int http_status;   /* 0: no answer */
	bool deferred;	   /* the second line of a request, when it executes */
};

/* Opens the file for appending; returns false and leaves errno. */
bool journal_open(const char *path);

/* Says whether there is a journal; without one, nothing else need be called. */
bool journal_is_open(void);

/* Adds a line. It reaches the file within 50 ms, or at journal_flush. */
void journal_write(const struct journal_line *entry);

/* Returns when every line that was added before is in the file. */
void journal_flush(void);

/* Flushes and closes. */
void journal_close(void);

#endif
