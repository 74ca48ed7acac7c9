//! Tests of the conversion from packed samples to RGB, with expectations computed by hand, and of whole
//! files.

use super::interpretation::Interpretation;
use super::samples::SamplePacking;
use super::{JPEG, PALETTE, Source, Tiff, TiffHeader, YCBCR};
use crate::decoding::without_limits;
use crate::{ImageError, Limits, RgbImage};

fn header() -> TiffHeader {
    TiffHeader {
        width: 3,
        height: 2,
        chunk_width: 3,
        chunk_height: 2,
        compression: 1,
        predictor: 1,
        photometric: 1,
        ink_set: 1,
        orientation: 1,
        samples: 1,
        bits: 8,
        sample_format: 1,
        ..TiffHeader::default()
    }
}

/// Converts the row `y` of a part of 3 × 2 pixels to RGB. `chunks` are its planes, or its only chunk.
fn shown(header: &TiffHeader, chunks: &[Vec<u8>], y: u32) -> Vec<[u8; 3]> {
    let packing = SamplePacking::of(header).unwrap();
    let length = packing.chunk_bytes(3, 2);
    assert!(
        chunks.iter().all(|chunk| chunk.len() as u64 == length),
        "{length}"
    );
    assert_eq!(chunks.len() as u32, packing.planes());
    let mut row = vec![0; 3 * packing.channels() as usize];
    packing.unpack(chunks, 3, y, &mut row);
    let mut pixels = vec![[0; 3]; 3];
    Interpretation::of(header)
        .unwrap()
        .to_rgb(&row, &mut pixels);
    pixels
}

#[test]
fn samples_that_share_bytes_are_unpacked() {
    let bits = |bits| TiffHeader { bits, ..header() };
    // Each row begins with a new byte.
    let chunk = vec![0b1010_0000, 0b0110_0000];
    assert_eq!(
        shown(&bits(1), std::slice::from_ref(&chunk), 0),
        [[255; 3], [0; 3], [255; 3]]
    );
    assert_eq!(
        shown(&bits(1), std::slice::from_ref(&chunk), 1),
        [[0; 3], [255; 3], [255; 3]]
    );
    assert_eq!(shown(&bits(2), &[chunk], 0), [[170; 3], [170; 3], [0; 3]]);
    let chunk = vec![0x0f, 0xf8, 0x00, 0x00, 0x10, 0, 0, 0, 0, 0];
    assert_eq!(
        shown(&bits(12), std::slice::from_ref(&chunk), 0),
        [[16; 3], [128; 3], [0; 3]]
    );
    let header = TiffHeader {
        photometric: 0,
        ..bits(4)
    };
    assert_eq!(
        shown(&header, &[vec![0x0f, 0x80, 0, 0]], 0),
        [[255; 3], [0; 3], [119; 3]]
    );
}

#[test]
fn samples_of_whole_bytes_are_in_the_machine_s_byte_order() {
    let wide: Vec<u8> = [0_u16, 257, 65_535, 1, 2, 3]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let bits = |bits| TiffHeader { bits, ..header() };
    assert_eq!(shown(&bits(16), &[wide], 0), [[0; 3], [1; 3], [255; 3]]);
    let wide: Vec<u8> = [0, u32::MAX, u32::MAX / 255 * 7, 1, 2, 3]
        .iter()
        .flat_map(|v: &u32| v.to_ne_bytes())
        .collect();
    assert_eq!(shown(&bits(32), &[wide], 0), [[0; 3], [255; 3], [7; 3]]);
}

