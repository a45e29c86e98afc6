/*-------------------------------------------------------------------------
 *
 * statement.c
 *		The SQL statements on the outbox's tables.
 *
 * All SQL that touches tegro_outbox, tegro_event, tegro_origin, tegro_key,
 * tegro_notification and tegro_payment_callback is here.  store.c runs it with
 * a search_path of pg_catalog alone; "%1$s" stands for the extension's schema.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "src/outbox/statement.h"

#define ITEM_COLUMNS                                                               \
	"id, shop_id, method, reference, params, state, claim_no, attempts, failures," \
	" absent, unknown_since, enqueued_by, origin, answer, callback,"               \
	" message, next_at, events"

/* For those who change a row that they did not claim. */
#define CHANGED_COLUMNS     \
	ITEM_COLUMNS            \
	", sqlstate, decision," \
	" (answer #>> '{data,url}') IS NULL AND stripped_at IS NULL, aside IS NOT NULL"

/* Has a row the number of this outbox in its origin? */
#define HAS_THIS_NUMBER \
	"split_part(origin, '/', 5) = (SELECT number FROM %1$s.tegro_origin)"

/*
 * Is a role a member of the one that a row belongs to?  In rows of another
 * origin, oids may be those of other roles by now; there the name counts, too.
 */
#define ENQUEUER_IS_SAME \
	"(pg_get_userbyid(enqueued_by) = enqueued_by_name OR " HAS_THIS_NUMBER ")"
#define ROLE_IS_SAME \
	"(pg_get_userbyid(role) = role_name OR " HAS_THIS_NUMBER ")"
#define CALLER_IS_MEMBER \
	"(pg_has_role($2, enqueued_by, 'MEMBER') AND " ENQUEUER_IS_SAME ")"
#define ROLE_IS_MEMBER \
	"(pg_has_role($5, enqueued_by, 'MEMBER') AND " ENQUEUER_IS_SAME ")"
#define USER_IS_MEMBER \
	"(pg_has_role($6, enqueued_by, 'MEMBER') AND " ENQUEUER_IS_SAME ")"
#define CALLER_IS_MEMBER_OF_ROLE \
	"(pg_has_role($2, role, 'MEMBER') AND " ROLE_IS_SAME ")"

/*
 * The role that a row of another origin belongs to in this database: the one of
 * that name; 0 if there is none.
 */
#define OID_OF_ENQUEUER \
	"coalesce((SELECT r.oid FROM pg_authid AS r WHERE r.rolname = enqueued_by_name), 0)"
#define OID_OF_ROLE \
	"coalesce((SELECT r.oid FROM pg_authid AS r WHERE r.rolname = role_name), 0)"

/*
 * Shops and roles that rest are passed over; see pause.c for the names.  There
 * are hardly ever any.
 */
#define DOES_NOT_REST(role, shop, names)                                 \
	"(cardinality(" names ") = 0 OR (" role "::oid::text <> ALL (" names \
	") AND " role "::oid::text || ' ' || " shop " <> ALL (" names ")))"

/* Rows that could not be claimed are left out, by number; see aside.c. */
#define IS_NOT_ASIDE(id, ids) \
	"(cardinality(" ids ") = 0 OR " id " <> ALL (" ids "))"

/* "$1" is now */
#define IS_DUE      \
	"next_at <= $1" \
	" AND (claimed_until IS NULL OR claimed_until <= $1)"

/*
 * What is due: $1 is now; $2 when what is looked at is due at the earliest; $3
 * and $5 what is passed over; $4 how many; $6 shops, by tegro.rate_limit.
 */
#define DUE(columns, which, direction)                            \
	"SELECT " columns " FROM %1$s.tegro_outbox"                   \
	" WHERE " IS_DUE " AND next_at >= $2"                         \
	" AND (cardinality($3) = 0 OR (enqueued_by::text <> ALL ($3)" \
	" AND enqueued_by::text || ' ' || shop_id <> ALL ($3)))"      \
	" AND (cardinality($5) = 0 OR id <> ALL ($5))" which          \
	" ORDER BY next_at" direction " LIMIT $4"
#define LOCKED " FOR UPDATE SKIP LOCKED"
#define DUE_ARGS                                                             \
	6,                                                                       \
	{                                                                        \
		TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTARRAYOID, INT4OID, INT8ARRAYOID, \
			TEXTARRAYOID                                                     \
	}

/* Only what is to be sent takes a token; see pace.c. */
#define HAS_TOKENS \
	" AND (cardinality($6) = 0 OR state <> 'ready' OR shop_id <> ALL ($6))"
#define IS_OF_SHOP " AND state = 'ready' AND shop_id = ANY ($6)"
/* as tegro_outbox_payout_due has it */
#define IS_PAYOUT " AND method = 'createWithdrawal'"

#define NOTIFICATION_COLUMNS                                                  \
	"n.id, n.shop_id, n.order_id, n.fields, n.state, n.claim_no, n.failures," \
	" n.waiting_since, n.role, n.answer, n.callback, n.message, n.origin"

/* The notification of an order and status that the others are variants of. */
#define FIRST_NOTIFICATION \
	"shop_id = $1 AND order_id = $2 AND status = $3 AND test = $4 AND variant = ''"

/*
 * One that came to nothing is looked up again where it comes again, at most
 * once in a minute: the order may have been paid since.
 */
#define CAME_TO_NOTHING                                                       \
	"state IN ('unpaid', 'review') AND NOT confirmed AND next_at IS NULL"     \
	" AND coalesce(looked_up_at, received_at) < clock_timestamp() - interval" \
	" '1 minute'"

/*
 * All columns of tegro_outbox, in its order: so the rows go to the table as
 * they are.  A list of values, with defaults for the rest, took a fifth of the
 * time that it takes to enqueue.
 */
