//! The first directory of a TIFF, before libtiff reads it. libtiff copies what each entry points at,
//! so a file whose entries all point at the same bytes would take memory out of proportion.

use crate::{ImageError, Limits};

use super::malformed;

/// What libtiff makes of a byte of the directory at most: a place of 8 bytes, and the byte itself.
const GROWTH: u64 = 9;
/// Bytes that the entries of a sound file share at most: a resolution, a palette.
const SHARED: u64 = 64 << 10;

/// Refuses a directory whose entries are longer than the file or the memory.
///
/// Source: TIFF 6.0, section 2, and the BigTIFF specification.
pub(super) fn check(bytes: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let Some(length) = values_length(bytes) else {
        return Err(malformed(crate::intact::CUT_SHORT));
    };
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
    Ok(())
}

/// Bytes of all values of the directory; `None` where it is cut short.
fn values_length(bytes: &[u8]) -> Option<u64> {
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
    let directory = number(place, value_width)?;
    let entries = number(directory, count_width)?;
    let mut length = 0_u64;
    for index in 0..entries {
        let at = directory
            .checked_add(count_width as u64)?
            .checked_add(index.checked_mul(entry)?)?;
        let size = match number(at.checked_add(2)?, 2)? {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // Of no type that libtiff knows, so it reads no value.
            _ => 0,
        };
        let count = number(at.checked_add(4)?, value_width)?;
        length = length.saturating_add(count.saturating_mul(size));
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A classic TIFF's directory of (type, count).
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

    #[test]
    fn values_are_added_up() {
        for little in [false, true] {
            let file = file(little, &[(1, 3), (3, 5), (4, 7), (5, 2), (99, 1000)]);
            assert_eq!(values_length(&file), Some(3 + 10 + 28 + 16));
            for length in 0..file.len() {
                let cut = values_length(&file[..length]);
                assert!(cut.is_none() || length > file.len() - 12, "{length}");
            }
        }
        let mut big = b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        big.extend([0, 1, 16, 0, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(values_length(&big), Some(8 * (3 + (1 << 56))));
    }

    #[test]
    fn entries_that_share_bytes_are_refused() {
        let limits = Limits::default();
        assert_eq!(check(&file(true, &[(5, 1); 700]), &limits), Ok(()));
        let shared = file(true, &[(1, 1 << 20); 700]);
        assert!(matches!(
            check(&shared, &limits),
            Err(ImageError::Malformed { .. })
        ));
        let little = Limits {
            max_memory: 40_000,
            ..limits
        };
        let large = check(&file(true, &[(1, 5_000)]), &little);
        assert!(matches!(large, Err(ImageError::TooMuchMemory { .. })));
    }
}
