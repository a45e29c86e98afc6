-- Each method, answered.  The provider's whole envelope comes back.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"

SELECT tegro_balance();
SELECT tegro_shops() #> '{data,shops,0}' ? 'public_key' AS shop;
SELECT jsonb_typeof(tegro_modules() -> 'data') AS modules;
SELECT tegro_rates() ->> 'type' AS all_rates, tegro_rates('USD', 'RUB') ->> 'type' AS one_rate,
       tegro_rates("to" => 'RUB') ->> 'type' AS by_name;

-- an order, made and found by each number
SELECT tegro_create_order('{"currency": "RUB", "amount": 1200.10, "order_id": "Order #17854",
                            "fields": {"email": "buyer@example.com", "phone": "+7 900 000-00-00"},
                            "receipt": {"items": [{"name": "Чай «Эрл Грей»/50", "count": 2, "price": 600.05}]}}')
       -> 'data' AS made \gset
SELECT :'made'::jsonb ->> 'url' ~ '^https://tegro\.money/pay/complete/\d+/[0-9a-f]{32}/$' AS link;
SELECT tegro_order(payment_id => 'Order #17854') #>> '{data,amount}' AS by_payment_id;
SELECT tegro_order((:'made'::jsonb ->> 'id')::bigint) #>> '{data,payment_id}' AS by_position;
SELECT tegro_order(order_id => (:'made'::jsonb ->> 'id')::int) #>> '{data,payment_id}' AS by_order_id;

-- a string is the shop's number, also one of digits alone
SELECT tegro_create_order('{"currency": "RUB", "amount": 5, "order_id": "17854"}') ->> 'type' AS made;
SELECT tegro_order('17854') #>> '{data,amount}' AS of_the_shop;
SELECT tegro_order('Order #17854'::text) #>> '{data,amount}' AS of_the_shop;
\set VERBOSITY terse
SELECT tegro_withdrawal('17854');
\set VERBOSITY default

-- the list, and a page past its end
SELECT payment_id, amount::numeric, status
  FROM jsonb_to_recordset(tegro_orders() -> 'data') AS o(payment_id text, amount text, status int);
SELECT tegro_orders(1000);
SELECT tegro_withdrawals();

-- any method by name, with the same answer
SELECT tegro_call('balance') = tegro_balance() AS same;
SELECT tegro_call('order', '{"payment_id": "Order #17854"}') = tegro_order('Order #17854') AS same;

-- what is sent, to the byte, for a shop without a key; each has a nonce of its own
SELECT url = current_setting('tegro.api_url') || '/createOrder/' AS url, headers,
       regexp_replace(body, '^{"nonce":[0-9]{16},', '{"nonce":...,') AS body
  FROM tegro_preview('createOrder', '{"currency": "RUB", "amount": 100.00, "order_id": "№ 1/2 😀",
                                      "shop_id": "S", "empty": {}, "list": [], "deep": {"0": 1e25, "a\"\\\n": null}}');

-- numbers, as PHP writes them
SELECT regexp_replace(body, '^.*"n":|}$', '', 'g') AS number
  FROM unnest('{100.00, 1200.10, 0.00001, 1e25, 9223372036854775807, -9223372036854775808, 0.1, -0.50, 0.000, 123456789.12345678}'::numeric[])
       WITH ORDINALITY AS given(n, i),
       tegro_preview('x', jsonb_build_object('n', n)) ORDER BY i;

-- nonces rise
SELECT bool_and(nonce > before) AS rising, count(*)
  FROM (SELECT nonce, lag(nonce) OVER (ORDER BY i) AS before
          FROM (SELECT i, ((tegro_preview('x', jsonb_build_object('i', i))).body::jsonb ->> 'nonce')::bigint AS nonce
                  FROM generate_series(1, 100) i) n) n;
