/*-------------------------------------------------------------------------
 *
 * error.c
 *		How a call ended, and how that is told.
 *
 * A shop's program has to decide on an error: correct the request, repeat it,
 * or look first whether money moved.  So each way to end has an SQLSTATE of
 * its own (class TG), and the hint says what to do.
 *
 * Hazard: the provider, or whoever answers in its place, chooses the bytes
 * that are quoted here.  They can hold control characters that a terminal
 * obeys, bytes that are not text, or our own signature sent back.  Everything
 * foreign passes through tegro_error_excerpt().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "src/base/error.h"

/* As long for each secret, so that the mask doesn't tell its length. */
#define MASK "********"

int
tegro_error_sqlstate(TegroResult result)
{
	switch (result)
	{
		case TEGRO_ANSWERED:
			return ERRCODE_SUCCESSFUL_COMPLETION;
		case TEGRO_REFUSED:
			return TEGRO_ERRCODE_REFUSED;
		case TEGRO_NOT_SENT:
			return TEGRO_ERRCODE_NOT_SENT;
		case TEGRO_UNKNOWN:
			return TEGRO_ERRCODE_UNKNOWN;
		case TEGRO_UNREADABLE:
			return TEGRO_ERRCODE_UNREADABLE;
		case TEGRO_RATE_LIMITED:
			return TEGRO_ERRCODE_RATE_LIMITED;
		case TEGRO_MISCONFIGURED:
			return TEGRO_ERRCODE_MISCONFIGURED;
	}
	return ERRCODE_INTERNAL_ERROR;
}

void
tegro_error_raise(const TegroOutcome *outcome)
{
	Assert(outcome->result != TEGRO_ANSWERED);
	Assert(outcome->message != NULL);
	ereport(ERROR,
			(errcode(tegro_error_sqlstate(outcome->result)),
			 errmsg_internal("%s", tegro_error_for_client(outcome->message)),
			 outcome->detail
				 ? errdetail_internal("%s", tegro_error_for_client(outcome->detail))
				 : 0,
			 outcome->hint
				 ? errhint("%s", tegro_error_for_client(outcome->hint))
				 : 0));
	pg_unreachable();
}

bool
tegro_error_is_about_data(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES);
}

/*
 * Characters that show as nothing, or turn the text around them: from U+200B
 * to U+200F, U+202A to U+202E, U+2060 to U+206F, and U+FEFF.
 */
static bool
is_invisible(const unsigned char *c)
{
	return (c[0] == 0xe2 && c[1] == 0x80 &&
			((c[2] >= 0x8b && c[2] <= 0x8f) ||
			 (c[2] >= 0xaa && c[2] <= 0xae))) ||
		(c[0] == 0xe2 && c[1] == 0x81 && c[2] >= 0xa0 && c[2] <= 0xaf) ||
		(c[0] == 0xef && c[1] == 0xbb && c[2] == 0xbf);
}

/*
 * The conversion from the server's encoding to the client's; InvalidOid if text
 * needs none, or none can be found out about now.
 */
static Oid
find_conversion(void)
{
	int client = pg_get_client_encoding();
	int server = GetDatabaseEncoding();

	if (client == server || client == PG_SQL_ASCII || server == PG_SQL_ASCII ||
		!IsTransactionState())
		return InvalidOid;
	return FindDefaultConversionProc(server, client);
}

/* Does the client's encoding have a character of "len" bytes? */
static bool
client_has(Oid conversion, const char *character, int len)
{
	unsigned char source[MAX_MULTIBYTE_CHAR_LEN + 1] = {0};
	unsigned char
		converted[MAX_CONVERSION_GROWTH * (MAX_MULTIBYTE_CHAR_LEN + 2)];

	if (!OidIsValid(conversion))
		return true;
	Assert(len <= MAX_MULTIBYTE_CHAR_LEN);
	memcpy(source, character, len);
	return pg_do_encoding_conversion_buf(conversion, GetDatabaseEncoding(),
										 pg_get_client_encoding(), source, len,
										 converted, sizeof(converted),
										 true) == len;
}

static bool
is_ascii(const char *message)
{
	while (*message && !IS_HIGHBIT_SET(*message))
		message++;
	return *message == '\0';
}

