/*-------------------------------------------------------------------------
 *
 * keys.c
 *		Which key signs, for which shop and role.
 *
 * A key stands in the settings (tegro.api_key, tegro.secret_key) or in the
 * credentials file, which only the administrator can name.  The settings come
 * from the configuration file, or they are the session's own.
 *
 * Why there is a file: a setting is a poor place for a key.  pg_file_settings
 * shows a key in the configuration file, and a key in a SET statement goes to
 * the log under log_statement.  The server alone reads the credentials file,
 * like a TLS key.
 *
 * Who sets a key decides whose account is paid, so that takes a superuser, or
 * GRANT SET ON PARAMETER.  No catalog takes one: every role can read what ALTER
 * ROLE, ALTER DATABASE and ALTER FUNCTION store, dumps contain it, and one
 * injected statement would redirect a shop's payments for good.  The check hook
 * refuses the sources of such values:
 *
 *	- PGC_S_TEST, with which PostgreSQL checks a value before it stores it;
 *	- PGC_S_GLOBAL to PGC_S_DATABASE_USER, with which a session starts.  Such a
 *	  value was stored while the library was not loaded.  The session goes on
 *	  without it, with a warning.
 *
 * Hazards:
 *
 *	- A function's SET clause from that time is applied as the SET statement of
 *	  its caller, or of its owner where it is SECURITY DEFINER, and can't be told
 *	  from one.  So it takes the right to SET the key.
 *	- A check hook that fails without a message of its own makes PostgreSQL
 *	  quote the value.  For keys there is always a message.
 *	- When a reload changes a setting of the configuration file, the postmaster
 *	  logs the new value.  A log hook leaves that line out for keys.
 *	- The file's contents live in memory of our own and are zeroed before
 *	  they are freed.  PostgreSQL keeps the session's own keys, and frees them
 *	  as it frees any setting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/compat.h"
#include "src/base/error.h"
#include "src/base/settings.h"
#include "src/client/keys.h"
#include "src/format/credentials.h"
#include "src/format/signature.h"

/*
 * A credentials file is a few lines; 1 MB has room for some ten thousand.
 * More is not a credentials file, and would be read into every session.
 */
#define MAX_CREDENTIALS_FILE (1024 * 1024)

static char *api_key = NULL;
static char *secret_key = NULL;
static char *credentials_file = NULL;

/* The credentials file as it was read, taken apart. */
static char *file_bytes = NULL; /* what the fields point into */
static size_t file_bytes_len = 0;
static TegroCredentialsLine *file_lines = NULL;
static int file_nlines = 0;
static char *file_path = NULL; /* which file it was; NULL: none is read */
static TimestampTz file_reload_time = 0; /* PgReloadTime at the reading */


static emit_log_hook_type next_log_hook = NULL;

/* Settings whose values the log must not show; a proxy may have a password. */
static const char *const secret_settings[] = {"tegro.api_key",
											  "tegro.secret_key",
											  "tegro.proxy"};


/* Does a message contain the name, as the configuration file may spell it? */
static bool
names_setting(const char *message, const char *name)
{
	size_t len = strlen(name);

	for (; *message; message++)
	{
		if (pg_strncasecmp(message, name, len) == 0)
			return true;
	}
	return false;
}

/*
 * Keeps "parameter ... changed to ..." out of the log for secret settings.  The
 * message is known by its id, which is not translated.  A log hook may suppress
 * a message, but must not change it.
 */
static void
keep_secrets_out_of_log(ErrorData *edata)
{
	if (edata->message_id && edata->message &&
		strcmp(edata->message_id, "parameter \"%s\" changed to \"%s\"") == 0)
	{
		for (int i = 0; i < lengthof(secret_settings); i++)
		{
			if (names_setting(edata->message, secret_settings[i]))
				edata->output_to_server = false;
		}
	}
	if (next_log_hook)
		next_log_hook(edata);
}