#[test]
fn extra_samples_are_alpha_only_if_the_file_states_it() {
    let rgb = |samples, kinds: &[u16]| {
        let mut header = TiffHeader {
            photometric: 2,
            samples,
            extra_count: kinds.len() as u16,
            ..header()
        };
        header.extra_kinds[..kinds.len()].copy_from_slice(kinds);
        header
    };
    let four: Vec<u8> = [[100, 60, 0, 128]; 6].concat();
    let first = |header: &TiffHeader, chunk: &[u8]| shown(header, &[chunk.to_vec()], 1)[0];
    assert_eq!(first(&rgb(4, &[0]), &four), [100, 60, 0]);
    assert_eq!(first(&rgb(4, &[1]), &four), [227, 187, 127]);
    assert_eq!(first(&rgb(4, &[2]), &four), [177, 157, 127]);
    assert_eq!(first(&rgb(4, &[]), &four), [177, 157, 127]);
    let five: Vec<u8> = [[100, 60, 0, 7, 128]; 6].concat();
    assert_eq!(first(&rgb(5, &[0, 2]), &five), [177, 157, 127]);
    assert_eq!(first(&rgb(5, &[0, 0]), &five), [100, 60, 0]);
    // Kinds of more samples than there are, and samples without a kind.
    let refused = |header: &TiffHeader| Interpretation::of(header).unwrap_err();
    let malformed = refused(&rgb(4, &[0, 2]));
    assert!(matches!(malformed, ImageError::Malformed { .. }));
    let unsupported = refused(&rgb(5, &[]));
    assert!(matches!(unsupported, ImageError::Unsupported { .. }));

    // Separate planes after alpha are not read.
    let separate = TiffHeader {
        separate: 1,
        ..rgb(5, &[2, 0])
    };
    let planes: Vec<Vec<u8>> = [100, 60, 0, 128].map(|level| vec![level; 6]).into();
    assert_eq!(shown(&separate, &planes, 1), [[177, 157, 127]; 3]);
}

