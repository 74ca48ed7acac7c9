//! Tests with WebP files that are written bit by bit.

use std::cell::Cell;

use super::*;
use crate::{Limits, open};

/// Writes bits, from the lowest of each byte.
#[derive(Default)]
pub(super) struct BitWriter {
    bits: Vec<bool>,
}

impl BitWriter {
    pub fn put(&mut self, count: u32, value: u32) -> &mut Self {
        self.bits
            .extend((0..count).map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A prefix code of one symbol, which takes no bits in the data.
    pub fn one(&mut self, symbol: u32) -> &mut Self {
        self.put(3, 0b101).put(8, symbol)
    }

    /// A prefix code of two symbols with a bit each: 0 for `low`, 1 for `high`.
    pub fn two(&mut self, low: u32, high: u32) -> &mut Self {
        self.put(3, 0b111).put(8, low).put(8, high)
    }

    /// A prefix code of `symbols` symbols, of which 0 to 255 have codes of 8 bits and the rest none.
    pub fn all(&mut self, symbols: usize) -> &mut Self {
        // The code of the code lengths has two symbols of one bit: 0 for a length of 8, 1 for a run of up to
        // 138 zeros.
        self.put(1, 0).put(4, 12 - 4);
        for symbol in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8] {
            self.put(3, u32::from(symbol == 8 || symbol == 18));
        }
        self.put(1, 0).put(256, 0);
        let mut zeros = symbols as u32 - 256;
        while zeros > 0 {
            let run = zeros.min(138);
            self.put(1, 1).put(7, run - 11);
            zeros -= run;
        }
        self
    }

    /// The prefix code for green, of two symbols with a bit each: 0 for green 0 (symbol 0 of 280), 1 for the
    /// longest repetition (symbol 279).
    fn literal_or_repetition(&mut self) -> &mut Self {
        // The lengths of the code length codes of 17 and 18 (runs of zeros), 0 and 1.
        self.put(1, 0).put(4, 0);
        for length in [2, 1, 0, 2] {
            self.put(3, length);
        }
        // All 280 lengths follow: 1, then 138 + 137 + 3 zeros, then 1.
        self.put(1, 0).put(2, 0b01);
        self.put(1, 0).put(7, 138 - 11).put(1, 0).put(7, 137 - 11);
        self.put(2, 0b11).put(3, 0).put(2, 0b01)
    }

    /// The five prefix codes of a picture of one colour.
    pub fn colour(&mut self, [red, green, blue, alpha]: [u32; 4]) -> &mut Self {
        self.one(green).one(red).one(blue).one(alpha).one(0)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| (0..).zip(bits).map(|(at, &bit)| u8::from(bit) << at).sum();
        self.bits.chunks(8).map(byte).collect()
    }
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_le_bytes();
    [name, &length[..], content, &[0][..content.len() % 2]].concat()
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[b"WEBP", &chunks.concat()[..]].concat())
}

/// The flags of `VP8X`.
const ANIMATED: u8 = 2;
const EXIF: u8 = 8;
const ALPHA: u8 = 16;

fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let (across, down) = ((width - 1).to_le_bytes(), (height - 1).to_le_bytes());
    let content = [&[flags, 0, 0, 0], &across[..3], &down[..3]].concat();
    chunk(b"VP8X", &content)
}

/// A lossless picture with `stream` after its header of 5 bytes.
fn lossless(width: u32, height: u32, stream: &[u8]) -> Vec<u8> {
    let size = (width - 1) | (height - 1) << 14 | 1 << 28;
    chunk(
        b"VP8L",
        &[&[0x2f][..], &size.to_le_bytes(), stream].concat(),
    )
}

/// The offset, in the chunk of a lossless picture, of the byte whose bit 4 says whether the alpha channel is
/// used.
const ALPHA_FLAG: usize = 8 + 4;

fn flat(width: u32, height: u32, colour: [u32; 4]) -> Vec<u8> {
    let stream = BitWriter::default().put(3, 0).colour(colour).bytes();
    lossless(width, height, &stream)
}

fn frame(left: u32, top: u32, width: u32, height: u32, picture: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for field in [left / 2, top / 2, width - 1, height - 1, 50] {
        content.extend(&field.to_le_bytes()[..3]);
    }
    content.push(0);
    chunk(b"ANMF", &[&content, picture].concat())
}

fn decode(file: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    open(file, limits)?.decode(None, &|| false)
}

fn decode_default(file: &[u8]) -> Result<RgbImage, ImageError> {
    decode(file, &Limits::default())
}