static bool
check_key(const char *name, char **newval, GucSource source)
{
	if (source == PGC_S_TEST)
	{
		GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
		GUC_check_errmsg("parameter \"%s\" cannot be stored for a role, a database or a function",
						 name);
		GUC_check_errdetail("Every role could read the key in the catalogs, and dumps would contain it.");
		GUC_check_errhint("Write the key to the file that tegro.credentials_file names.");
		return false;
	}
	if (source >= PGC_S_GLOBAL && source <= PGC_S_DATABASE_USER)
	{
		GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
		GUC_check_errmsg("stored value of parameter \"%s\" is ignored", name);
		GUC_check_errdetail("A key cannot be stored for a role or a database: every role can read it there.");
		GUC_check_errhint("Write the key to the file that tegro.credentials_file names.  As a superuser, find the stored value with tegro_doctor(), and remove it with ALTER ROLE or ALTER DATABASE ... RESET %s.",
						  name);
		return false;
	}
	if (*newval && tegro_settings_has_control_character(*newval))
	{
		GUC_check_errcode(ERRCODE_INVALID_PARAMETER_VALUE);
		GUC_check_errmsg("a key must not contain line breaks or other control characters");
		GUC_check_errhint("Copy the key again from the shop's page at Tegro, without what surrounds it.");
		return false;
	}
	return true;
}

static bool
check_api_key(char **newval, void **extra, GucSource source)
{
	return check_key("tegro.api_key", newval, source);
}

static bool
check_secret_key(char **newval, void **extra, GucSource source)
{
	return check_key("tegro.secret_key", newval, source);
}

static const char *
show_api_key(void)
{
	return tegro_settings_masked(api_key);
}

/* A key that is no longer set can't sign any more. */
static void
forget_api_key(const char *value, void *extra)
{
	tegro_signature_forget();
}

static const char *
show_secret_key(void)
{
	return tegro_settings_masked(secret_key);
}

void
tegro_keys_define(void)
{
	/* Keys appear in no list.  RESET ALL wipes them, for poolers' sake. */
	const int key_flags = GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL |
		GUC_NOT_IN_SAMPLE;

	DefineCustomStringVariable("tegro.api_key",
							   "Key that signs requests.",
							   "Safer in the file that tegro.credentials_file names: statements are logged.",
							   &api_key, "", PGC_SUSET, key_flags,
							   check_api_key, forget_api_key, show_api_key);
	DefineCustomStringVariable("tegro.secret_key",
							   "Key that signs payment links and notifications.",
							   "Safer in the file that tegro.credentials_file names.",
							   &secret_key, "", PGC_SUSET, key_flags,
							   check_secret_key, NULL, show_secret_key);
	DefineCustomStringVariable("tegro.credentials_file",
							   "File with the keys of the shops.",
							   "Lines of the form shop_id:role:api_key:secret_key, \"*\" for any shop or role. "
							   "It must belong to the server's user and be closed to all others (mode 0600). "
							   "Read again after each reload. A relative name is taken from the data directory.",
							   &credentials_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   tegro_settings_check_printable, NULL, NULL);

	next_log_hook = emit_log_hook;
	emit_log_hook = keep_secrets_out_of_log;
}

/* Forgets the credentials file, leaving no copy of a key in memory. */
static void
forget_file(void)
{
	tegro_signature_forget();
	if (file_bytes)
	{
		explicit_bzero(file_bytes, file_bytes_len);
		pfree(file_bytes);
	}
	if (file_lines)
		pfree(file_lines);
	if (file_path)
		pfree(file_path);
	file_bytes = NULL;
	file_bytes_len = 0;
	file_lines = NULL;
	file_nlines = 0;
	file_path = NULL;
}

/* The path is for the log: it is the administrator's, as the setting is. */
static void
refuse_file(const char *path, const char *detail, const char *hint)
{
	forget_file();
	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("could not use the credentials file"),
			 errdetail_internal("%s", detail),
			 errdetail_log("File \"%s\": %s", path, detail),
			 errhint("%s", hint)));
}

/*
 * Reads the whole file into file_bytes.  Everything is asked of the open
 * descriptor, so that it can't be exchanged between the check and the use;
 * O_NONBLOCK keeps a FIFO from holding us.
 */
