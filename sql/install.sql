-- Installation: every object is described, nothing is anybody's.
CREATE EXTENSION tegro;

-- every function says what it does
SELECT p.oid::regprocedure AS undescribed
  FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
   AND obj_description(p.oid, 'pg_proc') IS NULL;

-- and none may be executed by everyone
SELECT p.oid::regprocedure AS open_to_all
  FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                WHERE a.grantee = 0);

-- they send requests: never folded, never moved to a worker, run last
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict
  FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
 ORDER BY p.proname COLLATE "C", p.pronargs;

-- its schema is chosen when it is created, and stays
CREATE SCHEMA elsewhere;
ALTER EXTENSION tegro SET SCHEMA elsewhere;
DROP EXTENSION tegro;
CREATE EXTENSION tegro SCHEMA elsewhere;
SELECT elsewhere.tegro_balance() ->> 'type' AS type;
DROP EXTENSION tegro;
DROP SCHEMA elsewhere;

CREATE EXTENSION tegro;
