-- The report: what is on it, for whom, and that it is nothing but a page.
-- How it looks is tested in a browser: t/501_report.pl.
CREATE ROLE regress_tegro_boss;
CREATE ROLE regress_tegro_clerk;
GRANT regress_tegro_clerk TO regress_tegro_boss;

-- what is on a page, in words
CREATE FUNCTION shown(page text, OUT headings text, OUT tiles text, OUT requests bigint, OUT safe boolean)
LANGUAGE sql AS $$
	SELECT (SELECT string_agg(m[1], ', ') FROM regexp_matches(page, '<h2>(.*?)</h2>', 'g') AS m
			 WHERE m[1] NOT IN ('Notifications', 'Installation')),	-- in t/501_report.pl
		   (SELECT string_agg(m[1] || ' ' || m[2], ', ')
			  FROM regexp_matches(page, '<li[^>]*><span class="soft">([^<]*)</span><b>([^<]*)</b>', 'g') AS m),
		   (SELECT count(*) FROM regexp_matches(page, '<article>', 'g')),
		   -- ASCII alone; no script, no handler, nothing from elsewhere
		   page !~ '[^\n -~]' AND page !~* '<script|<img|<link|<iframe|<a |[\s"]on[a-z]+ *=|src *=|@import|url\('
			   AND page ~ 'default-src ''none''' AND page ~ '^<!DOCTYPE html>' AND page ~ '</html>\n$'
$$;
GRANT EXECUTE ON FUNCTION shown TO PUBLIC;

-- nobody's until it is granted; then what the role may read
SET ROLE regress_tegro_clerk;
SELECT length(tegro_report());
RESET ROLE;
GRANT EXECUTE ON FUNCTION tegro_report(timestamptz) TO regress_tegro_clerk;
SET ROLE regress_tegro_clerk;
SELECT length(tegro_report());
RESET ROLE;
GRANT SELECT ON tegro_outbox, tegro_event TO regress_tegro_clerk;

-- one who has no requests
SET ROLE regress_tegro_clerk;
SELECT (shown(tegro_report())).*;
SELECT tegro_report() ~ 'Only requests of role regress_tegro_clerk' AS says_so;
RESET ROLE;

-- Requests as the worker leaves them, with all that a shop, a customer or the
-- provider may write where it can be written.
CREATE TABLE attack (text text);
INSERT INTO attack VALUES
	('<script>alert(1)</script>'), ('"><img src=x onerror=alert(1)>'), (''' onmouseover=''alert(1)'),
	('</pre></article></main></style><h2>no</h2>'), ('<!--'), (']]>'), ('&lt;b&gt; &#60;i&#62;'), ('</title>'),
	(E'two\nlines\u2028\u202e\u0085\u200b'), ('Заказ №1 😀'), ('$(id) `id` %1$s %s');
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, attempts, enqueued_by, enqueued_by_name, enqueued_at,
						  unknown_since, origin, message)
SELECT text, 'createWithdrawal', text, jsonb_build_object('amount', 1, 'currency', text), 'review', NULL, 1,
	   'regress_tegro_clerk'::regrole, 'regress_tegro_clerk', now() - interval '3 days', now() - interval '2 days', 'x', text
  FROM attack;
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, attempts, enqueued_by, enqueued_by_name, enqueued_at,
						  finished_at, origin, callback, callback_state, callback_message)
SELECT text, 'createOrder', text, jsonb_build_object('amount', text), 'accepted', NULL, 1, 'regress_tegro_clerk'::regrole, 'regress_tegro_clerk',
	   now() - interval '1 hour', now() - interval '30 minutes', 'x', text, 'failed', text
  FROM attack;
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, enqueued_by, enqueued_by_name, origin)
VALUES ('s', 'createOrder', 'of another', '{"amount": 1}', 'review', NULL, current_user::regrole, current_user, 'x'),
	   ('s', 'createOrder', 'waits', '{"amount": 1}', 'ready', 'infinity', 'regress_tegro_clerk'::regrole, 'regress_tegro_clerk', 'x'),
	   ('s', 'createOrder', 'in doubt', '{"amount": 1}', 'unknown', 'infinity', 'regress_tegro_clerk'::regrole, 'regress_tegro_clerk', 'x');
INSERT INTO tegro_event (event, event_no, outbox_id, claim_no, nonce, body_sha256, started_at, ended_at, outcome, http_status, message)
SELECT 'send', 1, id, 1, 1, '', now() - interval '30 minutes', now() - interval '30 minutes' + interval '30 ms',
	   CASE WHEN reference = '<!--' THEN 'refused' ELSE 'answered' END, 200, CASE WHEN reference = '<!--' THEN shop_id END
  FROM tegro_outbox WHERE enqueued_by = 'regress_tegro_clerk'::regrole AND state = 'accepted';
INSERT INTO tegro_event (event, event_no, outbox_id, claim_no, nonce, body_sha256, started_at)
SELECT 'send', 1, id, 1, 1, '', now() - interval '20 minutes'
  FROM tegro_outbox WHERE reference = 'in doubt' AND enqueued_by = 'regress_tegro_clerk'::regrole;

SET ROLE regress_tegro_clerk;
SELECT (shown(tegro_report())).*;
SELECT tegro_report() ~ 'of another' AS sees_others,
	   tegro_report() ~ 'In all 10 answered, 1 refused, 1 without an answer' AS sends,
	   tegro_report() ~ 'Half within 30 ms' AS times,
	   tegro_report() ~ '&#x417;&#x430;&#x43a;&#x430;&#x437; &#x2116;1 &#x1f600;' AS cyrillic,
	   tegro_report() ~ 'two lines\\u2028\\u202e\\u0085\\u200b' AS invisible;
-- nothing that anyone wrote is in a command
SELECT DISTINCT regexp_replace(m[1], '\d+', 'N', 'g') COLLATE "C" AS command
  FROM regexp_matches(tegro_report(), '<pre>(.*?)</pre>', 'gs') AS p,
	   string_to_table(regexp_replace(p[1], '<i class="soft">[^<]*</i>', '', 'g'), E'\n') AS l,
	   regexp_matches(l, '^(.+)$') AS m
 ORDER BY 1;
SELECT (shown(tegro_report(now() - interval '10 minutes'))).*;
SELECT (shown(tegro_report('-infinity'))).*;
SELECT tegro_report(NULL);
SELECT tegro_report('infinity');
RESET ROLE;

-- who belongs to the other role sees the same
GRANT EXECUTE ON FUNCTION tegro_report(timestamptz) TO regress_tegro_boss;
SET ROLE regress_tegro_boss;
SELECT (shown(tegro_report())).requests;
RESET ROLE;

-- objects of the caller's own stand for nothing
CREATE SCHEMA regress_tegro_mine AUTHORIZATION regress_tegro_clerk;
SET ROLE regress_tegro_clerk;
CREATE FUNCTION regress_tegro_mine.to_char(timestamptz, text) RETURNS text LANGUAGE sql AS $$SELECT 'mine'$$;
SET search_path = regress_tegro_mine, public, pg_catalog;
SELECT tegro_report() ~ 'mine' AS mine;
RESET search_path;
RESET ROLE;

DELETE FROM tegro_event WHERE outbox_id IN (SELECT id FROM tegro_outbox WHERE origin = 'x');
DELETE FROM tegro_outbox WHERE origin = 'x';
DROP TABLE attack;
DROP FUNCTION shown;
DROP OWNED BY regress_tegro_clerk, regress_tegro_boss;
DROP ROLE regress_tegro_clerk, regress_tegro_boss;
