-- An ordinary role: what it may not do, and what a GRANT lets it do.
CREATE ROLE regress_tegro_reader;
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
RESET ROLE;
DROP OWNED BY regress_tegro_reader;
DROP ROLE regress_tegro_reader;
