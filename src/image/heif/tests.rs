//! Tests with HEIF files that are assembled box by box. Their coded pictures have one colour, and were
//! made with x265 and libaom.

use super::items::PrimaryPicture;
use super::*;
use crate::Limits;
use crate::decoding::without_limits;
use crate::{Picture, open};

/// 64 × 64 pixels of 200, 100, 50. Full range, BT.601, 4:2:0.
const HEVC: &str = "000000172801af1380e533c09fff2ca3ffe8fb3c3e6e69ad50f53e";
const HVCC: &str = "0103700000009000000000001ef000fcfdf8f800000f03600001001840010c01ffff03700000\
    030090000003000003001eba0240610001002b42010103700000030090000003000003001ea020810596ea4929ae6e\
    021a0c0800000300c800000300084062000100074401c172b02240";
/// 100 × 76 pixels, cropped from 104 × 80. 4:4:4, 12 bits, full range, BT.601.
const HVCC_CROPPED: &str = "0104080000000000000000001ef000fcfffcfc00000f03200001001740010c01ffff0\
    40800000300983800000300001eba0240210001002d420101040800000300983800000300001e90069028e594a52d\
    d492535cdc08081810000003001000000300108022000100084401c172860c0224";
const SPS_CROPPED: &str = "420101040800000300983800000300001e90069028e594a52dd492535cdc0808181000\
    00030010000003001080";
/// The parameter set of a picture of 64 × 64 pixels, limited range, BT.709, 4:4:4.
const SPS_LIMITED: &str = "4201010408000003009e3800000300001e90041020b2dd492535cd4043404100000300\
    19000003000108";
/// 64 × 64 pixels of 200, 100, 50. Limited range, BT.709, 4:2:0.
const AV1: &str = "12000a0918157ffd82021a0208321416400618618400b483ee5341337c5311e9775518";
const AV1C: &str = "81000c00";
/// 64 × 64 pixels of grey.
const AV1_GREY: &str = "12000a0918157ffd86021a0d40320a1640186100b50180a240";
/// Sequence headers: that of [`AV1_GREY`]; one of 4:4:4, 10 bits, full range, BT.601; and one of
/// 640 × 480 pixels without `reduced_still_picture_header`.
const SEQUENCE_GREY: &str = "0a0918157ffd86021a0d40";
const SEQUENCE_10: &str = "0a0938157ffd8c04341a40";
const SEQUENCE_NOT_REDUCED: &str = "0a0e20000024c4ffdf36be4808683480";

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|digit| !digit.is_ascii_whitespace())
        .collect();
    let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn a_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], name, content].concat()
}

