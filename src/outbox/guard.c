/*-------------------------------------------------------------------------
 *
 * guard.c
 *		Only the extension's own code runs when its tables change.
 *
 * The statements on the tables run as the extension's owner, a superuser, in
 * every backend that enqueues and in the workers.  A trigger on one of these
 * tables runs in the middle of them, with the same rights, whoever created it:
 * TRIGGER on a table is a right that GRANT ALL gives, and REFERENCES gives the
 * same by a foreign key with ON DELETE CASCADE, whose delete fires a trigger of
 * the other table.  Such a trigger, and rules and policies as well, can also
 * keep a claim off the record.  So while a table has anything of that kind that
 * is not the extension's own, no statement changes any of the tables.
 *
 * What is the extension's own is a list in this file, not in the catalog: a
 * policy that was altered has the same name, the same table and the same
 * dependencies as before.  A policy is compared as an expression tree: its text
 * is parsed and analyzed here just as CREATE POLICY did.  (Text from
 * pg_get_expr() depends on the search_path and on PostgreSQL's version.)  The
 * extension has no rules, foreign keys or child tables.  It has a trigger on
 * each table whose rows say what was sent: after a TRUNCATE, rows that are
 * loaded from an older dump must not be taken for this outbox's (origin.c).  So
 * no statement passes either while that trigger is missing or not enabled, as
 * after pg_restore --disable-triggers.
 *
 * When.  CREATE TRIGGER and ALTER TABLE ... ADD FOREIGN KEY need a lock on the
 * table that conflicts with that of a writer, CREATE RULE and CREATE POLICY an
 * exclusive one.  So the check follows the lock of the statement, in its
 * transaction, and holds until the transaction ends.  The same transaction can
 * still create a trigger; so each statement checks.
 *
 * Cost.  All comes from the relation cache, and the result is kept until a
 * relation is invalidated, as every command above does to the table.
 *
 * A table that a statement does not change is checked, too, but not waited for:
 * where somebody has it locked exclusively, the check leaves it out.  It is
 * checked again at the next statement, and waited for by one that changes it.
 *
 * Not guarded against: what only the owner of the tables can do and does not run
 * as anybody else, such as check constraints and defaults.  Row security that is
 * off on a table shows rows to roles with SELECT, and changes no statement here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "commands/policy.h"
#include "commands/trigger.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rowsecurity.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "src/base/error.h"
#include "src/outbox/guard.h"

/* How often an error is logged that keeps a worker waiting. */
#define LOG_INTERVAL_MS (60 * 1000)

/* The tables, and the policy that each has: FOR SELECT TO PUBLIC, permissive. */
static const struct
{
	const char *name;
	const char *policy; /* NULL: none */
	const char *using;	/* "%1$s" stands for the schema; all names qualified */
	const char *trigger; /* AFTER TRUNCATE FOR EACH STATEMENT; NULL: none */
	bool loses_rows;	 /* its rows are deleted: see only_checks() */
} tables[] = {
#define IS_OWN(role, name)                                       \
	"pg_catalog.pg_has_role(" role ", 'MEMBER')"                 \
	" AND pg_catalog.pg_get_userbyid(" role ")::pg_catalog.text" \
	" OPERATOR(pg_catalog.=) " name
	{"tegro_outbox", "tegro_outbox_own",
	 IS_OWN("enqueued_by", "enqueued_by_name"), "tegro_outbox_truncated"},
	{"tegro_event", "tegro_event_own",
	 "EXISTS (SELECT FROM %1$s.tegro_outbox o"
	 " WHERE o.id OPERATOR(pg_catalog.=) outbox_id)",
	 "tegro_event_truncated"},
	{"tegro_origin", NULL, NULL, NULL},
	{"tegro_key", NULL, NULL, NULL},
	{"tegro_notification", "tegro_notification_own",
	 IS_OWN("role", "role_name"), NULL},
	{"tegro_payment_callback", "tegro_payment_callback_own",
	 IS_OWN("role", "role_name"), NULL, true},
};

/* The function of the triggers. */
#define TRIGGER_FUNCTION "tegro_new_origin"

/* Of the tables in "known_schema"; InvalidOid where there is none. */
static Oid known[lengthof(tables)];
static Oid known_schema = InvalidOid;

/* Were all of them found in order, and none was invalidated since? */
static bool in_order = false;

static uint64 ninvalidations = 0;

