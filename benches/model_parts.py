"""The parts of the benchmark of the models. Each yields figures that are measured through SQL, as a user would."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import psycopg

from model_inputs import LARGE, MINI, SIZES, Inputs, fixed_texts, queries
from server import ROOT, Server

sys.path.append(str(ROOT / "models/train"))

from evaluate import asked, average_precision, read_album  # noqa: E402
from painter import CONCEPTS  # noqa: E402

PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")

# The cosine that a forward pass in less than f32 must reach with f32.
AGREEMENT = {"bfloat16": 0.9995, "int8": 0.998}
SESSIONS = (1, 2, 4, 16)


@dataclass
class Figure:
    """One line of the table."""

    key: str
    what: str
    # None if there is no figure; the note says why.
    value: float | None
    unit: str
    # The value it is compared with, in the same unit.
    beside: float | None = None
    beside_what: str = ""
    aim: str = ""
    met: bool | None = None
    note: str = ""


def at_most(key, what, value, unit, factor, beside, beside_what):
    """A figure that must be at most `factor` times the value it is compared with."""
    met = None if beside is None else value <= factor * beside
    return Figure(key, what, value, unit, beside, beside_what, f"≤ {factor:g} × {beside_what}", met)


def limit(key, what, value, unit, most):
    return Figure(key, what, value, unit, aim=f"≤ {most:g} {unit}", met=value <= most)


def at_least(key, what, value, unit, least):
    return Figure(key, what, value, unit, aim=f"≥ {least:g} {unit}".rstrip(), met=value >= least)


class Session:
    """A backend of the server. It embeds each text once, because a session caches the vectors of texts."""

    def __init__(self, bench):
        self.connection = bench.server.connect()
        # Before version 17, the extension's settings exist in a session only after the library is loaded.
        self.connection.execute("LOAD 'photosearch'")
        self.connection.execute(f"SET photosearch.threads = {bench.threads}")
        self.pid = self.connection.info.backend_pid
        self.texts = iter(queries())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.connection.close()

    def seconds(self, query, *parameters):
        started = time.perf_counter()
        self.connection.execute(query, parameters).fetchone()
        return time.perf_counter() - started

    def text_seconds(self, model, count):
        """The time of each of `count` text queries."""
        query = "SELECT vector_dims(embed_text(%s, %s))"
        return [self.seconds(query, model, text) for text in islice(self.texts, count)]

    def picture_seconds(self, model, picture, count):
        return [self.seconds("SELECT vector_dims(embed_image(%s, %b))", model, picture) for _ in range(count)]

    def vector(self, function, model, content):
        placeholder = "%b" if isinstance(content, bytes) else "%s"
        row = self.connection.execute(f"SELECT {function}(%s, {placeholder})::real[]", [model, content]).fetchone()
        return np.array(row[0])


def smaps(pid):
    """The memory of a process as the kernel reports it, in MB."""
    path = f"/proc/{pid}/smaps_rollup"
    try:
        text = Path(path).read_text()
    except PermissionError:
        text = subprocess.check_output(["sudo", "-n", "cat", path], text=True)
    pairs = (line.split(":") for line in text.splitlines()[1:])
    return {name: int(value.split()[0]) / 1024 for name, value in pairs}


def private(pid):
    return sum(value for name, value in smaps(pid).items() if name.startswith("Private_"))


def available():
    """The MB of memory that processes can still allocate."""
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / 1024


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


class Bench:
    """The running server, the inputs, and the number of runs."""

    def __init__(self, directory, arguments):
        self.directory, self.threads, self.without = directory, arguments.threads, set(arguments.without)
        self.python = sys.executable
        self.inputs = Inputs(directory, arguments.tokenizer, arguments.checkpoint)
        self.quick = arguments.quick
        self.text_runs, self.picture_runs = (3, 1) if arguments.quick else (7, 3)
        self.server = None
        self.references = {}
        # The versions of transformers and torch, once they have run.
        self.versions = None
        self.prepared = set()

    def start(self, **settings):
        """Starts a server with these settings in addition to the fixed ones; stops the previous one."""
        self.stop()
        settings = {
            "shared_buffers": "256MB",
            "max_connections": "40",
            "photosearch.model_dir": str(self.inputs.models),
        } | settings
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self.server = Server(self.directory / "model-server", options)
        self.server.__enter__()
        with self.server.connect() as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute("CREATE EXTENSION IF NOT EXISTS photosearch")

    def stop(self):
        if self.server:
            self.server.__exit__()
            self.server = None

    def session(self):
        return Session(self)

    def installed_models(self):
        """The directory of the models that come with the extension."""
        return Path(subprocess.check_output([PG_CONFIG, "--sharedir"], text=True).strip()) / "photosearch/models"

    def has(self, what, signature):
        """Whether the build has a function. False if `what` is to be left out; an error if the function is missing."""
        if what in self.without:
            return False
        with self.server.connect() as connection:
            found = connection.execute("SELECT to_regprocedure(%s)", [signature]).fetchone()[0]
        if found is None:
            raise SystemExit(f"this build has no function {signature}; --without {what} leaves its measurements out")
        return True

    def prepare(self, model):
        """Prepares the model unless that has been done."""
        if model not in self.prepared and self.has("prepare", "photosearch.prepare_model(text,boolean)"):
            with self.server.connect() as connection:
                print(f"preparing {model}", flush=True)
                connection.execute("SELECT photosearch.prepare_model(%s)", [model])
        self.prepared.add(model)

    def quantized(self, source):
        """The name of the int8 variant of a model, or None if int8 is to be left out."""
        target = f"{source}-int8"
        if not self.has("int8", "photosearch.quantize_model(text,text)"):
            return None
        if not (self.inputs.models / target).exists():
            with self.server.connect() as connection:
                print(f"quantizing {source}", flush=True)
                connection.execute("SELECT photosearch.quantize_model(%s, %s)", [source, target])
        return target

    def reference(self, model, dtype, texts=(), pictures=(), vectors=False):
        """The answer of model_reference.py, which runs in a process of its own."""
        request, answer = self.directory / "request.json", self.directory / "answer.json"
        request.write_text(
            json.dumps({
                "model": str(model), "dtype": dtype, "threads": self.threads, "texts": texts,
                "pictures": [[str(path) for path in paths] for paths in pictures], "vectors": vectors,
            })
        )  # fmt: skip
        print(f"transformers, {dtype}", flush=True)
        subprocess.run([self.python, ROOT / "benches/model_reference.py", request, answer], check=True)
        return json.loads(answer.read_text())

    def dtypes(self):
        """The types in which transformers may be fastest on this CPU."""
        flags = cpu_flags()
        return ["bfloat16", "float32"] if {"avx512_bf16", "amx_bf16"} & flags else ["float32"]

    def reference_text(self):
        """The fastest type of transformers for a text query of the large model, its times by type, and the number of tokens;
        None if transformers is to be left out."""
        if "transformers" in self.without:
            return None
        if "text" not in self.references:
            times, tokens = {}, None
            for dtype in self.dtypes():
                texts = queries()[: 1 + self.text_runs]
                answer = self.reference(self.inputs.large(), dtype, texts=[texts])
                self.versions, tokens = answer["versions"], answer["texts"][0]["tokens"]
                times[dtype] = statistics.median(answer["texts"][0]["times"][1:])
            self.references["text"] = min(times, key=times.get), times, tokens
        return self.references["text"]


def cpu_flags():
    text = Path("/proc/cpuinfo").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].split(":")[1].split()) if lines else set()


def text(bench):
    """A text query with a loaded model."""
    bench.inputs.large()
    reference = bench.reference_text()
    best, times, tokens = reference or (None, {}, [0])
    bench.prepare(LARGE)
    with bench.session() as session:
        ours = statistics.median(session.text_seconds(LARGE, 1 + bench.text_runs)[1:])
    what = f"text query of {max(tokens)} tokens, 2B" if best else "text query, 2B"
    name = f"transformers, {best}" if best else "transformers"
    yield at_most("text", what, ours, "s", 0.5, times.get(best), name)
    for dtype, seconds in times.items():
        yield Figure(f"text.transformers.{dtype}", f"transformers, {dtype}, the same query", seconds, "s")
    int8 = bench.quantized(LARGE)
    if int8:
        bench.prepare(int8)
        with bench.session() as session:
            quick = statistics.median(session.text_seconds(int8, 1 + bench.text_runs)[1:])
        yield at_most("text.int8", "the same query, int8", quick, "s", 0.5, ours, "ours in bf16")


def pictures(bench):
    """Pictures of two sizes."""
    model, runs = bench.inputs.large(), bench.picture_runs
    files = [bench.inputs.picture(*size) for size in SIZES]
    answer = None
    if reference := bench.reference_text():
        answer = bench.reference(model, reference[0], pictures=[[file] * (1 + runs) for file in files])
    models = {LARGE: "2B", bench.quantized(LARGE): "2B, int8"}
    for name, about in models.items():
        if name is None:
            continue
        bench.prepare(name)
        with bench.session() as session:
            session.text_seconds(name, 1)
            for i, (file, (width, height)) in enumerate(zip(files, SIZES)):
                ours = statistics.median(session.picture_seconds(name, file.read_bytes(), 1 + runs)[1:])
                theirs = statistics.median(answer["pictures"][i]["times"][1:]) if answer else None
                key, what = f"picture.{name}.{width}", f"picture of {width} × {height}, {about}"
                beside = f"transformers, {reference[0]}" if answer else "transformers"
                yield at_most(key, what, ours, "s", 0.5, theirs, beside)


def fresh(bench):
    """The time of a new backend's first query beyond that of its later ones."""
    bench.inputs.large()
    bench.prepare(LARGE)
    for preload in preloads(bench):
        above, whole = [], []
        for _ in range(1 + (2 if bench.quick else 5)):
            with bench.session() as session:
                first, *warm = session.text_seconds(LARGE, 1 + bench.text_runs)
            above.append(first - statistics.median(warm))
            whole.append(first)
        # The first backend filled the page cache.
        above, whole = above[1:], whole[1:]
        key, how = ("fresh.preloaded", ", preloaded") if preload else ("fresh", "")
        yield limit(key, f"first query of a backend minus a later one, 2B{how}", statistics.median(above), "s", 0.3)
        yield Figure(f"{key}.whole", f"first query of a backend, 2B{how}", statistics.median(whole), "s")


