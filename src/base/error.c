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
 * foreign passes through tegro_error_excerpt().  Names in catalogs, and texts that
 * a role gave, are text, but may hold the same: they pass through
 * tegro_error_for_client().
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
 * Characters of UTF-8 that show as nothing, turn the text around them or end a
 * line: the controls from U+0080 to U+009F, U+00AD, U+061C, U+180E, U+200B to
 * U+200F, U+2028 to U+202E, U+2060 to U+206F, U+FEFF, U+FFF9 to U+FFFB, and the
 * tags from U+E0000 to U+E0FFF.
 */
static bool
is_invisible(const unsigned char *c, int len)
{
	if (len == 2)
		return (c[0] == 0xc2 && (c[1] < 0xa0 || c[1] == 0xad)) ||
			(c[0] == 0xd8 && c[1] == 0x9c);
	if (len == 3)
		return (c[0] == 0xe1 && c[1] == 0xa0 && c[2] == 0x8e) ||
			(c[0] == 0xe2 && c[1] == 0x80 &&
			 ((c[2] >= 0x8b && c[2] <= 0x8f) ||
			  (c[2] >= 0xa8 && c[2] <= 0xae))) ||
			(c[0] == 0xe2 && c[1] == 0x81 && c[2] >= 0xa0 && c[2] <= 0xaf) ||
			(c[0] == 0xef && c[1] == 0xbb && c[2] == 0xbf) ||
			(c[0] == 0xef && c[1] == 0xbf && c[2] >= 0xb9 && c[2] <= 0xbb);
	return len == 4 && c[0] == 0xf3 && c[1] == 0xa0;
}

/*
 * Is a character of the server's encoding a control, or invisible?  The bytes
 * from 0x80 to 0x9f are letters in some encodings of one byte, and controls in
 * those of ISO 8859.
 */
static bool
is_control(const char *character, int len)
{
	const unsigned char *c = (const unsigned char *) character;

	if (len == 1 && !IS_HIGHBIT_SET(*c))
		return *c < 0x20 || *c == 0x7f;
	switch (GetDatabaseEncoding())
	{
		case PG_UTF8:
			return is_invisible(c, len);
		case PG_LATIN1:
		case PG_LATIN2:
		case PG_LATIN3:
		case PG_LATIN4:
		case PG_LATIN5:
		case PG_LATIN6:
		case PG_LATIN7:
		case PG_LATIN8:
		case PG_LATIN9:
		case PG_LATIN10:
		case PG_ISO_8859_5:
		case PG_ISO_8859_6:
		case PG_ISO_8859_7:
		case PG_ISO_8859_8:
			return *c < 0xa0;
		default:
			return false;
	}
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

/* Does a text consist of what every terminal and encoding has? */
static bool
is_plain(const char *message)
{
	while (*message >= 0x20 && *message < 0x7f)
		message++;
	return *message == '\0';
}

/*
 * A text with \xNN for control characters, and for what the conversion lacks; if
 * "ascii_only", for all that is not ASCII.
 */
static const char *
escape(const char *message, bool ascii_only, Oid conversion)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *at = message; *at;)
	{
		int len = (int) strnlen(at, pg_mblen(at));

		if (!is_control(at, len) &&
			(!IS_HIGHBIT_SET(*at) ||
			 (!ascii_only && client_has(conversion, at, len))))
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
	if (is_plain(message))
		return message;
	return escape(message, false,
				  is_ascii(message) ? InvalidOid : find_conversion());
}

const char *
tegro_error_in_context(const char *message)
{
	return is_plain(message)
		? message
		: escape(message, pg_get_client_encoding() != GetDatabaseEncoding(),
				 InvalidOid);
}

const char *
tegro_error_identifier(const char *name)
{
	StringInfoData out;

	if (is_plain(name) || strcmp(tegro_error_for_client(name), name) == 0)
		return quote_identifier(name);
	initStringInfo(&out);
	appendStringInfoString(&out, "U&\"");
	for (const char *at = name; *at;)
	{
		int len = (int) strnlen(at, pg_mblen(at));

		if (len == 1 && (*at == '"' || *at == '\\'))
			appendStringInfo(&out, "%c%c", *at, *at);
		else if (len == 1 && *at >= 0x20 && *at < 0x7f)
			appendStringInfoChar(&out, *at);
		else
		{
			char *utf8 = pg_server_to_any(at, len, PG_UTF8);

			appendStringInfo(&out, "\\+%06X",
							 (unsigned) utf8_to_unicode(
								 (const unsigned char *) utf8));
		}
		at += len;
	}
	appendStringInfoChar(&out, '"');
	return out.data;
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
				!is_invisible((const unsigned char *) bytes + i, (int) n) &&
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
