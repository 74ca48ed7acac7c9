//! Checks of the first directory of a TIFF, before libtiff reads it. libtiff copies the value of each
//! entry, so a file whose entries all refer to the same bytes would take far more memory than its
//! length. libtiff also changes values silently if entries are missing or contradict each other.

use crate::{ImageError, Limits};

use super::{PALETTE, TiffHeader, malformed};

/// The most bytes of memory that libtiff takes for a byte of a value: it copies the value, and can turn each
/// byte of it into an offset of 8 bytes.
const GROWTH: u64 = 9;
/// The most bytes that entries of a valid file share, such as a resolution or a palette.
const SHARED: u64 = 64 << 10;

/// Values of a directory as stored in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ImageFileDirectory {
    /// The length of all values in bytes.
    length: u64,
    /// Whether the picture has a palette.
    palette: bool,
    /// Whether a compression is stated; "uncompressed" counts.
    compression: bool,
    /// The number of strips.
    strips: u64,
    /// The rows of a strip.
    rows: Option<u64>,
}

/// Reads a directory and refuses it if its values are longer than the file, or take more memory than
/// the limit.
///
/// Source: TIFF 6.0, section 2, and the BigTIFF specification.
pub(super) fn check(bytes: &[u8], limits: &Limits) -> Result<ImageFileDirectory, ImageError> {
    let Some(directory) = read(bytes) else {
        return Err(malformed(crate::CUT_SHORT));
    };
    let length = directory.length;
    if length > bytes.len() as u64 + SHARED {
        return Err(malformed("its directory is longer than the file"));
    }
    let (taken, limit) = (limits.held + GROWTH * length, limits.max_memory);
    if taken > limit {
        return Err(ImageError::TooMuchMemory {
            width: 0,
            height: 0,
            bytes: Some(taken),
            limit,
        });
    }
    Ok(directory)
}

impl ImageFileDirectory {
    /// Refuses a directory if libtiff, whose reading of it is `header`, has changed a value that pixels
    /// depend on.
    ///
    /// Returns whether the stored chunks must have exactly the length of uncompressed ones. They must if the
    /// file states no compression, because the entry may be damaged and the chunks compressed.
    pub fn check_header(&self, header: &TiffHeader) -> Result<bool, ImageError> {
        if self.palette && header.photometric != PALETTE {
            // Without a palette, libtiff takes the indices for levels of grey.
            return Err(malformed("its palette is missing"));
        }
        let planes = if header.separate != 0 {
            u64::from(header.samples)
        } else {
            1
        };
        let height = u64::from(header.height).max(1);
        let rows = self.rows.unwrap_or(height).clamp(1, height);
        if header.tiled == 0 && self.strips > height.div_ceil(rows) * planes {
            // It is unknown which strips are the picture: libtiff takes the first ones, Pillow the
            // last.
            return Err(malformed("it has more strips than its height needs"));
        }
        if !self.compression && header.lengths_made_up != 0 {
            return Err(malformed("its directory does not state the compression"));
        }
        Ok(!self.compression)
    }
}

