//! The interpretation of samples (TIFF 6.0): which of them are colours and alpha, and their conversion
//! to RGB.

use super::colour::{YCbCrConversion, lab_to_rgb};
use super::{JPEG, PALETTE, TiffHeader, YCBCR, malformed, unsupported};
use crate::{ImageError, rgb};

/// The interpretation of the samples of a pixel. `max` is the largest value of a sample.
#[derive(Debug, PartialEq)]
pub(super) enum Interpretation {
    Grey {
        max: u32,
        white_is_zero: bool,
        alpha: Option<Alpha>,
    },
    Rgb {
        max: u32,
        alpha: Option<Alpha>,
    },
    Cmyk {
        max: u32,
        alpha: Option<Alpha>,
    },
    Palette {
        /// The levels of red, green and blue, by index.
        colours: Box<[[u16; 256]; 3]>,
        max: u32,
        alpha: Option<Alpha>,
    },
    YCbCr(Box<YCbCrConversion>),
    /// CIE 1976 L*a*b* with the white point D50; a and b are signed.
    Lab,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Alpha {
    Straight,
    /// The colours have been multiplied by alpha.
    Premultiplied,
}

/// Whether libtiff returns YCbCr: its JPEG decoder converts to RGB, except if planes are separate.
pub(super) fn is_ycbcr(header: &TiffHeader) -> bool {
    header.photometric == YCBCR && (header.compression != JPEG || header.separate != 0)
}

/// The number of samples of a pixel that are colours, not extra samples.
pub(super) fn colours(header: &TiffHeader) -> Result<u32, ImageError> {
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
        32_844 | 32_845 => {
            return Err(unsupported(&format!(
                "logarithmic luminance (photometric {})",
                header.photometric
            )));
        }
        51_177 => return Err(unsupported("a depth map (photometric 51177)")),
        other => return Err(unsupported(&format!("photometric {other}"))),
    };
    if u32::from(header.samples) < colours {
        return Err(malformed("it has fewer samples than colours"));
    }
    Ok(colours)
}

/// The index and the kind of the alpha sample, if there is one.
pub(super) fn alpha(header: &TiffHeader, colours: u32) -> Result<Option<(u32, Alpha)>, ImageError> {
    let extra = u32::from(header.samples).saturating_sub(colours);
    let stated = u32::from(header.extra_count);
    if stated == 0 && header.photometric == 2 && extra == 1 {
        // As in Pillow: a fourth sample of RGB without a stated kind is alpha.
        return Ok(Some((colours, Alpha::Straight)));
    }
    if stated > extra {
        return Err(malformed("it states the kinds of more samples than it has"));
    }
    if stated < extra {
        return Err(unsupported("samples whose kind it does not state"));
    }
    let kinds = header.extra_kinds.iter().take(stated as usize);
    let found = kinds.zip(colours..).find_map(|(kind, channel)| match kind {
        1 => Some((channel, Alpha::Premultiplied)),
        2 => Some((channel, Alpha::Straight)),
        // Kind 0 is unspecified. Photoshop writes it for saved selections.
        _ => None,
    });
    match found {
        Some((_, Alpha::Straight)) if !matches!(header.photometric, 0 | 1 | 2 | 3 | 5) => {
            Err(unsupported("alpha with YCbCr or CIELab"))
        }
        // Only for RGB, and for grey with 0 as black, is it clear what is multiplied by alpha. For inks, and if 0
        // is white, programs disagree; indexes of a palette cannot be multiplied; YCbCr and CIELab are not read
        // with alpha at all.
        Some((_, Alpha::Premultiplied)) if !matches!(header.photometric, 1 | 2) => {
            Err(unsupported(&format!(
                "premultiplied alpha with photometric {}",
                header.photometric
            )))
        }
        found => Ok(found),
    }
}

