/*-------------------------------------------------------------------------
 *
 * payer.c
 *		Which roles may pay out.
 *
 * A payout needs EXECUTE on tegro_create_withdrawal(jsonb), whichever function
 * or trigger requests it.  The right is checked twice: when the payout is
 * enqueued, and in the transaction that claims it for sending, which can be
 * months later.  So a payout of a role that has been dropped, or has lost the
 * right, stays where it is.
 *
 * The second check reads the system caches in the claiming transaction.  A
 * REVOKE or DROP ROLE that has committed before the claim began is seen; one
 * that commits between the claim and the send is not, and no check can see it.
 *
 * PostgreSQL gives a dropped role's number to a new role only after 4 billion
 * others.  A dropped role must not pass because PUBLIC has the right, so its
 * existence is asked for first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "src/base/compat.h"
#include "src/outbox/payer.h"

bool
tegro_payer_may(const TegroStore *store, Oid role, char **why)
{
	Oid argument_types[1] = {JSONBOID};
	char *name = GetUserNameFromId(role, true);
	Oid function;

	if (name == NULL)
	{
		*why = psprintf("the role that enqueued it, number %u, does not exist",
						role);
		return false;
	}
	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum("tegro_create_withdrawal"),
							   PointerGetDatum(
								   buildoidvector(argument_types, 1)),
							   ObjectIdGetDatum(store->namespace));
	if (!OidIsValid(function) || !tegro_may_execute(function, role))
	{
		*why =
			psprintf("role \"%s\" does not have EXECUTE on tegro_create_withdrawal(jsonb)",
					 name);
		return false;
	}
	return true;
}

void
tegro_payer_require(const TegroStore *store, Oid role)
{
	char *why;

	if (tegro_payer_may(store, role, &why))
		return;
	why[0] = (char) pg_toupper((unsigned char) why[0]);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to pay out"),
			 errdetail("%s.", why),
			 errhint("Every payout needs this right, whichever function or trigger requests it.")));
}
