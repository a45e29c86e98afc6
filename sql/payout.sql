-- A payout that the caller waits for: by way of the outbox, whatever becomes
-- of the caller's transaction.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
\set VERBOSITY terse
SELECT tegro_create_withdrawal('{"payment_id": "W1", "amount": 10, "currency": "RUB", "account": "4111"}') -> 'data' ? 'order_id' AS paid;
-- the same again is the same payout
SELECT tegro_create_withdrawal('{"payment_id": "W1", "amount": 10.00, "currency": "RUB", "account": "4111"}') -> 'data' ? 'order_id' AS paid;
SELECT count(*) FROM jsonb_array_elements(tegro_withdrawals() -> 'data');
-- with other parameters it is a mistake
SELECT tegro_create_withdrawal('{"payment_id": "W1", "amount": 11, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE

-- A rollback takes nothing back.
BEGIN;
SELECT tegro_create_withdrawal('{"payment_id": "W2", "amount": 20, "currency": "RUB", "account": "4111"}') ->> 'type' AS type;
ROLLBACK;
SELECT reference, state, attempts FROM tegro_outbox WHERE method = 'createWithdrawal' ORDER BY id;

-- Evaluated twice, paid once.
SELECT tegro_create_withdrawal(p) ->> 'type' AS a, tegro_create_withdrawal(p) ->> 'type' AS b
  FROM (VALUES ('{"payment_id": "W3", "amount": 30, "currency": "RUB", "account": "4111"}'::jsonb)) v(p);
SELECT tegro_withdrawal('W3') #>> '{data,amount}' AS amount;
SELECT count(*) FROM jsonb_array_elements(tegro_withdrawals() -> 'data');

-- fault 56: a payment_id of its own for each evaluation would pay as often.
SELECT tegro_create_withdrawal('{"amount": 1, "currency": "RUB", "account": "4111"}');
SELECT tegro_call('createWithdrawal', '{"amount": 1, "currency": "RUB", "account": "4111"}');

-- By its method's name it takes the same way.
SELECT tegro_call('createWithdrawal', '{"payment_id": "W4", "amount": 40, "currency": "RUB", "account": "4111"}') ->> 'type' AS type;
SELECT state, attempts FROM tegro_outbox WHERE reference = 'W4';

-- A refusal; a wrong key; what is wrong from the start.
SELECT tegro_create_withdrawal('{"payment_id": "W5", "amount": 1e9, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE
SELECT tegro_create_withdrawal('{"payment_id": "W5", "amount": 1e9, "currency": "RUB", "account": "4111"}');
SELECT tegro_create_withdrawal('{"payment_id": "W6", "amount": 0.12345678901234567891, "currency": "RUB"}');
SELECT tegro_create_withdrawal('{"payment_id": "W6", "amount": 1, "currency": "RUB", "account": "4111", "nonce": 1}');
SELECT tegro_create_withdrawal('{"payment_id": ""}');
SELECT tegro_create_withdrawal('[]');
SELECT tegro_create_withdrawal(NULL);

-- The answer is lost: unknown for now; looked up, it is settled.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_create_withdrawal('{"payment_id": "W7", "amount": 70, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE
SELECT tegro_wait(id) #>> '{data,payment_id}' AS found FROM tegro_outbox WHERE reference = 'W7';
SELECT tegro_create_withdrawal('{"payment_id": "W7", "amount": 70, "currency": "RUB", "account": "4111"}') #>> '{data,payment_id}' AS found;
SELECT reference, state, attempts, message FROM tegro_outbox WHERE reference = 'W7';
SELECT count(*) FROM jsonb_to_recordset(tegro_withdrawals() -> 'data') AS w(payment_id text) WHERE payment_id = 'W7';

-- Found, but different: a person decides.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": 1, "action": "close_after_read"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
\! curl -sS -o /dev/null -d '{"method": "withdrawal", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"success\",\"data\":{\"payment_id\":\"W8\",\"amount\":\"8.00\",\"account\":\"4111\"}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "W8", "amount": 80, "currency": "RUB", "account": "4111"}') AS id \gset
SELECT tegro_wait(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT state, sqlstate, message FROM tegro_outbox WHERE id = :id;
SELECT tegro_resolve(:id, 'refused', 'the provider says by telephone that there is none');
SELECT tegro_wait(:id);
SELECT state, decision ~ '^resolved as refused by .*: the provider says by telephone' AS decision FROM tegro_outbox WHERE id = :id;

-- A snapshot from before does not hide the outcome.
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "W9", "amount": 1, "currency": "RUB", "account": "4111"}',
                     deliver_after => clock_timestamp() + interval '1 s') AS id \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT state FROM tegro_outbox WHERE id = :id;
SELECT tegro_create_withdrawal('{"payment_id": "W10", "amount": 1, "currency": "RUB", "account": "4111"}') ->> 'type' AS type;
SELECT tegro_wait(:id) ->> 'type' AS type;
COMMIT;

-- Nor does money leave a transaction that only reads.
BEGIN READ ONLY;
SELECT tegro_create_withdrawal('{"payment_id": "W12", "amount": 1, "currency": "RUB", "account": "4111"}');
ROLLBACK;
BEGIN READ ONLY;
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "W12", "amount": 1, "currency": "RUB", "account": "4111"}');
ROLLBACK;
BEGIN READ ONLY;
SELECT tegro_retry(1);
ROLLBACK;
SELECT count(*) FROM tegro_outbox WHERE reference = 'W12';

