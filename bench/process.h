/*-------------------------------------------------------------------------
 *
 * process.h
 *		What the kernel says of a process: this one, or a backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <sys/types.h>

/* Memory of a process, in kB. */
struct process_memory
{
	double rss;		  /* of it in memory, shared pages included */
	double pss;		  /* the same, shared pages shared out */
	double private;	  /* its own alone */
	double anonymous; /* what it allocated: no file, no shared memory */
	double peak;	  /* highest rss so far */
};

struct process_memory process_memory(pid_t pid);

/* Open file descriptors. */
int process_descriptors(pid_t pid);

/* Seconds that it has run on a processor. */
double process_cpu(pid_t pid);

/* Keeps it, all its threads, on one processor from now on: 0 is the first. */
void process_pin(pid_t pid, int processor);

/* The sandbox's process, by $TEGRO_SANDBOX_PID. */
pid_t process_sandbox(void);

#endif
