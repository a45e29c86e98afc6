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
\! curl -sS -o /dev/null -d '{"method": "createOrder", "times": 1, "action": "answer", "status": 200, "body": "{\"type\":\"error\",\"desc\":\"Wrong currency\"}"}' "$TEGRO_SANDBOX_URL/_sandbox/fault"
INSERT INTO shop_order (total) VALUES (1);
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
-- (the shop is a setting of the session: a function that acts for another pins
-- it, or the clerk could have the order made in another shop)
\getenv shop TEGRO_SHOP_ID
ALTER FUNCTION ask_for_payment() SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION ask_for_payment() SET tegro.shop_id = :'shop';
SET ROLE regress_tegro_clerk;
INSERT INTO shop_order (total) VALUES (7) RETURNING payment_url IS NOT NULL AS has_link;
RESET ROLE;

DROP TABLE shop_order;
DROP FUNCTION ask_for_payment;
DROP OWNED BY regress_tegro_payer, regress_tegro_clerk;
DROP ROLE regress_tegro_payer, regress_tegro_clerk;

-- Triggers of the outbox.  Who may create a trigger on a table could have it
-- call his own function as the table's owner: none fires while there is such a
-- role.
CREATE ROLE regress_tegro_app;
CREATE ROLE regress_tegro_owner;
CREATE ROLE regress_tegro_admin SUPERUSER;
CREATE ROLE regress_tegro_member IN ROLE regress_tegro_owner;
GRANT USAGE, CREATE ON SCHEMA public TO regress_tegro_app, regress_tegro_owner;
GRANT EXECUTE ON FUNCTION tegro_create_order_trigger(), tegro_create_withdrawal_trigger() TO regress_tegro_app, regress_tegro_owner;
CREATE TABLE public.shop_order (number int, total numeric);
ALTER TABLE public.shop_order OWNER TO regress_tegro_admin;
GRANT ALL ON public.shop_order TO regress_tegro_app;
SET ROLE regress_tegro_app;
CREATE FUNCTION public.regress_tegro_evil(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE regress_tegro_app SUPERUSER; END $$;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$number", "amount": "$total", "currency": "RUB"}', 'public.regress_tegro_evil');
INSERT INTO public.shop_order VALUES (66, 1);
\echo :LAST_ERROR_SQLSTATE
-- without a callback, too: the owner's keys would be used
RESET ROLE;
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_withdrawal_trigger('{"payment_id": "$number", "amount": "$total", "currency": "RUB", "account": "1"}');
INSERT INTO public.shop_order VALUES (66, 1);
DROP TRIGGER t ON public.shop_order;
-- all of them are named; who has the owner's rights anyhow is none of them
GRANT TRIGGER ON public.shop_order TO PUBLIC, regress_tegro_admin, regress_tegro_owner;
ALTER TABLE public.shop_order OWNER TO regress_tegro_owner;
GRANT TRIGGER ON public.shop_order TO regress_tegro_member;
SET ROLE regress_tegro_owner;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$number", "amount": "$total", "currency": "RUB"}');
RESET ROLE;
INSERT INTO public.shop_order VALUES (66, 1);
REVOKE TRIGGER ON TABLE public.shop_order FROM regress_tegro_app, PUBLIC;
BEGIN;
INSERT INTO public.shop_order VALUES (66, 1), (67, 1);
SELECT reference, enqueued_by_name FROM tegro_outbox WHERE reference IN ('66', '67') ORDER BY 1;
ROLLBACK;
-- who has INSERT alone may fire it
SET ROLE regress_tegro_app;
BEGIN;
INSERT INTO public.shop_order VALUES (66, 1);
ROLLBACK;
RESET ROLE;
DROP TABLE public.shop_order;

-- A partitioned table's triggers are cloned into its partitions.
CREATE TABLE public.shop_order (number int, total numeric) PARTITION BY RANGE (number);
CREATE TABLE public.shop_order_1 PARTITION OF public.shop_order FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (number);
CREATE TABLE public.shop_order_1_1 PARTITION OF public.shop_order_1 FOR VALUES FROM (0) TO (50);
ALTER TABLE public.shop_order OWNER TO regress_tegro_admin;
ALTER TABLE public.shop_order_1 OWNER TO regress_tegro_admin;
ALTER TABLE public.shop_order_1_1 OWNER TO regress_tegro_admin;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$number", "amount": "$total", "currency": "RUB"}');
GRANT TRIGGER ON public.shop_order TO regress_tegro_app;
INSERT INTO public.shop_order VALUES (1, 1);
INSERT INTO public.shop_order_1_1 VALUES (1, 1);
REVOKE TRIGGER ON public.shop_order FROM regress_tegro_app;
GRANT TRIGGER ON public.shop_order_1 TO regress_tegro_app;
INSERT INTO public.shop_order VALUES (1, 1);
REVOKE TRIGGER ON public.shop_order_1 FROM regress_tegro_app;
ALTER TABLE public.shop_order OWNER TO regress_tegro_app;
INSERT INTO public.shop_order VALUES (1, 1);
-- what is the superuser's may be above what is not
ALTER TABLE public.shop_order OWNER TO regress_tegro_admin;
ALTER TABLE public.shop_order_1 OWNER TO regress_tegro_owner;
ALTER TABLE public.shop_order_1_1 OWNER TO regress_tegro_owner;
BEGIN;
INSERT INTO public.shop_order VALUES (1, 1);
SELECT reference, enqueued_by_name FROM tegro_outbox WHERE reference = '1';
ROLLBACK;
DROP TABLE public.shop_order;

-- The number must be each row's own; an error tells where it was raised.
CREATE TABLE public.shop_order (
	number	int,
	total	numeric,
	prefixed text GENERATED ALWAYS AS ('payout ' || number::text) STORED
);
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_withdrawal_trigger('{"payment_id": "payout $number", "amount": "$total", "currency": "RUB", "account": "1"}');
INSERT INTO public.shop_order VALUES (1, 1), (2, 1);
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": 7, "amount": "$total", "currency": "RUB"}');
INSERT INTO public.shop_order VALUES (1, 1);
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$$number", "amount": "$total", "currency": "RUB"}');
INSERT INTO public.shop_order VALUES (1, 1);
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"amount": "$total", "currency": "RUB"}');
INSERT INTO public.shop_order VALUES (1, 1);
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t BEFORE INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$prefixed", "amount": "$total", "currency": "RUB"}');
INSERT INTO public.shop_order VALUES (1, 1);
DROP TRIGGER t ON public.shop_order;
CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger('{"order_id": "$prefixed", "amount": "$total", "currency": "RUB"}');
BEGIN;
INSERT INTO public.shop_order VALUES (1, 1), (2, 1);
SELECT reference FROM tegro_outbox WHERE reference LIKE 'payout %' ORDER BY 1;
ROLLBACK;
INSERT INTO public.shop_order VALUES (NULL, 1);
INSERT INTO public.shop_order VALUES (1, 0.12345678901234567891);
DROP TRIGGER t ON public.shop_order;

