/*
 * options.h
 *		The command line.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>

#include "http.h"

struct options
{
	struct http_options http;
	const char *journal; /* files and addresses: NULL where not given */
	const char *ready_file;
	const char *notify_url;
	bool parent_death;
};

/*
 * Reads the command line, adds the shops that it names to the books, and reads
 * the TLS files. Ends the program where there is nothing to run: with 0 after
 * --help and --version, with 2 after a mistake.
 */
void options_read(int argc, char **argv, struct options *options);

/* Frees what options_read has allocated, once the server has stopped. */
void options_free(struct options *options);

#endif