def preloads(bench):
    """Restarts the server without, then with the library in shared_preload_libraries. Yields whether it is preloaded."""
    bench.start()
    yield False
    if "preload" in bench.without:
        return
    bench.start(shared_preload_libraries="photosearch")
    yield True
    bench.start()


def memory(bench):
    """The private memory of a backend after a text query. A page counts as private unless two backends have mapped it, so
    another backend runs a query too."""
    bench.inputs.large()
    bench.prepare(LARGE)
    for preload in preloads(bench):
        with bench.session() as other, bench.session() as session:
            for each in (other, session):
                each.text_seconds(LARGE, 2)
            own = private(session.pid)
        key, how, most = ("memory.preloaded", ", preloaded", 60) if preload else ("memory", "", 150)
        yield limit(key, f"private memory of a backend after a text query, 2B{how}", own, "MB", most)
        if not preload:
            yield from eight(bench, own)


def eight(bench, own):
    """The memory of eight backends, with shared pages divided among them."""
    count, what = 8, "memory of eight backends, sum of Pss, 2B"
    if count * own > 0.8 * available():
        yield Figure("memory.eight", what, None, "MB", note=f"not run: 8 × {own:,.0f} MB do not fit")
        return
    sessions = [bench.session() for _ in range(count)]
    sessions[0].text_seconds(LARGE, 2)
    one = smaps(sessions[0].pid)["Pss"]
    for session in sessions[1:]:
        session.text_seconds(LARGE, 2)
    together = sum(smaps(session.pid)["Pss"] for session in sessions)
    for session in sessions:
        session.close()
    yield at_most("memory.eight", what, together, "MB", 1.25, one, "one backend")


