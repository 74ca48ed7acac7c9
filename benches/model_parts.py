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

from model_inputs import DUAL, DUAL_SIZE, LARGE, MINI, SIZES, Inputs, fixed_texts, queries
from server import ROOT, Server

sys.path.append(str(ROOT / "models/train"))

from evaluate import asked, average_precision, read_album  # noqa: E402
from painter import CONCEPTS  # noqa: E402

PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")

# The cosine that a forward pass in less than f32 must reach with f32.
AGREEMENT = {"bfloat16": 0.9995, "int8": 0.998}
# The types in which CLIP and SigLIP are measured, and the cosine that each must reach with transformers in f32.
DUAL_AGREEMENT = {"float32": 0.999999} | AGREEMENT
DUAL_DTYPES = list(DUAL_AGREEMENT)
SESSIONS = (1, 2, 4, 16)
# The variants of the Python loop over photos: the image processor's backend, and the threads that decode.
WAYS = [(backend, threads) for backend in ("pil", "torchvision") for threads in (1, 2)]


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


def at_least_times(key, what, value, unit, factor, beside, beside_what):
    """A figure that must be at least `factor` times the value it is compared with."""
    met = None if beside is None else value >= factor * beside
    return Figure(key, what, value, unit, beside, beside_what, f"≥ {factor:g} × {beside_what}", met)


def limit(key, what, value, unit, most):
    return Figure(key, what, value, unit, aim=f"≤ {most:g} {unit}", met=value <= most)


def at_least(key, what, value, unit, least):
    return Figure(key, what, value, unit, aim=f"≥ {least:g} {unit}".rstrip(), met=value >= least)


class Session:
    """A backend of the server. It embeds each text once, because a session caches the vectors of texts."""

    def __init__(self, bench):
        self.connection = bench.server.connect()
        # The extension's settings exist in a session only after the library is loaded.
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


def pss(pid):
    return smaps(pid)["Pss"]


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
        # The runs of CLIP and SigLIP, which take a fraction of a second; the photos, and how often they are embedded.
        self.dual_runs, self.photo_count, self.passes = (5, 6, 1) if arguments.quick else (25, 24, 3)
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

    def reference(self, model, dtype, texts=(), pictures=(), vectors=False, photos=(), ways=()):
        """The answer of model_reference.py, which runs in a process of its own."""
        request, answer = self.directory / "request.json", self.directory / "answer.json"
        request.write_text(
            json.dumps({
                "model": str(model), "dtype": dtype, "threads": self.threads, "texts": texts,
                "pictures": [[str(path) for path in paths] for paths in pictures], "vectors": vectors,
                "photos": [str(path) for path in photos], "ways": ways, "passes": self.passes,
            })
        )  # fmt: skip
        print(f"transformers, {dtype}", flush=True)
        subprocess.run([self.python, ROOT / "benches/model_reference.py", request, answer], check=True)
        answer = json.loads(answer.read_text())
        self.versions = answer["versions"]
        return answer

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
                tokens = answer["texts"][0]["tokens"]
                times[dtype] = statistics.median(answer["texts"][0]["times"][1:])
            self.references["text"] = min(times, key=times.get), times, tokens
        return self.references["text"]


    def dual_model(self, name, dtype):
        """The name of the variant of a CLIP or SigLIP model that computes in this type; None if int8 is to be left out."""
        source = self.inputs.dual(name)
        if dtype == "int8":
            return self.quantized(source.name)
        return source.name if dtype == "float32" else self.inputs.computing(source, dtype)

    def dual_pictures(self):
        return [self.inputs.picture(*DUAL_SIZE, seed) for seed in (7, 8, 9)]

    def dual_reference(self, name):
        """By type, the times of transformers for a CLIP or SigLIP model, and the vectors of the fixed texts and of the pictures;
        nothing if transformers is to be left out."""
        if "transformers" in self.without:
            return {}
        if name not in self.references:
            pictures, runs = self.dual_pictures(), 1 + self.dual_runs
            inputs = {"texts": [queries()[:runs], fixed_texts()], "pictures": [pictures[:1] * runs, pictures]}
            model = self.inputs.dual(name)
            self.references[name] = {dtype: self.reference(model, dtype, vectors=True, **inputs) for dtype in self.dtypes()}
        return self.references[name]


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
            yield from eight(bench, "memory.eight", "2B", own, lambda session: session.text_seconds(LARGE, 2))


