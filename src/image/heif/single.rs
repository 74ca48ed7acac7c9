//! Writes a HEIF file with a single coded picture, which libheif then decodes.

use super::{Codec, Coded, Fault, av1, hevc};

/// A HEIF file with one coded picture. It has only the picture's parameter sets and slices or frames,
/// which this crate has checked, its size, and the colours in `coded.shown_as`.
///
/// # Errors
/// The coded data cannot be read.
pub(super) fn file(coded: &Coded<'_>) -> Result<Vec<u8>, Fault> {
    let (brand, kind, configuration_name, configuration, data) = match coded.codec {
        Codec::Hevc => {
            let picture = hevc::HevcPicture::read(coded.configuration, &coded.data)?;
            (
                b"heic",
                b"hvc1",
                b"hvcC",
                picture.configuration,
                picture.data,
            )
        }
        Codec::Av1 => {
            let picture = av1::Av1Picture::read(coded.configuration, &coded.data)?;
            (
                b"avif",
                b"av01",
                b"av1C",
                picture.configuration,
                picture.data,
            )
        }
    };
    let format = &coded.format;
    let colours = &coded.shown_as;
    let size = [format.width.to_be_bytes(), format.height.to_be_bytes()].concat();
    let nclx = [
        &b"nclx"[..],
        &colours.primaries.to_be_bytes(),
        &colours.transfer.to_be_bytes(),
        &colours.matrix.to_be_bytes(),
        &[u8::from(colours.full_range) << 7],
    ]
    .concat();
    let properties = [
        a_box(configuration_name, &configuration),
        a_box(b"ispe", &[&[0; 4][..], &size].concat()),
        a_box(b"colr", &nclx),
    ]
    .concat();
    // One item, with the properties 1 to 3; the highest bit marks the first one as essential.
    let associations = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 3, 0x81, 2, 3];
    let head = a_box(b"ftyp", &[&brand[..], &[0; 4], b"mif1", brand].concat());
    let meta = |offset: u32| {
        let location = [
            &[0, 0, 0, 0, 0x44, 0, 0, 1, 0, 1, 0, 0, 0, 1][..],
            &offset.to_be_bytes(),
            // Fits: the data have a few bytes a unit more than the opened file, a value of Postgres below 1 GB.
            &(data.len() as u32).to_be_bytes(),
        ]
        .concat();
        let item = [&[2, 0, 0, 0, 0, 1, 0, 0][..], kind, &[0]].concat();
        let content = [
            vec![0; 4],
            a_box(b"hdlr", &[&[0; 8][..], b"pict", &[0; 13]].concat()),
            a_box(b"pitm", &[0, 0, 0, 0, 0, 1]),
            a_box(b"iloc", &location),
            a_box(
                b"iinf",
                &[&[0, 0, 0, 0, 0, 1][..], &a_box(b"infe", &item)].concat(),
            ),
            a_box(
                b"iprp",
                &[a_box(b"ipco", &properties), a_box(b"ipma", &associations)].concat(),
            ),
        ];
        a_box(b"meta", &content.concat())
    };
    let before_data = head.len() + meta(0).len() + 8;
    let meta = meta(before_data as u32);
    let data_size = (data.len() as u32 + 8).to_be_bytes();
    Ok([&head[..], &meta, &data_size, b"mdat", &data].concat())
}

fn a_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let size = content.len() as u32 + 8;
    [&size.to_be_bytes()[..], name, content].concat()
}
