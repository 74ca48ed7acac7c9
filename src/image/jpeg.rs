//! JPEG by libjpeg-turbo, which `jpeg.c` calls.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use image::metadata::Orientation;
// Not called from Rust, but links libjpeg-turbo.
use turbojpeg_sys as _;

use super::decoding::{PixelLayout, Source, Work};
use super::failure::{Failure, Stop, stop_if_cancelled};
use super::{ImageError, RgbImage, rgb};

const FORMAT: &str = "JPEG";
/// The number of rows of 8-bit RGB that are decoded between two checks for a cancel. Others are decoded one by one.
const ROWS: usize = 16;

/// `struct photosearch_jpeg` in `jpeg.c`.
#[repr(C)]
struct Decoder {
    _opaque: [u8; 0],
}

/// `struct photosearch_jpeg_header` in `jpeg.c`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct JpegHeader {
    width: u32,
    height: u32,
    components: u32,
    precision: u32,
    coefficient_bytes: u64,
}

unsafe extern "C" {
    fn photosearch_jpeg_new(bytes: *const u8, length: usize) -> *mut Decoder;
    fn photosearch_jpeg_free(jpeg: *mut Decoder);
    fn photosearch_jpeg_stop_by(jpeg: *mut Decoder, stop: Option<Stop>, context: *mut c_void);
    fn photosearch_jpeg_failure(jpeg: *const Decoder) -> *const Failure;
    fn photosearch_jpeg_read_header(jpeg: *mut Decoder, header: *mut JpegHeader) -> c_int;
    fn photosearch_jpeg_start(
        jpeg: *mut Decoder,
        divisor: u32,
        memory: u64,
        width: *mut u32,
        height: *mut u32,
    ) -> c_int;
    fn photosearch_jpeg_read_rows(jpeg: *mut Decoder, rows: *mut c_void, count: u32) -> c_int;
    fn photosearch_jpeg_finish(jpeg: *mut Decoder) -> c_int;
}

/// A JPEG whose header has been read.
pub(super) struct Jpeg<'a> {
    decoder: NonNull<Decoder>,
    header: JpegHeader,
    orientation: Orientation,
    /// Bytes that libjpeg takes while it decodes, without the rows that it returns.
    memory: u64,
    /// The decoder holds a pointer to the file's bytes.
    file: PhantomData<&'a [u8]>,
}

