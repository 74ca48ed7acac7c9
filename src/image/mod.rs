//! Pictures: from the bytes of a file to upright 8-bit RGB, and from there to the size a model
//! wants.
//!
//! Bytes come from people and strangers, so nothing here trusts them: limits are checked before
//! memory is spent, and a file that is cut short or damaged is an error, never half a picture.
//!
//! Where the result differs from what Pillow's `Image.convert("RGB")` gives:
//! - The EXIF orientation is applied. A portrait photo stands.
//! - Any transparency (also of grey-with-alpha, of palettes and of GIFs) is shown on white.
//!   Pillow drops the alpha channel and shows whatever colour lies under it.
//! - 16-bit samples become 8-bit by rounding `v / 257`, so that 0 and 65535 map to 0 and 255.
//!   Pillow takes the high byte of colours and handles 16-bit grey apart.
//! - Files that end before they say so are refused, a JPEG also where only its end-of-image
//!   marker is missing.
//! - A JPEG's colours differ by a few levels of 255 in places: the decoder rounds in another order
//!   than libjpeg when it enlarges the colour planes.
//!
//! As in Pillow, colour profiles are ignored. Not read: arithmetic-coded, lossless and 12-bit
//! JPEG; TIFF with a palette, YCbCr, grey with alpha, floats or Group 3 fax coding.

mod decode;
mod intact;
mod orientation;
mod resize;
mod rgb;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use resize::resize_bicubic;

/// The longest side and the largest area which an [`RgbImage`] can have at all, whatever the
/// [`Limits`] say: sizes stay within what offsets of 32 bits can address.
pub const MAX_SIDE: u32 = 65_535;
/// See [`MAX_SIDE`].
pub const MAX_PIXELS: u64 = 1 << 28;

/// What a file may cost. Checked against the encoded length and the declared size, before any
/// pixel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of the encoded file, in bytes.
    pub max_bytes: usize,
    /// Width × height. Decoding takes up to some 25 bytes of memory a pixel (a TIFF of
    /// 16-bit RGBA), a progressive JPEG 9, an ordinary photo 3.
    pub max_pixels: u64,
    /// Width and height each.
    pub max_side: u32,
}

impl Default for Limits {
    /// Roomy enough for the 108-megapixel photos of telephones.
    fn default() -> Self {
        Limits {
            max_bytes: 64 << 20,
            max_pixels: 1 << 27,
            max_side: MAX_SIDE,
        }
    }
}

impl Limits {
    /// Whether a picture of this size may be decoded.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width, height });
        }
        let max_side = self.max_side.min(MAX_SIDE);
        if width.max(height) > max_side {
            return Err(ImageError::TooLong {
                width,
                height,
                limit: max_side,
            });
        }
        let max_pixels = self.max_pixels.min(MAX_PIXELS);
        if u64::from(width) * u64::from(height) > max_pixels {
            return Err(ImageError::TooManyPixels {
                width,
                height,
                limit: max_pixels,
            });
        }
        Ok(())
    }
}

/// Why a picture could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("image of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("image of {width} x {height} pixels exceeds the limit of {limit} pixels")]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    #[error("image of {width} x {height} pixels exceeds the limit of {limit} pixels per side")]
    TooLong { width: u32, height: u32, limit: u32 },
    /// The decoder asked for more memory than a picture of the declared size warrants.
    #[error("decoding {format} image takes more memory than its size allows")]
    TooMuchMemory { format: &'static str },
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
}

impl std::fmt::Debug for RgbImage {
    /// Without the pixels, which nobody reads in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

/// Bytes of an RGB picture of this size, if there can be one.
fn rgb_len(width: u32, height: u32) -> Result<usize, ImageError> {
    let everything = Limits {
        max_bytes: usize::MAX,
        max_pixels: MAX_PIXELS,
        max_side: MAX_SIDE,
    };
    everything.check_size(width, height)?;
    // At most 3 << 28: fits a usize of 32 bits too.
    Ok(width as usize * height as usize * 3)
}
