//! HEIC and AVIF. This module reads the container; libheif decodes its coded pictures one by one, for
//! the reasons that `heif.cc` states.
//!
//! A picture is one coded item or a grid of them. Its transparency is another item or grid. The
//! properties `clap`, `irot` and `imir` apply in the order in which the file lists them. EXIF is
//! ignored, because its orientation only repeats those properties. Thumbnails, depth maps, gain maps
//! and other auxiliary pictures are not decoded.

use std::borrow::Cow;

use super::decoding::{PixelLayout, Source, Work, system_has};
use super::{ImageError, RgbImage};

mod av1;
mod container;
mod hevc;
mod items;
mod planes;
mod read;
mod single;
#[cfg(test)]
mod tests;
mod transform;

use container::ContainerItem;
use items::PrimaryPicture;
use planes::Planes;
use read::ByteReader;
use transform::Transform;

/// An error in a file, without the name of its format, which [`Self::error`] adds.
#[derive(Debug)]
enum Fault {
    Damaged(Cow<'static, str>),
    Unsupported(Cow<'static, str>),
    /// The size is beyond the limits of [`RgbImage`].
    Size(ImageError),
}

impl Fault {
    fn damaged(reason: impl Into<Cow<'static, str>>) -> Self {
        Fault::Damaged(reason.into())
    }

    fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Fault::Unsupported(what.into())
    }

    fn cut_short() -> Self {
        Fault::damaged(super::CUT_SHORT)
    }

    fn error(self, format: &'static str) -> ImageError {
        match self {
            Fault::Damaged(reason) => ImageError::Malformed {
                format,
                reason: reason.into_owned(),
            },
            Fault::Unsupported(what) => ImageError::Unsupported {
                what: format!("{format}, {what}"),
            },
            Fault::Size(error) => error,
        }
    }
}

/// The format of a coded picture, as the coded data state it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CodedFormat {
    width: u32,
    height: u32,
    /// The size before the decoder crops the picture.
    coded_width: u32,
    coded_height: u32,
    chroma: ChromaFormat,
    /// Bits of a sample.
    depth: u32,
    colours: Colours,
}

/// Chroma subsampling: the resolution of chroma in relation to luma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChromaFormat {
    /// No chroma: monochrome, 4:0:0.
    None,
    /// 4:2:0.
    Quarter,
    /// 4:2:2.
    Half,
    /// 4:4:4.
    Full,
}

/// A description of colours, by the code points of ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Colours {
    primaries: u16,
    transfer: u16,
    matrix: u16,
    /// Black is 0 and white is the largest sample. In the limited range they are 16 and 235 for 8
    /// bits, and multiples of these for more bits.
    full_range: bool,
}

impl Colours {
    const UNKNOWN: Colours = Colours {
        primaries: 2,
        transfer: 2,
        matrix: 2,
        full_range: false,
    };

    /// The identity matrix: the planes are green, blue and red, or the only plane takes the place of
    /// green.
    const IDENTITY: Colours = Colours {
        primaries: 1,
        transfer: 13,
        matrix: 0,
        full_range: true,
    };

    /// The colours in the first `colr` property of type `nclx` (ISO/IEC 14496-12, 12.1.5).
    fn of(item: &ContainerItem<'_>) -> Result<Option<Self>, Fault> {
        let colr = item
            .properties
            .iter()
            .filter(|property| property.name == *b"colr");
        let mut nclx = colr.filter_map(|property| property.content.strip_prefix(b"nclx"));
        let Some(content) = nclx.next() else {
            return Ok(None);
        };
        let mut rest = ByteReader(content);
        Ok(Some(Colours {
            primaries: rest.u16()?,
            transfer: rest.u16()?,
            matrix: rest.u16()?,
            full_range: rest.u8()? & 0x80 != 0,
        }))
    }

    /// Refuses matrices that libheif would convert to RGB with the coefficients of another matrix.
    fn check(&self, chroma: ChromaFormat) -> Result<(), Fault> {
        match self.matrix {
            _ if chroma == ChromaFormat::None => Ok(()),
            0 if chroma == ChromaFormat::Full => Ok(()),
            1 | 2 | 4 | 5 | 6 | 7 | 9 => Ok(()),
            12 if matches!(self.primaries, 1 | 4..=9 | 11 | 12 | 22) => Ok(()),
            matrix => Err(Fault::unsupported(format!(
                "with the colour matrix {matrix}"
            ))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Hevc,
    Av1,
}

/// A coded picture.
struct Coded<'a> {
    codec: Codec,
    /// The content of the decoder configuration box, `hvcC` or `av1C`.
    configuration: &'a [u8],
    data: Cow<'a, [u8]>,
    format: CodedFormat,
    /// The colours that [`single::file`] states to libheif.
    shown_as: Colours,
    /// Whether the samples that libheif returns are in the limited range.
    limited_range: bool,
}

/// A picture made of tiles of one size, or of a single tile.
struct TileGrid<'a> {
    width: u32,
    height: u32,
    columns: u32,
    tile_width: u32,
    tile_height: u32,
    /// The tiles, row by row.
    tiles: Vec<Coded<'a>>,
}

/// A HEIF file whose items have been read.
pub(super) struct Heif<'a> {
    name: &'static str,
    primary: PrimaryPicture<'a>,
}

impl<'a> Heif<'a> {
    /// Reads a file whose brands state the format `name`.
    ///
    /// # Errors
    /// The container or a coded picture is cut short or inconsistent, a variant is not read, or the
    /// size is beyond the limits of [`RgbImage`].
    pub fn open(bytes: &'a [u8], name: &'static str) -> Result<Self, ImageError> {
        // Reading copies items that are stored in several extents. All copies together are at most as long
        // as the file, and a vector that grows takes up to three times its length.
        if !system_has(3 * bytes.len() as u64 + (1 << 20)) {
            return Err(ImageError::OutOfMemory {
                width: 0,
                height: 0,
            });
        }
        let primary = PrimaryPicture::read(bytes).map_err(|fault| fault.error(name))?;
        Ok(Heif { name, primary })
    }

