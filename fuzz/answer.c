/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Fuzzes src/client/answer.c, and what quotes an answer: nothing that the
 *		provider says throws, and what is shown of it is harmless.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "src/client/answer.h"
#include "src/base/error.h"

#include "backend.h"
#include "fuzz.h"

/* About as long as those that are shown. */
#define MAX_EXCERPT 200

static void
check_envelope(const TegroAnswer *answer)
{
	char *text;
	TegroAnswer again;

	MUST(answer->envelope != NULL && JB_ROOT_IS_OBJECT(answer->envelope));
	MUST(answer->kind != TEGRO_ANSWER_REFUSAL || answer->desc != NULL);

	/* what it was taken for, it says in its own words, too */
	text = JsonbToCString(NULL, &answer->envelope->root,
						  VARSIZE(answer->envelope));
	tegro_answer_read(text, strlen(text), &again);
	MUST(again.kind == answer->kind);
	MUST(answer->desc == NULL || strcmp(again.desc, answer->desc) == 0);
}

static void
check_excerpt(const char *bytes, size_t len)
{
	const TegroSecrets secrets = {{"secret", "", NULL}};
	char *excerpt = tegro_error_excerpt(bytes, len, MAX_EXCERPT, &secrets);

	MUST(pg_verify_mbstr(GetDatabaseEncoding(), excerpt, (int) strlen(excerpt),
						 true));
	for (const char *p = excerpt; *p; p++)
		MUST((unsigned char) *p >= 0x20 && *p != 0x7f);
	MUST(strstr(excerpt, "secret") == NULL);
}

void
tegro_fuzz_answer(const uint8_t *data, size_t size)
{
	char *bytes = palloc0(size + 1);
	TegroAnswer answer;

	/* it is promised a NUL behind the answer */
	memcpy(bytes, data, size);
	bytes = tegro_fuzz_at_fence(bytes, size + 1, 1);
	tegro_answer_read(bytes, size, &answer);
	if (answer.kind == TEGRO_ANSWER_UNREADABLE)
		MUST(answer.why != NULL && *answer.why != '\0');
	else
		check_envelope(&answer);
	/* and this is not */
	check_excerpt(tegro_fuzz_at_fence(data, size, 1), size);
}
