//! Finds the coded pictures of a file's primary item: its tiles, its transparency, its orientation.

use std::collections::BTreeSet;

use super::container::{Container, ContainerItem, shown};
use super::read::ByteReader;
use super::transform::{self, Transform};
use super::{ChromaFormat, Codec, Coded, Colours, Fault, TileGrid, av1, hevc};
use crate::check_size;

/// The most tiles of a grid: the largest area of a picture, in tiles of 256 × 256 pixels.
const MAX_TILES: usize = 4096;

/// The types of auxiliary pictures that are transparency (ISO/IEC 23008-12, 23000-22).
const ALPHA: [&[u8]; 3] = [
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
    b"urn:mpeg:avc:2015:auxid:1",
];

/// The part that a coded picture has in the picture that is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Colour,
    Alpha,
}

/// The picture that a file shows.
pub(super) struct PrimaryPicture<'a> {
    pub colour: TileGrid<'a>,
    pub alpha: Option<TileGrid<'a>>,
    /// Whether the colours are premultiplied with the transparency.
    pub premultiplied: bool,
    pub transform: Transform,
}

impl<'a> PrimaryPicture<'a> {
    pub fn read(file: &'a [u8]) -> Result<Self, Fault> {
        let items = Items(Container::read(file)?);
        let mut id = items.0.primary();
        let mut transformations = Vec::new();
        let primary = items.0.item(id)?;
        if primary.kind == *b"iden" {
            // An identity derivation: another picture with additional transformations.
            check_essential(primary)?;
            if items.alpha_of(id)?.is_some() {
                return Err(Fault::unsupported("with transparency of a derived picture"));
            }
            transformations = transform::transformations(primary);
            id = match primary.references(b"dimg")[..] {
                [id] => id,
                _ => return Err(Fault::damaged("it is not derived from exactly one picture")),
            };
        }
        let item = items.0.item(id)?;
        let all = [transform::transformations(item), transformations].concat();
        let colour = items.grid(id, Role::Colour)?;
        let transform = Transform::new(colour.width, colour.height, &all)?;
        let (alpha, premultiplied) = match items.alpha(id, &colour)? {
            Some((alpha, premultiplied)) => (Some(alpha), premultiplied),
            None if !item.references(b"prem").is_empty() => {
                return Err(Fault::damaged("its transparency is missing"));
            }
            None => (None, false),
        };
        Ok(PrimaryPicture {
            colour,
            alpha,
            premultiplied,
            transform,
        })
    }
}

struct Items<'a>(Container<'a>);

