/*-------------------------------------------------------------------------
 *
 * keys.h
 *		Which key signs, for which shop and role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_KEYS_H
#define TEGRO_KEYS_H

/* The keys of one shop; the strings live as long as the settings do. */
typedef struct TegroKeys
{
	const char *api_key;	/* signs requests; never empty */
	const char *secret_key; /* signs links and notifications; "" if none */
} TegroKeys;

/*
 * Defines tegro.api_key, tegro.secret_key and tegro.credentials_file.  Called
 * once, by _PG_init.
 */
extern void tegro_keys_define(void);

/*
 * The keys with which "role" acts for a shop: tegro.api_key where it is set, or
 * else the first line of the credentials file that fits both.
 *
 * Throws TG006, with a hint that says how to set them, if there are none or
 * the file can't be used; 42704 if the file has none for a role that does not
 * exist.  The result is good until the next reload or SET.
 */
extern TegroKeys tegro_keys_find(const char *shop_id, Oid role);

/*
 * A mark by which an API key is known again in this process, without the key:
 * never 0, another in each process, and the same for two keys only by an
 * accident of 1 in 2^64.
 */
extern uint64 tegro_keys_mark(const char *key);

/*
 * Is the value of a key's setting the server's, from the configuration file or
 * the command line?  Otherwise it is the session's own: its user brought it with
 * the connection, or a statement set it.
 */
extern bool tegro_keys_is_servers(const char *name);

/*
 * The key that signs a shop's links and notifications, for "role":
 * tegro.secret_key where it is set, or else the secret key in the first line of
 * the credentials file that fits both.
 *
 * trusted: the session's own does not count, whoever has set it.  Notifications
 * call back for other roles: a role that may SET a key must not sign them.
 *
 * Throws TG006 if there is none.  The result is never empty, and good until
 * the next reload or SET.
 */
extern const char *tegro_keys_secret(const char *shop_id, Oid role,
									 bool trusted);

/*
 * The same for a shop that a stranger named: NULL if there is no key, or no
 * shop, and no error.  Takes as long for a shop without a key as for one with
 * a key.  Throws TG006 if the credentials file can't be used.
 */
extern const char *tegro_keys_find_secret(const char *shop_id, Oid role,
										  bool trusted);

#endif /* TEGRO_KEYS_H */