static const TegroGivenColumn given_request[] =
	{[TEGRO_COLUMN_ID] = {"id", INT8OID},
	 [TEGRO_COLUMN_SHOP_ID] = {"shop_id", TEXTOID},
	 [TEGRO_COLUMN_METHOD] = {"method", TEXTOID},
	 [TEGRO_COLUMN_REFERENCE] = {"reference", TEXTOID},
	 [TEGRO_COLUMN_PARAMS] = {"params", JSONBOID},
	 [TEGRO_COLUMN_PARAMS_HASH] = {"params_hash", BYTEAOID},
	 [TEGRO_COLUMN_AMOUNT] = {"amount", NUMERICOID},
	 [TEGRO_COLUMN_CURRENCY] = {"currency", TEXTOID},
	 [TEGRO_COLUMN_STATE] = {"state", TEXTOID},
	 [TEGRO_COLUMN_NEXT_AT] = {"next_at", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_DELIVER_AFTER] = {"deliver_after", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_CLAIM_NO] = {"claim_no", INT8OID},
	 [TEGRO_COLUMN_SENT_CLAIM_NO] = {"sent_claim_no", INT8OID},
	 [TEGRO_COLUMN_CLAIMED_UNTIL] = {"claimed_until", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_ATTEMPTS] = {"attempts", INT4OID},
	 [TEGRO_COLUMN_FAILURES] = {"failures", INT4OID},
	 [TEGRO_COLUMN_ABSENT] = {"absent", INT4OID},
	 [TEGRO_COLUMN_UNKNOWN_SINCE] = {"unknown_since", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_ENQUEUED_BY] = {"enqueued_by", OIDOID},
	 [TEGRO_COLUMN_ENQUEUED_BY_NAME] = {"enqueued_by_name", TEXTOID},
	 [TEGRO_COLUMN_ENQUEUED_AT] = {"enqueued_at", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_FINISHED_AT] = {"finished_at", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_STRIPPED_AT] = {"stripped_at", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_ORIGIN] = {"origin", TEXTOID},
	 [TEGRO_COLUMN_ASIDE] = {"aside", TEXTOID},
	 [TEGRO_COLUMN_ANSWER] = {"answer", JSONBOID},
	 [TEGRO_COLUMN_SQLSTATE] = {"sqlstate", TEXTOID},
	 [TEGRO_COLUMN_MESSAGE] = {"message", TEXTOID},
	 [TEGRO_COLUMN_CALLBACK] = {"callback", TEXTOID},
	 [TEGRO_COLUMN_CALLBACK_STATE] = {"callback_state", TEXTOID},
	 [TEGRO_COLUMN_CALLBACK_MESSAGE] = {"callback_message", TEXTOID},
	 [TEGRO_COLUMN_CALLBACK_AT] = {"callback_at", TIMESTAMPTZOID},
	 [TEGRO_COLUMN_DECISION] = {"decision", TEXTOID},
	 [TEGRO_COLUMN_EVENTS] = {"events", INT4OID},
	 [TEGRO_N_COLUMNS] = {NULL}};
static const TegroGivenColumn given_sends[] = {{"id", INT8OID},
											   {"event_no", INT4OID},
											   {"claim_no", INT8OID},
											   {"nonce", INT8OID},
											   {"body", BYTEAOID},
											   {NULL}};
static const TegroGivenColumn given_changes[] = {{"n", INT4OID},
												 {"id", INT8OID},
												 {"claim_no", INT8OID},
												 {"was", TEXTOID},
												 {"state", TEXTOID},
												 {"next_at", TIMESTAMPTZOID},
												 {"answer", JSONBOID},
												 {"sqlstate", TEXTOID},
												 {"message", TEXTOID},
												 {"failures", INT4OID},
												 {"absent", INT4OID},
												 {"unknown_since",
												  TIMESTAMPTZOID},
												 {"origin", TEXTOID},
												 {"decision", TEXTOID},
												 {"unsent", INT4OID},
												 {"fence", INT4OID},
												 {"events", INT4OID},
												 {"finished", BOOLOID},
												 {"to_call", BOOLOID},
												 {"call_again", BOOLOID},
												 {NULL}};
static const TegroGivenColumn given_events[] = {{"id", INT8OID},
												{"event_no", INT4OID},
												{"event", TEXTOID},
												{"claim_no", INT8OID},
												{"role_name", TEXTOID},
												{"state", TEXTOID},
												{"message", TEXTOID},
												{NULL}};
static const TegroGivenColumn given_ends[] =
	{{"id", INT8OID},	   {"event_no", INT4OID}, {"claim_no", INT8OID},
	 {"state", TEXTOID},   {"outcome", TEXTOID},  {"http_status", INT4OID},
	 {"message", TEXTOID}, {"raw", BYTEAOID},	  {NULL}};
static const TegroGivenColumn given_stripped[] = {{"id", INT8OID},
												  {"params_hash", BYTEAOID},
												  {"amount", NUMERICOID},
												  {"currency", TEXTOID},
												  {"note", TEXTOID},
												  {NULL}};

