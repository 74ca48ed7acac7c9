//! TIFF by libtiff: the first picture of the file. `tiff.c` decodes strips and tiles, `tiff/samples.rs`
//! unpacks their samples, `tiff/interpretation.rs` and `tiff/colour.rs` convert the samples to RGB.

mod colour;
mod directory;
mod interpretation;
mod samples;
#[cfg(test)]
mod tests;

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;

use image::metadata::Orientation;

use super::decoding::{PixelLayout, Source, Work};
use super::failure::Failure;
use super::{ImageError, Limits, RgbImage, check_size};
use interpretation::Interpretation;
use samples::SamplePacking;

const FORMAT: &str = "TIFF";
/// Values of the tag PhotometricInterpretation.
const PALETTE: u16 = 3;
const YCBCR: u16 = 6;
/// A value of the tag Compression.
const JPEG: u16 = 7;

/// `struct photosearch_tiff` in `tiff.c`.
#[repr(C)]
struct TiffFile {
    _opaque: [u8; 0],
}

/// `struct photosearch_tiff_header` in `tiff.c`, where the fields are described.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct TiffHeader {
    width: u32,
    height: u32,
    chunk_width: u32,
    chunk_height: u32,
    black_white: [f32; 6],
    luma: [f32; 3],
    tiled: u16,
    separate: u16,
    lengths_made_up: u16,
    compression: u16,
    predictor: u16,
    photometric: u16,
    ink_set: u16,
    orientation: u16,
    samples: u16,
    bits: u16,
    sample_format: u16,
    extra_kinds: [u16; 8],
    extra_count: u16,
    chroma_across: u16,
    chroma_down: u16,
}

unsafe extern "C" {
    fn photosearch_tiff_new(bytes: *const u8, length: usize, memory: u64) -> *mut TiffFile;
    fn photosearch_tiff_free(file: *mut TiffFile);
    fn photosearch_tiff_failure(file: *const TiffFile) -> *const Failure;
    fn photosearch_tiff_read_header(file: *mut TiffFile, header: *mut TiffHeader) -> c_int;
    fn photosearch_tiff_has_compression(compression: u16) -> c_int;
    fn photosearch_tiff_read_palette(
        file: *mut TiffFile,
        bits: u16,
        red: *mut u16,
        green: *mut u16,
        blue: *mut u16,
    ) -> c_int;
    fn photosearch_tiff_read_chunk(
        file: *mut TiffFile,
        index: u32,
        rows: u32,
        exact: c_int,
        to: *mut u8,
        length: u64,
    ) -> c_int;
}

/// A TIFF whose first directory has been read.
pub(super) struct Tiff<'a> {
    file: NonNull<TiffFile>,
    header: TiffHeader,
    /// Whether each stored chunk must be as long as the decoded one, as it is without compression.
    exact: bool,
    packing: SamplePacking,
    interpretation: Interpretation,
    /// The length of the file in bytes.
    length: usize,
    /// libtiff holds a pointer to the file's bytes.
    bytes: PhantomData<&'a [u8]>,
}

/// Owns libtiff's handle until a [`Tiff`] takes it over.
struct Open(NonNull<TiffFile>);

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the file was made by `photosearch_tiff_new`, and nothing uses it after this call.
        unsafe { photosearch_tiff_free(self.0.as_ptr()) };
    }
}

