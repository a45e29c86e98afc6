/*-------------------------------------------------------------------------
 *
 * body.c
 *		Fuzzes src/format/body.c: whatever the bytes are, it stays within bounds, and
 *		what it has written it leaves as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <stdbool.h>

#include "src/format/body.h"

/*
 * Is there white space outside of strings?  It is dropped, so "1 2" becomes
 * "12", which is read anew.  In JSON no two numbers meet.
 */
static bool
has_blanks(const char *json, size_t len)
{
	bool in_string = false;

	for (size_t i = 0; i < len; i++)
	{
		if (json[i] == '"')
			in_string = !in_string;
		else if (in_string && json[i] == '\\')
			i++;
		else if (!in_string && strchr(" \t\r\n", json[i]) != NULL)
			return true;
	}
	return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *json = just_copy(data, size);
	char *out = just(TEGRO_BODY_BOUND(size));
	size_t out_len, fault, fault_len;

	if (tegro_body_write(json, size, out, &out_len, &fault, &fault_len) ==
		TEGRO_BODY_OK)
	{
		MUST(out_len <= TEGRO_BODY_BOUND(size));
		for (size_t i = 0; i < out_len; i++)
			MUST((unsigned char) out[i] >= 0x20 &&
				 (unsigned char) out[i] < 0x80);
		if (!has_blanks(json, size))
		{
			char *exact = just_copy((uint8_t *) out, out_len);
			char *again = just(TEGRO_BODY_BOUND(out_len));
			size_t again_len;

			MUST(tegro_body_write(exact, out_len, again, &again_len, &fault,
								  &fault_len) == TEGRO_BODY_OK);
			MUST(again_len == out_len && memcmp(again, out, out_len) == 0);
			free(exact);
			free(again);
		}
	}
	else
		MUST(fault <= size && fault_len <= size - fault);

	free(json);
	free(out);
	return 0;
}