impl Interpretation {
    /// The interpretation that a header states. A palette is black until the caller has filled it.
    pub fn of(header: &TiffHeader) -> Result<Self, ImageError> {
        match header.sample_format {
            // 1 is unsigned integers, 4 is unspecified.
            1 | 4 => {}
            2 => return Err(unsupported("signed samples")),
            3 => return Err(unsupported("floating-point samples")),
            other => return Err(unsupported(&format!("sample format {other}"))),
        }
        let bits = header.bits;
        if !matches!(bits, 1..=16 | 32) {
            return Err(unsupported(&format!("samples of {bits} bits")));
        }
        let max = u32::MAX >> (32 - bits);
        let colours = colours(header)?;
        let alpha = alpha(header, colours)?.map(|(_, alpha)| alpha);
        Ok(match header.photometric {
            0 | 1 => Interpretation::Grey {
                max,
                white_is_zero: header.photometric == 0,
                alpha,
            },
            PALETTE if bits > 8 => {
                return Err(unsupported(&format!("a palette of {bits} bits")));
            }
            PALETTE => Interpretation::Palette {
                colours: Box::new([[0; 256]; 3]),
                max,
                alpha,
            },
            5 => Interpretation::Cmyk { max, alpha },
            YCBCR | 8 if bits != 8 => {
                return Err(unsupported(&format!("YCbCr or CIELab of {bits} bits")));
            }
            _ if is_ycbcr(header) => Interpretation::YCbCr(Box::new(YCbCrConversion::new(
                &header.luma,
                &header.black_white,
            )?)),
            8 => Interpretation::Lab,
            _ => Interpretation::Rgb { max, alpha },
        })
    }

    /// Scales a palette from 16 bits to 8 by taking the high byte, since writers multiply by 256 or by
    /// 257. A palette without levels above 255 was written with 8 bits and is kept.
    pub fn scale_palette(&mut self) {
        if let Interpretation::Palette { colours, .. } = self
            && colours.as_flattened().iter().any(|&level| level > 255)
        {
            for level in colours.as_flattened_mut() {
                *level >>= 8;
            }
        }
    }

    /// Converts the pixels of a row to RGB, until `row` or `to` ends.
    pub fn to_rgb(&self, row: &[u32], to: &mut [[u8; 3]]) {
        match self {
            Interpretation::Grey {
                max,
                white_is_zero,
                alpha,
            } => {
                let shown = |sample| {
                    let level = rgb::scale(sample, *max);
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
                            *to = alpha.on_white(shown(grey), rgb::scale(a, *max));
                        }
                    }
                }
            }
            Interpretation::Rgb { max, alpha: None } => {
                for (to, colours) in to.iter_mut().zip(row.as_chunks::<3>().0) {
                    *to = colours.map(|sample| rgb::scale(sample, *max));
                }
            }
            Interpretation::Rgb {
                max,
                alpha: Some(alpha),
            } => {
                for (to, pixel) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    let [r, g, b, a] = pixel.map(|sample| rgb::scale(sample, *max));
                    *to = alpha.on_white([r, g, b], a);
                }
            }
            Interpretation::Cmyk { max, alpha: None } => {
                for (to, inks) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    *to = rgb::cmyk_to_rgb(inks.map(|sample| rgb::scale(sample, *max)));
                }
            }
            Interpretation::Cmyk {
                max,
                alpha: Some(alpha),
            } => {
                for (to, pixel) in to.iter_mut().zip(row.as_chunks::<5>().0) {
                    let [c, m, y, k, a] = pixel.map(|sample| rgb::scale(sample, *max));
                    *to = alpha.on_white(rgb::cmyk_to_rgb([c, m, y, k]), a);
                }
            }
            Interpretation::Palette {
                colours,
                max,
                alpha,
            } => {
                // `scale_palette` has scaled the levels to 8 bits.
                let shown =
                    |index: u32| [0, 1, 2].map(|c: usize| colours[c][index as usize & 255] as u8);
                match alpha {
                    None => {
                        for (to, &index) in to.iter_mut().zip(row) {
                            *to = shown(index);
                        }
                    }
                    Some(alpha) => {
                        for (to, &[index, a]) in to.iter_mut().zip(row.as_chunks().0) {
                            *to = alpha.on_white(shown(index), rgb::scale(a, *max));
                        }
                    }
                }
            }
            Interpretation::YCbCr(chroma) => {
                for (to, &pixel) in to.iter_mut().zip(row.as_chunks().0) {
                    *to = chroma.to_rgb(pixel);
                }
            }
            Interpretation::Lab => {
                for (to, &pixel) in to.iter_mut().zip(row.as_chunks().0) {
                    *to = lab_to_rgb(pixel);
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