#[test]
fn cmyk_and_palettes_become_rgb() {
    let cmyk = TiffHeader {
        photometric: 5,
        samples: 4,
        ..header()
    };
    let chunk = [[0, 128, 255, 55]; 6].concat();
    assert_eq!(shown(&cmyk, &[chunk], 0), [[200, 100, 0]; 3]);

    let palette = |level: u16| {
        let mut interpretation = Interpretation::of(&TiffHeader {
            photometric: 3,
            ..header()
        })
        .unwrap();
        let Interpretation::Palette { colours, .. } = &mut interpretation else {
            panic!("{interpretation:?}")
        };
        colours[0][7] = level;
        colours[2][255] = level;
        interpretation.scale_palette();
        let mut pixels = [[9; 3]; 3];
        interpretation.to_rgb(&[7, 255, 300], &mut pixels);
        pixels
    };
    assert_eq!(palette(65_535), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
    assert_eq!(palette(65_280), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
    assert_eq!(palette(255), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
}

#[test]
fn subsampled_chroma_is_shared_by_its_pixels() {
    let header = TiffHeader {
        photometric: 6,
        samples: 3,
        chroma_across: 2,
        chroma_down: 2,
        luma: [0.299, 0.587, 0.114],
        black_white: [0.0, 255.0, 128.0, 255.0, 128.0, 255.0],
        ..header()
    };
    // Two blocks of 2 × 2 pixels; the last column is outside of the picture.
    let chunk = vec![10, 20, 30, 40, 128, 128, 76, 0, 150, 0, 85, 255];
    assert_eq!(
        shown(&header, std::slice::from_ref(&chunk), 0),
        [[10; 3], [20; 3], [254, 0, 0]]
    );
    assert_eq!(
        shown(&header, &[chunk], 1),
        [[30; 3], [40; 3], [255, 74, 74]]
    );
    assert!(
        SamplePacking::of(&TiffHeader {
            chroma_across: 3,
            ..header
        })
        .is_err()
    );
    assert!(
        SamplePacking::of(&TiffHeader {
            separate: 1,
            ..header
        })
        .is_err()
    );
    assert!(
        Interpretation::of(&TiffHeader {
            black_white: [0.0; 6],
            ..header
        })
        .is_err()
    );
    assert!(
        Interpretation::of(&TiffHeader {
            luma: [f32::NAN; 3],
            ..header
        })
        .is_err()
    );
}

#[test]
fn unsupported_variants_are_named() {
    let named = |header: TiffHeader, name: &str| {
        let error = Interpretation::of(&header).unwrap_err();
        let ImageError::Unsupported { what } = &error else {
            panic!("{error}");
        };
        assert!(what.starts_with("TIFF, ") && what.contains(name), "{what}");
    };
    named(
        TiffHeader {
            sample_format: 2,
            ..header()
        },
        "signed",
    );
    named(
        TiffHeader {
            sample_format: 3,
            bits: 32,
            ..header()
        },
        "floating-point",
    );
    named(
        TiffHeader {
            bits: 24,
            ..header()
        },
        "24 bits",
    );
    named(
        TiffHeader {
            bits: 64,
            ..header()
        },
        "64 bits",
    );
    named(
        TiffHeader {
            photometric: 32_803,
            ..header()
        },
        "raw",
    );
    named(
        TiffHeader {
            photometric: 777,
            ..header()
        },
        "777",
    );
    named(
        TiffHeader {
            photometric: 3,
            bits: 16,
            ..header()
        },
        "palette",
    );
    named(
        TiffHeader {
            photometric: 5,
            samples: 6,
            ink_set: 2,
            ..header()
        },
        "inks",
    );
    assert!(matches!(
        Interpretation::of(&TiffHeader {
            photometric: 2,
            samples: 2,
            ..header()
        }),
        Err(ImageError::Malformed { .. })
    ));
}

#[test]
fn alpha_of_palettes_and_of_cmyk() {
    let header = TiffHeader {
        photometric: PALETTE,
        samples: 2,
        extra_kinds: [2, 0, 0, 0, 0, 0, 0, 0],
        extra_count: 1,
        ..header()
    };
    let mut interpretation = Interpretation::of(&header).unwrap();
    if let Interpretation::Palette { colours, .. } = &mut interpretation {
        colours[0][7] = 51_400;
    }
    interpretation.scale_palette();
    let mut pixels = [[9; 3]; 2];
    interpretation.to_rgb(&[7, 255, 7, 128], &mut pixels);
    assert_eq!(pixels, [[200, 0, 0], [227, 127, 127]]);

    let premultiplied = TiffHeader {
        extra_kinds: [1, 0, 0, 0, 0, 0, 0, 0],
        ..header
    };
    for (photometric, samples) in [(0, 2), (PALETTE, 2), (5, 5)] {
        let header = TiffHeader {
            photometric,
            samples,
            ..premultiplied
        };
        let error = Interpretation::of(&header).unwrap_err();
        assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    }
}

/// libtiff's JPEG decoder converts YCbCr to RGB only if all samples are in one JPEG.
#[test]
fn jpeg_in_planes_stays_ycbcr() {
    let whole = TiffHeader {
        photometric: YCBCR,
        compression: JPEG,
        samples: 3,
        chroma_across: 1,
        chroma_down: 1,
        luma: [0.299, 0.587, 0.114],
        black_white: [0.0, 255.0, 128.0, 255.0, 128.0, 255.0],
        ..header()
    };
    let interpretation = Interpretation::of(&whole).unwrap();
    assert!(
        matches!(interpretation, Interpretation::Rgb { .. }),
        "{interpretation:?}"
    );
    let separate = TiffHeader {
        separate: 1,
        ..whole
    };
    let planes: Vec<Vec<u8>> = [76, 85, 255].map(|level| vec![level; 6]).into();
    assert_eq!(shown(&separate, &planes, 0), [[254, 0, 0]; 3]);
}

/// The length of a huge tile saturates, instead of wrapping to a small number.
#[test]
fn the_length_of_a_chunk_saturates() {
    let header = TiffHeader {
        samples: u16::MAX,
        extra_count: u16::MAX - 1,
        bits: 32,
        ..header()
    };
    let packing = SamplePacking::of(&header).unwrap();
    assert_eq!(packing.chunk_bytes(u32::MAX, u32::MAX), u64::MAX);
}

/// A little-endian file: its strips, then its directory. Values have 4 bytes for strip tags and 2 bytes
/// for other tags. The offsets and lengths of the strips are added, unless `tags` has them.
fn file(tags: &[(u16, &[u32])], strips: &[&[u8]]) -> Vec<u8> {
    let mut file = b"II*\0\0\0\0\0".to_vec();
    let mut places = Vec::new();
    for strip in strips {
        places.push(file.len() as u32);
        file.extend(*strip);
        file.resize(file.len().next_multiple_of(2), 0);
    }
    let lengths: Vec<u32> = strips.iter().map(|strip| strip.len() as u32).collect();
    let mut tags = tags.to_vec();
    for own in [(273, &places[..]), (279, &lengths[..])] {
        if tags.iter().all(|(tag, _)| *tag != own.0) {
            tags.push(own);
        }
    }
    tags.sort();
    let mut directory = (tags.len() as u16).to_le_bytes().to_vec();
    for (tag, values) in tags {
        let wide = matches!(tag, 273 | 278 | 279);
        let values_bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes()[..if wide { 4 } else { 2 }].to_vec())
            .collect();
        directory.extend(tag.to_le_bytes());
        directory.extend(if wide { 4_u16 } else { 3 }.to_le_bytes());
        directory.extend((values.len() as u32).to_le_bytes());
        if values_bytes.len() > 4 {
            directory.extend((file.len() as u32).to_le_bytes());
            file.extend(&values_bytes);
            file.resize(file.len().next_multiple_of(2), 0);
        } else {
            let mut inline = values_bytes;
            inline.resize(4, 0);
            directory.extend(inline);
        }
    }
    let place = (file.len() as u32).to_le_bytes();
    file[4..8].copy_from_slice(&place);
    file.extend(directory);
    file.extend([0; 4]);
    file
}

fn decoded(file: &[u8]) -> Result<RgbImage, ImageError> {
    let tiff = Tiff::open(file, &Limits::default())?;
    without_limits(|work| Box::new(tiff).decode(work))
}

/// The tags of a grey picture of 2 × 2 pixels, without and with some tags.
fn grey<'a>(without: &[u16], with: &[(u16, &'a [u32])]) -> Vec<(u16, &'a [u32])> {
    let mut tags: Vec<(u16, &[u32])> = vec![
        (256, &[2]),
        (257, &[2]),
        (258, &[8]),
        (259, &[1]),
        (262, &[1]),
        (277, &[1]),
        (278, &[1]),
    ];
    tags.retain(|(tag, _)| !without.contains(tag) && with.iter().all(|(other, _)| tag != other));
    tags.extend(with);
    tags
}

