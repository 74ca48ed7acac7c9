//! What the samples of a TIFF mean (TIFF 6.0): which of them are colours and alpha, and which RGB they
//! show.

use super::{Header, malformed, unsupported};
use crate::{ImageError, rgb};

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
pub(super) fn colours(header: &Header) -> Result<u32, ImageError> {
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
pub(super) fn alpha(header: &Header, colours: u32) -> Option<(u32, Alpha)> {
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
pub(super) fn of_lab([l, a, b]: [u32; 3]) -> [u8; 3] {
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
