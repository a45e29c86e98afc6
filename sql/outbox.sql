-- The outbox: requests that are sent after commit.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"

-- Waits for what another session does; true once it is so.
CREATE FUNCTION becomes_true(query text) RETURNS boolean LANGUAGE plpgsql AS $$
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

-- An order: sent after the commit, its answer in the outbox.
SELECT tegro_enqueue('createOrder', '{"order_id": "A1", "amount": 100.50, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) #>> '{data,url}' ~ '^https://tegro\.money/pay/' AS link;
SELECT method, reference, params, state, attempts, claim_no, next_at, enqueued_by = current_user::regrole AS mine,
       answer ->> 'type' AS answer, sqlstate, message
  FROM tegro_outbox WHERE id = :id;
SELECT claim_no, length(body_sha256) AS hash, ended_at >= started_at AS ended, outcome, http_status, raw_answer
  FROM tegro_event WHERE outbox_id = :id AND event = 'send';

-- What rolls back is never sent; nor is a savepoint's part.
BEGIN;
SELECT tegro_enqueue('createOrder', '{"order_id": "rolled back", "amount": 1, "currency": "RUB"}') IS NOT NULL AS enqueued;
ROLLBACK;
BEGIN;
SELECT tegro_enqueue('createOrder', '{"order_id": "kept", "amount": 1, "currency": "RUB"}') AS id \gset
SAVEPOINT s;
SELECT tegro_enqueue('createOrder', '{"order_id": "to savepoint", "amount": 1, "currency": "RUB"}') IS NOT NULL AS enqueued;
ROLLBACK TO s;
SELECT tegro_wait(:id);
ROLLBACK;
BEGIN;
SELECT tegro_enqueue('createOrder', '{"order_id": "kept", "amount": 1, "currency": "RUB"}') AS id \gset
SAVEPOINT s;
SELECT tegro_enqueue('createOrder', '{"order_id": "to savepoint", "amount": 1, "currency": "RUB"}') IS NOT NULL AS enqueued;
ROLLBACK TO s;
COMMIT;
SELECT tegro_wait(:id) ->> 'type' AS answer;
SELECT payment_id FROM jsonb_to_recordset(tegro_orders() -> 'data') AS o(payment_id text) ORDER BY 1;

-- One reference is one request, for ever.
SELECT tegro_enqueue('createOrder', '{"order_id": "A1", "currency": "RUB", "amount": 100.5}') =
       (SELECT id FROM tegro_outbox WHERE reference = 'A1') AS same_request;
\set VERBOSITY terse
SELECT tegro_enqueue('createOrder', '{"order_id": "A1", "amount": 200, "currency": "RUB"}');
\echo :LAST_ERROR_SQLSTATE

-- What can't be sent is not taken.
SELECT tegro_enqueue('balance', '{}');
SELECT tegro_enqueue('createOrder', '{"amount": 1}');
SELECT tegro_enqueue('createOrder', '{"order_id": "1", "currency": "RUB", "amount": 1, "nonce": 5}');
SELECT tegro_enqueue('createOrder', '{"order_id": "1", "amount": 0.12345678901234567891}');
SELECT tegro_enqueue('createOrder', '[]');
SELECT tegro_enqueue(NULL, '{}');
SELECT tegro_enqueue('createOrder', '{"order_id": "1"}', deliver_after => 'infinity');
SELECT tegro_enqueue('createOrder', '{"order_id": "1"}', 'now()'::regprocedure);

-- A refusal.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createOrder', '{"order_id": "bad", "amount": 1, "currency": "XXX"}') AS id \gset
SELECT tegro_wait(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT state, attempts, sqlstate FROM tegro_outbox WHERE id = :id;

-- Later: cancelled, and sent after all.
SELECT tegro_enqueue('createOrder', '{"order_id": "later", "amount": 1, "currency": "RUB"}', deliver_after => now() + interval '1 day') AS id \gset
SELECT tegro_wait(:id, '50 ms');
SELECT tegro_cancel(:id);
SELECT tegro_cancel(:id);
SELECT tegro_wait(:id);
SELECT tegro_resolve(:id, 'accepted', 'because');
SELECT tegro_retry(:id);
SELECT tegro_wait(:id) ->> 'type' AS answer;
SELECT tegro_retry(:id);
SELECT tegro_resolve(:id, 'maybe', 'because');
SELECT tegro_resolve(:id, 'accepted', ' ');
SELECT tegro_wait(0);
SELECT tegro_take_over(NULL);

-- Executed, the answer lost: looked up, not sent again.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_enqueue('createOrder', '{"order_id": "lost", "amount": 7, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) #>> '{data,payment_id}' AS found;
SELECT state, attempts, message FROM tegro_outbox WHERE id = :id;
SELECT outcome FROM tegro_event WHERE outbox_id = :id AND event = 'send';
SELECT count(*) FROM jsonb_to_recordset(tegro_orders() -> 'data') AS o(payment_id text) WHERE payment_id = 'lost';
-- another link for it, if one is wanted
SELECT tegro_retry(:id);
SELECT tegro_wait(:id) #>> '{data,url}' ~ '^https://tegro\.money/pay/' AS link;

-- A trigger that asks for the payment of each order, and a callback that
-- stores the link.
CREATE SCHEMA shop;
CREATE TABLE shop.orders (number int PRIMARY KEY, total numeric(12, 2), note text, tags text[], payment_url text);
CREATE FUNCTION shop.order_answered(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE sql AS $$
	UPDATE shop.orders SET payment_url = answer #>> '{data,url}' WHERE number = reference::int
$$;
CREATE TRIGGER ask_for_payment AFTER INSERT ON shop.orders
FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger(
	'{"order_id": "$number", "amount": "$total", "currency": "RUB", "comment": {"note": "$note", "tags": "$tags", "price": "$$5"}}',
	'shop.order_answered');
INSERT INTO shop.orders VALUES (1001, 990.00, 'with "quotes"', '{a,b}'), (1002, 1200.10, NULL, NULL);
SELECT becomes_true('SELECT count(payment_url) = 2 FROM shop.orders');
SELECT number, payment_url ~ '^https://tegro\.money/pay/' AS link FROM shop.orders ORDER BY 1;
SELECT reference, params, state, callback, callback_state FROM tegro_outbox WHERE reference LIKE '100%' ORDER BY 1;

-- The trigger's own errors come at its first firing.
\set VERBOSITY default
CREATE TRIGGER wrong BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger('{"order_id": "$id"}');
INSERT INTO shop.orders VALUES (1003, 1);
DROP TRIGGER wrong ON shop.orders;
CREATE TRIGGER wrong BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger('{"order_id": "$number"}', 'order_answered');
INSERT INTO shop.orders VALUES (1003, 1);
DROP TRIGGER wrong ON shop.orders;
CREATE TRIGGER wrong BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger('{"order_id": "$number"}', 'shop.no_such');
INSERT INTO shop.orders VALUES (1003, 1);
DROP TRIGGER wrong ON shop.orders;
CREATE TRIGGER wrong BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger();
INSERT INTO shop.orders VALUES (1003, 1);
DROP TRIGGER wrong ON shop.orders;
CREATE TRIGGER wrong AFTER DELETE ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger('{}');
DELETE FROM shop.orders WHERE number = 1001;
DROP TRIGGER wrong ON shop.orders;

-- A callback that fails changes nothing of the outcome, and is called again.
CREATE SEQUENCE shop.calls;
CREATE FUNCTION shop.fails_once(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('shop.calls') = 1 THEN
		RAISE EXCEPTION 'not yet';
	END IF;
	UPDATE shop.orders SET note = state || ' for ' || reference WHERE number = 1001;
END $$;
SELECT tegro_enqueue('createOrder', '{"order_id": "2001", "amount": 1, "currency": "RUB"}', 'shop.fails_once'::regproc) AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS answer;
SELECT becomes_true('SELECT count(callback_message) = 1 FROM tegro_outbox WHERE reference = ''2001''');
SELECT state, callback_state, callback_message FROM tegro_outbox WHERE id = :id;
SELECT tegro_refresh(:id);
SELECT becomes_true('SELECT callback_state = ''done'' FROM tegro_outbox WHERE reference = ''2001''');
SELECT note FROM shop.orders WHERE number = 1001;

-- Rights: a role sees and changes its own requests only.
CREATE ROLE regress_tegro_a;
CREATE ROLE regress_tegro_b;
GRANT SELECT ON tegro_outbox, tegro_event, tegro_outbox_summary TO regress_tegro_a, regress_tegro_b;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_wait(bigint, interval), tegro_cancel(bigint) TO regress_tegro_a, regress_tegro_b;
SET ROLE regress_tegro_a;
SELECT tegro_enqueue('createOrder', '{"order_id": "a''s", "amount": 1, "currency": "RUB"}', deliver_after => now() + interval '1 day') AS id \gset
SELECT reference, state, enqueued_by_name FROM tegro_outbox;
SELECT requests, state FROM tegro_outbox_summary;
INSERT INTO tegro_outbox (shop_id, method, reference, params, enqueued_by, origin) VALUES ('', '', '', '{}', 'regress_tegro_a'::regrole, '');
UPDATE tegro_outbox SET state = 'accepted';
SELECT * FROM tegro_origin;
SELECT tegro_take_over('mine');
CALL tegro_deliver();
-- to enqueue a payout needs the right to pay
SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "a''s", "amount": 1, "currency": "RUB", "account": "1"}');
SET ROLE regress_tegro_b;
SELECT count(*) FROM tegro_outbox;
SELECT count(*) FROM tegro_event;
SELECT tegro_cancel(:id);
SELECT tegro_wait(:id);
RESET ROLE;
SET ROLE regress_tegro_a;
SELECT tegro_cancel(:id);
RESET ROLE;

-- In the foreground.
CALL tegro_deliver(0);
BEGIN;
CALL tegro_deliver();
ROLLBACK;
CALL tegro_deliver();

-- Nothing is left to do.
SELECT state, count(*) FROM tegro_outbox GROUP BY 1 ORDER BY 1;
DROP SCHEMA shop CASCADE;
DROP OWNED BY regress_tegro_a, regress_tegro_b;
DROP ROLE regress_tegro_a, regress_tegro_b;
