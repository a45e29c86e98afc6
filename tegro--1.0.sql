/* tegro--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION tegro" to load this file. \quit

--
-- Synchronous calls: each asks the provider while the statement waits, and
-- returns its whole answer, {"type": "success", "desc": "", "data": ...}.
-- What is no answer is an error of class TG.
--
-- None is STRICT: NULL in place of an answer would be mistaken for one.
-- All are VOLATILE and PARALLEL UNSAFE, for each sends a request, and so
-- costly that a planner runs them last.
--
-- EXECUTE is nobody's but the owner's until it is granted.
--

CREATE FUNCTION @extschema@.tegro_call(method pg_catalog.text, params pg_catalog.jsonb DEFAULT '{}')
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_call'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_call(pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_call(pg_catalog.text, pg_catalog.jsonb) IS
'calls any method of the Tegro API, also one that this version does not know; returns the provider''s whole answer';

CREATE FUNCTION @extschema@.tegro_create_order(params pg_catalog.jsonb)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_create_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_create_order(pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_create_order(pg_catalog.jsonb) IS
'makes a payment order now (method createOrder): params need currency, amount and order_id, the shop''s own number; the answer has the link to pay at in data.url';

CREATE FUNCTION @extschema@.tegro_shops()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_shops'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_shops() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_shops() IS
'the shops of the account';

CREATE FUNCTION @extschema@.tegro_balance()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_balance'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_balance() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_balance() IS
'the balances of the account, one for each currency';

CREATE FUNCTION @extschema@.tegro_order(order_id pg_catalog.int8 DEFAULT NULL, payment_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_order(pg_catalog.int8, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_order(pg_catalog.int8, pg_catalog.text) IS
'one payment order, by Tegro''s number (order_id) or by the shop''s own (payment_id)';

CREATE FUNCTION @extschema@.tegro_order(reference pg_catalog.text)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_order(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_order(pg_catalog.text) IS
'one payment order, by the shop''s own number: what tegro_order(payment_id => reference) finds';

CREATE FUNCTION @extschema@.tegro_orders(page pg_catalog.int4 DEFAULT 1)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_orders'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_orders(pg_catalog.int4) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_orders(pg_catalog.int4) IS
'a page of the payment orders, newest first; a page past the end is empty';

CREATE FUNCTION @extschema@.tegro_withdrawal(order_id pg_catalog.int8 DEFAULT NULL, payment_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawal'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.int8, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.int8, pg_catalog.text) IS
'one withdrawal, by Tegro''s number (order_id) or by the shop''s own (payment_id)';

CREATE FUNCTION @extschema@.tegro_withdrawal(reference pg_catalog.text)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawal'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.text) IS
'one withdrawal, by the shop''s own number: what tegro_withdrawal(payment_id => reference) finds';

CREATE FUNCTION @extschema@.tegro_withdrawals(page pg_catalog.int4 DEFAULT 1)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawals'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawals(pg_catalog.int4) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawals(pg_catalog.int4) IS
'a page of the withdrawals, newest first';

CREATE FUNCTION @extschema@.tegro_rates("from" pg_catalog.text DEFAULT NULL, "to" pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_rates'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_rates(pg_catalog.text, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_rates(pg_catalog.text, pg_catalog.text) IS
'exchange rates, all or between two currencies';

CREATE FUNCTION @extschema@.tegro_modules()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_modules'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_modules() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_modules() IS
'the payment systems that the shop may use';

CREATE FUNCTION @extschema@.tegro_batch(
	method pg_catalog.text, params pg_catalog.jsonb[],
	OUT "position" pg_catalog.int4, OUT answer pg_catalog.jsonb, OUT sqlstate pg_catalog.text, OUT message pg_catalog.text)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME', 'tegro_batch'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000 ROWS 100;
REVOKE ALL ON FUNCTION @extschema@.tegro_batch(pg_catalog.text, pg_catalog.jsonb[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_batch(pg_catalog.text, pg_catalog.jsonb[]) IS
'calls a method once for each element of params, up to tegro.max_concurrency at once; a row for each, in the order in which they end, with the answer or else with SQLSTATE and message; refuses createWithdrawal';

--
-- Help for the developer
--

CREATE FUNCTION @extschema@.tegro_preview(
	method pg_catalog.text, params pg_catalog.jsonb DEFAULT '{}',
	OUT url pg_catalog.text, OUT headers pg_catalog.jsonb, OUT body pg_catalog.text)
RETURNS pg_catalog.record
AS 'MODULE_PATHNAME', 'tegro_preview'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_preview(pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_preview(pg_catalog.text, pg_catalog.jsonb) IS
'the request that tegro_call would send, to the byte, except the signature; sends nothing';

--
-- The outbox: requests that are sent after commit, and the record of each.
--
-- An ordinary role reaches it through the functions below, which run as the
-- owner.  With SELECT granted, a role sees what it, or a role that it belongs
-- to, has enqueued.
--
-- There are no CHECK constraints: PostgreSQL parses them anew for each
-- statement, which took a third of the time of writing a row, and nothing but
-- src/outbox/outbox.c writes here.
--

CREATE TABLE @extschema@.tegro_outbox (
	id				pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY WITH (fillfactor = 45),
	-- byte by byte: what is unique must stay so when a collation changes
	shop_id			pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	method			pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	reference		pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	params			pg_catalog.jsonb,
	params_hash		pg_catalog.bytea,
	amount			pg_catalog.numeric,
	currency		pg_catalog.text,
	state			pg_catalog.text NOT NULL DEFAULT 'ready',
	next_at			pg_catalog.timestamptz DEFAULT pg_catalog.clock_timestamp(),
	deliver_after	pg_catalog.timestamptz,
	claim_no			pg_catalog.int8 NOT NULL DEFAULT 0,
	sent_claim_no		pg_catalog.int8,
	claimed_until		pg_catalog.timestamptz,
	attempts		pg_catalog.int4 NOT NULL DEFAULT 0,
	failures		pg_catalog.int4 NOT NULL DEFAULT 0,
	absent			pg_catalog.int4 NOT NULL DEFAULT 0,
	unknown_since	pg_catalog.timestamptz,
	-- not regrole: a dump with the name of a role that is missing cannot be loaded
	enqueued_by		pg_catalog.oid NOT NULL,
	enqueued_by_name	pg_catalog.text COLLATE pg_catalog."C" NOT NULL DEFAULT CURRENT_USER,
	enqueued_at		pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
	finished_at		pg_catalog.timestamptz,
	stripped_at		pg_catalog.timestamptz,
	origin		pg_catalog.text NOT NULL,
	aside			pg_catalog.text,
	answer			pg_catalog.jsonb,
	sqlstate		pg_catalog.text,
	message			pg_catalog.text,
	callback		pg_catalog.text,
	callback_state	pg_catalog.text,
	callback_message pg_catalog.text,
	callback_at		pg_catalog.timestamptz,
	decision		pg_catalog.text,
	events			pg_catalog.int4 NOT NULL DEFAULT 0,
	-- the column that tells most rows apart comes first; room for a second
	-- version of each entry, which settling the request writes
	UNIQUE (reference, method, shop_id) WITH (fillfactor = 45)
)
-- room for the claim's update of a row beside it, without touching an index
WITH (fillfactor = 50);
REVOKE ALL ON TABLE @extschema@.tegro_outbox FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_outbox IS
'requests to the Tegro API that are sent after commit, and what became of each';
COMMENT ON COLUMN @extschema@.tegro_outbox.id IS 'number of the request, as tegro_enqueue returned it';
COMMENT ON COLUMN @extschema@.tegro_outbox.shop_id IS 'public key of the shop that it is for';
COMMENT ON COLUMN @extschema@.tegro_outbox.method IS 'createOrder or createWithdrawal';
COMMENT ON COLUMN @extschema@.tegro_outbox.reference IS 'the shop''s own number: order_id of createOrder, payment_id of createWithdrawal; unique for ever within shop and method';
COMMENT ON COLUMN @extschema@.tegro_outbox.params IS 'parameters, without shop_id and nonce; null once they are erased';
COMMENT ON COLUMN @extschema@.tegro_outbox.params_hash IS 'HMAC-SHA256 of the erased parameters under a key of tegro_key; null before';
COMMENT ON COLUMN @extschema@.tegro_outbox.amount IS 'amount of the erased parameters; null before';
COMMENT ON COLUMN @extschema@.tegro_outbox.currency IS 'currency of the erased parameters; null before';
COMMENT ON COLUMN @extschema@.tegro_outbox.state IS 'ready (to be sent), sending, unknown (may have taken effect; it is looked up), accepted, refused, review (a person decides), cancelled';
COMMENT ON COLUMN @extschema@.tegro_outbox.next_at IS 'when it is due; null when nothing is left to do';
COMMENT ON COLUMN @extschema@.tegro_outbox.deliver_after IS 'time before which it is neither sent nor looked up, as given to tegro_enqueue; null if there is none';
COMMENT ON COLUMN @extschema@.tegro_outbox.claim_no IS 'fencing token, which each claim raises, and each decision that ends one; results count only under the claim that they were got under';
COMMENT ON COLUMN @extschema@.tegro_outbox.sent_claim_no IS 'claim_no of the claim under which it was sent last';
COMMENT ON COLUMN @extschema@.tegro_outbox.claimed_until IS 'until when the delivery worker has it to itself';
COMMENT ON COLUMN @extschema@.tegro_outbox.attempts IS 'how often it was sent, or may have been';
COMMENT ON COLUMN @extschema@.tegro_outbox.failures IS 'sends, lookups or callbacks in a row that came to nothing; the wait between them grows with it';
COMMENT ON COLUMN @extschema@.tegro_outbox.absent IS 'lookups in a row that did not find it';
COMMENT ON COLUMN @extschema@.tegro_outbox.unknown_since IS 'when its outcome became unknown, or when it came to review after that; null if no send of it was ever in doubt';
COMMENT ON COLUMN @extschema@.tegro_outbox.enqueued_by IS 'oid of the role that enqueued it; its keys are used, and it runs the callback; 0 if a take-over found no role of that name';
COMMENT ON COLUMN @extschema@.tegro_outbox.enqueued_by_name IS 'name that this role had; in another database than that of origin, the oid counts only together with it';
COMMENT ON COLUMN @extschema@.tegro_outbox.enqueued_at IS 'start of the transaction that enqueued it';
COMMENT ON COLUMN @extschema@.tegro_outbox.finished_at IS 'when it became accepted, refused or cancelled';
COMMENT ON COLUMN @extschema@.tegro_outbox.stripped_at IS 'when parameters, answers and messages were erased, by tegro.retention or tegro_forget';
COMMENT ON COLUMN @extschema@.tegro_outbox.origin IS 'system/database/timeline/inode/number/address under which it was enqueued, or taken over since; the number is that of tegro_origin, the address that of the provider';
COMMENT ON COLUMN @extschema@.tegro_outbox.aside IS 'origin: it was enqueued under another origin, and waits for tegro_take_over; null otherwise';
COMMENT ON COLUMN @extschema@.tegro_outbox.answer IS 'the provider''s answer that settled it';
COMMENT ON COLUMN @extschema@.tegro_outbox.sqlstate IS 'error of the last send or lookup';
COMMENT ON COLUMN @extschema@.tegro_outbox.message IS 'what happened last, in words';
COMMENT ON COLUMN @extschema@.tegro_outbox.callback IS 'function that is called with the outcome';
COMMENT ON COLUMN @extschema@.tegro_outbox.callback_state IS 'waiting, done or failed; null without a callback';
COMMENT ON COLUMN @extschema@.tegro_outbox.callback_message IS 'the callback''s last error';
COMMENT ON COLUMN @extschema@.tegro_outbox.callback_at IS 'when the callback is due; null before the outcome is there, and when it was called';
COMMENT ON COLUMN @extschema@.tegro_outbox.decision IS 'the last decision of a person: what, who, when and why';
COMMENT ON COLUMN @extschema@.tegro_outbox.events IS 'how many events of it are in tegro_event';

-- What there is to do, in the order in which it is due.  Finished requests
-- are not in it, so it stays small however long the history is.
CREATE INDEX tegro_outbox_due ON @extschema@.tegro_outbox (next_at) WHERE next_at IS NOT NULL;
-- Payouts among it: they go before a bulk of orders.  An order has no entry.
CREATE INDEX tegro_outbox_payout_due ON @extschema@.tegro_outbox (next_at)
 WHERE next_at IS NOT NULL AND method OPERATOR(pg_catalog.=) 'createWithdrawal';
CREATE INDEX tegro_outbox_callback_due ON @extschema@.tegro_outbox (callback_at) WHERE callback_at IS NOT NULL;
CREATE INDEX tegro_outbox_aside ON @extschema@.tegro_outbox (id) WHERE aside IS NOT NULL;

-- What tegro.retention can strip, oldest first.  A request enters the index when
-- it is finished, and leaves it when it is stripped.  So a sweep reads only the
-- requests that it strips, however many are stripped, and enqueuing costs nothing.
-- The columns of the condition never change while a request is claimed.
CREATE INDEX tegro_outbox_finished ON @extschema@.tegro_outbox (finished_at)
	WHERE finished_at IS NOT NULL AND stripped_at IS NULL AND callback_at IS NULL;

-- What happened to each request after it was enqueued.  An event is inserted once;
-- that of a send is completed once, by its outcome.  Nothing else changes or
-- deletes events.
CREATE TABLE @extschema@.tegro_event (
	outbox_id		pg_catalog.int8 NOT NULL,
	event_no		pg_catalog.int4 NOT NULL,
	event			pg_catalog.text NOT NULL,
	claim_no		pg_catalog.int8 NOT NULL,
	started_at		pg_catalog.timestamptz NOT NULL,
	ended_at		pg_catalog.timestamptz,
	role_name		pg_catalog.text,
	state			pg_catalog.text,
	message			pg_catalog.text,
	nonce			pg_catalog.int8,
	body_sha256		pg_catalog.bytea,
	outcome			pg_catalog.text,
	http_status		pg_catalog.int4,
	raw_answer		pg_catalog.bytea,
	PRIMARY KEY (outbox_id, event_no)
)
WITH (fillfactor = 60);
REVOKE ALL ON TABLE @extschema@.tegro_event FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_event IS
'the history of each request of the outbox: an event for each send, recorded before it, and for each other change of its state';
COMMENT ON COLUMN @extschema@.tegro_event.outbox_id IS 'the request in tegro_outbox';
COMMENT ON COLUMN @extschema@.tegro_event.event_no IS 'number of the event within the request, from 1';
COMMENT ON COLUMN @extschema@.tegro_event.event IS 'send, found, not found, found different, no answer, lost, given up, withheld, failover, conflict; or a person''s: cancelled, retried, corrected, resolved, taken over';
COMMENT ON COLUMN @extschema@.tegro_event.claim_no IS 'claim_no of the request at that time';
COMMENT ON COLUMN @extschema@.tegro_event.started_at IS 'when it happened; of a send, when the delivery worker took the request to send it at once';
COMMENT ON COLUMN @extschema@.tegro_event.ended_at IS 'of a send, when the answer came, or was given up; null if the delivery worker did not live to tell';
COMMENT ON COLUMN @extschema@.tegro_event.role_name IS 'who decided; null for events that nobody decided';
COMMENT ON COLUMN @extschema@.tegro_event.state IS 'state of the request after it; null while a send has no outcome, and where its outcome came too late to count';
COMMENT ON COLUMN @extschema@.tegro_event.message IS 'what happened, in words';
COMMENT ON COLUMN @extschema@.tegro_event.nonce IS 'of a send: nonce of the request';
COMMENT ON COLUMN @extschema@.tegro_event.body_sha256 IS 'of a send: SHA-256 of the body';
COMMENT ON COLUMN @extschema@.tegro_event.outcome IS 'of a send: answered, refused, not sent, unknown or rate limited; null if it was not seen';
COMMENT ON COLUMN @extschema@.tegro_event.http_status IS 'of a send: HTTP status of the answer';
COMMENT ON COLUMN @extschema@.tegro_event.raw_answer IS 'of a send: the answer as it came, up to 8 kB, where it was no good answer';

-- A random number that tells this outbox from another of the same database: see
-- src/outbox/origin.c.  It is not part of dumps, so that a restored dump, even
-- over its source, has another.
CREATE TABLE @extschema@.tegro_origin (
	singleton		pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (singleton),
	number			pg_catalog.text NOT NULL DEFAULT pg_catalog.replace(pg_catalog.gen_random_uuid()::pg_catalog.text, '-', ''),
	since			pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	reason			pg_catalog.text NOT NULL
);
REVOKE ALL ON TABLE @extschema@.tegro_origin FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_origin IS
'a random number that is part of the origin of each request; one row';
COMMENT ON COLUMN @extschema@.tegro_origin.singleton IS 'always true: there is one row';
COMMENT ON COLUMN @extschema@.tegro_origin.number IS 'the random number, in hexadecimal digits';
COMMENT ON COLUMN @extschema@.tegro_origin.since IS 'time of the last change of this row';
COMMENT ON COLUMN @extschema@.tegro_origin.reason IS 'cause of that change: CREATE EXTENSION, a TRUNCATE, or the reason given to tegro_take_over';
INSERT INTO @extschema@.tegro_origin (reason) VALUES ('CREATE EXTENSION');

-- Rows that are loaded after a TRUNCATE come from an older dump.
CREATE FUNCTION @extschema@.tegro_new_origin()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'tegro_new_origin'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.tegro_new_origin() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_new_origin() IS
'draws a new random number for tegro_origin; trigger of the extension''s own tables';

CREATE TRIGGER tegro_outbox_truncated AFTER TRUNCATE ON @extschema@.tegro_outbox
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.tegro_new_origin();
CREATE TRIGGER tegro_event_truncated AFTER TRUNCATE ON @extschema@.tegro_event
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.tegro_new_origin();
ALTER TABLE @extschema@.tegro_outbox ENABLE ALWAYS TRIGGER tegro_outbox_truncated;
ALTER TABLE @extschema@.tegro_event ENABLE ALWAYS TRIGGER tegro_event_truncated;
COMMENT ON TRIGGER tegro_outbox_truncated ON @extschema@.tegro_outbox IS
'draws a new random number: rows that are loaded later are of another origin';
COMMENT ON TRIGGER tegro_event_truncated ON @extschema@.tegro_event IS
'draws a new random number: rows that are loaded later are of another origin';

-- Keys for hashes of erased parameters.  CREATE EXTENSION makes none: a restored
-- dump brings the rows of its source, and they must not meet another one.  The
-- first hash makes a key.  Two keys can meet where rows are restored into a
-- database that has made its own: hashes of both stay valid.
CREATE TABLE @extschema@.tegro_key (
	key				pg_catalog.bytea PRIMARY KEY,
	made_at			pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
REVOKE ALL ON TABLE @extschema@.tegro_key FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_key IS
'keys for the hashes of erased parameters; only the owner reads them, since whoever has one can guess what was erased';
COMMENT ON COLUMN @extschema@.tegro_key.key IS '32 random bytes';
COMMENT ON COLUMN @extschema@.tegro_key.made_at IS 'when it was made; the oldest one is used';

-- No policy lets another role read a key, even one with SELECT.
ALTER TABLE @extschema@.tegro_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.tegro_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.tegro_event ENABLE ROW LEVEL SECURITY;
CREATE POLICY tegro_outbox_own ON @extschema@.tegro_outbox FOR SELECT
	USING (pg_catalog.pg_has_role(enqueued_by, 'MEMBER')
		   AND pg_catalog.pg_get_userbyid(enqueued_by)::pg_catalog.text OPERATOR(pg_catalog.=) enqueued_by_name);
CREATE POLICY tegro_event_own ON @extschema@.tegro_event FOR SELECT
	USING (EXISTS (SELECT FROM @extschema@.tegro_outbox o
					WHERE o.id OPERATOR(pg_catalog.=) outbox_id));
COMMENT ON POLICY tegro_outbox_own ON @extschema@.tegro_outbox IS
'a role sees what it, or a role that it belongs to, has enqueued';
COMMENT ON POLICY tegro_event_own ON @extschema@.tegro_event IS
'events of the requests that the role sees';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_outbox', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_outbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_event', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_key', '');

-- The rate is that since the first that was finished in the last minute: a
-- backlog that is worked off since ten seconds has the rate of those ten.
CREATE VIEW @extschema@.tegro_outbox_summary WITH (security_invoker = true) AS
SELECT shop_id, method, state, requests, oldest,
	   pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest AS age,
	   next_at, finished_last_minute,
	   CASE WHEN state OPERATOR(pg_catalog.=) ANY (ARRAY['ready', 'sending']) AND finished_last_minute OPERATOR(pg_catalog.>) 0
			THEN (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) first_finished)
				 OPERATOR(pg_catalog.*) (requests::pg_catalog.float8 OPERATOR(pg_catalog./) finished_last_minute::pg_catalog.float8)
	   END AS time_left
  FROM (SELECT shop_id, method, state, requests, oldest, next_at,
			   pg_catalog.sum(finished) OVER (PARTITION BY shop_id, method)::pg_catalog.int8 AS finished_last_minute,
			   pg_catalog.min(first_finished) OVER (PARTITION BY shop_id, method) AS first_finished
		  FROM (SELECT shop_id, method, state, pg_catalog.count(*) AS requests,
					   pg_catalog.min(enqueued_at) AS oldest, pg_catalog.min(next_at) AS next_at,
					   pg_catalog.count(*) FILTER (WHERE finished_at OPERATOR(pg_catalog.>=) since) AS finished,
					   pg_catalog.min(finished_at) FILTER (WHERE finished_at OPERATOR(pg_catalog.>=) since) AS first_finished
				  FROM @extschema@.tegro_outbox,
					   LATERAL (VALUES (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(mins => 1))) AS w (since)
				 GROUP BY shop_id, method, state) AS s) AS r;
REVOKE ALL ON TABLE @extschema@.tegro_outbox_summary FROM PUBLIC;
COMMENT ON VIEW @extschema@.tegro_outbox_summary IS
'how many requests are in which state, the age of the oldest, and how fast they are worked off';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.shop_id IS 'public key of the shop';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.method IS 'createOrder or createWithdrawal';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.state IS 'as in tegro_outbox';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.requests IS 'how many there are';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.oldest IS 'when the oldest of them was enqueued';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.age IS 'how long ago that is';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.next_at IS 'when the next of them is looked at';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.finished_last_minute IS 'how many of this shop and method were finished in the last minute';
COMMENT ON COLUMN @extschema@.tegro_outbox_summary.time_left IS 'how long these would take at the rate of late; null where nothing was finished in the last minute, and of those that are not to be sent';

CREATE FUNCTION @extschema@.tegro_create_withdrawal(params pg_catalog.jsonb)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_create_withdrawal'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_create_withdrawal(pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_create_withdrawal(pg_catalog.jsonb) IS
'pays out now (method createWithdrawal), through the outbox: the request is on record before it is sent, whatever becomes of this transaction; params need currency, account, amount and payment_id, the shop''s own number; the same payment_id again returns what became of it';

CREATE FUNCTION @extschema@.tegro_enqueue(method pg_catalog.text, params pg_catalog.jsonb, callback pg_catalog.regprocedure DEFAULT NULL, deliver_after pg_catalog.timestamptz DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'tegro_enqueue'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_enqueue(pg_catalog.text, pg_catalog.jsonb, pg_catalog.regprocedure, pg_catalog.timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_enqueue(pg_catalog.text, pg_catalog.jsonb, pg_catalog.regprocedure, pg_catalog.timestamptz) IS
'puts createOrder or createWithdrawal into the outbox, to be sent once this transaction commits; returns the request''s number; callback is a function (id bigint, state text, reference text, answer jsonb) that is called with the outcome';

CREATE FUNCTION @extschema@.tegro_wait(id pg_catalog.int8, timeout pg_catalog.interval DEFAULT '30 s')
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_wait'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;
REVOKE ALL ON FUNCTION @extschema@.tegro_wait(pg_catalog.int8, pg_catalog.interval) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_wait(pg_catalog.int8, pg_catalog.interval) IS
'waits for the outcome of a request in the outbox: its answer, or the error that it ended with';

CREATE FUNCTION @extschema@.tegro_cancel(id pg_catalog.int8)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_cancel'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_cancel(pg_catalog.int8) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_cancel(pg_catalog.int8) IS
'takes back a request that waits to be sent; one that may have been sent before goes to review';

CREATE FUNCTION @extschema@.tegro_retry(id pg_catalog.int8)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_retry'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_retry(pg_catalog.int8) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_retry(pg_catalog.int8) IS
'sends a request again that was refused or cancelled; asks for another link of an order that has none';

CREATE FUNCTION @extschema@.tegro_refresh(id pg_catalog.int8)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_refresh'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_refresh(pg_catalog.int8) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_refresh(pg_catalog.int8) IS
'does now what a request waits for: sends it, looks it up, or calls its callback; changes no state';

CREATE FUNCTION @extschema@.tegro_resolve(id pg_catalog.int8, decision pg_catalog.text, reason pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_resolve'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_resolve(pg_catalog.int8, pg_catalog.text, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_resolve(pg_catalog.int8, pg_catalog.text, pg_catalog.text) IS
'a person''s decision on a request in review, or unknown: accepted (it took effect), refused (it did not, and is not to be sent) or resend (it did not; send it again)';

CREATE FUNCTION @extschema@.tegro_forget(id pg_catalog.int8, reason pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_forget'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_forget(pg_catalog.int8, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_forget(pg_catalog.int8, pg_catalog.text) IS
'erases the parameters, answers and messages of a finished request now, as tegro.retention does later; its reference, amount, state and decisions stay';

-- The words are the reader's, who may be the shop's owner; details are in the
-- tables.  Texts of others, also those in parameters, pass a filter here, for a
-- terminal obeys control characters and turns lines around for others.  There is
-- no search_path: it must tell whether the caller's finds the functions named.
CREATE FUNCTION @extschema@.tegro_explain(id pg_catalog.int8)
RETURNS pg_catalog.text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE COST 1000
BEGIN ATOMIC
WITH request AS (
	SELECT o.id, o.shop_id, o.method, o.reference, o.state, o.next_at, o.failures, o.absent, o.message,
		   o.enqueued_by_name, o.enqueued_at, o.aside, o.callback_state, o.callback_message, o.callback_at,
		   pg_catalog.regexp_replace(o.callback, '[(][^(]*[)]$', '') AS callback,
		   o.params IS NULL AS is_stripped,
		   coalesce(pg_catalog.jsonb_extract_path_text(o.params, 'amount'), o.amount::pg_catalog.text) AS amount,
		   coalesce(pg_catalog.jsonb_extract_path_text(o.params, 'currency'), o.currency) AS currency,
		   pg_catalog.jsonb_extract_path_text(o.params, 'account') AS account,
		   o.method OPERATOR(pg_catalog.=) 'createWithdrawal' AS is_payout,
		   -- as tegro_wait tells it
		   o.attempts OPERATOR(pg_catalog.=) 0 AND o.unknown_since IS NULL AND o.decision IS NULL AS never_sent,
		   o.attempts OPERATOR(pg_catalog.=) 0 AND o.failures OPERATOR(pg_catalog.=) 0
			   AND o.events OPERATOR(pg_catalog.=) 0 AS is_new,
		   pg_catalog.jsonb_extract_path_text(o.answer, 'data', 'url') IS NULL AS is_linkless,
		   coalesce(o.claimed_until OPERATOR(pg_catalog.>) pg_catalog.statement_timestamp(), false) AS is_claimed
	  FROM @extschema@.tegro_outbox o
	 WHERE o.id OPERATOR(pg_catalog.=) tegro_explain.id),
event AS (
	SELECT e.event_no, e.event, e.started_at, e.ended_at, e.role_name, e.state, e.message, e.outcome, e.http_status,
		   pg_catalog.round(pg_catalog.date_part('epoch', e.ended_at OPERATOR(pg_catalog.-) e.started_at)::pg_catalog.numeric, 2) AS seconds,
		   -- something else happened between a send and its outcome
		   coalesce(pg_catalog.lead(e.started_at) OVER (ORDER BY e.event_no) OPERATOR(pg_catalog.<) e.ended_at, false) AS is_late,
		   pg_catalog.lead(e.event_no) OVER (ORDER BY e.event_no) IS NULL AS is_last
	  FROM request r
	  JOIN @extschema@.tegro_event e ON e.outbox_id OPERATOR(pg_catalog.=) r.id),
-- How a send ended, if it has, and what became of the request by it.
send AS (
	SELECT e.event_no, e.is_late, e.is_last, e.started_at, e.ended_at, w.outcome IS NOT NULL AS has_ended,
		   -- without what the outcome says already, and what an engineer reads
		   pg_catalog.regexp_replace(pg_catalog.regexp_replace(
			   e.message, '^(Tegro refused \w+|the outcome of \w+ is unknown): ', ''),
			   ' [(][^()]*total [0-9.]+ ms[^()]*[)]$', '') AS words,
		   CASE WHEN e.is_late
				THEN pg_catalog.format('the send of %s ended late: %s',
									   pg_catalog.to_char(e.started_at, 'HH24:MI:SS'), w.said)
				ELSE w.said_at_once END AS said,
		   pg_catalog.concat(' after ', e.seconds, ' s', ' (HTTP ' OPERATOR(pg_catalog.||) e.http_status::pg_catalog.text OPERATOR(pg_catalog.||) ')',
			   CASE WHEN e.state IS NULL THEN '; it came too late to count' ELSE t.said END) AS how
	  FROM event e
	  LEFT JOIN (VALUES ('answered', 'sent, and accepted', 'it was accepted'),
						('refused', 'sent, and refused', 'it was refused'),
						('rate limited', 'sent, and turned away for now', 'it was turned away for now'),
						('not sent', 'certainly not sent', 'it was certainly not sent'),
						('unknown', 'sent, without a usable answer', 'there is no usable answer')) AS w (outcome, said_at_once, said)
		ON w.outcome OPERATOR(pg_catalog.=) e.outcome
	  LEFT JOIN (VALUES ('ready', '; it is sent again'),
						('unknown', '; it may have taken effect, so it is looked up'),
						('review', '; an earlier send may have taken effect, so it needs review'),
						('cancelled', '; it is cancelled')) AS t (state, said)
		ON t.state OPERATOR(pg_catalog.=) e.state
	 WHERE e.event OPERATOR(pg_catalog.=) 'send'),
line AS (
	SELECT 0 AS n, 0 AS part, r.enqueued_at AS at,
		   pg_catalog.format('enqueued by role %s (time zone %s)', r.enqueued_by_name, pg_catalog.current_setting('TimeZone')) AS head, NULL AS words
	  FROM request r
	UNION ALL
	-- sends
	SELECT s.event_no, 0, s.started_at,
		   CASE WHEN s.has_ended AND NOT s.is_late THEN pg_catalog.concat(s.said, s.how)
				WHEN s.has_ended OR NOT s.is_last THEN 'sent'
				WHEN r.is_claimed THEN 'sent; the answer is awaited'
				ELSE 'sent; its delivery worker ended before it told the outcome' END,
		   CASE WHEN s.has_ended AND NOT s.is_late THEN s.words END
	  FROM request r CROSS JOIN send s
	UNION ALL
	SELECT (SELECT pg_catalog.max(e.event_no) FROM event e WHERE e.started_at OPERATOR(pg_catalog.<=) s.ended_at),
		   1, s.ended_at, pg_catalog.concat(s.said, s.how), s.words
	  FROM send s WHERE s.has_ended AND s.is_late
	UNION ALL
	-- decisions: the note repeats who and when
	SELECT e.event_no, 0, e.started_at,
		   CASE WHEN e.event OPERATOR(pg_catalog.<>) 'resolved' THEN pg_catalog.concat(e.event, ' by role ', e.role_name)
				ELSE pg_catalog.concat('role ', e.role_name, ' decided that it ', d.said) END,
		   nullif(pg_catalog.regexp_replace(
			   e.message, '^.*? at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^ ]*?( [^ ]+?)?(: |$)', ''), '')
	  FROM event e
	  LEFT JOIN (VALUES ('accepted', 'took effect'),
						('refused', 'did not take effect'),
						('ready', 'did not take effect and is to be sent again')) AS d (state, said)
		ON d.state OPERATOR(pg_catalog.=) e.state
	 WHERE e.event OPERATOR(pg_catalog.<>) 'send' AND e.role_name IS NOT NULL
	UNION ALL
	-- the rest, which has whole sentences
	SELECT e.event_no, 0, e.started_at, h.head, e.message
	  FROM event e
	  LEFT JOIN (VALUES ('found', 'looked up'), ('not found', 'looked up'), ('found different', 'looked up'),
						('given up', 'looked up'), ('no answer', NULL), ('lost', NULL), ('failover', NULL),
						('conflict', NULL)) AS k (event, head)
		ON k.event OPERATOR(pg_catalog.=) e.event
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN k.event IS NULL OR e.message IS NULL THEN e.event ELSE k.head END) AS h (head)
	 WHERE e.event OPERATOR(pg_catalog.<>) 'send' AND e.role_name IS NULL
	UNION ALL
	-- what only the row knows
	SELECT 2147483647, 2, NULL, nullif(pg_catalog.concat_ws('; ', x.absent, x.failures), ''), x.message
	  FROM request r
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN r.absent OPERATOR(pg_catalog.>) 0 THEN pg_catalog.format('lookups in a row that did not find it: %s', r.absent) END,
			   CASE WHEN r.failures OPERATOR(pg_catalog.>) 1 AND r.next_at IS NOT NULL
					THEN pg_catalog.format('failures in a row: %s', r.failures) END,
			   CASE WHEN r.message OPERATOR(pg_catalog.<>) r.state
					 AND NOT (r.absent OPERATOR(pg_catalog.>) 0 AND r.message OPERATOR(pg_catalog.~) '^not found so far')
					 AND NOT EXISTS (SELECT FROM event e WHERE e.message OPERATOR(pg_catalog.=) r.message)
					THEN pg_catalog.regexp_replace(r.message, '^(it took effect after all): .*$', '\1') END) AS x (absent, failures, message)
	 WHERE coalesce(x.absent, x.failures, x.message) IS NOT NULL),
-- Where there are many, the first and the last.
numbered AS (
	SELECT l.at, l.head, l.words,
		   pg_catalog.row_number() OVER (ORDER BY l.n, l.part) AS n,
		   pg_catalog.count(*) OVER () AS lines
	  FROM line l),
-- What is left to do.
step AS (
	SELECT CASE
			WHEN r.aside IS NOT NULL
			THEN 'nothing: it comes from another database, and waits for tegro_take_over or tegro_resolve.'
			WHEN r.is_claimed AND r.state OPERATOR(pg_catalog.=) 'sending' THEN 'a delivery worker waits for the answer.'
			WHEN r.is_claimed AND NOT b.is_end THEN 'a delivery worker is looking it up now.'
			WHEN r.state OPERATOR(pg_catalog.=) 'review' AND r.next_at IS NULL THEN 'a person decides; nothing happens by itself.'
			WHEN r.state OPERATOR(pg_catalog.=) 'review'
			THEN pg_catalog.concat('a person decides; in case it is found, it is looked up ', w.due, '.')
			WHEN NOT b.is_end
			THEN pg_catalog.concat(
				CASE WHEN r.state OPERATOR(pg_catalog.<>) 'ready' THEN 'it is looked up '
					 WHEN r.is_new AND w.seconds OPERATOR(pg_catalog.>) 0 THEN 'it waits for its time, and is sent '
					 ELSE 'it is sent ' END, w.due, '.',
				CASE WHEN w.seconds OPERATOR(pg_catalog.<) -60 THEN ' It is late: tegro_doctor() says why.' END)
			WHEN r.callback_at IS NOT NULL
			THEN pg_catalog.concat('its callback ', r.callback, ' is called ', w.due, '.')
			WHEN r.callback_state OPERATOR(pg_catalog.=) 'failed'
			THEN pg_catalog.concat('nothing; its callback ', r.callback, ' failed too often and is not called any more.')
			WHEN r.callback_state OPERATOR(pg_catalog.=) 'done'
			THEN pg_catalog.concat('nothing; its callback ', r.callback, ' was called.')
			ELSE 'nothing is left to do.' END AS head,
		   CASE WHEN b.is_end AND r.callback_message IS NOT NULL THEN ' Its last error' END AS tail,
		   CASE WHEN b.is_end THEN r.callback_message END AS words
	  FROM request r
	 CROSS JOIN LATERAL (
		SELECT r.state OPERATOR(pg_catalog.=) ANY (ARRAY['accepted', 'refused', 'cancelled'])) AS b (is_end)
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN b.is_end THEN r.callback_at ELSE r.next_at END) AS a (at)
	 CROSS JOIN LATERAL (
		SELECT pg_catalog.date_part('epoch', a.at) OPERATOR(pg_catalog.-)
			   pg_catalog.date_part('epoch', pg_catalog.statement_timestamp())) AS s (seconds)
	 CROSS JOIN LATERAL (
		SELECT s.seconds,
			   CASE WHEN s.seconds OPERATOR(pg_catalog.<=) 0 THEN 'now'
					-- by hand
					WHEN (s.seconds OPERATOR(pg_catalog.<) 'infinity') IS NOT TRUE THEN 'never'
					ELSE pg_catalog.format('at %s (in %s)', pg_catalog.to_char(a.at, 'YYYY-MM-DD HH24:MI:SS'),
						CASE WHEN s.seconds OPERATOR(pg_catalog.<) 120 THEN pg_catalog.concat(pg_catalog.ceil(s.seconds), ' s')
							 WHEN s.seconds OPERATOR(pg_catalog.<) 7200
							 THEN pg_catalog.concat(pg_catalog.round(s.seconds OPERATOR(pg_catalog./) 60), ' min')
							 WHEN s.seconds OPERATOR(pg_catalog.<) 172800
							 THEN pg_catalog.concat(pg_catalog.round(s.seconds OPERATOR(pg_catalog./) 3600), ' h')
							 ELSE pg_catalog.concat(pg_catalog.round(s.seconds OPERATOR(pg_catalog./) 86400), ' days') END) END) AS w (seconds, due)),
-- What src/outbox/transition.c lets a person do.
command AS (
	SELECT c.n, pg_catalog.concat('  SELECT ',
			   -- a function of that name elsewhere may be the better match
			   CASE WHEN NOT pg_catalog.pg_function_is_visible(f.oid)
						 OR EXISTS (SELECT FROM pg_catalog.pg_proc o
									 WHERE o.proname OPERATOR(pg_catalog.=) f.proname
									   AND o.pronamespace OPERATOR(pg_catalog.<>) f.pronamespace)
					THEN pg_catalog.quote_ident(s.nspname) OPERATOR(pg_catalog.||) '.' END,
			   f.proname, '(', r.id, c.arguments, ');') AS command, c.effect
	  FROM request r
	 CROSS JOIN LATERAL (
		SELECT 1, '@extschema@.tegro_cancel(pg_catalog.int8)'::pg_catalog.regprocedure, '', 'do not send it'
		 WHERE r.state OPERATOR(pg_catalog.=) 'ready' AND NOT r.is_claimed AND r.aside IS NULL
		UNION ALL
		SELECT 2, '@extschema@.tegro_refresh(pg_catalog.int8)'::pg_catalog.regprocedure, '',
			   CASE WHEN r.state OPERATOR(pg_catalog.=) 'ready' THEN 'send it now'
					WHEN r.state OPERATOR(pg_catalog.=) ANY (ARRAY['unknown', 'review']) THEN 'look it up now'
					ELSE 'call the callback now' END
		 WHERE r.aside IS NULL
		   AND CASE WHEN r.state OPERATOR(pg_catalog.=) ANY (ARRAY['ready', 'unknown', 'review'])
					THEN NOT r.is_claimed AND NOT (r.never_sent AND r.state OPERATOR(pg_catalog.=) 'review')
						 AND (r.next_at OPERATOR(pg_catalog.<=) pg_catalog.statement_timestamp()) IS NOT TRUE
					ELSE r.callback_at IS NOT NULL OR r.callback_state OPERATOR(pg_catalog.=) 'failed' END
		UNION ALL
		SELECT 3, '@extschema@.tegro_retry(pg_catalog.int8)'::pg_catalog.regprocedure, '',
			   CASE WHEN r.state OPERATOR(pg_catalog.=) 'accepted' THEN 'it has no link to pay at: ask for another'
					WHEN r.state OPERATOR(pg_catalog.=) 'cancelled' THEN 'send it after all'
					ELSE 'send it again as it is' END
		 WHERE r.aside IS NULL AND NOT r.is_stripped
		   AND (r.state OPERATOR(pg_catalog.=) ANY (ARRAY['refused', 'cancelled'])
				OR (r.state OPERATOR(pg_catalog.=) 'accepted' AND NOT r.is_payout AND r.is_linkless))
		UNION ALL
		SELECT d.n, '@extschema@.tegro_resolve(pg_catalog.int8, pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure,
			   pg_catalog.format(', %L, ''how you know''', d.decision), d.effect
		  FROM (VALUES (4, 'accepted', 'it took effect'),
					   (5, 'refused', CASE WHEN r.never_sent THEN 'it is not to be sent' ELSE 'it did not take effect' END),
					   (6, 'resend', CASE WHEN r.never_sent THEN 'send it'
											WHEN r.is_payout THEN 'send it again; if it did take effect, it is paid twice'
											ELSE 'it did not take effect: send it again' END)
			   ) AS d (n, decision, effect)
		 WHERE r.state OPERATOR(pg_catalog.=) ANY (ARRAY['unknown', 'review'])) AS c (n, function, arguments, effect)
	  JOIN pg_catalog.pg_proc f ON f.oid OPERATOR(pg_catalog.=) c.function::pg_catalog.oid
	  JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) f.pronamespace),
padded AS (
	SELECT c.n, pg_catalog.concat(
			   pg_catalog.rpad(c.command, pg_catalog.max(pg_catalog.length(c.command)) OVER ()),
			   -- not as one string: script/check-sql takes that for a comment
			   '  -', '- ', c.effect) AS command
	  FROM command c),
-- The pages' lines: what is ours, and the words of others.
part AS (
	SELECT 1 AS n, 0::pg_catalog.int8 AS m, pg_catalog.format('Request %s is %s: %s.', r.id,
			   CASE WHEN r.state OPERATOR(pg_catalog.=) 'review' THEN 'in review' ELSE r.state END,
			   CASE WHEN r.state OPERATOR(pg_catalog.=) 'review' AND r.never_sent THEN 'it was not sent; a person decides'
					ELSE s.said END) AS head, NULL AS words
	  FROM request r
	  LEFT JOIN (VALUES ('ready', 'it waits to be sent'), ('sending', 'it is on its way'),
						('unknown', 'it may have taken effect'), ('accepted', 'Tegro has it'),
						('refused', 'it did not take effect'), ('review', 'it may have taken effect; a person decides'),
						('cancelled', 'it is not sent')) AS s (state, said)
		ON s.state OPERATOR(pg_catalog.=) r.state
	UNION ALL
	SELECT 2, 0, pg_catalog.concat(
			   CASE WHEN r.is_payout THEN 'Payout' ELSE 'Order' END,
			   ' of ' OPERATOR(pg_catalog.||) pg_catalog.left(r.amount, 40),
			   ' ' OPERATOR(pg_catalog.||) pg_catalog.left(r.currency, 10),
			   ' to account ...' OPERATOR(pg_catalog.||) pg_catalog.right(r.account, 4),
			   ' for reference "', pg_catalog.left(r.reference, 100), '", shop ', pg_catalog.left(r.shop_id, 64),
			   CASE WHEN r.is_stripped THEN '; its parameters were erased' END, '.'), NULL
	  FROM request r
	UNION ALL
	SELECT 3, 0, '', NULL FROM request r
	UNION ALL
	SELECT 4, 2 OPERATOR(pg_catalog.*) l.n, pg_catalog.concat(
			   pg_catalog.rpad(coalesce(pg_catalog.to_char(l.at, 'YYYY-MM-DD HH24:MI:SS'), 'now'), 19),
			   '  ', l.head), l.words
	  FROM numbered l
	 WHERE l.lines OPERATOR(pg_catalog.<=) 20 OR l.n OPERATOR(pg_catalog.<=) 5 OR l.n OPERATOR(pg_catalog.>) (l.lines OPERATOR(pg_catalog.-) 14)
	UNION ALL
	SELECT 4, 11, pg_catalog.format('... %s more events are in tegro_event', l.lines OPERATOR(pg_catalog.-) 19), NULL
	  FROM numbered l WHERE l.n OPERATOR(pg_catalog.=) 5 AND l.lines OPERATOR(pg_catalog.>) 20
	UNION ALL
	SELECT 5, 0, '', NULL FROM request r
	UNION ALL
	SELECT 6, 0, pg_catalog.concat('Next: ', s.head, s.tail), s.words FROM step s
	UNION ALL
	SELECT 7, 0, 'You can:', NULL FROM padded p WHERE p.n OPERATOR(pg_catalog.=) (SELECT pg_catalog.min(q.n) FROM padded q)
	UNION ALL
	SELECT 8, p.n, p.command, NULL FROM padded p)
SELECT coalesce(
		   pg_catalog.string_agg(
			   pg_catalog.rtrim(pg_catalog.regexp_replace(
				   pg_catalog.concat(p.head, CASE WHEN p.head OPERATOR(pg_catalog.<>) '' AND w.words IS NOT NULL
												   AND p.head OPERATOR(pg_catalog.!~) '  $' THEN ': ' END,
									 CASE WHEN pg_catalog.length(w.words) OPERATOR(pg_catalog.>) 200
										  THEN pg_catalog.left(w.words, 197) OPERATOR(pg_catalog.||) '...' ELSE w.words END)
					   COLLATE pg_catalog."C",
				   -- control characters, and those that hide or turn around others
				   CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'UTF8'
						THEN '[[:cntrl:]\u0080-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]+'
						ELSE '[[:cntrl:]]+' END, ' ', 'g')),
			   pg_catalog.chr(10) ORDER BY p.n, p.m),
		   pg_catalog.format('Request %s is not in the outbox, or another role enqueued it.',
							 coalesce(tegro_explain.id::pg_catalog.text, 'NULL')))
  FROM request r
 CROSS JOIN part p
 -- of account numbers no more than the end: the request's own, and the other
 -- one of a lookup that found something different
 CROSS JOIN LATERAL (
	SELECT pg_catalog.regexp_replace(
			   CASE WHEN pg_catalog.length(r.account) OPERATOR(pg_catalog.>) 4
					THEN pg_catalog.replace(p.words, r.account, '...' OPERATOR(pg_catalog.||) pg_catalog.right(r.account, 4))
					ELSE p.words END,
			   '(account .* was asked for, ).*(.{4} is there)', '\1...\2')) AS w (words);
END;
REVOKE ALL ON FUNCTION @extschema@.tegro_explain(pg_catalog.int8) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_explain(pg_catalog.int8) IS
'the story of a request of the outbox in words: what happened and when, the next step, and the commands that a person can use';

CREATE FUNCTION @extschema@.tegro_take_over(reason pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_take_over'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_take_over(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_take_over(pg_catalog.text) IS
'takes over the requests that were enqueued under another origin: orders are looked up, payouts go to review';

CREATE PROCEDURE @extschema@.tegro_deliver(max pg_catalog.int4 DEFAULT NULL)
AS 'MODULE_PATHNAME', 'tegro_deliver'
LANGUAGE C;
REVOKE ALL ON PROCEDURE @extschema@.tegro_deliver(pg_catalog.int4) FROM PUBLIC;
COMMENT ON PROCEDURE @extschema@.tegro_deliver(pg_catalog.int4) IS
'delivers what is due, at most max requests, in this session, as the background worker does';

CREATE FUNCTION @extschema@.tegro_report(since pg_catalog.timestamptz DEFAULT pg_catalog.now() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval)
RETURNS pg_catalog.text
AS 'MODULE_PATHNAME', 'tegro_report'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000
SET search_path = pg_catalog, pg_temp;
REVOKE ALL ON FUNCTION @extschema@.tegro_report(pg_catalog.timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_report(pg_catalog.timestamptz) IS
'the outbox since then, as a page of HTML that needs nothing else: what waits for a person and what to do about it, backlog, sends and failures, times, findings of the doctor; of the requests that the caller sees';

CREATE FUNCTION @extschema@.tegro_create_order_trigger()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'tegro_create_order_trigger'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.tegro_create_order_trigger() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_create_order_trigger() IS
'trigger that enqueues a payment order for each row; argument 1: the parameters as JSON, in which a string "$column" stands for that column of the row; argument 2, optional: the callback, with its schema';

CREATE FUNCTION @extschema@.tegro_create_withdrawal_trigger()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'tegro_create_withdrawal_trigger'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.tegro_create_withdrawal_trigger() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_create_withdrawal_trigger() IS
'trigger that enqueues a payout for each row; argument 1: the parameters as JSON, in which a string "$column" stands for that column of the row; argument 2, optional: the callback, with its schema';

--
-- Foreign tables over the provider's lists.
--
-- Who may use the wrapper can make servers, and tables of them, and read what
-- his keys allow; who may select from such a table reads it with his own keys.
--

CREATE FUNCTION @extschema@.tegro_fdw_handler()
RETURNS pg_catalog.fdw_handler
AS 'MODULE_PATHNAME', 'tegro_fdw_handler'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_fdw_handler() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_fdw_handler() IS
'handler of the foreign-data wrapper tegro_fdw';

CREATE FUNCTION @extschema@.tegro_fdw_validator(options pg_catalog.text[], catalog pg_catalog.oid)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_fdw_validator'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_fdw_validator(pg_catalog.text[], pg_catalog.oid) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_fdw_validator(pg_catalog.text[], pg_catalog.oid) IS
'checks the options of foreign servers and tables of tegro_fdw';

CREATE FOREIGN DATA WRAPPER tegro_fdw
	HANDLER @extschema@.tegro_fdw_handler
	VALIDATOR @extschema@.tegro_fdw_validator;
REVOKE ALL ON FOREIGN DATA WRAPPER tegro_fdw FROM PUBLIC;
COMMENT ON FOREIGN DATA WRAPPER tegro_fdw IS
'the provider''s lists as tables: shops, balances, orders, withdrawals, modules; servers have the option shop_id, tables the option list';

--
-- Notifications: that orders were paid, says the provider by an HTTP request
-- to the shop.  Nothing is credited on that word: see src/outbox/inbox.c.
--
-- Rows are written as those of the outbox are, and for the same reason there
-- are no CHECK constraints.
--

CREATE TABLE @extschema@.tegro_notification (
	id				pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	shop_id			pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	order_id		pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	status			pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	test			pg_catalog.bool NOT NULL,
	variant			pg_catalog.text COLLATE pg_catalog."C" NOT NULL DEFAULT '',
	confirmed		pg_catalog.bool NOT NULL DEFAULT false,
	state			pg_catalog.text NOT NULL,
	amount			pg_catalog.numeric NOT NULL,
	currency		pg_catalog.text NOT NULL,
	payment_id		pg_catalog.text,
	fields			pg_catalog.jsonb NOT NULL,
	request			pg_catalog.int8,
	role			pg_catalog.oid NOT NULL,
	role_name		pg_catalog.text COLLATE pg_catalog."C" NOT NULL DEFAULT CURRENT_USER,
	received_at		pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	waiting_since	pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	looked_up_at	pg_catalog.timestamptz,
	confirmed_at	pg_catalog.timestamptz,
	next_at			pg_catalog.timestamptz,
	claim_no			pg_catalog.int8 NOT NULL DEFAULT 0,
	claimed_until		pg_catalog.timestamptz,
	failures		pg_catalog.int4 NOT NULL DEFAULT 0,
	origin		pg_catalog.text NOT NULL,
	aside			pg_catalog.text,
	answer			pg_catalog.jsonb,
	sqlstate		pg_catalog.text,
	message			pg_catalog.text,
	callback		pg_catalog.text,
	callback_state	pg_catalog.text,
	callback_message pg_catalog.text,
	callback_at		pg_catalog.timestamptz,
	-- a test must not stand in the way of the payment with the same number
	-- nor the first be the end of one that says something else
	UNIQUE (shop_id, order_id, status, test, variant)
)
WITH (fillfactor = 50);
REVOKE ALL ON TABLE @extschema@.tegro_notification FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_notification IS
'notifications whose signature was right, one for each shop, order and status, and those that say something else of the same, and what the provider said when it was asked';
COMMENT ON COLUMN @extschema@.tegro_notification.id IS 'number of the notification';
COMMENT ON COLUMN @extschema@.tegro_notification.shop_id IS 'public key of the shop';
COMMENT ON COLUMN @extschema@.tegro_notification.order_id IS 'the shop''s own number of the order';
COMMENT ON COLUMN @extschema@.tegro_notification.status IS 'as it came; 1, paid, where it came without';
COMMENT ON COLUMN @extschema@.tegro_notification.test IS 'it says that it is a test; nothing was paid';
COMMENT ON COLUMN @extschema@.tegro_notification.variant IS 'empty, but where another of this order and status was on record that tells another payment, amount or currency: then a hash of these; such a one is never looked up';
COMMENT ON COLUMN @extschema@.tegro_notification.confirmed IS 'the provider, asked by us, says that the order is paid, with this amount; true for ever once it is true';
COMMENT ON COLUMN @extschema@.tegro_notification.state IS 'waiting (the order is looked up), confirmed, review (paid, but something differs; a person decides), unpaid (says the provider), test, noted (not of a payment)';
COMMENT ON COLUMN @extschema@.tegro_notification.amount IS 'amount that it tells';
COMMENT ON COLUMN @extschema@.tegro_notification.currency IS 'currency that it tells';
COMMENT ON COLUMN @extschema@.tegro_notification.payment_id IS 'the provider''s number of the order, where it tells one';
COMMENT ON COLUMN @extschema@.tegro_notification.fields IS 'all its fields but the signature, as texts';
COMMENT ON COLUMN @extschema@.tegro_notification.request IS 'the order''s request in tegro_outbox, where it is one';
COMMENT ON COLUMN @extschema@.tegro_notification.role IS 'role that registered the callback, else the one that brought it; its keys are used, and it runs the callback';
COMMENT ON COLUMN @extschema@.tegro_notification.role_name IS 'name that this role had, as enqueued_by_name in tegro_outbox';
COMMENT ON COLUMN @extschema@.tegro_notification.received_at IS 'when it came; of one that came to nothing and came again, when it came last';
COMMENT ON COLUMN @extschema@.tegro_notification.waiting_since IS 'since when the order is looked up';
COMMENT ON COLUMN @extschema@.tegro_notification.looked_up_at IS 'when the provider last told of the order';
COMMENT ON COLUMN @extschema@.tegro_notification.confirmed_at IS 'when it was confirmed';
COMMENT ON COLUMN @extschema@.tegro_notification.next_at IS 'when the order is looked up next; null when it is not';
COMMENT ON COLUMN @extschema@.tegro_notification.claim_no IS 'how often a delivery worker has claimed it: a fencing token; results count only under the claim that they were got under';
COMMENT ON COLUMN @extschema@.tegro_notification.claimed_until IS 'until when the delivery worker has it to itself';
COMMENT ON COLUMN @extschema@.tegro_notification.failures IS 'lookups or calls in a row that came to nothing; the wait between them grows with it';
COMMENT ON COLUMN @extschema@.tegro_notification.origin IS 'origin under which it was recorded, as in tegro_outbox';
COMMENT ON COLUMN @extschema@.tegro_notification.aside IS 'origin: it was recorded under another origin, and waits for tegro_take_over; null otherwise';
COMMENT ON COLUMN @extschema@.tegro_notification.answer IS 'the lookup''s answer that settled it';
COMMENT ON COLUMN @extschema@.tegro_notification.sqlstate IS 'error of the last lookup';
COMMENT ON COLUMN @extschema@.tegro_notification.message IS 'what happened last, in words';
COMMENT ON COLUMN @extschema@.tegro_notification.callback IS 'function that is called once it is confirmed';
COMMENT ON COLUMN @extschema@.tegro_notification.callback_state IS 'waiting, done or failed; null before it is confirmed';
COMMENT ON COLUMN @extschema@.tegro_notification.callback_message IS 'the callback''s last error';
COMMENT ON COLUMN @extschema@.tegro_notification.callback_at IS 'when the callback is due; null before it is confirmed, and when it was called';

CREATE INDEX tegro_notification_due ON @extschema@.tegro_notification (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX tegro_notification_callback_due ON @extschema@.tegro_notification (callback_at) WHERE callback_at IS NOT NULL;

CREATE TABLE @extschema@.tegro_payment_callback (
	shop_id			pg_catalog.text COLLATE pg_catalog."C" PRIMARY KEY,
	callback		pg_catalog.text NOT NULL,
	role			pg_catalog.oid NOT NULL,
	role_name		pg_catalog.text COLLATE pg_catalog."C" NOT NULL DEFAULT CURRENT_USER,
	number			pg_catalog.text NOT NULL DEFAULT '',
	registered_at	pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
REVOKE ALL ON TABLE @extschema@.tegro_payment_callback FROM PUBLIC;
COMMENT ON TABLE @extschema@.tegro_payment_callback IS
'what is called when an order of a shop is paid, set by tegro_on_payment';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.shop_id IS 'public key of the shop';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.callback IS 'the function, with schema and arguments';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.role IS 'role that registered it, and runs it';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.role_name IS 'name that this role had, as enqueued_by_name in tegro_outbox';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.number IS 'number of tegro_origin under which it was registered';
COMMENT ON COLUMN @extschema@.tegro_payment_callback.registered_at IS 'when';

ALTER TABLE @extschema@.tegro_notification ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.tegro_payment_callback ENABLE ROW LEVEL SECURITY;
CREATE POLICY tegro_notification_own ON @extschema@.tegro_notification FOR SELECT
	USING (pg_catalog.pg_has_role(role, 'MEMBER')
		   AND pg_catalog.pg_get_userbyid(role)::pg_catalog.text OPERATOR(pg_catalog.=) role_name);
CREATE POLICY tegro_payment_callback_own ON @extschema@.tegro_payment_callback FOR SELECT
	USING (pg_catalog.pg_has_role(role, 'MEMBER')
		   AND pg_catalog.pg_get_userbyid(role)::pg_catalog.text OPERATOR(pg_catalog.=) role_name);
COMMENT ON POLICY tegro_notification_own ON @extschema@.tegro_notification IS
'a role sees those that are taken for it, or for a role that it belongs to';
COMMENT ON POLICY tegro_payment_callback_own ON @extschema@.tegro_payment_callback IS
'a role sees what it, or a role that it belongs to, has registered';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_notification', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_notification_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tegro_payment_callback', '');

CREATE FUNCTION @extschema@.tegro_payment_url(params pg_catalog.jsonb)
RETURNS pg_catalog.text
AS 'MODULE_PATHNAME', 'tegro_payment_url'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION @extschema@.tegro_payment_url(pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_payment_url(pg_catalog.jsonb) IS
'a signed link to pay at, made without a request; params need amount, currency and order_id, the shop''s own number; test, payment_system, lang, success_url, fail_url, notify_url, fields and receipt are optional';

CREATE FUNCTION @extschema@.tegro_verify_notification(pg_catalog.text)
RETURNS pg_catalog.bool
AS 'MODULE_PATHNAME', 'tegro_verify_notification'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION @extschema@.tegro_verify_notification(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_verify_notification(pg_catalog.text) IS
'is this body, as it came, signed as a notification? That is no proof of a payment: tegro_notify asks for one';

CREATE FUNCTION @extschema@.tegro_notify(pg_catalog.text)
RETURNS pg_catalog.bool
AS 'MODULE_PATHNAME', 'tegro_notify_body'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_notify(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_notify(pg_catalog.text) IS
'takes a notification, its body as it came: urlencoded, multipart/form-data or JSON; verifies it and puts it on record, once; after commit the provider is asked whether the order is paid; false if it was on record already, an error (28000) if it is not signed';

CREATE FUNCTION @extschema@.tegro_notify(
	shop_id pg_catalog.text, amount pg_catalog.text, order_id pg_catalog.text,
	currency pg_catalog.text, sign pg_catalog.text, payment_system pg_catalog.text DEFAULT NULL,
	test pg_catalog.text DEFAULT NULL, status pg_catalog.text DEFAULT NULL, payment_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.bool
AS 'MODULE_PATHNAME', 'tegro_notify_fields'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_notify(
	pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text,
	pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_notify(
	pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text,
	pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text) IS
'the same for its fields as arguments, as PostgREST passes a form; null is a field that was not there';

CREATE FUNCTION @extschema@.tegro_on_payment(callback pg_catalog.regprocedure, shop_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_on_payment'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_on_payment(pg_catalog.regprocedure, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_on_payment(pg_catalog.regprocedure, pg_catalog.text) IS
'has a function (id bigint, state text, reference text, answer jsonb) called, as the current role, for each order of a shop whose payment is confirmed; null calls nobody';

CREATE FUNCTION @extschema@.tegro_retry_notification(id pg_catalog.int8)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_retry_notification'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_retry_notification(pg_catalog.int8) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_retry_notification(pg_catalog.int8) IS
'asks the provider again for the order of a notification that is in review or unpaid; calls a callback that failed again';

--
-- Is all well, and how much and how long?
--

CREATE FUNCTION @extschema@.tegro_doctor(
	OUT "check" pg_catalog.text, OUT status pg_catalog.text, OUT detail pg_catalog.text, OUT hint pg_catalog.text)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME', 'tegro_doctor'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000 ROWS 30;
REVOKE ALL ON FUNCTION @extschema@.tegro_doctor() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_doctor() IS
'looks for what can be wrong with this installation; a row for each check: status is ok, warning, error, or skipped (where the caller''s rights don''t reach), hint says how to mend it; changes nothing, and asks the provider once, for what the caller may ask';

-- Checks of the doctor that read only catalogs.  All roles can read these
-- catalogs, so the result does not depend on the caller.
--
-- A role is "trusted" if it has the rights of the extension's owner, as every
-- superuser has: other grants give it nothing more.  pg_database_owner is the
-- owner of this database.
--
-- IN, CASE x WHEN and NULLIF find their operator by search_path: do not use them.
CREATE FUNCTION @extschema@.tegro_doctor_rights(
	OUT "check" pg_catalog.text, OUT status pg_catalog.text, OUT detail pg_catalog.text, OUT hint pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE sql STABLE PARALLEL SAFE COST 10000 ROWS 10
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
WITH tegro AS (
	SELECT e.oid, e.extowner, e.extnamespace, o.rolname AS owner, o.rolsuper AS owner_is_super,
		   n.nspname, n.nspowner, n.nspacl, d.datdba
	  FROM pg_catalog.pg_extension e
	  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
	  JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) e.extowner
	  JOIN pg_catalog.pg_database d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
	 WHERE e.extname OPERATOR(pg_catalog.=) 'tegro'),
grantee AS (
	SELECT r.oid, pg_catalog.quote_ident(r.rolname) AS role, r.rolbypassrls, r.rolsuper,
		   pg_catalog.pg_has_role(
			   CASE WHEN r.rolname OPERATOR(pg_catalog.=) 'pg_database_owner' THEN t.datdba ELSE r.oid END,
			   t.extowner, 'USAGE') AS trusted
	  FROM tegro t CROSS JOIN pg_catalog.pg_roles r
	UNION ALL
	SELECT 0::pg_catalog.oid, 'PUBLIC', false, false, false),
member AS (
	SELECT m.classid, m.objid
	  FROM tegro t JOIN pg_catalog.pg_depend m ON m.refobjid OPERATOR(pg_catalog.=) t.oid
	 WHERE m.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
	   AND m.deptype OPERATOR(pg_catalog.=) 'e'),
routine AS (
	SELECT p.oid, p.proname, p.proowner, p.oid::pg_catalog.regprocedure::pg_catalog.text AS title,
		   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl
	  FROM member m JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m.objid
	 WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass),
relation AS (
	SELECT c.oid, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity,
		   c.oid::pg_catalog.regclass::pg_catalog.text AS title,
		   CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
	  FROM member m JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) m.objid
	 WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
	   AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'v', 'S']::pg_catalog."char"[])),
wrapper AS (
	SELECT w.fdwowner, w.fdwacl, pg_catalog.quote_ident(w.fdwname) AS title
	  FROM member m JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) m.objid
	 WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass),

-- What is granted on tables, views and sequences.
granted AS (
	SELECT r.oid, r.relkind, r.relrowsecurity, r.title, r.kind, r.relowner, false AS of_column,
		   a.grantee, a.privilege_type, a.is_grantable
	  FROM relation r CROSS JOIN LATERAL pg_catalog.aclexplode(r.relacl) AS a
	UNION ALL
	SELECT r.oid, r.relkind, r.relrowsecurity, r.title, r.kind, r.relowner, true,
		   a.grantee, a.privilege_type, a.is_grantable
	  FROM relation r
	  JOIN pg_catalog.pg_attribute c ON c.attrelid OPERATOR(pg_catalog.=) r.oid AND NOT c.attisdropped
	 CROSS JOIN LATERAL pg_catalog.aclexplode(c.attacl) AS a),
public_grant AS (
	SELECT DISTINCT x.kind, x.title
	  FROM (SELECT 'ROUTINE' AS kind, r.title, a.grantee
			  FROM routine r CROSS JOIN LATERAL pg_catalog.aclexplode(r.acl) AS a
			UNION ALL
			SELECT g.kind, g.title, g.grantee FROM granted g
			UNION ALL
			SELECT 'FOREIGN DATA WRAPPER', w.title, a.grantee
			  FROM wrapper w CROSS JOIN LATERAL pg_catalog.aclexplode(w.fdwacl) AS a) AS x
	 WHERE x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid),
-- What a grant allows.  Row security restricts SELECT and forbids INSERT, UPDATE
-- and DELETE; it does not apply to TRIGGER, REFERENCES and TRUNCATE.
harm AS (
	SELECT g.grantee, g.title, g.kind, h.status, h.why,
		   pg_catalog.string_agg(DISTINCT g.privilege_type, ', ' ORDER BY g.privilege_type) AS privileges,
		   pg_catalog.bool_or(g.is_grantable) AS is_grantable
	  FROM granted g
	  JOIN grantee r ON r.oid OPERATOR(pg_catalog.=) g.grantee
		   AND NOT r.trusted AND r.oid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
	 CROSS JOIN LATERAL (
		SELECT EXISTS (
			SELECT FROM grantee b
			 WHERE b.rolbypassrls AND NOT b.trusted AND pg_catalog.pg_has_role(b.oid, r.oid, 'USAGE'))) AS p (passes)
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN g.relkind OPERATOR(pg_catalog.=) 'r' THEN 'table'
					WHEN g.relkind OPERATOR(pg_catalog.=) 'S' THEN 'sequence'
					ELSE 'view' END,
			   g.privilege_type OPERATOR(pg_catalog.=) ANY (ARRAY['INSERT', 'UPDATE', 'DELETE']),
			   p.passes OR NOT g.relrowsecurity) AS k (kind, writes, unprotected)
	 CROSS JOIN LATERAL (
		SELECT CASE
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND g.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
			THEN 'error: With TRIGGER, it can run its own code as the extension''s owner.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND g.privilege_type OPERATOR(pg_catalog.=) 'REFERENCES'
			THEN 'error: With REFERENCES, it can run its own code as the extension''s owner at once, by a foreign key from a column of its own type.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND g.privilege_type OPERATOR(pg_catalog.=) 'TRUNCATE'
			THEN 'error: With TRUNCATE, it can delete the record of sent requests.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND k.writes AND k.unprotected
			THEN 'error: Row security does not prevent it from writing.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND k.writes
			THEN 'warning: Only row security prevents it from writing. With UPDATE or DELETE, it can lock the table, which delays delivery.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'table' AND g.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
				 AND p.passes AND NOT g.of_column
				 AND g.oid::pg_catalog.regclass OPERATOR(pg_catalog.=) ANY (ARRAY[
					 '@extschema@.tegro_outbox', '@extschema@.tegro_event',
					 '@extschema@.tegro_notification']::pg_catalog.regclass[])
			THEN 'warning: With BYPASSRLS, it reads the requests of all roles with accounts and customer data.'
			WHEN g.privilege_type OPERATOR(pg_catalog.=) 'SELECT' AND k.unprotected
				 AND g.oid::pg_catalog.regclass OPERATOR(pg_catalog.=) '@extschema@.tegro_key'::pg_catalog.regclass
			THEN 'error: With a key, it can guess erased parameters from their hashes.'
			WHEN k.kind OPERATOR(pg_catalog.=) 'sequence' AND g.privilege_type OPERATOR(pg_catalog.=) 'UPDATE'
			THEN 'error: With UPDATE, it can set the sequence back so that requests cannot be enqueued.'
			WHEN g.privilege_type OPERATOR(pg_catalog.<>) 'SELECT'
			THEN 'warning: No role needs this.'
		END) AS j (judgement)
	 CROSS JOIN LATERAL (
		SELECT pg_catalog.split_part(j.judgement, ': ', 1), pg_catalog.substr(j.judgement, pg_catalog.strpos(j.judgement, ': ') OPERATOR(pg_catalog.+) 2)
	 ) AS h (status, why)
	 WHERE j.judgement IS NOT NULL AND g.grantee OPERATOR(pg_catalog.<>) g.relowner
	 GROUP BY g.grantee, g.title, g.kind, h.status, h.why),
-- The same by table.
harm_of_table AS (
	SELECT h.grantee, h.title, h.kind, h.status,
		   pg_catalog.string_agg(h.privileges, ', ' ORDER BY h.privileges) AS privileges,
		   pg_catalog.string_agg(h.why, ' ' ORDER BY h.privileges) AS why,
		   pg_catalog.bool_or(h.is_grantable) AS is_grantable
	  FROM harm h GROUP BY h.grantee, h.title, h.kind, h.status),
-- Functions that pay out or decide on payouts.
power (routine, allows) AS (
	VALUES ('@extschema@.tegro_create_withdrawal(pg_catalog.jsonb)'::pg_catalog.regprocedure, 'pay out'),
		   ('@extschema@.tegro_create_withdrawal_trigger()'::pg_catalog.regprocedure, 'have rows of their tables pay out'),
		   ('@extschema@.tegro_resolve(pg_catalog.int8, pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure, 'resolve payouts that are in doubt'),
		   ('@extschema@.tegro_retry(pg_catalog.int8)'::pg_catalog.regprocedure, 'have failed payouts sent again'),
		   ('@extschema@.tegro_take_over(pg_catalog.text)'::pg_catalog.regprocedure, 'let a copy of a database deliver')),
powerful AS (
	SELECT p.allows, r.title,
		   pg_catalog.array_agg(g.role ORDER BY g.role) AS roles
	  FROM power p
	  JOIN routine r ON r.oid OPERATOR(pg_catalog.=) p.routine
	  JOIN grantee g ON NOT g.trusted AND g.oid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
	 WHERE EXISTS (
		SELECT FROM pg_catalog.aclexplode(r.acl) AS a
		 WHERE a.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
		   AND pg_catalog.pg_has_role(g.oid, a.grantee, 'MEMBER'))
	 GROUP BY p.allows, r.title),
-- Triggers of the extension on other tables.
shop_trigger AS (
	SELECT t.tgrelid, pg_catalog.quote_ident(t.tgname) AS tgname, c.relowner, t.tgfoid
	  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
	 WHERE t.tgfoid OPERATOR(pg_catalog.=) ANY (ARRAY[
			   '@extschema@.tegro_create_order_trigger()'::pg_catalog.regprocedure::pg_catalog.oid,
			   '@extschema@.tegro_create_withdrawal_trigger()'::pg_catalog.regprocedure::pg_catalog.oid])
	   AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'),
-- Their tables and the partitioned tables above.  Such a trigger fails while a
-- role without the owner's rights can create triggers on one of them:
-- require_owners_triggers() in src/functions/trigger.c.
shop_trigger_table AS (
	SELECT DISTINCT s.tgrelid, s.tgname, s.relowner, c.oid, c.relowner AS above_owner, c.relacl
	  FROM shop_trigger s
	 CROSS JOIN LATERAL (
		SELECT s.tgrelid AS relid
		UNION ALL
		SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors(s.tgrelid) AS a (relid)) AS above
	  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) above.relid),
-- What is granted on settings.
parameter AS (
	SELECT p.parname, a.grantee, g.role, a.privilege_type, a.is_grantable,
		   CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'Every role'
				ELSE pg_catalog.format('Role %s', g.role) END AS title,
		   pg_catalog.format('REVOKE %s ON PARAMETER %s FROM %s%s;', a.privilege_type, p.parname, g.role,
							 CASE WHEN a.is_grantable THEN ' CASCADE' END) AS revoke
	  FROM pg_catalog.pg_parameter_acl p
	 CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) AS a
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) a.grantee AND NOT g.rolsuper
	 WHERE p.parname OPERATOR(pg_catalog.~~) 'tegro.%'),
-- The extension's own policies, which are the only code on its tables.  This list
-- and the definitions above must agree: a new installation shows any difference.
own_policy (relid, polname, qual) AS (
	VALUES ('@extschema@.tegro_outbox'::pg_catalog.regclass, 'tegro_outbox_own',
			'(pg_has_role(enqueued_by, ''MEMBER''::text) AND ((pg_get_userbyid(enqueued_by))::text = enqueued_by_name))'),
		   ('@extschema@.tegro_event'::pg_catalog.regclass, 'tegro_event_own',
			'(EXISTS ( SELECT FROM @extschema@.tegro_outbox o WHERE (o.id = tegro_event.outbox_id)))'),
		   ('@extschema@.tegro_notification'::pg_catalog.regclass, 'tegro_notification_own',
			'(pg_has_role(role, ''MEMBER''::text) AND ((pg_get_userbyid(role))::text = role_name))'),
		   ('@extschema@.tegro_payment_callback'::pg_catalog.regclass, 'tegro_payment_callback_own',
			'(pg_has_role(role, ''MEMBER''::text) AND ((pg_get_userbyid(role))::text = role_name))')),
own_trigger (relid, tgname) AS (
	VALUES ('@extschema@.tegro_outbox'::pg_catalog.regclass, 'tegro_outbox_truncated'),
		   ('@extschema@.tegro_event'::pg_catalog.regclass, 'tegro_event_truncated')),

finding (topic, status, detail, hint) AS (
	SELECT 'rights', 'error',
		   pg_catalog.format('Every role has rights on %s.', pg_catalog.string_agg(p.title, ', ' ORDER BY p.kind, p.title)),
		   pg_catalog.string_agg(pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC;', p.kind, p.title), ' ' ORDER BY p.kind, p.title)
	  FROM public_grant p HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
	UNION ALL
	SELECT 'rights', h.status,
		   pg_catalog.format('Role %s has %s on %s. %s', r.role, h.privileges,
							 pg_catalog.string_agg(h.title, ', ' ORDER BY h.title), h.why),
		   pg_catalog.format('REVOKE %s ON %s %s FROM %s%s;', h.privileges, h.kind,
							 pg_catalog.string_agg(h.title, ', ' ORDER BY h.title), r.role,
							 CASE WHEN pg_catalog.bool_or(h.is_grantable) THEN ' CASCADE' END)
	  FROM harm_of_table h JOIN grantee r ON r.oid OPERATOR(pg_catalog.=) h.grantee
	 GROUP BY r.role, h.status, h.kind, h.privileges, h.why
	UNION ALL
	-- it writes all tables, and may use all schemas
	SELECT 'rights', 'warning',
		   pg_catalog.format('Role %s is a member of pg_write_all_data, which can write tables that row security does not protect.', r.role),
		   pg_catalog.format('REVOKE pg_write_all_data FROM %s;', r.role)
	  FROM pg_catalog.pg_auth_members m
	  JOIN grantee w ON w.oid OPERATOR(pg_catalog.=) m.roleid AND w.role OPERATOR(pg_catalog.=) 'pg_write_all_data'
	  JOIN grantee r ON r.oid OPERATOR(pg_catalog.=) m.member AND NOT r.trusted
	UNION ALL
	SELECT 'rights', c.status,
		   pg_catalog.format('%s can change %s in the configuration file. %s', p.title, p.parname, c.why), p.revoke
	  FROM parameter p
	 CROSS JOIN LATERAL (
		SELECT p.parname OPERATOR(pg_catalog.=) ANY (ARRAY[
				   'tegro.api_url', 'tegro.proxy', 'tegro.ca_file', 'tegro.credentials_file', 'tegro.api_key',
				   'tegro.secret_key'])) AS d (decides)
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN d.decides THEN 'error' ELSE 'warning' END,
			   CASE WHEN d.decides THEN 'That decides where signed requests go, or with whose key.'
					ELSE 'No role but a superuser needs this.' END) AS c (status, why)
	 WHERE p.privilege_type OPERATOR(pg_catalog.=) 'ALTER SYSTEM'
	UNION ALL
	SELECT 'rights', 'error',
		   pg_catalog.format('Every role can set %s, and so decide whose account its calls act for.', p.parname), p.revoke
	  FROM parameter p
	 WHERE p.privilege_type OPERATOR(pg_catalog.=) 'SET' AND p.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid
	   AND p.parname OPERATOR(pg_catalog.=) ANY (ARRAY['tegro.api_key', 'tegro.secret_key'])
	UNION ALL
	SELECT 'payers', 'ok',
		   pg_catalog.format('Roles that can set %s, and so decide whose account their calls act for: %s.', p.parname,
							 pg_catalog.string_agg(DISTINCT p.role, ', ' ORDER BY p.role)),
		   pg_catalog.string_agg(DISTINCT p.revoke, ' ' ORDER BY p.revoke)
	  FROM parameter p
	 WHERE p.privilege_type OPERATOR(pg_catalog.=) 'SET' AND p.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
	   AND p.parname OPERATOR(pg_catalog.=) ANY (ARRAY['tegro.api_key', 'tegro.secret_key'])
	 GROUP BY p.parname
	UNION ALL
	SELECT 'readers', 'ok',
		   pg_catalog.format('Roles that read the requests of all roles (BYPASSRLS): %s.',
							 pg_catalog.string_agg(DISTINCT b.role, ', ' ORDER BY b.role)),
		   NULL
	  -- by a grant, or as a member of pg_read_all_data
	  FROM (SELECT g.grantee FROM granted g
			 WHERE g.relrowsecurity AND g.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
			UNION ALL
			SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname OPERATOR(pg_catalog.=) 'pg_read_all_data') AS g
	  JOIN grantee b ON b.rolbypassrls AND NOT b.trusted AND pg_catalog.pg_has_role(b.oid, g.grantee, 'USAGE')
	HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
	UNION ALL
	SELECT 'readers', 'ok',
		   pg_catalog.format('Roles that read %s: %s.', g.title,
							 pg_catalog.string_agg(DISTINCT r.role, ', ' ORDER BY r.role)),
		   NULL
	  FROM granted g
	  JOIN grantee r ON r.oid OPERATOR(pg_catalog.=) g.grantee
		   AND NOT r.trusted AND r.oid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
	 WHERE g.oid OPERATOR(pg_catalog.=) '@extschema@.tegro_origin'::pg_catalog.regclass::pg_catalog.oid
	   AND g.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
	 GROUP BY g.title
	UNION ALL
	SELECT 'payers', 'ok',
		   pg_catalog.format('Roles that can %s (%s): %s%s.', p.allows, p.title,
							 pg_catalog.array_to_string(p.roles[1:20], ', '),
							 CASE WHEN pg_catalog.cardinality(p.roles) OPERATOR(pg_catalog.>) 20
								  THEN pg_catalog.format(' and %s more', pg_catalog.cardinality(p.roles) OPERATOR(pg_catalog.-) 20) END),
		   NULL
	  FROM powerful p
	UNION ALL
	SELECT 'payers', 'ok',
		   pg_catalog.format('Rows of %s pay out as role %s, by trigger %s.',
							 s.tgrelid::pg_catalog.regclass, g.role, s.tgname),
		   NULL
	  FROM shop_trigger s JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) s.relowner
	 WHERE s.tgfoid OPERATOR(pg_catalog.=) '@extschema@.tegro_create_withdrawal_trigger()'::pg_catalog.regprocedure::pg_catalog.oid
	UNION ALL
	SELECT 'triggers', 'error',
		   pg_catalog.format('Trigger %s of table %s fails for each row: %s can create triggers on table %s, which would enqueue as role %s.',
							 s.tgname, s.tgrelid::pg_catalog.regclass,
							 pg_catalog.string_agg(DISTINCT g.role, ', ' ORDER BY g.role),
							 s.oid::pg_catalog.regclass, o.role),
		   pg_catalog.format('REVOKE TRIGGER ON TABLE %s FROM %s%s; First look at the triggers of the table: they stay, whoever created them.',
							 s.oid::pg_catalog.regclass,
							 pg_catalog.string_agg(DISTINCT g.role, ', ' ORDER BY g.role),
							 CASE WHEN pg_catalog.bool_or(a.is_grantable) THEN ' CASCADE' END)
	  FROM shop_trigger_table s
	 CROSS JOIN LATERAL pg_catalog.aclexplode(s.relacl) AS a
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) a.grantee
	  JOIN grantee o ON o.oid OPERATOR(pg_catalog.=) s.relowner
	 WHERE a.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
	   AND a.grantee OPERATOR(pg_catalog.<>) s.above_owner
	   AND CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN true
				ELSE NOT pg_catalog.pg_has_role(a.grantee, s.relowner, 'USAGE') END
	 GROUP BY s.tgname, s.tgrelid, s.oid, o.role
	UNION ALL
	SELECT 'triggers', 'error',
		   pg_catalog.format('Trigger %s of table %s fails for each row: the partitioned table %s belongs to role %s, and its triggers would enqueue as role %s.',
							 s.tgname, s.tgrelid::pg_catalog.regclass, s.oid::pg_catalog.regclass, a.role, o.role),
		   pg_catalog.format('ALTER TABLE %s OWNER TO %s; First look at the triggers of the table: they stay, whoever created them.',
							 s.oid::pg_catalog.regclass, o.role)
	  FROM shop_trigger_table s
	  JOIN grantee o ON o.oid OPERATOR(pg_catalog.=) s.relowner
	  JOIN grantee a ON a.oid OPERATOR(pg_catalog.=) s.above_owner
	 WHERE NOT pg_catalog.pg_has_role(s.above_owner, s.relowner, 'USAGE')
	UNION ALL
	SELECT 'owners', CASE WHEN g.trusted THEN 'warning' ELSE 'error' END,
		   pg_catalog.format('%s belongs to role %s, the extension to role %s.', x.title, g.role, pg_catalog.quote_ident(t.owner)),
		   pg_catalog.format('ALTER %s %s OWNER TO %I;', x.kind, x.title, t.owner)
	  FROM tegro t
	 CROSS JOIN (
		SELECT 'ROUTINE' AS kind, r.title, r.proowner AS owner FROM routine r
		UNION ALL
		-- a sequence goes with its table
		SELECT r.kind, r.title, r.relowner FROM relation r WHERE r.relkind OPERATOR(pg_catalog.<>) 'S'
		UNION ALL
		SELECT 'FOREIGN DATA WRAPPER', w.title, w.fdwowner FROM wrapper w) AS x
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) x.owner
	 WHERE x.owner OPERATOR(pg_catalog.<>) t.extowner
	UNION ALL
	SELECT 'owners', 'warning',
		   pg_catalog.format('The extension belongs to role %I, which is not a superuser: it can pay out and change what is on record.', t.owner),
		   pg_catalog.format('ALTER ROLE %I NOLOGIN; keeps sessions from it. REASSIGN OWNED BY %I TO %I; gives the extension, and everything else that the role owns in this database, to another.',
							 t.owner, t.owner, pg_catalog.pg_get_userbyid(10::pg_catalog.oid))
	  FROM tegro t WHERE NOT t.owner_is_super
	UNION ALL
	SELECT 'schema', CASE WHEN g.role OPERATOR(pg_catalog.=) 'pg_database_owner' THEN 'warning' ELSE 'error' END,
		   pg_catalog.format('Schema %I belongs to role %s%s, which can create functions that are called in place of the extension''s.',
							 t.nspname, g.role,
							 CASE WHEN g.role OPERATOR(pg_catalog.=) 'pg_database_owner'
								  THEN pg_catalog.format(', that is %I, the owner of this database', pg_catalog.pg_get_userbyid(t.datdba)) END),
		   pg_catalog.format('ALTER SCHEMA %I OWNER TO %I;', t.nspname, t.owner)
	  FROM tegro t JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) t.nspowner AND NOT g.trusted
	UNION ALL
	SELECT 'schema', 'error',
		   pg_catalog.format('%s can create functions in schema %I, which are called in place of the extension''s.',
							 CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'Every role' ELSE pg_catalog.format('Role %s', g.role) END,
							 t.nspname),
		   pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM %s%s;', t.nspname, g.role,
							 CASE WHEN a.is_grantable THEN ' CASCADE' END)
	  FROM tegro t
	 CROSS JOIN LATERAL pg_catalog.aclexplode(t.nspacl) AS a
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) a.grantee AND NOT g.trusted
	 WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' AND a.grantee OPERATOR(pg_catalog.<>) t.nspowner
	UNION ALL
	-- also behind the extension's schema in the search_path: for a literal,
	-- f(text) is a better match than f(jsonb)
	SELECT 'look-alikes',
		   CASE WHEN g.trusted AND p.pronamespace OPERATOR(pg_catalog.<>) t.extnamespace THEN 'warning' ELSE 'error' END,
		   pg_catalog.format('%s of role %s has the name of a function of the extension and can be called in its place.',
							 x.signature, g.role),
		   pg_catalog.format('DROP %s %s; or, if you need it, ALTER %s %s RENAME TO %I;',
							 x.kind, x.signature, x.kind, x.signature, pg_catalog.concat('shop_', p.proname))
	  FROM tegro t
	 CROSS JOIN (SELECT DISTINCT r.proname FROM routine r) AS own
	  JOIN pg_catalog.pg_proc p ON p.proname OPERATOR(pg_catalog.=) own.proname
	  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) p.proowner
	 -- ROUTINE does not take the arguments of ordered-set aggregates
	 CROSS JOIN LATERAL (
		SELECT CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'a' THEN 'AGGREGATE' ELSE 'ROUTINE' END,
			   pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
								 CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'a' AND p.pronargs OPERATOR(pg_catalog.=) 0 THEN '*'
									  ELSE pg_catalog.pg_get_function_identity_arguments(p.oid) END)) AS x (kind, signature)
	 WHERE NOT EXISTS (SELECT FROM routine r WHERE r.oid OPERATOR(pg_catalog.=) p.oid)
	   -- functions are never searched there
	   AND n.nspname OPERATOR(pg_catalog.!~) '^pg_temp_'
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Trigger %I of table %s is not the extension''s: it runs %s, of role %s, with the rights of the extension''s owner.',
							 x.tgname, r.title, p.oid::pg_catalog.regprocedure, g.role),
		   pg_catalog.format('DROP TRIGGER %I ON %s;', x.tgname, r.title)
	  FROM relation r
	  JOIN pg_catalog.pg_trigger x ON x.tgrelid OPERATOR(pg_catalog.=) r.oid AND NOT x.tgisinternal
	  JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) x.tgfoid
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) p.proowner
	 WHERE NOT EXISTS (
		SELECT FROM own_trigger o
		 WHERE o.relid OPERATOR(pg_catalog.=) x.tgrelid::pg_catalog.regclass
		   AND o.tgname OPERATOR(pg_catalog.=) x.tgname::pg_catalog.text
		   AND x.tgfoid OPERATOR(pg_catalog.=) '@extschema@.tegro_new_origin()'::pg_catalog.regprocedure::pg_catalog.oid)
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Trigger %I of table %s is %s: rows that are loaded after a TRUNCATE would be taken for new ones.',
							 o.tgname, r.title, CASE WHEN x.tgenabled IS NULL THEN 'missing' ELSE 'not enabled' END),
		   pg_catalog.concat(
			   CASE WHEN x.tgenabled IS NULL
					THEN pg_catalog.format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s; ',
										   o.tgname, r.title, '@extschema@.tegro_new_origin()'::pg_catalog.regprocedure) END,
			   pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;', r.title, o.tgname))
	  FROM relation r
	  JOIN own_trigger o ON o.relid OPERATOR(pg_catalog.=) r.oid::pg_catalog.regclass
	  LEFT JOIN pg_catalog.pg_trigger x ON x.tgrelid OPERATOR(pg_catalog.=) r.oid AND x.tgname::pg_catalog.text OPERATOR(pg_catalog.=) o.tgname
	 WHERE x.tgenabled IS NULL OR x.tgenabled OPERATOR(pg_catalog.<>) 'A'
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Rule %I of %s is not the extension''s.', x.rulename, r.title),
		   pg_catalog.format('DROP RULE %I ON %s;', x.rulename, r.title)
	  FROM relation r
	  JOIN pg_catalog.pg_rewrite x ON x.ev_class OPERATOR(pg_catalog.=) r.oid
	 WHERE NOT (r.relkind OPERATOR(pg_catalog.=) 'v' AND x.rulename OPERATOR(pg_catalog.=) '_RETURN')
	UNION ALL
	-- without row security, a policy has no effect
	SELECT 'tables', CASE WHEN r.relrowsecurity THEN 'error' ELSE 'warning' END,
		   pg_catalog.format('Policy %I of table %s is not the extension''s%s.', x.polname, r.title,
							 CASE WHEN o.relid IS NOT NULL THEN ' any more: it was changed' END),
		   pg_catalog.concat(
			   pg_catalog.format('DROP POLICY %I ON %s;', x.polname, r.title),
			   CASE WHEN o.relid IS NOT NULL
					THEN pg_catalog.format(' CREATE POLICY %I ON %s FOR SELECT USING (%s);', x.polname, r.title, o.qual) END)
	  FROM relation r
	  JOIN pg_catalog.pg_policy x ON x.polrelid OPERATOR(pg_catalog.=) r.oid
	  LEFT JOIN own_policy o ON o.relid OPERATOR(pg_catalog.=) r.oid::pg_catalog.regclass AND o.polname OPERATOR(pg_catalog.=) x.polname::pg_catalog.text
	 WHERE (o.relid IS NOT NULL
			AND x.polcmd OPERATOR(pg_catalog.=) 'r' AND x.polpermissive AND x.polwithcheck IS NULL
			AND x.polroles OPERATOR(pg_catalog.=) ARRAY[0::pg_catalog.oid]
			AND pg_catalog.regexp_replace(pg_catalog.pg_get_expr(x.polqual, x.polrelid), '\s+', ' ', 'g') OPERATOR(pg_catalog.=) o.qual)
		   IS NOT TRUE
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Row security is off for table %s: roles with SELECT see the requests of all roles.', r.title),
		   pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY;', r.title)
	  FROM relation r JOIN own_policy o ON o.relid OPERATOR(pg_catalog.=) r.oid::pg_catalog.regclass
	 WHERE NOT r.relrowsecurity
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Row security of table %s applies to its owner, whose statements then see no row.', r.title),
		   pg_catalog.format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', r.title)
	  FROM relation r WHERE r.relforcerowsecurity
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format('Table %s inherits from table %s: its rows count as rows of that.', i.inhrelid::pg_catalog.regclass, r.title),
		   pg_catalog.format('ALTER TABLE %s NO INHERIT %s;', i.inhrelid::pg_catalog.regclass, r.title)
	  FROM relation r
	  JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) r.oid
	 WHERE r.relkind OPERATOR(pg_catalog.=) 'r'
	UNION ALL
	SELECT 'tables', 'error',
		   pg_catalog.format(
			   'Foreign key %I of table %s follows changes of table %s: triggers of %s run with the rights of the extension''s owner.',
			   x.conname, x.conrelid::pg_catalog.regclass, r.title, x.conrelid::pg_catalog.regclass),
		   pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', x.conrelid::pg_catalog.regclass, x.conname)
	  FROM relation r
	  JOIN pg_catalog.pg_constraint x ON x.confrelid OPERATOR(pg_catalog.=) r.oid
	   AND x.contype OPERATOR(pg_catalog.=) 'f' AND x.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
	 WHERE x.confdeltype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']::pg_catalog."char"[])
		OR x.confupdtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']::pg_catalog."char"[])
		-- its rows are deleted, and then any foreign key runs a query of its table's owner
		OR r.oid::pg_catalog.regclass OPERATOR(pg_catalog.=) '@extschema@.tegro_payment_callback'::pg_catalog.regclass
	UNION ALL
	SELECT 'default privileges', 'ok',
		   pg_catalog.format('ALTER DEFAULT PRIVILEGES gives %s %s on %s that role %s creates%s. Call tegro_doctor() after CREATE EXTENSION or a restore.',
							 CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'every role' ELSE pg_catalog.format('role %s', g.role) END,
							 pg_catalog.string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
							 pg_catalog.lower(k.kind), c.role, ' in schema ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(n.nspname)),
		   pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s REVOKE ALL ON %s FROM %s%s;',
							 c.role, ' IN SCHEMA ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(n.nspname), k.kind, g.role,
							 CASE WHEN pg_catalog.bool_or(a.is_grantable) THEN ' CASCADE' END)
	  FROM tegro t
	  JOIN pg_catalog.pg_default_acl d ON d.defaclnamespace OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, t.extnamespace])
	  LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) d.defaclnamespace
	  JOIN (VALUES ('r', 'TABLES'), ('S', 'SEQUENCES'), ('f', 'FUNCTIONS')) AS k (objtype, kind)
		ON d.defaclobjtype OPERATOR(pg_catalog.=) k.objtype::pg_catalog."char"
	  JOIN grantee c ON c.oid OPERATOR(pg_catalog.=) d.defaclrole AND c.trusted
	 CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS a
	  JOIN grantee g ON g.oid OPERATOR(pg_catalog.=) a.grantee AND NOT g.trusted
	 -- PostgreSQL's own default
	 WHERE NOT (a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND n.oid IS NULL AND k.objtype OPERATOR(pg_catalog.=) 'f')
	 GROUP BY a.grantee, g.role, k.kind, c.role, n.nspname),
topic (n, title, all_well) AS (
	VALUES (1, 'rights', 'No role has harmful rights on the extension''s objects.'),
		   (2, 'readers', 'Each role sees only its own requests.'),
		   (3, 'payers', 'Only superusers and the owner can pay out or decide on payouts.'),
		   (4, 'owners', 'The extension and its objects belong to one superuser.'),
		   (5, 'schema', 'Only superusers and the owner can create functions in the extension''s schema.'),
		   (6, 'look-alikes', 'No other function has the name of one of the extension''s functions.'),
		   (7, 'tables', 'The extension''s tables have no triggers, rules, policies, foreign keys or child tables of others.'),
		   (8, 'triggers', 'All triggers of the extension on other tables can fire.'),
		   (9, 'default privileges', 'They give no rights on the extension''s objects.'))
SELECT c.title, coalesce(f.status, 'ok'), coalesce(f.detail, c.all_well), f.hint
  FROM topic c LEFT JOIN finding f ON f.topic OPERATOR(pg_catalog.=) c.title
 ORDER BY c.n, f.status OPERATOR(pg_catalog.=) 'error' DESC, f.detail;
END;
REVOKE ALL ON FUNCTION @extschema@.tegro_doctor_rights() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_doctor_rights() IS
'checks of tegro_doctor that read only catalogs: rights, owners, the extension''s schema, functions with its names, and foreign triggers, rules, policies and keys on its tables';

CREATE FUNCTION @extschema@.tegro_stat_counters(
	OUT method pg_catalog.text, OUT calls pg_catalog.int8, OUT requests pg_catalog.int8, OUT repeated pg_catalog.int8,
	OUT answered pg_catalog.int8, OUT refused pg_catalog.int8, OUT not_sent pg_catalog.int8, OUT unknown pg_catalog.int8,
	OUT unreadable pg_catalog.int8, OUT rate_limited pg_catalog.int8, OUT misconfigured pg_catalog.int8, OUT cancelled pg_catalog.int8,
	OUT connections pg_catalog.int8, OUT bytes_sent pg_catalog.int8, OUT bytes_received pg_catalog.int8,
	OUT name_lookup_ms pg_catalog.float8, OUT connect_ms pg_catalog.float8, OUT tls_ms pg_catalog.float8,
	OUT wait_ms pg_catalog.float8, OUT total_ms pg_catalog.float8,
	OUT latency_ms pg_catalog.float8[], OUT latency_requests pg_catalog.int8[],
	OUT since pg_catalog.timestamptz)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME', 'tegro_stat_counters'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 11;
REVOKE ALL ON FUNCTION @extschema@.tegro_stat_counters() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_stat_counters() IS
'the counters that the view tegro_stat shows';

CREATE VIEW @extschema@.tegro_stat AS
SELECT * FROM @extschema@.tegro_stat_counters();
REVOKE ALL ON TABLE @extschema@.tegro_stat FROM PUBLIC;
COMMENT ON VIEW @extschema@.tegro_stat IS
'requests to the provider since the server''s start, of all sessions, workers and databases, by method';
COMMENT ON COLUMN @extschema@.tegro_stat.method IS 'the provider''s method; "(other)" for those that this version does not know';
COMMENT ON COLUMN @extschema@.tegro_stat.calls IS 'requests that were not repeats of another';
COMMENT ON COLUMN @extschema@.tegro_stat.requests IS 'requests that have ended; the sum of the eight columns from answered to cancelled';
COMMENT ON COLUMN @extschema@.tegro_stat.repeated IS 'requests that repeated one of the same call';
COMMENT ON COLUMN @extschema@.tegro_stat.answered IS 'ended with the provider''s answer';
COMMENT ON COLUMN @extschema@.tegro_stat.refused IS 'the provider refused (TG001)';
COMMENT ON COLUMN @extschema@.tegro_stat.not_sent IS 'certainly not sent (TG002)';
COMMENT ON COLUMN @extschema@.tegro_stat.unknown IS 'may have taken effect (TG003)';
COMMENT ON COLUMN @extschema@.tegro_stat.unreadable IS 'only read, and got no usable answer (TG004)';
COMMENT ON COLUMN @extschema@.tegro_stat.rate_limited IS 'too many requests (TG005)';
COMMENT ON COLUMN @extschema@.tegro_stat.misconfigured IS 'not sent because of a setting that only the connection showed to be wrong (TG006)';
COMMENT ON COLUMN @extschema@.tegro_stat.cancelled IS 'given up before the end, by a cancel or a statement_timeout; not in the times';
COMMENT ON COLUMN @extschema@.tegro_stat.connections IS 'connections that were opened for them; the others went over one that was kept alive';
COMMENT ON COLUMN @extschema@.tegro_stat.bytes_sent IS 'bytes of their bodies';
COMMENT ON COLUMN @extschema@.tegro_stat.bytes_received IS 'bytes of the answers'' bodies';
COMMENT ON COLUMN @extschema@.tegro_stat.name_lookup_ms IS 'time in name lookup, milliseconds';
COMMENT ON COLUMN @extschema@.tegro_stat.connect_ms IS 'time in connecting';
COMMENT ON COLUMN @extschema@.tegro_stat.tls_ms IS 'time in TLS handshakes';
COMMENT ON COLUMN @extschema@.tegro_stat.wait_ms IS 'time from the request to the first byte of the answer';
COMMENT ON COLUMN @extschema@.tegro_stat.total_ms IS 'time in all';
COMMENT ON COLUMN @extschema@.tegro_stat.latency_ms IS 'upper bounds of the histogram, milliseconds';
COMMENT ON COLUMN @extschema@.tegro_stat.latency_requests IS 'how many requests took no longer than each of these';
COMMENT ON COLUMN @extschema@.tegro_stat.since IS 'when all was zero: the server''s start, a crash, or tegro_stat_reset()';

CREATE FUNCTION @extschema@.tegro_stat_reset()
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'tegro_stat_reset'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_stat_reset() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_stat_reset() IS
'sets the counters of tegro_stat back to zero';

--
-- Rights.  ALTER DEFAULT PRIVILEGES of the role that creates the extension gives
-- rights on every object above to other roles, and so lets them pay out.  This
-- takes them back: nobody but the owner has any right here until an
-- administrator grants it.  The REVOKE beside each object is for those who read
-- it there.  Keep this at the end: it covers the objects that exist so far.
--

DO $$
DECLARE
	command pg_catalog.text;
BEGIN
	FOR command IN
		SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', o.kind,
				   (pg_catalog.pg_identify_object(d.classid, d.objid, 0)).identity,
				   CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
						ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
		  FROM (SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog, c.oid AS id, c.relowner AS owner,
					   CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S'::pg_catalog."char" THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
					   coalesce(c.relacl, pg_catalog.acldefault('r'::pg_catalog."char", c.relowner)) AS acl
				  FROM pg_catalog.pg_class AS c
				 WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog."char"[])
				UNION ALL
				SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.proowner, 'ROUTINE',
					   coalesce(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner))
				  FROM pg_catalog.pg_proc AS p
				UNION ALL
				SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, t.typowner, 'TYPE',
					   coalesce(t.typacl, pg_catalog.acldefault('T'::pg_catalog."char", t.typowner))
				  FROM pg_catalog.pg_type AS t
				 -- types of rows and arrays have the rights of what they belong to
				 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS i
									WHERE i.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
									  AND i.objid OPERATOR(pg_catalog.=) t.oid
									  AND i.deptype OPERATOR(pg_catalog.=) 'i'::pg_catalog."char")
				UNION ALL
				SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, w.oid, w.fdwowner, 'FOREIGN DATA WRAPPER',
					   coalesce(w.fdwacl, pg_catalog.acldefault('F'::pg_catalog."char", w.fdwowner))
				  FROM pg_catalog.pg_foreign_data_wrapper AS w) AS o,
			   pg_catalog.pg_depend AS d,
			   pg_catalog.pg_extension AS e,
			   LATERAL (SELECT DISTINCT grantee FROM pg_catalog.aclexplode(o.acl)) AS a
		 WHERE d.classid OPERATOR(pg_catalog.=) o.catalog AND d.objid OPERATOR(pg_catalog.=) o.id
		   AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
		   AND d.refobjid OPERATOR(pg_catalog.=) e.oid
		   AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
		   AND e.extname OPERATOR(pg_catalog.=) 'tegro'
		   AND a.grantee OPERATOR(pg_catalog.<>) o.owner
	LOOP
		EXECUTE command;
	END LOOP;
END
$$;
