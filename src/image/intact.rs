//! Whether a WebP or a BMP is whole. Their decoders fill in for what is missing, as suits a browser
//! that shows a page while it loads; half a photo in an album is a loss that nobody notices. These
//! walks decode no pixels, and cost nothing beside decoding.

use super::{ImageError, check_size};

pub(super) const CUT_SHORT: &str = "the file is cut short";

/// What the tables of a lossless WebP's codes can take, for each byte of its data (measured: a
/// file of as many short codes as there can be).
const TABLES: u64 = 350;

/// Follows the chunks of a WebP (RFC 9649) to the end which its header states. Returns the bytes
/// that decoding its largest frame can take: the decoder reads a frame of whatever size before it
/// compares that size with the canvas.
pub(super) fn check_webp(bytes: &[u8]) -> Result<u64, ImageError> {
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
    let (mut largest, mut alpha) = (0, 0);
    let mut note = |name: &[u8; 4], chunk: &[u8]| {
        // As it is coded, and in RGBA.
        let pixels = 8 * frame_pixels(name, chunk)?;
        let tables = TABLES * chunk.len() as u64;
        match name {
            b"ALPH" => alpha = tables.max(alpha),
            b"VP8L" => largest = largest.max(pixels + tables),
            _ => largest = largest.max(pixels),
        }
        Ok(())
    };
    for (name, chunk) in Chunks(body) {
        let chunk = chunk.ok_or_else(cut_short)?;
        match &name {
            b"ANMF" => {
                for (name, chunk) in Chunks(chunk.get(16..).unwrap_or_default()) {
                    note(&name, chunk.ok_or_else(cut_short)?)?;
                }
            }
            _ => note(&name, chunk)?,
        }
    }
    Ok(largest + alpha)
}