static void
read_file_bytes(const char *path)
{
	struct stat st;
	size_t got = 0;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
	{
		int error = errno;
		char *detail = psprintf("It could not be opened: %s.",
								strerror(error));

		if (error == ELOOP)
			refuse_file(path, "It is a symbolic link.",
						"Set tegro.credentials_file to the file itself.");
		if (error == EACCES)
			refuse_file(path, detail,
						psprintf("Give it to the server's user (chown %u) with mode 0600, and let him pass the directories above it.",
								 (unsigned) geteuid()));
		refuse_file(path, detail,
					"Create the file that tegro.credentials_file names, owned by the server's user and with mode 0600.");
	}

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
	{
		close(fd);
		refuse_file(path, "It is not a regular file.",
					"Set tegro.credentials_file to a regular file.");
	}
	if (st.st_uid != geteuid() || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		close(fd);
		refuse_file(path,
					psprintf("It belongs to user %u with mode %04o.",
							 (unsigned) st.st_uid,
							 (unsigned) st.st_mode & 07777),
					psprintf("Give it to the server's user (chown %u) and close it to all others (chmod 0600).",
							 (unsigned) geteuid()));
	}
	if (st.st_size > MAX_CREDENTIALS_FILE)
	{
		close(fd);
		refuse_file(path, "It is larger than 1 MB.",
					"Set tegro.credentials_file to a file with a line for each shop.");
	}

	/* one byte more, for a NUL behind the last line; nothing is thrown while it is open */
	file_bytes =
		MemoryContextAllocExtended(TopMemoryContext, (Size) st.st_size + 1,
								   MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
	if (file_bytes == NULL)
	{
		close(fd);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("The credentials file could not be read.")));
	}
	file_bytes_len = (size_t) st.st_size + 1;
	while (got < (size_t) st.st_size)
	{
		ssize_t n = read(fd, file_bytes + got, (size_t) st.st_size - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t) n;
	}
	close(fd);
	if (got < (size_t) st.st_size)
		refuse_file(path, "It could not be read to its end.",
					"Reload the configuration once it is whole.");
}

/* Reads the credentials file, unless it is read already. */
static void
read_file(void)
{
	TegroCredentialsReader reader = {NULL};
	TegroCredentialsLine line;
	TegroCredentialsStatus status;
	int room = 0;

	if (file_path && file_reload_time == PgReloadTime &&
		strcmp(file_path, credentials_file) == 0)
		return;

	forget_file();
	read_file_bytes(credentials_file);

	reader.bytes = file_bytes;
	reader.len = file_bytes_len - 1;
	while ((status = tegro_credentials_next(&reader, &line)) ==
		   TEGRO_CREDENTIALS_LINE)
	{
		if (file_nlines == room)
		{
			room = room ? room * 2 : 8;
			file_lines = file_lines
				? repalloc(file_lines, room * sizeof(*file_lines))
				: MemoryContextAlloc(TopMemoryContext,
									 room * sizeof(*file_lines));
		}
		file_lines[file_nlines++] = line;
	}
	if (status == TEGRO_CREDENTIALS_HAS_NUL)
		refuse_file(credentials_file, "It contains NUL bytes.",
					"Write it as plain text, a line for each shop.");
	if (status == TEGRO_CREDENTIALS_BAD_LINE)
		refuse_file(credentials_file,
					psprintf("Line %d does not have the form shop_id:role:api_key:secret_key.",
							 reader.line_number),
					"Write \"*\" for any shop or any role, and \"\\:\" for a colon within a field.");

	file_path = MemoryContextStrdup(TopMemoryContext, credentials_file);
	file_reload_time = PgReloadTime;
}

/*
 * Does a line's role fit?  As in pg_hba.conf, a superuser is a member only of
 * what he was made a member of: a line that names a role means that role.
 */
static bool
role_fits(const char *name, Oid role)
{
	Oid line_role;

	if (strcmp(name, "*") == 0)
		return true;
	line_role = get_role_oid(name, true);
	return OidIsValid(line_role) && is_member_of_role_nosuper(role, line_role);
}

static bool
shop_fits(const char *name, const char *shop)
{
	return strcmp(name, "*") == 0 || strcmp(name, shop) == 0;
}

/*
 * The line of the credentials file for a shop and role; NULL if there is none.
 * A line that names the role itself comes before all that fit it otherwise:
 * who can grant a role to others must not be able to change the key of one that
 * has a line of its own.
 */
static const TegroCredentialsLine *
find_line(const char *shop, Oid role)
{
	const char *name = GetUserNameFromId(role, true);

	read_file();
	for (int i = 0; name && i < file_nlines; i++)
	{
		if (shop_fits(file_lines[i].shop_id, shop) &&
			strcmp(file_lines[i].role, name) == 0)
			return &file_lines[i];
	}
	for (int i = 0; i < file_nlines; i++)
	{
		if (shop_fits(file_lines[i].shop_id, shop) &&
			role_fits(file_lines[i].role, role))
			return &file_lines[i];
	}
	return NULL;
}