fn is_malformed(file: &[u8], reason: &str) -> bool {
    decode_default(file) == Err(malformed(reason))
}

#[test]
fn transparency_is_shown_on_white_if_the_header_states_alpha() {
    let picture = flat(3, 2, [10, 20, 30, 0]);
    let white = decode_default(&riff(std::slice::from_ref(&picture))).unwrap();
    assert_eq!(white.pixels(), [255; 18]);
    let mut opaque = picture;
    opaque[ALPHA_FLAG] &= !(1 << 4);
    let opaque = decode_default(&riff(&[opaque])).unwrap();
    assert_eq!(opaque.pixels(), [10, 20, 30].repeat(6));
}

#[test]
fn the_first_frame_stands_on_its_canvas() {
    let colour = [10, 20, 30];
    let file = |flags, alpha| {
        let first = frame(2, 4, 3, 2, &flat(3, 2, [10, 20, 30, alpha]));
        let second = frame(0, 0, 7, 9, &flat(7, 9, [1, 2, 3, 255]));
        let background = chunk(b"ANIM", &[1, 2, 3, 255, 0, 0]);
        riff(&[canvas(flags, 7, 9), background, first, second])
    };
    let expected = |beside: [u8; 3], within: [u8; 3]| {
        let at = |i: u32| {
            let (x, y) = (i % 7, i / 7);
            let inside = (2..5).contains(&x) && (4..6).contains(&y);
            if inside { within } else { beside }
        };
        RgbImage::new(7, 9, (0..63).flat_map(at).collect()).unwrap()
    };
    let shown = |flags, alpha| decode_default(&file(flags, alpha)).unwrap();
    assert_eq!(shown(ANIMATED | ALPHA, 255), expected([255; 3], colour));
    assert_eq!(shown(ANIMATED | ALPHA, 0), expected([255; 3], [255; 3]));
    assert_eq!(shown(ANIMATED, 0), expected([0; 3], colour));
}

#[test]
fn data_after_the_first_picture_may_be_missing() {
    // An odd length, so that a byte of padding follows.
    let stream = BitWriter::default()
        .put(3, 0)
        .colour([1, 2, 3, 255])
        .bytes();
    let stream = if stream.len().is_multiple_of(2) {
        [&stream[..], &[0]].concat()
    } else {
        stream
    };
    let (width, height) = (5, 4);
    let still = riff(&[
        canvas(EXIF, width, height),
        lossless(width, height, &stream),
        chunk(b"XMP ", &[b'x'; 40]),
    ]);
    let whole = decode_default(&still).unwrap();
    let after_length = 8 + 40;
    let picture_end = still.len() - after_length;
    for length in 0..still.len() {
        let cut = decode_default(&still[..length]);
        assert!(cut.is_err(), "{length}: the orientation is unknown");
    }
    let mut without = still;
    without[20] = 0; // no EXIF announced
    assert_eq!(decode_default(&without), Ok(whole.clone()));
    for length in picture_end - 1..without.len() {
        let cut = decode_default(&without[..length]);
        assert_eq!(cut, Ok(whole.clone()), "{length}");
    }
    // Fewer than 12 bytes are not recognised as WebP.
    for length in 12..picture_end - 2 {
        let cut = decode_default(&without[..length]);
        // Cutting the last bytes may remove only unused bits and padding.
        let missing = matches!(cut, Err(ImageError::Malformed { .. }));
        assert!(missing || length + 4 >= picture_end, "{length}: {cut:?}");
    }
}

#[test]
fn chunks_that_contradict_each_other_are_refused() {
    let picture = flat(3, 2, [1, 2, 3, 255]);
    assert!(is_malformed(
        &riff(&[canvas(0, 4, 2), picture.clone()]),
        "its header cannot be read"
    ));
    let background = || chunk(b"ANIM", &[0; 6]);
    for (file, reason) in [
        // A frame that extends beyond the canvas; a canvas without a picture; no chunks.
        (
            vec![
                canvas(ANIMATED, 4, 2),
                background(),
                frame(2, 0, 3, 2, &picture),
            ],
            "its chunks contradict each other",
        ),
        (vec![canvas(0, 3, 2)], "its chunks contradict each other"),
        (vec![], "its header cannot be read"),
    ] {
        let found = decode_default(&riff(&file)).unwrap_err().to_string();
        assert_eq!(found, format!("malformed WebP image: {reason}"));
    }
}

