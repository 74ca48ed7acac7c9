//! Whether a file is whole. Decoders of JPEG and WebP fill in for what is missing, as suits a
//! browser that shows a page while it loads; half a photo in an album is a loss nobody notices.
//! These walks look at the containers alone, and cost nothing beside decoding.

use super::{ImageError, Limits};

/// Scans of a JPEG. Progressive encoders write about ten; each scan costs the decoder a pass
/// over all coefficients, yet a few bytes of file, so a file of thousands is an attack.
const MAX_JPEG_SCANS: usize = 40;

pub(super) const CUT_SHORT: &str = "the file is cut short";

/// Follows the segments of a JPEG (ITU-T T.81, annex B) to its end-of-image marker.
///
/// What lies behind that marker (depth maps, gain maps, a second picture) is not looked at.
pub(super) fn check_jpeg(bytes: &[u8]) -> Result<(), ImageError> {
    walk_jpeg(bytes).map_err(|reason| ImageError::Malformed {
        format: "JPEG",
        reason,
    })
}

fn walk_jpeg(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    let mut scans = 0;
    loop {
        // Bytes that belong to no segment are skipped, as libjpeg does.
        let (marker, behind) = next_marker(rest).ok_or(CUT_SHORT)?;
        rest = behind;
        match marker {
            0xd9 => return Ok(()),          // EOI
            0x01 | 0xd0..=0xd8 => continue, // TEM, RST, SOI: no length follows
            0xda => scans += 1,             // SOS: entropy-coded data follow its segment
            _ => {}
        }
        if scans > MAX_JPEG_SCANS {
            return Err(format!("more than {MAX_JPEG_SCANS} scans"));
        }
        let length = rest
            .first_chunk()
            .map(|&two| u16::from_be_bytes(two))
            .ok_or(CUT_SHORT)?;
        rest = rest.get(usize::from(length).max(2)..).ok_or(CUT_SHORT)?;
    }
}

/// The code of the next marker and what follows it. Within entropy-coded data 0xFF is followed
/// by a stuffed 0; before a marker it may be repeated as fill.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        rest = &rest[at + 1..];
        match rest.first()? {
            0x00 | 0xff => {}
            &marker => return Some((marker, &rest[1..])),
        }
    }
}

/// Follows the chunks of a WebP (RFC 9649) to the end which its header states, and holds the
/// frames inside to the limits: their decoder reads a frame of whatever size before it compares
/// that size with the canvas.
pub(super) fn check_webp(bytes: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let cut_short = || ImageError::Malformed {
        format: "WebP",
        reason: CUT_SHORT.into(),
    };
    let length = bytes.get(4..).and_then(u32_le).ok_or_else(cut_short)?;
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(8));
    let body = end
        .and_then(|end| bytes.get(12..end))
        .ok_or_else(cut_short)?;
    for (name, chunk) in Chunks(body) {
        let chunk = chunk.ok_or_else(cut_short)?;
        match &name {
            b"ANMF" => {
                for (name, chunk) in Chunks(chunk.get(16..).unwrap_or_default()) {
                    check_webp_frame(&name, chunk.ok_or_else(cut_short)?, limits)?;
                }
            }
            _ => check_webp_frame(&name, chunk, limits)?,
        }
    }
    Ok(())
}

fn check_webp_frame(name: &[u8; 4], chunk: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let size = match name {
        // RFC 6386, section 9.1: 14 bits each behind a frame tag and a start code of 3 bytes.
        b"VP8 " => chunk
            .get(6..)
            .and_then(u32_le)
            .map(|v| (v & 0x3fff, v >> 16 & 0x3fff)),
        // RFC 9649, section 3.4: 14 bits each, less one, behind a signature byte.
        b"VP8L" => chunk
            .get(1..)
            .and_then(u32_le)
            .map(|v| (1 + (v & 0x3fff), 1 + (v >> 14 & 0x3fff))),
        _ => return Ok(()),
    };
    match size {
        Some((width, height)) => limits.check_size(width, height),
        None => Err(ImageError::Malformed {
            format: "WebP",
            reason: CUT_SHORT.into(),
        }),
    }
}