impl<'a> Items<'a> {
    /// The coded pictures of an item.
    fn grid(&self, id: u32, role: Role) -> Result<TileGrid<'a>, Fault> {
        let item = self.0.item(id)?;
        if item.kind != *b"grid" {
            return Ok(TileGrid::of_one(self.coded(id, role, None)?));
        }
        check_essential(item)?;
        let (rows, columns, width, height) = grid_size(&self.0.data(item)?)?;
        check_stated_size(item, width, height)?;
        let ids = item.references(b"dimg");
        if ids.len() != rows as usize * columns as usize {
            return Err(Fault::damaged("tiles of the picture are missing"));
        }
        if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
            return Err(Fault::damaged("one of its tiles is used twice"));
        }
        if ids.len() > MAX_TILES {
            return Err(Fault::unsupported(format!(
                "in more than {MAX_TILES} tiles"
            )));
        }
        let colours = Colours::of(item)?;
        let of_grid = transform::transformations(item);
        let mut tiles = Vec::new();
        for id in ids {
            let tile = self.coded(id, role, colours)?;
            let of_tile = transform::transformations(self.0.item(id)?);
            // libavif's encoder repeats the grid's transformations in each tile, and its decoder
            // ignores them there.
            let repeated = tile.codec == Codec::Av1 && of_tile == of_grid;
            if !of_tile.is_empty() && !repeated {
                return Err(Fault::unsupported(
                    "in tiles with transformations of their own",
                ));
            }
            tiles.push(tile);
        }
        TileGrid::of_tiles(width, height, columns, tiles)
    }

    /// A coded picture. If it is a tile, `colours` are those that its grid states.
    fn coded(&self, id: u32, role: Role, colours: Option<Colours>) -> Result<Coded<'a>, Fault> {
        let item = self.0.item(id)?;
        let (codec, configuration) = match &item.kind {
            b"hvc1" => (Codec::Hevc, item.property(b"hvcC")),
            b"av01" => (Codec::Av1, item.property(b"av1C")),
            b"grid" | b"iden" | b"iovl" | b"tmap" => {
                let kind = shown(&item.kind);
                return Err(Fault::unsupported(format!(
                    "derived from other pictures ({kind})"
                )));
            }
            kind => return Err(Fault::unsupported(format!("coded as {}", shown(kind)))),
        };
        check_essential(item)?;
        let missing = || Fault::damaged("the configuration of its decoder is missing");
        let configuration = configuration.ok_or_else(missing)?;
        let data = self.0.data(item)?;
        let format = match codec {
            Codec::Hevc => hevc::format(configuration, &data)?,
            Codec::Av1 => av1::format(configuration, &data)?,
        };
        check_stated_size(item, format.width, format.height)?;
        if !matches!(format.depth, 8..=12) {
            return Err(Fault::unsupported(format!(
                "with samples of {} bits",
                format.depth
            )));
        }
        let stated = colours.or(Colours::of(item)?).unwrap_or(format.colours);
        let (shown_as, limited_range) = match role {
            Role::Colour => {
                stated.check(format.chroma)?;
                // libheif does not expand the limited range of grey, nor of the identity matrix, so
                // `Planes` does it.
                let unscaled = format.chroma == ChromaFormat::None || stated.matrix == 0;
                let shown_as = Colours {
                    full_range: stated.full_range || unscaled,
                    ..stated
                };
                (shown_as, unscaled && !stated.full_range)
            }
            // HEVC encoders do not state the range of transparency, and use the full one, although
            // the default is the limited range.
            Role::Alpha => (
                Colours::IDENTITY,
                codec == Codec::Av1 && !format.colours.full_range,
            ),
        };
        Ok(Coded {
            codec,
            configuration,
            data,
            format,
            shown_as,
            limited_range,
        })
    }

    /// The transparency of an item, or of each of its tiles, and whether the colours are premultiplied
    /// with it.
    fn alpha(&self, id: u32, colour: &TileGrid<'a>) -> Result<Option<(TileGrid<'a>, bool)>, Fault> {
        let item = self.0.item(id)?;
        if let Some(alpha) = self.alpha_of(id)? {
            self.check_transformations(alpha, item)?;
            // The tiles of transparency may have another size than those of the colours.
            let grid = self.grid(alpha, Role::Alpha)?;
            if (grid.width, grid.height) != (colour.width, colour.height) {
                return Err(Fault::unsupported("with transparency of another size"));
            }
            return Ok(Some((grid, item.references(b"prem").contains(&alpha))));
        }
        if item.kind != *b"grid" {
            return Ok(None);
        }
        let (mut tiles, mut premultiplied) = (Vec::new(), 0);
        let ids = item.references(b"dimg");
        for &id in &ids {
            let tile = self.0.item(id)?;
            if let Some(alpha) = self.alpha_of(id)? {
                self.check_transformations(alpha, tile)?;
                premultiplied += usize::from(tile.references(b"prem").contains(&alpha));
                tiles.push(self.coded(alpha, Role::Alpha, None)?);
            }
        }
        if tiles.is_empty() {
            return Ok(None);
        }
        if tiles.len() != ids.len() || ![0, ids.len()].contains(&premultiplied) {
            return Err(Fault::unsupported("with transparency in some tiles only"));
        }
        let grid = TileGrid::of_tiles(colour.width, colour.height, colour.columns, tiles)?;
        if (grid.tile_width, grid.tile_height) != (colour.tile_width, colour.tile_height) {
            return Err(Fault::unsupported("with transparency of another size"));
        }
        Ok(Some((grid, premultiplied > 0)))
    }

    /// Checks that transparency has no transformations, or the same as its picture. It is transformed
    /// with the picture, and some encoders state that for both.
    fn check_transformations(&self, alpha: u32, picture: &ContainerItem<'a>) -> Result<(), Fault> {
        let of_alpha = transform::transformations(self.0.item(alpha)?);
        if !of_alpha.is_empty() && of_alpha != transform::transformations(picture) {
            return Err(Fault::unsupported(
                "with different transformations of its transparency",
            ));
        }
        Ok(())
    }

    /// The item that is the transparency of the item `id`.
    fn alpha_of(&self, id: u32) -> Result<Option<u32>, Fault> {
        for by in self.0.referring(b"auxl", id) {
            let kind = self.0.item(by)?.property(b"auxC");
            let kind = kind.and_then(|kind| kind.get(4..)?.split(|&byte| byte == 0).next());
            let kind =
                kind.ok_or_else(|| Fault::damaged("the type of an auxiliary picture is missing"))?;
            if ALPHA.contains(&kind) {
                return Ok(Some(by));
            }
        }
        Ok(None)
    }
}

/// Refuses items with essential properties that are not known.
fn check_essential(item: &ContainerItem<'_>) -> Result<(), Fault> {
    for property in &item.properties {
        match &property.name {
            b"av1C" | b"auxC" | b"clap" | b"colr" | b"hvcC" | b"imir" | b"irot" | b"ispe"
            | b"pasp" | b"pixi" => {}
            // Properties that choose among layers. These values mean the default, which is to show the
            // best layer, as this crate does.
            b"a1op" if property.content == [0] => {}
            b"lsel" if property.content == [0xff, 0xff] => {}
            name if property.essential || matches!(name, b"a1op" | b"lsel" | b"iscl") => {
                return Err(Fault::unsupported(format!(
                    "with the property {}",
                    shown(name)
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that the size in an item's `ispe` is the size of its data. A grid states its size in its
/// data, so it may lack `ispe`.
fn check_stated_size(item: &ContainerItem<'_>, width: u32, height: u32) -> Result<(), Fault> {
    if let Err(error) = check_size(width, height) {
        return Err(Fault::Size(error));
    }
    let Some(ispe) = item.property(b"ispe") else {
        return match &item.kind {
            b"grid" => Ok(()),
            _ => Err(Fault::damaged("its size is missing")),
        };
    };
    let mut rest = ByteReader(ispe);
    rest.version()?;
    if (rest.u32()?, rest.u32()?) != (width, height) {
        return Err(Fault::damaged("its data have another size than it states"));
    }
    Ok(())
}

/// Reads the number of rows and columns, and the width and height, of a grid (ISO/IEC 23008-12,
/// 6.6.2.3).
fn grid_size(data: &[u8]) -> Result<(u32, u32, u32, u32), Fault> {
    let mut rest = ByteReader(data);
    rest.u8()?;
    let wide = rest.u8()? & 1 == 1;
    let (rows, columns) = (u32::from(rest.u8()?) + 1, u32::from(rest.u8()?) + 1);
    let mut side = || {
        if wide {
            rest.u32()
        } else {
            rest.u16().map(u32::from)
        }
    };
    Ok((rows, columns, side()?, side()?))
}
