-- Foreign tables over the provider's lists.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
SET datestyle = iso;

-- A plan as all versions show it; with ANALYZE, it is carried out.
CREATE FUNCTION plan(query text, options text DEFAULT 'ANALYZE, TIMING OFF, SUMMARY OFF') RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF, %s) %s', options, query) LOOP
		CONTINUE WHEN line ~ '^ *(Disabled|Memory|Storage|Buffers|Planning|Index Searches)\y';
		-- on average, in whole rows before PostgreSQL 18
		line := regexp_replace(line, 'rows=[0-9.]+ loops=([2-9]|\d\d)', 'rows=N loops=\1');
		RETURN NEXT regexp_replace(line, 'rows=(\d+)\.00', 'rows=\1', 'g');
	END LOOP;
END $$;

-- Options: what is not one is refused, and what would be is named.
CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw OPTIONS (shop 'x');
CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw OPTIONS (api_key 'x');
CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw OPTIONS (shop_id '');
CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (password 'x');
CREATE FOREIGN TABLE bad (id bigint) SERVER shop;
CREATE FOREIGN TABLE bad (id bigint) SERVER shop OPTIONS (list 'payments');
CREATE FOREIGN TABLE bad (id bigint) SERVER shop OPTIONS (list 'orders', page '2');
ALTER FOREIGN DATA WRAPPER tegro_fdw OPTIONS (ADD shop_id 'x');

-- IMPORT: all lists, some, all but some
CREATE SCHEMA tegro_lists;
CREATE SCHEMA tegro_some;
IMPORT FOREIGN SCHEMA public FROM SERVER shop INTO tegro_lists;
IMPORT FOREIGN SCHEMA tegro FROM SERVER shop INTO tegro_lists OPTIONS (pages '1');
IMPORT FOREIGN SCHEMA tegro LIMIT TO (orders, payments) FROM SERVER shop INTO tegro_lists;
IMPORT FOREIGN SCHEMA tegro FROM SERVER shop INTO tegro_lists;
SELECT table_name, column_name, data_type
  FROM information_schema.columns WHERE table_schema = 'tegro_lists'
 ORDER BY table_name COLLATE "C", ordinal_position;
IMPORT FOREIGN SCHEMA tegro LIMIT TO (orders, shops) FROM SERVER shop INTO tegro_some;
SELECT relname FROM pg_class WHERE relnamespace = 'tegro_some'::regnamespace ORDER BY relname COLLATE "C";
DROP FOREIGN TABLE tegro_some.orders, tegro_some.shops;
IMPORT FOREIGN SCHEMA tegro EXCEPT (orders, withdrawals, modules) FROM SERVER shop INTO tegro_some;
SELECT relname FROM pg_class WHERE relnamespace = 'tegro_some'::regnamespace ORDER BY relname COLLATE "C";
DROP SCHEMA tegro_some CASCADE;
SET search_path = tegro_lists, public;

-- Each list, with types of its own.
SELECT * FROM shops WHERE id = 1;
SELECT * FROM balances ORDER BY currency;
SELECT * FROM modules ORDER BY id;
TABLE orders;
TABLE withdrawals;
SELECT tegro_create_order('{"order_id": "first", "currency": "RUB", "amount": 1200.10, "payment_system": 10,
                            "fields": {"email": "buyer@example.com"}}') #>> '{data,id}' AS first \gset
SELECT tegro_create_order('{"order_id": "Чай \"1\"", "currency": "USD", "amount": "0.00000001"}') ->> 'type' AS made;
\! curl -sS -o /dev/null -d '{"payment_id": "first"}' "$TEGRO_SANDBOX_URL/_sandbox/pay"
SELECT payment_id, status, amount, fee, currency_id, payment_system_id, email, test_order,
       date_created > '2020-01-01' AS created, date_payed >= date_created AS payed, other_fields
  FROM orders;
