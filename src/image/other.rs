//! BMP and WebP (its first picture) by the `image` crate.
//!
//! Unlike our own, the memory of this crate is taken without a way to fail: where the system has
//! none left although the limit allowed it, the process aborts.

use std::error::Error as _;
use std::io::Cursor;

use image::codecs::{bmp, webp};
use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::work::{Layout, Source, Work};
use super::{ImageError, RgbImage, intact, orientation, rgb};

/// Memory that a decoder may take besides the picture: tables, colour profiles.
const WORKING_MEMORY: u64 = 64 << 20;

pub(super) fn bmp(bytes: &[u8]) -> Result<Box<dyn Source + '_>, ImageError> {
    intact::check_bmp(bytes)?;
    boxed("BMP", bmp::BmpDecoder::new(Cursor::new(bytes)), |_| 0)
}

pub(super) fn webp(bytes: &[u8]) -> Result<Box<dyn Source + '_>, ImageError> {
    let frame = intact::check_webp(bytes)?;
    // And the canvas of an animation.
    let own = |pixels| frame + 4 * pixels;
    boxed("WebP", webp::WebPDecoder::new(Cursor::new(bytes)), own)
}

/// `own`: bytes that the decoder holds beside the samples that it returns, for so many pixels.
fn boxed<'a, D: ImageDecoder + 'a>(
    format: &'static str,
    decoder: Result<D, image::ImageError>,
    own: impl Fn(u64) -> u64,
) -> Result<Box<dyn Source + 'a>, ImageError> {
    let mut decoder = decoder.map_err(|error| from_library(format, error))?;
    let orientation = match decoder.exif_metadata() {
        Ok(Some(exif)) => orientation::of_exif(&exif),
        _ => Orientation::NoTransforms,
    };
    let (width, height) = decoder.dimensions();
    Ok(Box::new(Other {
        format,
        own: own(u64::from(width) * u64::from(height)),
        decoder,
        orientation,
    }))
}

struct Other<D> {
    format: &'static str,
    decoder: D,
    orientation: Orientation,
    /// Bytes that the decoder holds beside the samples that it returns.
    own: u64,
}

impl<D: ImageDecoder> Source for Other<D> {
    fn layout(&self) -> Layout {
        let (width, height) = self.decoder.dimensions();
        Layout {
            width,
            height,
            orientation: self.orientation,
        }
    }

    fn decode(mut self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let fail = |error| from_library(self.format, error);
        let (width, height) = self.decoder.dimensions();
        let color = self.decoder.color_type();
        let length = self.decoder.total_bytes();
        work.take(self.own)?;
        let mut memory = image::Limits::no_limits();
        memory.max_alloc = Some(
            length
                .saturating_add(self.own)
                .saturating_add(WORKING_MEMORY),
        );
        self.decoder.set_limits(memory).map_err(fail)?;
        let mut samples = work.bytes(length)?;
        self.decoder.read_image(&mut samples).map_err(fail)?;
        if color == ColorType::Rgb8 {
            return RgbImage::new(width, height, samples);
        }
        let mut image = work.canvas(width, height)?;
        let to = image.pixels.as_chunks_mut::<3>().0;
        match color {
            ColorType::L8 => {
                for (to, &grey) in to.iter_mut().zip(&samples) {
                    *to = [grey; 3];
                }
            }
            ColorType::Rgba8 => {
                let pixels = samples.as_chunks::<4>().0;
                // Tools that take screenshots leave the alpha channel of a BMP empty. Every viewer
                // shows such a picture, so it is not transparent.
                let opaque = self.format == "BMP" && pixels.iter().all(|pixel| pixel[3] == 0);
                for (to, &[r, g, b, alpha]) in to.iter_mut().zip(pixels) {
                    *to = rgb::on_white([r, g, b], if opaque { 255 } else { alpha });
                }
            }
            _ => {
                return Err(ImageError::Unsupported {
                    what: format!("{}, samples {color:?}", self.format),
                });
            }
        }
        Ok(image)
    }
}

fn from_library(format: &'static str, error: image::ImageError) -> ImageError {
    let malformed = |reason: String| ImageError::Malformed { format, reason };
    match error {
        image::ImageError::Limits(_) => {
            malformed("it takes more memory than its size allows".into())
        }
        image::ImageError::Unsupported(error) => {
            let variant = match error.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => feature,
                UnsupportedErrorKind::Color(color) => format!("samples {color:?}"),
                _ => error.to_string(),
            };
            ImageError::Unsupported {
                what: format!("{format}, {variant}"),
            }
        }
        // The cause says what is wrong; the wrapper says again which format it is.
        image::ImageError::Decoding(error) => match error.source() {
            Some(cause) => malformed(cause.to_string()),
            None => malformed(error.to_string()),
        },
        image::ImageError::IoError(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => malformed(intact::CUT_SHORT.into()),
            _ => malformed(error.to_string()),
        },
        error => malformed(error.to_string()),
    }
}
