//! From packed samples to RGB, with expectations computed by hand.

use super::Header;
use super::meaning::{Meaning, of_lab};
use super::samples::Packing;
use crate::ImageError;

fn header() -> Header {
    Header {
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
        ..Header::default()
    }
}

/// What a chunk of 3 × 2 pixels shows in its row `y`.
fn shown(header: &Header, chunks: &[Vec<u8>], y: u32) -> Vec<[u8; 3]> {
    let packing = Packing::of(header).unwrap();
    let length = packing.chunk_bytes(3, 2);
    assert!(
        chunks.iter().all(|chunk| chunk.len() as u64 == length),
        "{length}"
    );
    assert_eq!(chunks.len() as u32, packing.planes());
    let mut row = vec![0; 3 * packing.channels() as usize];
    packing.unpack(chunks, 3, y, &mut row);
    let mut pixels = vec![[0; 3]; 3];
    Meaning::of(header).unwrap().to_rgb(&row, &mut pixels);
    pixels
}

#[test]
fn samples_that_share_bytes() {
    let bits = |bits| Header { bits, ..header() };
    // Rows begin with a new byte.
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
    let header = Header {
        photometric: 0,
        ..bits(4)
    };
    assert_eq!(
        shown(&header, &[vec![0x0f, 0x80, 0, 0]], 0),
        [[255; 3], [0; 3], [119; 3]]
    );
}

#[test]
fn samples_of_whole_bytes_are_in_the_machine_s_order() {
    let wide: Vec<u8> = [0_u16, 257, 65_535, 1, 2, 3]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let bits = |bits| Header { bits, ..header() };
    assert_eq!(shown(&bits(16), &[wide], 0), [[0; 3], [1; 3], [255; 3]]);
    let wide: Vec<u8> = [0, u32::MAX, u32::MAX / 255 * 7, 1, 2, 3]
        .iter()
        .flat_map(|v: &u32| v.to_ne_bytes())
        .collect();
    assert_eq!(shown(&bits(32), &[wide], 0), [[0; 3], [255; 3], [7; 3]]);
}

#[test]
fn extra_samples_are_alpha_only_where_they_say_so() {
    let rgb = |samples, kinds: &[u16]| {
        let mut header = Header {
            photometric: 2,
            samples,
            extra_count: kinds.len() as u16,
            ..header()
        };
        header.extra_kinds[..kinds.len()].copy_from_slice(kinds);
        header
    };
    let four: Vec<u8> = [[100, 60, 0, 128]; 6].concat();
    let first = |header: &Header, chunk: &[u8]| shown(header, &[chunk.to_vec()], 1)[0];
    assert_eq!(first(&rgb(4, &[0]), &four), [100, 60, 0]);
    assert_eq!(first(&rgb(4, &[1]), &four), [227, 187, 127]);
    assert_eq!(first(&rgb(4, &[2]), &four), [177, 157, 127]);
    assert_eq!(first(&rgb(4, &[]), &four), [177, 157, 127]);
    let five: Vec<u8> = [[100, 60, 0, 7, 128]; 6].concat();
    assert_eq!(first(&rgb(5, &[0, 2]), &five), [177, 157, 127]);
    assert_eq!(first(&rgb(5, &[0, 0]), &five), [100, 60, 0]);
    // More kinds than samples.
    assert_eq!(first(&rgb(4, &[0, 2]), &four), [100, 60, 0]);

    // In planes of their own, those behind alpha are not read.
    let separate = Header {
        separate: 1,
        ..rgb(5, &[2, 0])
    };
    let planes: Vec<Vec<u8>> = [100, 60, 0, 128].map(|level| vec![level; 6]).into();
    assert_eq!(shown(&separate, &planes, 1), [[177, 157, 127]; 3]);
}

#[test]
fn inks_and_palettes() {
    let cmyk = Header {
        photometric: 5,
        samples: 4,
        ..header()
    };
    let chunk = [[0, 128, 255, 55]; 6].concat();
    assert_eq!(shown(&cmyk, &[chunk], 0), [[200, 100, 0]; 3]);

    let palette = |level: u16| {
        let mut meaning = Meaning::of(&Header {
            photometric: 3,
            ..header()
        })
        .unwrap();
        let Meaning::Palette(colours) = &mut meaning else {
            panic!("{meaning:?}")
        };
        colours[0][7] = level;
        colours[2][255] = level;
        meaning.scale_palette();
        let mut pixels = [[9; 3]; 3];
        meaning.to_rgb(&[7, 255, 300], &mut pixels);
        pixels
    };
    assert_eq!(palette(65_535), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
    assert_eq!(palette(65_280), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
    assert_eq!(palette(255), [[255, 0, 0], [0, 0, 255], [0, 0, 0]]);
}

#[test]
fn pixels_that_share_chroma() {
    let header = Header {
        photometric: 6,
        samples: 3,
        chroma_across: 2,
        chroma_down: 2,
        luma: [0.299, 0.587, 0.114],
        black_white: [0.0, 255.0, 128.0, 255.0, 128.0, 255.0],
        ..header()
    };
    // Two blocks of 2 × 2 pixels, of which the last column is not seen.
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
        Packing::of(&Header {
            chroma_across: 3,
            ..header
        })
        .is_err()
    );
    assert!(
        Packing::of(&Header {
            separate: 1,
            ..header
        })
        .is_err()
    );
    assert!(
        Meaning::of(&Header {
            black_white: [0.0; 6],
            ..header
        })
        .is_err()
    );
    assert!(
        Meaning::of(&Header {
            luma: [f32::NAN; 3],
            ..header
        })
        .is_err()
    );
}

#[test]
fn lab() {
    assert_eq!(of_lab([0, 0, 0]), [0, 0, 0]);
    assert_eq!(of_lab([255, 0, 0]), [255, 255, 255]);
    // Of L*a*b* (53.24, 80.09, 67.20) under D65, sRGB's red, adapted to D50: (54.29, 80.8, 69.9).
    let [r, g, b] = of_lab([138, 81, 70]);
    assert!(r >= 252 && g < 15 && b < 15, "{r} {g} {b}");
}

#[test]
fn what_is_not_read_is_named() {
    let named = |header: Header, name: &str| {
        let error = Meaning::of(&header).unwrap_err();
        let ImageError::Unsupported { what } = &error else {
            panic!("{error}");
        };
        assert!(what.starts_with("TIFF, ") && what.contains(name), "{what}");
    };
    named(
        Header {
            sample_format: 2,
            ..header()
        },
        "signed",
    );
    named(
        Header {
            sample_format: 3,
            bits: 32,
            ..header()
        },
        "floating-point",
    );
    named(
        Header {
            bits: 24,
            ..header()
        },
        "24 bits",
    );
    named(
        Header {
            bits: 64,
            ..header()
        },
        "64 bits",
    );
    named(
        Header {
            photometric: 32_803,
            ..header()
        },
        "raw",
    );
    named(
        Header {
            photometric: 777,
            ..header()
        },
        "777",
    );
    named(
        Header {
            photometric: 3,
            bits: 16,
            ..header()
        },
        "palette",
    );
    named(
        Header {
            photometric: 5,
            samples: 6,
            ink_set: 2,
            ..header()
        },
        "inks",
    );
    assert!(matches!(
        Meaning::of(&Header {
            photometric: 2,
            samples: 2,
            ..header()
        }),
        Err(ImageError::Malformed { .. })
    ));
}
