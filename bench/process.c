/*-------------------------------------------------------------------------
 *
 * process.c
 *		What the kernel says of a process: this one, or a backend.
 *
 * All is read from /proc, from outside: the backend doesn't notice.  That
 * takes root, or to be the server's user, as script/server has it.
 *
 *-------------------------------------------------------------------------
 */
#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "request.h"

static FILE *
open_file(pid_t pid, const char *name)
{
	char path[100];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int) pid, name);
	file = fopen(path, "r");
	if (file == NULL)
		fail("%s: %s", path, strerror(errno));
	return file;
}

/* The sum of the numbers behind those names. */
static double
sum_of(pid_t pid, const char *file_name, const char *name, const char *other)
{
	FILE *file = open_file(pid, file_name);
	char line[200];
	double sum = 0;
	int found = 0;

	while (fgets(line, sizeof(line), file) != NULL)
	{
		char key[100];
		double value;

		if (sscanf(line, "%99[^:]: %lf", key, &value) == 2 &&
			(strcmp(key, name) == 0 || strcmp(key, other) == 0))
		{
			sum += value;
			found++;
		}
	}
	fclose(file);
	if (found == 0)
		fail("/proc/%d/%s has no %s", (int) pid, file_name, name);
	return sum;
}

struct process_memory
process_memory(pid_t pid)
{
	return (
		struct process_memory){.rss = sum_of(pid, "smaps_rollup", "Rss", ""),
							   .pss = sum_of(pid, "smaps_rollup", "Pss", ""),
							   .private = sum_of(pid, "smaps_rollup",
												 "Private_Clean",
												 "Private_Dirty"),
							   .anonymous = sum_of(pid, "status", "RssAnon",
												   ""),
							   .peak = sum_of(pid, "status", "VmHWM", "")};
}

int
process_descriptors(pid_t pid)
{
	char path[100];
	DIR *directory;
	int count = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int) pid);
	directory = opendir(path);
	if (directory == NULL)
		fail("%s: %s", path, strerror(errno));
	while (readdir(directory) != NULL)
		count++;
	closedir(directory);
	return count - 2; /* "." and ".." */
}

double
process_cpu(pid_t pid)
{
	FILE *file = open_file(pid, "schedstat");
	double ns = 0;

	if (fscanf(file, "%lf", &ns) != 1)
		fail("/proc/%d/schedstat can't be read", (int) pid);
	fclose(file);
	return ns / 1e9;
}

void
process_pin(pid_t pid, int processor)
{
	char path[100];
	DIR *directory;
	struct dirent *entry;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	snprintf(path, sizeof(path), "/proc/%d/task", (int) pid);
	directory = opendir(path);
	if (directory == NULL)
		fail("%s: %s", path, strerror(errno));
	while ((entry = readdir(directory)) != NULL)
	{
		if (entry->d_name[0] != '.' &&
			sched_setaffinity(atoi(entry->d_name), sizeof(set), &set) != 0)
			fail("process %d can't be kept on processor %d: %s", (int) pid,
				 processor, strerror(errno));
	}
	closedir(directory);
}

pid_t
process_sandbox(void)
{
	return atoi(require_environment("TEGRO_SANDBOX_PID"));
}
