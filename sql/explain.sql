-- tegro_explain: the story of a request.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
\pset format unaligned
\pset tuples_only on
SET TimeZone = 'Europe/Moscow';

-- Without what differs from run to run: times, numbers, and the shop.
CREATE FUNCTION story(request bigint) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
		tegro_explain(request), '2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', 'g'),
		'\d+[.]\d\d s', 'N s', 'g'), '\(in \d+ (s|min|h|days)\)', '(in N)', 'g'),
		' role ' || current_user || '( |$)', ' role OWNER\1', 'ng'), '\m' || request || '\M', 'ID', 'g')
$$;
CREATE OR REPLACE FUNCTION becomes_true(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	yes boolean;
BEGIN
	FOR i IN 1..2000 LOOP
		EXECUTE query INTO yes;
		IF yes THEN RETURN true; END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN false;
END $$;

-- There is no such request; nor one whose number is not known.
SELECT tegro_explain(0);
SELECT tegro_explain(NULL);

-- Accepted at once; refused.
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "told paid", "amount": 15.50, "currency": "RUB", "account": "4111111111111111"}') AS id \gset
\set first :id
SELECT tegro_wait(:id) ->> 'type';
SELECT story(:id);
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createOrder', '{"order_id": "told refused", "amount": 1, "currency": "XXX"}') AS id \gset
\set VERBOSITY terse
SELECT tegro_wait(:id);
SELECT story(:id);

-- In doubt, and found: an order without a link.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createOrder', '{"order_id": "told found", "amount": 7, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) ->> 'type';
SELECT story(:id);

-- In doubt, and found to be something else: the numbers of neither account are
-- shown.  A person decides.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": 1, "action": "close_after_read"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
\! curl -sS -o /dev/null -d '{"method": "withdrawal", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"success\",\"data\":{\"payment_id\":\"told other\",\"amount\":\"80.00\",\"account\":\"4222222222222222\"}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "told other", "amount": 80, "currency": "RUB", "account": "4111111111111111"}') AS id \gset
SELECT tegro_wait(:id);
SELECT story(:id);
SELECT tegro_resolve(:id, 'refused', 'said by telephone: there is none');
SELECT story(:id);

-- Waits for its time; cancelled; sent after all.  Its functions are named with
-- their schema where they would not be found, or another could be.
SELECT tegro_enqueue('createOrder', '{"order_id": "told later", "amount": 1, "currency": "RUB"}', deliver_after => now() + interval '3 days') AS id \gset
SELECT story(:id);
SELECT tegro_cancel(:id);
SELECT story(:id);
SELECT tegro_retry(:id);
SELECT tegro_wait(:id) ->> 'type';
SELECT story(:id);
SELECT nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'tegro' \gset
SELECT tegro_enqueue('createOrder', '{"order_id": "told named", "amount": 1, "currency": "RUB"}', deliver_after => now() + interval '3 days') AS id \gset
SET search_path = pg_catalog;
SELECT regexp_matches(:"schema".tegro_explain(:id), 'SELECT \w+[.]\w+', 'g');
RESET search_path;
CREATE FUNCTION pg_temp.tegro_cancel(id int) RETURNS void LANGUAGE sql AS '';
SELECT regexp_matches(tegro_explain(:id), 'SELECT [\w.]+', 'g');
DROP FUNCTION pg_temp.tegro_cancel;
SELECT tegro_cancel(:id);