-- The callback, with its arguments or without; nothing else.
CREATE FUNCTION public.regress_tegro_cb(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE public.regress_tegro_proc(id bigint, state text, reference text, answer jsonb) LANGUAGE sql AS '';
CREATE FUNCTION public.regress_tegro_try(callback text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER t AFTER INSERT ON public.shop_order FOR EACH ROW EXECUTE FUNCTION
tegro_create_order_trigger(''{"order_id": "$number", "amount": "$total", "currency": "RUB"}'', %L)', callback);
	INSERT INTO public.shop_order VALUES (1, 1);
	RAISE NOTICE '%', (SELECT o.callback FROM tegro_outbox o WHERE reference = '1');
	RAISE EXCEPTION 'taken back';
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '% %', SQLSTATE, SQLERRM;
END $$;
SELECT public.regress_tegro_try('public.regress_tegro_cb');
SELECT public.regress_tegro_try('public.regress_tegro_cb(bigint,text,text,jsonb)');
SELECT public.regress_tegro_try('public.regress_tegro_cb(bigint, text)');
SELECT public.regress_tegro_try('public.regress_tegro_cb(');
SELECT public.regress_tegro_try('public.no_such(bigint,text,text,jsonb)');
SELECT public.regress_tegro_try('regress_tegro_cb(bigint,text,text,jsonb)');
SELECT public.regress_tegro_try('public.regress_tegro_proc');
SELECT public.regress_tegro_try('');
SELECT public.regress_tegro_try(' ');
SELECT tegro_enqueue('createOrder', '{"order_id": "1"}', 'public.regress_tegro_proc(bigint,text,text,jsonb)');
\echo :LAST_ERROR_SQLSTATE
SELECT tegro_on_payment('public.regress_tegro_proc(bigint,text,text,jsonb)');
SELECT tegro_enqueue('createOrder', '{"order_id": "1"}', 999999);
\echo :LAST_ERROR_SQLSTATE

DROP TABLE public.shop_order;
DROP FUNCTION public.regress_tegro_try, public.regress_tegro_cb;
DROP PROCEDURE public.regress_tegro_proc;
DROP OWNED BY regress_tegro_app, regress_tegro_owner, regress_tegro_admin, regress_tegro_member;
DROP ROLE regress_tegro_app, regress_tegro_owner, regress_tegro_admin, regress_tegro_member;