/// Reads the first directory. `None` if it is cut short.
fn read(bytes: &[u8]) -> Option<ImageFileDirectory> {
    let little = bytes.starts_with(b"I");
    let number = |at: u64, width: usize| -> Option<u64> {
        let field = bytes.get(usize::try_from(at).ok()?..)?.get(..width)?;
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        Some(if little {
            field.iter().rev().fold(0, add)
        } else {
            field.iter().fold(0, add)
        })
    };
    let big = number(2, 2)? == 43;
    let (place, count_width, entry, value_width) = if big { (8, 8, 20, 8) } else { (4, 2, 12, 4) };
    let start = number(place, value_width)?;
    let entries = number(start, count_width)?;
    let mut directory = ImageFileDirectory::default();
    for index in 0..entries {
        let at = start
            .checked_add(count_width as u64)?
            .checked_add(index.checked_mul(entry)?)?;
        let size = match number(at.checked_add(2)?, 2)? {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // libtiff reads no value of an unknown type.
            _ => 0,
        };
        let count = number(at.checked_add(4)?, value_width)?;
        let length = count.saturating_mul(size as u64);
        directory.length = directory.length.saturating_add(length);
        let value = || number(at + 4 + value_width as u64, size.min(value_width));
        match number(at, 2)? {
            259 => directory.compression = true,
            262 => directory.palette |= value()? == u64::from(PALETTE),
            273 => directory.strips = count,
            278 => directory.rows = Some(value()?),
            _ => {}
        }
    }
    Some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A classic TIFF whose directory has entries of these types and counts.
    fn file(little: bool, entries: &[(u16, u32)]) -> Vec<u8> {
        let short = |n: u16| {
            if little {
                n.to_le_bytes()
            } else {
                n.to_be_bytes()
            }
        };
        let long = |n: u32| {
            if little {
                n.to_le_bytes()
            } else {
                n.to_be_bytes()
            }
        };
        let mut file = if little {
            b"II".to_vec()
        } else {
            b"MM".to_vec()
        };
        file.extend(short(42));
        file.extend(long(8));
        file.extend(short(entries.len() as u16));
        for &(kind, count) in entries {
            file.extend(short(700));
            file.extend(short(kind));
            file.extend(long(count));
            file.extend(long(8));
        }
        file
    }

    fn length(file: &[u8]) -> Option<u64> {
        read(file).map(|directory| directory.length)
    }

    #[test]
    fn the_lengths_of_values_are_added_up() {
        for little in [false, true] {
            let file = file(little, &[(1, 3), (3, 5), (4, 7), (5, 2), (99, 1000)]);
            assert_eq!(length(&file), Some(3 + 10 + 28 + 16));
            for length in 0..file.len() {
                let cut = read(&file[..length]);
                assert!(cut.is_none() || length > file.len() - 12, "{length}");
            }
        }
        let mut big = b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        big.extend([0, 1, 16, 0, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(length(&big), Some(8 * (3 + (1 << 56))));
    }

    #[test]
    fn entries_that_share_bytes_are_refused() {
        let limits = Limits::default();
        assert!(check(&file(true, &[(5, 1); 700]), &limits).is_ok());
        let shared = file(true, &[(1, 1 << 20); 700]);
        assert!(matches!(
            check(&shared, &limits),
            Err(ImageError::Malformed { .. })
        ));
        let small = Limits {
            max_memory: 40_000,
            ..limits
        };
        let large = check(&file(true, &[(1, 5_000)]), &small);
        assert!(matches!(large, Err(ImageError::TooMuchMemory { .. })));
    }

    #[test]
    fn values_that_libtiff_has_changed_are_refused() {
        let mut classic = b"II*\0\x08\0\0\0\x03\0".to_vec();
        classic.extend(b"\x06\x01\x03\0\x01\0\0\0\x03\0\0\0");
        classic.extend(b"\x11\x01\x04\0\x05\0\0\0\x08\0\0\0");
        classic.extend(b"\x16\x01\x03\0\x01\0\0\0\x02\0\xff\xff");
        let directory = read(&classic).unwrap();
        let expected = ImageFileDirectory {
            length: 2 + 20 + 2,
            palette: true,
            compression: false,
            strips: 5,
            rows: Some(2),
        };
        assert_eq!(directory, expected);

        let header = TiffHeader {
            height: 9,
            photometric: PALETTE,
            ..TiffHeader::default()
        };
        assert_eq!(directory.check_header(&header), Ok(true));
        for contradiction in [
            TiffHeader {
                photometric: 1,
                ..header
            },
            TiffHeader {
                height: 8,
                ..header
            },
            TiffHeader {
                lengths_made_up: 1,
                ..header
            },
        ] {
            assert!(directory.check_header(&contradiction).is_err());
        }
    }
}