-- With a key of the session's own: what is not accepted under it is not sent
-- again under the server's, even if somebody retries it.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": 1, "action": "answer", "status": 200, "body": "{\"type\": \"error\", \"desc\": \"Wrong authorization token\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET tegro.api_key = 'a key of the session';
SELECT tegro_create_withdrawal('{"payment_id": "W13", "amount": 1, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE
RESET tegro.api_key;
SELECT state, attempts, sqlstate, message ~ 'has a key of its own' AS message FROM tegro_outbox WHERE reference = 'W13';
SELECT tegro_create_withdrawal('{"payment_id": "W13", "amount": 1, "currency": "RUB", "account": "4111"}');
-- who enqueues it again is told that it goes nowhere
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "W13", "amount": 1, "currency": "RUB", "account": "4111"}') IS NOT NULL AS id;
SELECT tegro_retry(id) FROM tegro_outbox WHERE reference = 'W13';
SELECT tegro_wait(id) ->> 'type' AS type FROM tegro_outbox WHERE reference = 'W13';

-- Where it is not over in time, it goes on, and the caller is told so.
\! curl -sS -o /dev/null -d '{"method": "createWithdrawal", "times": -1, "action": "answer", "status": 200, "body": "{\"type\": \"error\", \"desc\": \"Wrong authorization token\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET tegro.timeout = '3s';
SELECT tegro_create_withdrawal('{"payment_id": "W14", "amount": 1, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE
RESET tegro.timeout;
SELECT tegro_cancel(id) FROM tegro_outbox WHERE reference = 'W14';
SELECT tegro_create_withdrawal('{"payment_id": "W14", "amount": 1, "currency": "RUB", "account": "4111"}');

\! curl -sS -o /dev/null -X DELETE "$TEGRO_SANDBOX_URL/_sandbox/fault"
-- the worker pauses until then
SELECT pg_reload_conf();

-- Its worker can't begin: nothing is sent, and nothing is on record.
UPDATE pg_database SET datallowconn = false WHERE datname = current_database();
SELECT tegro_create_withdrawal('{"payment_id": "W15", "amount": 1, "currency": "RUB", "account": "4111"}');
\echo :LAST_ERROR_SQLSTATE
UPDATE pg_database SET datallowconn = true WHERE datname = current_database();
SELECT count(*) FROM tegro_outbox WHERE reference = 'W15';

-- Payouts don't go in batches, nor for roles without the right.
SELECT * FROM tegro_batch('createWithdrawal', ARRAY['{"payment_id": "1"}']::jsonb[]);
CREATE ROLE regress_tegro_reader;
SET ROLE regress_tegro_reader;
SELECT tegro_create_withdrawal('{"payment_id": "W9", "amount": 1, "currency": "RUB", "account": "4111"}');
RESET ROLE;
DROP ROLE regress_tegro_reader;

-- Nobody is left who could hold up the database's removal.
SELECT count(pg_terminate_backend(pid, 5000)) >= 0 AS ended FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'tegro delivery worker';
