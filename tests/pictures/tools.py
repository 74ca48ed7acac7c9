"""Functions for the modules that make files: pictures to encode, and calls of encoders."""

import io
import subprocess
import tempfile
from pathlib import Path

import numpy
from PIL import Image


SIZES = [(1, 1), (1, 17), (7, 9), (8, 8), (16, 16), (17, 33), (64, 48), (130, 70)]
MORE_SIZES = [(2, 1), (3, 5), (15, 15), (31, 2), (33, 17), (100, 100), (257, 129)]


def sizes(many):
    return SIZES + MORE_SIZES if many else SIZES


def scene(width, height, seed=0):
    """A picture of height x width x 3 bytes, with gradients, hard edges, noise and pure colours. Its
    corners differ, so that a rotated, mirrored or shifted picture differs, too."""
    rng = numpy.random.default_rng([seed, width, height])
    y, x = numpy.mgrid[0:height, 0:width]
    across, down = x / max(width - 1, 1), y / max(height - 1, 1)
    picture = numpy.stack(
        [255 * across, 255 * down, 255 * (0.5 + 0.5 * numpy.sin(7 * across + 5 * down + seed))], axis=-1
    )
    disc = (across - 0.3) ** 2 + (down - 0.4) ** 2 < 0.05
    picture[disc] = (250, 20, 30)
    picture[(across > 0.6) & (down > 0.7)] = (0, 0, 255)
    picture[(across > 0.75) & (down < 0.2)] = (255, 255, 255)
    picture[(across < 0.2) & (down > 0.8)] = (0, 0, 0)
    noisy = (across > 0.45) & (across < 0.7) & (down > 0.2) & (down < 0.6)
    noise = rng.integers(0, 256, (height, width, 3))
    picture = numpy.where(noisy[..., None], noise, picture)
    return picture.astype(numpy.uint8)


def grey_scene(width, height, seed=0):
    """`scene` in grey, as height x width bytes."""
    return numpy.asarray(Image.fromarray(scene(width, height, seed)).convert("L"))


def deep_scene(width, height, seed=0, channels=3):
    """`scene` with samples of 16 bits: the high bytes are those of `scene`, the low bytes are noise."""
    rng = numpy.random.default_rng([seed, width, height, channels])
    extra = scene(width, height, seed + 1)
    samples = numpy.concatenate([scene(width, height, seed), extra], axis=-1)[..., :channels]
    high = samples.astype(numpy.uint16) * 256
    return high + rng.integers(0, 256, high.shape, dtype=numpy.uint16)


def alpha_slope(width, height):
    """An alpha channel from 255 in the first corner to 0 in the last."""
    y, x = numpy.mgrid[0:height, 0:width]
    return (255 - (x * 37 + y * 11) * 255 // max(37 * (width - 1) + 11 * (height - 1), 1)).astype(numpy.uint8)


def levels_of(samples, most):
    """Samples scaled from 0..=most to 0..=255, rounded."""
    return ((samples.astype(numpy.uint64) * 255 + most // 2) // most).astype(numpy.uint8)


def rgb(samples):
    """Grey samples as RGB; RGB is returned unchanged."""
    return numpy.repeat(samples[..., None], 3, axis=-1) if samples.ndim == 2 else samples


def on_white(color, alpha):
    """Colours of 8 bits composited over white by an alpha channel of 8 bits."""
    alpha = alpha[..., None].astype(numpy.uint32)
    return ((255 * (255 - alpha) + rgb(color) * alpha + 127) // 255).astype(numpy.uint8)


def encoded(image, kind, **options):
    """A file encoded by Pillow. `image` is a Pillow image or an array."""
    if isinstance(image, numpy.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pnm(samples):
    """A PGM or PPM file, which the encoders of all formats here read."""
    return encoded(samples, "PPM")


def size_text(size):
    """A size as text, for names."""
    return f"{size[0]}x{size[1]}"


def exif(orientation, order="<", prefix=b""):
    """An EXIF block with an orientation as its only entry."""
    mark = b"II" if order == "<" else b"MM"
    number = lambda value, size: value.to_bytes(size, "little" if order == "<" else "big")  # noqa: E731
    entry = number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + bytes(2)
    return prefix + mark + number(42, 2) + number(8, 4) + number(1, 2) + entry + bytes(4)


class EncoderFailed(Exception):
    pass


def piped(command, data):
    """Runs a program with `data` as standard input. Returns its standard output."""
    done = subprocess.run(list(map(str, command)), input=data, capture_output=True)
    if done.returncode != 0 or not done.stdout:
        raise EncoderFailed(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def through_files(command, inputs, suffix):
    """Runs a program and returns the file that it writes. In `command`, IN0, IN1, ... are replaced by
    names of files with the contents of `inputs`, which are pairs of a suffix and bytes. OUT is replaced
    by the name of the file to write, which ends in `suffix`."""
    with tempfile.TemporaryDirectory(prefix="photosearch-encoder-") as directory:
        names = {"OUT": f"{directory}/out{suffix}"}
        for index, (ending, data) in enumerate(inputs):
            names[f"IN{index}"] = f"{directory}/in{index}{ending}"
            Path(names[f"IN{index}"]).write_bytes(data)
        argv = [names.get(str(word), str(word)) for word in command]
        done = subprocess.run(argv, capture_output=True, cwd=directory)
        out = Path(names["OUT"])
        if done.returncode != 0 or not out.exists():
            raise EncoderFailed(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace').strip()}")
        return out.read_bytes()
