/*-------------------------------------------------------------------------
 *
 * credentials.c
 *		Fuzzes src/format/credentials.c: fields stay within the file's bytes, and
 *		a line written anew from its fields has the same fields.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "src/format/credentials.h"

/* Adds a field with its escapes; returns the new end. */
static char *
write_field(char *out, const char *field, char end)
{
	for (; *field; field++)
	{
		*out++ = '\\';
		*out++ = *field;
	}
	*out++ = end;
	return out;
}

static void
check_line(const TegroCredentialsLine *line)
{
	size_t room = 2 *
			(strlen(line->shop_id) + strlen(line->role) +
			 strlen(line->api_key) + strlen(line->secret_key)) +
		4;
	char *bytes = just(room + 1);
	TegroCredentialsReader reader = {bytes, room, 0, 0};
	TegroCredentialsLine again;
	char *out = bytes;

	/* a carriage return that ends a line can't be written */
	if (*line->secret_key &&
		line->secret_key[strlen(line->secret_key) - 1] == '\r')
	{
		free(bytes);
		return;
	}

	out = write_field(out, line->shop_id, ':');
	out = write_field(out, line->role, ':');
	out = write_field(out, line->api_key, ':');
	out = write_field(out, line->secret_key, '\n');
	MUST((size_t) (out - bytes) == room);
	MUST(tegro_credentials_next(&reader, &again) == TEGRO_CREDENTIALS_LINE);
	MUST(strcmp(line->shop_id, again.shop_id) == 0);
	MUST(strcmp(line->role, again.role) == 0);
	MUST(strcmp(line->api_key, again.api_key) == 0);
	MUST(strcmp(line->secret_key, again.secret_key) == 0);
	MUST(tegro_credentials_next(&reader, &again) == TEGRO_CREDENTIALS_END);
	free(bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *bytes = just(size + 1);
	TegroCredentialsReader reader = {bytes, size, 0, 0};
	TegroCredentialsLine line;
	size_t before = 0;

	if (size > 0)
		memcpy(bytes, data, size);
	bytes[size] = 'x'; /* nobody has promised a NUL */
	while (tegro_credentials_next(&reader, &line) == TEGRO_CREDENTIALS_LINE)
	{
		const char *fields[] = {line.shop_id, line.role, line.api_key,
								line.secret_key};

		MUST(reader.pos > before && reader.pos <= size);
		for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		{
			MUST(fields[i] >= bytes + before);
			MUST(fields[i] + strlen(fields[i]) <= bytes + size);
			MUST(strchr(fields[i], '\n') == NULL);
		}
		MUST(*line.api_key != '\0');
		check_line(&line);
		before = reader.pos;
	}
	free(bytes);
	return 0;
}
