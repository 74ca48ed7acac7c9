//! What the samples of a TIFF mean (TIFF 6.0): how they are packed, which of them are colours, and
//! which RGB they show.

use super::{Header, malformed, unsupported};
use crate::{ImageError, rgb};

/// How the samples of a chunk are packed, and which of them are looked at.
#[derive(Debug, PartialEq)]
pub(super) struct Packing {
    bits: u32,
    /// Samples of a pixel, in a chunk.
    samples: u32,
    /// The samples that are looked at: colours, then alpha.
    channels: Vec<u32>,
    /// Each sample has chunks of its own.
    separate: bool,
    /// Pixels across and down that share their chroma; both 1 in all but YCbCr.
    shared: (u32, u32),
}

impl Packing {
    pub fn of(header: &Header) -> Result<Self, ImageError> {
        let shared = match header.photometric {
            // The JPEG decoder returns RGB.
            6 if header.compression != 7 => {
                let shared = (header.chroma_across, header.chroma_down);
                if !matches!(shared.0, 1 | 2 | 4) || !matches!(shared.1, 1 | 2 | 4) {
                    return Err(malformed(
                        "its chroma is shared by a strange number of pixels",
                    ));
                }
                (shared.0.into(), shared.1.into())
            }
            _ => (1, 1),
        };
        let colours = colours(header)?;
        let mut channels: Vec<u32> = (0..colours).collect();
        channels.extend(alpha(header, colours).map(|(channel, _)| channel));
        if shared != (1, 1) && (header.separate != 0 || header.samples != 3) {
            return Err(unsupported("YCbCr with shared chroma in separate planes"));
        }
        if header.samples == 0 || header.chunk_width == 0 || header.chunk_height == 0 {
            return Err(malformed("its strips or tiles have no pixels"));
        }
        Ok(Packing {
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

    /// Chunks that are decoded at once: one, or the planes up to the last that is looked at.
    pub fn planes(&self) -> u32 {
        match self.channels.last() {
            Some(last) if self.separate => last + 1,
            _ => 1,
        }
    }

    /// Samples of a pixel that are looked at.
    pub fn channels(&self) -> u32 {
        self.channels.len() as u32
    }

    /// Bytes of a chunk of this size.
    pub fn chunk_bytes(&self, width: u32, rows: u32) -> u64 {
        let (across, down) = self.shared;
        if self.shared != (1, 1) {
            let blocks = u64::from(width.div_ceil(across)) * u64::from(rows.div_ceil(down));
            return blocks.saturating_mul(u64::from(across * down + 2));
        }
        self.row_bytes(width).saturating_mul(u64::from(rows))
    }

    fn row_bytes(&self, width: u32) -> u64 {
        // At most 2^16 samples of 2^5 bits each, and 2^32 pixels.
        (u64::from(width) * u64::from(self.samples) * u64::from(self.bits)).div_ceil(8)
    }

    /// The row `y` of a chunk, `width` pixels wide: of each pixel the samples that are looked at.
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
                // All samples, as they lie: no need to go through them once for each.
                for (to, &from) in row.iter_mut().zip(packed) {
                    *to = from.into();
                }
                return;
            }
            let to = row.iter_mut().skip(place).step_by(count);
            // libtiff gives whole bytes in the machine's order.
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

    /// [`Self::unpack`] where blocks of pixels share their chroma: of each block first the luma of
    /// its pixels, row by row, then Cb and Cr (TIFF 6.0, section 21).
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

/// The sample at `index` of a row that is packed without regard to bytes, high bits first.
fn sample(packed: &[u8], index: usize, bits: u32) -> u32 {
    let first = index * bits as usize;
    let mut value = 0_u32;
    // A sample of up to 16 bits lies in 3 bytes.
    let mut bytes = packed.iter().skip(first / 8);
    for _ in 0..3 {
        value = value << 8 | u32::from(*bytes.next().unwrap_or(&0));
    }
    let behind = 24 - (first % 8) as u32 - bits;
    value >> behind & ((1 << bits) - 1)
}

/// What the samples of a pixel show.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    Grey {
        most: u32,
        white_is_zero: bool,
        alpha: Option<Alpha>,
    },
    Rgb {
        most: u32,
        alpha: Option<Alpha>,
    },
    Cmyk {
        most: u32,
        alpha: Option<Alpha>,
    },
    /// Red, green and blue by index.
    Palette(Box<[[u16; 256]; 3]>),
    YCbCr(Box<Chroma>),
    /// Lightness, and a and b around 0, as CIE 1976 L*a*b* under D50.
    Lab,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Alpha {
    Straight,
    /// Colours are multiplied by it.
    Premultiplied,
}

/// Colours of a pixel.
fn colours(header: &Header) -> Result<u32, ImageError> {
    let colours = match header.photometric {
        0 | 1 | 3 => 1,
        2 | 6 | 8 => 3,
        5 if header.ink_set == 1 => 4,
        5 => return Err(unsupported("inks other than CMYK (photometric 5)")),
        4 => return Err(unsupported("a transparency mask (photometric 4)")),
        9 | 10 => {
            return Err(unsupported(&format!(
                "ICCLab or ITULab (photometric {})",
                header.photometric
            )));
        }
        32_803 | 34_892 => {
            return Err(unsupported(&format!(
                "a camera's raw samples (photometric {})",
                header.photometric
            )));
        }
        other => return Err(unsupported(&format!("photometric {other}"))),
    };
    if u32::from(header.samples) < colours {
        return Err(malformed("it has fewer samples than colours"));
    }
    Ok(colours)
}

/// Which sample is alpha, and how colours relate to it.
fn alpha(header: &Header, colours: u32) -> Option<(u32, Alpha)> {
    let stated = header.extra_kinds.iter().take(header.extra_count.into());
    let found = stated
        .zip(colours..)
        .find_map(|(kind, channel)| match kind {
            1 => Some((channel, Alpha::Premultiplied)),
            2 => Some((channel, Alpha::Straight)),
            // Kind 0 is no alpha: Photoshop saves selections so.
            _ => None,
        });
    match found {
        Some((channel, _)) if channel >= u32::from(header.samples) => None,
        Some(found) if matches!(header.photometric, 0 | 1 | 2 | 5) => Some(found),
        Some(_) => None,
        // As in Pillow: writers that forget to state the kind mean alpha.
        None if header.extra_count == 0 && header.photometric == 2 && header.samples == 4 => {
            Some((colours, Alpha::Straight))
        }
        None => None,
    }
}

impl Meaning {
    /// A palette is black until it is read.
    pub fn of(header: &Header) -> Result<Self, ImageError> {
        match header.sample_format {
            // Without a format, samples are whole numbers.
            1 | 4 => {}
            2 => return Err(unsupported("signed samples")),
            3 => return Err(unsupported("floating-point samples")),
            other => return Err(unsupported(&format!("sample format {other}"))),
        }
        let bits = header.bits;
        if !matches!(bits, 1..=16 | 32) {
            return Err(unsupported(&format!("samples of {bits} bits")));
        }
        let most = u32::MAX >> (32 - bits);
        let colours = colours(header)?;
        let alpha = alpha(header, colours).map(|(_, alpha)| alpha);
        Ok(match header.photometric {
            0 | 1 => Meaning::Grey {
                most,
                white_is_zero: header.photometric == 0,
                alpha,
            },
            3 if bits > 8 => return Err(unsupported(&format!("a palette of {bits} bits"))),
            3 => Meaning::Palette(Box::new([[0; 256]; 3])),
            5 => Meaning::Cmyk { most, alpha },
            6 | 8 if bits != 8 => {
                return Err(unsupported(&format!("YCbCr or CIELab of {bits} bits")));
            }
            6 if header.compression != 7 => {
                Meaning::YCbCr(Box::new(Chroma::new(&header.luma, &header.black_white)?))
            }
            8 => Meaning::Lab,
            _ => Meaning::Rgb { most, alpha },
        })
    }

    /// From 16 bits to 8: by the high byte, as writers multiply by 256 or by 257. Some wrote 8 bits
    /// in the first place.
    pub fn scale_palette(&mut self) {
        if let Meaning::Palette(colours) = self
            && colours.as_flattened().iter().any(|&level| level > 255)
        {
            for level in colours.as_flattened_mut() {
                *level >>= 8;
            }
        }
    }

    /// Of a row of samples, as many pixels as there is room for.
    pub fn to_rgb(&self, row: &[u32], to: &mut [[u8; 3]]) {
        match self {
            Meaning::Grey {
                most,
                white_is_zero,
                alpha,
            } => {
                let shown = |sample| {
                    let level = rgb::scale(sample, *most);
                    if *white_is_zero {
                        [255 - level; 3]
                    } else {
                        [level; 3]
                    }
                };
                match alpha {
                    None => to
                        .iter_mut()
                        .zip(row)
                        .for_each(|(to, &grey)| *to = shown(grey)),
                    Some(alpha) => {
                        for (to, &[grey, a]) in to.iter_mut().zip(row.as_chunks().0) {
                            *to = alpha.on_white(shown(grey), rgb::scale(a, *most));
                        }
                    }
                }
            }
            Meaning::Rgb { most, alpha: None } => {
                for (to, colours) in to.iter_mut().zip(row.as_chunks::<3>().0) {
                    *to = colours.map(|sample| rgb::scale(sample, *most));
                }
            }
            Meaning::Rgb {
                most,
                alpha: Some(alpha),
            } => {
                for (to, pixel) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    let [r, g, b, a] = pixel.map(|sample| rgb::scale(sample, *most));
                    *to = alpha.on_white([r, g, b], a);
                }
            }
            Meaning::Cmyk { most, alpha: None } => {
                for (to, inks) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    *to = rgb::of_cmyk(inks.map(|sample| rgb::scale(sample, *most)));
                }
            }
            Meaning::Cmyk {
                most,
                alpha: Some(alpha),
            } => {
                for (to, pixel) in to.iter_mut().zip(row.as_chunks::<5>().0) {
                    let [c, m, y, k, a] = pixel.map(|sample| rgb::scale(sample, *most));
                    *to = alpha.on_white(rgb::of_cmyk([c, m, y, k]), a);
                }
            }
            Meaning::Palette(colours) => {
                for (to, &index) in to.iter_mut().zip(row) {
                    // `scale_palette` has made bytes of them.
                    *to = [0, 1, 2].map(|c: usize| colours[c][index as usize & 255] as u8);
                }
            }
            Meaning::YCbCr(chroma) => {
                for (to, &pixel) in to.iter_mut().zip(row.as_chunks().0) {
                    *to = chroma.to_rgb(pixel);
                }
            }
            Meaning::Lab => {
                for (to, &pixel) in to.iter_mut().zip(row.as_chunks().0) {
                    *to = of_lab(pixel);
                }
            }
        }
    }
}

