//! HEIC and AVIF. The container is read here; its coded pictures are decoded by libheif, one by
//! one (`heif.cc` says why).
//!
//! A picture is one coded item or a grid of them, its transparency another such. `clap`, `irot` and
//! `imir` apply in the order in which the file lists them; an EXIF orientation repeats them, so it
//! is not looked at. Thumbnails, depths, gain maps and the like are not decoded.

use std::borrow::Cow;

use super::work::{Layout, Source, Work, system_has};
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
mod turn;

use container::Item;
use items::Shown;
use planes::Planes;
use read::Bytes;
use turn::Turn;

/// What is wrong with a file, which the error will name.
#[derive(Debug)]
enum Fault {
    Damaged(Cow<'static, str>),
    Unsupported(Cow<'static, str>),
    TooLarge(ImageError),
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
            Fault::TooLarge(error) => error,
        }
    }
}

/// What a coded picture states of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    width: u32,
    height: u32,
    /// The size before the decoder crops it.
    coded_width: u32,
    coded_height: u32,
    chroma: Chroma,
    /// Bits of a sample.
    depth: u32,
    colours: Colours,
}

/// How many samples of colour there are for each of brightness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chroma {
    None,
    Quarter,
    Half,
    Full,
}

/// Colours by their numbers in ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Colours {
    primaries: u16,
    transfer: u16,
    matrix: u16,
    /// Black is 0 and white the largest sample; otherwise 16 and 235, or their like.
    full_range: bool,
}

impl Colours {
    const UNKNOWN: Colours = Colours {
        primaries: 2,
        transfer: 2,
        matrix: 2,
        full_range: false,
    };

    /// Red, green and blue as they are, or brightness in place of green.
    const PLAIN: Colours = Colours {
        primaries: 1,
        transfer: 13,
        matrix: 0,
        full_range: true,
    };

    /// Of the first `colr` that states them (ISO/IEC 14496-12, 12.1.5).
    fn of(item: &Item<'_>) -> Result<Option<Self>, Fault> {
        let colr = item
            .properties
            .iter()
            .filter(|property| property.name == *b"colr");
        let mut nclx = colr.filter_map(|property| property.content.strip_prefix(b"nclx"));
        let Some(content) = nclx.next() else {
            return Ok(None);
        };
        let mut rest = Bytes(content);
        Ok(Some(Colours {
            primaries: rest.u16()?,
            transfer: rest.u16()?,
            matrix: rest.u16()?,
            full_range: rest.u8()? & 0x80 != 0,
        }))
    }

    /// Whether red, green and blue can be had of them as they should. The other matrices are such
    /// as libheif takes for one of these.
    fn check(&self, chroma: Chroma) -> Result<(), Fault> {
        match self.matrix {
            _ if chroma == Chroma::None => Ok(()),
            0 if chroma == Chroma::Full => Ok(()),
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
    /// Content of the box that configures the decoder.
    configuration: &'a [u8],
    data: Cow<'a, [u8]>,
    format: Format,
    /// The colours that libheif is told.
    shown_as: Colours,
    /// Of what libheif returns: whether black is 16 rather than 0.
    limited_range: bool,
}

/// A coded picture, or several of one size side by side.
struct Grid<'a> {
    width: u32,
    height: u32,
    columns: u32,
    tile_width: u32,
    tile_height: u32,
    /// Row by row.
    tiles: Vec<Coded<'a>>,
}

/// A HEIF file whose items were read.
pub(super) struct Heif<'a> {
    name: &'static str,
    shown: Shown<'a>,
}

impl<'a> Heif<'a> {
    /// Reads a file that its brands call `name`.
    ///
    /// # Errors
    /// A container or coded pictures that are cut short or contradict themselves; kinds that are
    /// not read; a size that no picture can have.
    pub fn open(bytes: &'a [u8], name: &'static str) -> Result<Self, ImageError> {
        // Items in several pieces are copied together, and parameter sets without what hides start codes in
        // them: no more than the file, each.
        if !system_has(3 * bytes.len() as u64 + (1 << 20)) {
            return Err(ImageError::OutOfMemory {
                width: 0,
                height: 0,
            });
        }
        let shown = Shown::read(bytes).map_err(|fault| fault.error(name))?;
        Ok(Heif { name, shown })
    }

