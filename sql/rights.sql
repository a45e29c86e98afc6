-- An ordinary role: what it may not do, and what a GRANT lets it do.
CREATE ROLE regress_tegro_reader;
CREATE FUNCTION try_balance() RETURNS jsonb LANGUAGE sql AS 'SELECT tegro_balance()';
SET ROLE regress_tegro_reader;
SELECT tegro_balance();
SELECT tegro_call('balance');
SELECT tegro_create_order('{}');
SELECT * FROM tegro_batch('balance', '{}');
SELECT * FROM tegro_preview('balance');
RESET ROLE;

-- a reader: may ask, may not order
GRANT EXECUTE ON FUNCTION tegro_balance(), tegro_preview(text, jsonb) TO regress_tegro_reader;
SET ROLE regress_tegro_reader;
SELECT tegro_balance() ->> 'type' AS type;
SELECT tegro_create_order('{}');
-- nobody sees a signature
SELECT headers ->> 'Authorization' AS authorization FROM tegro_preview('createOrder', '{"order_id": "1"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb) TO regress_tegro_reader;
SET ROLE regress_tegro_reader;
SELECT headers ->> 'Authorization' AS authorization FROM tegro_preview('balance');
RESET ROLE;
SELECT headers ->> 'Authorization' AS authorization FROM tegro_preview('balance');
SET ROLE regress_tegro_reader;

-- where requests go is the server's business, not a session's, a role's or a
-- database's
SET tegro.api_url = 'http://127.0.0.1:1/api';
SET tegro.ca_file = '/tmp/ca.pem';
SET tegro.proxy = 'http://127.0.0.1:1';
SET tegro.user_agent = 'x';
SET tegro.max_answer_size = '2MB';
SET tegro.credentials_file = '/tmp/credentials';
RESET ROLE;
-- nor one of a superuser
SELECT current_setting('is_superuser') AS superuser, current_database() AS database \gset
\echo :superuser
SET tegro.api_url = 'http://127.0.0.1:1/api';
SET tegro.ca_file = '/tmp/ca.pem';
SELECT set_config('tegro.proxy', 'http://127.0.0.1:1', false);
ALTER ROLE regress_tegro_reader SET tegro.api_url = 'http://127.0.0.1:1/api';
ALTER DATABASE :"database" SET tegro.user_agent = 'x';
CREATE FUNCTION regress_tegro_elsewhere() RETURNS jsonb LANGUAGE sql
SET tegro.api_url = 'http://127.0.0.1:1/api' AS 'SELECT tegro_balance()';
GRANT SET ON PARAMETER tegro.api_url TO regress_tegro_reader;
SET ROLE regress_tegro_reader;
SET tegro.api_url = 'http://127.0.0.1:1/api';

-- a key is set by a superuser, or by a role with the right to set it
SET tegro.api_key = 'canary';
SELECT set_config('tegro.secret_key', 'canary', false);
ALTER ROLE regress_tegro_reader SET tegro.api_key = 'canary';
RESET ROLE;
GRANT SET ON PARAMETER tegro.api_key, tegro.secret_key TO regress_tegro_reader;
SET ROLE regress_tegro_reader;
SET tegro.api_key = 'canary';
\set VERBOSITY terse
SELECT tegro_balance();
RESET tegro.api_key;
SELECT tegro_balance() ->> 'type' AS type;
-- and stored by nobody, the empty one neither
ALTER ROLE regress_tegro_reader SET tegro.api_key = 'canary';
ALTER ROLE regress_tegro_reader SET tegro.secret_key = '';
CREATE FUNCTION pg_temp.elsewhere() RETURNS jsonb LANGUAGE sql
SET tegro.api_key = 'canary' AS 'SELECT public.tegro_balance()';
RESET ROLE;
SET tegro.secret_key = 'canary';
ALTER ROLE regress_tegro_reader SET tegro.secret_key FROM CURRENT;
RESET tegro.secret_key;
ALTER ROLE regress_tegro_reader IN DATABASE :"database" SET tegro.api_key = 'canary';
ALTER ROLE ALL SET tegro.secret_key = 'canary';
ALTER DATABASE :"database" SET tegro.api_key = 'canary';
ALTER FUNCTION try_balance() SET tegro.api_key = 'canary';
SET check_function_bodies = off;
CREATE PROCEDURE pg_temp.elsewhere() LANGUAGE sql
SET tegro.secret_key = 'canary' AS 'SELECT public.tegro_balance()';
\set VERBOSITY default
CREATE FUNCTION pg_temp.elsewhere() RETURNS jsonb LANGUAGE sql
SET tegro.secret_key = 'canary' AS 'SELECT public.tegro_balance()';
-- what takes one out works
ALTER ROLE regress_tegro_reader RESET tegro.api_key;
ALTER DATABASE :"database" RESET tegro.api_key;
ALTER FUNCTION try_balance() RESET tegro.secret_key;
SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text ~ 'canary';
SELECT count(*) FROM pg_proc WHERE proconfig::text ~ 'canary';

DROP FUNCTION try_balance();
DROP OWNED BY regress_tegro_reader;
DROP ROLE regress_tegro_reader;
