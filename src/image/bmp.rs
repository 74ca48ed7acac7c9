//! BMP by the `image` crate.
//!
//! The `image` crate aborts the process if one of its allocations fails. The samples are read into a
//! buffer of this crate, whose allocation can fail with an error. What the decoder itself allocates (image
//! 0.25.10) is not counted: a palette of 2 kB, one row of palette indices, of at most
//! [`MAX_SIDE`](super::MAX_SIDE) bytes and their padding, and a run of 256 bytes. The crate's own limits do
//! not apply to BMP.

use std::error::Error as _;
use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::decoding::{PixelLayout, Source, Work};
use super::{CUT_SHORT, ImageError, RgbImage, rgb};

const FORMAT: &str = "BMP";

/// A BMP whose header has been read.
pub(super) struct Bmp<'a>(BmpDecoder<Cursor<&'a [u8]>>);

impl<'a> Bmp<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ImageError> {
        check_runs(bytes)?;
        BmpDecoder::new(Cursor::new(bytes))
            .map(Bmp)
            .map_err(from_library)
    }
}

impl Source for Bmp<'_> {
    fn layout(&self) -> PixelLayout {
        let (width, height) = self.0.dimensions();
        PixelLayout {
            width,
            height,
            orientation: Orientation::NoTransforms,
        }
    }

    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let (width, height) = self.0.dimensions();
        let color = self.0.color_type();
        let mut samples = work.bytes(self.0.total_bytes())?;
        self.0.read_image(&mut samples).map_err(from_library)?;
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
                // Screenshot tools leave the alpha channel at 0. Viewers show such a picture as opaque.
                let opaque = pixels.iter().all(|pixel| pixel[3] == 0);
                for (to, &[r, g, b, alpha]) in to.iter_mut().zip(pixels) {
                    *to = rgb::on_white([r, g, b], if opaque { 255 } else { alpha });
                }
            }
            _ => {
                return Err(ImageError::Unsupported {
                    what: format!("{FORMAT}, samples {color:?}"),
                });
            }
        }
        Ok(image)
    }
}

fn from_library(error: image::ImageError) -> ImageError {
    match error {
        // The decoder tries to allocate the palette, and returns this error if it cannot.
        image::ImageError::Limits(_) => ImageError::OutOfMemory {
            width: 0,
            height: 0,
        },
        image::ImageError::Unsupported(error) => {
            let variant = match error.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => feature,
                UnsupportedErrorKind::Color(color) => format!("samples {color:?}"),
                _ => error.to_string(),
            };
            ImageError::Unsupported {
                what: format!("{FORMAT}, {variant}"),
            }
        }
        // The source error says what is wrong; the outer error only repeats the format.
        image::ImageError::Decoding(error) => match error.source() {
            Some(cause) => malformed(cause.to_string()),
            None => malformed(error.to_string()),
        },
        image::ImageError::IoError(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => malformed(CUT_SHORT),
            _ => malformed(error.to_string()),
        },
        error => malformed(error.to_string()),
    }
}

fn malformed(reason: impl Into<String>) -> ImageError {
    ImageError::Malformed {
        format: FORMAT,
        reason: reason.into(),
    }
}

/// Checks that the runs of a BMP in RLE8 or RLE4 draw every pixel. Run-length coding allows pixels that
/// no run draws; the format does not say what they look like, and the decoder would make them black.
/// A file whose header cannot be read passes, since the decoder will refuse it.
///
/// Source: Microsoft, "Bitmap Compression".
///
/// # Errors
/// [`ImageError::Unsupported`] if runs skip pixels, [`ImageError::Malformed`] if the data end early.
fn check_runs(bytes: &[u8]) -> Result<(), ImageError> {
    let field = |at: usize| bytes.get(at..).and_then(u32_le);
    let (Some(pixels), Some(width), Some(height), Some(compression)) =
        (field(10), field(18), field(22), field(30))
    else {
        return Ok(());
    };
    let in_nibbles = match compression {
        // The header of OS/2 1.x is shorter than 40 bytes and has no field `compression`.
        _ if field(14).is_none_or(|length| length < 40) => return Ok(()),
        1 => false,
        2 => true,
        _ => return Ok(()),
    };
    let (width, height) = (u64::from(width), u64::from(height));
    let mut data = usize::try_from(pixels)
        .ok()
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default();
    let left_out = || ImageError::Unsupported {
        what: "BMP, run-length coding that leaves pixels out".into(),
    };
    // The position of the next pixel: column `x` of row `y`, counted from 0.
    let (mut x, mut y) = (0, 0);
    while let Some((&[count, value], rest)) = data.split_first_chunk() {
        data = rest;
        match (count, value) {
            (0, 0) if x < width => return Err(left_out()),
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => return Err(left_out()),
            (0, literal) => {
                x += u64::from(literal);
                let literal = usize::from(literal);
                let bytes = if in_nibbles {
                    literal.div_ceil(2)
                } else {
                    literal
                };
                data = data.get(bytes.next_multiple_of(2)..).unwrap_or_default();
            }
            (run, _) => x += u64::from(run),
        }
    }
    if y + u64::from(x >= width) < height {
        return Err(malformed(CUT_SHORT));
    }
    Ok(())
}

fn u32_le(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&four| u32::from_le_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_length_coded_bmp_draws_every_pixel() {
        // 3 × 2 pixels.
        let bmp = |compression: u8, runs: &[u8]| {
            let mut file = vec![0; 54];
            file[10] = 54;
            file[14] = 40;
            file[18] = 3;
            file[22] = 2;
            file[30] = compression;
            file.extend(runs);
            check_runs(&file)
        };
        let row = [0, 3, 7, 8, 9, 0];
        assert_eq!(bmp(1, &[3, 7, 0, 0, 1, 5, 2, 6, 0, 0, 0, 1]), Ok(()));
        assert_eq!(bmp(1, &[3, 7, 0, 0, 3, 5, 0, 1]), Ok(()));
        assert_eq!(bmp(1, &[3, 7, 0, 0, 3, 5]), Ok(()));
        assert_eq!(bmp(1, &[&row[..], &[0, 0], &row].concat()), Ok(()));
        assert_eq!(bmp(2, &[0, 3, 0x78, 0x90, 0, 0, 3, 0x55, 0, 1]), Ok(()));
        assert_eq!(bmp(0, &[]), Ok(()));
        // The longest literal, of 255 pixels: its bytes are not taken for runs.
        let longest = [&[0, 255][..], &[0; 256], &[0, 0, 3, 5]].concat();
        assert_eq!(bmp(1, &longest), Ok(()));

        let cut = |result| matches!(result, Err(ImageError::Malformed { .. }));
        assert!(cut(bmp(1, &[])));
        assert!(cut(bmp(1, &[3, 7, 0, 1])));
        assert!(cut(bmp(1, &[3, 7, 0, 0, 2, 5, 0, 1])));
        assert!(cut(bmp(1, &[3, 7, 0, 0, 3])));
        assert!(cut(bmp(2, &[0, 3, 0x78, 0x90, 0, 0])));

        let unsupported = |result| matches!(result, Err(ImageError::Unsupported { .. }));
        assert!(unsupported(bmp(1, &[2, 7, 0, 0, 3, 5, 0, 1])));
        assert!(unsupported(bmp(1, &[3, 7, 0, 2, 1, 1, 0, 1])));
        // A header that is cut short passes: the decoder refuses it.
        for length in 0..34 {
            assert_eq!(check_runs(&vec![1; length]), Ok(()));
        }
    }
}
