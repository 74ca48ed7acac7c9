//! What every decoder has in common: a header that is read first, then pixels, within limits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;

use super::{ImageError, RgbImage, check_size, orientation, resize, zeroed};

/// The reason given when a decoder panics.
pub(super) const PANICKED: &str = "the decoder failed";

/// What a file may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of the encoded file, in bytes.
    pub max_bytes: usize,
    /// Memory that decoding may take at any one time, in bytes: the decoded pixels, every copy of
    /// them, and what the decoder keeps for itself.
    pub max_memory: u64,
    /// What the caller holds of that memory already, for instance the encoded file.
    pub held: u64,
}

impl Default for Limits {
    /// Roomy enough for the photos of telephones: 200 megapixels take 600 MB, and as much again
    /// where they have to be turned.
    fn default() -> Self {
        Limits {
            max_bytes: 128 << 20,
            max_memory: 4 << 30,
            held: 0,
        }
    }
}

/// A decoder that has read its file's header.
pub(super) trait Source {
    /// The size of the pixels as they lie in the file, and how they have to be turned.
    fn layout(&self) -> Layout;

    /// The pixels as they lie in the file, of the size in [`Self::layout`], or of a smaller one
    /// where [`Work::wanted`] allows.
    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
}

/// A file whose header has been read.
pub struct Picture<'a> {
    format: &'static str,
    source: Box<dyn Source + 'a>,
    layout: Layout,
    limits: Limits,
}

impl<'a> Picture<'a> {
    pub(super) fn new(
        format: &'static str,
        source: Box<dyn Source + 'a>,
        limits: Limits,
    ) -> Result<Self, ImageError> {
        let layout = source.layout();
        check_size(layout.width, layout.height)?;
        Ok(Picture {
            format,
            source,
            layout,
            limits,
        })
    }

    /// Width and height of the upright picture.
    pub fn size(&self) -> (u32, u32) {
        let (width, height) = (self.layout.width, self.layout.height);
        if orientation::swaps_sides(self.layout.orientation) {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// The upright picture. Where it will be made smaller anyway, `wanted` is the size (upright)
    /// that it will be given: then a decoder for which that is cheaper returns it at a half, a
    /// quarter or an eighth of its size, yet at least twice the wanted width and height.
    ///
    /// `cancelled` is asked from time to time whether to stop.
    ///
    /// # Errors
    /// A damaged file; a coding that is not read; more memory than the limit. Never panics.
    pub fn decode(
        self,
        wanted: Option<(u32, u32)>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RgbImage, ImageError> {
        let mut work = self.work(wanted, cancelled);
        self.upright(&mut work)
    }

    /// The upright picture made smaller or larger by [`resize_bicubic`](super::resize_bicubic),
    /// from a scaled decoding as in [`Self::decode`].
    ///
    /// # Errors
    /// As [`Self::decode`]; a size that no picture can have.
    pub fn decode_to(
        self,
        width: u32,
        height: u32,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RgbImage, ImageError> {
        let mut work = self.work(Some((width, height)), cancelled);
        let image = self.upright(&mut work)?;
        resize::resized(&image, width, height, &mut work)
    }

    fn work<'c>(&self, wanted: Option<(u32, u32)>, cancelled: &'c dyn Fn() -> bool) -> Work<'c> {
        let swapped = orientation::swaps_sides(self.layout.orientation);
        Work {
            size: self.size(),
            limit: self.limits.max_memory,
            taken: self.limits.held,
            unconfirmed: 0,
            wanted: wanted.map(|(across, down)| {
                if swapped {
                    (down, across)
                } else {
                    (across, down)
                }
            }),
            cancelled,
        }
    }

    fn upright(self, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let orientation = self.layout.orientation;
        let image = guarded(self.format, || self.source.decode(work))?;
        // Only the pixels are left of what the decoder took.
        work.taken = self.limits.held + image.pixels().len() as u64;
        orientation::upright(image, orientation, work)
    }
}

/// Whether the system has so much memory at this moment.
pub(super) fn system_has(bytes: u64) -> bool {
    let mut lent = Vec::<u8>::new();
    let has = usize::try_from(bytes).is_ok_and(|bytes| lent.try_reserve_exact(bytes).is_ok());
    // Else the compiler may leave out what nobody uses.
    std::hint::black_box(&mut lent);
    has
}

/// Allowance for small allocations of a library that are not counted.
const SMALL_THINGS: u64 = 2 << 20;

/// One decoding: what it may take, and what is wanted of it.
pub(super) struct Work<'a> {
    /// The size of the upright picture, for messages.
    size: (u32, u32),
    limit: u64,
    taken: u64,
    /// What of that a library will take, and nobody has asked the system for.
    unconfirmed: u64,
    /// The size, as the pixels lie in the file, at which the caller will look at them. A decoder
    /// may return a smaller picture than the file holds, of at least twice this width and height.
    pub wanted: Option<(u32, u32)>,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Work<'a> {
    /// The question whether to stop.
    pub fn cancelled(&self) -> &'a dyn Fn() -> bool {
        self.cancelled
    }

