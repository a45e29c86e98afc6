-- Counters: every request is counted where it ends, whoever sent it.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
CREATE VIEW counted AS
SELECT method, calls, requests, repeated, answered AS ok, refused AS no, not_sent, unknown, unreadable AS garbled, rate_limited AS slow, misconfigured AS wrong, cancelled AS cut
  FROM tegro_stat WHERE requests > 0 ORDER BY method COLLATE "C";
SELECT tegro_stat_reset();
SELECT method, requests, since <= clock_timestamp() AS since FROM tegro_stat;

-- Each way to end, one after the other.
SET tegro.read_retries = 0;
SELECT tegro_balance() ->> 'type' AS type;
SELECT method, connections IN (0, 1) AS connections, bytes_sent > 50 AND bytes_received > 50 AS bytes,
       wait_ms > 0 AND wait_ms <= total_ms AS times, latency_requests[array_length(latency_ms, 1)] AS histogram
  FROM tegro_stat WHERE requests > 0;
\set VERBOSITY terse
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_create_order('{"order_id": "1", "currency": "XXX", "amount": 1}') ->> 'type' AS type;
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "execute_then_close"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_create_order('{"order_id": "2", "currency": "RUB", "amount": 1}') ->> 'type' AS type;
\! curl -sS -o /dev/null -d '{"method": "shops", "times": 1, "action": "answer", "status": 502, "body": "gone"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_shops() ->> 'type' AS type;
\! curl -sS -o /dev/null -d '{"method": "shops", "times": 1, "action": "answer", "status": 429, "body": "{\"type\":\"error\",\"desc\":\"slow down\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_shops() ->> 'type' AS type;
\! curl -sS -o /dev/null -d '{"method": "rates", "times": 1, "action": "hold", "ms": 60000}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET statement_timeout = '2s';
SELECT tegro_rates() ->> 'type' AS type;
RESET statement_timeout;
SELECT tegro_call('newMethod') ->> 'type' AS type;
SELECT * FROM counted;

-- Before a request is begun there is nothing to count.
SELECT tegro_stat_reset();
SELECT tegro_create_order('{}');
SELECT * FROM counted;

-- Repeats are requests of the same call.
RESET tegro.read_retries;
\! curl -sS -o /dev/null -d '{"method": "balance", "times": 2, "action": "close_after_read"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT tegro_balance() ->> 'type' AS type;
SELECT count(*) FROM tegro_batch('order', array_fill('{"payment_id": "none"}'::jsonb, ARRAY[20]));
SELECT * FROM counted;

-- The worker's are counted with the others.
SELECT tegro_stat_reset();
SELECT tegro_enqueue('createOrder', '{"order_id": "stat 1", "amount": 100.50, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS type;
SELECT tegro_create_withdrawal('{"payment_id": "stat 2", "amount": 1, "currency": "RUB", "account": "4100"}') ->> 'type' AS type;
SELECT * FROM counted;

-- A backlog: how fast it is worked off, and what is left.
SELECT method, state, finished_last_minute > 0 AS finished, time_left FROM tegro_outbox_summary WHERE state = 'accepted' ORDER BY method;
INSERT INTO tegro_outbox (shop_id, method, params, reference, next_at, enqueued_by, origin, enqueued_at, state, finished_at)
SELECT 'another', 'createOrder', '{}', 'n' || i, CASE WHEN i > 100 THEN 'infinity'::timestamptz END, CURRENT_USER::regrole, 'none', now() - interval '1 h',
       CASE WHEN i > 100 THEN 'ready' ELSE 'accepted' END,
       CASE WHEN i <= 50 THEN clock_timestamp() - interval '2 min' WHEN i <= 100 THEN clock_timestamp() - interval '10 s' END
  FROM generate_series(1, 350) AS i;
SELECT state, requests, finished_last_minute, time_left BETWEEN '49 s' AND '60 s' AS time_left
  FROM tegro_outbox_summary WHERE shop_id = 'another' ORDER BY state;
DELETE FROM tegro_outbox WHERE shop_id = 'another';

-- Whose business it is.
CREATE ROLE regress_tegro_monitor;
SET ROLE regress_tegro_monitor;
SELECT * FROM tegro_stat;
SELECT tegro_stat_reset();
SELECT * FROM tegro_doctor();
RESET ROLE;
GRANT SELECT ON tegro_stat TO regress_tegro_monitor;
GRANT EXECUTE ON FUNCTION tegro_stat_counters() TO regress_tegro_monitor;
SET ROLE regress_tegro_monitor;
SELECT count(*) FROM tegro_stat;
RESET ROLE;
DROP OWNED BY regress_tegro_monitor;
DROP ROLE regress_tegro_monitor;
DROP VIEW counted;