impl Alpha {
    fn on_white(self, colour: [u8; 3], alpha: u8) -> [u8; 3] {
        match self {
            Alpha::Straight => rgb::on_white(colour, alpha),
            Alpha::Premultiplied => colour.map(|level| level.saturating_add(255 - alpha)),
        }
    }
}

/// From YCbCr to RGB (TIFF 6.0, section 21).
#[derive(Debug, PartialEq)]
pub(super) struct Chroma {
    /// The levels of black and white, of Y, Cb and Cr.
    range: [[f32; 2]; 3],
    /// How much red, green and blue contribute to Y.
    luma: [f32; 3],
}

impl Chroma {
    fn new(luma: &[f32; 3], black_white: &[f32; 6]) -> Result<Self, ImageError> {
        let &[y0, y1, b0, b1, r0, r1] = black_white;
        let range = [[y0, y1], [b0, b1], [r0, r1]];
        let sound = range.iter().all(|[black, white]| {
            black.is_finite() && white.is_finite() && (white - black).abs() > 1e-6
        });
        if !sound || !luma.iter().all(|share| (0.0..=1.0).contains(share)) || luma[1] < 1e-6 {
            return Err(malformed("its YCbCr has no scale"));
        }
        Ok(Chroma { range, luma: *luma })
    }

