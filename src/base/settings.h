/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings, except those of keys: see src/client/keys.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_SETTINGS_H
#define TEGRO_SETTINGS_H

#include "utils/guc.h"

#include "src/base/compat.h"

/* This library's version, which the extension's is to be as well. */
#define TEGRO_VERSION "1.0"

/* The values of the settings; read-only elsewhere. */
extern char *tegro_api_url; /* no slash at its end */
extern char *tegro_ca_file; /* "" for the system's authorities */
extern char *tegro_proxy;	/* "" for none */
extern char *tegro_user_agent;
extern int tegro_max_answer_size;  /* kB */
extern int tegro_max_request_size; /* kB */
extern int tegro_connect_timeout;  /* ms */
extern int tegro_timeout;		   /* ms */
extern int tegro_read_retries;
extern int tegro_max_concurrency;

/* Those of the outbox; read-only elsewhere. */
extern int tegro_claim_timeout; /* s */
extern int tegro_review_after;	/* s */
extern int tegro_max_attempts;
extern int tegro_max_amount_decimals;
extern int tegro_rate_limit;		  /* requests a second, 0: none */
extern int tegro_worker_idle_timeout; /* s */
extern int tegro_retention;			  /* s, 0: for ever */
extern char *tegro_not_found_pattern; /* patterns over "desc" */
extern char *tegro_retryable_pattern;
extern char *tegro_duplicate_pattern;

/*
 * May this server deliver what is in its outboxes?  tegro.delivery is on, the
 * server is no standby, and pg_upgrade does not have it in its hands: then the
 * old cluster and the new one hold the same requests.
 */
extern bool tegro_delivery_is_on(void);

/* Throws TG002 in binary-upgrade mode, in which nothing may be sent. */
extern void tegro_refuse_in_binary_upgrade(void);

/* Defines the settings.  Called once, by _PG_init. */
extern void tegro_settings_define(void);

/*
 * Around the definition of all settings: throws if the server's configuration
 * gives one of tegro a value that is not valid, or names one that does not
 * exist.  PostgreSQL only warns, and takes the default: a server whose
 * "tegro.delivery = offf" or whose sandbox's address is mistyped would pay.
 */
extern void tegro_settings_note_configured(void);
extern void tegro_settings_check_configured(void);

/*
 * The shop to act for: tegro.shop_id.  Throws TG006 if it is not set.
 */
extern const char *tegro_settings_shop_id(void);

/* Throws TG006: no shop is named. */
pg_noreturn extern void tegro_settings_refuse_no_shop(void);

/* Does a text contain line breaks or other control characters? */
extern bool tegro_settings_has_control_character(const char *s);

/* A check hook of a setting that must not contain any. */
extern bool tegro_settings_check_printable(char **newval, void **extra,
										   GucSource source);

/* A value as a show hook shows it to those who must not see it. */
extern const char *tegro_settings_masked(const char *value);

#endif /* TEGRO_SETTINGS_H */
