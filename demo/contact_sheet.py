"""Writes a contact sheet: headings with rows of pictures, some of them framed. The demo frames wrong matches in red and missing
photos in blue."""

from PIL import Image, ImageDraw, ImageOps

TILE = 72
MARGIN = 4
COLUMNS = 24
WRONG = (214, 40, 40)
MISSING = (40, 90, 214)
PAPER = (250, 250, 248)
INK = (60, 60, 60)
HEADING = 22


def tile(path, frame):
    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture).convert("RGB")
    picture.thumbnail((TILE, TILE))
    canvas = Image.new("RGB", (TILE + 2 * MARGIN, TILE + 2 * MARGIN), frame or PAPER)
    square = Image.new("RGB", (TILE, TILE), PAPER)
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    canvas.paste(square, (MARGIN, MARGIN))
    return canvas


def write(target, sections):
    """Writes the sheet. `sections`: (heading, [(path of the picture, frame colour or None), …]), …"""
    size = TILE + 2 * MARGIN
    rows = sum(-(-len(pictures) // COLUMNS) for _, pictures in sections)
    sheet = Image.new("RGB", (COLUMNS * size, rows * size + HEADING * len(sections)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for heading, pictures in sections:
        draw.text((MARGIN, top + 5), heading, fill=INK)
        top += HEADING
        for i, (path, frame) in enumerate(pictures):
            at = (i % COLUMNS * size, top + i // COLUMNS * size)
            sheet.paste(tile(path, frame), at)
        top += -(-len(pictures) // COLUMNS) * size
    sheet.save(target)
