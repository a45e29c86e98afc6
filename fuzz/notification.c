/*-------------------------------------------------------------------------
 *
 * notification.c
 *		Fuzzes the verification of notifications, however they are written.
 *
 * Nobody guesses a signature, so each form is also tried with the right one
 * put in.  Then it depends on its fields alone whether it counts.  It must count
 * as JSON and as multipart, too, or in no way of writing it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "src/base/argument.h"
#include "src/format/form.h"
#include "src/format/query.h"
#include "src/format/signature.h"

#include "backend.h"
#include "fuzz.h"
#include "parts.h"

#define SECRET_KEY "fuzzed"

/* Shorter than the longest form that is looked at, as JSON, too. */
#define MAX_SIGNED (16 * 1024)

extern Datum tegro_verify_notification(PG_FUNCTION_ARGS);

static bool
verify_form(const char *bytes, size_t len)
{
	text *form = cstring_to_text_with_len(bytes, (int) len);

	form = (text *) tegro_fuzz_at_fence(form, VARSIZE(form), sizeof(int32));
	return DatumGetBool(
		DirectFunctionCall1(tegro_verify_notification, PointerGetDatum(form)));
}

/* The fields as a JSON object; NULL if it can't be one of strings. */
static char *
as_json(const TegroQueryField *fields, size_t nfields)
{
	TegroJsonbState params = tegro_begin_params();

	for (size_t i = 0; i < nfields; i++)
	{
		if (memchr(fields[i].name, '[', fields[i].name_len) != NULL)
			return NULL;
		tegro_add_text_param(&params,
							 pnstrdup(fields[i].name, fields[i].name_len),
							 cstring_to_text_with_len(fields[i].value,
													  (int) fields[i]
														  .value_len));
	}
	return JsonbToCString(NULL, &tegro_finish_params(&params)->root, 0);
}

/* Signs the form, in place of what it has as "sign", and has it verified. */
static void
check_signed(const char *bytes, size_t len)
{
	static const char *const needed[] = {"amount", "currency", "order_id",
										 "shop_id"};
	TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
	TegroQueryField kept[TEGRO_QUERY_MAX_FIELDS];
	size_t nfields, nkept = 0;
	const TegroQueryField *sign;
	char hex[TEGRO_MD5_LEN + 1];
	char *text;
	size_t text_len;
	bool is_whole = true;
	bool verdict;
	char *other;
	size_t other_len;

	if (tegro_query_read(pnstrdup(bytes, len), len, fields, &nfields) !=
			TEGRO_QUERY_OK ||
		tegro_query_sort(fields, nfields) != TEGRO_QUERY_OK)
		return;
	sign = tegro_query_find(fields, nfields, "sign");
	for (size_t i = 0; i < nfields; i++)
	{
		if (&fields[i] != sign)
			kept[nkept++] = fields[i];
		/* "sign" takes the place of an array of that name, which was signed */
		if (fields[i].name_len > 5 && memcmp(fields[i].name, "sign[", 5) == 0)
			is_whole = false;
	}
	for (int i = 0; i < lengthof(needed); i++)
	{
		const TegroQueryField *field = tegro_query_find(kept, nkept,
														needed[i]);

		if (field == NULL || field->value_len == 0)
			is_whole = false;
		else if (strcmp(needed[i], "shop_id") == 0)
		{
			for (size_t k = 0; k < field->value_len; k++)
			{
				if (field->value[k] <= 0x20 || field->value[k] >= 0x7f)
					is_whole = false;
			}
		}
	}
	text = palloc(tegro_query_room(kept, nkept) + sizeof("&sign=") +
				  TEGRO_MD5_LEN);
	text_len = tegro_query_write(kept, nkept, text);
	MUST(tegro_signature_form(SECRET_KEY, strlen(SECRET_KEY), text, text_len,
							  hex));
	text_len += (size_t) sprintf(text + text_len, "&sign=%s", hex);

	verdict = verify_form(text, text_len);
	/* there may be one field more than there was, or too much of it all */
	if (nkept < TEGRO_QUERY_MAX_FIELDS && text_len < MAX_SIGNED)
		MUST(verdict == is_whole);
	else
		MUST(!verdict || is_whole);

	/* any other signature is wrong */
	text[text_len - 1] = (char) (text[text_len - 1] == '0' ? '1' : '0');
	MUST(!verify_form(text, text_len));

	if (nkept < TEGRO_QUERY_MAX_FIELDS && text_len < MAX_SIGNED)
	{
		kept[nkept++] = (TegroQueryField){"sign", strlen("sign"), hex,
										  TEGRO_MD5_LEN};
		other = as_json(kept, nkept);
		if (other != NULL)
			MUST(verify_form(other, strlen(other)) == verdict);
		other = write_parts(kept, nkept, &other_len);
		if (other != NULL && other_len < TEGRO_FORM_MAX_LEN)
			MUST(verify_form(other, other_len) == verdict);
		free(other);
	}
}

void
tegro_fuzz_notification(const uint8_t *data, size_t size)
{
	static bool is_set = false;
	char *bytes = pnstrdup((const char *) data, size);

	if (!is_set)
	{
		SetConfigOption("tegro.secret_key", SECRET_KEY, PGC_USERSET,
						PGC_S_SESSION);
		is_set = true;
	}
	if (strlen(bytes) != size)
		return; /* a text has no NUL */

	(void) verify_form(bytes, size);
	check_signed(bytes, size);
}
