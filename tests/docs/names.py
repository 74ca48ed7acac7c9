"""Whether what the manual names is there, and whether what is there is named in the manual.

Each check yields problems, as text. `checks` gives them their names.
"""

import os
import re
import subprocess
from collections import defaultdict
from urllib.parse import unquote

MAKE = re.compile(r"\bmake ((?:[\w.]+[\w.-]*(?:=\S*)?[ \t]*)+)")
# `photosearch.json` and the like are files, not objects of the schema.
FILE_SUFFIXES = {"json", "control", "so"}
# Folders of the repository. What a page names below them has to be there.
FOLDERS = "benches clients demo docs fuzz models packaging pgrx-tests sql src tests".split()


def checks(root, manual, connection):
    """(name, problems) of each check. The connection is to an empty database."""
    reference = next(page for page in manual if page.path.name == "reference.md")
    connection.execute("CREATE EXTENSION photosearch")
    connection.execute("LOAD 'photosearch'")
    for page in manual:
        name = page.path.relative_to(root)
        yield f"{name}: blocks", located(page.problems)
        yield f"{name}: links", located(broken_links(root, manual, page))
        yield f"{name}: make targets", located(unknown_targets(root, page))
        yield f"{name}: files", located(unknown_files(root, page))
        yield f"{name}: options of programs", located(unknown_options(root, page))
        yield f"{name}: names in photosearch", located(unknown_names(root, page, connection))
        yield f"{name}: reasons of skipped blocks", located(hidden_reasons(page))
    yield "docs/index.md leads to every page", unreached(manual)
    yield "reference: settings", undocumented_settings(reference, connection)
    yield "reference: functions", undocumented_functions(reference, connection)
    yield "reference: operators, types and the like", undocumented_objects(reference, connection)
    yield "reference: casts", undocumented_casts(reference, connection)
    yield "reference: casts of the bridge", undocumented_bridge(root, reference, connection)
    yield "reference: SQLSTATEs", undocumented_states(root, reference)


def located(problems):
    return [f"line {line}: {what}" for line, what in problems]


def broken_links(root, manual, page):
    of = {other.path: other for other in manual}
    for line, target in page.links():
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (page.path.parent / file).resolve() if file else page.path
        if not path.exists() or not path.is_relative_to(root):
            yield line, f"{target}: there is no such file"
        elif anchor and (path not in of or anchor not in of[path].anchors):
            yield line, f"{target}: there is no such heading"


def unreached(manual):
    index = next(page for page in manual if page.path.name == "index.md")
    linked = {(index.path.parent / target.partition("#")[0]).resolve() for _, target in index.links()}
    return [f"no link to {page.path.name}" for page in manual if page is not index and page.path not in linked]


def shell_lines(page):
    """Lines of shell, in blocks and inline: (line, text)."""
    for block in page.blocks:
        if block.language == "sh":
            for number, text in enumerate(block.text.splitlines(), block.line + 1):
                yield number, text.partition(" #")[0]
    yield from page.spans()


def unknown_targets(root, page):
    makefile = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE))
    for line, text in shell_lines(page):
        for words in MAKE.findall(text):
            for word in words.split():
                name, is_variable, _ = word.partition("=")
                if is_variable and not re.search(rf"\$\({name}\)", makefile):
                    yield line, f"make {word}: the Makefile does not use {name}"
                elif not is_variable and word not in targets:
                    yield line, f"make {word}: the Makefile has no such target"


def unknown_files(root, page):
    named = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*]")
    for line, text in shell_lines(page):
        for path in named.findall(text):
            # What is made by a build, or found by a fuzzer, is not there yet.
            if not any(root.glob(path)) and not ignored(root, path):
                yield line, f"{path}: there is no such file"


def unknown_options(root, page):
    """Options of our programs, which their source has to have, and packages of cargo."""
    manifests = "\n".join(file.read_text() for file in root.glob("src/**/Cargo.toml"))
    packages = set(re.findall(r'^name = "([^"]+)"', manifests, re.MULTILINE))
    for line, text in shell_lines(page):
        program = None
        for word in text.split():
            if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|sh)", word):
                program = root / word
            elif word.startswith("--") and program is not None and program.exists():
                option = word.partition("=")[0]
                if not re.search(rf"{option}(?![\w-])", program.read_text()):
                    yield line, f"{program.relative_to(root)} has no option {option}"
        if "cargo" in text:
            for name in re.findall(r"(?:-p|--package)[ =](\S+)", text):
                if name not in packages:
                    yield line, f"{name}: there is no such package"


def ignored(root, path):
    return subprocess.run(["git", "-C", root, "check-ignore", "-q", path], check=False).returncode == 0