SELECT sum(amount), max(payment_system_id) FROM orders;
SELECT tegro_create_withdrawal('{"payment_id": "of the lists", "currency": "RUB", "amount": 10.5, "account": "4100"}') ->> 'type' AS made;
SELECT payment_id, amount, date_created > '2020-01-01' AS created FROM withdrawals;

-- A table may have some of the columns, other types, and must have no others.
CREATE FOREIGN TABLE brief (amount double precision, other_fields json, payment_id varchar(20), email text NOT NULL, test_order boolean)
	SERVER shop OPTIONS (list 'orders');
SELECT * FROM brief;
SELECT count(*) FROM brief;
ALTER FOREIGN TABLE brief DROP COLUMN other_fields, ADD COLUMN status text;
SELECT status, payment_id FROM brief;
-- what a type can't hold; only columns that are needed are read
ALTER FOREIGN TABLE brief ALTER COLUMN payment_id TYPE date;
SELECT payment_id FROM brief;
SELECT status FROM brief;
ALTER FOREIGN TABLE brief ALTER COLUMN payment_id TYPE varchar(4);
SELECT payment_id FROM brief;
ALTER FOREIGN TABLE brief ADD COLUMN total numeric;
SELECT count(*) FROM brief;
EXPLAIN SELECT count(*) FROM brief;
CREATE FOREIGN TABLE rich (currency text, amount numeric, other_fields jsonb) SERVER shop OPTIONS (list 'balances');
SELECT * FROM rich;
DROP FOREIGN TABLE brief, rich;
-- as a row, and its table
SELECT o.tableoid::regclass, (o).payment_id, o IS NULL AS nothing FROM orders o WHERE id = :first;

-- Lookups: one request where a condition names the row.  None with EXPLAIN.
EXPLAIN (COSTS OFF) SELECT * FROM orders;
EXPLAIN (COSTS OFF) SELECT * FROM balances;
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE payment_id = 'first';
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE 7 = id AND amount > 0;
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE id IN (1, 2) OR id = 3;
EXPLAIN (COSTS OFF, VERBOSE) SELECT amount FROM withdrawals WHERE id = ANY ('{1,2}');
-- not these
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE id <> 7 AND payment_id > 'first' AND payment_id LIKE 'f%';
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE payment_id = email;
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE id = (random() * 10)::int;
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE id = 7.5;
EXPLAIN (COSTS OFF) SELECT amount FROM orders WHERE payment_id = 'first'::name;
SELECT payment_id FROM orders WHERE payment_id = 'first'::name;
EXPLAIN (COSTS OFF) SELECT name FROM shops WHERE id = 1;
SELECT payment_id, amount FROM orders WHERE id = :first;
SELECT payment_id, amount FROM orders WHERE payment_id = 'Чай "1"';
SELECT payment_id, amount FROM orders WHERE payment_id = 'first' AND amount < 1;
SELECT payment_id, amount FROM orders WHERE payment_id = 'first' AND id = :first;
SELECT payment_id FROM withdrawals WHERE payment_id = 'of the lists';
SELECT * FROM plan($$SELECT amount FROM orders WHERE payment_id = 'first'$$);
-- none there; a number that nobody has; null: who asks for it is not asked
SELECT * FROM plan($$SELECT amount FROM orders WHERE payment_id = 'no such order'$$);
SELECT * FROM plan($$SELECT amount FROM orders WHERE id = -1$$);
PREPARE by_number(text) AS SELECT amount FROM orders WHERE payment_id = $1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE by_number('first');
EXECUTE by_number('first');
EXECUTE by_number(NULL);
-- the provider can't be asked for it: the list is read
SELECT * FROM plan($$EXECUTE by_number('')$$);
RESET plan_cache_mode;
-- several at once; what is named twice is asked for once
SELECT * FROM plan($$SELECT amount FROM orders WHERE payment_id IN ('first', 'no such order', 'first', 'Чай "1"', NULL)$$);
SELECT payment_id FROM orders WHERE payment_id = ANY (ARRAY(SELECT 'first' UNION ALL SELECT 'Чай "1"')) ORDER BY amount;
SELECT payment_id FROM orders WHERE payment_id = ANY ('{}');
-- Joins: few rows are looked up, many are found in the list.
CREATE TABLE public.sale (number int, reference text, wanted bigint[]);
INSERT INTO public.sale VALUES (1, 'first'), (2, 'unknown'), (3, NULL), (4, 'Чай "1"');
ANALYZE public.sale;
SET enable_memoize = off;
SELECT * FROM plan($$SELECT number, status FROM sale LEFT JOIN orders ON payment_id = reference$$);
RESET enable_memoize;
SELECT number, status, amount FROM sale LEFT JOIN orders ON payment_id = reference ORDER BY number;
SELECT number, status, amount FROM sale JOIN orders o ON o.payment_id = reference ORDER BY number;
SELECT number, (SELECT amount FROM orders WHERE payment_id = reference) FROM sale ORDER BY number;
SELECT number, amount FROM sale, LATERAL (SELECT amount FROM orders WHERE payment_id = reference OFFSET 0) o ORDER BY number;
UPDATE public.sale SET wanted = ARRAY[:first, 1, NULL] WHERE number = 2;
SELECT number, payment_id FROM sale JOIN orders ON id = ANY (wanted);
INSERT INTO public.sale SELECT i, 'sale ' || i FROM generate_series(5, 1000) i;
ANALYZE public.sale;
EXPLAIN (COSTS OFF) SELECT number, status FROM sale JOIN orders ON payment_id = reference;
SELECT count(*) FROM sale JOIN orders ON payment_id = reference;
-- a rescan for each row, from the rows that were kept
SET enable_material = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SELECT * FROM plan($$SELECT number, amount FROM (SELECT * FROM sale WHERE number < 4) s LEFT JOIN orders ON amount > number$$);
SELECT number, count(amount) FROM (SELECT * FROM sale WHERE number < 4) s LEFT JOIN orders ON amount > number GROUP BY number ORDER BY 1;
RESET enable_material; RESET enable_hashjoin; RESET enable_mergejoin;
-- beside rows of ours that are changed, or locked
UPDATE public.sale SET wanted = ARRAY[o.id] FROM orders o WHERE payment_id = reference;
SELECT number, wanted = ARRAY[:first]::bigint[] AS first FROM sale WHERE wanted IS NOT NULL ORDER BY number;
SELECT payment_id FROM orders WHERE id = :first FOR UPDATE;

