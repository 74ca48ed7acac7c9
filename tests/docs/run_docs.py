#!/usr/bin/env python3
"""Runs the manual: every SQL statement and Python block of README.md and docs/, and what the pages claim
of names.

usage: run_docs.py [--list] [page...]      (PGHOST, PGUSER and the like say where the server is)

Each page runs in a fresh database "photos", as a superuser, from top to bottom in one session; docs/development.md says
how a page is written for it. A block counts as a test, and so does each check of names: links, make targets, files,
settings, SQL objects, SQLSTATEs. The server is left as it was. Needs what tests/client and tests/pictures require,
tests/docs/requirements.txt, and pgvector in the server. The last line counts; the exit status is 1 where a test failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import psycopg
import psycopg.sql
from psycopg.pq import DiagnosticField, ExecStatus

import names
import pages
from output import agree, error_text, table

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "photos"
OURS = "made by tests/docs/run_docs.py"
# What pages speak of that a test can't have, and what runs in its place. The model is the bundled one under another
# name: its vectors have 192 dimensions.
LARGE_MODEL = "qwen3-vl-embedding-2b"
STAND_INS = {
    LARGE_MODEL: ROOT / "models/photosearch-mini-1",
    "bge-m3": ROOT / "tests/golden/text/xlm_roberta_cls",
    "bge-reranker-v2-m3": ROOT / "tests/golden/text/xlm_roberta_rerank",
    "nomic-embed-text-v1.5": ROOT / "tests/golden/nomic/authors",
    "clip-vit-b-32": ROOT / "tests/golden/dual/clip_openai",
    "siglip2-base": ROOT / "tests/golden/dual/siglip_two",
}
DEMO_ALBUM = "/var/lib/photosearch-demo/album"
ALBUM_SEED, ALBUM_COUNT = 20261126, 120
STATEMENT_SECONDS = 120


class Results:
    def __init__(self):
        self.passed = self.failed = 0
        self.skipped = []

    def test(self, name, problems):
        """One test, which fails where there are problems."""
        if problems:
            self.failed += 1
            print(f"FAILED  {name}", flush=True)
            for problem in problems:
                print("        " + problem.rstrip().replace("\n", "\n        "), flush=True)
        else:
            self.passed += 1
            print(f"ok      {name}", flush=True)


class Stage:
    """The folders that stand in for /srv, and the server's settings and roles, which it gives back as they were."""

    def __init__(self):
        self.server = psycopg.connect(dbname="postgres", autocommit=True)
        self.directory = Path(tempfile.mkdtemp(prefix="photosearch-docs-", dir="/tmp"))
        self.models = self.directory / "models"
        for name, source in STAND_INS.items():
            shutil.copytree(source, self.models / name)
        album = self.directory / "photos"
        draw = [sys.executable, ROOT / "models/train/album.py", "--seed", ALBUM_SEED, "--count", ALBUM_COUNT]
        subprocess.run([*map(str, draw), "--out", str(album)], check=True, capture_output=True)
        # A library as people have them: one file was cut off, one is no picture.
        library = self.directory / "library"
        shutil.copytree(album, library)
        (library / "2019-cut-short.jpg").write_bytes((album / "2019-00000.jpg").read_bytes()[:3000])
        (library / "2019-notes.jpg").write_text("no picture\n")
        self.shared(self.directory)
        # What pages have made outside their database.
        self.roles, self.settings = set(), set()

    def shared(self, path):
        """Lets the server's user read, and write where models are made."""
        for own in (path, *path.rglob("*")):
            own.chmod(0o755 if own.is_dir() else 0o644)
        if os.geteuid() == 0:
            shutil.chown(self.models, "postgres")

    def replaced(self, text):
        for folder in ("models", "photos", "library"):
            text = re.sub(rf"/srv/{folder}\b", str(self.directory / folder), text)
        text = text.replace(DEMO_ALBUM, str(self.directory / "photos"))
        return re.sub(r"(mrl_vector\(|prefix_dims = )2048\b", r"\g<1>192", text)

    def restored(self, text):
        """Paths of the server's answers as the page writes them."""
        return text.replace(str(self.directory), "/srv")

    def has_run(self, sql):
        """Keeps what has to be taken back."""
        if role := re.match(r"CREATE (?:ROLE|USER) (\w+)", sql, re.IGNORECASE):
            self.roles.add(role[1])
        if setting := re.match(r"ALTER SYSTEM SET ([\w.]+)", sql, re.IGNORECASE):
            self.settings.add(setting[1])

    def make_database(self):
        self.restore()
        self.server.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
        self.server.execute(f"COMMENT ON DATABASE {DATABASE} IS '{OURS}'")

    def drop_database(self):
        """Drops the database of the pages, and none that somebody else has made."""
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        for (comment,) in self.server.execute(query, [DATABASE]).fetchall():
            if comment != OURS:
                raise SystemExit(f'the server has a database "{DATABASE}" of its own, which these tests would drop')
            self.server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")

    def restore(self):
        self.drop_database()
        for role in self.roles:
            name = psycopg.sql.Identifier(role)
            # Privileges on settings are of the whole server, and DROP OWNED leaves them.
            for parameter in self.parameters():
                revoke = psycopg.sql.SQL("REVOKE ALL ON PARAMETER {} FROM {}")
                self.server.execute(revoke.format(psycopg.sql.SQL(parameter), name))
            self.server.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(name))
            self.server.execute(psycopg.sql.SQL("DROP ROLE {}").format(name))
        for name in self.settings:
            self.server.execute(f"ALTER SYSTEM RESET {name}")
        self.server.execute("SELECT pg_reload_conf()")
        self.roles, self.settings = set(), set()

    def parameters(self):
        """Settings on which somebody has privileges."""
        if self.server.info.server_version < 150000:
            return []
        return [name for (name,) in self.server.execute("SELECT parname FROM pg_parameter_acl")]

    def close(self):
        shutil.rmtree(self.directory)
        self.restore()
        self.server.close()


