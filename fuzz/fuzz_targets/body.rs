//! What every target does with its bytes.

use photosearch_image::{Limits, Picture, RgbImage, open};

use crate::heap;

/// Little, so that a decoder which takes more than it counted shows.
const MEMORY: u64 = 64 << 20;
/// What decoders hold beside what they count: names, tables, messages.
const UNCOUNTED: u64 = 4 << 20;
/// Of so many files one is decoded twice.
const TWICE: u32 = 8;
/// Pixels of a large picture, which takes its time to say little that is new.
const LARGE: u32 = 1 << 20;
/// Of so many large pictures one is decoded.
const ONE_LARGE: u32 = 64;

/// Decodes `bytes` in full and for a small size, where they begin as a file of the target's
/// formats does. A panic of a decoder ends the fuzzer, although callers would get an error.
pub fn decode(bytes: &[u8], begins: impl Fn(&[u8]) -> bool) {
    if !begins(bytes) {
        return;
    }
    let Some(size) = counted(|| opened(bytes).map(|picture| picture.size())) else {
        return;
    };
    // Steady for a file, and else any number.
    let chance = bytes.iter().fold(1_u32, |sum, &byte| {
        sum.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    }) >> 8;

    if size.0.saturating_mul(size.1) > LARGE && !chance.is_multiple_of(ONE_LARGE) {
        return;
    }
    let whole = counted(|| in_full(bytes));
    if let Some(image) = &whole {
        assert_eq!((image.width(), image.height()), size);
    }
    // Of damaged data, libde265 reads memory that it has not written. On a server that memory is zero
    // (`ZeroedMemory` in heif.cc), which the sanitizer's allocator does not know.
    let by_libde265 = bytes.windows(4).any(|name| name == b"hvc1");
    if chance.is_multiple_of(TWICE) && !by_libde265 {
        // Other bytes lie in memory that nobody has written yet.
        let again = heap::filled(0x55, || in_full(bytes));
        assert!(whole == again, "the pixels of two decodings differ");
    }
    drop(whole);

    // Files have few pixels: small sizes, so that all scales of a decoder come up.
    let wanted = (1 + chance / TWICE % 24, 1 + chance / TWICE / 24 % 16);
    if let Some(image) = counted(|| scaled(bytes, wanted)) {
        let got = (image.width(), image.height());
        let at = |scale: u32| (size.0.div_ceil(scale), size.1.div_ceil(scale));
        assert!([1, 2, 4, 8].map(at).contains(&got), "{got:?} of {size:?}");
        let enough = got.0 >= 2 * wanted.0 && got.1 >= 2 * wanted.1;
        assert!(got == size || enough, "{got:?} for {wanted:?}");
    }
    if let Some(image) = counted(|| resized(bytes, wanted)) {
        assert_eq!((image.width(), image.height()), wanted);
    }
}

fn opened(bytes: &[u8]) -> Option<Picture<'_>> {
    let limits = Limits {
        max_memory: MEMORY,
        ..Limits::default()
    };
    open(bytes, &limits).ok()
}

fn in_full(bytes: &[u8]) -> Option<RgbImage> {
    opened(bytes)?.decode(None, &|| false).ok()
}

fn scaled(bytes: &[u8], wanted: (u32, u32)) -> Option<RgbImage> {
    opened(bytes)?.decode(Some(wanted), &|| false).ok()
}

fn resized(bytes: &[u8], wanted: (u32, u32)) -> Option<RgbImage> {
    opened(bytes)?.decode_to(wanted.0, wanted.1, &|| false).ok()
}

/// Runs `work`, which must not take more memory than it was allowed.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    let (result, most) = heap::most(work);
    assert!(
        most <= MEMORY + UNCOUNTED,
        "{} MB were taken of {} MB",
        most >> 20,
        MEMORY >> 20
    );
    result
}