impl<'a> Jpeg<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ImageError> {
        // SAFETY: the pointer is valid for `bytes.len()` bytes, and by the lifetime of `Jpeg` the bytes
        // outlive the decoder.
        let decoder = unsafe { photosearch_jpeg_new(bytes.as_ptr(), bytes.len()) };
        let mut jpeg = Jpeg {
            decoder: NonNull::new(decoder).ok_or(ImageError::OutOfMemory {
                width: 0,
                height: 0,
            })?,
            header: JpegHeader::default(),
            orientation: orientation(bytes),
            memory: 0,
            file: PhantomData,
        };
        // SAFETY: the decoder was made above and is not null; the header is valid for writes.
        let read = unsafe { photosearch_jpeg_read_header(decoder, &mut jpeg.header) };
        jpeg.check(read, 0)?;
        // For a lossless file, libjpeg keeps single samples in place of blocks of 8 × 8 coefficients.
        let lossless =
            Segments(bytes.get(2..).unwrap_or_default()).any(|(marker, _)| marker == 0xc3);
        let coefficients = jpeg.header.coefficient_bytes / if lossless { 64 } else { 1 };
        // In addition, libjpeg takes tables, and buffers of a few rows for each component.
        jpeg.memory = coefficients + 512 * u64::from(jpeg.header.width) + (1 << 20);
        Ok(jpeg)
    }

    /// Turns the result of a C function, which is 0 if it failed, into the error.
    fn check(&self, returned: c_int, limit: u64) -> Result<(), ImageError> {
        if returned != 0 {
            return Ok(());
        }
        // SAFETY: the failure is a part of the decoder, and no C function runs while it is borrowed.
        let failure = unsafe { &*photosearch_jpeg_failure(self.decoder.as_ptr()) };
        let size = (self.header.width, self.header.height);
        Err(failure.error(FORMAT, size, limit))
    }

    /// The largest divisor of the size by which the picture can be decoded, with both sides at least
    /// twice the wanted ones. Only powers of 2 are used: from a block of 8 × 8 coefficients, libjpeg
    /// computes 4 × 4, 2 × 2 or 1 pixels at least as fast as 8 × 8. Other divisors are slower than
    /// decoding in full.
    fn divisor(&self, wanted: Option<(u32, u32)>) -> u32 {
        let Some((across, down)) = wanted else {
            return 1;
        };
        let enough = |divisor: u32| {
            u64::from(self.header.width.div_ceil(divisor)) >= 2 * u64::from(across)
                && u64::from(self.header.height.div_ceil(divisor)) >= 2 * u64::from(down)
        };
        [8, 4, 2].into_iter().find(|&by| enough(by)).unwrap_or(1)
    }

    fn read(&mut self, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let decoder = self.decoder.as_ptr();
        let divisor = self.divisor(work.wanted);
        let own = self.memory;
        work.take(own)?;
        let scaled = |side: u32| side.div_ceil(divisor);
        let mut image = work.canvas(scaled(self.header.width), scaled(self.header.height))?;
        work.confirm()?;

        let (mut width, mut height) = (0, 0);
        // SAFETY: the decoder has read its header; both sizes are valid for writes.
        let started = unsafe {
            photosearch_jpeg_start(decoder, divisor, work.left() + own, &mut width, &mut height)
        };
        self.check(started, work.limit())?;
        if (width, height) != (image.width(), image.height()) {
            // libjpeg does not scale lossless files.
            image = work.canvas(width, height)?;
        }
        let samples = width as usize * self.header.components as usize;
        match (self.header.components, self.header.precision) {
            (3, 8) => self.read_rgb(&mut image, work)?,
            (_, ..=8) => {
                let mut row = work.bytes(samples as u64)?;
                for to in image.rows_mut() {
                    self.read_rows(&mut row, 1, work)?;
                    self.to_rgb(&row, to);
                }
            }
            _ => {
                let mut row = work.zeros::<u16>(samples as u64)?;
                for to in image.rows_mut() {
                    self.read_rows(&mut row, 1, work)?;
                    self.to_rgb(&row, to);
                }
            }
        }
        // SAFETY: the decoder was started above, and all its rows were read.
        let finished = unsafe { photosearch_jpeg_finish(decoder) };
        self.check(finished, work.limit())?;
        Ok(image)
    }

    /// Reads all rows of an RGB picture with samples of 8 bits into `image`.
    fn read_rgb(&self, image: &mut RgbImage, work: &Work<'_>) -> Result<(), ImageError> {
        let row = 3 * image.width() as usize;
        for group in image.pixels.chunks_mut(ROWS * row) {
            self.read_rows(group, (group.len() / row) as u32, work)?;
        }
        Ok(())
    }

    /// Reads the next `count` rows into `rows`, whose length must suffice for them. `T` must have the
    /// size of libjpeg's samples: a byte for a precision of up to 8 bits, else two bytes.
    fn read_rows<T>(&self, rows: &mut [T], count: u32, work: &Work<'_>) -> Result<(), ImageError> {
        work.check_cancelled()?;
        // SAFETY: by the contract above, the rows fit into `rows`.
        let read = unsafe {
            photosearch_jpeg_read_rows(self.decoder.as_ptr(), rows.as_mut_ptr().cast(), count)
        };
        self.check(read, work.limit())
    }

    fn to_rgb<T: Copy + Into<u32>>(&self, row: &[T], to: &mut [u8]) {
        let max = (1 << self.header.precision) - 1;
        let level = |sample: T| rgb::scale(sample.into(), max);
        let to = to.as_chunks_mut::<3>().0;
        match self.header.components {
            1 => {
                for (to, &grey) in to.iter_mut().zip(row) {
                    *to = [level(grey); 3];
                }
            }
            3 => {
                for (to, rgb) in to.iter_mut().zip(row.as_chunks::<3>().0) {
                    *to = rgb.map(level);
                }
            }
            _ => {
                // Adobe's convention: 255 means no ink. Pillow assumes it for every CMYK JPEG.
                for (to, cmyk) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    *to = rgb::cmyk_to_rgb(cmyk.map(|light| 255 - level(light)));
                }
            }
        }
    }
}

impl Source for Jpeg<'_> {
    fn layout(&self) -> PixelLayout {
        PixelLayout {
            width: self.header.width,
            height: self.header.height,
            orientation: self.orientation,
        }
    }

    fn decode(mut self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let decoder = self.decoder.as_ptr();
        let cancelled = work.cancelled();
        let context = std::ptr::from_ref(&cancelled).cast_mut().cast();
        // SAFETY: `context` points to `cancelled`, as `stop_if_cancelled` requires. Only the calls in `read` use it,
        // and `cancelled` outlives them.
        unsafe { photosearch_jpeg_stop_by(decoder, Some(stop_if_cancelled), context) };
        let image = self.read(work);
        // SAFETY: the decoder lives as long as `self`.
        unsafe { photosearch_jpeg_stop_by(decoder, None, std::ptr::null_mut()) };
        image
    }
}

impl Drop for Jpeg<'_> {
    fn drop(&mut self) {
        // SAFETY: the decoder was made by `open`, and nothing uses it after this call.
        unsafe { photosearch_jpeg_free(self.decoder.as_ptr()) };
    }
}

/// The orientation that the first EXIF segment with an orientation states.
fn orientation(bytes: &[u8]) -> Orientation {
    Segments(bytes.get(2..).unwrap_or_default())
        .filter(|(marker, _)| *marker == 0xe1)
        .filter_map(|(_, content)| content.strip_prefix(b"Exif\0\0"))
        .find_map(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// The segments of a JPEG before its first scan (ITU-T T.81, annex B), as marker and content.
struct Segments<'a>(&'a [u8]);

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // Skip bytes between segments, as libjpeg does. Any number of 0xff may precede a marker.
        let at = self
            .0
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))?;
        let (marker, rest) = self.0[at + 1..].split_first()?;
        if matches!(marker, 0xd9 | 0xda) {
            return None;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            // These markers have no length and no content.
            self.0 = rest;
            return Some((*marker, &[]));
        }
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
        self.0 = rest.get(length.max(2)..)?;
        Some((*marker, rest.get(2..length)?))
    }
}
