/*-------------------------------------------------------------------------
 *
 * provider.h
 *		Does the provider answer?
 *
 * Checks of the doctor; what a check may do is in finding.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_PROVIDER_H
#define TEGRO_PROVIDER_H

#include "src/doctor/finding.h"

extern void tegro_check_provider(TegroDoctor *doctor);

#endif /* TEGRO_PROVIDER_H */