/// The chunks of a RIFF container: name and content, `None` for a content that is cut short.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (&name, rest) = self.0.split_first_chunk::<4>()?;
        let length = u32_le(rest).and_then(|length| usize::try_from(length).ok());
        let content = length.and_then(|length| rest.get(4..)?.get(..length));
        // A chunk of odd length is followed by a byte of padding.
        let used = content.map_or(usize::MAX, |content| 4 + content.len() + content.len() % 2);
        self.0 = rest.get(used..).unwrap_or_default();
        Some((name, content))
    }
}

fn u32_le(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&four| u32::from_le_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_OF_SCAN: [u8; 8] = [0xff, 0xda, 0, 4, 0, 0, 1, 2];

    #[test]
    fn a_jpeg_ends_with_its_own_marker() {
        let whole = [
            &[0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9][..],
            &START_OF_SCAN,
        ]
        .concat();
        // An end-of-image marker within a segment (a thumbnail's, say) is not the file's.
        assert!(check_jpeg(&whole).is_err());
        // Nor are a stuffed byte, a restart marker, fill.
        let scan = [&whole[..], &[0xff, 0x00, 0xd9, 0xff, 0xd0, 0xff, 0xff]].concat();
        assert!(check_jpeg(&scan).is_err());
        assert_eq!(check_jpeg(&[&scan[..], &[0xd9]].concat()), Ok(()));
        assert_eq!(
            check_jpeg(&[&scan[..], &[0xd9], b"anything"].concat()),
            Ok(())
        );
    }

    #[test]
    fn a_jpeg_has_few_scans() {
        let scans = |count| [&START_OF_SCAN.repeat(count)[..], &[0xff, 0xd9]].concat();
        assert_eq!(check_jpeg(&scans(MAX_JPEG_SCANS)), Ok(()));
        assert!(check_jpeg(&scans(MAX_JPEG_SCANS + 1)).is_err());
    }

    fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32).to_le_bytes();
        [name, &length[..], content, &[0][..content.len() % 2]].concat()
    }

    fn webp(chunks: &[u8]) -> Vec<u8> {
        chunk(b"RIFF", &[b"WEBP", chunks].concat())
    }

    #[test]
    fn a_webp_is_as_long_as_it_says() {
        let file = webp(&[chunk(b"ICCP", b"odd"), chunk(b"XMP ", b"even")].concat());
        assert_eq!(check_webp(&file, &Limits::default()), Ok(()));
        assert_eq!(
            check_webp(&[&file[..], b"more"].concat(), &Limits::default()),
            Ok(())
        );
        for length in 0..file.len() {
            assert!(
                check_webp(&file[..length], &Limits::default()).is_err(),
                "{length}"
            );
        }
        let mut inside = file;
        inside[16] = 200; // longer than the file
        assert!(check_webp(&inside, &Limits::default()).is_err());
    }

    #[test]
    fn a_webp_cannot_hide_a_large_frame() {
        let lossy = |side: u16| {
            let side = side.to_le_bytes();
            chunk(
                b"VP8 ",
                &[&[0, 0, 0, 0x9d, 1, 0x2a][..], &side, &side].concat(),
            )
        };
        let lossless = |side: u32| {
            let bits = (side - 1) | (side - 1) << 14;
            chunk(b"VP8L", &[&[0x2f][..], &bits.to_le_bytes()].concat())
        };
        let animated = |frame: Vec<u8>| chunk(b"ANMF", &[vec![0; 16], frame].concat());
        let limits = Limits {
            max_side: 100,
            ..Limits::default()
        };
        for (fits, too_long) in [
            (lossy(100), lossy(101)),
            (lossless(100), lossless(101)),
            (animated(lossy(100)), animated(lossy(101))),
            (animated(lossless(100)), animated(lossless(101))),
        ] {
            assert_eq!(check_webp(&webp(&fits), &limits), Ok(()));
            let error = ImageError::TooLong {
                width: 101,
                height: 101,
                limit: 100,
            };
            assert_eq!(check_webp(&webp(&too_long), &limits), Err(error));
        }
    }
}