#[test]
fn complete_files_are_decoded() {
    let strips: &[&[u8]] = &[&[0, 100], &[200, 255]];
    let image = decoded(&file(&grey(&[], &[]), strips)).unwrap();
    assert_eq!((image.width(), image.height()), (2, 2));
    let levels = [[0; 3], [100; 3], [200; 3], [255; 3]];
    assert_eq!(image.pixels(), levels.as_flattened());
    // An unknown tag and an invalid orientation are ignored.
    let image = decoded(&file(&grey(&[], &[(274, &[9]), (60_000, &[1])]), strips));
    assert_eq!(image.unwrap().pixels(), levels.as_flattened());
    // No compression is stated, and the lengths are those of uncompressed strips.
    let image = decoded(&file(&grey(&[259], &[]), strips));
    assert_eq!(image.unwrap().pixels(), levels.as_flattened());
}

#[test]
fn directories_that_contradict_their_pixels_are_refused() {
    let strips: &[&[u8]] = &[&[0, 100], &[200, 255]];
    let long: &[&[u8]] = &[&[0, 100, 1], &[200, 255, 1]];
    let files = [
        ("no palette", file(&grey(&[], &[(262, &[3])]), strips)),
        (
            "a palette of 2 entries",
            file(&grey(&[], &[(262, &[3]), (320, &[1; 6])]), strips),
        ),
        ("no offset", file(&grey(&[], &[(273, &[0, 0])]), strips)),
        ("too few offsets", file(&grey(&[], &[(273, &[8])]), strips)),
        ("more strips", file(&grey(&[278], &[]), strips)),
        ("short strips", file(&grey(&[], &[(279, &[1, 1])]), strips)),
        ("no compression", file(&grey(&[259], &[]), long)),
        ("a kind too many", file(&grey(&[], &[(338, &[0])]), strips)),
        ("a bit order", file(&grey(&[], &[(266, &[7])]), strips)),
    ];
    for (what, file) in files {
        let error = decoded(&file).unwrap_err();
        assert!(
            matches!(error, ImageError::Malformed { .. }),
            "{what}: {error}"
        );
    }
    let unsupported = [
        file(
            &grey(&[], &[(258, &[5, 6, 5]), (277, &[3]), (262, &[2])]),
            strips,
        ),
        file(&grey(&[], &[(277, &[3])]), strips),
        file(&grey(&[], &[(259, &[34_712])]), strips),
    ];
    for file in unsupported {
        let error = decoded(&file).unwrap_err();
        assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    }
}