-- Pages.  The sandbox's have 100 rows.
SET tegro.max_concurrency = 1;
SELECT count(answer) FROM tegro_batch('createOrder',
	(SELECT array_agg(jsonb_build_object('order_id', 'bulk ' || i, 'currency', 'RUB', 'amount', i)) FROM generate_series(1, 648) i));
RESET tegro.max_concurrency;
SELECT count(*), count(DISTINCT id), sum(amount) FILTER (WHERE payment_id LIKE 'bulk %') = 648 * 649 / 2 AS all_there FROM orders;
SELECT count(*) FROM (SELECT FROM orders LIMIT 100) o;
SELECT * FROM plan($$SELECT FROM orders LIMIT 100$$);
SELECT * FROM plan($$SELECT FROM orders LIMIT 101$$);
-- one at a time: seven pages, and the empty one that ends them
SET tegro.max_concurrency = 1;
SELECT * FROM plan($$SELECT FROM orders$$);
RESET tegro.max_concurrency;
-- newest first, as the provider has them
SELECT array_agg(id) = array_agg(id ORDER BY id DESC) AS newest_first FROM orders;

-- Cursors: rows as they are wanted, backwards and again, and while another runs.
BEGIN;
DECLARE forward CURSOR FOR SELECT payment_id FROM orders;
DECLARE back SCROLL CURSOR FOR SELECT payment_id FROM orders WHERE amount BETWEEN 300 AND 302;
FETCH 2 FROM forward;
FETCH ALL FROM back;
MOVE 296 FROM forward;
FETCH 3 FROM forward;
FETCH BACKWARD 2 FROM back;
-- the keys that its requests in flight were signed with go away
SET LOCAL tegro.api_key = 'another key';
FETCH 1 FROM forward;
SELECT count(*) FROM sale;
\set VERBOSITY terse
MOVE ALL FROM forward;
\set VERBOSITY default
ROLLBACK;
BEGIN;
DECLARE forward CURSOR FOR SELECT payment_id FROM orders;
MOVE 250 FROM forward;
CLOSE forward;
SELECT payment_id FROM orders LIMIT 1;
DECLARE kept CURSOR WITH HOLD FOR SELECT payment_id FROM orders ORDER BY id;
COMMIT;
FETCH 2 FROM kept;
CLOSE kept;

