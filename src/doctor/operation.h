/*-------------------------------------------------------------------------
 *
 * operation.h
 *		Is the outbox delivered, and what holds it up?
 *
 * Checks of the doctor; what a check may do is in finding.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_OPERATION_H
#define TEGRO_OPERATION_H

#include "src/doctor/finding.h"

extern void tegro_check_delivery(TegroDoctor *doctor);
extern void tegro_check_origin(TegroDoctor *doctor);
extern void tegro_check_backlog(TegroDoctor *doctor);
extern void tegro_check_worker_slots(TegroDoctor *doctor);
extern void tegro_check_review(TegroDoctor *doctor);
extern void tegro_check_callbacks(TegroDoctor *doctor);
extern void tegro_check_failing(TegroDoctor *doctor);
extern void tegro_check_notifications(TegroDoctor *doctor);
extern void tegro_check_payment_callback(TegroDoctor *doctor);
extern void tegro_check_size(TegroDoctor *doctor);
extern void tegro_check_snapshots(TegroDoctor *doctor);

#endif /* TEGRO_OPERATION_H */