/// An item to be written: type, data, properties (name, content, essential) and references.
#[derive(Clone, Default)]
struct TestItem {
    kind: [u8; 4],
    data: Vec<u8>,
    properties: Vec<(&'static [u8; 4], Vec<u8>, bool)>,
    references: Vec<(&'static [u8; 4], Vec<u16>)>,
}

impl TestItem {
    fn with(mut self, name: &'static [u8; 4], content: &[u8]) -> Self {
        self.properties.push((name, content.to_vec(), true));
        self
    }

    fn to(mut self, kind: &'static [u8; 4], items: &[u16]) -> Self {
        self.references.push((kind, items.to_vec()));
        self
    }
}

fn ispe(width: u32, height: u32) -> Vec<u8> {
    [[0; 4], width.to_be_bytes(), height.to_be_bytes()].concat()
}

fn heic() -> TestItem {
    let made = TestItem {
        kind: *b"hvc1",
        data: hex(HEVC),
        ..TestItem::default()
    };
    made.with(b"hvcC", &hex(HVCC)).with(b"ispe", &ispe(64, 64))
}

fn avif(data: &str) -> TestItem {
    let made = TestItem {
        kind: *b"av01",
        data: hex(data),
        ..TestItem::default()
    };
    made.with(b"av1C", &hex(AV1C)).with(b"ispe", &ispe(64, 64))
}

fn grid(rows: u8, columns: u8, width: u16, height: u16) -> TestItem {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    TestItem {
        kind: *b"grid",
        data: [&[0, 0, rows - 1, columns - 1][..], &sides].concat(),
        ..TestItem::default()
    }
}

/// A file of these items, with IDs from 1 on. The first item is the primary one.
fn file(items: &[TestItem]) -> Vec<u8> {
    let count = items.len() as u16;
    let (mut infes, mut properties, mut references) = (vec![], vec![], vec![0; 4]);
    let mut associations = [&[0; 4][..], &u32::from(count).to_be_bytes()].concat();
    let mut index = 0;
    for (item, id) in items.iter().zip(1_u16..) {
        let id = id.to_be_bytes();
        infes.extend(a_box(
            b"infe",
            &[&[2, 0, 0, 0][..], &id, &[0, 0], &item.kind, &[0]].concat(),
        ));
        associations.extend([id[0], id[1], item.properties.len() as u8]);
        for (name, content, essential) in &item.properties {
            properties.extend(a_box(name, content));
            index += 1;
            associations.push(u8::from(*essential) << 7 | index);
        }
        for (kind, to) in &item.references {
            let to: Vec<u8> = std::iter::once(to.len() as u16)
                .chain(to.iter().copied())
                .flat_map(u16::to_be_bytes)
                .collect();
            references.extend(a_box(kind, &[&id[..], &to].concat()));
        }
    }
    let head = a_box(b"ftyp", b"heic\0\0\0\0mif1");
    let meta = |mut start: u32| {
        let mut locations = [&[0, 0, 0, 0, 0x44, 0][..], &count.to_be_bytes()].concat();
        for (item, id) in items.iter().zip(1_u16..) {
            locations.extend([&id.to_be_bytes()[..], &[0, 0, 0, 1], &start.to_be_bytes()].concat());
            locations.extend((item.data.len() as u32).to_be_bytes());
            start += item.data.len() as u32;
        }
        let content = [
            vec![0; 4],
            a_box(b"hdlr", b"\0\0\0\0\0\0\0\0pict\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            a_box(b"pitm", &[0, 0, 0, 0, 0, 1]),
            a_box(b"iloc", &locations),
            a_box(
                b"iinf",
                &[&[0; 4][..], &count.to_be_bytes(), &infes].concat(),
            ),
            a_box(b"iref", &references),
            a_box(
                b"iprp",
                &[a_box(b"ipco", &properties), a_box(b"ipma", &associations)].concat(),
            ),
        ];
        a_box(b"meta", &content.concat())
    };
    let start = head.len() + meta(0).len() + 8;
    let data: Vec<u8> = items.iter().flat_map(|item| item.data.clone()).collect();
    [head, meta(start as u32), a_box(b"mdat", &data)].concat()
}

fn opened(file: &[u8]) -> Result<Picture<'_>, ImageError> {
    open(file, &Limits::default())
}

fn decoded(items: &[TestItem]) -> Result<RgbImage, ImageError> {
    opened(&file(items))?.decode(None, &|| false)
}

fn size(items: &[TestItem]) -> (u32, u32) {
    opened(&file(items)).unwrap().size()
}

fn what_is_wrong(items: &[TestItem]) -> String {
    match PrimaryPicture::read(&file(items)).map(drop).unwrap_err() {
        Fault::Damaged(reason) => reason.into_owned(),
        Fault::Unsupported(what) => format!("unsupported {what}"),
        Fault::Size(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_colour(image: &RgbImage, colour: [u8; 3]) {
    for pixel in image.pixels().chunks(3) {
        let near = pixel
            .iter()
            .zip(colour)
            .all(|(&is, should)| is.abs_diff(should) <= 3);
        assert!(near, "{pixel:?} rather than {colour:?}");
    }
}

#[test]
fn the_format_is_read_from_hevc_parameter_sets() {
    let full = Colours {
        primaries: 1,
        transfer: 13,
        matrix: 6,
        full_range: true,
    };
    let whole = CodedFormat {
        width: 64,
        height: 64,
        coded_width: 64,
        coded_height: 64,
        chroma: ChromaFormat::Quarter,
        depth: 8,
        colours: full,
    };
    assert_eq!(hevc::format(&hex(HVCC), &hex(HEVC)).unwrap(), whole);
    let cropped = CodedFormat {
        width: 100,
        height: 76,
        coded_width: 104,
        coded_height: 80,
        chroma: ChromaFormat::Full,
        depth: 12,
        colours: Colours {
            primaries: 2,
            transfer: 2,
            ..full
        },
    };
    assert_eq!(
        hevc::format(&hex(HVCC_CROPPED), &hex(HEVC)).unwrap(),
        cropped
    );
    // A parameter set in the data, and a configuration without any.
    let bare = [&hex(HVCC)[..22], &[0]].concat();
    let with = |set: &str| {
        let set = hex(set);
        [&(set.len() as u32).to_be_bytes()[..], &set, &hex(HEVC)].concat()
    };
    assert_eq!(hevc::format(&bare, &with(SPS_CROPPED)).unwrap(), cropped);
    let limited = CodedFormat {
        chroma: ChromaFormat::Full,
        colours: Colours {
            matrix: 1,
            full_range: false,
            ..full
        },
        ..whole
    };
    assert_eq!(hevc::format(&bare, &with(SPS_LIMITED)).unwrap(), limited);
    // Refused: two parameter sets that differ, none, and two pictures.
    assert!(hevc::format(&hex(HVCC), &with(SPS_LIMITED)).is_err());
    assert!(hevc::format(&bare, &hex(HEVC)).is_err());
    assert!(hevc::format(&hex(HVCC), &[hex(HEVC), hex(HEVC)].concat()).is_err());
}

#[test]
fn the_format_is_read_from_av1_sequence_headers() {
    let av1c = hex(AV1C);
    let limited = CodedFormat {
        width: 64,
        height: 64,
        coded_width: 64,
        coded_height: 64,
        chroma: ChromaFormat::Quarter,
        depth: 8,
        colours: Colours {
            primaries: 1,
            transfer: 13,
            matrix: 1,
            full_range: false,
        },
    };
    assert_eq!(av1::format(&av1c, &hex(AV1)).unwrap(), limited);
    let full = Colours {
        matrix: 6,
        full_range: true,
        ..limited.colours
    };
    let grey = CodedFormat {
        chroma: ChromaFormat::None,
        colours: full,
        ..limited
    };
    assert_eq!(av1::format(&av1c, &hex(AV1_GREY)).unwrap(), grey);
    // SEQUENCE_10 and SEQUENCE_GREY are reduced, so the content of their frame headers is not read.
    let frame = "320116";
    let deep = CodedFormat {
        chroma: ChromaFormat::Full,
        depth: 10,
        colours: full,
        ..limited
    };
    let of = |sequence: &str, frame: &str| av1::format(&av1c, &hex(&[sequence, frame].concat()));
    assert_eq!(of(SEQUENCE_10, frame).unwrap(), deep);
    assert!(of(SEQUENCE_10, "").is_err());
    assert!(of("", frame).is_err());
    assert!(of(&[SEQUENCE_10, SEQUENCE_GREY].concat(), frame).is_err());
    // The first 7 bits of the frame header of a shown key frame: 0 00 1 0 0, then 1 if it states a size of its
    // own (0x12), else 0 (0x10).
    let whole = of(SEQUENCE_NOT_REDUCED, "320210 00").unwrap();
    assert_eq!(
        (whole.width, whole.height, whole.chroma),
        (640, 480, ChromaFormat::Full)
    );
    assert_eq!((whole.coded_width, whole.coded_height), (640, 480));
    // The size in a frame header is not read. It counts as the largest, here 2^10 × 2^9, because the sequence
    // header gives the sides 10 and 9 bits.
    let resized = of(SEQUENCE_NOT_REDUCED, "320212 00").unwrap();
    assert_eq!((resized.coded_width, resized.coded_height), (1024, 512));
    let layers = of(SEQUENCE_NOT_REDUCED, &"320210 00".repeat(4));
    assert_eq!(layers.unwrap(), whole);
    assert!(of(SEQUENCE_NOT_REDUCED, &"320210 00".repeat(5)).is_err());
}

#[test]
fn coded_pictures_are_decoded() {
    let colour = [200, 100, 50];
    assert_colour(&decoded(&[heic()]).unwrap(), colour);
    assert_colour(&decoded(&[avif(AV1)]).unwrap(), colour);
    let grey = decoded(&[avif(AV1_GREY)]).unwrap();
    assert_colour(&grey, [grey.pixels()[0]; 3]);
}

#[test]
fn a_stated_size_has_to_be_that_of_the_coded_data() {
    let mut lying = heic();
    lying.properties[1].1 = ispe(64, 65);
    assert_eq!(
        what_is_wrong(&[lying.clone()]),
        "its data have another size than it states"
    );
    lying.properties.pop();
    assert_eq!(what_is_wrong(&[lying]), "its size is missing");
    let mut large = heic();
    large.properties[0].1 = hex(HVCC_CROPPED);
    assert_eq!(
        what_is_wrong(&[large]),
        "its data have another size than it states"
    );
}

#[test]
fn grids_are_decoded_and_checked() {
    let tiles = |ids: &[u16]| [grid(1, 2, 100, 60).to(b"dimg", ids), heic(), avif(AV1)];
    let image = decoded(&tiles(&[2, 3])).unwrap();
    assert_eq!((image.width(), image.height()), (100, 60));
    assert_colour(&image, [200, 100, 50]);
    assert_eq!(
        what_is_wrong(&tiles(&[2])),
        "tiles of the picture are missing"
    );
    assert_eq!(
        what_is_wrong(&tiles(&[2, 9])),
        "it refers to item 9, which is missing"
    );
    assert_eq!(
        what_is_wrong(&tiles(&[2, 1])),
        "unsupported derived from other pictures (grid)"
    );
    assert_eq!(
        what_is_wrong(&tiles(&[2, 2])),
        "one of its tiles is used twice"
    );
    let mut wide = tiles(&[2, 3]);
    wide[0] = grid(1, 2, 129, 60).to(b"dimg", &[2, 3]);
    assert_eq!(what_is_wrong(&wide), "its tiles do not cover the picture");
    let mut turned = tiles(&[2, 3]);
    turned[1] = heic().with(b"irot", &[1]);
    assert_eq!(
        what_is_wrong(&turned),
        "unsupported in tiles with transformations of their own"
    );
    let none = [grid(1, 2, 0, 60).to(b"dimg", &[2, 3]), heic(), heic()];
    assert_eq!(what_is_wrong(&none), "image of 0 x 60 pixels has no pixels");
}

#[test]
fn transparency_is_shown_on_white() {
    let kind = b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0";
    let level = decoded(&[avif(AV1_GREY)]).unwrap().pixels()[0];
    for alpha in [avif(AV1_GREY), heic()] {
        // If the auxiliary picture has colours, its luma is the opacity.
        let by = if alpha.kind == *b"hvc1" { 124 } else { level };
        let alpha = alpha.with(b"auxC", kind);
        let items = [heic(), alpha.clone().to(b"auxl", &[1])];
        assert_colour(&decoded(&items).unwrap(), rgb_on_white([200, 100, 50], by));
        let items = [heic().to(b"prem", &[2]), alpha.clone().to(b"auxl", &[1])];
        let added = [200, 100, 50].map(|sample: u8| sample.saturating_add(255 - by));
        assert_colour(&decoded(&items).unwrap(), added);
        // Transparency of each tile.
        let items = [
            grid(1, 2, 128, 64).to(b"dimg", &[2, 3]),
            heic(),
            heic(),
            alpha.clone().to(b"auxl", &[2]),
            alpha.clone().to(b"auxl", &[3]),
        ];
        assert_colour(&decoded(&items).unwrap(), rgb_on_white([200, 100, 50], by));
        let some = what_is_wrong(&items[..4]);
        assert_eq!(some, "unsupported with transparency in some tiles only");
        // Transparency of another item.
        let items = [heic(), heic(), alpha.to(b"auxl", &[2])];
        assert_colour(&decoded(&items).unwrap(), [200, 100, 50]);
    }
}

fn rgb_on_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    crate::rgb::on_white(colour, alpha)
}

#[test]
fn unsupported_variants_are_named() {
    let with = |name, content: &[u8]| what_is_wrong(&[heic().with(name, content)]);
    assert_eq!(with(b"zzzz", &[]), "unsupported with the property zzzz");
    assert_eq!(with(b"lsel", &[0, 1]), "unsupported with the property lsel");
    let nclx = |matrix: u8| [&b"nclx\0\x01\0\x0d\0"[..], &[matrix, 0x80]].concat();
    assert_eq!(
        with(b"colr", &nclx(14)),
        "unsupported with the colour matrix 14"
    );
    assert_eq!(
        with(b"colr", &nclx(0)),
        "unsupported with the colour matrix 0"
    );
    let mut other = heic();
    other.kind = *b"j2k1";
    assert_eq!(what_is_wrong(&[other]), "unsupported coded as j2k1");
    let message = |file: &[u8]| opened(file).map(drop).unwrap_err().to_string();
    let start = a_box(b"ftyp", b"heic\0\0\0\0");
    let sequence = [start.clone(), a_box(b"moov", &[])].concat();
    let not_read = "unsupported image format: HEIC, a sequence without a still picture";
    assert_eq!(message(&sequence), not_read);
    assert_eq!(
        message(&start),
        "malformed HEIC image: the file is cut short"
    );
    // An unknown property that is not essential is ignored.
    let mut more = heic();
    more.properties.push((b"zzzz", vec![], false));
    assert_eq!(size(&[more]), (64, 64));
}

#[test]
fn transformations_of_the_container_are_applied() {
    let clap = |numbers: [i32; 8]| numbers.map(i32::to_be_bytes).concat();
    let part = clap([20, 1, 10, 1, -5, 1, 0, 1]);
    assert_eq!(size(&[heic().with(b"clap", &part)]), (20, 10));
    assert_eq!(
        size(&[heic().with(b"clap", &part).with(b"irot", &[1])]),
        (10, 20)
    );
    assert_eq!(
        size(&[heic().with(b"clap", &part).with(b"irot", &[2])]),
        (20, 10)
    );
    assert_eq!(
        what_is_wrong(&[heic().with(b"irot", &[1]).with(b"clap", &part)]),
        "unsupported cropped after a rotation or mirroring"
    );
    let iden = TestItem {
        kind: *b"iden",
        ..TestItem::default()
    };
    let twice = [
        iden.with(b"irot", &[1]).to(b"dimg", &[2]),
        heic().with(b"clap", &part),
    ];
    assert_eq!(size(&twice), (10, 20));
    let outside = "is empty or extends beyond the picture";
    for (wrong, why) in [
        ([20, 0, 10, 1, 0, 1, 0, 1], "has a denominator of 0"),
        ([20, 1, 10, 1, 30, 1, 0, 1], outside),
        ([65, 1, 10, 1, 0, 1, 0, 1], outside),
        ([20, 1, 0, 1, 0, 1, 0, 1], outside),
    ] {
        let wrong = what_is_wrong(&[heic().with(b"clap", &clap(wrong))]);
        assert_eq!(wrong, format!("its clean aperture {why}"));
    }
}

#[test]
fn more_memory_than_the_limit_is_an_error() {
    let file = file(&[heic()]);
    let limits = Limits {
        max_memory: 1 << 20,
        ..Limits::default()
    };
    let decoded = open(&file, &limits).unwrap().decode(None, &|| false);
    assert!(
        matches!(decoded, Err(ImageError::TooMuchMemory { .. })),
        "{decoded:?}"
    );
    let cancelled = opened(&file).unwrap().decode(None, &|| true);
    assert!(
        matches!(cancelled, Err(ImageError::Cancelled)),
        "{cancelled:?}"
    );
}

#[test]
fn a_cut_file_is_an_error_and_damage_causes_no_panic() {
    let kind = b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0";
    let items = [
        grid(1, 2, 128, 64).to(b"dimg", &[2, 3]).with(b"irot", &[1]),
        heic(),
        avif(AV1),
        heic().with(b"auxC", kind).to(b"auxl", &[2]),
        avif(AV1_GREY).with(b"auxC", kind).to(b"auxl", &[3]),
    ];
    let mut file = file(&items);
    assert!(PrimaryPicture::read(&file).is_ok());
    for length in 0..file.len() {
        assert!(PrimaryPicture::read(&file[..length]).is_err(), "{length}");
    }
    for at in 0..file.len() {
        let was = file[at];
        for wrong in [0, 1, 0x7f, 0x80, 0xff, was ^ 1, was ^ 0x10] {
            file[at] = wrong;
            // Must not panic, nor hang.
            if let Ok(shown) = PrimaryPicture::read(&file) {
                single::file(&shown.colour.tiles[0]).unwrap();
            }
        }
        file[at] = was;
    }
}

/// Rotates or mirrors rows of numbers, as the standard describes it.
fn turned(rows: &[Vec<u8>], property: (&[u8; 4], u8)) -> Vec<Vec<u8>> {
    let (height, width) = (rows.len(), rows[0].len());
    match property {
        // Swaps top and bottom.
        (b"imir", 0) => rows.iter().rev().cloned().collect(),
        (b"imir", _) => rows
            .iter()
            .map(|row| row.iter().rev().copied().collect())
            .collect(),
        (_, 0) => rows.to_vec(),
        // A quarter turn counterclockwise: the last column becomes the first row.
        (_, quarters) => {
            let once: Vec<Vec<u8>> = (0..width)
                .map(|x| (0..height).map(|y| rows[y][width - 1 - x]).collect())
                .collect();
            turned(&once, (b"irot", quarters - 1))
        }
    }
}

#[test]
fn three_transformations_in_any_order_add_up() {
    let rows: Vec<Vec<u8>> = vec![vec![1, 2, 3], vec![4, 5, 6]];
    let all = [
        (b"irot", 0),
        (b"irot", 1),
        (b"irot", 2),
        (b"irot", 3),
        (b"imir", 0),
        (b"imir", 1),
    ];
    for first in all {
        for second in all {
            for third in all {
                let mut expected = rows.clone();
                let contents = [[first.1], [second.1], [third.1]];
                let properties: Vec<container::Property<'_>> = [first, second, third]
                    .iter()
                    .zip(&contents)
                    .map(|(&(name, _), content)| container::Property {
                        name: *name,
                        content,
                        essential: true,
                    })
                    .collect();
                for (name, by) in [first, second, third] {
                    expected = turned(&expected, (name, by));
                }
                let transform = Transform::new(3, 2, &properties).unwrap();
                let pixels = rows
                    .concat()
                    .into_iter()
                    .flat_map(|sample| [sample; 3])
                    .collect();
                let image = RgbImage::new(3, 2, pixels).unwrap();
                let image = without_limits(|work| {
                    crate::orientation::upright(image, transform.orientation(), work).unwrap()
                });
                let samples: Vec<u8> = image.pixels().iter().step_by(3).copied().collect();
                assert_eq!(image.width() as usize, expected[0].len());
                assert_eq!(samples, expected.concat(), "{first:?} {second:?} {third:?}");
            }
        }
    }
}

/// The fuzzer found `damaged.heic`: libde265 decodes it without a warning, and reads memory that it has
/// not written.
#[test]
fn damage_does_not_show_what_memory_held_before() {
    let file = include_bytes!("damaged.heic");
    let decoded = |held_before: u8| {
        // Allocate blocks of all sizes up to 64 KB, fill them, and free them.
        let blocks: Vec<Vec<u8>> = (0..4096).map(|i| vec![held_before; 16 * i]).collect();
        drop(std::hint::black_box(blocks));
        opened(file).and_then(|picture| picture.decode(None, &|| false))
    };
    let first = decoded(0x55).map_err(|error| error.to_string());
    for held_before in [0xaa, 0xff, 0x01] {
        assert!(first == decoded(held_before).map_err(|error| error.to_string()));
    }
}
