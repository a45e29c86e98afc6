/*-------------------------------------------------------------------------
 *
 * journal.h
 *		The sandbox's journal: what has arrived there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_JOURNAL_H
#define BENCH_JOURNAL_H

#include <stdbool.h>

/*
 * Waits until the journal has "expected" lines for which "counts" is true; ends
 * the program if that takes too long.  The journal is read anew each time, so
 * "counts" may see a line again.
 */
void journal_wait(long expected, bool (*counts)(const char *line));

#endif
