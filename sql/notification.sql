-- Notifications: verified, recorded once, confirmed by the provider.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
\getenv url TEGRO_SANDBOX_URL
\getenv shop TEGRO_SHOP_ID
\getenv secret TEGRO_SECRET_KEY

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

-- The shop and the secret key stand for $shop and $secret below.
SELECT set_config('regress.shop', :'shop', false) = '' AS set, set_config('regress.secret', :'secret', false) = '' AS set;
CREATE FUNCTION signed(form text) RETURNS text LANGUAGE sql AS $$
	SELECT f || '&sign=' || md5(f || current_setting('regress.secret'))
	  FROM replace(form, '$shop', current_setting('regress.shop')) AS f
$$;
-- JSON, to which shop and signature are added: the members as text, without braces.
CREATE FUNCTION signed_json(members text, form text) RETURNS text LANGUAGE sql AS $$
	SELECT format('{%s, "shop_id": "%s", "sign": "%s"}', members, current_setting('regress.shop'),
		md5(replace(form, '$shop', current_setting('regress.shop')) || current_setting('regress.secret')))
$$;
-- An urlencoded form as multipart; values have no escapes but these.
CREATE FUNCTION multipart(form text, boundary text DEFAULT 'b') RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format(E'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n', boundary, split_part(pair, '=', 1),
		replace(replace(split_part(pair, '=', 2), '%26', '&'), '%3D', '=')), '') || '--' || boundary || E'--\r\n'
	  FROM string_to_table(form, '&') AS pair
$$;

