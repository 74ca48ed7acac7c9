//! Pictures: from the bytes of a file to upright 8-bit RGB, and from there to the size a model
//! wants.
//!
//! Bytes come from people and strangers, so nothing here trusts them. Memory is counted before it
//! is taken ([`Limits::max_memory`]), and a file that is cut short or damaged is an error, never
//! half a picture.
//!
//! [`open`] reads a file's header, [`Picture::decode`] its pixels. Who decodes what:
//!
//! | format | decoder | file |
//! | --- | --- | --- |
//! | JPEG | libjpeg-turbo, which Pillow, torchvision and browsers use | `jpeg.rs`, `jpeg.c` |
//! | TIFF | libtiff, which Pillow uses | `tiff.rs`, `tiff.c` |
//! | HEIC, AVIF | libheif, which pillow-heif uses | `heif.rs`, `heif.cc` |
//! | WebP | libwebp, which Pillow uses | `webp.rs`, `webp.c` |
//! | PNG | crate `png` | `png.rs` |
//! | GIF | crate `gif` | `gif.rs` |
//! | BMP | crate `image` | `bmp.rs` |
//!
//! The pixels are those of Pillow's `ImageOps.exif_transpose(image).convert("RGB")`, except:
//! - Any transparency (also of grey with alpha, of palettes and of GIFs) is shown on white.
//!   Pillow drops the alpha channel and shows whatever colour lies under it.
//! - 16-bit samples become 8-bit ones by rounding `v / 257`, so that 0 and 65535 map to 0 and 255.
//!   Pillow takes the high byte of colours and turns 16-bit grey white.
//! - An orientation that stands in XMP alone is not applied, as browsers do not either.
//! - Damaged data of a JPEG are an error, where Pillow mostly shows what is left.
//! - A BMP whose alpha channel is 0 everywhere is opaque, as viewers show it.
//!
//! As in Pillow, colour profiles are ignored.

mod bmp;
mod failure;
mod gif;
#[cfg(feature = "heif")]
mod heif;
mod jpeg;
mod open;
mod orientation;
mod png;
mod resize;
mod rgb;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;
mod work;

pub use open::{FORMATS, open};
pub use resize::resize_bicubic;
pub use work::{Limits, Picture};

/// The longest side and the largest area which an [`RgbImage`] can have at all, whatever the
/// [`Limits`] say: sizes stay within what offsets of 32 bits can address.
pub const MAX_SIDE: u32 = 65_535;
/// See [`MAX_SIDE`].
pub const MAX_PIXELS: u64 = 1 << 28;

/// The reason given where a file ends before its pixels do.
const CUT_SHORT: &str = "the file is cut short";

/// Why a picture could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("image of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("image of {width} x {height} pixels exceeds the limit of {MAX_PIXELS} pixels")]
    TooManyPixels { width: u32, height: u32 },
    #[error("image of {width} x {height} pixels exceeds the limit of {MAX_SIDE} pixels per side")]
    TooLong { width: u32, height: u32 },
    /// Decoding would take more memory than [`Limits::max_memory`]: `bytes` in all, where a
    /// decoder can tell.
    #[error(
        "decoding an image of {width} x {height} pixels would take {}more than {} MB",
        .bytes.map_or(String::new(), |bytes| format!("{} MB, ", bytes.div_ceil(1 << 20))),
        limit >> 20
    )]
    TooMuchMemory {
        width: u32,
        height: u32,
        bytes: Option<u64>,
        limit: u64,
    },
    /// The system had no more memory, although the limit allowed it.
    #[error("out of memory while decoding an image of {width} x {height} pixels")]
    OutOfMemory { width: u32, height: u32 },
    #[error("image of {width} x {height} pixels has no pixels")]
    Empty { width: u32, height: u32 },
    /// Not one of the formats that are read, or a variant of one that is not.
    #[error("unsupported image format: {what}")]
    Unsupported { what: String },
    /// Cut short, damaged, or never an image in the first place.
    #[error("malformed {format} image: {reason}")]
    Malformed {
        format: &'static str,
        reason: String,
    },
    /// The caller wanted no more of it.
    #[error("decoding was cancelled")]
    Cancelled,
    /// The resampling library refused. It has no reason to, after our own checks.
    #[error("image cannot be resized to {width} x {height} pixels: {reason}")]
    Resize {
        width: u32,
        height: u32,
        reason: String,
    },
    /// From [`RgbImage::new`] alone.
    #[error("{bytes} bytes are not {width} x {height} RGB pixels")]
    WrongLength {
        width: u32,
        height: u32,
        bytes: usize,
    },
}

/// An upright picture: rows from the top, pixels from the left, each R, G, B, 0..=255.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// Takes `3 * width * height` bytes of interleaved RGB.
    ///
    /// # Errors
    /// A side of 0, a size beyond [`MAX_SIDE`] or [`MAX_PIXELS`], any other number of bytes.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, ImageError> {
        if pixels.len() != rgb_len(width, height)? {
            return Err(ImageError::WrongLength {
                width,
                height,
                bytes: pixels.len(),
            });
        }
        Ok(RgbImage {
            width,
            height,
            pixels,
        })
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    /// `3 * width * height` bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The rows from the top, each `3 * width` bytes.
    fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.pixels.chunks_exact_mut(3 * self.width as usize)
    }
}

impl std::fmt::Debug for RgbImage {
    /// Without the pixels, which nobody reads in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

/// Whether there can be a picture of this size.
fn check_size(width: u32, height: u32) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    if width.max(height) > MAX_SIDE {
        return Err(ImageError::TooLong { width, height });
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooManyPixels { width, height });
    }
    Ok(())
}

/// Bytes of an RGB picture of this size, if there can be one.
fn rgb_len(width: u32, height: u32) -> Result<usize, ImageError> {
    check_size(width, height)?;
    // At most 3 << 28: fits a usize of 32 bits too.
    Ok(width as usize * height as usize * 3)
}

/// So many zeros, `None` where the system has no memory left.
fn zeroed<T: Clone + Default>(length: usize) -> Option<Vec<T>> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(length).ok()?;
    zeros.resize(length, T::default());
    Some(zeros)
}
