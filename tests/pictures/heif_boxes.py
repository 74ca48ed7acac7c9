"""Makes HEIC and AVIF files that the installed encoders do not write, from files that they have written.

A HEIF file is a container of items. An item has data, properties, and references to other items. `read`
splits a file into its items, and `write` joins items to a file; neither reads the coded pictures. Two
functions use them:

- `rewrap` adds properties that crop, rotate and mirror a picture (in any order), code points of colours,
  EXIF with an orientation, transparency, or boxes with sizes of 64 bits;
- `grid` makes a picture from several tiles, as telephones do.

Standards: ISO/IEC 14496-12 (boxes, `iloc`, `iinf`, `iref`) and 23008-12 (everything else).
"""

import struct
from dataclasses import dataclass, field

ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


@dataclass
class Property:
    name: bytes
    content: bytes
    # A reader that does not know the property must not show the item.
    essential: bool = False


@dataclass
class Item:
    kind: bytes
    data: bytes
    properties: list[Property] = field(default_factory=list)
    # From the type of a reference to the IDs of the items that it refers to.
    references: dict[bytes, list[int]] = field(default_factory=dict)
    hidden: bool = False

    def find(self, name: bytes) -> Property | None:
        return next((found for found in self.properties if found.name == name), None)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in `ispe`, before any rotation."""
        return struct.unpack(">II", self.find(b"ispe").content[4:12])


@dataclass
class File:
    items: dict[int, Item]
    primary: int
    brand: bytes = b"heic"

    @property
    def picture(self) -> Item:
        return self.items[self.primary]


# Reading


def boxes(content: bytes):
    """Yields the names and contents of the boxes in `content`."""
    at = 0
    while at < len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, at + 8)
            header = 16
        elif size == 0:
            size = len(content) - at
        yield name, content[at + header : at + size]
        at += size


def child(content: bytes, name: bytes) -> bytes | None:
    return next((found for at, found in boxes(content) if at == name), None)


def read(file: bytes) -> File:
    """Splits a file into its items. Items other than pictures and grids, such as EXIF, are omitted."""
    meta = child(file, b"meta")[4:]
    (primary,) = struct.unpack_from(">H", child(meta, b"pitm"), 4)
    items = {}
    for _, infe in boxes(child(meta, b"iinf")[6:]):
        flags = infe[3]
        identifier, _, kind = struct.unpack_from(">HH4s", infe, 4)
        if kind in (b"hvc1", b"av01", b"grid"):
            items[identifier] = Item(kind, b"", hidden=bool(flags & 1))
    _read_locations(file, meta, items)
    _read_properties(child(meta, b"iprp"), items)
    for kind, content in boxes((child(meta, b"iref") or b"")[4:]):
        origin, count = struct.unpack_from(">HH", content)
        if origin in items:
            items[origin].references[kind] = list(struct.unpack_from(f">{count}H", content, 4))
    return File(items, primary, file[8:12])


def _read_locations(file: bytes, meta: bytes, items: dict[int, Item]):
    iloc = child(meta, b"iloc")
    version = iloc[0]
    assert version < 2, "encoders write item numbers of 16 bits"
    sizes, count = struct.unpack_from(">HH", iloc, 4)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    at = 8

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(iloc[at - size : at], "big")

    for _ in range(count):
        identifier = number(2)
        source = child(meta, b"idat") if version and number(2) == 1 else file
        number(2)
        base = number(base_size)
        data = b""
        for _ in range(number(2)):
            number(index_size)
            start = base + number(offset_size)
            data += source[start : start + number(length_size)]
        if identifier in items:
            items[identifier].data = data


def _read_properties(iprp: bytes, items: dict[int, Item]):
    properties = list(boxes(child(iprp, b"ipco")))
    ipma = child(iprp, b"ipma")
    assert ipma[0] == 0, "encoders write item numbers of 16 bits"
    wide = ipma[3] & 1
    (count,) = struct.unpack_from(">I", ipma, 4)
    at = 8
    for _ in range(count):
        identifier, associations = struct.unpack_from(">HB", ipma, at)
        at += 3
        for _ in range(associations):
            width = 2 if wide else 1
            value = int.from_bytes(ipma[at : at + width], "big")
            at += width
            essential, index = divmod(value, 0x8000 if wide else 0x80)
            if index and identifier in items:
                name, content = properties[index - 1]
                items[identifier].properties.append(Property(name, content, bool(essential)))


# Writing


def box(name: bytes, content: bytes, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
    return struct.pack(">I4s", len(content) + 8, name) + content


def full_box(name: bytes, content: bytes, version: int = 0, flags: int = 0, large: bool = False):
    return box(name, struct.pack(">I", version << 24 | flags) + content, large)


def write(file: File, *, large: bool = False) -> bytes:
    """Writes a file: the boxes that describe the items, then the data of all items.

    With `large`, the outermost boxes have sizes of 64 bits.
    """
    ftyp = box(b"ftyp", file.brand + bytes(4) + b"mif1" + file.brand)
    data = b"".join(item.data for item in file.items.values())
    # The data follow `meta`, whose length does not depend on the offset in it.
    start = len(ftyp) + len(_meta(file, 0, large)) + (16 if large else 8)
    return ftyp + _meta(file, start, large) + box(b"mdat", data, large)


def _meta(file: File, start: int, large: bool) -> bytes:
    infes, locations, associations, references = b"", b"", b"", b""
    properties: list[tuple[bytes, bytes]] = []
    for identifier, item in file.items.items():
        infe = struct.pack(">HH4s", identifier, 0, item.kind) + b"\0"
        infes += full_box(b"infe", infe, version=2, flags=int(item.hidden))
        locations += struct.pack(">HHHII", identifier, 0, 1, start, len(item.data))
        start += len(item.data)
        indices = b""
        for found in item.properties:
            key = (found.name, found.content)
            if key not in properties:
                properties.append(key)
            indices += struct.pack(">H", found.essential << 15 | properties.index(key) + 1)
        associations += struct.pack(">HB", identifier, len(item.properties)) + indices
        for kind, to in item.references.items():
            content = struct.pack(f">HH{len(to)}H", identifier, len(to), *to)
            references += box(kind, content)
    count = len(file.items)
    ipco = box(b"ipco", b"".join(box(name, content) for name, content in properties))
    ipma = full_box(b"ipma", struct.pack(">I", count) + associations, flags=1)
    content = full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
    content += full_box(b"pitm", struct.pack(">H", file.primary))
    content += full_box(b"iloc", struct.pack(">HH", 0x4400, count) + locations)
    content += full_box(b"iinf", struct.pack(">H", count) + infes)
    if references:
        content += full_box(b"iref", references)
    content += box(b"iprp", ipco + ipma)
    return full_box(b"meta", content, large=large)


# Properties


def clap(left: int, top: int, width: int, height: int, of: tuple[int, int]) -> Property:
    """Crops a picture of the size `of`. The property states the offset of the crop's centre from the
    picture's centre."""
    across, down = 2 * left + width - of[0], 2 * top + height - of[1]
    return Property(
        b"clap",
        struct.pack(">IIIIiIiI", width, 1, height, 1, across, 2, down, 2),
        essential=True,
    )


