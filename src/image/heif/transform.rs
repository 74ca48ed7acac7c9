//! Cropping, rotation and mirroring by the properties of an item (ISO/IEC 23008-12, 6.5.9 to 6.5.12).

use std::ops::Range;

use image::metadata::Orientation;

use super::Fault;
use super::container::{ContainerItem, Property};
use super::read::ByteReader;

/// The crop and the orientation of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transform {
    columns: Range<u32>,
    rows: Range<u32>,
    /// Whether left and right are swapped. This happens before the rotation.
    mirrored: bool,
    /// Quarter turns counterclockwise, 0 to 3.
    quarters: u8,
}

/// The properties of an item that crop, rotate or mirror it, in the order of the file.
pub(super) fn transformations<'a>(item: &ContainerItem<'a>) -> Vec<Property<'a>> {
    let all = item.properties.iter().copied();
    all.filter(|property| matches!(&property.name, b"clap" | b"irot" | b"imir"))
        .collect()
}

impl Transform {
    /// Applies `transformations` to a picture of this size.
    pub fn new(width: u32, height: u32, transformations: &[Property<'_>]) -> Result<Self, Fault> {
        let mut transform = Transform {
            columns: 0..width,
            rows: 0..height,
            mirrored: false,
            quarters: 0,
        };
        for property in transformations {
            let mut content = ByteReader(property.content);
            match &property.name {
                b"irot" => transform.rotate(content.u8()? & 3),
                b"imir" => transform.mirror(content.u8()? & 1 == 1),
                _ => transform.crop(content)?,
            }
        }
        Ok(transform)
    }

    fn rotate(&mut self, quarters: u8) {
        self.quarters = (self.quarters + quarters) % 4;
    }

    /// Swaps left and right (`sideways`) or top and bottom after the rotation so far. Mirroring after a
    /// rotation equals mirroring before the opposite rotation. Swapping top and bottom equals swapping
    /// left and right and a half turn.
    fn mirror(&mut self, sideways: bool) {
        self.mirrored = !self.mirrored;
        self.quarters = (4 - self.quarters + if sideways { 0 } else { 2 }) % 4;
    }

    /// Crops to a clean aperture, which is stated by its size and its centre. If its edges cut pixels
    /// in half, it is moved by half a pixel, to the left and down, as in libheif.
    fn crop(&mut self, mut content: ByteReader<'_>) -> Result<(), Fault> {
        if self.mirrored || self.quarters != 0 {
            return Err(Fault::unsupported("cropped after a rotation or mirroring"));
        }
        let mut fraction = |signed: bool| -> Result<(i128, i128), Fault> {
            let over = content.u32()?;
            let over = if signed {
                i128::from(over.cast_signed())
            } else {
                i128::from(over)
            };
            match content.u32()? {
                0 => Err(Fault::damaged("its clean aperture has a denominator of 0")),
                under => Ok((over, i128::from(under))),
            }
        };
        let (width, height) = (fraction(false)?, fraction(false)?);
        let (across, down) = (fraction(true)?, fraction(true)?);
        self.columns = aperture(&self.columns, width, across, false)?;
        self.rows = aperture(&self.rows, height, down, true)?;
        Ok(())
    }

    pub fn left(&self) -> u32 {
        self.columns.start
    }

    pub fn top(&self) -> u32 {
        self.rows.start
    }

    /// The width after the crop and before the rotation.
    pub fn width(&self) -> u32 {
        self.columns.end - self.columns.start
    }

    /// The height after the crop and before the rotation.
    pub fn height(&self) -> u32 {
        self.rows.end - self.rows.start
    }

    /// Those of the columns from `first` to `first + count` that are inside the crop.
    pub fn columns(&self, first: u32, count: u32) -> Range<u32> {
        first.max(self.columns.start)..first.saturating_add(count).min(self.columns.end)
    }

    /// Those of the rows from `first` to `first + count` that are inside the crop.
    pub fn rows(&self, first: u32, count: u32) -> Range<u32> {
        first.max(self.rows.start)..first.saturating_add(count).min(self.rows.end)
    }

    pub fn orientation(&self) -> Orientation {
        match (self.mirrored, self.quarters) {
            (false, 0) => Orientation::NoTransforms,
            (false, 1) => Orientation::Rotate270,
            (false, 2) => Orientation::Rotate180,
            (false, _) => Orientation::Rotate90,
            (true, 0) => Orientation::FlipHorizontal,
            (true, 1) => Orientation::Rotate90FlipH,
            (true, 2) => Orientation::FlipVertical,
            (true, _) => Orientation::Rotate270FlipH,
        }
    }
}

/// The part of `range` with this size whose centre is `offset` away from the centre of `range`. Both
/// numbers are fractions. A start between two pixels is rounded down or, with `half_up`, to the nearest, halves up.
fn aperture(
    range: &Range<u32>,
    (size, size_under): (i128, i128),
    (offset, offset_under): (i128, i128),
    half_up: bool,
) -> Result<Range<u32>, Fault> {
    let whole = i128::from(range.end - range.start);
    // offset + (whole - 1) / 2 - (size - 1) / 2
    let under = 2 * offset_under * size_under;
    let over = 2 * offset * size_under + whole * offset_under * size_under - size * offset_under;
    let first = (over + if half_up { under / 2 } else { 0 }).div_euclid(under);
    let end = first + (2 * size + size_under).div_euclid(2 * size_under);
    if first < 0 || first >= end || end > whole {
        return Err(Fault::damaged(
            "its clean aperture is empty or extends beyond the picture",
        ));
    }
    // Checked above: `first` and `end` are within 0..=`whole`.
    Ok(range.start + first as u32..range.start + end as u32)
}
