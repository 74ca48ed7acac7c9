//! Turning a picture the way it was taken (EXIF tag 0x0112).

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder};

use super::{ImageError, RgbImage};

/// The orientation which the file states. Metadata that cannot be read say nothing about the
/// pixels, so they count as none.
pub(super) fn stated(decoder: &mut impl ImageDecoder) -> Orientation {
    // TIFF has it as a tag of its own; the others as an EXIF block, before which some WebP and
    // PNG writers leave the prefix that belongs to JPEG.
    match decoder.exif_metadata() {
        Ok(Some(exif)) => {
            let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
            Orientation::from_exif_chunk(exif)
        }
        _ => decoder.orientation().ok(),
    }
    .unwrap_or(Orientation::NoTransforms)
}

/// Applies `orientation` to pixels as they lie in the file.
pub(super) fn upright(image: RgbImage, orientation: Orientation) -> Result<RgbImage, ImageError> {
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let RgbImage {
        width,
        height,
        pixels,
    } = image;
    let bytes = pixels.len();
    let buffer =
        image::RgbImage::from_raw(width, height, pixels).ok_or(ImageError::WrongLength {
            width,
            height,
            bytes,
        })?;
    let mut turned = DynamicImage::ImageRgb8(buffer);
    turned.apply_orientation(orientation);
    RgbImage::new(
        turned.width(),
        turned.height(),
        turned.into_rgb8().into_raw(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows a picture of distinct red values as rows of those values.
    fn rows(image: &RgbImage) -> Vec<Vec<u8>> {
        let row = 3 * image.width() as usize;
        image
            .pixels()
            .chunks(row)
            .map(|row| row.iter().step_by(3).copied().collect())
            .collect()
    }

    #[test]
    fn all_eight() {
        // Per value of the tag: how the 0th row and 0th column of the file look to a viewer
        // (EXIF 2.32, table of tag 0x0112), here as the upright picture of the rows 123, 456.
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
            let turned = upright(image.clone(), orientation).unwrap();
            assert_eq!(rows(&turned), expected, "orientation {tag}");
        }
    }
}