const TegroStatementText tegro_statements[TEGRO_N_STATEMENTS] = {
	[TEGRO_STMT_INSERT] =
		{"INSERT INTO %1$s.tegro_outbox OVERRIDING SYSTEM VALUE SELECT * FROM given"
		 " ON CONFLICT (shop_id, method, reference) DO NOTHING",
		 .given = given_request},
	[TEGRO_STMT_FIND_REFERENCE] =
		/* $5 is the role for whom, $6 the one that is told */
	{"SELECT id, state, callback, " ROLE_IS_MEMBER "," USER_IS_MEMBER ","
	 /* the first parameter that differs; null if none does */
	 " CASE WHEN params <> $4 THEN (SELECT key"
	 " FROM jsonb_each(params) AS a (key, value) FULL JOIN jsonb_each($4) AS b (key, value) USING (key)"
	 " WHERE a.value IS DISTINCT FROM b.value ORDER BY key COLLATE \"C\" LIMIT 1) END,"
	 " claim_no, stripped_at::timestamp(0)::text, params_hash,"
	 /* for a correction */
	 " CASE WHEN state = 'refused' THEN params END"
	 " FROM %1$s.tegro_outbox"
	 " WHERE shop_id = $1 AND method = $2 AND reference = $3",
	 6,
	 {TEXTOID, TEXTOID, TEXTOID, JSONBOID, OIDOID, OIDOID}},
	/*
	 * Other parameters for a refused request, whose state is changed by
	 * TEGRO_STMT_CHANGE next.  See correct() in enqueue.c.  unknown_since,
	 * sent_claim_no and the origin stay.
	 */
	[TEGRO_STMT_CORRECT] =
		{"UPDATE %1$s.tegro_outbox SET params = $2, params_hash = NULL, amount = NULL, currency = NULL,"
		 " stripped_at = NULL, enqueued_by = $3, enqueued_by_name = $5, answer = NULL, deliver_after = $6,"
		 " callback = $4, callback_state = CASE WHEN $4 IS NOT NULL THEN 'waiting' END, callback_message = NULL"
		 " WHERE id = $1",
		 6,
		 {INT8OID, JSONBOID, OIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}},
	[TEGRO_STMT_DUE] = {DUE(ITEM_COLUMNS, HAS_TOKENS, "") LOCKED, DUE_ARGS},
	[TEGRO_STMT_DUE_IDS] = {DUE("id", HAS_TOKENS, ""), DUE_ARGS},
	[TEGRO_STMT_PAYOUTS_DUE] = {DUE(ITEM_COLUMNS, HAS_TOKENS IS_PAYOUT, "")
									LOCKED,
								DUE_ARGS},
	[TEGRO_STMT_PAYOUTS_DUE_IDS] = {DUE("id", HAS_TOKENS IS_PAYOUT, ""),
									DUE_ARGS},
	[TEGRO_STMT_NEWEST_DUE] = {DUE(ITEM_COLUMNS, HAS_TOKENS, " DESC") LOCKED,
							   DUE_ARGS},
	[TEGRO_STMT_NEWEST_DUE_IDS] = {DUE("id", HAS_TOKENS, " DESC"), DUE_ARGS},
	[TEGRO_STMT_SHOPS_DUE] = {DUE(ITEM_COLUMNS, IS_OF_SHOP, "") LOCKED,
							  DUE_ARGS},
	[TEGRO_STMT_SHOPS_DUE_IDS] = {DUE("id", IS_OF_SHOP, ""), DUE_ARGS},
	[TEGRO_STMT_DUE_ONE] =
		{"SELECT " ITEM_COLUMNS " FROM %1$s.tegro_outbox"
		 " WHERE id = $3 AND " IS_DUE
		 " AND " DOES_NOT_REST("enqueued_by", "shop_id",
							   "$2") " FOR UPDATE SKIP LOCKED",
		 3,
		 {TIMESTAMPTZOID, TEXTARRAYOID, INT8OID}},
	[TEGRO_STMT_ONE] = {"SELECT " ITEM_COLUMNS
						" FROM %1$s.tegro_outbox WHERE id = $1 FOR UPDATE",
						1,
						{INT8OID}},
	[TEGRO_STMT_NEXT_AT] =
		/* what is taken is due again when its claim_no ends */
	{"SELECT least((SELECT min(claimed_until) FROM %1$s.tegro_outbox"
	 " WHERE next_at <= $1 AND next_at >= $2 AND claimed_until > $1),"
	 " (SELECT next_at FROM %1$s.tegro_outbox WHERE next_at > $1 ORDER BY next_at LIMIT 1)),"
	 /* so that who delivers need not ask for notifications where none waits */
	 " (SELECT next_at FROM %1$s.tegro_notification WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1)",
	 2,
	 {TIMESTAMPTZOID, TIMESTAMPTZOID}},
	[TEGRO_STMT_DUE_COUNT] =
		{"SELECT count(*) FROM (SELECT FROM %1$s.tegro_outbox WHERE next_at <= $1"
		 " AND (claimed_until IS NULL OR claimed_until <= $1) LIMIT $2) AS due",
		 2,
		 {TIMESTAMPTZOID, INT8OID}},
	/*
	 * A row of an older dump, or one whose number was given out before, does not
	 * know of the events that are on record under its number.
	 */
	[TEGRO_STMT_PASS_EVENTS] =
		{"UPDATE %1$s.tegro_outbox AS o SET claim_no = greatest(o.claim_no, e.claim_no), events = e.event_no"
		 " FROM (SELECT outbox_id, max(event_no) AS event_no, max(claim_no) AS claim_no"
		 " FROM %1$s.tegro_event WHERE outbox_id = ANY ($1) GROUP BY outbox_id) AS e"
		 " WHERE o.id = e.outbox_id AND o.state = 'ready' AND e.event_no > o.events"
		 " RETURNING o.id",
		 1,
		 {INT8ARRAYOID}},
	[TEGRO_STMT_MARK_SENDING] =
		{"UPDATE %1$s.tegro_outbox SET state = 'sending', claim_no = claim_no + 1, sent_claim_no = claim_no + 1,"
		 " claimed_until = $2, attempts = attempts + 1, events = events + 1 WHERE id = ANY ($1)",
		 2,
		 {INT8ARRAYOID, TIMESTAMPTZOID}},
	[TEGRO_STMT_ADD_SEND] =
		{"INSERT INTO %1$s.tegro_event (outbox_id, event_no, event, claim_no, nonce, body_sha256, started_at)"
		 " SELECT id, event_no, 'send', claim_no, nonce, sha256(body), clock_timestamp() FROM given"
		 /* a later event may be of a send that the row does not know of */
		 " WHERE NOT EXISTS (SELECT FROM %1$s.tegro_event AS e"
		 " WHERE e.outbox_id = given.id AND e.event_no >= given.event_no)",
		 .given = given_sends},
	[TEGRO_STMT_MARK_TAKEN] =
		{"UPDATE %1$s.tegro_outbox SET claim_no = claim_no + 1, claimed_until = $2"
		 " WHERE id = ANY ($1)",
		 2,
		 {INT8ARRAYOID, TIMESTAMPTZOID}},
	/* the only statement that changes a state, besides the claims */
	[TEGRO_STMT_CHANGE] =
		{"UPDATE %1$s.tegro_outbox AS o SET state = s.state,"
		 " next_at = CASE WHEN o.aside IS NULL THEN s.next_at END,"
		 " callback_state = CASE WHEN s.call_again AND o.callback IS NOT NULL THEN 'waiting' ELSE o.callback_state END,"
		 " callback_at = CASE WHEN s.to_call AND o.callback IS NOT NULL AND o.aside IS NULL"
		 " AND (s.call_again OR o.callback_state = 'waiting') THEN clock_timestamp() END,"
		 /* an answer that comes late does not bring back what was erased */
		 " answer = CASE WHEN o.stripped_at IS NULL THEN coalesce(s.answer, o.answer) END,"
		 " sqlstate = s.sqlstate, message = s.message,"
		 " failures = s.failures, absent = s.absent, unknown_since = s.unknown_since,"
		 " origin = coalesce(s.origin, o.origin), decision = coalesce(s.decision, o.decision),"
		 " attempts = o.attempts - s.unsent, claim_no = o.claim_no + s.fence, events = o.events + s.events,"
		 " claimed_until = NULL,"
		 " finished_at = CASE WHEN s.finished THEN coalesce(o.finished_at, clock_timestamp()) END"
		 " FROM given AS s WHERE o.id = s.id AND o.claim_no = s.claim_no AND o.state = s.was"
		 " RETURNING s.n, o.events",
		 .given = given_changes},
	[TEGRO_STMT_ADD_EVENT] =
		{"INSERT INTO %1$s.tegro_event (outbox_id, event_no, event, claim_no, role_name, state, message, started_at, ended_at)"
		 " SELECT id, greatest(event_no, 1 + (SELECT max(event_no) FROM %1$s.tegro_event WHERE outbox_id = given.id)),"
		 " event, claim_no, role_name, state, message, clock_timestamp(), clock_timestamp() FROM given",
		 .given = given_events},
/* a request can be stripped while a send of it is still listened to */
#define IS_STRIPPED                              \
	"EXISTS (SELECT FROM %1$s.tegro_outbox AS r" \
	" WHERE r.id = s.id AND r.stripped_at IS NOT NULL)"
	[TEGRO_STMT_END_SEND] =
		{"UPDATE %1$s.tegro_event AS e SET ended_at = clock_timestamp(), state = s.state, outcome = s.outcome,"
		 " http_status = s.http_status,"
		 " message = CASE WHEN s.message IS NOT NULL AND NOT " IS_STRIPPED
		 " THEN s.message END,"
		 " raw_answer = CASE WHEN s.raw IS NOT NULL AND NOT " IS_STRIPPED
		 " THEN s.raw END FROM given AS s"
		 " WHERE e.outbox_id = s.id AND e.event_no = s.event_no AND e.claim_no = s.claim_no AND e.ended_at IS NULL",
		 .given = given_ends},
	/* whose last send was that of a claim */
	[TEGRO_STMT_LATE] =
		{"SELECT " CHANGED_COLUMNS
		 " FROM %1$s.tegro_outbox WHERE id = $1 AND sent_claim_no = $2 FOR UPDATE",
		 2,
		 {INT8OID, INT8OID}},
	/* of a role that a person is a member of */
	[TEGRO_STMT_ONE_OF] =
		{"SELECT " CHANGED_COLUMNS
		 " FROM %1$s.tegro_outbox WHERE id = $1 AND " CALLER_IS_MEMBER
		 " FOR UPDATE",
		 2,
		 {INT8OID, OIDOID}},
	[TEGRO_STMT_HOLD] =
		{"SELECT 1 FROM %1$s.tegro_outbox WHERE id = $1 FOR UPDATE NOWAIT",
		 1,
		 {INT8OID}},
	[TEGRO_STMT_DUE_CALLBACK] =
		{"SELECT " ITEM_COLUMNS
		 " FROM %1$s.tegro_outbox WHERE callback_at <= $1"
		 " ORDER BY callback_at LIMIT 1 FOR UPDATE SKIP LOCKED",
		 1,
		 {TIMESTAMPTZOID}},
	[TEGRO_STMT_NEXT_CALLBACK_AT] =
		{"SELECT callback_at FROM %1$s.tegro_outbox WHERE callback_at IS NOT NULL"
		 " ORDER BY callback_at LIMIT 1",
		 0},
	[TEGRO_STMT_TAKE_CALLBACK] =
		{"UPDATE %1$s.tegro_outbox SET claim_no = claim_no + 1, failures = failures + 1,"
		 " callback_at = $2, callback_message ="
		 " CASE WHEN failures > 0 THEN coalesce(callback_message, 'it was called and did not return') END"
		 " WHERE id = $1",
		 2,
		 {INT8OID, TIMESTAMPTZOID}},
	[TEGRO_STMT_HOLD_CALLBACK] =
		{"SELECT 1 FROM %1$s.tegro_outbox"
		 " WHERE id = $1 AND claim_no = $2 AND callback_at IS NOT NULL FOR UPDATE SKIP LOCKED",
		 2,
		 {INT8OID, INT8OID}},
	/* not one that its own callback has had sent again */
	[TEGRO_STMT_CALLED_BACK] =
		{"UPDATE %1$s.tegro_outbox SET"
		 " callback_state = CASE WHEN $3 IS NULL THEN 'done' WHEN $4 IS NULL THEN 'failed' ELSE 'waiting' END,"
		 " callback_message = $3, failures = CASE WHEN $3 IS NULL THEN 0 ELSE failures END,"
		 " callback_at = $4"
		 " WHERE id = $1 AND claim_no = $2 AND state IN ('accepted', 'refused')",
		 4,
		 {INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID}},
	/* no name or operator that the search_path decides on: see store.h */
	[TEGRO_STMT_GET_NUMBER] = {"SELECT number FROM %1$s.tegro_origin", 0},
	[TEGRO_STMT_NOTE_ORIGIN] =
		{"INSERT INTO %1$s.tegro_origin AS i (reason) VALUES ($1)"
		 " ON CONFLICT (singleton) DO UPDATE SET reason = $1, since = clock_timestamp()",
		 1,
		 {TEXTOID}},
	[TEGRO_STMT_NEW_NUMBER] =
		{"INSERT INTO %1$s.tegro_origin AS i (reason) VALUES ($1)"
		 " ON CONFLICT (singleton) DO UPDATE SET number = DEFAULT, reason = $1, since = clock_timestamp()",
		 1,
		 {TEXTOID}},
	[TEGRO_STMT_SET_ASIDE] =
		{"UPDATE %1$s.tegro_outbox SET aside = 'origin', next_at = NULL, callback_at = NULL,"
		 " claimed_until = NULL WHERE id = ANY ($1)",
		 1,
		 {INT8ARRAYOID}},
	[TEGRO_STMT_SET_NOTIFICATION_ASIDE] =
		{"UPDATE %1$s.tegro_notification SET aside = 'origin', next_at = NULL, callback_at = NULL,"
		 " claimed_until = NULL WHERE id = $1",
		 1,
		 {INT8OID}},
	[TEGRO_STMT_FOREIGN] =
		{"SELECT origin FROM %1$s.tegro_outbox WHERE origin <> $1"
		 " UNION SELECT origin FROM %1$s.tegro_notification WHERE origin <> $1",
		 1,
		 {TEXTOID}},
/*
	 * Stripping: see retention.c.  Whether a request is finished is asked where
	 * its row is locked, and so again of one that has changed meanwhile.
	 */
#define IS_FINISHED                                 \
	"state IN ('accepted', 'refused', 'cancelled')" \
	" AND finished_at IS NOT NULL AND next_at IS NULL AND callback_at IS NULL AND aside IS NULL"
	[TEGRO_STMT_OLD] =
		{"SELECT id, params FROM %1$s.tegro_outbox"
		 " WHERE finished_at < $1 AND stripped_at IS NULL AND " IS_FINISHED
		 " ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED",
		 2,
		 {TIMESTAMPTZOID, INT4OID}},
	[TEGRO_STMT_FINISHED] = {"SELECT id, params FROM %1$s.tegro_outbox"
							 " WHERE id = $1 AND " CALLER_IS_MEMBER
							 " AND " IS_FINISHED " FOR UPDATE",
							 2,
							 {INT8OID, OIDOID}},
	[TEGRO_STMT_STRIP] =
		{"WITH events AS (UPDATE %1$s.tegro_event AS e SET message = NULL, raw_answer = NULL"
		 " FROM given AS s WHERE e.outbox_id = s.id AND e.role_name IS NULL"
		 " AND (e.message IS NOT NULL OR e.raw_answer IS NOT NULL))"
		 " UPDATE %1$s.tegro_outbox AS o SET params = NULL, answer = NULL, message = NULL, callback_message = NULL,"
		 " params_hash = coalesce(s.params_hash, o.params_hash), amount = coalesce(s.amount, o.amount),"
		 " currency = coalesce(s.currency, o.currency),"
		 " stripped_at = coalesce(o.stripped_at, clock_timestamp()),"
		 " decision = CASE WHEN s.note IS NULL THEN o.decision ELSE concat_ws('; ', o.decision, s.note) END"
		 " FROM given AS s WHERE o.id = s.id",
		 .given = given_stripped},
	/* the first is used for what is hashed now */
	[TEGRO_STMT_KEYS] = {"SELECT key FROM %1$s.tegro_key ORDER BY made_at, key",
						 0},
	[TEGRO_STMT_MAKE_KEY] = {"INSERT INTO %1$s.tegro_key (key) VALUES ($1)",
							 1,
							 {BYTEAOID}},
	[TEGRO_STMT_OUTCOME] =
		{"SELECT state, answer, sqlstate, message, reference, method, " CALLER_IS_MEMBER
		 ", xmin,"
		 /* no send is on record, here or elsewhere, that somebody decided about */
		 " attempts = 0 AND unknown_since IS NULL AND decision IS NULL,"
		 " stripped_at::timestamp(0)::text, aside IS NOT NULL"
		 " FROM %1$s.tegro_outbox WHERE id = $1",
		 2,
		 {INT8OID, OIDOID}},
	[TEGRO_STMT_WAITING] =
		{"SELECT 1 WHERE EXISTS (SELECT FROM %1$s.tegro_outbox WHERE next_at IS NOT NULL)"
		 " OR EXISTS (SELECT FROM %1$s.tegro_notification WHERE next_at IS NOT NULL)",
		 0},
	[TEGRO_STMT_CALLBACKS_WAIT] =
		{"SELECT 1 WHERE EXISTS (SELECT FROM %1$s.tegro_outbox WHERE callback_at IS NOT NULL)"
		 " OR EXISTS (SELECT FROM %1$s.tegro_notification WHERE callback_at IS NOT NULL)",
		 0},
	/* $2: it is sent or looked up now; a callback is called now in any case */
	[TEGRO_STMT_REFRESH] =
		{"UPDATE %1$s.tegro_outbox SET failures = 0,"
		 " next_at = CASE WHEN $2 THEN clock_timestamp() ELSE next_at END,"
		 " deliver_after = CASE WHEN $2 THEN NULL ELSE deliver_after END,"
		 " callback_state = CASE WHEN callback_state = 'failed' THEN 'waiting' ELSE callback_state END,"
		 " callback_at = CASE WHEN callback_at IS NOT NULL OR callback_state = 'failed' THEN clock_timestamp() END"
		 " WHERE id = $1 AND aside IS NULL AND ($2 OR callback_at IS NOT NULL OR callback_state = 'failed')",
		 2,
		 {INT8OID, BOOLOID}},
	/* one that was set aside, and is decided about here, belongs to this database */
	[TEGRO_STMT_ADOPT] =
		{"UPDATE %1$s.tegro_outbox SET origin = $2, aside = NULL,"
		 " enqueued_by = CASE WHEN " HAS_THIS_NUMBER
		 " THEN enqueued_by ELSE " OID_OF_ENQUEUER " END"
		 " WHERE id = $1 AND aside IS NOT NULL",
		 2,
		 {INT8OID, TEXTOID}},
/*
 * A take-over.  $1 is this database's origin, or an array of others; for the
 * rest, see tegro_outbox_take_over().
 *
 * A request that was to wait until a time still does, and the doubt about it
 * begins then.  One that may have been sent to another address, $4, cannot be
 * looked up here.
 */
#define TAKE_OVER_AT "greatest(deliver_after, clock_timestamp())"
#define WAS_SENT	 "(attempts > 0 OR unknown_since IS NOT NULL)"
#define IS_TAKEN_OVER \
	" WHERE origin = ANY ($3) AND NOT (" WAS_SENT " AND origin = ANY ($4))"
/* of which the event is put on record; $5 is who, for the others see the table */
#define TELL_TAKEN_OVER                                                                                                     \
	" RETURNING id, events, claim_no, state, message)"                                                                      \
	" INSERT INTO %1$s.tegro_event (outbox_id, event_no, event, claim_no, role_name, state, message, started_at, ended_at)" \
	" SELECT id, greatest(events, 1 + (SELECT max(event_no) FROM %1$s.tegro_event WHERE outbox_id = taken.id)),"            \
	" 'taken over', claim_no, $5, state, message, clock_timestamp(), clock_timestamp() FROM taken"
	[TEGRO_STMT_TAKE_OVER_ROLES] =
		{"UPDATE %1$s.tegro_outbox SET enqueued_by = " OID_OF_ENQUEUER
		 " WHERE origin = ANY ($1) AND NOT " HAS_THIS_NUMBER
		 " AND enqueued_by <> " OID_OF_ENQUEUER,
		 1,
		 {TEXTARRAYOID}},
	/* of a method, $6, from the states $7 to the state $8: see transition.c */
	[TEGRO_STMT_TAKE_OVER] =
		{"WITH taken AS (UPDATE %1$s.tegro_outbox SET state = $8,"
		 " next_at = " TAKE_OVER_AT ", unknown_since = " TAKE_OVER_AT ","
		 " absent = 0, failures = 0, claim_no = claim_no + 1, events = events + 1,"
		 " claimed_until = NULL, origin = $1, message = $2, aside = NULL" IS_TAKEN_OVER
		 " AND method = $6 AND state = ANY ($7)" TELL_TAKEN_OVER,
		 8,
		 {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID,
		  TEXTARRAYOID, TEXTOID}},
	/* $2 is this database's origin as of an earlier timeline */
	[TEGRO_STMT_TAKE_OVER_REST] =
		{"UPDATE %1$s.tegro_outbox SET aside = NULL,"
		 " origin = CASE WHEN state = 'review' THEN $1 ELSE $2 END,"
		 " next_at = CASE WHEN aside IS NOT NULL AND state = 'review' THEN " TAKE_OVER_AT
		 " ELSE next_at END,"
		 " callback_at = CASE WHEN aside IS NOT NULL AND callback_state = 'waiting' AND finished_at IS NOT NULL"
		 " THEN clock_timestamp() ELSE callback_at END" IS_TAKEN_OVER
		 " AND state NOT IN ('ready', 'sending', 'unknown')",
		 4,
		 {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID}},
	/* $1 are the origins of other addresses */
	[TEGRO_STMT_KEEP_ASIDE] =
		{"UPDATE %1$s.tegro_outbox SET aside = 'origin', next_at = NULL, callback_at = NULL, claimed_until = NULL,"
		 " claim_no = claim_no + 1, unknown_since = CASE WHEN finished_at IS NULL"
		 " THEN coalesce(unknown_since, clock_timestamp()) ELSE unknown_since END,"
		 " state = CASE WHEN state NOT IN ('ready', 'sending', 'unknown') THEN state"
		 " WHEN method = 'createOrder' THEN 'unknown' ELSE 'review' END,"
		 " message = CASE WHEN finished_at IS NULL THEN $2 ELSE message END"
		 " WHERE origin = ANY ($1) AND " WAS_SENT
		 " AND (finished_at IS NULL OR aside IS NOT NULL OR callback_at IS NOT NULL)",
		 2,
		 {TEXTARRAYOID, TEXTOID}},
	/* that were set aside while this database had another origin */
	[TEGRO_STMT_TAKE_BACK] =
		{"UPDATE %1$s.tegro_outbox SET aside = NULL,"
		 " next_at = CASE WHEN finished_at IS NULL THEN " TAKE_OVER_AT " END,"
		 " callback_at = CASE WHEN callback_state = 'waiting' AND finished_at IS NOT NULL THEN clock_timestamp() END"
		 " WHERE aside IS NOT NULL AND origin <> ALL ($1)",
		 1,
		 {TEXTARRAYOID}},
	[TEGRO_STMT_TAKE_OVER_NOTIFICATIONS] =
		{"UPDATE %1$s.tegro_notification SET aside = NULL, origin = $1,"
		 " role = CASE WHEN " HAS_THIS_NUMBER " THEN role ELSE " OID_OF_ROLE
		 " END,"
		 " next_at = CASE WHEN aside IS NOT NULL AND state = 'waiting' THEN clock_timestamp() ELSE next_at END,"
		 " callback_at = CASE WHEN aside IS NOT NULL AND callback_state = 'waiting'"
		 " THEN clock_timestamp() ELSE callback_at END"
		 " WHERE origin = ANY ($2) OR aside IS NOT NULL",
		 2,
		 {TEXTOID, TEXTARRAYOID}},
#define THIS_NUMBER "(SELECT o.number FROM %1$s.tegro_origin AS o)"
	[TEGRO_STMT_TAKE_OVER_TARGETS] =
		{"UPDATE %1$s.tegro_payment_callback SET role = " OID_OF_ROLE
		 ", number = " THIS_NUMBER " WHERE number <> " THIS_NUMBER,
		 0},

	/*
	 * Notifications: see inbox.c.
	 */
	[TEGRO_STMT_GET_TARGET] =
		{"SELECT callback, CASE WHEN number = " THIS_NUMBER " THEN role"
		 " ELSE " OID_OF_ROLE " END"
		 " FROM %1$s.tegro_payment_callback WHERE shop_id = $1",
		 1,
		 {TEXTOID}},
	/* nobody takes a shop's payments away from another */
	[TEGRO_STMT_SET_TARGET] =
		{"INSERT INTO %1$s.tegro_payment_callback AS c (shop_id, callback, role, role_name, number)"
		 " VALUES ($1, $2, $3, pg_get_userbyid($3), " THIS_NUMBER ")"
		 " ON CONFLICT (shop_id) DO UPDATE SET callback = $2, role = $3, role_name = pg_get_userbyid($3),"
		 " number = excluded.number, registered_at = clock_timestamp()"
		 " WHERE pg_has_role($3, c.role, 'MEMBER')"
		 " AND (pg_get_userbyid(c.role) = c.role_name OR c.number = " THIS_NUMBER
		 ")",
		 3,
		 {TEXTOID, TEXTOID, OIDOID}},
	[TEGRO_STMT_DROP_TARGET] =
		{"DELETE FROM %1$s.tegro_payment_callback AS c WHERE shop_id = $1 AND pg_has_role($2, role, 'MEMBER')"
		 " AND (pg_get_userbyid(role) = role_name OR c.number = " THIS_NUMBER
		 ")",
		 2,
		 {TEXTOID, OIDOID}},
/* what a notification is compared with, also after that */
#define ORDERED \
	"coalesce(params, jsonb_build_object('amount', amount, 'currency', currency))"
	[TEGRO_STMT_ORDERED] =
		{"SELECT id, " ORDERED " FROM %1$s.tegro_outbox"
		 " WHERE shop_id = $1 AND method = 'createOrder' AND reference = $2",
		 2,
		 {TEXTOID, TEXTOID}},
	[TEGRO_STMT_RECORD] =
		{"INSERT INTO %1$s.tegro_notification (shop_id, order_id, status, test, amount, currency, payment_id,"
		 " fields, role, callback, request, state, message, next_at, origin, variant, role_name)"
		 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
		 " CASE WHEN $12 = 'waiting' THEN clock_timestamp() END, $14, $15, pg_get_userbyid($9))"
		 " ON CONFLICT (shop_id, order_id, status, test, variant) DO NOTHING",
		 15,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID, NUMERICOID, TEXTOID, TEXTOID,
		  JSONBOID, OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID,
		  TEXTOID}},
	[TEGRO_STMT_RECORDED] =
		{"SELECT id, amount, currency, payment_id FROM %1$s.tegro_notification"
		 " WHERE " FIRST_NOTIFICATION,
		 4,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID}},
	[TEGRO_STMT_RECORDED_VARIANT] =
		{"SELECT 1 FROM %1$s.tegro_notification"
		 " WHERE shop_id = $1 AND order_id = $2 AND status = $3 AND test = $4 AND variant = $5",
		 5,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID}},
	[TEGRO_STMT_KEEP_VARIANT] =
		{"INSERT INTO %1$s.tegro_notification (shop_id, order_id, status, test, amount, currency, payment_id,"
		 " fields, role, callback, request, state, message, received_at, waiting_since, looked_up_at, answer,"
		 " sqlstate, origin, role_name, variant)"
		 " SELECT shop_id, order_id, status, test, amount, currency, payment_id, fields, role, callback, request,"
		 " state, concat_ws(': ', 'notification ' || id || ' until another one came', message),"
		 " received_at, waiting_since, looked_up_at, answer, sqlstate, origin, role_name, $5"
		 " FROM %1$s.tegro_notification WHERE " FIRST_NOTIFICATION
		 " AND " CAME_TO_NOTHING
		 " ON CONFLICT (shop_id, order_id, status, test, variant) DO NOTHING",
		 5,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID}},

	[TEGRO_STMT_RECORD_AGAIN] =
		{"UPDATE %1$s.tegro_notification SET amount = $5, currency = $6, payment_id = $7, fields = $8,"
		 " role = $9, callback = $10, request = $11, state = $12, message = $13, failures = 0,"
		 " received_at = clock_timestamp(), waiting_since = clock_timestamp(), next_at = clock_timestamp(),"
		 " origin = $14, aside = NULL, role_name = pg_get_userbyid($9)"
		 " WHERE " FIRST_NOTIFICATION
		 " AND $12 = 'waiting' AND " CAME_TO_NOTHING,
		 14,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID, NUMERICOID, TEXTOID, TEXTOID,
		  JSONBOID, OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID}},
	/*
	 * A customer can bring the fields of his link long before he pays.  The
	 * provider's notification then is a replay, and must not wait for hours.
	 * This causes no more than one lookup a minute, however many come.
	 */
	[TEGRO_STMT_HASTEN_NOTIFICATION] =
		{"UPDATE %1$s.tegro_notification SET next_at = clock_timestamp() + interval '1 minute',"
		 " payment_id = coalesce(payment_id, $5)"
		 " WHERE " FIRST_NOTIFICATION " AND state = 'waiting'"
		 " AND next_at > clock_timestamp() + interval '1 minute'",
		 5,
		 {TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID}},
