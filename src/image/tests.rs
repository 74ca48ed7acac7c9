//! Tests of the whole crate: files of all formats are decoded.

use std::path::PathBuf;

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

use super::decoding::{PANICKED, without_limits};
use super::*;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

fn golden_file(name: &str) -> Vec<u8> {
    let path = golden("modes").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Reads tensors of bytes, rows × columns × samples, by their keys.
fn golden_pixels(name: &str) -> impl Fn(&str) -> Vec<Vec<Vec<u8>>> {
    let file = std::fs::read(golden(name)).unwrap();
    move |key| {
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let tensor = tensors.tensor(key).unwrap();
        let [_, columns, samples] = tensor.shape() else {
            panic!("{key} is no picture");
        };
        let rows = tensor.data().chunks(columns * samples);
        rows.map(|row| row.chunks(*samples).map(<[u8]>::to_vec).collect())
            .collect()
    }
}

/// A picture as rows of pixels of three samples, the form of [`golden_pixels`].
fn rows(image: &RgbImage) -> Vec<Vec<Vec<u8>>> {
    let row = 3 * image.width() as usize;
    image
        .pixels()
        .chunks(row)
        .map(|row| row.chunks(3).map(<[u8]>::to_vec).collect())
        .collect()
}

fn differences(a: &[Vec<Vec<u8>>], b: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let flat = |rows: &[Vec<Vec<u8>>]| rows.concat().concat();
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    flat(a)
        .iter()
        .zip(flat(b))
        .map(|(a, b)| a.abs_diff(b))
        .collect()
}

fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    open(bytes, limits)?.decode(None, &|| false)
}

fn decode_default(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode(bytes, &Limits::default())
}

/// All files of `tests/golden/modes`, one for each format and coding, and three files with EXIF.
fn mode_files() -> Vec<(String, Vec<u8>)> {
    let modes = golden_json("modes/modes.json");
    let names = modes
        .as_array()
        .unwrap()
        .iter()
        .map(|mode| mode["file"].as_str().unwrap());
    let mut files: Vec<_> = names
        .map(|name| (name.to_owned(), golden_file(name)))
        .collect();
    let (width, height, pixels) = slope();
    for (name, exif) in [
        ("exif.jpg", exif(6)),
        ("exif.png", exif(6)),
        ("exif.webp", exif(6)),
    ] {
        files.push((
            name.to_owned(),
            encode(name, width, height, &pixels, Some(exif)),
        ));
    }
    files
}

/// A picture of 5 × 3 pixels without any symmetry.
fn slope() -> (u32, u32, Vec<u8>) {
    (
        5,
        3,
        (0..15)
            .flat_map(|i| [i * 17, 255 - i * 9, i * i % 200])
            .collect(),
    )
}

fn exif(orientation: u16) -> Vec<u8> {
    let mut block = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    block.extend(orientation.to_be_bytes());
    block.extend([0; 6]); // the rest of the entry, and the offset of the next directory
    block
}

fn encode(name: &str, width: u32, height: u32, pixels: &[u8], exif: Option<Vec<u8>>) -> Vec<u8> {
    fn with(
        mut encoder: impl ImageEncoder,
        (width, height, pixels): (u32, u32, &[u8]),
        exif: Option<Vec<u8>>,
    ) {
        if let Some(exif) = exif {
            encoder.set_exif_metadata(exif).unwrap();
        }
        encoder
            .write_image(pixels, width, height, ExtendedColorType::Rgb8)
            .unwrap();
    }
    let mut out = Vec::new();
    let image = (width, height, pixels);
    match name.rsplit('.').next().unwrap() {
        "jpg" => with(JpegEncoder::new_with_quality(&mut out, 100), image, exif),
        "png" => with(PngEncoder::new(&mut out), image, exif),
        "webp" => with(WebPEncoder::new_lossless(&mut out), image, exif),
        other => panic!("no encoder for {other}"),
    }
    out
}

