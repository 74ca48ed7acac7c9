#!/usr/bin/env python3
"""Tests that too little memory ends a statement and never the server.

usage: run_memory.py [--many] [name...]

A role without privileges runs statements with large inputs, each in its own session, while the address space of the server's
processes is limited (`ulimit -v`) to values from hardly enough to start up to plenty. Each statement must succeed or raise an
error. A lost session, or a signal in the server's log, is a failure: an allocation that fails in Rust or C++ aborts the
process, and Postgres then ends every session. Finally each statement runs without a limit and must give its exact outcome.
PG_CONFIG selects the server. Needs the packages of tests/client/requirements.txt and tests/pictures/requirements.txt.
Run alone: VENV/bin/python tests/memory/run_memory.py 'a picture'. The last line counts the statements; the exit status is 1
if one failed.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
CLUSTER = ROOT / "tests" / "cluster.sh"
OPTIONS = "-c shared_buffers=16MB -c max_connections=10 -c autovacuum=off -c max_parallel_workers=0"
MB = 1 << 20
MODEL = "photosearch-mini-1"

# Mebibytes of address space on top of those of a session that has loaded the library.
BEYOND = [8, 24, 28, 32, 48, 64, 96, 160, 320, 1200]
MANY = [*range(0, 128, 4), *range(128, 512, 32), 640, 1024, 1200, 2048]
# Limits at which the statements with huge inputs run too: making strings of hundreds of megabytes takes a second.
HUGE = {8, 320, 1200}

# SQLSTATEs of too little memory; 58P01 if the library itself can't be loaded.
NO_MEMORY = {"53200", "53000", "58P01"}

# name: (outcome with enough memory: "answer" or a SQLSTATE; statement). $FILE stands for a picture's bytes in hex.
STATEMENTS = {
    "a text": ("answer", "SELECT embed_text('a baby')"),
    "a text of 100 kB": ("answer", "SELECT embed_text(repeat('a baby ', 14000))"),
    "a text of 1 MB": ("answer", "SELECT embed_text(repeat('x', 1000000))"),
    "a text of 1 MB, of words": ("answer", "SELECT embed_text(repeat('a baby and a dog ', 60000))"),
    "a text of 1 MB, of symbols": ("answer", "SELECT embed_text(repeat('日本,!', 100000))"),
    "some texts of 1 MB": ("answer", f"SELECT cardinality(embed_texts('{MODEL}', array_fill(repeat('a baby ', 149000), ARRAY[4])))"),
    "an instruction of 1 MB": ("54000", f"SELECT embed_text('{MODEL}', 'a baby', repeat('x ', 500000))"),
    "a picture": ("answer", f"SELECT embed_image('{MODEL}', '$photo.jpg')"),
    "a large JPEG": ("answer", f"SELECT embed_image('{MODEL}', '$large.jpg')"),
    "a progressive JPEG": ("answer", f"SELECT embed_image('{MODEL}', '$progressive.jpg')"),
    "a large PNG": ("answer", f"SELECT embed_image('{MODEL}', '$large.png')"),
    "a large WebP": ("answer", f"SELECT embed_image('{MODEL}', '$large.webp')"),
    "a lossless WebP": ("answer", f"SELECT embed_image('{MODEL}', '$lossless.webp')"),
    "a large GIF": ("answer", f"SELECT embed_image('{MODEL}', '$large.gif')"),
    "a large BMP": ("answer", f"SELECT embed_image('{MODEL}', '$large.bmp')"),
    "a large TIFF": ("answer", f"SELECT embed_image('{MODEL}', '$large.tif')"),
    "a large AVIF": ("answer", f"SELECT embed_image('{MODEL}', '$large.avif')"),
    "a large HEIC": ("answer", f"SELECT embed_image('{MODEL}', '$large.heic')"),
    "eight large pictures": ("answer", f"SELECT cardinality(embed_images('{MODEL}', array_fill('$large.jpg'::bytea, ARRAY[8])))"),
    "many images of 1 MB": ("22023", f"SELECT cardinality(embed_images('{MODEL}', array_fill(convert_to(repeat('x', 1000000), 'UTF8'), ARRAY[100])))"),
    "the sum of many": ("answer", "SELECT vector_dims(sum(('[' || repeat('1,', 15999) || i || ']')::mrl_vector)) FROM generate_series(1, 300) AS i"),
    "sums of many groups": ("answer", "SELECT count(*) FROM (SELECT sum(('[' || repeat('1,', 7999) || i % 9 || ']')::mrl_vector) FROM generate_series(1, 3000) AS i GROUP BY i % 1000) AS s"),
    "an index": ("answer", "CREATE TEMP TABLE t AS SELECT ('[' || repeat('1,', 2047) || i || ']')::mrl_vector(2048) AS e FROM generate_series(1, 3000) AS i; CREATE INDEX ON t USING mrl (e) WITH (prefix_dims = 2048); ANALYZE t; SET enable_seqscan = off; SELECT count(*) FROM t WHERE coarse_match(e, e, 0.9, 2048) AND e @~ mrl_probe((SELECT e FROM t LIMIT 1), 0.9, 2048)"),
    "the models": ("answer", "SELECT count(*) FROM photosearch.models"),
}
HUGE_STATEMENTS = {
    "an image of 600 MB": ("54000", f"SELECT embed_image('{MODEL}', convert_to(repeat('x', 600000000), 'UTF8'))"),
    "an image of 100 MB": ("22023", f"SELECT embed_image('{MODEL}', convert_to(repeat('x', 100000000), 'UTF8'))"),
    "the problem of an image of 100 MB": ("answer", "SELECT photosearch.image_problem(convert_to(repeat('x', 100000000), 'UTF8'))"),
    "a text of 700 MB": ("54000", "SELECT embed_text(repeat('x', 700000000))"),
    "an instruction of 700 MB": ("54000", f"SELECT embed_text('{MODEL}', 'a baby', repeat('x', 700000000))"),
    "a name of 700 MB": ("42602", "SELECT embed_text(repeat('x', 700000000), 'a baby')"),
    "a setting of 700 MB": ("22023", "SELECT '[1]'::mrl_vector; SELECT set_config('photosearch.model', repeat('x', 700000000), false)"),
    # The library refuses the value when it is loaded, and the default applies.
    "a setting of 200 MB, set before": ("answer", "SELECT set_config('photosearch.model', repeat('x', 200000000), false); SELECT embed_text('a baby')"),
    "a pair of texts of 700 MB": ("54000", f"SELECT rerank_score('{MODEL}', repeat('x', 700000000), 'y')"),
    "20 million NULLs": ("answer", f"SELECT cardinality(embed_texts('{MODEL}', array_fill(NULL::text, ARRAY[20000000])))"),
    "20 million NULLs for images": ("answer", f"SELECT cardinality(embed_images('{MODEL}', array_fill(NULL::bytea, ARRAY[20000000])))"),
    "10 million empty images": ("22023", f"SELECT embed('{MODEL}', 'x', array_fill('\\x'::bytea, ARRAY[10000000]))"),
    "images beside a text": ("22023", f"SELECT embed('{MODEL}', 'x', array_fill(convert_to(repeat('x', 1000000), 'UTF8'), ARRAY[300]))"),
    "a vector of 500 MB of text": ("54000", "SELECT ('[' || repeat('0,', 250000000) || '0]')::mrl_vector"),
    "not a vector, 500 MB": ("22P02", "SELECT repeat('é', 250000000)::mrl_vector"),
    "a probe of 500 MB": ("54000", "SELECT ('(1,0.5,1,[' || repeat('0,', 250000000) || '0])')::mrl_probe"),
    "an array of 50 million numbers": ("54000", "SELECT array_fill(0::real, ARRAY[50000000])::mrl_vector"),
    "an array of long numerics": ("22003", "SELECT array_fill((repeat('1', 100000) || '.1')::numeric, ARRAY[1000])::mrl_vector"),
    "a type modifier of 500 MB": ("22023", "SELECT mrl_vector_typmod_in(ARRAY[repeat('9', 500000000)::cstring])"),
}


def pictures(directory):
    """Pictures in every supported format: hex of the file's bytes, by file name."""
    import numpy
    import pillow_heif
    from PIL import Image

    random = numpy.random.default_rng(1)
    small = Image.fromarray(random.integers(0, 256, (480, 640, 3), dtype=numpy.uint8))
    large = Image.fromarray(random.integers(0, 256, (100, 150, 3), dtype=numpy.uint8)).resize((4000, 3000))
    middle = large.resize((1500, 1000))
    save = {
        "photo.jpg": (small, {}),
        "large.jpg": (large, {}),
        "progressive.jpg": (large, {"progressive": True}),
        "large.png": (large, {"compress_level": 1}),
        "large.webp": (middle, {}),
        "lossless.webp": (middle, {"lossless": True, "method": 0}),
        "large.gif": (large.quantize(64, dither=0), {}),
        "large.bmp": (middle, {}),
        "large.tif": (middle, {"compression": "tiff_lzw"}),
        "large.avif": (middle, {"speed": 10}),
        "large.heic": (middle, {}),
    }
    pillow_heif.register_heif_opener()
    files = {}
    for name, (image, options) in save.items():
        image.save(directory / name, **options)
        files[name] = (directory / name).read_bytes().hex()
    return files


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "data" / "server.log"

    def start(self, address_space):
        def limit():
            if address_space:
                resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

        subprocess.run([CLUSTER, "start", self.directory, OPTIONS], check=True, preexec_fn=limit)

    def stop(self):
        subprocess.run([CLUSTER, "stop", self.directory], check=True)

    def connect(self, user="guest"):
        return psycopg.connect(host=str(self.directory), user=user, dbname="postgres", autocommit=True)

    def crashes(self):
        log = self.log.read_text(errors="replace")
        return log.count("terminated by signal") + log.count("was not properly shut down")