class Session:
    """Runs the blocks of a page, and compares what they print."""

    def __init__(self, stage, page):
        self.stage = stage
        self.page = page
        self.prelude = ""
        self.notices = []
        self.connection = psycopg.connect(
            dbname=DATABASE, autocommit=True, options=f"-c statement_timeout={STATEMENT_SECONDS}s"
        )
        self.connection.add_notice_handler(lambda notice: self.notices.append(error_text(notice)))
        self.connection.execute("SET client_encoding = 'UTF8'")

    def run(self, block):
        """Problems of a block."""
        if block.language == "sql":
            printed, problems = self.run_sql(block)
        elif block.hidden:
            self.prelude += block.text
            return []
        else:
            printed, problems = self.run_python(block)
        if block.shows is not None and not problems and not agree(block.shows, printed):
            problems.append(f"the page shows\n{block.shows}but this is printed\n{printed}")
        return problems

    def run_sql(self, block):
        """What a block prints, as psql would, and what is wrong."""
        problems, printed = [], []
        fails = block.shows is not None and "ERROR:" in block.shows
        for statement in pages.statements(block):
            self.notices.clear()
            # By the simple protocol: some statements may stand in no transaction, and none is prepared.
            result = self.connection.pgconn.exec_(self.stage.replaced(statement.sql).encode())
            where = f"line {statement.line}: "
            if result.status == ExecStatus.FATAL_ERROR:
                text = self.stage.restored(result_error(result))
                printed.append(text)
                if not fails:
                    problems.append(f"{where}{text}\n{statement.sql}")
                continue
            self.stage.has_run(re.sub(r"^(?:\s*--[^\n]*\n)*\s*", "", statement.sql))
            printed += self.notices
            if result.status == ExecStatus.TUPLES_OK:
                printed.append(self.stage.restored(table(result)))
            if statement.result is not None:
                found = only_value(result)
                if found is None or not agree(statement.result, self.stage.restored(found)):
                    problems.append(f"{where}the page says {statement.result}, the server {found}")
        return "\n".join(printed), problems

    def run_python(self, block):
        """As `run_sql`, of a program of its own with the setups before it."""
        program = self.stage.directory / "block.py"
        program.write_text(self.stage.replaced(self.prelude + block.text))
        environment = os.environ | {"PGDATABASE": DATABASE}
        done = subprocess.run(
            [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=STATEMENT_SECONDS
        )
        return done.stdout, [done.stderr] if done.returncode else []

    def close(self):
        self.connection.close()


def result_error(result):
    fields = {
        "ERROR": DiagnosticField.MESSAGE_PRIMARY,
        "DETAIL": DiagnosticField.MESSAGE_DETAIL,
        "HINT": DiagnosticField.MESSAGE_HINT,
    }
    found = {name: result.error_field(of) for name, of in fields.items()}
    return "\n".join(f"{name}:  {text.decode()}" for name, text in found.items() if text)


def only_value(result):
    """The value of a result of one row and one column."""
    if result.status != ExecStatus.TUPLES_OK or (result.ntuples, result.nfields) != (1, 1):
        return None
    value = result.get_value(0, 0)
    return "NULL" if value is None else value.decode()


def run_page(stage, page, results):
    relative = page.path.relative_to(ROOT)
    stage.make_database()
    session = Session(stage, page)
    try:
        for block in page.blocks:
            if block.language not in ("sql", "python", *pages.SKIPPED_LANGUAGES):
                continue
            name = f"{relative}:{block.line} {'hidden setup' if block.hidden else block.language}"
            since = int(block.attributes.get("since", 0))
            if "skip" in block.attributes or since > session.connection.info.server_version // 10000:
                results.skipped.append((f"{relative}:{block.line}", names.reason_of(block)))
                continue
            try:
                problems = session.run(block)
            except Exception:
                problems = [traceback.format_exc()]
            results.test(name, problems)
    finally:
        session.close()


def all_pages():
    return [pages.read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what each block is, and run nothing")
    parser.add_argument("pages", nargs="*", help="only these pages, and no check of names")
    arguments = parser.parse_args()
    manual = all_pages()
    if arguments.pages:
        wanted = [Path(name).resolve() for name in arguments.pages]
        manual = [page for page in manual if page.path in wanted]
        if len(manual) != len(wanted):
            parser.error("not every page is one of the manual")
    if arguments.list:
        for page in manual:
            for block in page.blocks:
                kind = "hidden setup" if block.hidden else names.reason_of(block) or ""
                print(f"{page.path.relative_to(ROOT)}:{block.line}\t{block.language}\t{kind}")
        return 0
    results = Results()
    stage = Stage()
    try:
        for page in manual:
            run_page(stage, page, results)
        if not arguments.pages:
            stage.make_database()
            with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
                for name, problems in names.checks(ROOT, manual, connection):
                    results.test(name, problems)
    finally:
        stage.close()
    for where, reason in results.skipped:
        print(f"skipped {where}: {reason}")
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