int
tegro_guard_changed_tables(const char *sql)
{
	int changed = 0;

	/* a query that changes anything in a WITH clause begins with it */
	if (strncmp(sql, "SELECT ", 7) == 0 && strstr(sql, " FOR UPDATE") == NULL)
		return 0;
	for (int i = 0; i < lengthof(tables); i++)
	{
		char name[NAMEDATALEN];

		snprintf(name, sizeof(name), "%%1$s.%s", tables[i].name);
		if (strstr(sql, name))
			changed |= 1 << i;
	}
	Assert(changed != 0);
	return changed;
}

static void
on_invalidation(Datum arg, Oid relation)
{
	bool ours = !OidIsValid(relation);

	for (int i = 0; i < lengthof(tables); i++)
		ours |= known[i] == relation;
	if (ours)
	{
		in_order = false;
		ninvalidations++;
	}
}

/*
 * Reports what is wrong.  "what" is the message; "command" removes the cause.
 */
static _Noreturn void
refuse(const char *what, const char *command)
{
	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg_internal("%s", tegro_error_for_client(what)),
			 errdetail("Until that is corrected, nothing is recorded, sent, looked up or called back.  It can run another role's code with the rights of the extension's owner, or change what is recorded."),
			 errhint("Run as the owner of the table: %s", tegro_error_for_client(command))));
}

/* A table's name, quoted where necessary, with its schema. */
static char *
quoted_table(const char *schema, const char *name)
{
	return psprintf("%s.%s", tegro_error_identifier(schema),
					tegro_error_identifier(name));
}

static char *
quoted_relation(Relation rel)
{
	return quoted_table(get_namespace_name(RelationGetNamespace(rel)),
						RelationGetRelationName(rel));
}

/* Refuses a trigger, a rule or a policy of a table, or a foreign key to it. */
static _Noreturn void
refuse_object(Relation rel, Oid catalog, Oid oid)
{
	ObjectAddress address = {catalog, oid, 0};
	List *names = NIL;
	List *arguments = NIL;
	const char *name;
	const char *table;
	const char *kind = "policy";
	const char *drop = "DROP POLICY";

	(void) getObjectIdentityParts(&address, &names, &arguments, false);
	/* schema, table, name, for each of these kinds */
	Assert(list_length(names) == 3);
	name = lthird(names);
	table = quoted_table(linitial(names), lsecond(names));
	if (catalog == ConstraintRelationId)
		refuse(psprintf("foreign key \"%s\" of table %s acts on changes of table \"%s\"",
						name, table, RelationGetRelationName(rel)),
			   psprintf("ALTER TABLE %s DROP CONSTRAINT %s;", table,
						tegro_error_identifier(name)));
	if (catalog == TriggerRelationId)
	{
		kind = "trigger";
		drop = "DROP TRIGGER";
	}
	else if (catalog == RewriteRelationId)
	{
		kind = "rule";
		drop = "DROP RULE";
	}
	refuse(psprintf("%s \"%s\" on table \"%s\" is not the extension's own",
					kind, name, RelationGetRelationName(rel)),
		   psprintf("%s %s ON %s;", drop, tegro_error_identifier(name),
					table));
}

/*
 * A foreign key of another table that only checks, by NO ACTION or RESTRICT, does
 * nothing when rows are updated, since their keys never change.  Where rows are
 * deleted it does not only check: the query that PostgreSQL runs then is planned
 * and run as the other table's owner, who can have his functions in it, by an
 * index on that table, say.  What they leave behind, a deferred trigger, runs at
 * our commit with our rights.
 */
static bool
only_checks(Relation rel, const Trigger *trigger)
{
	HeapTuple tuple;
	Form_pg_constraint constraint;
	bool checks;

	if (!trigger->tgisinternal)
		return false;
	tuple = SearchSysCache1(CONSTROID,
							ObjectIdGetDatum(trigger->tgconstraint));
	if (!HeapTupleIsValid(tuple))
		return false;
	constraint = (Form_pg_constraint) GETSTRUCT(tuple);
	checks = constraint->contype == CONSTRAINT_FOREIGN &&
		constraint->confrelid == RelationGetRelid(rel) &&
		(constraint->confdeltype == FKCONSTR_ACTION_NOACTION ||
		 constraint->confdeltype == FKCONSTR_ACTION_RESTRICT) &&
		(constraint->confupdtype == FKCONSTR_ACTION_NOACTION ||
		 constraint->confupdtype == FKCONSTR_ACTION_RESTRICT);
	ReleaseSysCache(tuple);
	return checks;
}

