/*-------------------------------------------------------------------------
 *
 * backend.c
 *		Runs libFuzzer inside a PostgreSQL backend.
 *
 * What reads answers and notifications uses PostgreSQL's JSON parser, its
 * memory and its way of throwing errors.  A copy of these outside of a server
 * would be fuzzed in place of what is used.  So the extension is built once
 * more, with sanitizers and coverage, into a library that has libFuzzer in
 * it; a server in single-user mode preloads it, as it must, and one SQL
 * function hands the process over to libFuzzer, which never comes back.  The
 * launcher that the library registers never starts there: no postmaster does.
 *
 *		CREATE FUNCTION fuzz(harness text, arguments text[]) RETURNS void
 *		AS '...' LANGUAGE c
 *
 * Only the extension is instrumented, the server is as it is installed.  There
 * is no AddressSanitizer here; so an input lies at the end of its page, and
 * behind it is one that nobody may touch.  What is done to PostgreSQL's memory
 * valgrind sees (script/sanitize).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "backend.h"

PG_FUNCTION_INFO_V1(tegro_fuzz);

extern int LLVMFuzzerRunDriver(int *argc, char ***argv,
							   int (*callback)(const uint8_t *, size_t));

static const struct
{
	const char *name;
	void (*run)(const uint8_t *data, size_t size);
} harnesses[] = {{"answer", tegro_fuzz_answer},
				 {"notification", tegro_fuzz_notification}};

/* Inputs are shorter; script/fuzz sees to it. */
#define ROOM (1024 * 1024)

static char *fence = NULL; /* ROOM bytes before it may be used */
static void (*harness)(const uint8_t *, size_t) = NULL;
static MemoryContext context = NULL;

char *
tegro_fuzz_at_fence(const void *bytes, size_t len, size_t alignment)
{
	if (len > ROOM - alignment)
		elog(PANIC, "an input of %zu bytes", len);
	return memcpy(fence - TYPEALIGN(alignment, len), bytes, len);
}

static int
run_one(const uint8_t *data, size_t size)
{
	MemoryContext old_context = MemoryContextSwitchTo(context);

	PG_TRY();
	{
		harness(data, size);
	}
	PG_CATCH();
	{
		/* libFuzzer keeps the input */
		EmitErrorReport();
		fprintf(stderr, "thrown: %s\n", CopyErrorData()->message);
		abort();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(old_context);
	MemoryContextReset(context);
	return 0;
}

Datum
tegro_fuzz(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ArrayType *array = PG_GETARG_ARRAYTYPE_P(1);
	Datum *arguments;
	int narguments;
	int argc = 1;
	char **argv;

	for (int i = 0; i < lengthof(harnesses); i++)
	{
		if (strcmp(harnesses[i].name, name) == 0)
			harness = harnesses[i].run;
	}
	if (harness == NULL)
		elog(ERROR, "there is no harness \"%s\"", name);

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &arguments,
					  NULL, &narguments);
	argv = palloc0((narguments + 2) * sizeof(char *));
	argv[0] = name;
	for (int i = 0; i < narguments; i++)
		argv[argc++] = TextDatumGetCString(arguments[i]);

	fence = mmap(NULL, ROOM + sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fence == MAP_FAILED)
		elog(ERROR, "no memory");
	fence += ROOM;
	if (mprotect(fence, sysconf(_SC_PAGESIZE), PROT_NONE) != 0)
		elog(ERROR, "no fence");

	/* single-user mode has none, and would let recursion run into the end */
	(void) set_stack_base();

	context = AllocSetContextCreate(TopMemoryContext, "fuzz",
									ALLOCSET_DEFAULT_SIZES);
	exit(LLVMFuzzerRunDriver(&argc, &argv, run_one));
}
