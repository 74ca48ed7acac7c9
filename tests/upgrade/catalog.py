"""What an extension consists of: the rows of the catalogs, with names in place of OIDs, so that two databases can be compared."""

# Values that differ from installation to installation, or that say the same as `DEFINITIONS` in a form with OIDs in it.
SKIPPED = {
    # Debian's builds of Postgres stamp the columns of views there, with a number that is new each time.
    "pg_attribute": {"attoptions"},
    "pg_class": {"relfilenode", "relfrozenxid", "relminmxid", "relpages", "reltuples", "relallvisible", "relallfrozen"},
    "pg_proc": {"proargdefaults", "prosqlbody"},
    "pg_rewrite": {"ev_action", "ev_qual"},
    "pg_type": {"typdefaultbin"},
}
# Functions that show as text the expression trees that are skipped.
DEFINITIONS = {
    "pg_proc": "pg_get_function_arguments(oid)",
    "pg_rewrite": "pg_get_ruledef(oid)",
}
# Catalogs without objects of their own: the column that names the object that a row belongs to.
PARTS = {"pg_aggregate": "aggfnoid", "pg_attribute": "attrelid"}

# Members of the extension and what is made with them: array types, members of operator classes, a view's rule.
MEMBERS = """
CREATE TEMPORARY TABLE members ON COMMIT DROP AS
WITH RECURSIVE objects (classid, objid) AS (
    SELECT d.classid, d.objid FROM pg_depend AS d
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE d.deptype = 'e' AND e.extname = %s
    UNION
    SELECT d.classid, d.objid FROM pg_depend AS d
    JOIN objects AS o ON d.refclassid = o.classid AND d.refobjid = o.objid
    WHERE d.deptype IN ('a', 'i') AND d.classid IN (
        'pg_amop'::regclass, 'pg_amproc'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass,
        'pg_rewrite'::regclass, 'pg_type'::regclass
    )
)
SELECT classid, objid FROM objects
"""

COLUMNS = """
SELECT attname, atttypid::regtype::text FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'oid' ORDER BY attname
"""

# Which columns of catalogs hold OIDs of which catalog. Keys of two columns, which refer to pg_attribute, are left out.
KEYS = """
SELECT fkcols[1], pktable::regclass::text, is_array FROM pg_get_catalog_foreign_keys()
WHERE fktable = %s::regclass AND pkcols = ARRAY['oid']
"""


def select(cursor, catalog, where):
    """Reads rows as lists of "column=value"."""
    keys = {column: (table, is_array) for column, table, is_array in cursor.execute(KEYS, [catalog]).fetchall()}
    columns = []
    for column, _ in cursor.execute(COLUMNS, [catalog]).fetchall():
        if column in SKIPPED.get(catalog, ()):
            continue
        value = f"{column}::text"
        if column in keys:
            table, is_array = keys[column]
            name = f"CASE WHEN %s = 0 THEN '-' ELSE (pg_identify_object('{table}'::regclass, %s, 0)).identity END"
            if is_array:
                part = name.replace("%s", "part")
                value = f"(SELECT string_agg({part}, ', ' ORDER BY at) FROM unnest({column}) WITH ORDINALITY AS list (part, at))"
            else:
                value = name.replace("%s", column)
        columns.append(f"'{column}=' || coalesce({value}, 'null')")
    if catalog in DEFINITIONS:
        columns.append(f"'definition=' || {DEFINITIONS[catalog]}")
    return cursor.execute(f"SELECT {where[0]}, ARRAY[{', '.join(columns)}] FROM {catalog} {where[1]}").fetchall()


def contents(connection, extension):
    """Returns {(catalog, object): list of "column=value"} of an extension in a database. Sub-objects and what belongs to an
    object but lies in other catalogs (comments, privileges) are entries of their own."""
    found = {}

    def add(catalog, rows):
        for name, values in rows:
            key = (catalog, name)
            if key in found:
                raise ValueError(f"two entries for {key}")
            found[key] = values

    with connection.transaction(), connection.cursor() as cursor:
        # Names are written with their schemas.
        cursor.execute("SET LOCAL search_path = pg_catalog")
        cursor.execute(MEMBERS, [extension])
        catalogs = [row[0] for row in cursor.execute("SELECT DISTINCT classid::regclass::text FROM members ORDER BY 1")]
        for catalog in catalogs:
            name = f"(pg_identify_object('{catalog}'::regclass, oid, 0)).identity"
            where = f"WHERE oid IN (SELECT objid FROM members WHERE classid = '{catalog}'::regclass)"
            add(catalog, select(cursor, catalog, (name, where)))
        for catalog, column in PARTS.items():
            owner = "pg_class" if catalog == "pg_attribute" else "pg_proc"
            name = f"(pg_identify_object('{owner}'::regclass, {column}, 0)).identity"
            where = f"WHERE {column} IN (SELECT objid FROM members WHERE classid = '{owner}'::regclass)"
            if catalog == "pg_attribute":
                name += " || '.' || attname"
            add(catalog, select(cursor, catalog, (name, where)))
        for catalog, value in [("pg_description", "description"), ("pg_init_privs", "privtype::text || ' ' || initprivs::text")]:
            add(
                catalog,
                cursor.execute(
                    f"SELECT (pg_identify_object(p.classoid, p.objoid, p.objsubid)).identity, ARRAY[{value}] "
                    f"FROM {catalog} AS p JOIN members ON classid = classoid AND objid = objoid"
                ).fetchall(),
            )
    return found


def differences(one, other):
    """Returns lines that say what only `one` has (-), what only `other` has (+), and which values differ."""
    lines = []
    for key in sorted(one.keys() | other.keys()):
        title = f"{key[0]}: {key[1]}"
        if key not in other:
            lines.append(f"- {title}")
        elif key not in one:
            lines.append(f"+ {title}")
        else:
            lines += [f"{title}: - {value}" for value in one[key] if value not in other[key]]
            lines += [f"{title}: + {value}" for value in other[key] if value not in one[key]]
    return lines
