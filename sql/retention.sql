-- Finished requests are stripped, and their references stay known.
-- Numbers that do not depend on the tests before.
ALTER TABLE tegro_outbox ALTER id RESTART WITH 7001;
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
SELECT tegro_enqueue('createOrder', '{"order_id": "R1", "amount": 100.50, "currency": "RUB", "fields": {"email": "a@example.com"}}') AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS answer;

-- Only what is finished, and with a reason.
SELECT tegro_enqueue('createOrder', '{"order_id": "R2", "amount": 1, "currency": "RUB"}', deliver_after => now() + interval '1 day') AS waiting \gset
SELECT tegro_forget(:waiting, 'the customer asked for it');
SELECT tegro_forget(:id, ' ');
SELECT tegro_forget(0, 'the customer asked for it');
SELECT tegro_forget(:id, 'the customer asked for it');
SELECT reference, state, params, amount, currency, length(params_hash) AS hash, answer, message, callback_message,
       stripped_at >= finished_at AS stripped, attempts, origin <> '' AS origin,
       regexp_replace(decision, ' at .*?: ', ' at T: ') = format('forgotten by %s at T: the customer asked for it', current_user) AS noted
  FROM tegro_outbox WHERE id = :id;
SELECT outcome, message, raw_answer, length(body_sha256) AS body FROM tegro_event WHERE outbox_id = :id;
SELECT count(*) AS keys, min(length(key)) AS length FROM tegro_key;

-- Once more: another note, and nothing else.
SELECT params_hash AS hash, stripped_at AS stripped FROM tegro_outbox WHERE id = :id \gset
SELECT tegro_forget(:id, 'again');
SELECT params_hash = :'hash' AND stripped_at = :'stripped' AND amount = 100.50 AS same, decision LIKE '%forgotten%; forgotten%again' AS noted FROM tegro_outbox WHERE id = :id;

-- The same request is told from another one by the hash.
SELECT tegro_enqueue('createOrder', '{"currency": "RUB", "fields": {"email": "a@example.com"}, "order_id": "R1", "amount": 100.5}') = :id AS same_request;
\set VERBOSITY terse
SELECT tegro_enqueue('createOrder', '{"order_id": "R1", "amount": 100.50, "currency": "RUB", "fields": {"email": "b@example.com"}}');
\echo :LAST_ERROR_SQLSTATE
-- how it differs, without the time
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM tegro_enqueue('createOrder', '{"order_id": "R1", "amount": 200, "currency": "RUB"}');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE '%', regexp_replace(detail, 'erased at .*', 'erased at T');
END $$;
-- nor is it sent again for want of a link
SELECT tegro_retry(:id);
SELECT tegro_wait(:id);
\echo :LAST_ERROR_SQLSTATE
-- a key that was lost makes every request another one
BEGIN;
DELETE FROM tegro_key;
SELECT tegro_enqueue('createOrder', '{"currency": "RUB", "fields": {"email": "a@example.com"}, "order_id": "R1", "amount": 100.5}');
ROLLBACK;
-- one that was added does not
BEGIN;
INSERT INTO tegro_key (key, made_at) VALUES ('\x00', '2000-01-01');
SELECT tegro_enqueue('createOrder', '{"currency": "RUB", "fields": {"email": "a@example.com"}, "order_id": "R1", "amount": 100.5}') = :id AS same_request;
ROLLBACK;

-- A cancelled request.
SELECT tegro_cancel(:waiting);
SELECT tegro_forget(:waiting, 'the customer asked for it');
SELECT tegro_retry(:waiting);
SELECT tegro_enqueue('createOrder', '{"order_id": "R2", "amount": 1, "currency": "RUB"}') = :waiting AS same_request;
SELECT tegro_enqueue('createOrder', '{"order_id": "R2", "amount": 2, "currency": "RUB"}');
\echo :LAST_ERROR_SQLSTATE

-- A refused request gets other parameters, and is sent.
\set VERBOSITY default
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createOrder', '{"order_id": "C1", "amount": 5, "currency": "XXX"}') AS id \gset
\set VERBOSITY terse
SELECT tegro_wait(:id);
\set VERBOSITY default
SELECT tegro_enqueue('createOrder', '{"order_id": "C1", "amount": 5, "currency": "XXX"}') = :id AS as_it_was;
SELECT tegro_enqueue('createOrder', '{"order_id": "C1", "amount": 5, "currency": "RUB"}') = :id AS corrected;
SELECT tegro_wait(:id) ->> 'type' AS answer;
SELECT state, attempts, params, sqlstate, message, decision ~ ('^corrected by ' || current_user || ' at .*: parameters [0-9a-f]{64} in place of [0-9a-f]{64}$') AS noted
  FROM tegro_outbox WHERE id = :id;
