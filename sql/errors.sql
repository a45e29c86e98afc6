-- Each way for a call to go wrong, told apart by SQLSTATE.

-- Runs a statement and says how it ended, without what differs from run to
-- run: times and numbers of bytes.
CREATE FUNCTION try(statement text, OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	state := 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	detail := regexp_replace(detail, '(connection kept alive, |name lookup [0-9.]+ ms, |connection [0-9.]+ ms, |TLS [0-9.]+ ms, |first byte [0-9.]+ ms, )*total [0-9.]+ ms', 'TIMES', 'g');
	detail := regexp_replace(detail, 'after \d+ milliseconds', 'after N milliseconds');
	detail := regexp_replace(detail, '\d+ (out of \d+ )?bytes', 'N bytes');
END $$;
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
\x on

-- Wrong from the start: nothing is sent.
SELECT * FROM try($$SELECT tegro_call('balance', '[]')$$);
SELECT * FROM try($$SELECT tegro_call('balance', '"x"')$$);
SELECT * FROM try($$SELECT tegro_call('balance', NULL)$$);
SELECT * FROM try($$SELECT tegro_call(NULL)$$);
SELECT * FROM try($$SELECT tegro_call('balance/')$$);
SELECT * FROM try($$SELECT tegro_call('../balance')$$);
SELECT * FROM try($$SELECT tegro_call('')$$);
SELECT * FROM try($$SELECT tegro_call('Balance')$$);
SELECT * FROM try($$SELECT tegro_call('balance', '{"nonce": 1}')$$);
SELECT * FROM try($$SELECT tegro_call('balance', '{"shop_id": 7}')$$);
SELECT * FROM try($$SELECT tegro_orders(0)$$);
SELECT * FROM try($$SELECT tegro_orders(NULL)$$);
SELECT * FROM try($$SELECT tegro_withdrawals(-1)$$);
SELECT * FROM try($$SELECT tegro_order()$$);
SELECT * FROM try($$SELECT tegro_order(NULL::text)$$);
SELECT * FROM try($$SELECT tegro_order(1, '1')$$);
SELECT * FROM try($$SELECT tegro_create_order(NULL)$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 1}')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 1, "order_id": ""}')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 1, "order_id": true}')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 1, "order_id": null}')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 1, "order_id": [1]}')$$);
SELECT * FROM try($$SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', repeat('x', 501)))$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal('{"payment_id": null, "amount": 1, "currency": "RUB", "account": "4111"}')$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal(jsonb_build_object('payment_id', repeat('я', 251)))$$);
SELECT * FROM try($$SELECT tegro_order('')$$);
SELECT * FROM try($$SELECT tegro_withdrawal('')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 0.12345678901234567891, "order_id": "1"}')$$);
SELECT * FROM try($$SELECT tegro_create_order('{"currency": "RUB", "amount": 12345678901234567890, "order_id": "1"}')$$);
-- what a payment needs
CREATE FUNCTION order_with(params jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text;
BEGIN
	PERFORM tegro_enqueue('createOrder', '{"order_id": "with", "currency": "RUB", "amount": 100}' || params);
	RETURN 'enqueued';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, ''));
END $$;
SELECT params, order_with(params) FROM (VALUES
	('{"currency": null}'::jsonb), ('{"currency": ""}'), ('{"currency": 643}'),
	('{"amount": null}'), ('{"amount": 0}'), ('{"amount": "0.00"}'), ('{"amount": -1}'), ('{"amount": "1,5"}'),
	('{"amount": "ten"}'), ('{"amount": true}'), ('{"amount": ""}'), ('{"amount": 1e50}'),
	('{"amount": 0.30000000000000004}'), ('{"amount": "0.1000000000001"}'),
	('{"receipt": "none"}'), ('{"receipt": {}}'), ('{"receipt": {"items": []}}'), ('{"receipt": {"items": {}}}'),
	('{"receipt": {"items": [1]}}'), ('{"receipt": {"items": [{"name": "Tea", "price": 100}]}}'),
	('{"receipt": {"items": [{"name": "", "count": 1, "price": 100}]}}'),
	('{"receipt": {"items": [{"name": "Tea", "count": 0, "price": 100}]}}'),
	('{"receipt": {"items": [{"name": "Tea", "count": 1, "price": 150}, {"name": "Off", "count": 1, "price": -50}]}}'),
	('{"receipt": {"items": [{"name": "Tea", "count": 6, "price": 100}]}}'),
	('{"receipt": {"items": [{"name": "Tea", "count": 3, "price": 33.33}, {"name": "Bag", "count": 1, "price": "0.02"}]}}')
	) AS v(params);