/// An uncompressed RGB TIFF. (The `image` crate's encoder writes no orientation.)
fn tiff(width: u32, height: u32, pixels: &[u8], orientation: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32, u32); 10] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, 8 + 2 + 12 * 10 + 4), // bits per sample, after the directory
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 12 * 10 + 4 + 6), // the strip, after the bits per sample
        (274, 3, 1, u32::from(orientation)),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, pixels.len() as u32),
    ];
    let mut file = b"II*\0\x08\0\0\0\x0a\0".to_vec();
    for (tag, kind, count, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 8, 0, 8, 0, 8, 0]);
    file.extend(pixels);
    file
}

#[test]
fn every_mode_is_decoded_as_by_the_reference() {
    let pixels = golden_pixels("modes/pixels.safetensors");
    for mode in golden_json("modes/modes.json").as_array().unwrap() {
        let name = mode["file"].as_str().unwrap();
        let image = decode_default(&golden_file(name)).unwrap();
        // "intended" has the pixels where this crate differs on purpose: alpha on white, 16 bits.
        let expected = match mode.get("differs") {
            Some(_) => pixels(&format!("{name}.intended")),
            None => pixels(name),
        };
        let differences = differences(&rows(&image), &expected);
        let worst = *differences.iter().max().unwrap();
        // This crate rounds 16 bits to 8; the reference cuts off the low byte.
        let allowed = u8::from(name.starts_with("sixteen"));
        assert!(worst <= allowed, "{name}: off by {worst}");
    }
}

#[test]
fn pictures_are_resized_as_by_the_reference() {
    let pixels = golden_pixels("preprocess.safetensors");
    let (mut values, mut beyond) = (0, 0);
    for case in golden_json("preprocess.json")["resizes"]
        .as_array()
        .unwrap()
    {
        let number = |value: &Value| value.as_u64().unwrap() as u32;
        let image = formula(number(&case["width"]), number(&case["height"]));
        let (width, height) = (number(&case["to"][0]), number(&case["to"][1]));
        let resized = resize_bicubic(&image, width, height).unwrap();

        // The file has every `stride`-th row and column, and the sums of all samples.
        let rows = rows(&resized);
        let stride = number(&case["stride"]) as usize;
        let every = |row: &Vec<Vec<u8>>| row.iter().step_by(stride).cloned().collect::<Vec<_>>();
        let kept: Vec<_> = rows.iter().step_by(stride).map(every).collect();
        let differences = differences(&kept, &pixels(case["tensor"].as_str().unwrap()));
        values += differences.len();
        beyond += differences
            .iter()
            .filter(|&&difference| difference > 1)
            .count();
        for channel in 0..3 {
            let sum: i64 = resized
                .pixels()
                .iter()
                .skip(channel)
                .step_by(3)
                .map(|&v| i64::from(v))
                .sum();
            let expected = case["sums"][channel].as_i64().unwrap();
            let mean = (sum - expected) as f64 / (f64::from(width) * f64::from(height));
            assert!(
                mean.abs() < 0.02,
                "{case}: channel {channel} is off by {mean} on average"
            );
        }
    }
    assert!(values > 100_000);
    assert!(
        beyond * 1000 <= values,
        "{beyond} of {values} values are off by more than a level"
    );
}

/// The picture that "formula" in `tests/golden/preprocess.json` describes.
fn formula(width: u32, height: u32) -> RgbImage {
    let triangle = |t: u32| (t % 512).min(511 - t % 512);
    let sample = |x: u32, y: u32, c: u32| match (x / 16 + y / 16) % 3 {
        0 => (x * x * (c + 1) + 3 * x * y + 7 * y * y + 29 * c) % 256,
        1 => (triangle(x * (c + 3)) + triangle(y * (5 - c))) / 2,
        _ => (x + y + c) % 2 * 255,
    };
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            pixels.extend((0..3).map(|c| sample(x, y, c) as u8));
        }
    }
    RgbImage::new(width, height, pixels).unwrap()
}