--
-- What is signed, and what is not.  Each form below is signed over its own
-- text, so what is refused is refused for what it is.
--
SELECT ok, form FROM (VALUES
	('amount=100.00&currency=RUB&order_id=123&payment_system=10&shop_id=$shop'),
	('amount=100.00&currency=RUB&order_id=123&payment_id=755555&payment_system=10&shop_id=$shop&status=1'),
	('amount=100.00&currency=RUB&order_id=123&payment_system=10&shop_id=$shop&test=1'),
	-- fields that nobody knows are signed, too
	('amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop&zip=%D0%A7%D0%B0%D0%B9+%2F%2B%7E'),
	('amount=1&currency=RUB&fields%5Bemail%5D=a%40b&fields%5Ba%5D=1&order_id=1&payment_system=1&shop_id=$shop'),
	('A=&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	-- the provider's English documentation has no payment_system; a payment
	-- link's fields are signed in the same way, so they are valid, too
	('amount=100&currency=RUB&order_id=123&shop_id=$shop'),
	('amount=100&currency=RUB&order_id=123&shop_id=$shop&test=1'),
	('amount=100&currency=RUB&order_id=123&payment_system=&shop_id=$shop'),
	-- what every notification has
	('currency=RUB&order_id=123&payment_system=10&shop_id=$shop'),
	('amount=100&order_id=123&payment_system=10&shop_id=$shop'),
	('amount=100&currency=RUB&payment_system=10&shop_id=$shop'),
	('amount=100&currency=RUB&order_id=123&payment_system=10'),
	('amount=100&currency=RUB&order_id=&payment_system=10&shop_id=$shop'),
	-- one name twice; a value and an array
	('amount=100&amount=100&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=1&a%5Bb%5D=2&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a%5Bb%5D=2&a%5Bb%5D=3&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('amount=1&currency=RUB&order_id=1&order_id%5B0%5D=2&payment_system=1&shop_id=$shop'),
	-- names that PHP would rename, number, or order by rules of its own
	('a%5B%5D=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a%5B=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a%5B+b%5D=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a%5Bb%5Dc=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a+b=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('10=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('1e1=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('%D0%A7=1&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	-- no text
	('a=%00&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=%FF&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=%ED%A0%80&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=%C0%80&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=%4&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	('a=%zz&amount=1&currency=RUB&order_id=1&payment_system=1&shop_id=$shop'),
	-- not what ksort() makes
	('currency=RUB&amount=1&order_id=1&payment_system=1&shop_id=$shop')
) AS f(form), LATERAL (SELECT tegro_verify_notification(signed(form))) AS v(ok);

-- the order in which fields come is nobody's business, nor how they are escaped
SELECT signed('amount=100.00&currency=RUB&order_id=a+b&payment_system=10&shop_id=$shop') AS body \gset
SELECT tegro_verify_notification(string_agg(pair, '&' ORDER BY pair DESC)) AS backward,
       tegro_verify_notification(replace(:'body', 'a+b', '%61%20b')) AS escaped,
       tegro_verify_notification(replace(:'body', '&', '&&')) AS empty_pairs
  FROM string_to_table(:'body', '&') AS pair;

-- anything else is
SELECT signed('amount=100.00&currency=RUB&order_id=7&payment_system=16&shop_id=$shop') AS body \gset
SELECT right(:'body', 32) AS sign \gset
SELECT name, tegro_verify_notification(body) AS ok FROM (VALUES
	('as it is', :'body'),
	('amount', replace(:'body', '100.00', '1.00')),
	('amount as a number', replace(:'body', '100.00', '100')),
	('two fields in one value', replace(:'body', 'order_id=7&payment_system=16', 'order_id=7%26payment_system%3D16')),
	('and again', replace(:'body', 'order_id=7&payment_system=16', 'order_id=7%26payment_system%3D16&payment_system=16')),
	('a field more', :'body' || '&status=1'),
	('a field less', replace(:'body', '&order_id=7', '')),
	('sign twice', :'body' || '&sign=' || :'sign'),
	('two signs', 'sign=' || repeat('0', 32) || '&' || :'body'),
	('sign in an array', replace(:'body', '&sign=', '&sign[0]=')),
	('sign in capitals', replace(:'body', :'sign', upper(:'sign'))),
	('sign cut', left(:'body', -1)),
	('sign longer', :'body' || '0'),
	('sign empty', replace(:'body', :'sign', '')),
	('sign missing', replace(:'body', '&sign=' || :'sign', '')),
	('zeros', replace(:'body', :'sign', repeat('0', 32))),
	('a line break behind', :'body' || E'\n'),
	('a shop that is no text', replace(:'body', 'shop_id=', 'shop_id=%D0%A7')),
	('nothing', ''), ('a name', 'x'), ('noise', '&=&==&&%&'),
	('as JSON', '{"amount": "100.00"}'),
	('not escaped', replace(:'body', 'order_id=7', 'order_id=é')),
	('too many fields', (SELECT string_agg('f' || i || '=1', '&') FROM generate_series(1, 101) i)),
	('too long', 'a=' || repeat('x', 70000)),
	('1 MB', repeat('x', 1048576)),
	('1 MB of fields', repeat('a=1&', 262144))
) AS f(name, body);

-- the limits of names, values and the whole
SELECT name, tegro_verify_notification(signed(form || '&amount=1&currency=RUB&order_id=1&shop_id=$shop')) AS ok FROM (VALUES
	('name of 256 bytes', repeat('a', 256) || '=1'),
	('of 257', repeat('a', 257) || '=1'),
	('value of 8 kB', 'a=' || repeat('x', 8192)),
	('of a byte more', 'a=' || repeat('x', 8193)),
	('100 fields', (SELECT string_agg(format('a%s=1', i), '&') FROM generate_series(101, 195) i)),
	('101', (SELECT string_agg(format('a%s=1', i), '&') FROM generate_series(101, 196) i))
) AS f(name, form);

--
-- One answer for all, whichever shops have keys: none of these says more than
-- that it is not signed.  The log has the cause.
--
CREATE FUNCTION try_notify(body text, OUT verified boolean, OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	verified := tegro_verify_notification(body);
	PERFORM tegro_notify(body);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END $$;
CREATE VIEW refused AS
	SELECT name, (try_notify(body)).* FROM (VALUES
		(1, 'wrong signature', current_setting('regress.body') || '&x=1'),
		(2, 'no such shop', replace(current_setting('regress.body'), 'shop_id=', 'shop_id=X')),
		(3, 'no shop_id', regexp_replace(current_setting('regress.body'), '&shop_id=[^&]*', '')),
		(4, 'empty shop_id', regexp_replace(current_setting('regress.body'), '&shop_id=[^&]*', '&shop_id=')),
		(5, 'no form', 'x')
	) AS f(n, name, body) ORDER BY n;
SELECT set_config('regress.body', :'body', false) = '' AS set;
SELECT * FROM refused;
SET tegro.secret_key = 'another';
SELECT tegro_verify_notification(:'body') AS other_key;
-- (whether there is a credentials file is the server's business: see t/212)
SET tegro.secret_key = '';
SELECT * FROM refused WHERE name <> 'wrong signature';
RESET tegro.secret_key;
-- the log's words do not reach a client that asks for everything
SET client_min_messages = log;
SELECT tegro_verify_notification(:'body' || '&x=1') AS ok;
RESET client_min_messages;
DROP VIEW refused;
DROP FUNCTION try_notify;
SELECT tegro_verify_notification(NULL);
SELECT tegro_notify(NULL);

--
-- JSON: the signature is over each value as PHP writes it, a number as it stands
--
SELECT tegro_verify_notification(signed_json(members, form)) AS ok, members FROM (VALUES
	('"amount": "100.00", "currency": "RUB", "order_id": "7", "payment_system": "10"', 'amount=100.00&currency=RUB&order_id=7&payment_system=10&shop_id=$shop'),
	('"amount": 100.00, "currency": "RUB", "order_id": 7', 'amount=100.00&currency=RUB&order_id=7&shop_id=$shop'),
	('"amount": 100.00, "currency": "RUB", "order_id": 8', 'amount=100&currency=RUB&order_id=8&shop_id=$shop'),
	('"amount": 100.50, "currency": "RUB", "order_id": 7, "test": true, "x": false, "y": null', 'amount=100.50&currency=RUB&order_id=7&shop_id=$shop&test=1&x=0'),
	('"amount": 12345678901234567890.123456789012345, "currency": "RUB", "order_id": "7"', 'amount=12345678901234567890.123456789012345&currency=RUB&order_id=7&shop_id=$shop'),
	('"amount": "1", "currency": "RUB", "order_id": "\u00e9\n\u0026a=1"', 'amount=1&currency=RUB&order_id=%C3%A9%0A%26a%3D1&shop_id=$shop'),
	-- PHP has no 1e2 in a form
	('"amount": 1e2, "currency": "RUB", "order_id": "7"', 'amount=100&currency=RUB&order_id=7&shop_id=$shop'),
	('"amount": 1e2, "currency": "RUB", "order_id": "8"', 'amount=1e2&currency=RUB&order_id=8&shop_id=$shop'),
	('"amount": 1, "a": 1e131071, "currency": "RUB", "order_id": "7"', 'a=1e131071&amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	-- one name twice, and once with null
	('"amount": "1", "amount": "1", "currency": "RUB", "order_id": "7"', 'amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"amount": null, "amount": "1", "currency": "RUB", "order_id": "7"', 'amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"amoun\u0074": "1", "amount": "1", "currency": "RUB", "order_id": "7"', 'amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	-- nested values
	('"amount": ["1"], "currency": "RUB", "order_id": "7"', 'amount%5B0%5D=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"a": {"b": "1"}, "amount": "1", "currency": "RUB", "order_id": "7"', 'a%5Bb%5D=1&amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"a": {}, "amount": "1", "currency": "RUB", "order_id": "7"', 'amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"a[b]": "1", "amount": "1", "currency": "RUB", "order_id": "7"', 'a%5Bb%5D=1&amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	-- no text
	('"a": "\u0000", "amount": "1", "currency": "RUB", "order_id": "7"', 'a=%00&amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"a": "\ud800", "amount": "1", "currency": "RUB", "order_id": "7"', 'a=%ED%A0%80&amount=1&currency=RUB&order_id=7&shop_id=$shop'),
	('"": "1", "amount": "1", "currency": "RUB", "order_id": "7"', '=1&amount=1&currency=RUB&order_id=7&shop_id=$shop')
) AS f(members, form);
SELECT signed_json('"amount": "1", "currency": "RUB", "order_id": "7"', 'amount=1&currency=RUB&order_id=7&shop_id=$shop') AS json \gset
SELECT name, tegro_verify_notification(body) AS ok FROM (VALUES
	('as it is', :'json'),
	('blanks around it', E' \t\r\n' || :'json' || E'\n '),
	('sign in capitals', regexp_replace(:'json', '("sign": ")(.*)"', '\1' || upper(substring(:'json' FROM '"sign": "(.*)"')) || '"')),
	('another amount', replace(:'json', '"1"', '"2"')),
	('cut', left(:'json', -1)),
	('more behind it', :'json' || '{}'),
	('in an array', '[' || :'json' || ']'),
	('a line feed in a name', E'{"a\n": 1}'),
	('a comma', '{,}'), ('a number', '1'), ('a string', '"sign"'), ('null', 'null'), ('empty', '{}'), ('sign is a list', '{"sign": []}'),
	('deep', '{"a":' || repeat('[', 60000)),
	('deep objects', repeat('{"a":', 12000)),
	('101 names', '{' || (SELECT string_agg(format('"a%s": 1', i), ',') FROM generate_series(1, 101) i) || '}'),
	('1 MB', '{"a": "' || repeat('x', 1048576) || '"}')
) AS f(name, body);

--
-- Multipart
--
SELECT signed('amount=100.00&currency=RUB&order_id=7&payment_system=16&shop_id=$shop') AS body \gset
SELECT multipart(:'body') AS parts \gset
-- of an order that is named é, and the start of a part
SELECT multipart(signed('amount=1&currency=RUB&order_id=%C3%A9%0D%0A--b&shop_id=$shop'), 'c') AS lines \gset
SELECT replace(replace(:'lines', '%C3%A9', 'é'), '%0D%0A', E'\r\n') AS lines \gset
\set order 'Content-Disposition: form-data; name="order_id"'
SELECT name, tegro_verify_notification(body) AS ok FROM (VALUES
	('as it is', :'parts'),
	('the longest boundary', multipart(:'body', repeat('x', 70))),
	('boundary of all characters', multipart(:'body', $$'()+_,-./:=? a$$)),
	('without the last line end', left(:'parts', -2)),
	('names without quotes', replace(:'parts', '"', '')),
	('other headers', replace(:'parts', :'order', E'Content-Length: 1\r\n' || :'order' || E'\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8BIT')),
	('headers in capitals', replace(replace(:'parts', 'Content-Disposition', 'CONTENT-DISPOSITION'), 'form-data; name', 'Form-Data ;NAME')),
	('sign in capitals', replace(:'parts', right(:'body', 32), upper(right(:'body', 32)))),
	('a value of two lines', :'lines'),
	-- two fields within one value
	('two fields in one value', multipart(replace(:'body', 'order_id=7&payment_system=16', 'order_id=7%26payment_system%3D16'))),
	('and again', multipart(replace(:'body', 'order_id=7&payment_system=16', 'order_id=7%26payment_system%3D16&payment_system=16'))),
	-- what has two readings, or none
	('a line of a value that is the boundary', replace(:'lines', '--c', '--b')),
	('a boundary that goes on', replace(:'parts', E'\r\n--b\r\n', E'\r\n--bb\r\n')),
	('a name twice', replace(:'parts', '--b--', E'--b\r\n' || :'order' || E'\r\n\r\n7\r\n--b--')),
	('a file', replace(:'parts', :'order', :'order' || '; filename="x"')),
	('a file of RFC 5987', replace(:'parts', :'order', :'order' || $$; filename*=utf-8''x$$)),
	('a second name', replace(:'parts', :'order', :'order' || '; name="order_id"')),
	('a second disposition', replace(:'parts', :'order', :'order' || E'\r\n' || :'order')),
	('another disposition', replace(:'parts', 'form-data', 'attachment')),
	('no name', replace(:'parts', '; name="order_id"', '')),
	('an escaped name', replace(:'parts', '"order_id"', '"order\_id"')),
	('a percent in a name', replace(:'parts', '"order_id"', '"order%5Fid"')),
	('an open quote', replace(:'parts', '"order_id"', '"order_id')),
	('a folded line', replace(:'parts', 'form-data; name="order_id"', E'form-data;\r\n name="order_id"')),
	('base64', replace(:'parts', :'order', :'order' || E'\r\nContent-Transfer-Encoding: base64')),
	('no headers', replace(:'parts', :'order' || E'\r\n', '')),
	('eight headers', replace(:'parts', :'order', :'order' || repeat(E'\r\nA: 1', 7))),
	('nine', replace(:'parts', :'order', :'order' || repeat(E'\r\nA: 1', 8))),
	('a header of 512 bytes', replace(:'parts', :'order', :'order' || E'\r\nA: ' || repeat('x', 509))),
	('of 513', replace(:'parts', :'order', :'order' || E'\r\nA: ' || repeat('x', 510))),
	('line feeds alone', replace(:'parts', E'\r\n', E'\n')),
	('a line before it', E'\r\n' || :'parts'),
	('text before it', 'x' || :'parts'),
	('text behind it', :'parts' || 'x'),
	('white space behind a boundary', replace(:'parts', E'--b\r\n', E'--b \r\n')),
	('no boundary', replace(:'parts', '--b', '--')),
	('a long boundary', multipart(:'body', repeat('x', 71))),
	('a quote in the boundary', multipart(:'body', '"')),
	('not closed', replace(:'parts', '--b--', '--b')),
	('no parts', E'--b\r\n--b--\r\n'),
	('10,000 parts', repeat(E'--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n', 10000) || '--b--'),
	('as many as there is room for', repeat(E'--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n', 1200) || '--b--'),
	('1 MB', replace(:'parts', E'\r\n7\r\n', E'\r\n' || repeat(E'\r\n--', 262144) || E'\r\n')),
	('64 kB of beginnings', replace(:'parts', E'\r\n7\r\n', E'\r\n' || repeat(E'\r\n--', 16000) || E'\r\n'))
) AS f(name, body);
-- cut short anywhere
SELECT count(*) FILTER (WHERE tegro_verify_notification(left(:'parts', n))) AS valid FROM generate_series(1, length(:'parts') - 3) n;

--
-- Taken: recorded once, confirmed by the provider, told once.
--
CREATE SCHEMA shop;
CREATE TABLE shop.orders (number text PRIMARY KEY, total numeric(12, 2), paid boolean DEFAULT false, calls int DEFAULT 0);
CREATE FUNCTION shop.order_paid(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE sql AS $$
	UPDATE shop.orders SET paid = state = 'confirmed' AND total = (answer #>> '{data,amount}')::numeric, calls = calls + 1
	 WHERE number = reference
$$;
SELECT tegro_on_payment('shop.order_paid(bigint,text,text,jsonb)');
SELECT shop_id = :'shop' AS shop, callback, role = current_user::regrole AS mine FROM tegro_payment_callback;
SELECT tegro_on_payment('now()'::regprocedure);
SELECT tegro_on_payment(NULL, '');

INSERT INTO shop.orders VALUES ('N1', 100), ('N2', 100), ('N3', 100), ('N4', 100), ('N5', 100), ('N6', 100);
CREATE FUNCTION pay(payment_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('COPY (SELECT %L) TO PROGRAM %L', jsonb_build_object('payment_id', payment_id),
		'curl -sS -o /dev/null --noproxy ''*'' -d @- ' ||
		coalesce('--cacert ' || quote_literal(nullif(current_setting('tegro.ca_file'), '')) || ' ', '') ||
		quote_literal(current_setting('regress.url') || '/_sandbox/pay'));
END $$;
SELECT set_config('regress.url', :'url', false) = '' AS set;
SELECT tegro_enqueue('createOrder', '{"order_id": "N1", "amount": 100, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS type;

SELECT signed('amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=1') AS body \gset
-- before it is paid: a forgery by who has the key, or the lookup lags
SELECT tegro_notify(:'body');
SELECT becomes_true('SELECT failures > 0 FROM tegro_notification');
SELECT state, confirmed, message, next_at > received_at AS again, amount, currency, request = :id AS known FROM tegro_notification;
SELECT paid, calls FROM shop.orders WHERE number = 'N1';
-- it came once, whichever way it is written
SELECT tegro_notify(:'body') AS urlencoded, tegro_notify(multipart(:'body')) AS multipart,
       tegro_notify(signed_json('"amount": 100.00, "currency": "RUB", "order_id": "N1", "payment_system": 10, "status": 1',
                                'amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=1')) AS json;
SELECT tegro_notify('amount=100.00');
SELECT tegro_notify(signed('amount=x&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop'));
SELECT pay('N1');
SELECT becomes_true('SELECT callback_state = ''done'' FROM tegro_notification');
SELECT state, confirmed, confirmed_at >= looked_up_at AS "when", next_at, callback, callback_message, answer #>> '{data,status}' AS status FROM tegro_notification;
SELECT paid, calls FROM shop.orders WHERE number = 'N1';
-- it is settled for ever
SELECT tegro_notify(:'body');
SELECT tegro_retry_notification(id) FROM tegro_notification;
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=2'));
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=3'));
-- no status is that of a payment: the same
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop'));
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&test=1'));
SELECT status, test, state, confirmed, message, next_at FROM tegro_notification ORDER BY id;
SELECT paid, calls FROM shop.orders WHERE number = 'N1';

-- what says something else is no replay: a payment of its own, for a person
SELECT tegro_notify(signed('amount=70.00&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop')) AS new;
SELECT tegro_notify(signed('amount=70&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=paid')) AS new;
SELECT tegro_notify(signed('amount=100&currency=RUB&order_id=N1&payment_system=11&shop_id=$shop')) AS new;
SELECT tegro_notify(signed('amount=100&currency=USD&order_id=N1&payment_id=55&payment_system=10&shop_id=$shop')) AS new;
SELECT tegro_notify(signed('amount=5&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop&status=3')) AS new;
SELECT tegro_notify(signed('amount=70&currency=RUB&order_id=N1&payment_system=10&shop_id=$shop')) AS new FROM generate_series(1, 3);
SELECT status, state, confirmed, amount, currency, payment_id,
       regexp_replace(message, '\d+(?= of this)', 'N') AS message, next_at, callback_state
  FROM tegro_notification WHERE variant <> '' ORDER BY id;
SELECT state, confirmed, amount FROM tegro_notification WHERE status = '1' AND NOT test AND variant = '';
SELECT paid, calls FROM shop.orders WHERE number = 'N1';
SELECT max(id) AS id FROM tegro_notification WHERE variant <> '' AND status = '1' \gset
\set VERBOSITY terse
SELECT tegro_retry_notification(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT tegro_retry_notification(99999);
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
DELETE FROM tegro_notification WHERE variant <> '';

-- fields by name, as PostgREST brings a form; a link's order, which nobody enqueued
SELECT tegro_create_order('{"order_id": "N2", "amount": 100, "currency": "RUB"}') ->> 'type' AS type;
SELECT pay('N2');
SELECT split_part(signed('amount=100.00&currency=RUB&order_id=N2&payment_system=10&shop_id=$shop'), '&sign=', 2) AS sign \gset
SELECT tegro_notify(shop_id => :'shop', amount => '100.00', order_id => 'N2', payment_system => '10', currency => 'RUB', sign => :'sign');
SELECT tegro_notify(shop_id => :'shop', amount => '100.00', order_id => 'N2', payment_system => '10', currency => 'RUB', sign => :'sign', test => '');
SELECT split_part(signed('amount=100.00&currency=RUB&order_id=N2&shop_id=$shop'), '&sign=', 2) AS sign \gset
SELECT tegro_notify(shop_id => :'shop', amount => '100.00', order_id => 'N2', currency => 'RUB', sign => upper(:'sign')) AS replay;
SELECT tegro_notify(shop_id => NULL, amount => '100.00', order_id => 'N2', currency => 'RUB', sign => :'sign');
SELECT tegro_notify(shop_id => :'shop', amount => '100.00', order_id => repeat('x', 10000), currency => 'RUB', sign => :'sign');
SELECT becomes_true('SELECT callback_state = ''done'' FROM tegro_notification WHERE order_id = ''N2''');
SELECT state, confirmed, request FROM tegro_notification WHERE order_id = 'N2';
SELECT paid, calls FROM shop.orders WHERE number = 'N2';

-- another amount or currency than was ordered: never looked up
SELECT tegro_enqueue('createOrder', '{"order_id": "N3", "amount": 100, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS type;
SELECT pay('N3');
SELECT tegro_notify(signed('amount=1.00&currency=RUB&order_id=N3&payment_system=10&shop_id=$shop'));
SELECT state, confirmed, message, next_at FROM tegro_notification WHERE order_id = 'N3';
SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'N3';
SELECT becomes_true('SELECT looked_up_at IS NOT NULL FROM tegro_notification WHERE order_id = ''N3''');
SELECT state, confirmed, message, next_at FROM tegro_notification WHERE order_id = 'N3';
SELECT tegro_enqueue('createOrder', '{"order_id": "N4", "amount": 100, "currency": "RUB"}') AS id \gset
SELECT tegro_wait(:id) ->> 'type' AS type;
SELECT pay('N4');
SELECT tegro_notify(signed('amount=100.00&currency=UAH&order_id=N4&payment_system=10&shop_id=$shop'));
SELECT state, confirmed, message, next_at FROM tegro_notification WHERE order_id = 'N4';

-- another amount than the provider knows, of an order that we don't
SELECT tegro_create_order('{"order_id": "N5", "amount": 1, "currency": "RUB"}') ->> 'type' AS type;
SELECT pay('N5');
SELECT tegro_notify(signed_json('"amount": "100.00", "currency": "RUB", "order_id": "N5", "payment_system": "10"',
	'amount=100.00&currency=RUB&order_id=N5&payment_system=10&shop_id=$shop'));
SELECT becomes_true('SELECT state <> ''waiting'' FROM tegro_notification WHERE order_id = ''N5''');
SELECT state, confirmed, message FROM tegro_notification WHERE order_id = 'N5';

-- an order that the provider calls a test
SELECT tegro_create_order('{"order_id": "N6", "amount": 100, "currency": "RUB", "test": 1}') ->> 'type' AS type;
SELECT pay('N6');
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N6&payment_system=10&shop_id=$shop'));
SELECT becomes_true('SELECT state <> ''waiting'' FROM tegro_notification WHERE order_id = ''N6''');
SELECT state, confirmed, message FROM tegro_notification WHERE order_id = 'N6';
SELECT number, paid, calls FROM shop.orders ORDER BY number;

-- two payments under one number, of a link that was opened twice
BEGIN;
SELECT tegro_notify(signed('amount=1&currency=RUB&order_id=N8&payment_id=11&payment_system=10&shop_id=$shop&status=1')) AS new;
SELECT tegro_notify(signed('amount=1&currency=RUB&order_id=N8&payment_id=12&payment_system=10&shop_id=$shop&status=1')) AS new FROM generate_series(1, 2);
SELECT payment_id, state, regexp_replace(message, '\d+(?= of this)', 'N') AS message FROM tegro_notification WHERE order_id = 'N8' ORDER BY id;
ROLLBACK;
-- the first makes room where it came to nothing, and stays on record
UPDATE tegro_notification SET looked_up_at = looked_up_at - interval '2 minutes' WHERE order_id = 'N3';
SELECT tegro_notify(signed('amount=100.00&currency=RUB&order_id=N3&payment_system=10&shop_id=$shop')) AS new;
SELECT becomes_true('SELECT callback_state = ''done'' FROM tegro_notification WHERE order_id = ''N3'' AND variant = ''''');
SELECT tegro_notify(signed('amount=1.00&currency=RUB&order_id=N3&payment_system=10&shop_id=$shop')) AS new;
SELECT amount, variant <> '' AS variant, state, confirmed, regexp_replace(message, '\d+(?= until)', 'N') AS message, next_at
  FROM tegro_notification WHERE order_id = 'N3' ORDER BY id;
SELECT paid, calls FROM shop.orders WHERE number = 'N3';

-- taken with the transaction that brings it
BEGIN;
SELECT tegro_notify(signed('amount=1&currency=RUB&order_id=N7&payment_system=10&shop_id=$shop'));
ROLLBACK;
SELECT count(*) FROM tegro_notification WHERE order_id = 'N7';

--
-- Who may
--
CREATE ROLE regress_tegro_anonymous;
CREATE ROLE regress_tegro_other;
GRANT EXECUTE ON FUNCTION tegro_notify(text),
	tegro_notify(text, text, text, text, text, text, text, text, text) TO regress_tegro_anonymous;
SET ROLE regress_tegro_anonymous;
SELECT tegro_notify(:'body');
SELECT tegro_verify_notification(:'body');
SELECT * FROM tegro_notification;
SELECT * FROM tegro_payment_callback;
SELECT tegro_on_payment(NULL);
SELECT tegro_retry_notification(1);
-- (the words differ from 16 on)
\set VERBOSITY sqlstate
SHOW tegro.secret_key;
\set VERBOSITY default
RESET ROLE;
GRANT SELECT ON tegro_notification, tegro_payment_callback TO regress_tegro_other;
GRANT EXECUTE ON FUNCTION tegro_on_payment(regprocedure, text), tegro_retry_notification(bigint) TO regress_tegro_other;
GRANT USAGE ON SCHEMA shop TO regress_tegro_other;
SET ROLE regress_tegro_other;
SELECT count(*) FROM tegro_notification;
SELECT count(*) FROM tegro_payment_callback;
INSERT INTO tegro_notification (shop_id) VALUES ('');
UPDATE tegro_notification SET confirmed = true;
-- a shop's payments can't be taken away
SELECT tegro_on_payment('shop.order_paid(bigint,text,text,jsonb)');
SELECT tegro_on_payment(NULL);
SELECT tegro_retry_notification(1);
RESET ROLE;
SELECT tegro_on_payment(NULL);
SELECT count(*) FROM tegro_payment_callback;

-- nothing is left to do
SELECT state, count(*) FROM tegro_notification GROUP BY state ORDER BY state COLLATE "C";
SELECT count(*) FROM tegro_notification WHERE next_at IS NOT NULL;
DROP SCHEMA shop CASCADE;
DROP FUNCTION signed, signed_json, multipart, pay;
DROP OWNED BY regress_tegro_anonymous, regress_tegro_other;
DROP ROLE regress_tegro_anonymous, regress_tegro_other;