def irot(quarters: int) -> Property:
    """Rotates by `quarters` quarter turns counterclockwise."""
    return Property(b"irot", bytes([quarters]), essential=True)


def imir(axis: int) -> Property:
    """Swaps top and bottom (0) or left and right (1)."""
    return Property(b"imir", bytes([axis]), essential=True)


def nclx(primaries: int, transfer: int, matrix: int, full_range: bool) -> Property:
    """Colours by their code points in ITU-T H.273."""
    numbers = struct.pack(">HHHB", primaries, transfer, matrix, full_range << 7)
    return Property(b"colr", b"nclx" + numbers)


def exif(orientation: int) -> bytes:
    """The data of an EXIF item with an orientation."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return struct.pack(">I", 6) + b"Exif\0\0" + tiff


# Whole files


def rewrap(
    heic: bytes,
    *,
    transformations: list[Property] = (),
    colours: Property | None = None,
    orientation: int | None = None,
    alpha: bytes | None = None,
    premultiplied: bool = False,
    large: bool = False,
) -> bytes:
    """Writes the picture of `heic` to a new file.

    `transformations` are in the order in which they apply. `colours` replace the colours that the
    container states. `alpha` is another file, with a picture of the same size, whose luma is the
    transparency.
    """
    file = read(heic)
    if colours:
        for item in file.items.values():
            _replace_colours(item, colours)
    file.picture.properties += transformations
    if alpha is not None:
        _add_alpha(file, file.primary, alpha, premultiplied)
    if orientation is not None:
        _add_exif(file, orientation)
    return write(file, large=large)


def grid(
    tiles: list[bytes],
    columns: int,
    rows: int,
    width: int,
    height: int,
    *,
    transformations: list[Property] = (),
    tile_transformations: list[Property] = (),
    colours: Property | None = None,
    orientation: int | None = None,
    alpha: list[bytes] = (),
    wide: bool = False,
    large: bool = False,
) -> bytes:
    """Makes a picture from `columns` x `rows` tiles of the same size, row by row.

    The picture is cropped to `width` x `height`. `alpha` has a file for each tile, with its transparency.
    With `wide`, the grid states its size in 32 bits.
    """
    assert len(tiles) == columns * rows
    sides = struct.pack(">II" if wide else ">HH", width, height)
    data = bytes([0, int(wide), rows - 1, columns - 1]) + sides
    size = Property(b"ispe", bytes(4) + struct.pack(">II", width, height))
    picture = Item(b"grid", data, [size, *transformations])
    if colours:
        picture.properties.append(colours)
    file = File({1: picture}, 1, tiles[0][8:12])
    ids = []
    for tile in tiles:
        part = read(tile).picture
        assert part.kind != b"grid", "a tile must not be a grid"
        part.properties += tile_transformations
        ids.append(_add(file, part))
    picture.references[b"dimg"] = ids
    for identifier, tile in zip(ids, alpha):
        _add_alpha(file, identifier, tile, False)
    if orientation is not None:
        _add_exif(file, orientation)
    return write(file, large=large)


def _add(file: File, item: Item) -> int:
    identifier = max(file.items) + 1
    item.hidden = True
    file.items[identifier] = item
    return identifier


def _replace_colours(item: Item, colours: Property):
    if item.kind != b"grid":
        kept = [found for found in item.properties if found.name != b"colr"]
        item.properties = [*kept, colours]


def _add_alpha(file: File, of: int, alpha: bytes, premultiplied: bool):
    item = read(alpha).picture
    assert item.kind != b"grid", "transparency must not be a grid"
    item.properties.append(Property(b"auxC", bytes(4) + ALPHA))
    item.references[b"auxl"] = [of]
    identifier = _add(file, item)
    if premultiplied:
        file.items[of].references[b"prem"] = [identifier]


def _add_exif(file: File, orientation: int):
    item = Item(b"Exif", exif(orientation))
    item.references[b"cdsc"] = [file.primary]
    _add(file, item)
