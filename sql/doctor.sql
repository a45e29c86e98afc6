-- The doctor: which checks there are, and that none throws.
\! curl -sS -o /dev/null -X POST "$TEGRO_SANDBOX_URL/_sandbox/reset"
-- time enough for each check, also where all is slow
SET tegro.timeout = '60s';
SELECT "check", bool_and(detail <> '') AS detail, bool_and(status IN ('ok', 'skipped') OR hint <> '') AS hint
  FROM tegro_doctor() WITH ORDINALITY AS d ("check", status, detail, hint, n) GROUP BY 1 ORDER BY min(n);
RESET tegro.timeout;

-- What it says of a key of this session, and not which it is.
\getenv key TEGRO_API_KEY
SET tegro.api_key = :'key';
SELECT status, detail, hint FROM tegro_doctor() WHERE "check" = 'keys in session' ORDER BY 2;
SELECT bool_or(position(:'key' IN d::text) > 0) AS shows_key FROM tegro_doctor() AS d;
RESET tegro.api_key;

-- It asks once.
SELECT tegro_stat_reset();
SELECT count(*) > 20 AS checked FROM tegro_doctor();
SELECT method, requests, repeated FROM tegro_stat WHERE requests > 0;

-- In a transaction that has done something, nothing of that is lost.
BEGIN;
CREATE TABLE kept ();
SET LOCAL tegro.shop_id = '';
SELECT "check", status, detail, hint FROM tegro_doctor() WHERE "check" IN ('credentials', 'provider');
SHOW tegro.timeout;
SHOW lock_timeout;
COMMIT;
DROP TABLE kept;

-- Rights that were given to all, and the command that takes them back.
GRANT EXECUTE ON FUNCTION tegro_balance(), tegro_order(bigint, text) TO PUBLIC;
GRANT SELECT (id) ON tegro_outbox TO PUBLIC;
GRANT USAGE ON FOREIGN DATA WRAPPER tegro_fdw TO PUBLIC;
SELECT status, detail, hint FROM tegro_doctor() WHERE "check" = 'rights';
SELECT hint FROM tegro_doctor() WHERE "check" = 'rights' \gexec
SELECT status, detail, hint FROM tegro_doctor() WHERE "check" = 'rights';
