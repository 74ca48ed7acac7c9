//! Resizing like Pillow's `Image.resize(size, filter)`.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::decoding::{Work, without_limits};
use super::{ImageError, RgbImage, check_size};

/// The kernel of a convolution that resizes a picture. When the picture is made smaller, the kernel
/// is stretched by the scale (antialiasing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Pillow's `BILINEAR`: a triangle.
    Bilinear,
    /// Pillow's `BICUBIC`: the cubic kernel of Keys (1981) at a = -1/2, also known as Catmull-Rom.
    Bicubic,
}

/// Resizes as Pillow does. The two directions are separate passes, each rounded to 8 bits.
///
/// # Errors
/// A side is 0, the size is beyond the limits of [`RgbImage`], or memory is exhausted.
pub fn resize(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<RgbImage, ImageError> {
    without_limits(|work| resized(image, width, height, filter, work))
}

/// [`resize`] with [`Filter::Bicubic`].
pub fn resize_bicubic(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage, ImageError> {
    resize(image, width, height, Filter::Bicubic)
}

/// As [`resize`], with its memory counted in `work`.
pub(super) fn resized(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
    work: &mut Work<'_>,
) -> Result<RgbImage, ImageError> {
    check_size(width, height)?; // before the first pass, which may be expensive

    // The order of the passes changes the result where the first pass rounds or clips a sum. The
    // library alone would always do the vertical pass first. Pillow does the horizontal pass first,
    // except (since 13.0, found by experiment) if the height shrinks by more than twice as many
    // pixels as the width. With this order the intermediate picture is never larger than the
    // larger of the two pictures.
    let shrinks_by = |from: u32, to: u32| u64::from(from.saturating_sub(to));
    let down = shrinks_by(image.height(), height);
    let between = if down > 2 * shrinks_by(image.width(), width) {
        resample(image, image.width(), height, filter, work)?
    } else {
        resample(image, width, image.height(), filter, work)?
    };
    work.check_cancelled()?;
    resample(&between, width, height, filter, work)
}

/// One pass: one of the two sides is that of `image`. If both are, the result is a copy.
fn resample(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
    work: &mut Work<'_>,
) -> Result<RgbImage, ImageError> {
    let mut resampled = work.canvas(width, height)?;
    convolve(image, width, height, filter, &mut resampled.pixels).map_err(|error| {
        ImageError::Resize {
            width,
            height,
            reason: error.to_string(),
        }
    })?;
    Ok(resampled)
}

fn convolve(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
    pixels: &mut [u8],
) -> Result<(), Box<dyn std::error::Error>> {
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.pixels())?;
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, pixels)?;
    let kernel = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(kernel));
    Resizer::new().resize_typed(&source, &mut target, &options)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, value: impl Fn(u32, u32) -> u8) -> RgbImage {
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                pixels.extend([value(x, y), 0, 255]);
            }
        }
        RgbImage::new(width, height, pixels).unwrap()
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let original = image(7, 5, |x, y| (x * 31 + y * 17) as u8);
        assert_eq!(resize_bicubic(&original, 7, 5).unwrap(), original);
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let original = image(50, 3, |_, _| 77);
        for (width, height) in [(1, 1), (3, 50), (200, 200), (49, 3)] {
            assert_eq!(
                resize_bicubic(&original, width, height).unwrap(),
                image(width, height, |_, _| 77)
            );
        }
    }

    /// At twice the width, each new sample is 1/4 of a pixel away from the nearest old one, where the
    /// kernel is (-9, 111, 29, -3) / 128. The overshoot at an edge distinguishes it from other cubic
    /// kernels.
    #[test]
    fn the_kernel_is_keys_at_minus_one_half() {
        let edge = image(8, 1, |x, _| if x < 4 { 50 } else { 178 });
        let doubled = resize_bicubic(&edge, 16, 1).unwrap();
        let reds: Vec<u8> = doubled.pixels().iter().step_by(3).copied().collect();
        assert_eq!(
            reds,
            [
                50, 50, 50, 50, 50, 47, 41, 76, 152, 187, 181, 178, 178, 178, 178, 178
            ]
        );
    }

    /// At half the width, the stretched triangle has the weights (1, 3, 3, 1) / 8.
    #[test]
    fn the_bilinear_kernel_is_a_stretched_triangle() {
        let edge = image(8, 1, |x, _| if x < 4 { 40 } else { 200 });
        let halved = resize(&edge, 4, 1, Filter::Bilinear).unwrap();
        let reds: Vec<u8> = halved.pixels().iter().step_by(3).copied().collect();
        assert_eq!(reds, [40, 60, 180, 200]);
    }

    #[test]
    fn sizes_beyond_the_limits_are_refused() {
        let original = image(3, 60_000, |_, _| 0);
        for (width, height) in [
            (0, 5),
            (5, 0),
            (65_536, 1),
            (u32::MAX, u32::MAX),
            (65_535, 65_535),
        ] {
            assert!(
                resize_bicubic(&original, width, height).is_err(),
                "{width} x {height}"
            );
        }
        // With the horizontal pass first, the intermediate picture would have 65,535 x 60,000 pixels.
        assert!(resize_bicubic(&original, 65_535, 1).is_ok());
    }
}