    /// The memory in bytes that decoding takes at any one time, without the picture in RGB.
    fn memory(&self) -> u64 {
        let grids = std::iter::once(&self.primary.colour).chain(&self.primary.alpha);
        let tiles = grids.flat_map(|grid| &grid.tiles);
        let copied = |tile: &Coded<'_>| match &tile.data {
            Cow::Owned(data) => data.len() as u64,
            Cow::Borrowed(_) => 0,
        };
        // The copies of items stored in several extents, and one tile at a time.
        let held: u64 = tiles.clone().map(copied).sum();
        held + tiles.map(Coded::memory).max().unwrap_or(0)
    }
}

impl Source for Heif<'_> {
    fn layout(&self) -> PixelLayout {
        let transform = &self.primary.transform;
        PixelLayout {
            width: transform.width(),
            height: transform.height(),
            orientation: transform.orientation(),
        }
    }

    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let PrimaryPicture {
            colour,
            alpha,
            premultiplied,
            transform,
        } = &self.primary;
        work.take(self.memory())?;
        let mut image = work.canvas(transform.width(), transform.height())?;
        work.confirm()?;
        colour.decode(
            self.name,
            transform,
            work,
            &mut image,
            Planes::write_colours,
        )?;
        if let Some(alpha) = alpha {
            let write = if *premultiplied {
                Planes::write_premultiplied
            } else {
                Planes::write_on_white
            };
            alpha.decode(self.name, transform, work, &mut image, write)?;
        }
        Ok(image)
    }
}

impl<'a> TileGrid<'a> {
    fn of_one(coded: Coded<'a>) -> Self {
        let CodedFormat { width, height, .. } = coded.format;
        TileGrid {
            width,
            height,
            columns: 1,
            tile_width: width,
            tile_height: height,
            tiles: vec![coded],
        }
    }

    /// A grid of `tiles` in rows of `columns` tiles.
    fn of_tiles(
        width: u32,
        height: u32,
        columns: u32,
        tiles: Vec<Coded<'a>>,
    ) -> Result<Self, Fault> {
        let rows = tiles.len() as u64 / u64::from(columns);
        let mut sizes = tiles
            .iter()
            .map(|tile| (tile.format.width, tile.format.height));
        let missing = || Fault::damaged("tiles of the picture are missing");
        let (tile_width, tile_height) = sizes.next().ok_or_else(missing)?;
        if sizes.any(|size| size != (tile_width, tile_height)) {
            return Err(Fault::damaged("its tiles have different sizes"));
        }
        if u64::from(tile_width) * u64::from(columns) < u64::from(width)
            || u64::from(tile_height) * rows < u64::from(height)
        {
            return Err(Fault::damaged("its tiles do not cover the picture"));
        }
        Ok(TileGrid {
            width,
            height,
            columns,
            tile_width,
            tile_height,
            tiles,
        })
    }

    /// Decodes tile by tile into `image`. For each row of a tile that is inside the crop, calls
    /// `write(planes, x, y, to)`, which writes the row `y` of the tile, from its column `x` on, into
    /// the pixels `to`.
    fn decode(
        &self,
        name: &'static str,
        transform: &Transform,
        work: &Work<'_>,
        image: &mut RgbImage,
        write: impl Fn(&Planes, u32, u32, &mut [[u8; 3]]),
    ) -> Result<(), ImageError> {
        let row = image.width() as usize;
        let pixels = image.pixels.as_chunks_mut::<3>().0;
        for (tile, index) in self.tiles.iter().zip(0..) {
            let left = index % self.columns * self.tile_width;
            let top = index / self.columns * self.tile_height;
            let across = transform.columns(left, self.tile_width);
            let down = transform.rows(top, self.tile_height);
            if across.is_empty() || down.is_empty() {
                continue;
            }
            // libheif cannot be interrupted within a tile.
            work.check_cancelled()?;
            let planes = Planes::decode(tile, name, work)?;
            for y in down {
                let start = (y - transform.top()) as usize * row
                    + (across.start - transform.left()) as usize;
                let to = &mut pixels[start..start + across.len()];
                write(&planes, across.start - left, y - top, to);
            }
        }
        work.check_cancelled()
    }
}

impl Coded<'_> {
    /// The memory in bytes that libheif and its decoder take for this picture.
    fn memory(&self) -> u64 {
        let format = &self.format;
        let side = |side: u32| u64::from(side).next_multiple_of(128) + 128;
        let area = side(format.coded_width).saturating_mul(side(format.coded_height));
        let sample = if format.depth > 8 { 2 } else { 1 };
        // Twice the samples per pixel: of the coded picture, and of libheif's conversion of it.
        let (coded, made) = match format.chroma {
            ChromaFormat::None => (2, 2),
            ChromaFormat::Quarter => (3, 6),
            ChromaFormat::Half => (4, 6),
            ChromaFormat::Full => (6, 6),
        };
        // The decoder holds the picture and a filtered copy, libheif another copy. The decoder also
        // holds data about each block; aom holds them for the smallest block size.
        let samples = area.saturating_mul(sample * (3 * coded + made)) / 2;
        let blocks = match self.codec {
            Codec::Hevc => 2 * area,
            Codec::Av1 => 12 * area,
        };
        // Copies of the coded data: the units that decoding needs, the file for libheif, libheif's copy and
        // the decoder's; one that grows has spare room.
        samples + blocks + 5 * self.data.len() as u64 + (16 << 20)
    }
}