#[test]
fn orientation_is_applied_in_every_format_that_states_it() {
    let (width, height, pixels) = slope();
    let plain = RgbImage::new(width, height, pixels.clone()).unwrap();
    for value in 1..=8u8 {
        let orientation = image::metadata::Orientation::from_exif(value).unwrap();
        let upright = |plain| without_limits(|work| orientation::upright(plain, orientation, work));
        let expected = upright(plain.clone()).unwrap();
        let block = exif(u16::from(value));
        let prefixed = [b"Exif\0\0", block.as_slice()].concat();
        for (format, file) in [
            (
                "PNG",
                encode("a.png", width, height, &pixels, Some(block.clone())),
            ),
            (
                "WebP",
                encode("a.webp", width, height, &pixels, Some(block.clone())),
            ),
            (
                "WebP with JPEG's prefix",
                encode("a.webp", width, height, &pixels, Some(prefixed)),
            ),
            ("TIFF", tiff(width, height, &pixels, u16::from(value))),
        ] {
            assert_eq!(
                decode_default(&file).unwrap().pixels(),
                expected.pixels(),
                "{format} {value}"
            );
        }
        // JPEG is lossy, so compare with the same file without an orientation.
        let plain = decode_default(&encode("a.jpg", width, height, &pixels, None)).unwrap();
        let turned = decode_default(&encode("a.jpg", width, height, &pixels, Some(block))).unwrap();
        assert_eq!(turned, upright(plain).unwrap(), "JPEG {value}");
    }
}

#[test]
fn unreadable_exif_is_ignored() {
    let (width, height, pixels) = slope();
    let mut far = exif(6);
    far[4..8].fill(0xff);
    let blocks = [
        vec![],
        b"II*\0".to_vec(),
        far,
        exif(0),
        exif(9),
        exif(6)[..20].to_vec(),
        vec![7; 999],
    ];
    for block in blocks {
        for name in ["a.jpg", "a.png", "a.webp"] {
            let plain = decode_default(&encode(name, width, height, &pixels, None));
            let odd = decode_default(&encode(name, width, height, &pixels, Some(block.clone())));
            assert_eq!(odd, plain, "{name} with {block:?}");
        }
    }
    let odd = decode_default(&tiff(width, height, &pixels, 99)).unwrap();
    assert_eq!(odd.pixels(), pixels);
}

/// Whether the decoder returned without a panic.
fn is_sound(result: &Result<RgbImage, ImageError>) -> bool {
    !matches!(result, Err(ImageError::Malformed { reason, .. }) if reason == PANICKED)
}

#[test]
fn a_file_that_is_cut_short_is_an_error() {
    for (name, file) in mode_files() {
        let whole = decode_default(&file).unwrap();
        for length in 0..file.len() {
            let cut = decode_default(&file[..length]);
            assert!(is_sound(&cut), "{name} cut to {length}");
            match cut {
                // A file may lack its last bytes if they are only end markers, checksums or padding.
                Ok(image) => {
                    assert_eq!(image, whole, "{name} cut to {length}");
                    assert!(file.len() - length <= 24, "{name} cut to {length}");
                }
                Err(error) => assert!(
                    matches!(
                        error,
                        ImageError::Malformed { .. } | ImageError::Unsupported { .. }
                    ),
                    "{name} cut to {length}: {error}"
                ),
            }
        }
    }
}

#[test]
fn no_flipped_bit_makes_a_decoder_panic() {
    let limits = Limits {
        max_memory: 80 << 20,
        ..Limits::default()
    };
    for (name, file) in mode_files() {
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                is_sound(&decode(&damaged, &limits)),
                "{name} with bit {bit} flipped"
            );
        }
    }
}