    fn to_rgb(&self, samples: [u32; 3]) -> [u8; 3] {
        let code = |c: usize, middle: f32, span: f32| {
            let [black, white] = self.range[c];
            (samples[c] as f32 - middle - (black - middle)) * span / (white - black)
        };
        let (y, cb, cr) = (
            code(0, 0.0, 255.0),
            code(1, 128.0, 127.0),
            code(2, 128.0, 127.0),
        );
        let [red, green, blue] = self.luma;
        let r = y + (2.0 - 2.0 * red) * cr;
        let b = y + (2.0 - 2.0 * blue) * cb;
        let g = y - (red * (2.0 - 2.0 * red) * cr + blue * (2.0 - 2.0 * blue) * cb) / green;
        // A cast of a float saturates.
        [r, g, b].map(|level| level.round() as u8)
    }
}

/// CIE 1976 L*a*b* under D50, as 8 bits: L of 0..=100 on the scale of 0..=255, a and b signed. To
/// sRGB, adapted from D50 to D65 by Bradford's method. Source of the matrix: Lindbloom, "RGB/XYZ
/// Matrices".
fn of_lab([l, a, b]: [u32; 3]) -> [u8; 3] {
    let signed = |sample: u32| f32::from((sample as u8).cast_signed());
    let fy = (l as f32 * 100.0 / 255.0 + 16.0) / 116.0;
    let (fx, fz) = (fy + signed(a) / 500.0, fy - signed(b) / 200.0);
    let linear = |f: f32| {
        if f > 6.0 / 29.0 {
            f * f * f
        } else {
            3.0 * (6.0_f32 / 29.0).powi(2) * (f - 4.0 / 29.0)
        }
    };
    let (x, y, z) = (0.964_22 * linear(fx), linear(fy), 0.825_21 * linear(fz));
    [
        3.133_856 * x - 1.616_866_7 * y - 0.490_614_6 * z,
        -0.978_768_4 * x + 1.916_141_5 * y + 0.033_454_0 * z,
        0.071_945_3 * x - 0.228_991_4 * y + 1.405_242_7 * z,
    ]
    .map(|light| {
        let light = light.clamp(0.0, 1.0);
        let level = if light <= 0.003_130_8 {
            12.92 * light
        } else {
            1.055 * light.powf(1.0 / 2.4) - 0.055
        };
        (level * 255.0).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