def address_space(connection):
    """The bytes that the session's process has mapped."""
    pid = connection.info.backend_pid
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmSize")


def run(server, name, statement):
    """The outcome of a statement: "answer", a SQLSTATE, or "lost" if the session ended."""
    try:
        with server.connect() as connection:
            try:
                connection.execute(statement)
            except psycopg.Error as error:
                if connection.broken:
                    return "lost"
                return error.sqlstate
            return "answer"
    except psycopg.OperationalError as error:
        # The session could not start with so little memory, or the server is recovering from a crash.
        return error.sqlstate or ("lost" if "recovery" in str(error) or "closed" in str(error) else "53200")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", action="store_true", help="run at many more limits")
    parser.add_argument("only", nargs="*", help="names of statements to run; all if none is given")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-memory-", dir="/tmp"))
    scratch.chmod(0o755)
    files = pictures(scratch)
    statements = {}
    for name, (expected, statement) in STATEMENTS.items():
        for file, content in files.items():
            statement = statement.replace("$" + file, "\\x" + content)
        statements[name] = expected, statement
    server = Server(scratch / "server")
    passed, failed, outcomes = 0, [], {}
    server.start(None)
    try:
        with server.connect("postgres") as connection:
            connection.execute("CREATE ROLE guest LOGIN")
            connection.execute("CREATE EXTENSION photosearch")
            connection.execute(f"SELECT photosearch.prepare_model('{MODEL}')")
        with server.connect() as connection:
            connection.execute("SELECT '[1]'::mrl_vector")
            base = address_space(connection)
        for beyond in MANY if arguments.many else BEYOND:
            server.stop()
            server.start(base + beyond * MB)
            these = statements | HUGE_STATEMENTS if beyond in HUGE else statements
            for name, (expected, statement) in these.items():
                if arguments.only and name not in arguments.only:
                    continue
                before = server.crashes()
                outcome = run(server, name, statement)
                outcomes.setdefault(name, []).append((beyond, outcome))
                crashed = outcome == "lost" or server.crashes() > before
                # Lack of memory must not be reported as a damaged picture or a text that is too long.
                if crashed or outcome not in {expected, *NO_MEMORY}:
                    failed.append((beyond, name))
                    print(f"FAILED with {beyond} MB: {name}: {outcome}", flush=True)
                else:
                    passed += 1
                while crashed and run(server, "", "SELECT 1") != "answer":
                    time.sleep(0.1)
        # The limits above are too low for the largest inputs, so each statement also runs without one.
        server.stop()
        server.start(None)
        for name, (expected, statement) in (statements | HUGE_STATEMENTS).items():
            if arguments.only and name not in arguments.only:
                continue
            outcome = run(server, name, statement)
            if outcome == expected:
                passed += 1
            else:
                failed.append((None, name))
                print(f"FAILED without a limit: {name}: {outcome}, not {expected}", flush=True)
    finally:
        server.stop()
    for name, found in outcomes.items():
        # Print only the limits at which the outcome changes.
        changes = [pair for i, pair in enumerate(found) if i == 0 or pair[1] != found[i - 1][1]]
        print(f"{name}: " + ", ".join(f"{outcome} from {beyond} MB" for beyond, outcome in changes))
    subprocess.run(["rm", "-rf", scratch], check=True)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
