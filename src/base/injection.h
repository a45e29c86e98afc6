/*-------------------------------------------------------------------------
 *
 * injection.h
 *		Places at which a test can have the process die, or stop.
 *
 * Compiled in only with -DTEGRO_INJECTION_POINTS; otherwise nothing.  A test writes
 * the name of a place and of a signal into the file tegro_kill in the data
 * directory ("after claim commit KILL"); the process that passes the place
 * first takes the file away and sends itself the signal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_INJECTION_H
#define TEGRO_INJECTION_H

#ifdef TEGRO_INJECTION_POINTS

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline void
tegro_injection_point(const char *name)
{
	char line[128] = "";
	FILE *file = fopen("tegro_kill", "r");
	char *signal_name;

	if (file == NULL)
		return;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	fclose(file);
	line[strcspn(line, "\n")] = '\0';
	signal_name = strrchr(line, ' ');
	if (signal_name == NULL)
		return;
	*signal_name++ = '\0';
	if (strcmp(line, name) != 0 || unlink("tegro_kill") != 0)
		return;
	kill(getpid(),
		 strcmp(signal_name, "STOP") == 0		? SIGSTOP
			 : strcmp(signal_name, "TERM") == 0 ? SIGTERM
												: SIGKILL);
}

#else
#define tegro_injection_point(name) ((void) 0)
#endif

#endif /* TEGRO_INJECTION_H */
