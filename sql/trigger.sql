-- The link to pay at, in the row of the shop's order: a BEFORE INSERT trigger
-- that asks while the INSERT waits.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"

CREATE TABLE shop_order (
	id			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	total		numeric(12, 2) NOT NULL,
	payment_url	text
);

CREATE FUNCTION ask_for_payment() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
	NEW.payment_url := tegro_create_order(jsonb_build_object(
		'order_id', format('shop order %s', NEW.id),
		'currency', 'RUB',
		'amount', NEW.total)) #>> '{data,url}';
	RETURN NEW;
END $$;

CREATE TRIGGER ask_for_payment BEFORE INSERT ON shop_order
FOR EACH ROW EXECUTE FUNCTION ask_for_payment();

INSERT INTO shop_order (total) VALUES (990.00), (1200.10)
RETURNING id, total, payment_url ~ '^https://tegro\.money/pay/complete/' AS has_link;
SELECT tegro_order('shop order 2') #>> '{data,amount}' AS amount;

-- A refusal is the statement's error: no row.
\set VERBOSITY terse
INSERT INTO shop_order (total) VALUES (-1);
\set VERBOSITY default
SELECT count(*) FROM shop_order;

-- A rollback takes back the row, not the order: the provider keeps it, unpaid
-- unless someone has the link.
BEGIN;
INSERT INTO shop_order (total) VALUES (5);
ROLLBACK;
SELECT count(*) FROM shop_order WHERE total = 5;
SELECT count(*) FROM jsonb_to_recordset(tegro_orders() -> 'data') AS o(amount numeric) WHERE amount = 5;

-- The row's owner need not be the one who may order: the trigger's function
-- can be the payer's own.
CREATE ROLE regress_tegro_payer;
CREATE ROLE regress_tegro_clerk;
GRANT EXECUTE ON FUNCTION tegro_create_order(jsonb) TO regress_tegro_payer;
GRANT INSERT, SELECT ON shop_order TO regress_tegro_clerk;
ALTER FUNCTION ask_for_payment() OWNER TO regress_tegro_payer;
-- (shop and key are settings of the session: a function that acts for another
-- pins those that it goes by, or the clerk could have the order made elsewhere)
\getenv shop TEGRO_SHOP_ID
\getenv key TEGRO_API_KEY
ALTER FUNCTION ask_for_payment() SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION ask_for_payment() SET tegro.shop_id = :'shop';
ALTER FUNCTION ask_for_payment() SET tegro.api_key = :'key';
SET ROLE regress_tegro_clerk;
INSERT INTO shop_order (total) VALUES (7) RETURNING payment_url IS NOT NULL AS has_link;
RESET ROLE;

DROP TABLE shop_order;
DROP FUNCTION ask_for_payment;
DROP OWNED BY regress_tegro_payer, regress_tegro_clerk;
DROP ROLE regress_tegro_payer, regress_tegro_clerk;
