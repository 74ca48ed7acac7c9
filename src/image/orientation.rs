//! The orientation of a picture (EXIF tag 0x0112), and rotating and mirroring it upright.

use image::metadata::Orientation;

use super::decoding::Work;
use super::{ImageError, RgbImage};

/// Side of the squares in which a picture is transposed, so that the rows that are read and the rows
/// that are written stay in the processor's cache.
const SQUARE: usize = 32;

/// The orientation that an EXIF block states. The block may have the prefix `Exif\0\0`, which belongs
/// to JPEG but which some writers of WebP and PNG keep. An EXIF block that cannot be read counts as
/// upright, since the pixels can be intact.
pub(super) fn of_exif(exif: &[u8]) -> Orientation {
    let mut exif = exif;
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms)
}

/// Whether the orientation swaps width and height.
pub(super) fn swaps_sides(orientation: Orientation) -> bool {
    match orientation {
        Orientation::NoTransforms
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical
        | Orientation::Rotate180 => false,
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => true,
    }
}

/// Rotates and mirrors the picture of a file so that it is upright.
pub(super) fn upright(
    mut image: RgbImage,
    orientation: Orientation,
    work: &mut Work<'_>,
) -> Result<RgbImage, ImageError> {
    // Whether to mirror left and right, and top and bottom. Sides are swapped first, and the result is mirrored.
    let (mirror_x, mirror_y) = match orientation {
        Orientation::NoTransforms | Orientation::Rotate90FlipH => (false, false),
        Orientation::FlipHorizontal | Orientation::Rotate90 => (true, false),
        Orientation::FlipVertical | Orientation::Rotate270 => (false, true),
        Orientation::Rotate180 | Orientation::Rotate270FlipH => (true, true),
    };
    if swaps_sides(orientation) {
        return transposed(&image, mirror_x, mirror_y, work);
    }
    if mirror_x {
        for row in image.rows_mut() {
            row.as_chunks_mut::<3>().0.reverse();
        }
    }
    if mirror_y {
        let row = 3 * image.width() as usize;
        let half = image.height() as usize / 2 * row;
        let (top, bottom) = image.pixels.split_at_mut(half);
        for (upper, lower) in top.chunks_exact_mut(row).zip(bottom.rchunks_exact_mut(row)) {
            upper.swap_with_slice(lower);
        }
    }
    Ok(image)
}

/// Swaps rows and columns. With `mirror_x` the first row becomes the last column; with `mirror_y` the
/// first column becomes the last row.
fn transposed(
    image: &RgbImage,
    mirror_x: bool,
    mirror_y: bool,
    work: &mut Work<'_>,
) -> Result<RgbImage, ImageError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut turned = work.canvas(image.height(), image.width())?;
    let from = image.pixels.as_chunks::<3>().0;
    let to = turned.pixels.as_chunks_mut::<3>().0;
    for top in (0..height).step_by(SQUARE) {
        work.check_cancelled()?;
        for left in (0..width).step_by(SQUARE) {
            for x in left..width.min(left + SQUARE) {
                let row = if mirror_y { width - 1 - x } else { x };
                for y in top..height.min(top + SQUARE) {
                    let column = if mirror_x { height - 1 - y } else { y };
                    to[row * height + column] = from[y * width + x];
                }
            }
        }
    }
    Ok(turned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::without_limits;

    /// The red samples of a picture, by row.
    fn rows(image: &RgbImage) -> Vec<Vec<u8>> {
        let row = 3 * image.width() as usize;
        image
            .pixels()
            .chunks(row)
            .map(|row| row.iter().step_by(3).copied().collect())
            .collect()
    }

    #[test]
    fn every_value_of_the_tag_is_applied() {
        // For each value of the tag (EXIF 2.32, table of tag 0x0112): the upright picture of a file
        // whose rows are 123 and 456.
        let expected: [&[&[u8]]; 8] = [
            &[&[1, 2, 3], &[4, 5, 6]],
            &[&[3, 2, 1], &[6, 5, 4]],
            &[&[6, 5, 4], &[3, 2, 1]],
            &[&[4, 5, 6], &[1, 2, 3]],
            &[&[1, 4], &[2, 5], &[3, 6]],
            &[&[4, 1], &[5, 2], &[6, 3]],
            &[&[6, 3], &[5, 2], &[4, 1]],
            &[&[3, 6], &[2, 5], &[1, 4]],
        ];
        let pixels: Vec<u8> = (1..=6).flat_map(|red| [red, 0, 0]).collect();
        let image = RgbImage::new(3, 2, pixels).unwrap();
        for (tag, expected) in (1..=8).zip(expected) {
            let orientation = Orientation::from_exif(tag).unwrap();
            let turned = without_limits(|work| upright(image.clone(), orientation, work)).unwrap();
            assert_eq!(rows(&turned), expected, "orientation {tag}");
            assert_eq!(
                swaps_sides(orientation),
                turned.width() == 2,
                "orientation {tag}"
            );
        }
    }

    /// Compares with the `image` crate; some sides are no multiple of [`SQUARE`].
    #[test]
    fn pictures_larger_than_a_square_are_oriented() {
        for (width, height) in [(67, 33), (1, 70), (64, 96)] {
            let pixels: Vec<u8> = (0..3 * width * height)
                .map(|i| (i * i % 251) as u8)
                .collect();
            let image = RgbImage::new(width, height, pixels.clone()).unwrap();
            for tag in 1..=8 {
                let orientation = Orientation::from_exif(tag).unwrap();
                let buffer = image::RgbImage::from_raw(width, height, pixels.clone()).unwrap();
                let mut expected = image::DynamicImage::ImageRgb8(buffer);
                expected.apply_orientation(orientation);
                let turned =
                    without_limits(|work| upright(image.clone(), orientation, work)).unwrap();
                assert_eq!(turned.width(), expected.width());
                assert_eq!(turned.pixels(), expected.as_bytes(), "orientation {tag}");
            }
        }
    }
}