#[test]
fn the_memory_of_libwebpdemux_is_counted() {
    let picture = flat(3, 2, [1, 2, 3, 255]);
    let empty = || chunk(b"junk", b"");
    let counted = |chunks: &[Vec<u8>]| demuxer_memory(&riff(chunks));
    let fixed = DEMUXER + DEMUXED_FRAME;
    assert_eq!(counted(&[]), fixed);
    assert_eq!(
        counted(std::slice::from_ref(&picture)),
        fixed + DEMUXED_CHUNK
    );
    let odd = [empty(), chunk(b"odd ", b"1"), empty()];
    assert_eq!(counted(&odd), fixed + 3 * DEMUXED_CHUNK);
    // libwebpdemux also lists the chunks that follow the picture inside a frame.
    let content = [picture.clone(), empty(), empty()].concat();
    let animated = [canvas(ANIMATED, 3, 2), frame(0, 0, 3, 2, &content), empty()];
    assert_eq!(
        counted(&animated),
        fixed + DEMUXED_FRAME + 5 * DEMUXED_CHUNK
    );
}

#[test]
fn a_list_of_chunks_counts_against_the_memory_limit() {
    let picture = flat(3, 2, [1, 2, 3, 255]);
    let mut many = vec![canvas(0, 3, 2), picture];
    many.extend((0..50_000).map(|_| chunk(b"junk", b"")));
    let many = riff(&many);
    let limits = |max_memory| Limits {
        max_memory,
        ..Limits::default()
    };
    // libwebpdemux allocates 32 bytes for each chunk, so 1.6 MB for the list.
    assert!(decode(&many, &limits(2 << 20)).is_ok());
    let refused = decode(&many, &limits(1 << 20)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "decoding an image would take 2 MB, more than 1 MB"
    );
}

/// A picture with `groups` prefix code groups, one for each block of 4 × 4 pixels.
fn grouped(groups: u32) -> Vec<u8> {
    let mut writer = BitWriter::default();
    // No transform, no colour cache, an entropy image for blocks of 4 × 4 pixels.
    writer.put(2, 0).put(1, 1).put(3, 0);
    writer.put(1, 0).all(280).all(256).one(0).one(255).one(0);
    for group in 0..groups {
        // The first bit of a prefix code is its highest.
        let reversed = |byte: u32| u32::from((byte as u8).reverse_bits());
        writer
            .put(8, reversed(group & 255))
            .put(8, reversed(group >> 8));
    }
    for group in 0..groups {
        writer.colour([group >> 8, group & 255, 7, 255]);
    }
    writer.bytes()
}

#[test]
fn prefix_code_groups_are_counted_as_libwebp_allocates_them() {
    for groups in [1, 999, 1000, 1001, 1500] {
        let stream = grouped(groups);
        let (width, height) = (4 * groups, 4);
        let image = decode_default(&riff(&[lossless(width, height, &stream)])).unwrap();
        for (x, pixel) in (0..width).zip(image.pixels().chunks(3)) {
            let group = x / 4;
            assert_eq!(pixel, [(group >> 8) as u8, (group & 255) as u8, 7], "{x}");
        }
        let counted = lossless::memory(&stream, width, height, &|| false).unwrap();
        let tables = u64::from(groups) * (2 * 4 * 2954 + 640);
        let pixels = 4 * u64::from(width) * (4 + 20);
        let group_numbers = 4 * u64::from(groups) + 4 * u64::from(groups);
        assert_eq!(counted, tables + pixels + group_numbers, "{groups}");
    }
}

#[test]
fn groups_that_no_pixel_uses_are_counted_up_to_1000() {
    let stream = |red: u32, last: u32| {
        let mut writer = BitWriter::default();
        writer.put(2, 0).put(1, 1).put(3, 0);
        // An entropy image of two blocks, whose colours are group numbers: red is the high byte, green the low
        // one. The first block belongs to the group (`red`, `last`), the second one to the group (`red`, 0).
        writer
            .put(1, 0)
            .two(0, last)
            .one(red)
            .one(0)
            .one(255)
            .one(0);
        writer.put(2, 0b01);
        writer.bytes()
    };
    let groups = |red, last| {
        let memory = lossless::memory(&stream(red, last), 8, 4, &|| false).unwrap();
        let group_numbers = 4 * 2 + 4 * u64::from(red << 8 | last) + 4;
        (memory - group_numbers) / (2 * 4 * 2954 + 640)
    };
    assert_eq!(groups(0, 4), 5);
    assert_eq!(groups(3, 231), 1000);
    // Above 1000 groups only the used ones count, and group 0, which always counts.
    assert_eq!(groups(3, 232), 3);
    assert_eq!(groups(255, 255), 3);
}

