//! The interface to `heif.cc`: decodes a picture with libheif and reads its planes.

use std::ffi::c_int;
use std::ptr::NonNull;

use super::{ChromaFormat, Codec, Coded, single};
use crate::decoding::Work;
use crate::failure::Failure;
use crate::{ImageError, rgb};

/// The index of the green plane, which also holds transparency: see `Colours::IDENTITY`.
const GREEN: usize = 1;

/// `struct photosearch_heif_request` in `heif.cc`.
#[repr(C)]
struct PlanesRequest {
    file: *const u8,
    length: usize,
    width: u32,
    height: u32,
    memory: u64,
    av1: c_int,
    grey: c_int,
}

/// `struct photosearch_heif_planes` in `heif.cc`.
#[repr(C)]
struct PlaneRows {
    rows: [*const u8; 3],
    strides: [usize; 3],
    depth: u32,
}

/// `struct heif_image` of libheif.
#[repr(C)]
struct Decoded {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn photosearch_heif_decode(
        request: *const PlanesRequest,
        planes: *mut PlaneRows,
        failure: *mut Failure,
    ) -> *mut Decoded;
    fn photosearch_heif_free(image: *mut Decoded);
}

/// A decoded picture: one grey plane, or three planes of red, green and blue.
pub(super) struct Planes {
    image: NonNull<Decoded>,
    rows: PlaneRows,
    width: u32,
    height: u32,
    grey: bool,
    /// The 8-bit level for each value of a sample.
    levels: Vec<u8>,
}

impl Planes {
    /// Decodes a picture. The caller has counted the memory, `coded.memory()`, before.
    ///
    /// # Errors
    /// The coded data cannot be read, or libheif fails.
    pub fn decode(
        coded: &Coded<'_>,
        name: &'static str,
        work: &Work<'_>,
    ) -> Result<Self, ImageError> {
        let file = single::file(coded).map_err(|fault| fault.error(name))?;
        let grey = coded.format.chroma == ChromaFormat::None;
        let request = PlanesRequest {
            file: file.as_ptr(),
            length: file.len(),
            width: coded.format.width,
            height: coded.format.height,
            memory: coded.memory(),
            av1: c_int::from(coded.codec == Codec::Av1),
            grey: c_int::from(grey),
        };
        let mut rows = PlaneRows {
            rows: [std::ptr::null(); 3],
            strides: [0; 3],
            depth: 0,
        };
        let mut failure = Failure::NONE;
        // SAFETY: all pointers are valid during the call. The decoded picture does not point into the
        // file.
        let image = unsafe { photosearch_heif_decode(&request, &mut rows, &mut failure) };
        let Some(image) = NonNull::new(image) else {
            return Err(failure.error(name, work.size(), work.limit()));
        };
        Ok(Planes {
            image,
            levels: levels(rows.depth, coded.limited_range),
            rows,
            width: coded.format.width,
            height: coded.format.height,
            grey,
        })
    }

    /// The samples of a plane in the row `y`, from the column `x` on. A sample has one byte, or two if
    /// the depth is above 8 bits.
    fn samples(&self, plane: usize, x: u32, y: u32) -> &[u8] {
        assert!(x < self.width && y < self.height);
        // A grey picture has only its first plane.
        let plane = if self.grey { 0 } else { plane };
        let wide = usize::from(self.rows.depth > 8);
        // SAFETY: `heif.cc` has checked that each plane has `height` rows of `width` samples, with
        // `strides` bytes from one row to the next. The planes live until `self` is dropped.
        let row = unsafe {
            let row = self.rows.rows[plane].add(y as usize * self.rows.strides[plane]);
            std::slice::from_raw_parts(row, (self.width as usize) << wide)
        };
        &row[(x as usize) << wide..]
    }

    /// The levels of a plane in the row `y`, from the column `x` on.
    fn levels_of(&self, plane: usize, x: u32, y: u32) -> impl Iterator<Item = u8> {
        let bytes = if self.rows.depth > 8 { 2 } else { 1 };
        let samples = self.samples(plane, x, y).chunks_exact(bytes);
        samples.map(|sample| {
            let sample = match *sample {
                [sample] => usize::from(sample),
                [first, second] => usize::from(u16::from_ne_bytes([first, second])),
                _ => 0,
            };
            // A decoder should not return a sample beyond the depth. Such a sample counts as white.
            self.levels.get(sample).copied().unwrap_or(u8::MAX)
        })
    }

    /// Writes the colours of the row `y`, from the column `x` on.
    pub fn write_colours(&self, x: u32, y: u32, to: &mut [[u8; 3]]) {
        for plane in 0..3 {
            for (to, level) in to.iter_mut().zip(self.levels_of(plane, x, y)) {
                to[plane] = level;
            }
        }
    }

    /// Composites the colours in `to` over white. This picture is their transparency; its row `y` is used,
    /// from the column `x` on.
    pub fn write_on_white(&self, x: u32, y: u32, to: &mut [[u8; 3]]) {
        for (to, alpha) in to.iter_mut().zip(self.levels_of(GREEN, x, y)) {
            *to = rgb::on_white(*to, alpha);
        }
    }

    /// As [`Self::write_on_white`], for colours that are premultiplied with the transparency.
    pub fn write_premultiplied(&self, x: u32, y: u32, to: &mut [[u8; 3]]) {
        for (to, alpha) in to.iter_mut().zip(self.levels_of(GREEN, x, y)) {
            *to = to.map(|sample| sample.saturating_add(255 - alpha));
        }
    }
}

impl Drop for Planes {
    fn drop(&mut self) {
        // SAFETY: the picture was made by `decode`, and nothing uses it after this call.
        unsafe { photosearch_heif_free(self.image.as_ptr()) };
    }
}

/// The 8-bit level for each value of a sample of `depth` bits.
fn levels(depth: u32, limited_range: bool) -> Vec<u8> {
    let max = (1_u32 << depth.min(16)) - 1;
    let unit = (max + 1) / 256;
    let level = |sample: u32| {
        if limited_range {
            rgb::scale(sample.saturating_sub(16 * unit), 219 * unit)
        } else {
            rgb::scale(sample, max)
        }
    };
    (0..=max).map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::levels;

    #[test]
    fn full_and_limited_range_map_to_8_bits() {
        for depth in [8, 10, 12] {
            let unit = 1 << (depth - 8);
            let full = levels(depth, false);
            assert_eq!(full.len(), 256 * unit);
            assert_eq!((full[0], full[256 * unit - 1]), (0, 255));
            let limited = levels(depth, true);
            assert_eq!(limited.len(), 256 * unit);
            assert_eq!(
                (limited[0], limited[16 * unit], limited[235 * unit]),
                (0, 0, 255)
            );
            assert_eq!(limited[256 * unit - 1], 255);
            // The middle of the limited range, 109.5 of 219.
            assert_eq!(limited[251 * unit / 2], if unit == 1 { 127 } else { 128 });
        }
        let eight: Vec<u8> = (0..=255).collect();
        assert_eq!(levels(8, false), eight);
    }
}
