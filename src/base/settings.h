/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings, and whose shop is asked for with which key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_SETTINGS_H
#define TEGRO_SETTINGS_H

/* This library's version, which the extension's is to be as well. */
#define TEGRO_VERSION "1.0"

/* Was it loaded at the server's start, by shared_preload_libraries? */
extern bool tegro_is_preloaded;

/* The credentials of one shop; the strings live as long as the settings do. */
typedef struct TegroCredentials
{
	const char *api_key;	/* signs requests; never empty */
	const char *secret_key; /* signs links and notifications; "" if none */
} TegroCredentials;

/* The values of the settings; read-only elsewhere. */
extern char *tegro_api_url; /* no slash at its end */
extern char *tegro_ca_file; /* "" for the system's authorities */
extern char *tegro_proxy;	/* "" for none */
extern char *tegro_user_agent;
extern int tegro_max_answer_size; /* kB */
extern int tegro_connect_timeout; /* ms */
extern int tegro_timeout;		  /* ms */
extern int tegro_read_retries;
extern int tegro_max_concurrency;

/* What to do with a payout that can't be found: see tegro.withdrawal_unknown. */
typedef enum TegroWithdrawalUnknown
{
	TEGRO_REVIEW, /* a person decides */
	TEGRO_RESEND  /* send it again */
} TegroWithdrawalUnknown;

/* Those of the outbox; read-only elsewhere. */
extern bool tegro_delivery;
extern int tegro_lease;				 /* s */
extern int tegro_settle_time;		 /* s */
extern int tegro_withdrawal_unknown; /* TegroWithdrawalUnknown */
extern int tegro_max_attempts;
extern int tegro_rate_limit;  /* requests a second, 0: none */
extern int tegro_worker_idle; /* s */
extern int tegro_retention;	  /* s, 0: for ever */
extern char *tegro_not_found; /* patterns over "desc" */
extern char *tegro_repeatable;
extern char *tegro_duplicate;

/* Defines all settings.  To be called once a process, from _PG_init. */
extern void tegro_settings_define(void);

/*
 * Makes sure that the settings which only an administrator may set are his.
 * To be called before anything is sent.  Throws TG006 if not.
 */
extern void tegro_settings_check(void);

/*
 * The shop to act for: tegro.shop_id.  Throws TG006 if it is not set.
 */
extern const char *tegro_settings_shop_id(void);

/*
 * The keys with which "role" acts for a shop: the session's own tegro.api_key
 * or else the first line of the credentials file that fits both.
 *
 * Throws TG006, with a hint that says how to set them, if there are none or
 * the file can't be used.  The result is good until the next reload or SET.
 */
extern TegroCredentials tegro_settings_credentials(const char *shop_id,
												   Oid role);

/*
 * The key that signs a shop's links and notifications, for "role": the
 * session's own tegro.secret_key, or else the secret key in the first line of
 * the credentials file that fits both.
 *
 * trusted: the session's own counts only where an administrator has set it.
 * Who may bring notifications, and no more, would else bring the key to them.
 *
 * Throws TG006 if there is none.  The result is never empty, and good until
 * the next reload or SET.
 */
extern const char *tegro_settings_secret_key(const char *shop_id, Oid role,
											 bool trusted);

/*
 * Puts down the settings with which this session makes calls, its own keys
 * included, so that another process can make one for it.
 *
 * Returns palloc'd bytes and their length.  They hold keys: to be kept in
 * memory only, and zeroed after use.
 */
extern char *tegro_settings_export(Size *len);

/*
 * Takes over what tegro_settings_export() put down in another session.  Returns
 * true if that session's requests go elsewhere than this process's own would,
 * or are signed with a key of the session's.
 */
extern bool tegro_settings_import(const char *bytes, Size len);

#endif /* TEGRO_SETTINGS_H */
