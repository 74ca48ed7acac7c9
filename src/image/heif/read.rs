//! Readers for bytes and bits.

use super::Fault;

/// Reads bytes from the start. Reading beyond the end is a [`Fault`].
#[derive(Clone, Copy)]
pub(super) struct ByteReader<'a>(pub &'a [u8]);

impl<'a> ByteReader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(Fault::cut_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (&taken, rest) = self.0.split_first_chunk().ok_or_else(Fault::cut_short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn fourcc(&mut self) -> Result<[u8; 4], Fault> {
        self.array()
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A big-endian number of `length` bytes, at most 8; 0 for a length of 0.
    pub fn number(&mut self, length: usize) -> Result<u64, Fault> {
        let bytes = self.take(length)?;
        Ok(bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The version and the flags at the start of a full box.
    pub fn version(&mut self) -> Result<(u8, u32), Fault> {
        let both = self.u32()?;
        Ok(((both >> 24) as u8, both & 0xff_ffff))
    }

    /// The name and the content of the next box (ISO/IEC 14496-12, 4.2). The content of a `uuid` box
    /// begins after its UUID.
    pub fn next_box(&mut self) -> Result<([u8; 4], &'a [u8]), Fault> {
        let size = self.u32()?;
        let name = self.fourcc()?;
        let content = match size {
            // A size of 0: the box extends to the end of the surrounding box or file.
            0 => self.0.len(),
            1 => usize::try_from(self.u64()?)
                .ok()
                .and_then(|size| size.checked_sub(16))
                .ok_or_else(Fault::cut_short)?,
            size => (size as usize)
                .checked_sub(8)
                .ok_or_else(Fault::cut_short)?,
        };
        let content = self.take(content)?;
        Ok((
            name,
            if name == *b"uuid" {
                content.get(16..).unwrap_or_default()
            } else {
                content
            },
        ))
    }
}

/// Reads bits, from the highest of each byte.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The number of bits that have been read.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0 }
    }

    pub fn flag(&mut self) -> Result<bool, Fault> {
        let byte = self.bytes.get(self.at / 8).ok_or_else(Fault::cut_short)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// A number of `count` bits, at most 32.
    pub fn bits(&mut self, count: u32) -> Result<u32, Fault> {
        let mut number = 0;
        for _ in 0..count {
            number = number << 1 | u32::from(self.flag()?);
        }
        Ok(number)
    }

    pub fn skip(&mut self, count: u32) -> Result<(), Fault> {
        for _ in 0..count {
            self.flag()?;
        }
        Ok(())
    }

    /// An exponential Golomb code, `ue(v)` in HEVC and `uvlc()` in AV1: n zeros, a one, n bits.
    pub fn golomb(&mut self) -> Result<u32, Fault> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros == 32 {
                return Err(Fault::damaged("a number in its headers is too large"));
            }
        }
        Ok((1_u32 << zeros) - 1 + self.bits(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_with_sizes_of_every_kind_are_read() {
        let mut bytes =
            ByteReader(b"\0\0\0\x0aabcdXY\0\0\0\x01efgh\0\0\0\0\0\0\0\x11Z\0\0\0\0ijklrest");
        assert_eq!(bytes.next_box().unwrap(), (*b"abcd", &b"XY"[..]));
        assert_eq!(bytes.next_box().unwrap(), (*b"efgh", &b"Z"[..]));
        assert_eq!(bytes.next_box().unwrap(), (*b"ijkl", &b"rest"[..]));
        assert!(bytes.is_empty());
        for wrong in [
            &b"\0\0\0\x07abcd"[..],
            b"\0\0\0\x09abcd",
            b"\0\0\0\x01abcd\0\0\0\0\0\0\0\x0f",
            b"\0\0\0\x01abcd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0",
        ] {
            assert!(ByteReader(wrong).next_box().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_and_golomb_codes_are_read() {
        assert_eq!(ByteReader(&[1, 2, 3, 4]).number(3).unwrap(), 0x01_02_03);
        assert_eq!(ByteReader(&[]).number(0).unwrap(), 0);
        assert!(ByteReader(&[1, 2]).number(3).is_err());
        // The codes 1, 010, 011, 00100, 00101, and the bits 100.
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1100_0000]);
        let numbers: Vec<u32> = (0..5).map(|_| bits.golomb().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!(bits.bits(3).unwrap(), 0b100);
        assert!(BitReader::new(&[0; 3]).golomb().is_err());
        assert!(BitReader::new(&[0; 9]).golomb().is_err());
        let mut largest = BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(largest.golomb().unwrap(), u32::MAX - 1);
    }
}
