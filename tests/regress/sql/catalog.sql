-- The objects of the extension as the catalogs describe them. A change of a name, a cost, a volatility or a privilege
-- shows here.
SELECT p.oid::regprocedure AS function, provolatile AS volatile, proisstrict AS strict, proparallel AS parallel, procost AS cost
FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension AS x ON x.oid = d.refobjid
WHERE extname = 'photosearch' AND prokind = 'f' ORDER BY p.oid::regprocedure::text;

-- Every object has a comment, except casts, operator classes, operator families, and types that Postgres makes along with others.
SELECT pg_describe_object(d.classid, d.objid, 0) AS no_comment
FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE extname = 'photosearch' AND deptype = 'e' AND obj_description(d.objid, d.classid::regclass::name) IS NULL
    AND d.classid NOT IN ('pg_cast'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass)
    AND NOT EXISTS (SELECT FROM pg_type WHERE d.classid = 'pg_type'::regclass AND oid = d.objid AND (typcategory = 'A' OR typtype = 'c'))
ORDER BY 1;
SELECT obj_description(oid) FROM pg_extension WHERE extname = 'photosearch';

-- Every role may use the schema photosearch, and none may create objects in it.
SELECT nspname, has_schema_privilege('pg_monitor', oid, 'USAGE') AS usage, has_schema_privilege('pg_monitor', oid, 'CREATE') AS "create" FROM pg_namespace WHERE nspname = 'photosearch';

-- Operators: commutators, negators and estimators.
SELECT oid::regoperator AS operator, oprcode AS function, nullif(oprcom, 0)::regoperator AS commutator, nullif(oprnegate, 0)::regoperator AS negator, oprrest AS restrict, oprjoin AS join
FROM pg_operator WHERE 'mrl_vector'::regtype IN (oprleft, oprright) ORDER BY oid::regoperator::text;
-- The operator classes.
SELECT opcname, amname, opcdefault FROM pg_opclass JOIN pg_am AS a ON a.oid = opcmethod WHERE opcintype = 'mrl_vector'::regtype ORDER BY amname;

-- Settings, with their limits, which a session knows once it has loaded the library.
LOAD 'photosearch';
SELECT name, vartype, unit, context, boot_val, min_val, max_val, short_desc FROM pg_settings WHERE name LIKE 'photosearch.%' ORDER BY name;
