/*-------------------------------------------------------------------------
 *
 * guard.h
 *		Only the extension's own code runs when its tables change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_GUARD_H
#define TEGRO_GUARD_H

#include "utils/elog.h"

/*
 * Returns the tables that a statement changes, or whose rows it locks, as a bit
 * mask for tegro_guard().  "sql" is the statement as statement.c has it, with
 * "%1$s" for the schema.  Returns 0 for a statement that only reads.  A
 * statement that changes one table and reads another counts as changing both.
 */
extern int tegro_guard_changed_tables(const char *sql);

/*
 * To be called before a statement that changes tables, in its transaction, as
 * the extension's owner.  Locks these tables against new triggers, rules,
 * policies and foreign keys until the transaction ends.  Then throws TG006 if
 * any table of the extension, changed or not, has a trigger, rule, policy,
 * child table or foreign key through which code of another role could run, or
 * lacks a trigger of the extension.
 *
 * "changed" is of tegro_guard_changed_tables() and not 0.  "schema" is the
 * extension's.  Usually costs one lock for each table, which the statement
 * takes in any case, and no look into a catalog.
 */
extern void tegro_guard(Oid schema, int changed);

/*
 * Counts the changes to the tables' definitions that this process has heard of;
 * TRUNCATE is one.  Whoever remembers what belongs to the tables compares it
 * after tegro_guard(), whose lock keeps further changes away.
 */
extern uint64 tegro_guard_changes(void);

/*
 * Is this error tegro_guard()'s, or that of a statement whose rows a trigger
 * kept off the record?  Such an error lasts until a person drops the trigger:
 * a worker waits for that, with TEGRO_GUARD_PAUSE_MS between its attempts.
 */
extern bool tegro_guard_stopped(const ErrorData *error);

/* Milliseconds between the attempts of a worker that the guard has stopped. */
#define TEGRO_GUARD_PAUSE_MS 500

/*
 * Writes such an error of a worker to the log, once a minute at most.  "doing"
 * is what waits, as the subject of a sentence: "delivery".
 */
extern void tegro_guard_log(const ErrorData *error, const char *doing);

#endif /* TEGRO_GUARD_H */