def unknown_names(root, page, connection):
    """Whatever stands behind "photosearch." is a setting, a function, a view, a file, or a module of the Python package."""
    known = {name for (name,) in connection.execute("SELECT name FROM pg_settings WHERE name LIKE 'photosearch.%'")}
    known |= {
        f"photosearch.{name}"
        for (name,) in connection.execute("""
            SELECT proname FROM pg_proc WHERE pronamespace = 'photosearch'::regnamespace
            UNION SELECT relname FROM pg_class WHERE relnamespace = 'photosearch'::regnamespace""")
    }
    known |= {f"photosearch.{suffix}" for suffix in FILE_SUFFIXES}
    known |= {f"photosearch.{module.stem}" for module in (root / "clients/python/src/photosearch").glob("[a-z]*.py")}
    mentions = list(page.spans()) + [
        (block.line + number, text)
        for block in page.blocks
        for number, text in enumerate(block.text.splitlines(), 1)
    ]
    for line, text in mentions:
        for name in re.findall(r"(?<![\w@/])photosearch\.[a-z_]+\b", text):
            if name not in known:
                yield line, f"{name}: there is neither such a setting nor such an object"


def reason_of(block):
    """Why a block is not run, or not on every server: the words with which the page has to say so."""
    if "since" in block.attributes:
        return f"PostgreSQL {block.attributes['since']} and later"
    return block.attributes.get("skip")


def hidden_reasons(page):
    for block in page.blocks:
        reason = reason_of(block)
        if reason is not None and (not reason or " ".join(reason.split()) not in page.visible):
            yield block.line, f"skipped, but the page does not say to the reader: {reason}"


def code_of(page):
    return {code for _, code in page.spans()}


def section(page, heading):
    """Lines of the prose below a heading of the second level."""
    inside = False
    for _, text in page.prose:
        if text.startswith("## "):
            inside = text == f"## {heading}"
        elif inside:
            yield text


def undocumented_settings(reference, connection):
    """Each setting has a row in a table, with its default; and each such row is a setting's."""
    rows = {}
    for text in section(reference, "Settings"):
        if match := re.match(r"\| `(photosearch\.\w+)` \| `?([^|`:]*?)`?(?::[^|]*)? \|", text):
            rows[match[1]] = match[2]
    query = """SELECT name, boot_val, unit, context = 'superuser' FROM pg_settings WHERE name LIKE 'photosearch.%'"""
    settings = {name: (value, unit, superuser) for name, value, unit, superuser in connection.execute(query)}
    problems = [f"{name}: the table has a row, the server no setting" for name in rows.keys() - settings.keys()]
    for name, (value, unit, superuser) in settings.items():
        if name not in rows:
            problems.append(f"{name}: not in the table")
            continue
        documented = rows[name]
        if unit:
            same = connection.execute("SELECT pg_size_bytes(%s) = pg_size_bytes(%s)", [documented, value + unit]).fetchone()[0]
        else:
            same = documented == (value or "empty")
        if not same:
            problems.append(f"{name}: the default is {value}{unit or ''}, not {documented}")
        row = next(text for text in section(reference, "Settings") if text.startswith(f"| `{name}` |"))
        if superuser != ("superuser" in row):
            problems.append(f"{name}: its row has to say \"superuser\" if and only if others may not set it")
    return problems


# What only Postgres calls: a part of a type, an operator, a cast, an operator class, an access method or an aggregate,
# whatever takes or returns a pseudo-type, and what the planner puts into plans, as the function's comment says then.
INTERNAL = """
    p.prorettype IN ('internal'::regtype, 'cstring'::regtype, 'index_am_handler'::regtype)
    OR 'internal'::regtype = ANY (p.proargtypes) OR 'cstring'::regtype = ANY (p.proargtypes)
    OR 'cstring[]'::regtype = ANY (p.proargtypes)
    OR EXISTS (SELECT FROM pg_type t WHERE p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typanalyze))
    OR EXISTS (SELECT FROM pg_operator o WHERE p.oid IN (o.oprcode, o.oprrest, o.oprjoin))
    OR EXISTS (SELECT FROM pg_cast c WHERE p.oid = c.castfunc)
    OR EXISTS (SELECT FROM pg_amproc a WHERE p.oid = a.amproc)
    OR obj_description(p.oid, 'pg_proc') ~ '\\mput\\M.* by the planner'
    OR EXISTS (SELECT FROM pg_aggregate a WHERE p.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn))
"""
MEMBER = """SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.deptype = 'e' AND e.extname = 'photosearch' AND d.classid = {catalog}::regclass AND d.objid = {oid}"""


def undocumented_functions(reference, connection):
    """Each function stands in the reference as `name(arguments) → result`; and what stands there so is a function."""
    query = f"""
        SELECT CASE n.nspname WHEN 'photosearch' THEN 'photosearch.' ELSE '' END || p.proname,
               pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.proargnames[pronargs + 1 :], {INTERNAL}
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE EXISTS ({MEMBER.format(catalog="'pg_proc'", oid="p.oid")})"""
    written = {code for code in code_of(reference) if re.fullmatch(r"[\w.]+\(.*\) → .*", code)}
    problems, there = [], set()
    for name, arguments, result, columns, internal in connection.execute(query):
        kind = "rows" if result.upper() == "SETOF RECORD" else result
        inputs = re.sub(r"(, )?\bOUT .*", "", re.sub(r"::\w+(\[\])?", "", arguments))
        signature = f"{name}({inputs}) → {kind}"
        there.add(signature)
        if internal:
            continue
        if signature not in written:
            problems.append(f"function not documented: {signature}")
        if kind == "rows":
            problems += [f"{name}: column {column} not documented" for column in columns if column not in code_of(reference)]
    return problems + [f"documented, but not there: {signature}" for signature in sorted(written - there)]