SELECT outcome FROM tegro_event WHERE outbox_id = :id AND event = 'send' ORDER BY claim_no;
SELECT tegro_enqueue('createOrder', '{"order_id": "C1", "amount": 6, "currency": "RUB"}');

-- So does one that is stripped; what the caller names counts.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
CREATE SCHEMA shop;
CREATE TABLE shop.told (id bigint, state text);
CREATE FUNCTION shop.tell(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO shop.told VALUES (id, state)';
SELECT tegro_enqueue('createOrder', '{"order_id": "C2", "amount": 5, "currency": "XXX"}') AS id \gset
\set VERBOSITY terse
SELECT tegro_wait(:id);
SELECT tegro_forget(:id, 'the customer asked for it');
SELECT params_hash AS hash FROM tegro_outbox WHERE id = :id \gset
SELECT tegro_enqueue('createOrder', '{"order_id": "C2", "amount": 5, "currency": "XXX"}') = :id AS as_it_was;
SELECT tegro_enqueue('createOrder', '{"order_id": "C2", "amount": 5, "currency": "RUB"}', 'shop.tell'::regproc, now() + interval '1 day') = :id AS corrected;
SELECT state, params, params_hash, amount, currency, stripped_at, next_at > now() + interval '23 h' AS later, callback, callback_state,
       decision LIKE '% in place of ' || encode(:'hash', 'hex') AS noted FROM tegro_outbox WHERE id = :id;
SELECT tegro_refresh(:id);
SELECT tegro_wait(:id) ->> 'type' AS answer;
SELECT becomes_true(format('SELECT count(*) = 1 FROM shop.told WHERE id = %s AND state = ''accepted''', :id));

-- A synchronous payout that was refused is sent at once with other parameters.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong account\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_create_withdrawal('{"payment_id": "C3", "amount": 5, "currency": "RUB", "account": "1", "payment_system": 10}');
SELECT tegro_create_withdrawal('{"payment_id": "C3", "amount": 5, "currency": "RUB", "account": "4100", "payment_system": 10}') ->> 'type' AS answer;
SELECT state, attempts, params ->> 'account' AS account FROM tegro_outbox WHERE reference = 'C3';

-- Rights: only a member of the role that enqueued it corrects and erases.
CREATE ROLE regress_tegro_a;
CREATE ROLE regress_tegro_b;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_forget(bigint, text), tegro_wait(bigint, interval) TO regress_tegro_a, regress_tegro_b;
GRANT SELECT ON tegro_key, tegro_outbox TO regress_tegro_a;
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET ROLE regress_tegro_a;
SELECT tegro_enqueue('createOrder', '{"order_id": "C4", "amount": 5, "currency": "XXX"}') AS id \gset
SELECT tegro_wait(:id);
SELECT count(*) FROM tegro_key;
SET ROLE regress_tegro_b;
SELECT * FROM tegro_key;
SELECT tegro_enqueue('createOrder', '{"order_id": "C4", "amount": 5, "currency": "RUB"}');
SELECT tegro_forget(:id, 'not mine');
RESET ROLE;
GRANT regress_tegro_a TO regress_tegro_b;
SET ROLE regress_tegro_b;
SELECT tegro_enqueue('createOrder', '{"order_id": "C4", "amount": 5, "currency": "RUB"}') = :id AS corrected;
RESET ROLE;
SELECT enqueued_by_name FROM tegro_outbox WHERE id = :id;
SELECT tegro_wait(:id) ->> 'type' AS answer;
SET ROLE regress_tegro_b;
SELECT tegro_forget(:id, 'mine now');
RESET ROLE;
SELECT stripped_at IS NOT NULL AS stripped FROM tegro_outbox WHERE id = :id;

DROP SCHEMA shop CASCADE;
REVOKE regress_tegro_a FROM regress_tegro_b;
DROP OWNED BY regress_tegro_a, regress_tegro_b;
DROP ROLE regress_tegro_a, regress_tegro_b;
