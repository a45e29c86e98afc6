/*-------------------------------------------------------------------------
 *
 * installation.h
 *		Is tegro installed and set up as it should be?
 *
 * Checks of the doctor; what a check may do is in finding.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_INSTALLATION_H
#define TEGRO_INSTALLATION_H

#include "src/doctor/finding.h"

extern void tegro_check_library(TegroDoctor *doctor);
extern void tegro_check_libcurl(TegroDoctor *doctor);
extern void tegro_check_settings(TegroDoctor *doctor);
extern void tegro_check_configuration(TegroDoctor *doctor);
extern void tegro_check_patterns(TegroDoctor *doctor);
extern void tegro_check_credentials(TegroDoctor *doctor);
extern void tegro_check_secret_key(TegroDoctor *doctor);
extern void tegro_check_credentials_place(TegroDoctor *doctor);
extern void tegro_check_keys_in_configuration(TegroDoctor *doctor);
extern void tegro_check_keys_in_catalogs(TegroDoctor *doctor);
extern void tegro_check_keys_of_session(TegroDoctor *doctor);
extern void tegro_check_rights(TegroDoctor *doctor);
extern void tegro_check_durability(TegroDoctor *doctor);

#endif /* TEGRO_INSTALLATION_H */