#[test]
fn transforms_take_memory_and_palettes_pack_pixels() {
    let memory =
        |stream: &mut BitWriter| lossless::memory(&stream.bytes(), 1000, 100, &|| false).unwrap();
    let one_group = 2 * 4 * 2954 + 640;
    let lines = 4 * 20 * 1000;
    let plain = memory(BitWriter::default().put(3, 0));
    assert_eq!(plain, 4 * 100_000 + lines + one_group);
    // A predictor transform with blocks of 8 × 8 pixels, and subtract-green.
    let mut stream = BitWriter::default();
    stream
        .put(1, 1)
        .put(2, 0)
        .put(3, 1)
        .put(1, 0)
        .colour([0; 4]);
    stream.put(1, 1).put(2, 2).put(3, 0);
    assert_eq!(memory(&mut stream), plain + 4 * 125 * 13);
    // A palette of 4 colours: 4 pixels share a byte.
    let mut stream = BitWriter::default();
    stream
        .put(1, 1)
        .put(2, 3)
        .put(8, 3)
        .put(1, 0)
        .colour([0; 4])
        .put(3, 0);
    assert_eq!(
        memory(&mut stream),
        4 * 25_000 + lines + one_group + 4 * (4 + 256)
    );
    // A colour cache of 11 bits.
    let mut stream = BitWriter::default();
    stream.put(1, 0).put(1, 1).put(4, 11).put(1, 0);
    assert_eq!(memory(&mut stream), plain + 8 * (5004 - 2954));

    // Refused: the same transform twice, a cache of 12 bits.
    let refused = |stream: &mut BitWriter| {
        let found = lossless::memory(&stream.bytes(), 1000, 100, &|| false);
        assert_eq!(found, Err(malformed("its data cannot be decoded")));
    };
    refused(BitWriter::default().put(1, 1).put(2, 2).put(1, 1).put(2, 2));
    refused(BitWriter::default().put(1, 0).put(1, 1).put(4, 12));
    let stream = grouped(40);
    for length in 0..40 {
        let cut = lossless::memory(&stream[..length], 1000, 100, &|| false);
        assert_eq!(cut, Err(cut_short()), "{length}");
    }
}

#[test]
fn a_header_that_asks_for_gigabytes_is_refused() {
    // The stream ends after the entropy image, before the prefix codes of the groups.
    let mut stream = grouped(20_000);
    stream.truncate(100 + 2 * 20_000);
    let file = riff(&[lossless(800, 400, &stream)]);
    let limits = Limits {
        max_memory: 400 << 20,
        ..Limits::default()
    };
    let refused = decode(&file, &limits);
    assert!(matches!(refused, Err(ImageError::TooMuchMemory { .. })));
    assert!(is_malformed(&file, "its data cannot be decoded"));
}

#[test]
fn decoding_a_small_file_of_many_pixels_can_be_cancelled() {
    let side = 4096;
    let mut writer = BitWriter::default();
    writer.put(3, 0).literal_or_repetition();
    // The same red, blue and alpha for every pixel, and repetitions of the pixel to the left.
    writer.one(30).one(20).one(255).one(1);
    writer.put(1, 0);
    // After the first pixel, repetitions of 4096 pixels, the most that one can cover. The last repetition is
    // a pixel shorter, as the picture ends there.
    for _ in 1..side {
        writer.put(1, 1).put(10, (1 << 10) - 1);
    }
    writer.put(1, 1).put(10, (1 << 10) - 2);
    let mut opaque = lossless(side, side, &writer.bytes());
    opaque[ALPHA_FLAG] &= !(1 << 4);
    let file = riff(&[opaque]);
    assert!(file.len() < 8 << 10);

    let decode = |file: &[u8], cancelled: &dyn Fn() -> bool| {
        open(file, &Limits::default())?.decode(None, cancelled)
    };
    let asked = Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        false
    };
    let image = decode(&file, &count).unwrap();
    assert!(image.pixels().chunks(3).all(|pixel| pixel == [30, 0, 20]));
    let pieces = asked.take();
    assert!(pieces >= 4, "asked {pieces} times");
    let cancel_late = || {
        count();
        asked.get() == pieces - 1
    };
    assert_eq!(decode(&file, &cancel_late), Err(ImageError::Cancelled));

    // libwebp decodes this picture in a single piece, since its pixels take no bits. Laying it on white asks
    // at each row whether to stop.
    asked.set(0);
    let transparent = riff(&[flat(side, side, [0, 0, 0, 128])]);
    assert!(decode(&transparent, &count).is_ok());
    assert!(asked.get() >= side, "asked {} times", asked.get());
}
