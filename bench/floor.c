/*-------------------------------------------------------------------------
 *
 * floor.c
 *		What calls one after another cost with bare libcurl: its easy
 *		interface, one handle, one connection that is kept alive.
 *
 *-------------------------------------------------------------------------
 */
#include "floor.h"

void
floor_open(struct floor *floor, const struct target *target)
{
	floor->target = target;
	request_prepare(&floor->request, target);
}

double
floor_run(struct floor *floor, long calls)
{
	struct request *request = &floor->request;
	int64_t start_us = now_us();

	for (long i = 0; i < calls; i++)
	{
		request_renew(request, floor->target);
		request_check(request, floor->target,
					  curl_easy_perform(request->easy));
	}
	return (double) (now_us() - start_us) / 1e6;
}

void
floor_close(struct floor *floor)
{
	curl_easy_cleanup(floor->request.easy);
}