/* Is this the extension's own trigger, enabled or not? */
static bool
is_own_trigger(Relation rel, const Trigger *trigger, const char *name)
{
	return name && strcmp(trigger->tgname, name) == 0 &&
		!trigger->tgisinternal && !trigger->tgisclone &&
		TRIGGER_FOR_TRUNCATE(trigger->tgtype) &&
		TRIGGER_FOR_AFTER(trigger->tgtype) &&
		!TRIGGER_FOR_ROW(trigger->tgtype) && trigger->tgqual == NULL &&
		trigger->tgnargs == 0 &&
		get_func_namespace(trigger->tgfoid) == RelationGetNamespace(rel) &&
		strcmp(get_func_name(trigger->tgfoid), TRIGGER_FUNCTION) == 0;
}

/* Refuses while the extension's own trigger is missing or not enabled. */
static _Noreturn void
refuse_without_trigger(Relation rel, const char *name, bool found)
{
	const char *table = quoted_relation(rel);
	const char *schema = get_namespace_name(RelationGetNamespace(rel));
	const char *create = found
		? ""
		: psprintf("CREATE TRIGGER %s AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s(); ",
				   name, table, quoted_table(schema, TRIGGER_FUNCTION));

	ereport(ERROR,
			(errcode(TEGRO_ERRCODE_MISCONFIGURED),
			 errmsg("trigger \"%s\" on table \"%s\" is %s", name,
					RelationGetRelationName(rel),
					found ? "not enabled" : "missing"),
			 errdetail("Until that is corrected, nothing is recorded, sent, looked up or called back.  Without it, requests that are loaded after a TRUNCATE could be sent again."),
			 errhint("Run as the owner of the table: %sALTER TABLE %s ENABLE ALWAYS TRIGGER %s;",
					 tegro_error_for_client(create),
					 tegro_error_for_client(table), name)));
}

static void
check_triggers(Relation rel, const char *own, bool loses_rows)
{
	const TriggerDesc *desc = rel->trigdesc;
	bool enabled = own == NULL;
	bool found = false;

	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		const Trigger *trigger = &desc->triggers[i];

		if (is_own_trigger(rel, trigger, own))
		{
			found = true;
			enabled = trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
			continue;
		}
		if (!loses_rows && only_checks(rel, trigger))
			continue;
		if (trigger->tgisinternal && OidIsValid(trigger->tgconstraint))
			refuse_object(rel, ConstraintRelationId, trigger->tgconstraint);
		refuse_object(rel, TriggerRelationId, trigger->tgoid);
	}
	if (!enabled)
		refuse_without_trigger(rel, own, found);
}

static void
check_rules(Relation rel)
{
	if (rel->rd_rules && rel->rd_rules->numLocks > 0)
		refuse_object(rel, RewriteRelationId, rel->rd_rules->rules[0]->ruleId);
}

/* The expression of a policy, as CREATE POLICY makes it of its text. */
static Node *
analyze_using(Relation rel, const char *using)
{
	List *raw = raw_parser(psprintf("SELECT %s", using), RAW_PARSE_DEFAULT);
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, raw)->stmt;
	ParseState *state = make_parsestate(NULL);
	ParseNamespaceItem *item = addRangeTableEntryForRelation(state, rel,
															 AccessShareLock,
															 NULL, false,
															 false);
	Node *expression;

	addNSItemToQuery(state, item, false, true, true);
	expression =
		transformWhereClause(state,
							 linitial_node(ResTarget, select->targetList)->val,
							 EXPR_KIND_POLICY, "POLICY");
	assign_expr_collations(state, expression);
	free_parsestate(state);
	return expression;
}

/*
 * Takes out of an expression what is not part of its meaning: the names that
 * the columns of a table had when a query was analyzed.
 */
static bool
forget_column_names(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		((RangeTblEntry *) node)->eref = NULL;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, forget_column_names, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, forget_column_names, context);
}

/* Is this the expression of a policy? */
static bool
is_same(Relation rel, const Expr *qual, const char *using)
{
	Node *theirs = copyObjectImpl(qual);
	Node *own = analyze_using(rel, using);

	(void) forget_column_names(theirs, NULL);
	(void) forget_column_names(own, NULL);
	return equal(theirs, own);
}

static bool
is_for_public(const RowSecurityPolicy *policy)
{
	return ARR_DIMS(policy->roles)[0] == 1 &&
		((Oid *) ARR_DATA_PTR(policy->roles))[0] == ACL_ID_PUBLIC;
}

