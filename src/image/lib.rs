//! Decodes image files to upright 8-bit RGB, and resizes them for a model.
//!
//! Files come from strangers and are not trusted. Memory is counted before it is allocated
//! ([`Limits::max_memory`]). A file that is cut short, or whose damage the decoder notices, is an error, never half a
//! picture.
//!
//! [`open`] reads a file's header, [`Picture::decode`] its pixels. The decoders:
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
//! - Transparency of any kind (also of grey with alpha, of palettes and of GIFs) is shown on white.
//!   Pillow drops the alpha channel and keeps the colours of transparent pixels.
//! - 16-bit samples become 8-bit samples by rounding `v / 257`, so that 0 and 65535 map to 0 and 255.
//!   Pillow takes the high byte of colours, and cuts 16-bit grey off at 255, so most of it becomes white.
//! - An orientation that only XMP states is not applied. Browsers do not apply it either.
//! - A JPEG with damaged data is an error. Pillow mostly shows the rest of it.
//! - A BMP whose alpha channel is 0 everywhere is opaque, as viewers show it.
//!
//! As in Pillow, colour profiles are ignored.

mod bmp;
mod decoding;
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

pub use decoding::{Limits, Picture};
pub use open::{FORMATS, is_jpeg, open};
pub use resize::{Filter, resize, resize_bicubic};

/// The longest side of an [`RgbImage`], whatever the [`Limits`] are: it fits in 16 bits, as in JPEG and GIF.
pub const MAX_SIDE: u32 = 65_535;
/// The largest area of an [`RgbImage`], whatever the [`Limits`] are: offsets into its 3 bytes a pixel fit in
/// 32 bits.
pub const MAX_PIXELS: u64 = 1 << 28;

/// The reason of [`ImageError::Malformed`] for a file that ends before the end of its pixels.
const CUT_SHORT: &str = "the file is cut short";

/// Why an image could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("image of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("image of {width} x {height} pixels exceeds the limit of {MAX_PIXELS} pixels")]
    TooManyPixels { width: u32, height: u32 },
    #[error("image of {width} x {height} pixels exceeds the limit of {MAX_SIDE} pixels per side")]
    TooLong { width: u32, height: u32 },
    /// Decoding would take more memory than [`Limits::max_memory`]: `bytes` in all, if the decoder
    /// knows. The size is 0 x 0 while it is unknown; the message then leaves it out.
    #[error(
        "decoding {} would take {}more than {} MB",
        image_of(*width, *height),
        .bytes.map_or(String::new(), |bytes| format!("{} MB, ", bytes.div_ceil(1 << 20))),
        limit >> 20
    )]
    TooMuchMemory {
        width: u32,
        height: u32,
        bytes: Option<u64>,
        limit: u64,
    },
    /// The system had no more memory, although the limit allowed it. The size is as in
    /// [`ImageError::TooMuchMemory`].
    #[error("out of memory while decoding {}", image_of(*width, *height))]
    OutOfMemory { width: u32, height: u32 },
    #[error("image of {width} x {height} pixels has no pixels")]
    Empty { width: u32, height: u32 },
    /// The format, or the variant of a format, is not read.
    #[error("unsupported image format: {what}")]
    Unsupported { what: String },
    /// The file is cut short, damaged, or not an image.
    #[error("malformed {format} image: {reason}")]
    Malformed {
        format: &'static str,
        reason: String,
    },
    /// The caller has cancelled the work.
    #[error("decoding was cancelled")]
    Cancelled,
    /// The resampling library refused the sizes, which does not happen after the checks of this crate.
    #[error("image cannot be resized to {width} x {height} pixels: {reason}")]
    Resize {
        width: u32,
        height: u32,
        reason: String,
    },
    /// Only [`RgbImage::new`] returns this.
    #[error("{bytes} bytes are not {width} x {height} RGB pixels")]
    WrongLength {
        width: u32,
        height: u32,
        bytes: usize,
    },
}

/// Names an image by its size in a message; 0 x 0 means that the size is unknown.
fn image_of(width: u32, height: u32) -> String {
    match (width, height) {
        (0, 0) => "an image".into(),
        (width, height) => format!("an image of {width} x {height} pixels"),
    }
}

/// A picture in 8-bit RGB: rows from the top, in each row pixels from the left.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// Makes a picture of interleaved RGB, `3 * width * height` bytes.
    ///
    /// # Errors
    /// A side is 0, the size is beyond [`MAX_SIDE`] or [`MAX_PIXELS`], or `pixels` has another length.
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

    /// The interleaved RGB samples, `3 * width * height` bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The rows from the top, of `3 * width` bytes each.
    fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.pixels.chunks_exact_mut(3 * self.width as usize)
    }
}

impl std::fmt::Debug for RgbImage {
    /// Shows the size only: the pixels would flood a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

/// Refuses sizes beyond the limits of [`RgbImage`].
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

/// The length in bytes of an [`RgbImage`] of this size.
fn rgb_len(width: u32, height: u32) -> Result<usize, ImageError> {
    check_size(width, height)?;
    // At most 3 << 28, which also fits a usize of 32 bits.
    Ok(width as usize * height as usize * 3)
}

/// A vector of `length` default values, or `None` if the system has no memory left.
fn zeroed<T: Clone + Default>(length: usize) -> Option<Vec<T>> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(length).ok()?;
    zeros.resize(length, T::default());
    Some(zeros)
}
