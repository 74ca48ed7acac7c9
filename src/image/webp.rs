//! WebP by libwebp: the first picture of the file on its canvas, as Pillow shows it. `webp.c` calls
//! the library; `webp/lossless.rs` computes the memory that it will allocate.

mod lossless;
#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};

use image::metadata::Orientation;

use super::decoding::{PixelLayout, Source, Work, system_has};
use super::failure::{Failure, Stop, stop_if_cancelled};
use super::{ImageError, Limits, RgbImage, orientation, rgb};

const FORMAT: &str = "WebP";
/// Bytes of memory that libwebpdemux takes for a file, for each chunk and for each frame that it
/// lists, with malloc's overhead (measured with libwebp 1.2.4 and glibc on 64 bits: 112, 32 and 96).
const DEMUXER: u64 = 512;
const DEMUXED_CHUNK: u64 = 32;
const DEMUXED_FRAME: u64 = 96;
/// Bytes that libwebp takes for a picture of any size: its structures, and the tables of one prefix
/// code group.
const STRUCTURES: u64 = 256 << 10;
/// Bytes that libwebp takes for each 16 columns of a lossy picture: the samples of one row of
/// macroblocks and of the rows above it, and coefficients (`AllocateMemory` in libwebp's
/// `frame_dec.c`).
const MACROBLOCK: u64 = 2 << 10;

/// `struct photosearch_webp_header` in `webp.c`, where the fields are described.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct WebpHeader {
    width: u32,
    height: u32,
    left: u32,
    top: u32,
    frame_width: u32,
    frame_height: u32,
    has_alpha: u32,
    lacks_exif: u32,
    frame: u64,
    frame_length: u64,
    exif: u64,
    exif_length: u64,
}

unsafe extern "C" {
    fn photosearch_webp_read_header(
        bytes: *const u8,
        length: usize,
        header: *mut WebpHeader,
        failure: *mut Failure,
    ) -> c_int;
    fn photosearch_webp_decode(
        frame: *const u8,
        length: usize,
        pixel_count: u64,
        has_alpha: c_int,
        pixels: *mut u8,
        stride: c_int,
        size: usize,
        stop: Stop,
        context: *mut c_void,
        failure: *mut Failure,
    ) -> c_int;
}

/// A WebP file whose headers, up to that of the first picture, have been read.
#[derive(Debug)]
pub(super) struct WebP<'a> {
    header: WebpHeader,
    /// The chunks of the first picture: `ALPH` and `VP8 `, or `VP8L`.
    frame: &'a [u8],
    orientation: Orientation,
}

impl<'a> WebP<'a> {
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, ImageError> {
        // Bytes beyond the length that the RIFF header states belong to no chunk.
        let stated = bytes.get(4..8).and_then(|size| size.try_into().ok());
        let stated = stated.map_or(0, |size| u64::from(u32::from_le_bytes(size)) + 8);
        let bytes = &bytes[..usize::try_from(stated)
            .unwrap_or(usize::MAX)
            .min(bytes.len())];
        let listed = demuxer_memory(bytes);
        let taken = limits.held.saturating_add(listed);
        let limit = limits.max_memory;
        if taken > limit {
            return Err(ImageError::TooMuchMemory {
                width: 0,
                height: 0,
                bytes: Some(taken),
                limit,
            });
        }
        // Without memory for its list, libwebpdemux would report a damaged file.
        if !system_has(listed.saturating_add(1 << 20)) {
            return Err(ImageError::OutOfMemory {
                width: 0,
                height: 0,
            });
        }
        let mut header = WebpHeader::default();
        let mut failure = Failure::NONE;
        // SAFETY: all pointers are valid during the call, and the function keeps none of them.
        let read = unsafe {
            photosearch_webp_read_header(bytes.as_ptr(), bytes.len(), &mut header, &mut failure)
        };
        if read == 0 {
            return Err(failure.error(FORMAT, (0, 0), limit));
        }
        if header.lacks_exif != 0 {
            // The missing EXIF may have stated an orientation.
            return Err(malformed(super::CUT_SHORT));
        }
        let part = |start: u64, length: u64| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            bytes.get(start..end)
        };
        let (Some(frame), Some(exif)) = (
            part(header.frame, header.frame_length),
            part(header.exif, header.exif_length),
        ) else {
            return Err(malformed(super::CUT_SHORT));
        };
        let within = |start: u32, length: u32, whole: u32| {
            u64::from(start) + u64::from(length) <= u64::from(whole)
        };
        if !within(header.left, header.frame_width, header.width)
            || !within(header.top, header.frame_height, header.height)
        {
            return Err(malformed("its picture is larger than its canvas"));
        }
        Ok(WebP {
            header,
            frame,
            orientation: orientation::of_exif(exif),
        })
    }

    /// Pixels of the first picture.
    fn frame_pixels(&self) -> u64 {
        u64::from(self.header.frame_width) * u64::from(self.header.frame_height)
    }

    /// The most memory in bytes that libwebp takes while it decodes, without the pixels that it returns.
    ///
    /// # Errors
    /// A lossless header that is damaged or cut short, or [`ImageError::Cancelled`].
    fn memory(&self, cancelled: &dyn Fn() -> bool) -> Result<u64, ImageError> {
        let (width, height) = (self.header.frame_width, self.header.frame_height);
        let mut memory = STRUCTURES;
        for (name, content) in RiffChunks(self.frame) {
            memory = memory.saturating_add(match &name {
                b"VP8L" => {
                    // 5 bytes: the signature, the size, the alpha flag and the version (RFC 9649,
                    // section 3.4).
                    let stream = content.get(5..).ok_or_else(cut_short)?;
                    lossless::memory(stream, width, height, cancelled)?
                }
                b"VP8 " => u64::from(width.div_ceil(16) + 1) * MACROBLOCK,
                b"ALPH" => {
                    // libwebp holds the plane twice (alpha_dec.c; in old versions frame_dec.c).
                    let planes = 2 * self.frame_pixels();
                    // The lowest two bits of the first byte state the compression: 1 is lossless.
                    match content.split_first() {
                        Some((flags, stream)) if flags & 3 == 1 => planes
                            .saturating_add(lossless::memory(stream, width, height, cancelled)?),
                        _ => planes,
                    }
                }
                _ => 0,
            });
        }
        Ok(memory)
    }

    /// Decodes the first picture into rows of `stride` bytes from the start of `pixels`: RGBA if the
    /// picture has an alpha channel, else RGB.
    fn read(&self, pixels: &mut [u8], stride: usize, work: &Work<'_>) -> Result<(), ImageError> {
        let stride = c_int::try_from(stride).map_err(|_| work.out_of_memory())?;
        let cancelled = work.cancelled();
        let context = std::ptr::from_ref(&cancelled).cast_mut().cast();
        let mut failure = Failure::NONE;
        // SAFETY: the function writes at most `pixels.len()` bytes to `pixels`; `context` points to
        // `cancelled`, as `stop_if_cancelled` requires, which outlives the call; the function keeps no pointer.
        let decoded = unsafe {
            photosearch_webp_decode(
                self.frame.as_ptr(),
                self.frame.len(),
                self.frame_pixels(),
                self.header.has_alpha as c_int,
                pixels.as_mut_ptr(),
                stride,
                pixels.len(),
                stop_if_cancelled,
                context,
                &mut failure,
            )
        };
        if decoded == 0 {
            return Err(failure.error(FORMAT, work.size(), work.limit()));
        }
        Ok(())
    }
}