impl<'a> Tiff<'a> {
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, ImageError> {
        let directory = directory::check(bytes, limits)?;
        // libtiff takes 0 for no limit.
        let memory = limits.max_memory.saturating_sub(limits.held).max(1);
        // SAFETY: the pointer is valid for `bytes.len()` bytes, and by the lifetime of `Tiff` the bytes
        // outlive the file.
        let file = unsafe { photosearch_tiff_new(bytes.as_ptr(), bytes.len(), memory) };
        let file = Open(NonNull::new(file).ok_or(ImageError::OutOfMemory {
            width: 0,
            height: 0,
        })?);
        let pointer = file.0.as_ptr();
        let check = |returned: c_int| {
            if returned != 0 {
                return Ok(());
            }
            // SAFETY: the failure is a part of the file, and no C function runs while it is borrowed.
            let failure = unsafe { &*photosearch_tiff_failure(pointer) };
            Err(failure.error(FORMAT, (0, 0), limits.max_memory))
        };
        // SAFETY: as above.
        let opened = unsafe { (*photosearch_tiff_failure(pointer)).is_none() };
        check(c_int::from(opened))?;
        let mut header = TiffHeader::default();
        // SAFETY: the file is open; the header is valid for writes.
        check(unsafe { photosearch_tiff_read_header(pointer, &mut header) })?;
        check_size(header.width, header.height)?;
        let exact = directory.check_header(&header)?;

        check_compression(&header)?;
        let mut interpretation = Interpretation::of(&header)?;
        if let Interpretation::Palette { colours, .. } = &mut interpretation {
            let [red, green, blue] = colours.as_mut();
            // SAFETY: the file is open; the arrays hold 2^8 entries, and `Interpretation::of` has refused
            // more bits.
            let read = unsafe {
                photosearch_tiff_read_palette(
                    pointer,
                    header.bits,
                    red.as_mut_ptr(),
                    green.as_mut_ptr(),
                    blue.as_mut_ptr(),
                )
            };
            if read == 0 {
                return Err(malformed("its palette is missing"));
            }
            interpretation.scale_palette();
        }
        let packing = SamplePacking::of(&header)?;
        let file = std::mem::ManuallyDrop::new(file).0;
        Ok(Tiff {
            file,
            header,
            exact,
            packing,
            interpretation,
            length: bytes.len(),
            bytes: PhantomData,
        })
    }

    /// Decodes the chunk `index` into `to`. The decoded chunk has to have the length of `to`; a strip has
    /// `rows` rows.
    fn read_chunk(
        &self,
        index: u32,
        rows: u32,
        to: &mut [u8],
        work: &Work<'_>,
    ) -> Result<(), ImageError> {
        let file = self.file.as_ptr();
        // SAFETY: the file is open; at most `to.len()` bytes are written to `to`.
        let read = unsafe {
            photosearch_tiff_read_chunk(
                file,
                index,
                rows,
                self.exact.into(),
                to.as_mut_ptr(),
                to.len() as u64,
            )
        };
        if read == 0 {
            // SAFETY: the failure is a part of the file, and no C function runs while it is borrowed.
            let failure = unsafe { &*photosearch_tiff_failure(file) };
            return Err(failure.error(FORMAT, work.size(), work.limit()));
        }
        Ok(())
    }
}

impl Drop for Tiff<'_> {
    fn drop(&mut self) {
        drop(Open(self.file));
    }
}