/* A text with \xNN for what the conversion lacks; if there is none, for all. */
static char *
escape(const char *message, Oid conversion)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *at = message; *at;)
	{
		int len = (int) strnlen(at, pg_mblen(at));

		if (!IS_HIGHBIT_SET(*at) ||
			(OidIsValid(conversion) && client_has(conversion, at, len)))
			appendBinaryStringInfo(&out, at, len);
		else
		{
			for (int i = 0; i < len; i++)
				appendStringInfo(&out, "\\x%02x", (unsigned char) at[i]);
		}
		at += len;
	}
	return out.data;
}

const char *
tegro_error_for_client(const char *message)
{
	Oid conversion = is_ascii(message) ? InvalidOid : find_conversion();

	return OidIsValid(conversion) ? escape(message, conversion) : message;
}

const char *
tegro_error_in_context(const char *message)
{
	return is_ascii(message) ||
			pg_get_client_encoding() == GetDatabaseEncoding()
		? message
		: escape(message, InvalidOid);
}

/* The secret that stands at the front of "bytes", its length; 0 if none. */
static size_t
secret_at(const char *bytes, size_t len, const TegroSecrets *secrets)
{
	if (secrets == NULL)
		return 0;
	for (int i = 0; i < lengthof(secrets->items); i++)
	{
		size_t n = secrets->items[i] ? strlen(secrets->items[i]) : 0;

		if (n > 0 && n <= len && memcmp(bytes, secrets->items[i], n) == 0)
			return n;
	}
	return 0;
}

char *
tegro_error_excerpt(const char *bytes, size_t len, size_t max_len,
					const TegroSecrets *secrets)
{
	StringInfoData out;
	size_t i = 0;
	bool utf8_server = (GetDatabaseEncoding() == PG_UTF8);
	Oid conversion = InvalidOid;
	bool asked = false; /* for "conversion": most text needs none */

	initStringInfo(&out);
	while (i < len && (size_t) out.len < max_len)
	{
		unsigned char c = (unsigned char) bytes[i];
		size_t n = secret_at(bytes + i, len - i, secrets);

		if (n > 0)
		{
			appendStringInfoString(&out, MASK);
			i += n;
		}
		else if (c >= 0x20 && c < 0x7f)
		{
			appendStringInfoChar(&out, (char) c);
			i++;
		}
		else if (c == '\n' || c == '\r' || c == '\t')
		{
			appendStringInfoChar(&out, ' ');
			i++;
		}
		else
		{
			if (!asked)
			{
				conversion = utf8_server ? find_conversion() : InvalidOid;
				asked = true;
			}
			/* a whole character, if the server can hold it as it is */
			n = c >= 0xc2 && c <= 0xf4
				? pg_utf_mblen((const unsigned char *) bytes + i)
				: 0;
			if (utf8_server && n > 1 && n <= len - i &&
				pg_utf8_islegal((const unsigned char *) bytes + i, (int) n) &&
				!(c == 0xc2 && (unsigned char) bytes[i + 1] < 0xa0) &&
				!(n == 3 && is_invisible((const unsigned char *) bytes + i)) &&
				client_has(conversion, bytes + i, (int) n))
			{
				appendBinaryStringInfo(&out, bytes + i, (int) n);
				i += n;
			}
			else
			{
				appendStringInfo(&out, "\\x%02x", c);
				i++;
			}
		}
	}
	if (i < len)
		appendStringInfoString(&out, "...");
	return out.data;
}

void
tegro_error_mask(char *bytes, size_t len, const char *secret)
{
	size_t n = strlen(secret);
	char *at;

	Assert(bytes || len == 0);
	if (n == 0)
		return;
	while ((at = memmem(bytes, len, secret, n)) != NULL)
	{
		memset(at, '*', n);
		len -= (size_t) (at + n - bytes);
		bytes = at + n;
	}
}

ErrorData *
tegro_error_catch(void (*work)(void *arg), void *arg, MemoryContext context)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int level PG_USED_FOR_ASSERTS_ONLY = GetCurrentTransactionNestLevel();
	ErrorData *volatile error = NULL;

	Assert(IsTransactionState());
	/* FlushErrorState() would free it */
	Assert(context != ErrorContext);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		work(arg);
		Assert(GetCurrentTransactionNestLevel() == level + 1);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	Assert(GetCurrentTransactionNestLevel() == level);
	return error;
}
