-- Payment links: signed as PHP would, without a request.
-- A link, with the provider's name in place of the sandbox's address.
CREATE FUNCTION link(params jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT replace(tegro_payment_url(params),
				   regexp_replace(current_setting('tegro.api_url'), '/api$', '/pay/?'), 'https://tegro.money/pay/?')
$$;
SET tegro.secret_key = 'GB%^&*YJni677';

-- what the provider's examples give
SELECT link('{"shop_id": "D0F98E7D7742609DC508D86BB7500914", "amount": 100, "currency": "RUB", "order_id": "123"}');
SELECT link('{"shop_id": "D0F98E7D7742609DC508D86BB7500914", "amount": 100, "currency": "RUB", "order_id": "123", "test": 1}');
-- test=0 is left out: nobody signs it
SELECT test, link(jsonb_build_object('shop_id', 'D0F98E7D7742609DC508D86BB7500914', 'amount', 100, 'currency', 'RUB', 'order_id', '123', 'test', test))
  FROM jsonb_array_elements('[0, "0", false, null, 1, "1", true]') AS test;
SELECT md5('amount=100&currency=RUB&order_id=123&shop_id=D0F98E7D7742609DC508D86BB7500914' || 'GB%^&*YJni677') AS sign;

-- what is not signed changes no signature
SELECT link('{"shop_id": "D0F98E7D7742609DC508D86BB7500914", "amount": 100, "currency": "RUB", "order_id": "123",
    "lang": "ru", "payment_system": 10, "success_url": "https://shop.example/?paid=1&n=2", "fail_url": "https://shop.example/no",
    "notify_url": "https://shop.example/rpc/tegro_notify", "fields": {"email": "a@b.example", "phone": null},
    "receipt": {"items": [{"name": "Чай / 50 г", "count": 2, "price": 49.95}, {"name": "~", "count": 1, "price": "0.10"}]}}') AS link \gset
SELECT unnest(string_to_array(:'link', '&'));

-- the shop is tegro.shop_id, unless it is given; null is not given
SELECT link('{"amount": 1, "currency": "RUB", "order_id": "1"}') =
       link('{"amount": 1, "currency": "RUB", "order_id": "1", "shop_id": null, "test": null, "lang": null}') AS same;

-- amounts, as a shop's PHP would write them
SELECT a AS amount, substring(tegro_payment_url(jsonb_build_object('amount', a, 'currency', 'RUB', 'order_id', 1)) FROM 'amount=([^&]*)') AS written
  FROM jsonb_array_elements('[100, 100.00, "100", "100.00", 100.50, "100.50", 0.1, 0.0001, 1200.10, 123456789012.34,
                              9223372036854775807, "12345678901234567890.12"]') AS a;
-- each text has a signature of its own, and the provider signs the text
SELECT count(DISTINCT right(tegro_payment_url(jsonb_build_object('amount', a, 'currency', 'RUB', 'order_id', 1)), 32))
  FROM jsonb_array_elements('[100, 100.00, "100", "100.00"]') AS a;

-- values can't pass for other fields
SELECT link('{"shop_id": "S", "amount": 1, "currency": "RUB", "order_id": "7&amount=2&test=1#?%26+ ''\"\u0001"}');

-- what is missing or wrong
CREATE FUNCTION try_link(params text, OUT state text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tegro_payment_url(params::jsonb);
	state := 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
\x on
SELECT * FROM try_link(NULL);
SELECT * FROM try_link('[]');
SELECT * FROM try_link('{"currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1, "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": null}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "sucess_url": "https://shop.example/"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "sign": "x"}');
SELECT * FROM try_link('{"amount": 0, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": "0.00", "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": -1, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": "1e2", "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": "100,50", "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": true, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": [1], "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1234567890123.45, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 0.00001, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 9223372036854775808, "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1, "currency": "", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": {"a": "1"}}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "test": 2}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "lang": "de"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "payment_system": "card"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "success_url": "javascript:alert(1)"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "success_url": "https://shop.example/\r\nX: 1"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "fields": ["a@b.example"]}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "receipt": "none"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "receipt": {"items": ' || repeat('[', 20) || '1' || repeat(']', 20) || '}}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "receipt": {"items": [{"name": "Tea", "count": 6, "price": 1}]}}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "receipt": {"items": [{"name": "Tea", "count": 1}]}}');
SELECT * FROM try_link('{"amount": "0.1000000000001", "currency": "RUB", "order_id": "1"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "' || repeat('x', 501) || '"}');
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "fields": {"email": "' || repeat('x', 70000) || '"}}');
SET tegro.shop_id = '';
SELECT * FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1"}');
RESET tegro.shop_id;
SET tegro.secret_key = '';
-- (whether there is a credentials file is the server's business: see t/006)
SELECT state, message, hint LIKE '%line shop_id:role:api_key:secret_key%' AS hint
  FROM try_link('{"amount": 1, "currency": "RUB", "order_id": "1", "shop_id": "nobody''s"}');
RESET tegro.secret_key;
\x off
DROP FUNCTION try_link, link;

-- needs no more than EXECUTE
CREATE ROLE regress_tegro_clerk;
SET ROLE regress_tegro_clerk;
SELECT tegro_payment_url('{"shop_id": "S", "amount": 1, "currency": "RUB", "order_id": "1"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tegro_payment_url(jsonb) TO regress_tegro_clerk;
SET ROLE regress_tegro_clerk;
SELECT tegro_payment_url('{"amount": 1, "currency": "RUB", "order_id": "1"}') IS NOT NULL AS link;
RESET ROLE;
DROP OWNED BY regress_tegro_clerk;
DROP ROLE regress_tegro_clerk;