    /// The size of the upright picture.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Bytes that may still be taken.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.taken)
    }

    /// The limit as a whole, for messages.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts memory that a library will take. [`Self::confirm`] is to follow.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMemory`].
    pub fn take(&mut self, bytes: u64) -> Result<(), ImageError> {
        self.check_limit(bytes)?;
        self.taken = self.taken.saturating_add(bytes);
        self.unconfirmed = self.unconfirmed.saturating_add(bytes);
        Ok(())
    }

    /// Sees that the system has what [`Self::take`] has counted. Called when our own buffers have been
    /// allocated, right before the library takes its memory: libraries do not all tell want of memory
    /// from damage, and some end the process.
    ///
    /// # Errors
    /// [`ImageError::OutOfMemory`].
    pub fn confirm(&mut self) -> Result<(), ImageError> {
        let bytes = std::mem::take(&mut self.unconfirmed);
        self.lend_confirmed(bytes)
    }

    /// Memory for so many bytes, counted.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMemory`], [`ImageError::OutOfMemory`].
    pub fn bytes(&mut self, length: u64) -> Result<Vec<u8>, ImageError> {
        self.zeros(length)
    }

    /// So many zeros of a kind, counted.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn zeros<T: Clone + Default>(&mut self, length: u64) -> Result<Vec<T>, ImageError> {
        let bytes = length.saturating_mul(size_of::<T>() as u64);
        self.check_limit(bytes)?;
        let zeros = usize::try_from(length).ok().and_then(zeroed);
        let zeros = zeros.ok_or_else(|| self.out_of_memory())?;
        self.taken += bytes;
        Ok(zeros)
    }

    /// A black picture, counted.
    ///
    /// # Errors
    /// As [`Self::bytes`], or a size that no picture can have.
    pub fn canvas(&mut self, width: u32, height: u32) -> Result<RgbImage, ImageError> {
        check_size(width, height)?;
        let pixels = self.bytes(3 * u64::from(width) * u64::from(height))?;
        RgbImage::new(width, height, pixels)
    }

    /// [`Self::take`] and [`Self::confirm`] of what the library gives back before anything else is counted.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn lend(&self, bytes: u64) -> Result<(), ImageError> {
        self.check_limit(bytes)?;
        self.lend_confirmed(bytes)
    }

    fn lend_confirmed(&self, bytes: u64) -> Result<(), ImageError> {
        if system_has(bytes.saturating_add(SMALL_THINGS)) {
            Ok(())
        } else {
            Err(self.out_of_memory())
        }
    }

    fn check_limit(&self, bytes: u64) -> Result<(), ImageError> {
        let taken = self.taken.saturating_add(bytes);
        if taken > self.limit {
            return Err(self.too_much(taken));
        }
        Ok(())
    }

    fn too_much(&self, taken: u64) -> ImageError {
        let (width, height) = self.size;
        ImageError::TooMuchMemory {
            width,
            height,
            bytes: Some(taken),
            limit: self.limit,
        }
    }

    pub fn out_of_memory(&self) -> ImageError {
        let (width, height) = self.size;
        ImageError::OutOfMemory { width, height }
    }

    pub fn is_cancelled(&self) -> bool {
        (self.cancelled)()
    }

    /// # Errors
    /// [`ImageError::Cancelled`] where the caller wants no more of it.
    pub fn check_cancelled(&self) -> Result<(), ImageError> {
        if self.is_cancelled() {
            return Err(ImageError::Cancelled);
        }
        Ok(())
    }
}

/// Runs a decoder of `format`; a panic becomes an error.
///
/// The decoders in Rust are safe code, but they are large, and index their way through whatever a
/// stranger has uploaded: an overflow that nobody has found yet would take down a database session.
/// They share nothing with us but the file, so nothing is left half changed.
pub(super) fn guarded<T>(
    format: &'static str,
    decode: impl FnOnce() -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(ImageError::Malformed {
            format,
            reason: PANICKED.into(),
        })
    })
}

/// Runs `f` without limits.
pub(super) fn unbounded<T>(f: impl FnOnce(&mut Work<'_>) -> T) -> T {
    f(&mut Work {
        size: (1, 1),
        limit: u64::MAX,
        taken: 0,
        unconfirmed: 0,
        wanted: None,
        cancelled: &|| false,
    })
}
