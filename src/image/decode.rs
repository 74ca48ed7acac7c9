//! From the bytes of a file to upright RGB.

use std::error::Error as _;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::{bmp, gif, jpeg, png, tiff, webp};
use image::error::UnsupportedErrorKind;
use image::{ImageDecoder, ImageFormat};

use super::{ImageError, Limits, RgbImage, intact, orientation, rgb};

/// Memory that a decoder may take besides the picture: colour profiles, tables, one strip.
const WORKING_MEMORY: u64 = 64 << 20;

/// The reason given when a decoder panics.
pub(super) const PANICKED: &str = "the decoder failed";

/// Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF (the first picture of several), recognised by
/// its content.
///
/// # Errors
/// Whatever is over `limits`, in another format, cut short or damaged. Never panics.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes {
            bytes: bytes.len(),
            limit: limits.max_bytes,
        });
    }
    let format = Format::of(bytes)?;
    // The decoders are safe Rust, but they are large, and index their way through whatever a
    // stranger has uploaded: an overflow nobody has found yet would take down a database
    // session. They share nothing with us but `bytes`, so nothing is left half changed.
    catch_unwind(AssertUnwindSafe(|| format.decode(bytes, limits)))
        .unwrap_or_else(|_| Err(format.malformed(PANICKED)))
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Bmp,
    Gif,
    Jpeg,
    Png,
    Tiff,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        match image::guess_format(bytes) {
            Ok(ImageFormat::Bmp) => Ok(Format::Bmp),
            Ok(ImageFormat::Gif) => Ok(Format::Gif),
            Ok(ImageFormat::Jpeg) => Ok(Format::Jpeg),
            Ok(ImageFormat::Png) => Ok(Format::Png),
            Ok(ImageFormat::Tiff) => Ok(Format::Tiff),
            Ok(ImageFormat::WebP) => Ok(Format::WebP),
            _ => Err(ImageError::Unsupported {
                what: describe_unknown(bytes),
            }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Bmp => "BMP",
            Format::Gif => "GIF",
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Tiff => "TIFF",
            Format::WebP => "WebP",
        }
    }

    fn decode(self, bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
        let input = Cursor::new(bytes);
        let fail = |error| self.error(error);
        match self {
            Format::Bmp => self.read(bmp::BmpDecoder::new(input).map_err(fail)?, limits),
            Format::Gif => self.read(gif::GifDecoder::new(input).map_err(fail)?, limits),
            Format::Jpeg => {
                intact::check_jpeg(bytes)?;
                self.read(jpeg::JpegDecoder::new(input).map_err(fail)?, limits)
            }
            Format::Png => {
                // This constructor alone allocates by the declared size (rows), and unpacks
                // colour profiles.
                if let Some((width, height)) = png_size(bytes) {
                    limits.check_size(width, height)?;
                }
                let mut memory = image::Limits::no_limits();
                memory.max_alloc = Some(WORKING_MEMORY);
                self.read(
                    png::PngDecoder::with_limits(input, memory).map_err(fail)?,
                    limits,
                )
            }
            Format::Tiff => self.read(tiff::TiffDecoder::new(input).map_err(fail)?, limits),
            Format::WebP => {
                intact::check_webp(bytes, limits)?;
                self.read(webp::WebPDecoder::new(input).map_err(fail)?, limits)
            }
        }
    }

    fn read(self, mut decoder: impl ImageDecoder, limits: &Limits) -> Result<RgbImage, ImageError> {
        let (width, height) = decoder.dimensions();
        limits.check_size(width, height)?;
        let bytes = decoder.total_bytes();
        let mut memory = image::Limits::no_limits();
        memory.max_alloc = Some(bytes.saturating_mul(2).saturating_add(WORKING_MEMORY));
        decoder
            .set_limits(memory)
            .map_err(|error| self.error(error))?;

        let orientation = orientation::stated(&mut decoder);
        let color = decoder.color_type();
        let to_rgb = rgb::converter(color).ok_or_else(|| ImageError::Unsupported {
            what: format!("{}, samples {color:?}", self.name()),
        })?;
        let mut samples = Vec::new();
        let len = usize::try_from(bytes).map_err(|_| self.too_much_memory())?;
        samples
            .try_reserve_exact(len)
            .map_err(|_| self.too_much_memory())?;
        samples.resize(len, 0);
        decoder
            .read_image(&mut samples)
            .map_err(|error| self.error(error))?;

        orientation::upright(RgbImage::new(width, height, to_rgb(samples))?, orientation)
    }

    fn too_much_memory(self) -> ImageError {
        ImageError::TooMuchMemory {
            format: self.name(),
        }
    }

    fn malformed(self, reason: impl Into<String>) -> ImageError {
        ImageError::Malformed {
            format: self.name(),
            reason: reason.into(),
        }
    }

    fn error(self, error: image::ImageError) -> ImageError {
        match error {
            image::ImageError::Limits(_) => self.too_much_memory(),
            image::ImageError::Unsupported(error) => {
                let variant = match error.kind() {
                    UnsupportedErrorKind::GenericFeature(feature) => feature,
                    UnsupportedErrorKind::Color(color) => format!("samples {color:?}"),
                    _ => error.to_string(),
                };
                ImageError::Unsupported {
                    what: format!("{}, {variant}", self.name()),
                }
            }
            // The cause says what is wrong; the wrapper says again which format it is.
            image::ImageError::Decoding(error) => match error.source() {
                Some(cause) => self.malformed(cause.to_string()),
                None => self.malformed(error.to_string()),
            },
            image::ImageError::IoError(error) => match error.kind() {
                std::io::ErrorKind::UnexpectedEof => self.malformed(intact::CUT_SHORT),
                _ => self.malformed(error.to_string()),
            },
            error => self.malformed(error.to_string()),
        }
    }
}

/// Width and height of a PNG, whose first chunk holds them at a fixed place.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let width = bytes.get(16..)?.first_chunk()?;
    let height = bytes.get(20..)?.first_chunk()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

/// What a file that is none of ours looks like, for the message.
fn describe_unknown(bytes: &[u8]) -> String {
    match bytes {
        [] => "no bytes at all".into(),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.first_chunk() {
            Some(b"heic" | b"heix" | b"mif1" | b"msf1" | b"hevc") => "HEIC".into(),
            Some(b"avif" | b"avis") => "AVIF".into(),
            _ => "a video or another ISO media file".into(),
        },
        [b'%', b'P', b'D', b'F', ..] => "PDF".into(),
        _ => match std::str::from_utf8(bytes.get(..64).unwrap_or(bytes)) {
            Ok(text) if text.contains("<svg") => "SVG".into(),
            Ok(text) if !text.contains('\0') => "text".into(),
            _ => {
                let start = bytes.iter().take(4).map(|byte| format!(" {byte:02x}"));
                format!("a file that starts with{}", start.collect::<String>())
            }
        },
    }
}
