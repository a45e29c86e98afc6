/*-------------------------------------------------------------------------
 *
 * journal.c
 *		The sandbox's journal: what has arrived there.
 *
 *-------------------------------------------------------------------------
 */
#include "journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "request.h"
#include "rounds.h"

/* A line is written a little after the answer. */
#define TURNS	 50
#define PAUSE_US 100000

static long
count_lines(const char *path, bool (*counts)(const char *line))
{
	FILE *file = fopen(path, "r");
	char line[4096];
	long count = 0;

	if (file == NULL)
		fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file) != NULL)
	{
		if (strchr(line, '\n') == NULL)
			break; /* it is being written */
		if (counts(line))
			count++;
	}
	fclose(file);
	return count;
}

void
journal_wait(long expected, bool (*counts)(const char *line))
{
	const char *path = require_environment("TEGRO_SANDBOX_JOURNAL");

	for (int turn = 0; count_lines(path, counts) != expected; turn++)
	{
		if (turn == TURNS)
			fail("%s does not have the %ld requests", path, expected);
		usleep(PAUSE_US);
	}
}