/// 0 for a chunk that is no frame.
fn frame_pixels(name: &[u8; 4], chunk: &[u8]) -> Result<u64, ImageError> {
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
        _ => return Ok(0),
    };
    match size {
        Some((width, height)) => {
            check_size(width, height)?;
            Ok(u64::from(width) * u64::from(height))
        }
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

/// Follows the runs of a BMP in RLE8 or RLE4 and sees whether they draw every pixel. A run-length
/// coding may leave pixels out; what they look like is up to the viewer.
///
/// Source: Microsoft, "Bitmap Compression". A header that cannot be read is left to the decoder.
pub(super) fn check_bmp(bytes: &[u8]) -> Result<(), ImageError> {
    let field = |at: usize| bytes.get(at..).and_then(u32_le);
    let (Some(pixels), Some(width), Some(height), Some(compression)) =
        (field(10), field(18), field(22), field(30))
    else {
        return Ok(());
    };
    let in_nibbles = match compression {
        // The first header of OS/2 is shorter, and has pixels here.
        _ if field(14).is_none_or(|length| length < 40) => return Ok(()),
        1 => false,
        2 => true,
        _ => return Ok(()),
    };
    let (width, height) = (u64::from(width), u64::from(height));
    let mut data = usize::try_from(pixels)
        .ok()
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default();
    let left_out = || ImageError::Unsupported {
        what: "BMP, run-length coding that leaves pixels out".into(),
    };
    // The pixel that is drawn next: `x` of the row `y`, both from 0.
    let (mut x, mut y) = (0, 0);
    while let Some((&[count, value], rest)) = data.split_first_chunk() {
        data = rest;
        match (count, value) {
            (0, 0) if x < width => return Err(left_out()),
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => return Err(left_out()),
            (0, literal) => {
                x += u64::from(literal);
                let literal = usize::from(literal);
                let bytes = if in_nibbles {
                    literal.div_ceil(2)
                } else {
                    literal
                };
                data = data.get(bytes.next_multiple_of(2)..).unwrap_or_default();
            }
            (run, _) => x += u64::from(run),
        }
    }
    if y + u64::from(x >= width) < height {
        return Err(ImageError::Malformed {
            format: "BMP",
            reason: CUT_SHORT.into(),
        });
    }
    Ok(())
}

fn u32_le(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&four| u32::from_le_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_length_coded_bmp_draws_every_pixel() {
        // 3 × 2 pixels.
        let bmp = |compression: u8, runs: &[u8]| {
            let mut file = vec![0; 54];
            file[10] = 54;
            file[14] = 40;
            file[18] = 3;
            file[22] = 2;
            file[30] = compression;
            file.extend(runs);
            check_bmp(&file)
        };
        let row = [0, 3, 7, 8, 9, 0];
        assert_eq!(bmp(1, &[3, 7, 0, 0, 1, 5, 2, 6, 0, 0, 0, 1]), Ok(()));
        assert_eq!(bmp(1, &[3, 7, 0, 0, 3, 5, 0, 1]), Ok(()));
        assert_eq!(bmp(1, &[3, 7, 0, 0, 3, 5]), Ok(()));
        assert_eq!(bmp(1, &[&row[..], &[0, 0], &row].concat()), Ok(()));
        assert_eq!(bmp(2, &[0, 3, 0x78, 0x90, 0, 0, 3, 0x55, 0, 1]), Ok(()));
        assert_eq!(bmp(0, &[]), Ok(()));
        // As many pixels as a literal can have: their bytes are no runs.
        let longest = [&[0, 255][..], &[0; 256], &[0, 0, 3, 5]].concat();
        assert_eq!(bmp(1, &longest), Ok(()));

        let cut = |result| matches!(result, Err(ImageError::Malformed { .. }));
        assert!(cut(bmp(1, &[])));
        assert!(cut(bmp(1, &[3, 7, 0, 1])));
        assert!(cut(bmp(1, &[3, 7, 0, 0, 2, 5, 0, 1])));
        assert!(cut(bmp(1, &[3, 7, 0, 0, 3])));
        assert!(cut(bmp(2, &[0, 3, 0x78, 0x90, 0, 0])));

        let unsupported = |result| matches!(result, Err(ImageError::Unsupported { .. }));
        assert!(unsupported(bmp(1, &[2, 7, 0, 0, 3, 5, 0, 1])));
        assert!(unsupported(bmp(1, &[3, 7, 0, 2, 1, 1, 0, 1])));
        // A header that is cut short is for the decoder to refuse.
        for length in 0..34 {
            assert_eq!(check_bmp(&vec![1; length]), Ok(()));
        }
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
        assert_eq!(check_webp(&file), Ok(0));
        assert_eq!(check_webp(&[&file[..], b"more"].concat()), Ok(0));
        for length in 0..file.len() {
            assert!(check_webp(&file[..length]).is_err(), "{length}");
        }
        let mut inside = file;
        inside[16] = 200; // longer than the file
        assert!(check_webp(&inside).is_err());
    }

    #[test]
    fn a_webp_cannot_hide_a_large_frame() {
        let lossy = |width: u16, height: u16| {
            let (width, height) = (width.to_le_bytes(), height.to_le_bytes());
            let content = [&[0, 0, 0, 0x9d, 1, 0x2a][..], &width, &height].concat();
            chunk(b"VP8 ", &content)
        };
        let lossless = |width: u32, height: u32| {
            let bits = (width - 1) | (height - 1) << 14;
            chunk(b"VP8L", &[&[0x2f][..], &bits.to_le_bytes()].concat())
        };
        let animated = |frame: Vec<u8>| chunk(b"ANMF", &[vec![0; 16], frame].concat());
        for wrap in [|frame| frame, animated] {
            let largest = |frames: &[Vec<u8>]| {
                let frames: Vec<_> = frames.iter().cloned().map(wrap).collect();
                check_webp(&webp(&frames.concat()))
            };
            assert_eq!(largest(&[]), Ok(0));
            // Codes of 5 bytes.
            assert_eq!(largest(&[lossy(30, 20), lossy(25, 30)]), Ok(8 * 750));
            assert_eq!(largest(&[lossless(25, 30)]), Ok(8 * 750 + 5 * TABLES));
            assert_eq!(
                largest(&[lossless(16_384, 16_384)]),
                Ok((8 << 28) + 5 * TABLES)
            );
            let alpha = chunk(b"ALPH", &[0; 100]);
            assert_eq!(largest(&[alpha, lossy(1, 1)]), Ok(8 + 100 * TABLES));
            let (width, height) = (0, 7);
            assert_eq!(
                largest(&[lossy(0, 7)]),
                Err(ImageError::Empty { width, height })
            );
        }
    }
}