-- A callback that fails, and is given up.
CREATE SCHEMA shop;
CREATE FUNCTION shop.fails(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room for %', reference; END $$;
SELECT tegro_enqueue('createOrder', '{"order_id": "told called", "amount": 1, "currency": "RUB"}', 'shop.fails'::regproc) AS id \gset
SELECT becomes_true('SELECT count(callback_message) = 1 FROM tegro_outbox WHERE reference = ''told called''');
SELECT regexp_replace(story(:id), 'is called now', 'is called at TIME (in N)');
UPDATE tegro_outbox SET callback_state = 'failed', callback_at = NULL, claim_no = claim_no + 1 WHERE id = :id;
SELECT story(:id);

-- Whoever enqueued it may not pay out any more.  His own requests are all that a
-- role sees, with the rights that it has.
CREATE ROLE regress_tegro_a;
CREATE ROLE regress_tegro_b;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_create_withdrawal(jsonb) TO regress_tegro_a;
SET ROLE regress_tegro_a;
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "told withheld", "amount": 5, "currency": "RUB", "account": "4111111111111111"}', deliver_after => now() + interval '1 day') AS id \gset
SELECT tegro_explain(:id);
RESET ROLE;
GRANT EXECUTE ON FUNCTION tegro_explain(bigint) TO regress_tegro_a, regress_tegro_b;
SET ROLE regress_tegro_a;
SELECT tegro_explain(:id);
RESET ROLE;
GRANT SELECT ON tegro_outbox, tegro_event TO regress_tegro_a, regress_tegro_b;
REVOKE EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) FROM regress_tegro_a;
SELECT tegro_refresh(:id);
SELECT becomes_true('SELECT state = ''review'' FROM tegro_outbox WHERE reference = ''told withheld''');
SET ROLE regress_tegro_b;
SELECT tegro_explain(:id) = format('Request %s is not in the outbox, or another role enqueued it.', :id);
RESET ROLE;
GRANT EXECUTE ON FUNCTION story(bigint) TO regress_tegro_a;
SET ROLE regress_tegro_a;
SELECT story(:id);
RESET ROLE;
SELECT tegro_resolve(:id, 'refused', 'paid in cash');