-- Errors are those of calls.
CREATE FUNCTION try(statement text, OUT state text, OUT message text, OUT detail text, OUT context text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	state := 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, context = PG_EXCEPTION_CONTEXT;
	detail := regexp_replace(detail, '(connection kept alive, |name lookup [0-9.]+ ms, |connection [0-9.]+ ms, |TLS [0-9.]+ ms, |first byte [0-9.]+ ms, )*total [0-9.]+ ms', 'TIMES', 'g');
	context := substring(context FROM '^(?:page|column) [^\n]*');
END $$;
\x on
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "{\"type\":\"error\",\"desc\":\"Not today\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders');
\! curl -sS -o /dev/null -d '{"method": "order", "action": "answer", "body": "{\"type\":\"error\",\"desc\":\"Not today\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders WHERE id = 1');
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "<html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders');
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"7\":1}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders');
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "{\"type\":\"success\",\"data\":[7]}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders');
\! curl -sS -o /dev/null -d '{"method": "order", "action": "answer", "body": "{\"type\":\"success\",\"data\":[{}]}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM orders WHERE id = 1');
\! curl -sS -o /dev/null -d '{"method": "shops", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"user_id\":1}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM shops');
\! curl -sS -o /dev/null -d '{"method": "balance", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"user_id\":1,\"balance\":[\"1.00\"]}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT FROM balances');
\! curl -sS -o /dev/null -d '{"method": "balance", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"user_id\":1,\"balance\":{\"RUB\":\"many\"}}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT amount FROM balances');
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "{\"type\":\"success\",\"data\":[{\"id\":\"77\",\"date_payed\":\"soon\"}]}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT * FROM orders');
-- what is shown of it is fit to be shown: no control characters, and not all of it
\! curl -sS -o /dev/null -d '{"method": "balance", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"user_id\":1,\"balance\":{\"RUB\":\"\\u001b[2J1\\n2\\u202e\"}}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT amount FROM balances');
\! curl -sS -o /dev/null -d '{"method": "orders", "action": "answer", "body": "{\"type\":\"success\",\"data\":[{\"id\":\"\\u001b\\u0007'$(printf %01000d 7 | tr 0 x)'\"}]}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM try('SELECT * FROM orders');
-- the same page for ever
\! curl -sS -o /dev/null -d '{"method": "orders", "times": 12, "action": "answer", "body": "{\"type\":\"success\",\"data\":[{\"id\":7}]}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET tegro.max_concurrency = 1;
SELECT * FROM try('SELECT FROM orders');
RESET tegro.max_concurrency;
\! curl -sS -o /dev/null -X DELETE "$TEGRO_SANDBOX_URL/_sandbox/fault"
SET tegro.shop_id = '';
SELECT * FROM try('SELECT FROM orders');
SELECT * FROM try('EXPLAIN SELECT FROM orders');
RESET tegro.shop_id;
\x off
-- what PHP writes for an object without members
\! curl -sS -o /dev/null -d '{"method": "balance", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"user_id\":1,\"balance\":[]}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
TABLE balances;
-- fields that are missing, null, known with another type, not known, nested
\! curl -sS -o /dev/null -d '{"method": "order", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"id\":\"9007199254740993\",\"status\":\"77\",\"amount\":1.50,\"email\":null,\"payment_id\":17,\"new\":{\"a\":[1]},\"flag\":true,\"none\":null}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT id, payment_id, status, amount, fee, email, date_payed, other_fields FROM orders WHERE id = 9007199254740993;
-- a withdrawal as it is documented
\! curl -sS -o /dev/null -d '{"method": "withdrawal", "action": "answer", "body": "{\"type\":\"success\",\"data\":{\"id\":124,\"date_created\":\"2020-11-14 23:32:37\",\"date_payed\":\"2020-11-14 23:33:39\",\"status\":1,\"currency_id\":1,\"amount\":\"64.18000000\",\"payment_id\":\"Order #4174\"}}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT * FROM withdrawals WHERE id = 124;
-- a page asked for ahead that fails is asked for again
\! curl -sS -o /dev/null -d '{"method": "orders", "skip": 3, "times": 1, "action": "answer", "status": 403, "body": "<html>"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
SELECT count(*), count(DISTINCT id) FROM orders;
\! curl -sS -o /dev/null -X DELETE "$TEGRO_SANDBOX_URL/_sandbox/fault"