proptest! {
    #[test]
    fn noise_after_a_signature_makes_no_decoder_panic(
        file in prop::sample::select(mode_files()),
        keep in 0..200_usize,
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let limits = Limits { max_memory: 80 << 20, ..Limits::default() };
        let start = &file.1[..keep.min(file.1.len())];
        prop_assert!(is_sound(&decode(&[start, &noise].concat(), &limits)));
    }

    #[test]
    fn resizing_to_any_size_does_not_panic(
        from in (1..40_u32, 1..40_u32),
        to in (0..200_u32, 0..200_u32),
        factor in prop::sample::select(vec![1_u32, 1, 1, 10, 65_536, u32::MAX / 200]),
    ) {
        let image = formula(from.0, from.1);
        let (width, height) = (to.0 * factor, to.1 * factor);
        match resize_bicubic(&image, width, height) {
            Ok(resized) => prop_assert_eq!((resized.width(), resized.height()), (width, height)),
            Err(error) => prop_assert!(
                width == 0 || height == 0 || width.max(height) > MAX_SIDE
                    || u64::from(width) * u64::from(height) > MAX_PIXELS, "{error}"),
        }
    }
}

#[test]
fn limits_are_checked_before_pixels_are_decoded() {
    let png = |width: u32, height: u32| {
        let mut file = encode("a.png", 5, 3, &slope().2, None);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        file
    };
    let message = |file: &[u8], limits: &Limits| decode(file, limits).unwrap_err().to_string();
    let limits = Limits {
        max_bytes: 10_000,
        ..Limits::default()
    };
    assert_eq!(
        message(&[0; 10_001], &limits),
        "image of 10001 bytes exceeds the limit of 10000 bytes"
    );
    assert_eq!(
        message(&png(100_000, 100_000), &limits),
        "image of 100000 x 100000 pixels exceeds the limit of 65535 pixels per side"
    );
    assert_eq!(
        message(&png(20_000, 20_000), &limits),
        "image of 20000 x 20000 pixels exceeds the limit of 268435456 pixels"
    );
    assert_eq!(
        message(&png(0, 7), &limits),
        "image of 0 x 7 pixels has no pixels"
    );
    // Below the limits the decoder reads on, and finds that the header's checksum is wrong.
    assert!(matches!(
        decode(&png(100, 100), &limits),
        Err(ImageError::Malformed { .. })
    ));
}

/// The smallest [`Limits::max_memory`] with which a file is decoded.
fn least_memory(name: &str, file: &[u8]) -> u64 {
    let (mut too_little, mut enough) = (0, 1 << 30);
    while enough - too_little > 1 {
        let max_memory = u64::midpoint(too_little, enough);
        let limits = Limits {
            max_memory,
            ..Limits::default()
        };
        match decode(file, &limits) {
            Ok(_) => enough = max_memory,
            Err(ImageError::TooMuchMemory { limit, .. }) => {
                assert_eq!(limit, max_memory, "{name}");
                too_little = max_memory;
            }
            Err(error) => panic!("{name} with {max_memory} bytes: {error}"),
        }
    }
    enough
}

#[test]
fn memory_is_counted_before_it_is_taken() {
    for (name, file) in mode_files() {
        let image = decode_default(&file).unwrap();
        let least = least_memory(&name, &file);
        // The pixels, and the memory that a decoder takes for a picture of any size.
        assert!(least >= image.pixels().len() as u64, "{name}: {least}");
        assert!(least < 100 << 20, "{name}: {least}");
    }
    // A picture that is rotated by a quarter turn takes memory twice.
    let (width, height) = (1600, 1200);
    let pixels: Vec<u8> = (0..3 * width * height).map(|i| (i % 251) as u8).collect();
    let least = |orientation| {
        let file = encode("a.png", width, height, &pixels, Some(exif(orientation)));
        least_memory("a.png", &file)
    };
    assert!(least(1) < 4 * u64::from(width * height));
    assert_eq!(least(6), 6 * u64::from(width * height));
}

/// The file has 13 MB, and decoding takes 35 MB more.
#[test]
fn a_large_lossless_webp_is_read() {
    let (width, height) = (2200, 2000);
    let mut noise = 1_u32;
    let pixels: Vec<u8> = (0..3 * width * height)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .collect();
    let file = encode("a.webp", width, height, &pixels, None);
    assert!(file.len() > 12 << 20);
    let limits = Limits {
        max_memory: 8 * u64::from(width * height),
        ..Limits::default()
    };
    let image = decode(&file, &limits).unwrap();
    assert_eq!(image.pixels(), pixels);
    // Cancel in the middle, between two pieces.
    let asked = std::cell::Cell::new(0);
    let cancelled = open(&file, &limits).unwrap().decode(None, &|| {
        asked.set(asked.get() + 1);
        asked.get() > 5
    });
    assert_eq!(cancelled, Err(ImageError::Cancelled));
    assert_eq!(asked.get(), 6);
}