def eight(bench, key, about, own, use):
    """The memory of eight backends that have used a model, with shared pages divided among them."""
    count, what = 8, f"memory of eight backends, sum of Pss, {about}"
    if count * own > 0.8 * available():
        yield Figure(key, what, None, "MB", note=f"not run: 8 × {own:,.0f} MB do not fit")
        return
    sessions = [bench.session() for _ in range(count)]
    use(sessions[0])
    one = pss(sessions[0].pid)
    for session in sessions[1:]:
        use(session)
    together, own = (sum(map(of, [session.pid for session in sessions])) for of in (pss, private))
    for session in sessions:
        session.close()
    yield at_most(key, what, together, "MB", 1.25, one, "one backend")
    yield Figure(f"{key}.private", f"private memory of these eight together, {about}", own, "MB")


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
    for sessions in (1, 2):
        what = f"pictures per second, mini model, {sessions} session{'s' if sessions > 1 else ''}"
        rate = rate_of_sessions(bench, MINI, count, sessions)
        yield Figure(f"mini.pictures.{sessions}", what, rate, "/s", aim="≥ 3 × the first version")
    yield Figure("mini.batch", "the same pictures by embed_images", rate_of_batch(bench, MINI, count), "/s")
    with bench.session() as session:
        session.text_seconds(MINI, 1)
        texts = session.text_seconds(MINI, 50 if bench.quick else 300)
        yield Figure("mini.texts", "text queries per second, mini model", len(texts) / sum(texts), "/s")


def rate_of_sessions(bench, model, count, sessions):
    """The pictures of the table album per second, divided among sessions that call embed_image."""
    each = "SELECT count(vector_dims(embed_image(%s, image))) FROM album WHERE id %% %s = %s"
    opened = [bench.session() for _ in range(sessions)]
    if sessions > 1:
        # All sessions together have as many threads as a single one.
        for session in opened:
            session.connection.execute(f"SET photosearch.threads = {max(1, bench.threads // sessions)}")
    for session in opened:
        session.picture_seconds(model, bench.inputs.picture(*SIZES[0]).read_bytes(), 2)
    rates = []
    for _ in range(3):
        arguments = [(session, (each, model, sessions, n)) for n, session in enumerate(opened)]
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


def rate_of_batch(bench, model, count):
    """The pictures of the table album per second, by embed_images in one session."""
    batch = "SELECT cardinality(embed_images(%s, array_agg(image))) FROM album"
    with bench.session() as session:
        return count / statistics.median([session.seconds(batch, model) for _ in range(4)][1:])


def load_album(bench, count):
    """Fills the table album with drawn pictures. Returns the truth."""
    folder = bench.inputs.album(count)
    paths, truth = read_album(folder)
    fill_album(bench, [folder / path for path in paths])
    return truth


def fill_album(bench, paths):
    """Fills the table album (id, image)."""
    with bench.server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS album")
        connection.execute("CREATE TABLE album (id int PRIMARY KEY, image bytea)")
        for i, path in enumerate(paths):
            connection.execute("INSERT INTO album VALUES (%s, %b)", [i, path.read_bytes()])
        connection.execute("VACUUM ANALYZE album")


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


def dual(bench):
    """A text query and a picture of the model's size with CLIP and SigLIP 2, and how far the vectors are from those of
    transformers in f32."""
    for name, about in DUAL.items():
        answers = bench.dual_reference(name)
        tokens = f" of {max(answers['float32']['texts'][0]['tokens'])} tokens" if answers else ""
        kinds = {"texts": f"text query{tokens}", "pictures": "picture of {} × {}".format(*DUAL_SIZE)}
        for dtype, answer in answers.items():
            for kind, what in kinds.items():
                key, what = f"dual.{name}.{kind}.transformers.{dtype}", f"{what}, {about}, transformers, {dtype}"
                yield Figure(key, what, theirs(answer, kind), "ms")
        models = {dtype: bench.dual_model(name, dtype) for dtype in DUAL_DTYPES}
        times, found = dual_sessions(bench, {dtype: model for dtype, model in models.items() if model})
        for dtype in times:
            for kind, what in kinds.items():
                key, what, value = f"dual.{name}.{kind}.{dtype}", f"{what}, {about}, {dtype}", times[dtype][kind]
                if dtype == "bfloat16":
                    best = fastest(answers, kind)
                    beside = ", ".join(filter(None, ("transformers", best)))
                    yield at_most(key, what, value, "ms", 0.6, theirs(answers.get(best), kind), beside)
                elif dtype == "int8" and kind == "pictures":
                    yield at_most(key, what, value, "ms", 0.6, times["bfloat16"][kind], "ours in bf16")
                elif dtype == "int8":
                    yield Figure(key, what, value, "ms", times["bfloat16"][kind], "ours in bf16")
                else:
                    yield Figure(key, what, value, "ms", theirs(answers.get(dtype), kind), f"transformers, {dtype}")
            for kind in kinds if answers else ():
                worst = min(map(cosine, found[dtype][kind], answers["float32"][kind][1]["vectors"]))
                what = f"least cosine of {kind} with transformers' f32, {about}, {dtype}"
                yield at_least(f"dual.{name}.agreement.{kind}.{dtype}", what, worst, "", DUAL_AGREEMENT[dtype])


