/* tegro--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION tegro" to load this file. \quit

--
-- Synchronous calls: each asks the provider while the statement waits, and
-- returns its whole answer, {"type": "success", "desc": "", "data": ...}.
-- What is no answer is an error of class TG.
--
-- None is STRICT: NULL in place of an answer would be mistaken for one.
-- All are VOLATILE and PARALLEL UNSAFE, for each sends a request, and so
-- costly that a planner runs them last.
--
-- EXECUTE is nobody's but the owner's until it is granted.
--

CREATE FUNCTION @extschema@.tegro_call(method pg_catalog.text, params pg_catalog.jsonb DEFAULT '{}')
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_call'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_call(pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_call(pg_catalog.text, pg_catalog.jsonb) IS
'calls any method of the Tegro API, also one that this version does not know; returns the provider''s whole answer';

CREATE FUNCTION @extschema@.tegro_create_order(params pg_catalog.jsonb)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_create_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_create_order(pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_create_order(pg_catalog.jsonb) IS
'makes a payment order now (method createOrder): params need currency, amount and order_id, the shop''s own number; the answer has the link to pay at in data.url';

CREATE FUNCTION @extschema@.tegro_shops()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_shops'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_shops() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_shops() IS
'the shops of the account';

CREATE FUNCTION @extschema@.tegro_balance()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_balance'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_balance() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_balance() IS
'the balances of the account, one for each currency';

CREATE FUNCTION @extschema@.tegro_order(order_id pg_catalog.int8 DEFAULT NULL, payment_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_order(pg_catalog.int8, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_order(pg_catalog.int8, pg_catalog.text) IS
'one payment order, by Tegro''s number (order_id) or by the shop''s own (payment_id)';

CREATE FUNCTION @extschema@.tegro_order(reference pg_catalog.text)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_order'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_order(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_order(pg_catalog.text) IS
'one payment order, by the shop''s own number: what tegro_order(payment_id => reference) finds';

CREATE FUNCTION @extschema@.tegro_orders(page pg_catalog.int4 DEFAULT 1)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_orders'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_orders(pg_catalog.int4) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_orders(pg_catalog.int4) IS
'a page of the payment orders, newest first; a page past the end is empty';

CREATE FUNCTION @extschema@.tegro_withdrawal(order_id pg_catalog.int8 DEFAULT NULL, payment_id pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawal'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.int8, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.int8, pg_catalog.text) IS
'one withdrawal, by Tegro''s number (order_id) or by the shop''s own (payment_id)';

CREATE FUNCTION @extschema@.tegro_withdrawal(reference pg_catalog.text)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawal'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawal(pg_catalog.text) IS
'one withdrawal, by the shop''s own number: what tegro_withdrawal(payment_id => reference) finds';

CREATE FUNCTION @extschema@.tegro_withdrawals(page pg_catalog.int4 DEFAULT 1)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_withdrawals'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_withdrawals(pg_catalog.int4) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_withdrawals(pg_catalog.int4) IS
'a page of the withdrawals, newest first';

CREATE FUNCTION @extschema@.tegro_rates("from" pg_catalog.text DEFAULT NULL, "to" pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_rates'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_rates(pg_catalog.text, pg_catalog.text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_rates(pg_catalog.text, pg_catalog.text) IS
'exchange rates, all or between two currencies';

CREATE FUNCTION @extschema@.tegro_modules()
RETURNS pg_catalog.jsonb
AS 'MODULE_PATHNAME', 'tegro_modules'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;
REVOKE ALL ON FUNCTION @extschema@.tegro_modules() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_modules() IS
'the payment systems that the shop may use';

CREATE FUNCTION @extschema@.tegro_batch(
	method pg_catalog.text, params pg_catalog.jsonb[],
	OUT "position" pg_catalog.int4, OUT answer pg_catalog.jsonb, OUT sqlstate pg_catalog.text, OUT message pg_catalog.text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'tegro_batch'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000 ROWS 100;
REVOKE ALL ON FUNCTION @extschema@.tegro_batch(pg_catalog.text, pg_catalog.jsonb[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_batch(pg_catalog.text, pg_catalog.jsonb[]) IS
'calls a method once for each element of params, up to tegro.max_concurrency at once; a row for each, in the order in which they end, with the answer or else with SQLSTATE and message; refuses createWithdrawal';

--
-- Help for the developer
--

CREATE FUNCTION @extschema@.tegro_preview(
	method pg_catalog.text, params pg_catalog.jsonb DEFAULT '{}',
	OUT url pg_catalog.text, OUT headers pg_catalog.jsonb, OUT body pg_catalog.text)
RETURNS record
AS 'MODULE_PATHNAME', 'tegro_preview'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION @extschema@.tegro_preview(pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tegro_preview(pg_catalog.text, pg_catalog.jsonb) IS
'the request that tegro_call would send, to the byte; sends nothing; signed only for roles that may execute tegro_call';