impl Source for Tiff<'_> {
    fn layout(&self) -> PixelLayout {
        let orientation = u8::try_from(self.header.orientation).ok();
        PixelLayout {
            width: self.header.width,
            height: self.header.height,
            orientation: orientation
                .and_then(Orientation::from_exif)
                .unwrap_or(Orientation::NoTransforms),
        }
    }

    fn decode(self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let TiffHeader {
            width,
            height,
            chunk_width,
            chunk_height,
            ..
        } = self.header;
        // libtiff copies the encoded bytes of a chunk from the file, twice while its buffer grows, and its codecs
        // allocate windows.
        let chunk_bytes = self.packing.chunk_bytes(chunk_width, chunk_height);
        let window = match self.header.compression {
            // A JPEG with several scans: libjpeg holds all coefficients, and libtiff sets no limit.
            JPEG => chunk_bytes.saturating_mul(2).saturating_add(1 << 20),
            // The largest window that libzstd accepts by default. LZMA has at most half of it, with xz's
            // largest preset.
            34_925 | 50_000 => 129 << 20,
            _ => 1 << 20,
        };
        work.take(window.saturating_add(2 * self.length as u64))?;
        let mut chunks = Vec::new();
        for _ in 0..self.packing.planes() {
            chunks.push(work.bytes(chunk_bytes)?);
        }
        let mut row =
            work.zeros::<u32>(u64::from(chunk_width) * u64::from(self.packing.channels()))?;
        let mut image = work.canvas(width, height)?;
        work.confirm()?;

        let pixels = image.pixels.as_chunks_mut::<3>().0;
        let across = width.div_ceil(chunk_width);
        let down = height.div_ceil(chunk_height);
        for chunk_row in 0..down {
            let top = chunk_row * chunk_height;
            // Tiles at the lower edge are padded; the last strip is not.
            let seen = chunk_height.min(height - top);
            let rows = if self.header.tiled != 0 {
                chunk_height
            } else {
                seen
            };
            let length = usize::try_from(self.packing.chunk_bytes(chunk_width, rows))
                .map_err(|_| work.out_of_memory())?;
            for chunk_column in 0..across {
                work.check_cancelled()?;
                let left = chunk_column * chunk_width;
                for (plane, chunk) in (0_u32..).zip(&mut chunks) {
                    let index = u64::from(plane) * u64::from(across) * u64::from(down)
                        + u64::from(chunk_row) * u64::from(across)
                        + u64::from(chunk_column);
                    let index =
                        u32::try_from(index).map_err(|_| malformed("it has too many tiles"))?;
                    self.read_chunk(index, rows, &mut chunk[..length], work)?;
                }
                let columns = chunk_width.min(width - left) as usize;
                for y in 0..seen {
                    self.packing.unpack(&chunks, chunk_width, y, &mut row);
                    let start = (top + y) as usize * width as usize + left as usize;
                    self.interpretation
                        .to_rgb(&row, &mut pixels[start..start + columns]);
                }
            }
        }
        Ok(image)
    }
}

/// Returns an error that names the compression, if it is not one that this module reads.
fn check_compression(header: &TiffHeader) -> Result<(), ImageError> {
    let refuse = |name| {
        Err(unsupported(&format!(
            "{name} (compression {})",
            header.compression
        )))
    };
    let name = match header.compression {
        1 => return Ok(()),
        2 | 3 | 4 | 32_771 => "fax",
        5 => "LZW",
        6 => return refuse("old-style JPEG"),
        JPEG => "JPEG",
        8 | 32_946 => "Deflate",
        32_773 => "PackBits",
        34_925 => "LZMA",
        50_000 => "ZSTD",
        // libtiff does not check that such a picture has the size of its strip.
        50_001 => return refuse("WebP"),
        32_766 => return refuse("NeXT"),
        32_809 => return refuse("ThunderScan"),
        32_908 | 32_909 => return refuse("Pixar"),
        34_661 => return refuse("JBIG"),
        34_676 | 34_677 => return refuse("SGILog"),
        33_003 | 33_005 | 34_712 => return refuse("JPEG 2000"),
        34_713 => return refuse("Nikon NEF"),
        34_887 => return refuse("LERC"),
        34_892 => return refuse("lossy JPEG of a camera's raw samples"),
        34_933 => return refuse("PNG"),
        34_934 => return refuse("JPEG XR"),
        50_002 | 52_546 => return refuse("JPEG XL"),
        _ => return refuse("an unknown coding"),
    };
    // SAFETY: the function has no preconditions.
    if unsafe { photosearch_tiff_has_compression(header.compression) } == 0 {
        return Err(unsupported(&format!(
            "{name}, which the system's libtiff was built without"
        )));
    }
    if name == "fax" && (header.bits != 1 || header.samples != 1) {
        return Err(malformed("fax coding of more than one bit per pixel"));
    }
    if name == "JPEG" && header.bits != 8 {
        return Err(unsupported(&format!(
            "JPEG with samples of {} bits",
            header.bits
        )));
    }
    if header.predictor > 1 && !matches!(header.bits, 8 | 16 | 32) {
        return Err(unsupported(&format!(
            "a predictor with samples of {} bits",
            header.bits
        )));
    }
    Ok(())
}

fn malformed(reason: &str) -> ImageError {
    ImageError::Malformed {
        format: FORMAT,
        reason: reason.to_owned(),
    }
}

fn unsupported(what: &str) -> ImageError {
    ImageError::Unsupported {
        what: format!("{FORMAT}, {what}"),
    }
}