#define DUE_NOTIFICATION                                                                         \
	"SELECT " NOTIFICATION_COLUMNS ", n.payment_id,"                                             \
	" (SELECT " ORDERED " FROM %1$s.tegro_outbox o"                                              \
	"   WHERE o.shop_id = n.shop_id AND o.method = 'createOrder' AND o.reference = n.order_id)," \
	" (SELECT o.answer #>> '{data,id}' FROM %1$s.tegro_outbox o"                                 \
	"   WHERE o.shop_id = n.shop_id AND o.method = 'createOrder' AND o.reference = n.order_id)"  \
	" FROM %1$s.tegro_notification n"                                                            \
	" WHERE " IS_DUE
	[TEGRO_STMT_NOTIFICATIONS_DUE] =
		{DUE_NOTIFICATION
		 " AND " DOES_NOT_REST("n.role", "n.shop_id",
							   "$2") " AND " IS_NOT_ASIDE("n.id",
														  "$4") " ORDER BY n.next_at LIMIT $3 FOR UPDATE OF n SKIP LOCKED",
		 4,
		 {TIMESTAMPTZOID, TEXTARRAYOID, INT4OID, INT8ARRAYOID}},
	[TEGRO_STMT_NOTIFICATIONS_DUE_IDS] =
		{"SELECT id FROM %1$s.tegro_notification n"
		 " WHERE " IS_DUE
		 " AND " DOES_NOT_REST("n.role", "n.shop_id",
							   "$2") " AND " IS_NOT_ASIDE("n.id",
														  "$4") " ORDER BY next_at LIMIT $3",
		 4,
		 {TIMESTAMPTZOID, TEXTARRAYOID, INT4OID, INT8ARRAYOID}},
	[TEGRO_STMT_NOTIFICATION_DUE_ONE] =
		{DUE_NOTIFICATION
		 " AND " DOES_NOT_REST("n.role", "n.shop_id",
							   "$2") " AND n.id = $3 FOR UPDATE OF n SKIP LOCKED",
		 3,
		 {TIMESTAMPTZOID, TEXTARRAYOID, INT8OID}},
	[TEGRO_STMT_NEXT_NOTIFICATION_AT] =
		{"SELECT least((SELECT min(claimed_until) FROM %1$s.tegro_notification"
		 " WHERE next_at <= $1 AND claimed_until > $1),"
		 " (SELECT next_at FROM %1$s.tegro_notification WHERE next_at > $1 ORDER BY next_at LIMIT 1))",
		 1,
		 {TIMESTAMPTZOID}},
	[TEGRO_STMT_TAKE_NOTIFICATION] =
		{"UPDATE %1$s.tegro_notification SET claim_no = claim_no + 1, claimed_until = $2 WHERE id = $1",
		 2,
		 {INT8OID, TIMESTAMPTZOID}},
	/*
	 * "confirmed" never goes back, whatever else is written here; its callback
	 * is due at once.
	 */
	[TEGRO_STMT_RECORD_OUTCOME_NOTIFICATION] =
		{"UPDATE %1$s.tegro_notification SET state = $3,"
		 " confirmed = confirmed OR $3 = 'confirmed',"
		 " confirmed_at = CASE WHEN $3 = 'confirmed' THEN coalesce(confirmed_at, clock_timestamp()) ELSE confirmed_at END,"
		 " callback_state = CASE WHEN $3 = 'confirmed' AND callback IS NOT NULL THEN 'waiting' END,"
		 " callback_at = CASE WHEN $3 = 'confirmed' AND callback IS NOT NULL AND aside IS NULL THEN clock_timestamp() END,"
		 " next_at = CASE WHEN aside IS NULL THEN $4 END,"
		 /* so that another payment under the same number is told from this one */
		 " payment_id = CASE WHEN $3 = 'confirmed' THEN coalesce(payment_id, $5 #>> '{data,id}') ELSE payment_id END,"
		 " answer = coalesce($5, answer), sqlstate = $6, message = $7, failures = $8,"
		 " looked_up_at = CASE WHEN $9 THEN clock_timestamp() ELSE looked_up_at END, claimed_until = NULL"
		 " WHERE id = $1 AND claim_no = $2 AND state = 'waiting'",
		 9,
		 {INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID, JSONBOID, TEXTOID,
		  TEXTOID, INT4OID, BOOLOID}},
	[TEGRO_STMT_HOLD_NOTIFICATION] =
		{"SELECT 1 FROM %1$s.tegro_notification WHERE id = $1 FOR UPDATE NOWAIT",
		 1,
		 {INT8OID}},
	[TEGRO_STMT_DUE_NOTIFICATION_CALLBACK] =
		{"SELECT " NOTIFICATION_COLUMNS
		 " FROM %1$s.tegro_notification n WHERE n.callback_at <= $1"
		 " ORDER BY n.callback_at LIMIT 1 FOR UPDATE SKIP LOCKED",
		 1,
		 {TIMESTAMPTZOID}},
	[TEGRO_STMT_NEXT_NOTIFICATION_CALLBACK_AT] =
		{"SELECT callback_at FROM %1$s.tegro_notification WHERE callback_at IS NOT NULL"
		 " ORDER BY callback_at LIMIT 1",
		 0},
	[TEGRO_STMT_TAKE_NOTIFICATION_CALLBACK] =
		{"UPDATE %1$s.tegro_notification SET claim_no = claim_no + 1, failures = failures + 1,"
		 " callback_at = $2, callback_message ="
		 " CASE WHEN failures > 0 THEN coalesce(callback_message, 'it was called and did not return') END"
		 " WHERE id = $1",
		 2,
		 {INT8OID, TIMESTAMPTZOID}},
	[TEGRO_STMT_HOLD_NOTIFICATION_CALLBACK] =
		{"SELECT 1 FROM %1$s.tegro_notification"
		 " WHERE id = $1 AND claim_no = $2 AND confirmed AND callback_at IS NOT NULL FOR UPDATE SKIP LOCKED",
		 2,
		 {INT8OID, INT8OID}},
	[TEGRO_STMT_CALLED_BACK_NOTIFICATION] =
		{"UPDATE %1$s.tegro_notification SET"
		 " callback_state = CASE WHEN $3 IS NULL THEN 'done' WHEN $4 IS NULL THEN 'failed' ELSE 'waiting' END,"
		 " callback_message = $3, failures = CASE WHEN $3 IS NULL THEN 0 ELSE failures END,"
		 " callback_at = $4"
		 " WHERE id = $1 AND claim_no = $2 AND callback_state = 'waiting'",
		 4,
		 {INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID}},
	[TEGRO_STMT_RETRY_NOTIFICATION] =
		{"UPDATE %1$s.tegro_notification SET failures = 0, waiting_since = clock_timestamp(),"
		 " state = CASE WHEN state IN ('review', 'unpaid') THEN 'waiting' ELSE state END,"
		 " callback_state = CASE WHEN callback_state = 'failed' THEN 'waiting' ELSE callback_state END,"
		 " next_at = CASE WHEN confirmed THEN NULL ELSE clock_timestamp() END,"
		 " callback_at = CASE WHEN confirmed THEN clock_timestamp() END"
		 " WHERE id = $1 AND " CALLER_IS_MEMBER_OF_ROLE
		 " AND variant = '' AND aside IS NULL"
		 " AND (state IN ('waiting', 'review', 'unpaid') OR callback_state IN ('waiting', 'failed'))",
		 2,
		 {INT8OID, OIDOID}},
	[TEGRO_STMT_SEE_NOTIFICATION] =
		{"SELECT 1 FROM %1$s.tegro_notification WHERE id = $1 AND " CALLER_IS_MEMBER_OF_ROLE,
		 2,
		 {INT8OID, OIDOID}},
};