#[test]
fn a_jpeg_is_decoded_at_a_fraction_of_its_size_for_a_small_wanted_size() {
    let (width, height) = (201, 101);
    let pixels: Vec<u8> = (0..3 * width * height)
        .map(|i| (i / 7 % 256) as u8)
        .collect();
    for (orientation, turned) in [(1, false), (6, true)] {
        let file = encode("a.jpg", width, height, &pixels, Some(exif(orientation)));
        let size = |wanted: Option<(u32, u32)>| {
            let turn = |(across, down)| {
                if turned {
                    (down, across)
                } else {
                    (across, down)
                }
            };
            let picture = open(&file, &Limits::default()).unwrap();
            assert_eq!(picture.size(), turn((width, height)));
            let image = picture.decode(wanted.map(turn), &|| false).unwrap();
            turn((image.width(), image.height()))
        };
        assert_eq!(size(None), (201, 101));
        // Both sides stay at least twice the wanted ones.
        assert_eq!(size(Some((13, 6))), (26, 13));
        assert_eq!(size(Some((13, 7))), (51, 26));
        assert_eq!(size(Some((14, 6))), (51, 26));
        assert_eq!(size(Some((50, 25))), (101, 51));
        assert_eq!(size(Some((51, 25))), (201, 101));
        assert_eq!(size(Some((1, 1))), (26, 13));
        assert_eq!(size(Some((u32::MAX, u32::MAX))), (201, 101));
    }
}

#[test]
fn decoding_ends_when_it_is_cancelled() {
    for (name, file) in mode_files() {
        // BMP is decoded in one call.
        if name.ends_with(".bmp") {
            continue;
        }
        let picture = open(&file, &Limits::default()).unwrap();
        let cancelled = picture.decode(None, &|| true);
        assert_eq!(cancelled, Err(ImageError::Cancelled), "{name}");
    }
}

#[test]
fn a_file_of_another_format_is_described() {
    for (file, what) in [
        (&b""[..], "no bytes at all"),
        (b"just text", "text"),
        (b"<?xml version=\"1.0\"?><svg/>", "SVG"),
        (
            b"\0\0\0\x18ftypqt  \0\0\0\0qt  mp42",
            "a video or another ISO media file",
        ),
        (b"%PDF-1.7", "PDF"),
        (
            b"\xff\xfe\xfd\xfc\xfb",
            "a file that starts with ff fe fd fc",
        ),
    ] {
        let message = decode_default(file).unwrap_err().to_string();
        assert_eq!(message, format!("unsupported image format: {what}"));
    }
}

#[cfg(not(feature = "heif"))]
#[test]
fn without_libheif_heic_and_avif_are_refused_by_name() {
    for (file, name) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
    ] {
        let message = decode_default(file).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "unsupported image format: {name}, which this build of photosearch was made without"
            )
        );
    }
    assert!(!FORMATS.contains("HEIC"));
}

#[test]
fn an_rgb_image_has_the_length_of_its_size() {
    assert!(RgbImage::new(2, 1, vec![0; 6]).is_ok());
    assert_eq!(
        RgbImage::new(2, 1, vec![0; 5]),
        Err(ImageError::WrongLength {
            width: 2,
            height: 1,
            bytes: 5
        })
    );
    assert_eq!(
        RgbImage::new(0, 1, vec![]),
        Err(ImageError::Empty {
            width: 0,
            height: 1
        })
    );
    assert!(matches!(
        RgbImage::new(MAX_SIDE, MAX_SIDE, vec![]),
        Err(ImageError::TooManyPixels { .. })
    ));
}