def undocumented_objects(reference, connection):
    """Operators as `left @~ right`; types, views, access methods and operator classes by their names."""
    query = f"""
        SELECT 'operator', format('%s %s %s', oprleft::regtype, oprname, oprright::regtype) FROM pg_operator o
            WHERE EXISTS ({MEMBER.format(catalog="'pg_operator'", oid="o.oid")})
        UNION SELECT 'type', t.oid::regtype::text FROM pg_type t
            WHERE typrelid = 0 AND typelem = 0 AND EXISTS ({MEMBER.format(catalog="'pg_type'", oid="t.oid")})
        UNION SELECT 'view', c.oid::regclass::text FROM pg_class c
            WHERE EXISTS ({MEMBER.format(catalog="'pg_class'", oid="c.oid")})
        UNION SELECT 'access method', amname::text FROM pg_am a
            WHERE EXISTS ({MEMBER.format(catalog="'pg_am'", oid="a.oid")})
        UNION SELECT 'operator class', opcname::text FROM pg_opclass c
            WHERE EXISTS ({MEMBER.format(catalog="'pg_opclass'", oid="c.oid")})
        UNION SELECT 'column of photosearch.models', attname::text FROM pg_attribute
            WHERE attrelid = 'photosearch.models'::regclass AND attnum > 0"""
    found = list(connection.execute(query))
    written = code_of(reference)
    problems = [f"{kind} not documented: {name}" for kind, name in found if name not in written]
    operators = {name for kind, name in found if kind == "operator"}
    # What the reference writes as an operator: a type on the left, the operator, a type on the right.
    pattern = re.compile(r"(?:mrl_vector|double precision) [!@~<>=*/+-]+ (?:mrl_vector|mrl_probe|mrl_score_bound|double precision)")
    claimed = {code for code in written if pattern.fullmatch(code)}
    return problems + [f"documented, but not there: {name}" for name in sorted(claimed - operators)]


def cast_codes(source, target):
    return f"{source} → {target}"


def undocumented_casts(reference, connection):
    query = f"""SELECT castsource::regtype::text, casttarget::regtype::text FROM pg_cast c
        WHERE castsource <> casttarget AND EXISTS ({MEMBER.format(catalog="'pg_cast'", oid="c.oid")})"""
    written = code_of(reference)
    return [f"cast not documented: {cast_codes(*cast)}" for cast in connection.execute(query) if cast_codes(*cast) not in written]


def undocumented_bridge(root, reference, connection):
    """The casts between mrl_vector and pgvector's types, as they are where the server has pgvector; else as the script
    makes them."""
    available = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
    if connection.execute(available).fetchone()[0]:
        connection.execute("SET client_min_messages = warning")
        connection.execute("CREATE EXTENSION photosearch_pgvector CASCADE")
        query = """SELECT castsource::regtype::text, casttarget::regtype::text FROM pg_cast c
            JOIN pg_depend d ON d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype = 'e'
            JOIN pg_extension e ON e.oid = d.refobjid WHERE extname = 'photosearch_pgvector'"""
        casts = list(connection.execute(query))
    else:
        version = re.search(r"^default_version = '(.*)'", (root / "sql/photosearch_pgvector.control").read_text(), re.MULTILINE)[1]
        script = (root / f"sql/photosearch_pgvector--{version}.sql").read_text()
        others = [name for extension, name in re.findall(r"\('(\w+)', '(\w+)'\)", script) if extension == "vector"]
        casts = [pair for name in others for pair in ((name, "mrl_vector"), ("mrl_vector", name))]
    if not casts:
        return ["the bridge has no casts"]
    written = code_of(reference)
    return [f"cast not documented: {cast_codes(*cast)}" for cast in casts if cast_codes(*cast) not in written]


def undocumented_states(root, reference):
    """Each SQLSTATE that the code mentions has a row in the table of errors; and each such row is raised."""
    pg_config = os.environ.get("PG_CONFIG", "pg_config")
    shared = subprocess.check_output([pg_config, "--sharedir"], text=True).strip()
    with open(f"{shared}/errcodes.txt") as file:
        states = {match[2]: match[1] for match in re.finditer(r"^(\w{5})\s+\w\s+(ERRCODE_\w+)", file.read(), re.MULTILINE)}
    raised = defaultdict(set)
    for source in (root / "src").rglob("*.rs"):
        for name in re.findall(r"\bERRCODE_\w+", source.read_text()):
            raised[states.get(name, name)].add(name)
    written = {match[1] for _, text in reference.prose if (match := re.match(r"\| `([0-9A-Z]{5})` \|", text))}
    problems = [f"not in the table of errors: {state} ({', '.join(raised[state])})" for state in sorted(raised.keys() - written)]
    return problems + [f"in the table of errors, but nothing raises it: {state}" for state in sorted(written - raised.keys())]