/* A field without the blanks around it. */
static char *
trim(const char *field)
{
	char *trimmed = pstrdup(field + strspn(field, " \t"));
	size_t len = strlen(trimmed);

	while (len > 0 && (trimmed[len - 1] == ' ' || trimmed[len - 1] == '\t'))
		trimmed[--len] = '\0';
	return trimmed;
}

/*
 * Why no line fits.  Blanks belong to a field, and can't be seen: a line that
 * would fit but for them is worth a word.
 */
static const char *
why_no_line(const char *shop, Oid role)
{
	for (int i = 0; i < file_nlines; i++)
	{
		if (shop_fits(trim(file_lines[i].shop_id), shop) &&
			role_fits(trim(file_lines[i].role), role))
			return "No line of the credentials file fits both; one would but for blanks around its shop or role, which count.";
	}
	return "No line of the credentials file fits both.";
}

TegroKeys
tegro_keys_find(const char *shop, Oid role)
{
	TegroKeys keys;

	if (api_key && *api_key)
	{
		keys.api_key = api_key;
		keys.secret_key = secret_key ? secret_key : "";
		return keys;
	}

	if (credentials_file && *credentials_file)
	{
		const TegroCredentialsLine *line = find_line(shop, role);
		char *name;

		if (line)
		{
			keys.api_key = line->api_key;
			keys.secret_key = line->secret_key;
			return keys;
		}
		name = GetUserNameFromId(role, true);
		if (name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("no API key for shop \"%s\": the role, number %u, does not exist",
							tegro_error_for_client(shop), role),
					 errhint("Only a line of the credentials file for any role, shop_id:*:api_key:secret_key, has a key for it.")));
		ereport(ERROR,
				(errcode(TEGRO_ERRCODE_MISCONFIGURED),
				 errmsg("no API key for shop \"%s\" and role \"%s\"",
						tegro_error_for_client(shop),
						tegro_error_for_client(name)),
				 errdetail_internal("%s", why_no_line(shop, role)),
				 errhint("Add the line shop_id:role:api_key:secret_key to the file that tegro.credentials_file names and reload the configuration.")));
	}

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("no API key is set"),
			 errhint("Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration.")));
	pg_unreachable();
}

uint64
tegro_keys_mark(const char *key)
{
	static uint64 seed = 0;
	uint64 mark;

	while (seed == 0)
		seed = pg_prng_uint64(&pg_global_prng_state);
	mark = hash_bytes_extended((const unsigned char *) key, (int) strlen(key),
							   seed);
	return mark != 0 ? mark : 1;
}

bool
tegro_keys_is_servers(const char *name)
{
	return tegro_setting_source(name) <= PGC_S_ARGV;
}

/*
 * The secret key, or NULL.  *line receives the line of the credentials file
 * that fits, with a secret key or without; NULL if none does.
 */
static const char *
find_secret(const char *shop, Oid role, bool trusted,
			const TegroCredentialsLine **line)
{
	*line = NULL;
	if (secret_key && *secret_key &&
		(!trusted || tegro_keys_is_servers("tegro.secret_key")))
		return secret_key;
	if (credentials_file && *credentials_file)
		*line = find_line(shop, role);
	return *line && *(*line)->secret_key != '\0' ? (*line)->secret_key : NULL;
}

const char *
tegro_keys_find_secret(const char *shop, Oid role, bool trusted)
{
	const TegroCredentialsLine *line;

	return find_secret(shop, role, trusted, &line);
}

const char *
tegro_keys_secret(const char *shop, Oid role, bool trusted)
{
	const TegroCredentialsLine *line;
	const char *key;
	const char *hint =
		"Name a file with the line shop_id:role:api_key:secret_key in tegro.credentials_file and reload the configuration.";

	if (*shop == '\0')
		tegro_settings_refuse_no_shop();
	key = find_secret(shop, role, trusted, &line);
	if (key)
		return key;

	if (credentials_file && *credentials_file)
	{
		hint = line
			? "Write it as the fourth field of the shop's line, shop_id:role:api_key:secret_key, in the file that tegro.credentials_file names, and reload the configuration."
			: "Add the line shop_id:role:api_key:secret_key to the file that tegro.credentials_file names and reload the configuration.";
	}

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("no secret key for shop \"%s\"",
					tegro_error_excerpt(shop, strlen(shop), 64, NULL)),
			 errdetail("The secret key, which is not the API key, signs payment links and notifications."),
			 errhint("%s", hint)));
	pg_unreachable();
}