def dual_sessions(bench, models):
    """By type, the times in milliseconds of a text query and of a picture, and the vectors of the fixed texts and of the pictures.
    The models take turns, so that a disturbance of the machine affects all of them. A turn's first run warms up."""
    pictures = [picture.read_bytes() for picture in bench.dual_pictures()]
    for model in models.values():
        bench.prepare(model)
    sessions = {dtype: bench.session() for dtype in models}
    times = {dtype: {"texts": [], "pictures": []} for dtype in models}
    for _ in range(bench.dual_runs // 5):
        for dtype, session in sessions.items():
            times[dtype]["texts"] += session.text_seconds(models[dtype], 6)[1:]
            times[dtype]["pictures"] += session.picture_seconds(models[dtype], pictures[0], 6)[1:]
    found = {}
    for dtype, session in sessions.items():
        texts = [session.vector("embed_text", models[dtype], text) for text in fixed_texts()]
        images = [session.vector("embed_image", models[dtype], picture) for picture in pictures]
        found[dtype] = {"texts": texts, "pictures": images}
        session.close()
    for kinds in times.values():
        kinds.update({kind: 1000 * statistics.median(seconds) for kind, seconds in kinds.items()})
    return times, found


def theirs(answer, kind):
    """The milliseconds of transformers; None if it is left out."""
    return answer and 1000 * statistics.median(answer[kind][0]["times"][1:])


def fastest(answers, kind):
    """The type in which transformers is fastest; None if it is left out."""
    return min(answers, key=lambda dtype: theirs(answers[dtype], kind), default=None)


def dual_memory(bench):
    """The memory of one backend and of eight after a text query and a picture with SigLIP 2. Another backend runs them too, as
    in the part memory."""
    name = "siglip2_base"
    about, model = f"{DUAL[name]}, bfloat16", bench.dual_model(name, "bfloat16")
    picture = bench.dual_pictures()[0].read_bytes()
    bench.prepare(model)

    def use(session):
        session.text_seconds(model, 2)
        session.picture_seconds(model, picture, 2)

    with bench.session() as other, bench.session() as session:
        use(other)
        use(session)
        own = private(session.pid)
    yield limit("dual_memory", f"private memory of a backend after a text query and a picture, {about}", own, "MB", 150)
    yield from eight(bench, "dual_memory.eight", about, own, use)


def bulk(bench):
    """Photos of 12 megapixels per second, from the table's JPEG files to vectors, beside a Python loop from files."""
    photos = bench.inputs.photos(bench.photo_count)
    fill_album(bench, photos)
    size = statistics.mean(path.stat().st_size for path in photos) / 1e6
    print(f"{len(photos)} photos of {size:.1f} MB", flush=True)
    for name, about in DUAL.items():
        best = None
        if answers := bench.dual_reference(name):
            dtype = fastest(answers, "pictures")
            answer = bench.reference(bench.inputs.dual(name), dtype, photos=photos, ways=WAYS)
            rates = dict(zip(WAYS, map(statistics.median, answer["photos"])))
            for (backend, threads), rate in rates.items():
                what = f"photos per second of a Python loop, {about}, {dtype}, {backend}, {threads} decoding"
                yield Figure(f"bulk.{name}.loop.{backend}.{threads}", what, rate, "/s")
            best = max(rates.values())
        for dtype in DUAL_DTYPES[1:]:
            if model := bench.dual_model(name, dtype):
                yield from photo_rates(bench, f"bulk.{name}.{dtype}", model, f"{about}, {dtype}", len(photos), best)
    yield from photo_rates(bench, "bulk.mini", MINI, "mini model", len(photos), None)


def photo_rates(bench, key, model, about, count, loop):
    """The photos per second by embed_images and by two sessions, and the better of both in photos an hour."""
    bench.prepare(model)
    rates = {"embed_images": rate_of_batch(bench, model, count), "2 sessions": rate_of_sessions(bench, model, count, 2)}
    for how, rate in rates.items():
        what = f"photos per second, {about}, {how}"
        if loop:
            yield at_least_times(f"{key}.{how}", what, rate, "/s", 2, loop, "the Python loop")
        else:
            yield Figure(f"{key}.{how}", what, rate, "/s")
    yield Figure(f"{key}.hour", f"photos an hour, {about}", 3600 * max(rates.values()), "/h")


PARTS = {
    part.__name__: part for part in (text, pictures, fresh, memory, backends, mini, agreement, dual, dual_memory, bulk)
}