def backends(bench):
    """Text queries of many concurrent backends."""
    bench.inputs.large()
    bench.prepare(LARGE)
    with bench.session() as other, bench.session() as session:
        for each in (other, session):
            each.text_seconds(LARGE, 1)
        own = private(session.pid)
    alone = None
    for count in SESSIONS:
        what = f"text queries per second, {count} backend{'s' if count > 1 else ''}, 2B"
        if count * own > 0.8 * available():
            yield Figure(f"backends.{count}", what, None, "/s", note=f"not run: {count} × {own:,.0f} MB do not fit")
            continue
        each = max(1, (8 if bench.quick else 32) // count)
        times, failures, elapsed = run_concurrently(bench, LARGE, count, each)
        rate = len(times) / elapsed
        alone = alone or rate
        figure = Figure(f"backends.{count}", what, rate, "/s", alone, "one backend")
        if count == SESSIONS[-1]:
            figure.aim, figure.met = "all finish", not failures
        if failures:
            figure.note = f"{len(failures)} failed: {failures[0]}"
        yield figure
        yield Figure(f"backends.{count}.slowest", f"slowest of these {count * each} queries", max(times, default=0), "s")


def run_concurrently(bench, model, count, each):
    """Runs `each` text queries in `count` sessions. Returns the times, the errors, and the total time."""
    sessions = [bench.session() for _ in range(count)]
    times, failures = [], []
    for session in sessions:
        session.text_seconds(model, 1)
    barrier = threading.Barrier(count + 1)

    def work(session):
        barrier.wait()
        try:
            times.extend(session.text_seconds(model, each))
        except psycopg.Error as error:
            failures.append(str(error).splitlines()[0])

    threads = [threading.Thread(target=work, args=[session]) for session in sessions]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    for session in sessions:
        session.close()
    return times, failures, elapsed


def mini(bench):
    """Pictures and texts per second with the bundled model."""
    count = 40 if bench.quick else 200
    load_album(bench, count)
    each = "SELECT count(vector_dims(embed_image(%s, image))) FROM album WHERE id %% %s = %s"
    batch = "SELECT cardinality(embed_images(%s, array_agg(image))) FROM album"

    def rate(sessions):
        opened = [bench.session() for _ in range(sessions)]
        if sessions > 1:
            # All sessions together have as many threads as a single one.
            for session in opened:
                session.connection.execute(f"SET photosearch.threads = {max(1, bench.threads // sessions)}")
        for session in opened:
            session.picture_seconds(MINI, bench.inputs.picture(*SIZES[0]).read_bytes(), 2)
        rates = []
        for _ in range(3):
            arguments = [(session, (each, MINI, sessions, n)) for n, session in enumerate(opened)]
            threads = [threading.Thread(target=session.seconds, args=query) for session, query in arguments]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates.append(count / (time.perf_counter() - started))
        for session in opened:
            session.close()
        return statistics.median(rates)

    for sessions in (1, 2):
        what = f"pictures per second, mini model, {sessions} session{'s' if sessions > 1 else ''}"
        figure = Figure(f"mini.pictures.{sessions}", what, rate(sessions), "/s", aim="≥ 3 × the first version")
        yield figure
    with bench.session() as session:
        session.text_seconds(MINI, 1)
        times = [session.seconds(batch, MINI) for _ in range(4)][1:]
        yield Figure("mini.batch", "the same pictures by embed_images", count / statistics.median(times), "/s")
        texts = session.text_seconds(MINI, 50 if bench.quick else 300)
        yield Figure("mini.texts", "text queries per second, mini model", len(texts) / sum(texts), "/s")


def load_album(bench, count):
    """Fills the table album (id, image). Returns the truth."""
    folder = bench.inputs.album(count)
    paths, truth = read_album(folder)
    with bench.server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS album")
        connection.execute("CREATE TABLE album (id int PRIMARY KEY, image bytea)")
        for i, path in enumerate(paths):
            connection.execute("INSERT INTO album VALUES (%s, %b)", [i, (folder / path).read_bytes()])
        connection.execute("VACUUM ANALYZE album")
    return truth


def agreement(bench):
    """How far the forward pass in less than f32 differs from f32, with the mini model and with a random checkpoint; and how
    far ours in f32 differs from transformers'."""
    small = bench.inputs.small()
    mini_source = bench.installed_models() / MINI
    truth = load_album(bench, 100 if bench.quick else 300)
    for source, about in ((small, "random, small"), (mini_source, "mini model")):
        variants = {dtype: bench.inputs.computing(source, dtype) for dtype in ("float32", "bfloat16")}
        if int8 := bench.quantized(source.name):
            variants["int8"] = int8
        exact = vectors(bench, variants["float32"])
        for dtype, least in AGREEMENT.items():
            if dtype in variants:
                other = vectors(bench, variants[dtype])
                for kind in exact:
                    worst = min(map(cosine, exact[kind], other[kind]))
                    key, what = f"agreement.{source.name}.{dtype}.{kind}", f"least cosine of {kind} with f32, {dtype}, {about}"
                    yield at_least(key, what, worst, "", least)
        if source == small and "transformers" not in bench.without:
            paths = [bench.inputs.picture(*SIZES[0])]
            answer = bench.reference(small, "float32", texts=[fixed_texts()], pictures=[paths], vectors=True)
            bench.versions = answer["versions"]
            for kind in exact:
                theirs = answer[kind][0]["vectors"]
                worst = min(map(cosine, exact[kind], theirs))
                what = f"least cosine of {kind}, our f32 with transformers', {about}"
                yield at_least(f"agreement.transformers.{kind}", what, worst, "", 0.99999)
        if source == mini_source:
            whole = precision(bench, variants["float32"], truth)
            yield Figure("precision.float32", "mean average precision, float32, mini model", whole, "")
            for dtype in AGREEMENT:
                if dtype in variants:
                    fall = whole - precision(bench, variants[dtype], truth)
                    yield limit(f"precision.{dtype}", f"loss of average precision, {dtype}, mini model", fall, "", 0.005)


def vectors(bench, model):
    """The vectors of the fixed texts and of a picture."""
    file = bench.inputs.picture(*SIZES[0]).read_bytes()
    with bench.session() as session:
        texts = [session.vector("embed_text", model, text) for text in fixed_texts()]
        return {"texts": texts, "pictures": [session.vector("embed_image", model, file)]}


def precision(bench, model, truth):
    """The mean, over all concepts, of the average precision on the album."""
    with bench.session() as session:
        session.connection.execute("CREATE TEMP TABLE embedded AS SELECT id, embed_image(%s, image) AS e FROM album", [model])
        query = "SELECT fine_score(e, q) FROM embedded, embed_text(%s, %s) AS q ORDER BY id"
        found = []
        for i, concept in enumerate(CONCEPTS):
            rows = session.connection.execute(query, [model, asked(concept)]).fetchall()
            found.append(average_precision(np.array([row[0] for row in rows]), truth[:, i]))
    return float(np.nanmean(found))


PARTS = {part.__name__: part for part in (text, pictures, fresh, memory, backends, mini, agreement)}