    /// Memory that decoding takes at once, beside the picture in RGB.
    fn memory(&self) -> u64 {
        let grids = std::iter::once(&self.shown.colour).chain(&self.shown.alpha);
        let tiles = grids.flat_map(|grid| &grid.tiles);
        let copied = |tile: &Coded<'_>| match &tile.data {
            Cow::Owned(data) => data.len() as u64,
            Cow::Borrowed(_) => 0,
        };
        // What items in several pieces were copied together for, and one tile at a time.
        let held: u64 = tiles.clone().map(copied).sum();
        held + tiles.map(Coded::memory).max().unwrap_or(0)
    }
}

impl Source for Heif<'_> {
    fn layout(&self) -> Layout {
        let turn = &self.shown.turn;
        Layout {
            width: turn.width(),
            height: turn.height(),
            orientation: turn.orientation(),
        }
    }

    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let Shown {
            colour,
            alpha,
            premultiplied,
            turn,
        } = &self.shown;
        work.take(self.memory())?;
        let mut image = work.canvas(turn.width(), turn.height())?;
        work.confirm()?;
        colour.decode(self.name, turn, work, &mut image, Planes::write_colours)?;
        if let Some(alpha) = alpha {
            let write = if *premultiplied {
                Planes::write_rest
            } else {
                Planes::write_on_white
            };
            alpha.decode(self.name, turn, work, &mut image, write)?;
        }
        Ok(image)
    }
}

impl<'a> Grid<'a> {
    fn of_one(coded: Coded<'a>) -> Self {
        let Format { width, height, .. } = coded.format;
        Grid {
            width,
            height,
            columns: 1,
            tile_width: width,
            tile_height: height,
            tiles: vec![coded],
        }
    }

    /// A grid of tiles, of which there is at least one, in rows of `columns`.
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
            return Err(Fault::damaged("its tiles are of several sizes"));
        }
        if u64::from(tile_width) * u64::from(columns) < u64::from(width)
            || u64::from(tile_height) * rows < u64::from(height)
        {
            return Err(Fault::damaged("its tiles do not cover it"));
        }
        Ok(Grid {
            width,
            height,
            columns,
            tile_width,
            tile_height,
            tiles,
        })
    }

    /// Decodes tile by tile, and has `write` put each row that is seen where it belongs: of the
    /// planes the row `y` from the column `x` on.
    fn decode(
        &self,
        name: &'static str,
        turn: &Turn,
        work: &Work<'_>,
        image: &mut RgbImage,
        write: impl Fn(&Planes, u32, u32, &mut [[u8; 3]]),
    ) -> Result<(), ImageError> {
        let row = image.width() as usize;
        let pixels = image.pixels.as_chunks_mut::<3>().0;
        for (tile, index) in self.tiles.iter().zip(0..) {
            let left = index % self.columns * self.tile_width;
            let top = index / self.columns * self.tile_height;
            let across = turn.columns(left, self.tile_width);
            let down = turn.rows(top, self.tile_height);
            if across.is_empty() || down.is_empty() {
                continue;
            }
            // libheif can't be interrupted within a tile.
            work.check_cancelled()?;
            let planes = Planes::decode(tile, name, work)?;
            for y in down {
                let start = (y - turn.top()) as usize * row + (across.start - turn.left()) as usize;
                let to = &mut pixels[start..start + across.len()];
                write(&planes, across.start - left, y - top, to);
            }
        }
        work.check_cancelled()
    }
}

impl Coded<'_> {
    /// Memory that decoding takes.
    fn memory(&self) -> u64 {
        let format = &self.format;
        let side = |side: u32| u64::from(side).next_multiple_of(128) + 128;
        let area = side(format.coded_width).saturating_mul(side(format.coded_height));
        let sample = if format.depth > 8 { 2 } else { 1 };
        // Halves of samples for a pixel: coded ones, and what libheif makes of them.
        let (coded, made) = match format.chroma {
            Chroma::None => (2, 2),
            Chroma::Quarter => (3, 6),
            Chroma::Half => (4, 6),
            Chroma::Full => (6, 6),
        };
        // The decoder has the picture and a copy after its filters, libheif another copy. Beside
        // the samples the decoder keeps what it knows of each block: aom so much of the smallest.
        let samples = area.saturating_mul(sample * (3 * coded + made)) / 2;
        let blocks = match self.codec {
            Codec::Hevc => 2 * area,
            Codec::Av1 => 12 * area,
        };
        // The coded data are copied into a file, out of it, and into the decoder.
        samples + blocks + 5 * self.data.len() as u64 + (16 << 20)
    }
}
