//! The interface of all decoders, which first read a file's header and then its pixels, and the limits
//! under which they work.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;

use super::{Filter, ImageError, RgbImage, check_size, orientation, resize, zeroed};

/// The reason given when a decoder panics.
pub(super) const PANICKED: &str = "the decoder failed";

/// Limits for reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest encoded file, in bytes.
    pub max_bytes: usize,
    /// The most memory that decoding may take at any one time, in bytes: the decoded pixels, all
    /// copies of them, and the decoder's own memory.
    pub max_memory: u64,
    /// The part of [`Self::max_memory`] that the caller has already taken, for instance for the
    /// encoded file.
    pub held: u64,
}

impl Default for Limits {
    /// Enough for photos of telephones: 200 megapixels take 600 MB, and twice that if the picture has
    /// to be rotated.
    fn default() -> Self {
        Limits {
            max_bytes: 128 << 20,
            max_memory: 4 << 30,
            held: 0,
        }
    }
}

/// A decoder that has read the header of its file.
pub(super) trait Source {
    /// The size of the picture as stored in the file, and its orientation.
    fn layout(&self) -> PixelLayout;

    /// Decodes the picture as stored in the file. Its size is that of [`Self::layout`], or a smaller
    /// one if [`Work::wanted`] allows it.
    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelLayout {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
}

/// A file whose header has been read.
pub struct Picture<'a> {
    format: &'static str,
    source: Box<dyn Source + 'a>,
    layout: PixelLayout,
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

    /// The width and height of the upright picture.
    pub fn size(&self) -> (u32, u32) {
        let (width, height) = (self.layout.width, self.layout.height);
        if orientation::swaps_sides(self.layout.orientation) {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Decodes the upright picture. A caller that will resize it can pass the new size (of the upright
    /// picture) as `wanted`. The decoder may then return the picture at a half, a quarter or an eighth
    /// of its size, if that is cheaper and still at least twice the wanted width and height.
    ///
    /// `cancelled` is called from time to time, except for BMP; decoding stops when it returns true.
    ///
    /// # Errors
    /// The file is damaged or uses an unsupported coding, memory is over the limit or exhausted, or
    /// decoding was cancelled. Never panics.
    pub fn decode(
        self,
        wanted: Option<(u32, u32)>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RgbImage, ImageError> {
        let mut work = self.work(wanted, cancelled);
        self.upright(&mut work)
    }

    /// Decodes the upright picture and resizes it with [`resize`](super::resize()). The new size is the
    /// wanted size of [`Self::decode`].
    ///
    /// # Errors
    /// As [`Self::decode`], or the new size is beyond the limits of [`RgbImage`].
    pub fn decode_to(
        self,
        width: u32,
        height: u32,
        filter: Filter,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RgbImage, ImageError> {
        let mut work = self.work(Some((width, height)), cancelled);
        let image = self.upright(&mut work)?;
        resize::resized(&image, width, height, filter, &mut work)
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
        let image = catch_panics(self.format, || self.source.decode(work))?;
        // The decoder has freed all its memory except the pixels.
        work.taken = self.limits.held + image.pixels().len() as u64;
        orientation::upright(image, orientation, work)
    }
}

/// Whether this many bytes can be allocated at this moment.
pub(super) fn system_has(bytes: u64) -> bool {
    let mut lent = Vec::<u8>::new();
    let has = usize::try_from(bytes).is_ok_and(|bytes| lent.try_reserve_exact(bytes).is_ok());
    // Keeps the compiler from removing the unused allocation.
    std::hint::black_box(&mut lent);
    has
}

/// A margin in bytes for the small allocations of a library, which are not counted.
const SMALL_ALLOCATIONS: u64 = 2 << 20;

/// The state of one decoding: its memory, the wanted size, and whether it was cancelled.
pub(super) struct Work<'a> {
    /// The size of the upright picture, for messages.
    size: (u32, u32),
    limit: u64,
    taken: u64,
    /// The part of `taken` that a library will allocate, and for which [`Self::confirm`] has not yet
    /// tried the system.
    unconfirmed: u64,
    /// The size, in the orientation of the file, to which the caller will resize the picture. A
    /// decoder may return a smaller picture than the file holds, of at least twice this width and
    /// height.
    pub wanted: Option<(u32, u32)>,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Work<'a> {
    /// The function that tells whether the work was cancelled.
    pub fn cancelled(&self) -> &'a dyn Fn() -> bool {
        self.cancelled
    }

    /// The size of the upright picture.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// The bytes that may still be taken.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.taken)
    }

    /// The whole limit, for messages.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts memory that a library will allocate. The caller has to call [`Self::confirm`] later.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMemory`].
    pub fn take(&mut self, bytes: u64) -> Result<(), ImageError> {
        self.check_limit(bytes)?;
        self.taken = self.taken.saturating_add(bytes);
        self.unconfirmed = self.unconfirmed.saturating_add(bytes);
        Ok(())
    }

    /// Tries whether the system has the memory that [`Self::take`] has counted. To be called after
    /// the allocation of all buffers in Rust, right before the library allocates its memory: without
    /// memory, some libraries report a damaged file, and some end the process.
    ///
    /// # Errors
    /// [`ImageError::OutOfMemory`].
    pub fn confirm(&mut self) -> Result<(), ImageError> {
        let bytes = std::mem::take(&mut self.unconfirmed);
        self.check_system(bytes)
    }

    /// Allocates and counts this many bytes, all 0.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMemory`], [`ImageError::OutOfMemory`].
    pub fn bytes(&mut self, length: u64) -> Result<Vec<u8>, ImageError> {
        self.zeros(length)
    }

    /// Allocates and counts this many default values of an integer type.
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

    /// Allocates and counts a black picture.
    ///
    /// # Errors
    /// As [`Self::bytes`], or the size is beyond the limits of [`RgbImage`].
    pub fn canvas(&mut self, width: u32, height: u32) -> Result<RgbImage, ImageError> {
        check_size(width, height)?;
        let pixels = self.bytes(3 * u64::from(width) * u64::from(height))?;
        RgbImage::new(width, height, pixels)
    }

    /// As [`Self::take`] and [`Self::confirm`], for memory that the library frees again before any
    /// other memory is counted: it does not stay counted.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn take_temporarily(&self, bytes: u64) -> Result<(), ImageError> {
        self.check_limit(bytes)?;
        self.check_system(bytes)
    }

    fn check_system(&self, bytes: u64) -> Result<(), ImageError> {
        if system_has(bytes.saturating_add(SMALL_ALLOCATIONS)) {
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
    /// [`ImageError::Cancelled`] if the caller has cancelled the work.
    pub fn check_cancelled(&self) -> Result<(), ImageError> {
        if self.is_cancelled() {
            return Err(ImageError::Cancelled);
        }
        Ok(())
    }
}

/// Runs a decoder of `format` and turns a panic into an error.
///
/// Decoders index into files from strangers. An arithmetic or index error that nobody has found yet
/// would otherwise end the database session. A decoder shares only the file with its caller, so a
/// panic leaves no half-changed state behind.
pub(super) fn catch_panics<T>(
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
pub(super) fn without_limits<T>(f: impl FnOnce(&mut Work<'_>) -> T) -> T {
    f(&mut Work {
        size: (1, 1),
        limit: u64::MAX,
        taken: 0,
        unconfirmed: 0,
        wanted: None,
        cancelled: &|| false,
    })
}
