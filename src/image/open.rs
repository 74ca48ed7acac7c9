//! Recognises the format of a file and opens it with the decoder for that format.

use super::decoding::{Picture, Source, catch_panics};
use super::{ImageError, Limits, png, tiff};

/// The formats that this build reads, as a list for messages.
pub const FORMATS: &str = if cfg!(feature = "heif") {
    "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC and AVIF"
} else {
    "JPEG, PNG, WebP, GIF, BMP and TIFF"
};

/// Reads the header of a file in one of the [`FORMATS`], which is recognised by its content. Of several
/// pictures in a file, the first or the primary one is opened.
///
/// # Errors
/// If the file exceeds `limits`, has another format, or has a damaged header. Never panics.
pub fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Picture<'a>, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes {
            bytes: bytes.len(),
            limit: limits.max_bytes,
        });
    }
    let format = Format::of(bytes).ok_or_else(|| ImageError::Unsupported {
        what: describe_unknown(bytes),
    })?;
    let name = format.name();
    catch_panics(name, || {
        Picture::new(name, format.open(bytes, limits)?, *limits)
    })
}

/// Returns whether [`open`] takes a file for a JPEG file.
pub fn is_jpeg(bytes: &[u8]) -> bool {
    matches!(Format::of(bytes), Some(Format::Jpeg))
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Bmp,
    Gif,
    /// A HEIF container, with the name that its brands give to the content: HEIC, AVIF, or HEIF for others.
    Heif(&'static str),
    Jpeg,
    Png,
    Tiff,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [b'B', b'M', ..] => Some(Format::Bmp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
            [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some(Format::Png),
            // 42 is classic TIFF, 43 is BigTIFF, which has offsets of 64 bits.
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Format::WebP),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => heif_name(bytes).map(Format::Heif),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Bmp => "BMP",
            Format::Gif => "GIF",
            Format::Heif(name) => name,
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Tiff => "TIFF",
            Format::WebP => "WebP",
        }
    }

    fn open<'a>(
        self,
        bytes: &'a [u8],
        limits: &Limits,
    ) -> Result<Box<dyn Source + 'a>, ImageError> {
        match self {
            Format::Bmp => Ok(Box::new(super::bmp::Bmp::open(bytes)?)),
            Format::Gif => Ok(Box::new(super::gif::Gif::open(bytes)?)),
            #[cfg(feature = "heif")]
            Format::Heif(name) => Ok(Box::new(super::heif::Heif::open(bytes, name)?)),
            #[cfg(not(feature = "heif"))]
            Format::Heif(name) => Err(ImageError::Unsupported {
                what: format!("{name}, which this build of photosearch was made without"),
            }),
            Format::Jpeg => Ok(Box::new(super::jpeg::Jpeg::open(bytes)?)),
            Format::Png => Ok(Box::new(png::Png::open(bytes, limits)?)),
            Format::Tiff => Ok(Box::new(tiff::Tiff::open(bytes, limits)?)),
            Format::WebP => Ok(Box::new(super::webp::WebP::open(bytes, limits)?)),
        }
    }
}

/// The name of the image format that the brands of an ISO media file (ISO/IEC 14496-12, 4.3) state.
fn heif_name(bytes: &[u8]) -> Option<&'static str> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let major = bytes.get(8..12)?;
    let compatible = bytes
        .get(16..length.min(bytes.len()).max(16))
        .unwrap_or_default();
    let mut brands = std::iter::once(major).chain(compatible.chunks_exact(4));
    brands
        .find_map(|brand| match brand {
            b"avif" | b"avis" => Some("AVIF"),
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" => Some("HEIC"),
            _ => None,
        })
        .or(matches!(major, b"mif1" | b"mif2" | b"mif3" | b"miaf" | b"msf1").then_some("HEIF"))
}

/// Describes a file of an unknown format, for the message.
fn describe_unknown(bytes: &[u8]) -> String {
    match bytes {
        [] => "no bytes at all".into(),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a video or another ISO media file".into(),
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
