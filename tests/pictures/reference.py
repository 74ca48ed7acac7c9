"""The reference: decodes a file with Pillow to upright RGB on white.

Pillow's `convert("RGB")` loses information: it drops an alpha channel, shows 16-bit grey as white, and
takes the high byte of 16-bit colours. So this module composites transparency on white, and files with
16-bit colours are compared with the samples that were encoded.
"""

import contextlib
import io
import warnings

import numpy
import pillow_heif
from PIL import Image, ImageOps

# Only HEIC: Pillow reads AVIF with a plugin of its own.
pillow_heif.register_heif_opener()
# The files of the tests are small, but a damaged header can state a size for which Pillow would take gigabytes.
Image.MAX_IMAGE_PIXELS = 1 << 26


class PillowRefuses(Exception):
    pass


class PillowCannotJudge(Exception):
    pass


def turned(image, orientation):
    """A Pillow image rotated and mirrored by an EXIF orientation, as an array."""
    tagged = image.copy()
    tagged.getexif()[0x0112] = orientation
    return numpy.asarray(ImageOps.exif_transpose(tagged))


def opened(data, draft=None):
    """Opens and decodes a file. Returns a Pillow image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if draft:
                image.draft("RGB", (image.width // draft, image.height // draft))
            image.load()
            return image
    except Exception as error:  # Pillow's plugins raise many types of errors
        raise PillowRefuses(f"{type(error).__name__}: {error}") from error


def pixels(data, draft=None):
    """Upright RGB as an array. `draft` is the divisor for the sides of a JPEG while it is decoded."""
    image = opened(data, draft)
    if image.mode in ("I;16", "I;16B"):
        # Pillow's conversion shows all but the darkest 256 levels as white.
        levels = ((numpy.asarray(image).astype(numpy.uint32) + 128) // 257).astype(numpy.uint8)
        image = Image.fromarray(levels)
    elif image.mode in ("I", "F"):
        raise PillowCannotJudge(f"samples of mode {image.mode} have no defined black and white")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # EXIF that cannot be read is ignored.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return numpy.asarray(image.convert("RGB"))
        rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return numpy.asarray(white)
