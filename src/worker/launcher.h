/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The launcher, which sees that requests are delivered after a start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_LAUNCHER_H
#define TEGRO_LAUNCHER_H

/*
 * Registers the launcher, which starts a delivery worker in each database in
 * which requests wait.  Called by _PG_init.
 */
extern void tegro_launcher_register(void);

#endif /* TEGRO_LAUNCHER_H */
