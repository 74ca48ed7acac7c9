"""The judge: what Pillow makes of a file, as upright RGB on white.

Pillow's own `convert("RGB")` is not asked where it loses what a file says: it drops an alpha
channel, shows 16-bit grey as white, and takes the high byte of 16-bit colours. Transparency is laid
on white here; makers of files with 16 bits know the truth themselves.
"""

import contextlib
import io
import warnings

import numpy
import pillow_heif
from PIL import Image, ImageOps

# AVIF is judged by Pillow's own plugin.
pillow_heif.register_heif_opener()
# The tests' own files are small, whatever a damaged header says.
Image.MAX_IMAGE_PIXELS = 1 << 26


class PillowRefuses(Exception):
    pass


class PillowCannotJudge(Exception):
    pass


def turned(image, orientation):
    """Pillow's image turned by an EXIF orientation, as an array."""
    tagged = image.copy()
    tagged.getexif()[0x0112] = orientation
    return numpy.asarray(ImageOps.exif_transpose(tagged))


def opened(data, draft=None):
    """Pillow's image of a file, with its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if draft:
                image.draft("RGB", (image.width // draft, image.height // draft))
            image.load()
            return image
    except Exception as error:  # Pillow's plugins raise whatever their format leads to
        raise PillowRefuses(f"{type(error).__name__}: {error}") from error


def pixels(data, draft=None):
    """Upright RGB as an array. `draft` is what JPEG's sides are divided by while decoding."""
    image = opened(data, draft)
    if image.mode in ("I;16", "I;16B"):
        # Pillow's own conversion shows all but the darkest 256 levels as white.
        levels = ((numpy.asarray(image).astype(numpy.uint32) + 128) // 257).astype(numpy.uint8)
        image = Image.fromarray(levels)
    elif image.mode in ("I", "F"):
        raise PillowCannotJudge(f"samples of mode {image.mode} have no black and no white")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # EXIF that cannot be read says nothing about the pixels.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return numpy.asarray(image.convert("RGB"))
        rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return numpy.asarray(white)
