//! Unpacks samples from strips and tiles (TIFF 6.0).

use super::interpretation::{alpha, colours, is_ycbcr};
use super::{TiffHeader, malformed, unsupported};
use crate::ImageError;

/// The packing of samples in a chunk, and the samples that are used.
#[derive(Debug, PartialEq)]
pub(super) struct SamplePacking {
    bits: u32,
    /// The number of samples of a pixel in one chunk.
    samples: u32,
    /// The indexes of the samples that are used: the colours, then alpha.
    channels: Vec<u32>,
    /// Whether each sample has chunks of its own (planar configuration 2).
    separate: bool,
    /// The numbers of pixels across and down that share their chroma; 1 and 1 without subsampling.
    shared: (u32, u32),
}

impl SamplePacking {
    pub fn of(header: &TiffHeader) -> Result<Self, ImageError> {
        let shared = if is_ycbcr(header) {
            let shared = (header.chroma_across, header.chroma_down);
            if !matches!(shared.0, 1 | 2 | 4) || !matches!(shared.1, 1 | 2 | 4) {
                return Err(malformed("its chroma subsampling is invalid"));
            }
            (shared.0.into(), shared.1.into())
        } else {
            (1, 1)
        };
        let colours = colours(header)?;
        let mut channels: Vec<u32> = (0..colours).collect();
        channels.extend(alpha(header, colours)?.map(|(channel, _)| channel));
        if shared != (1, 1) && (header.separate != 0 || header.samples != 3) {
            return Err(unsupported(
                "YCbCr with chroma subsampling and separate planes",
            ));
        }
        if header.samples == 0 || header.chunk_width == 0 || header.chunk_height == 0 {
            return Err(malformed("its strips or tiles have no pixels"));
        }
        Ok(SamplePacking {
            bits: header.bits.into(),
            samples: if header.separate != 0 {
                1
            } else {
                header.samples.into()
            },
            channels,
            separate: header.separate != 0,
            shared,
        })
    }

    /// The number of chunks to decode for a part of the picture: one, or one for each separate plane up
    /// to the last that is used.
    pub fn planes(&self) -> u32 {
        match self.channels.last() {
            Some(last) if self.separate => last + 1,
            _ => 1,
        }
    }

    /// The number of samples of a pixel that are used.
    pub fn channels(&self) -> u32 {
        self.channels.len() as u32
    }

    /// The length in bytes of a chunk of this size.
    pub fn chunk_bytes(&self, width: u32, rows: u32) -> u64 {
        let (across, down) = self.shared;
        if self.shared != (1, 1) {
            let blocks = u64::from(width.div_ceil(across)) * u64::from(rows.div_ceil(down));
            return blocks.saturating_mul(u64::from(across * down + 2));
        }
        self.row_bytes(width).saturating_mul(u64::from(rows))
    }

    fn row_bytes(&self, width: u32) -> u64 {
        // No overflow: at most 2^32 pixels of 2^16 samples of 2^5 bits.
        (u64::from(width) * u64::from(self.samples) * u64::from(self.bits)).div_ceil(8)
    }

    /// Unpacks the row `y` of chunks that are `width` pixels wide. `row` receives the used samples of
    /// each pixel.
    pub fn unpack(&self, chunks: &[Vec<u8>], width: u32, y: u32, row: &mut [u32]) {
        if self.shared != (1, 1) {
            return self.unpack_shared(chunks, width, y, row);
        }
        let count = self.channels.len();
        let start = (self.row_bytes(width) * u64::from(y)) as usize;
        let whole = self.channels.len() as u32 == self.samples;
        for (place, &channel) in self.channels.iter().enumerate() {
            let (chunk, first) = if self.separate {
                (chunks.get(channel as usize), 0)
            } else {
                (chunks.first(), channel as usize)
            };
            let packed = chunk
                .and_then(|chunk| chunk.get(start..))
                .unwrap_or_default();
            let step = self.samples as usize;
            if self.bits == 8 && whole && !self.separate {
                // All samples are used, in the order of the chunk: one pass copies them.
                for (to, &from) in row.iter_mut().zip(packed) {
                    *to = from.into();
                }
                return;
            }
            let to = row.iter_mut().skip(place).step_by(count);
            // libtiff returns samples of whole bytes in the machine's byte order.
            match self.bits {
                8 => {
                    for (to, &from) in to.zip(packed.iter().skip(first).step_by(step)) {
                        *to = from.into();
                    }
                }
                16 => {
                    let words = packed.as_chunks::<2>().0.iter().skip(first).step_by(step);
                    for (to, &from) in to.zip(words) {
                        *to = u16::from_ne_bytes(from).into();
                    }
                }
                32 => {
                    let words = packed.as_chunks::<4>().0.iter().skip(first).step_by(step);
                    for (to, &from) in to.zip(words) {
                        *to = u32::from_ne_bytes(from);
                    }
                }
                bits => {
                    for (pixel, to) in to.enumerate() {
                        *to = sample(packed, pixel * step + first, bits);
                    }
                }
            }
        }
    }

    /// As [`Self::unpack`], with chroma subsampling. A chunk consists of blocks of pixels that share
    /// their chroma: the luma of all pixels, row by row, then Cb and Cr (TIFF 6.0, section 21).
    fn unpack_shared(&self, chunks: &[Vec<u8>], width: u32, y: u32, row: &mut [u32]) {
        let (across, down) = (self.shared.0 as usize, self.shared.1 as usize);
        let block = across * down + 2;
        let blocks = width.div_ceil(self.shared.0) as usize;
        let start = y as usize / down * blocks * block;
        let packed = chunks.first().and_then(|chunk| chunk.get(start..));
        let blocks = packed.unwrap_or_default().chunks_exact(block);
        let luma = y as usize % down * across;
        for (pixels, block) in row.chunks_mut(3 * across).zip(blocks) {
            let chroma = &block[across * down..];
            for (pixel, &luma) in pixels.chunks_mut(3).zip(&block[luma..]) {
                pixel.copy_from_slice(&[luma.into(), chroma[0].into(), chroma[1].into()]);
            }
        }
    }
}

/// The sample at `index` of a row whose samples of `bits` bits follow each other without padding, high
/// bits first.
fn sample(packed: &[u8], index: usize, bits: u32) -> u32 {
    let first = index * bits as usize;
    let mut value = 0_u32;
    // A sample of up to 16 bits is within 3 bytes.
    let mut bytes = packed.iter().skip(first / 8);
    for _ in 0..3 {
        value = value << 8 | u32::from(*bytes.next().unwrap_or(&0));
    }
    let after = 24 - (first % 8) as u32 - bits;
    value >> after & ((1 << bits) - 1)
}