-- The server's shop goes before the setting.
ALTER SERVER shop OPTIONS (ADD shop_id 'nobody''s');
EXPLAIN (COSTS OFF, VERBOSE) SELECT id FROM orders;
\set VERBOSITY terse
SET tegro.api_key = 'a key of the session';
SELECT count(*) FROM orders;
SET tegro.api_key = '';
SELECT state FROM try('SELECT FROM orders');
RESET tegro.api_key;
\set VERBOSITY default
ALTER SERVER shop OPTIONS (DROP shop_id);
SELECT count(*) > 0 AS some FROM orders;

-- They can only be read.
INSERT INTO orders (id) VALUES (1);
UPDATE orders SET amount = 0;
DELETE FROM orders;
TRUNCATE orders;
COPY orders (id) FROM stdin;
1
\.
SELECT is_insertable_into FROM information_schema.tables WHERE table_schema = 'tegro_lists' AND table_name = 'orders';
BEGIN READ ONLY;
SELECT count(*) > 0 AS some FROM orders;
ROLLBACK;

-- ANALYZE reads the list, and the planner knows its size.
ANALYZE orders;
SELECT reltuples FROM pg_class WHERE oid = 'orders'::regclass;

-- A copy that is kept, brought up to date.
CREATE TABLE public.copy (LIKE orders, PRIMARY KEY (id));
INSERT INTO copy SELECT * FROM orders
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, date_payed = excluded.date_payed
 WHERE (copy.status, copy.date_payed) IS DISTINCT FROM (excluded.status, excluded.date_payed);
SELECT count(*) FROM copy;

-- Who may.
CREATE ROLE regress_tegro_lists;
GRANT USAGE ON SCHEMA tegro_lists TO regress_tegro_lists;
SET ROLE regress_tegro_lists;
CREATE SERVER own FOREIGN DATA WRAPPER tegro_fdw;
SELECT count(*) FROM orders;
SELECT tegro_fdw_handler();
SELECT tegro_fdw_validator('{}', 0);
RESET ROLE;
GRANT SELECT ON orders TO regress_tegro_lists;
SET ROLE regress_tegro_lists;
SELECT count(*) FROM orders;
IMPORT FOREIGN SCHEMA tegro FROM SERVER shop INTO pg_temp;
RESET ROLE;
SELECT a.grantee = w.fdwowner AS owners, a.privilege_type FROM pg_foreign_data_wrapper w, aclexplode(fdwacl) a WHERE fdwname = 'tegro_fdw';
SELECT obj_description(oid, 'pg_foreign_data_wrapper') IS NOT NULL AS described FROM pg_foreign_data_wrapper WHERE fdwname = 'tegro_fdw';
DROP OWNED BY regress_tegro_lists;
DROP ROLE regress_tegro_lists;

RESET search_path;
DROP TABLE sale, copy;
DROP FUNCTION tegro_lists.try, plan;
DROP SCHEMA tegro_lists CASCADE;
DROP SERVER shop;
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
