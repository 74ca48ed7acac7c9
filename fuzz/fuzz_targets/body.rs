//! The common part of all targets: decodes an input and checks the result.

use photosearch_image::{Filter, Limits, Picture, RgbImage, open};

use crate::heap;

/// The limit for a decoding in bytes. It is low, so that a decoder that takes more memory than it has
/// counted is noticed.
const MEMORY: u64 = 64 << 20;
/// A margin in bytes for memory that decoders do not count: names, tables, messages.
const UNCOUNTED: u64 = 4 << 20;
/// One file in this many is decoded twice, to compare the pixels. (Large ones always are, as the number below
/// is a multiple.)
const TWICE: u32 = 8;
/// A picture with more pixels than this is large: decoding it is slow and rarely reaches new code.
const LARGE: u32 = 1 << 20;
/// One large picture in this many is decoded.
const ONE_LARGE: u32 = 64;

/// Decodes `bytes` in full and for a small size, if `begins` says that they start like a file of the
/// target's formats. A panic of a decoder, which callers would get as an error, ends the fuzzer.
pub fn decode(bytes: &[u8], begins: impl Fn(&[u8]) -> bool) {
    if !begins(bytes) {
        return;
    }
    let Some(size) = counted(|| opened(bytes).map(|picture| picture.size())) else {
        return;
    };
    // A pseudorandom number that is the same each time for a file.
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
    // From damaged data, libde265 reads memory that it has not written. `ZeroedMemory` in heif.cc zeroes
    // that memory on a server, but it has no effect on the sanitizer's allocator.
    let by_libde265 = bytes.windows(4).any(|name| name == b"hvc1");
    if chance.is_multiple_of(TWICE) && !by_libde265 {
        // Decode again with other content in newly allocated memory.
        let again = heap::filled(0x55, || in_full(bytes));
        assert!(whole == again, "the pixels of two decodings differ");
    }
    drop(whole);

    // The files have few pixels, so wanted sizes are small, to reach all scales of a decoder. A decoder may
    // scale by 1/2, 1/4 or 1/8 if the result is still twice as large as wanted, for a good last resize.
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
    opened(bytes)?.decode_to(wanted.0, wanted.1, Filter::Bicubic, &|| false).ok()
}

/// Runs `work` and checks that it has not taken more memory than the limit.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    let (result, most) = heap::most(work);
    assert!(
        most <= MEMORY + UNCOUNTED,
        "decoding took {} MB, more than {} MB",
        most >> 20,
        MEMORY >> 20
    );
    result
}