impl Source for WebP<'_> {
    fn layout(&self) -> PixelLayout {
        PixelLayout {
            width: self.header.width,
            height: self.header.height,
            orientation: self.orientation,
        }
    }

    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let WebpHeader {
            width,
            height,
            left,
            top,
            frame_width,
            ..
        } = self.header;
        let (left, top) = (left as usize, top as usize);
        let row = 3 * width as usize;
        let memory = self.memory(work.cancelled())?;
        if self.header.has_alpha == 0 {
            // The canvas is black around the frame, as in Pillow.
            let mut image = work.canvas(width, height)?;
            work.take_temporarily(memory)?;
            self.read(&mut image.pixels[top * row + 3 * left..], row, work)?;
            return Ok(image);
        }
        let frame_row = 4 * frame_width as usize;
        let mut samples = work.bytes(4 * self.frame_pixels())?;
        // libwebp frees its memory before the canvas is allocated, so only the larger one counts.
        work.take_temporarily(memory.max(3 * u64::from(width) * u64::from(height)))?;
        self.read(&mut samples, frame_row, work)?;
        let mut image = work.canvas(width, height)?;
        // The canvas around the frame is transparent.
        image.pixels.fill(255);
        let rows = image.rows_mut().skip(top);
        for (to, from) in rows.zip(samples.chunks_exact(frame_row)) {
            work.check_cancelled()?;
            let to = to.as_chunks_mut::<3>().0.iter_mut().skip(left);
            for (to, &[r, g, b, alpha]) in to.zip(from.as_chunks::<4>().0) {
                *to = rgb::on_white([r, g, b], alpha);
            }
        }
        Ok(image)
    }
}

/// Bytes that libwebpdemux takes at most for its list of the frames and chunks of a file.
fn demuxer_memory(bytes: &[u8]) -> u64 {
    let mut rest = bytes.get(12..).unwrap_or_default();
    // A still picture is listed as a frame.
    let mut memory = DEMUXER + DEMUXED_FRAME;
    while let Some((name, length)) = chunk_header(rest) {
        // libwebpdemux also lists chunks inside a frame, which follow 16 bytes about the frame. A
        // chunk of odd length has a byte of padding.
        let (content, entry) = if &name == b"ANMF" {
            (16, DEMUXED_FRAME)
        } else {
            (length + length % 2, DEMUXED_CHUNK)
        };
        let next = usize::try_from(content).ok().and_then(|n| n.checked_add(8));
        rest = next.and_then(|next| rest.get(next..)).unwrap_or_default();
        memory += entry;
    }
    memory
}

/// Name and length of the chunk that begins here (RFC 9649, section 2.3).
fn chunk_header(bytes: &[u8]) -> Option<([u8; 4], u64)> {
    let (&name, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*rest.first_chunk()?);
    Some((name, length.into()))
}

/// The chunks of a RIFF container: name and content. Of a chunk that is cut short, the content is what
/// there is.
struct RiffChunks<'a>(&'a [u8]);

impl<'a> Iterator for RiffChunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, length) = chunk_header(self.0)?;
        let rest = self.0.get(8..)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let content = rest.get(..length).unwrap_or(rest);
        let padded = length.saturating_add(length % 2);
        self.0 = rest.get(padded..).unwrap_or_default();
        Some((name, content))
    }
}

fn malformed(reason: impl Into<String>) -> ImageError {
    ImageError::Malformed {
        format: FORMAT,
        reason: reason.into(),
    }
}

fn cut_short() -> ImageError {
    malformed(super::CUT_SHORT)
}