static void
check_policies(Relation rel, int which)
{
	const char *name = tables[which].policy;
	const char *schema = get_namespace_name(RelationGetNamespace(rel));
	ListCell *cell;

	/* the owner is subject to policies only where row security is forced */
	if (rel->rd_rel->relforcerowsecurity)
		refuse(psprintf("row security of table \"%s\" applies to its owner",
						RelationGetRelationName(rel)),
			   psprintf("ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;",
						quoted_relation(rel)));
	if (rel->rd_rsdesc == NULL)
		return;
	foreach(cell, rel->rd_rsdesc->policies)
	{
		const RowSecurityPolicy *policy = lfirst(cell);
		char *using;

		if (name == NULL || strcmp(policy->policy_name, name) != 0)
			refuse_object(rel, PolicyRelationId,
						  get_relation_policy_oid(RelationGetRelid(rel),
												  policy->policy_name, false));
		using = psprintf(tables[which].using, quote_identifier(schema));
		if (policy->polcmd != ACL_SELECT_CHR || !policy->permissive ||
			!is_for_public(policy) || policy->with_check_qual ||
			!is_same(rel, policy->qual, using))
			refuse(psprintf("policy \"%s\" on table \"%s\" was altered", name,
							RelationGetRelationName(rel)),
				   psprintf("DROP POLICY %s ON %s; CREATE POLICY %s ON %s FOR SELECT USING (%s);",
							name, quoted_relation(rel), name,
							quoted_relation(rel),
							psprintf(tables[which].using,
									 tegro_error_identifier(schema))));
	}
}

static void
check_children(Relation rel)
{
	List *children;
	Oid child;

	/* the flag outlives the last child */
	if (!rel->rd_rel->relhassubclass)
		return;
	children = find_inheritance_children(RelationGetRelid(rel), NoLock);
	if (children == NIL)
		return;
	child = linitial_oid(children);
	refuse(psprintf("table \"%s\" has child table \"%s\"",
					RelationGetRelationName(rel), get_rel_name(child)),
		   psprintf("ALTER TABLE %s NO INHERIT %s;",
					quoted_table(get_namespace_name(get_rel_namespace(child)),
								 get_rel_name(child)),
					quoted_relation(rel)));
}

static void
check_table(int which)
{
	Relation rel = try_table_open(known[which], NoLock);

	if (rel == NULL)
		return;
	check_triggers(rel, tables[which].trigger, tables[which].loses_rows);
	check_rules(rel);
	check_policies(rel, which);
	check_children(rel);
	table_close(rel, NoLock);
}

/* Finds the tables by name; they may have been dropped and created anew. */
static void
find_tables(Oid schema)
{
	for (int i = 0; i < lengthof(tables); i++)
		known[i] = get_relname_relid(tables[i].name, schema);
	known_schema = schema;
}

/* Locks changed tables as a writer of rows does. */
static void
lock_tables(int changed)
{
	for (int i = 0; i < lengthof(tables); i++)
	{
		if ((changed & (1 << i)) != 0 && OidIsValid(known[i]))
			LockRelationOid(known[i], RowExclusiveLock);
	}
}

/* Checks all tables; those that are not locked yet only where that is free. */
static void
check_tables(int changed)
{
	uint64 before = ninvalidations;
	bool all = true;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "tegro guard",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < lengthof(tables); i++)
	{
		bool is_changed = (changed & (1 << i)) != 0;

		if (!OidIsValid(known[i]))
			continue;
		if (!is_changed &&
			!ConditionalLockRelationOid(known[i], AccessShareLock))
		{
			all = false;
			continue;
		}
		check_table(i);
		if (!is_changed)
			UnlockRelationOid(known[i], AccessShareLock);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	in_order = all && ninvalidations == before;
}

void
tegro_guard(Oid schema, int changed)
{
	static bool registered = false;
	uint64 before;

	Assert(changed != 0);
	if (!registered)
	{
		CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
		registered = true;
	}
	if (known_schema != schema)
	{
		in_order = false;
		find_tables(schema);
	}

	/*
	 * A lock takes in what others have committed about the table, even that it is
	 * another one by now: then the names are looked up again, and locked.
	 */
	do
	{
		before = ninvalidations;
		if (!in_order)
			find_tables(schema);
		lock_tables(changed);
	} while (ninvalidations != before);
	if (!in_order)
		check_tables(changed);
}

uint64
tegro_guard_changes(void)
{
	return ninvalidations;
}

bool
tegro_guard_stopped(const ErrorData *error)
{
	return error->sqlerrcode == TEGRO_ERRCODE_MISCONFIGURED ||
		error->sqlerrcode == ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION;
}

void
tegro_guard_log(const ErrorData *error, const char *doing)
{
	static TimestampTz logged_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	/* a clock that was set back does not silence it */
	if (logged_at != 0 && now >= logged_at &&
		!TimestampDifferenceExceeds(logged_at, now, LOG_INTERVAL_MS))
		return;
	logged_at = now;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("%s of the tegro outbox waits: %s", doing, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}