-- What takes longer than a test may, by hand.  Numbers are negative, so that no
-- other request has them.
CREATE FUNCTION made(number bigint, of_state text, of_method text, of_params jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO tegro_outbox (id, shop_id, method, reference, params, state, next_at, enqueued_by, enqueued_by_name, enqueued_at, origin)
	OVERRIDING SYSTEM VALUE
	SELECT number, 'a shop', of_method, 'made ' || -number, of_params, of_state, NULL, current_user::regrole, 'clerk',
		   '2026-01-01 12:00:00+03', 'x'
$$;
CREATE FUNCTION happened(number bigint, of_event text, at text, ended text DEFAULT NULL, of_outcome text DEFAULT NULL,
						 of_status int DEFAULT NULL, of_state text DEFAULT NULL, of_message text DEFAULT NULL,
						 of_role text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO tegro_event (outbox_id, event_no, event, claim_no, started_at, ended_at, outcome, http_status, state, message, role_name)
	SELECT number, 1 + count(*), of_event, 0, ('2026-01-01 ' || at || '+03')::timestamptz,
		   ('2026-01-01 ' || ended || '+03')::timestamptz, of_outcome, of_status, of_state, of_message, of_role
	  FROM tegro_event WHERE outbox_id = number
$$;
\set payout '{"amount": 90000, "currency": "RUB", "account": "40817810099910004312"}'
BEGIN;
-- no answer in time; not found; decided; then the answer comes after all
SELECT made(-1, 'accepted', 'createWithdrawal', :'payout');
SELECT happened(-1, 'send', '12:00:01', '12:40:02.25', 'answered', 200, 'accepted'),
	   happened(-1, 'no answer', '12:00:11', of_state => 'unknown', of_message => 'no answer in 10000 ms; it is looked up'),
	   happened(-1, 'given up', '12:15:12', of_state => 'review', of_message => 'not found until the review deadline; resolve it with tegro_resolve'),
	   happened(-1, 'resolved', '12:30:00', of_state => 'refused', of_role => 'boss',
				of_message => 'resolved as refused by boss at 2026-01-01 12:30:00.5 MSK: not in the list: I looked');
UPDATE tegro_outbox SET message = 'it took effect after all: resolved as refused by boss at 2026-01-01 12:30:00.5 MSK: not in the list: I looked' WHERE id = -1;
SELECT tegro_explain(-1);
-- its delivery worker died; a failover; the next one is in doubt, and waits
SELECT made(-2, 'unknown', 'createOrder', '{"amount": 1, "currency": "RUB"}');
SELECT happened(-2, 'failover', '12:00:00', of_state => 'unknown', of_message => 'it was enqueued before a failover or restore, and may have been sent there; it is looked up'),
	   happened(-2, 'not found', '12:00:20', of_state => 'ready', of_message => 'not found; it is sent again'),
	   happened(-2, 'send', '12:00:21'),
	   happened(-2, 'lost', '12:01:21', of_state => 'unknown', of_message => 'its delivery worker ended before it told the outcome; it is looked up');
UPDATE tegro_outbox SET attempts = 1, absent = 1, failures = 3, next_at = 'infinity', message = 'the lookup failed: no connection' WHERE id = -2;
SELECT tegro_explain(-2);
-- a worker has it
SELECT made(-3, 'sending', 'createWithdrawal', :'payout');
SELECT happened(-3, 'send', '12:00:01');
UPDATE tegro_outbox SET attempts = 1, next_at = now(), claimed_until = now() + interval '1 h' WHERE id = -3;
SELECT tegro_explain(-3);
-- it did not return
UPDATE tegro_outbox SET claimed_until = now() - interval '1 h', next_at = now() - interval '1 h' WHERE id = -3;
SELECT tegro_explain(-3);
-- from another database; resent; the parameters are gone
SELECT made(-4, 'review', 'createWithdrawal', 'null');
SELECT happened(-4, 'send', '12:00:01', '12:00:02', 'rate limited', 429, 'unknown', 'Tegro refused createWithdrawal: too many requests'),
	   happened(-4, 'taken over', '12:10:00', of_state => 'review', of_role => 'boss', of_message => 'taken over by boss at 2026-01-01 12:10:00+03: moved'),
	   happened(-4, 'resolved', '12:20:00', of_state => 'ready', of_role => 'boss', of_message => 'resolved as resend by boss at 2026-01-01 12:20:00+05:30: never arrived'),
	   happened(-4, 'send', '12:20:01', '12:20:02', 'not sent', NULL, 'ready', 'could not reach the Tegro API: no route to host, while connecting; nothing was sent. (new connection, total 0.3 ms)'),
	   happened(-4, 'send', '12:20:03', '12:20:04', 'refused', 200, 'review', 'Tegro refused createWithdrawal: It says: "no"');
ALTER TABLE tegro_outbox ALTER params DROP NOT NULL;
UPDATE tegro_outbox SET params = NULL, attempts = 1, unknown_since = now() WHERE id = -4;
SELECT tegro_explain(-4);
ROLLBACK;

BEGIN;
-- What others write stays on its line, in its place, and short.
SELECT made(-5, 'refused', 'createWithdrawal', jsonb_build_object(
	'amount', E'1\n2026-01-01 12:00:00  sent, and accepted', 'currency', E'R\u202eUB', 'account', E'12\r\n34\u200b5678'));
UPDATE tegro_outbox SET reference = E'a"\n\nNext: \u2066pay again', shop_id = E's\u0085\x1b[2J', callback = E'shop.f\n(bigint,text,text,jsonb)',
	   callback_state = 'failed', callback_message = E'\x1b]0;title\x07' || repeat('long ', 100) WHERE id = -5;
SELECT happened(-5, 'send', '12:00:01', '12:00:02', 'refused', 200, 'refused',
				E'Tegro refused createWithdrawal: It says: "\x1b[31m\nYou can:\n  DROP TABLE \u202edlrow\u2069' || repeat('x', 300) || '"');
SELECT happened(-5, E'un\nknown', '12:00:03', of_state => 'refused', of_message => E'\u2028for account 12\r\n34\u200b5678'),
	   happened(-5, 'retried', '12:00:04', of_state => 'ready', of_role => E'evil\nrole', of_message => E'retried by evil\nrole at 2026-01-01 12:00:04+03');
SELECT tegro_explain(-5);
SELECT tegro_explain(-5) ~ '[^\n -~]' AS hostile;
-- Of many events, the first and the last.
SELECT made(-6, 'ready', 'createOrder', '{"amount": 1, "currency": "RUB"}');
SELECT count(happened(-6, 'send', '12:00:' || n, '12:00:' || n || '.5', 'not sent', NULL, 'ready', 'could not reach the Tegro API: no route to host, while connecting; nothing was sent. (new connection, total 0.3 ms; attempt 2)'))
  FROM generate_series(10, 49) AS n;
SELECT tegro_explain(-6);
ROLLBACK;

DELETE FROM tegro_event WHERE outbox_id >= :first;
DELETE FROM tegro_outbox WHERE id >= :first;
DROP FUNCTION story, made, happened;
DROP OWNED BY regress_tegro_a, regress_tegro_b;
DROP ROLE regress_tegro_a, regress_tegro_b;
DROP SCHEMA shop CASCADE;
