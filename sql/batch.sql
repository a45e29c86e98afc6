-- Many calls at once: a row for each, errors as rows.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"

SELECT position, answer ->> 'type' AS type, sqlstate, message
  FROM tegro_batch('createOrder', ARRAY(
         SELECT jsonb_build_object('currency', 'RUB', 'amount', i * 10, 'order_id', format('batch %s', i))
           FROM generate_series(1, 5) i))
 ORDER BY position;

SELECT b.position, b.answer #>> '{data,amount}' AS amount, b.sqlstate,
       regexp_replace(b.message, ' \(HTTP.*', '') AS message
  FROM tegro_batch('order', ARRAY(
         SELECT jsonb_build_object('payment_id', format('batch %s', i))
           FROM generate_series(4, 7) i)) b
 ORDER BY position;

-- more than are in flight at once
SET tegro.max_concurrency = 3;
SELECT count(*), count(DISTINCT position), count(answer), min(position), max(position)
  FROM tegro_batch('balance', array_fill('{}'::jsonb, ARRAY[20]));
RESET tegro.max_concurrency;

-- none
SELECT count(*) FROM tegro_batch('balance', '{}');

-- one that fails loses none of the others
\! curl -sS -o /dev/null -d '{"method": "createOrder", "skip": 1, "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT count(answer) AS answered, array_agg(DISTINCT sqlstate) FILTER (WHERE sqlstate IS NOT NULL) AS failed
  FROM tegro_batch('createOrder', ARRAY(
         SELECT jsonb_build_object('currency', 'RUB', 'amount', 1, 'order_id', format('again %s', i))
           FROM generate_series(1, 5) i));
SELECT count(*) FROM jsonb_array_elements(tegro_orders() -> 'data');

-- what is wrong from the start is an error, before the first request
SELECT * FROM tegro_batch('createOrder', ARRAY['{"order_id": "first", "amount": 1, "currency": "RUB"}', NULL]::jsonb[]);
SELECT * FROM tegro_batch('createOrder', ARRAY['{"order_id": "first", "amount": 1, "currency": "RUB"}', '{"order_id": "2", "amount": 0.12345678901234567891}']::jsonb[]);
SELECT * FROM tegro_batch('createOrder', ARRAY['{"order_id": "first", "amount": 1, "currency": "RUB"}', '[]']::jsonb[]);
SELECT * FROM tegro_batch('balance', NULL);
SELECT * FROM tegro_batch(NULL, '{}');
SELECT count(*) FROM jsonb_array_elements(tegro_orders() -> 'data');