-- nothing of it has used the reference
SELECT count(*) FROM tegro_outbox WHERE reference = 'with';
DROP FUNCTION order_with(jsonb);
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "1", "currency": "RUB"}')$$);
SELECT * FROM try($$SELECT tegro_call('createOrder', '{"order_id": "1", "amount": 1}')$$);
SELECT * FROM try($$SELECT * FROM tegro_batch('createOrder', ARRAY['{"order_id": "1", "currency": "RUB", "amount": 1}', '{"order_id": "2", "amount": 1}']::jsonb[])$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal('{"payment_id": "1", "amount": 1, "currency": "RUB"}')$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal('{"payment_id": "1", "amount": 1, "account": "4111"}')$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal('{"payment_id": "1", "currency": "RUB", "account": "4111"}')$$);
SELECT * FROM try($$SELECT tegro_create_withdrawal('{"amount": 1, "currency": "RUB", "account": "4111"}')$$);
SELECT * FROM try($$SELECT tegro_enqueue('createWithdrawal', '{"amount": 1, "currency": "RUB", "account": "4111"}')$$);
SELECT * FROM try($$SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "1", "amount": 1, "currency": "RUB", "account": ["4111"]}')$$);
SELECT * FROM try($$SELECT tegro_call('x', ('{"a":' || repeat('[', 512) || repeat(']', 512) || '}')::jsonb)$$);


-- Refused.
SELECT * FROM try($$SELECT tegro_order('no such order')$$);
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "1", "amount": 1, "currency": "XXX"}')$$);
SET tegro.api_key = 'another key';
SELECT * FROM try($$SELECT tegro_balance()$$);
RESET tegro.api_key;
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"\\u001b[31mred\\u0007 \\u202e\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);

-- Outcome unknown: an order whose answer was lost, executed once.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "it''s lost", "amount": 1, "currency": "RUB"}')$$);
SELECT count(*) FROM jsonb_array_elements(tegro_orders() -> 'data');
\! curl -sS -o /dev/null -d '{"method": "*", "times": 1, "action": "answer", "status": 500, "body": "{\"type\":\"success\",\"data\":{}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "500", "amount": 1, "currency": "RUB"}')$$);
\! curl -sS -o /dev/null -d '{"method": "*", "times": 1, "action": "answer", "status": 403, "body": "<html>error 1010</html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_call('newMethod')$$);
SET tegro.timeout = '1s';
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "hold", "ms": 60000}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "late", "amount": 1, "currency": "RUB"}')$$);
RESET tegro.timeout;

-- Unreadable: the same of what only reads.
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": "<html>maintenance</html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 403, "body": "<html>error 1010</html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"success\",\"data\":null}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"success\",\"data\":\"\\u0000\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": ""}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 200, "body": "[1]"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
SET tegro.read_retries = 1;
-- and repeated where that may help: one gateway error is not seen at all
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 1, "action": "answer", "status": 502, "body": "<html>bad gateway</html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 2, "action": "answer", "status": 502, "body": "<html>bad gateway</html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_balance()$$);

-- Too many requests.
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 429, "headers": {"Retry-After": "30"}, "body": "slow down"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try($$SELECT tegro_create_order('{"order_id": "429", "amount": 1, "currency": "RUB"}')$$);

-- Misconfigured.  (What else is said about a missing key depends on whether the
-- server has a credentials file.)
SET tegro.api_key = '';
SELECT state FROM try($$SELECT tegro_call('balance', '{"shop_id": "nobody''s"}')$$);
SET tegro.shop_id = '';
SELECT * FROM try($$SELECT tegro_balance()$$);
RESET tegro.shop_id;
RESET tegro.api_key;
SELECT * FROM try($$SET tegro.api_key = E'two\nlines'$$);
SELECT * FROM try($$SET tegro.no_such_setting = 1$$);
\x off

-- Keys don't show.
SET tegro.api_key = 'canary';
SHOW tegro.api_key;
SELECT current_setting('tegro.api_key');
SELECT count(*) FROM pg_settings WHERE name IN ('tegro.api_key', 'tegro.secret_key');
RESET ALL;
DROP FUNCTION try;
