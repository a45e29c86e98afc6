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
-- who may not call sees no signature
SELECT headers ->> 'Authorization' AS authorization FROM tegro_preview('createOrder', '{"order_id": "1"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb) TO regress_tegro_reader;
SET ROLE regress_tegro_reader;
SELECT headers ->> 'Authorization' ~ '^Bearer [0-9a-f]{64}$' AS signed FROM tegro_preview('balance');

-- where requests go is the superuser's business
SET tegro.api_url = 'http://127.0.0.1:1/api';
SET tegro.ca_file = '/tmp/ca.pem';
SET tegro.proxy = 'http://127.0.0.1:1';
SET tegro.user_agent = 'x';
SET tegro.credentials_file = '/tmp/credentials';
RESET ROLE;
DROP OWNED BY regress_tegro_reader;
DROP ROLE regress_tegro_reader;
