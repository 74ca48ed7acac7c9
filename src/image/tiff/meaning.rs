//! What the samples of a TIFF mean (TIFF 6.0): which of them are colours and alpha, and which RGB they
//! show.

use super::colour::{Chroma, of_lab};
use super::{Header, JPEG, PALETTE, YCBCR, malformed, unsupported};
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
    Palette {
        /// Red, green and blue by index.
        colours: Box<[[u16; 256]; 3]>,
        most: u32,
        alpha: Option<Alpha>,
    },
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

/// Whether samples are decoded as YCbCr: the JPEG decoder returns RGB, except in planes.
pub(super) fn is_ycbcr(header: &Header) -> bool {
    header.photometric == YCBCR && (header.compression != JPEG || header.separate != 0)
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
        32_844 | 32_845 => {
            return Err(unsupported(&format!(
                "logarithms of luminance (photometric {})",
                header.photometric
            )));
        }
        51_177 => return Err(unsupported("a map of depths (photometric 51177)")),
        other => return Err(unsupported(&format!("photometric {other}"))),
    };
    if u32::from(header.samples) < colours {
        return Err(malformed("it has fewer samples than colours"));
    }
    Ok(colours)
}

/// Which sample is alpha, and how colours relate to it.
pub(super) fn alpha(header: &Header, colours: u32) -> Result<Option<(u32, Alpha)>, ImageError> {
    let extra = u32::from(header.samples).saturating_sub(colours);
    let stated = u32::from(header.extra_count);
    if stated == 0 && header.photometric == 2 && extra == 1 {
        // As in Pillow: writers that forget to state the kind mean alpha.
        return Ok(Some((colours, Alpha::Straight)));
    }
    if stated > extra {
        return Err(malformed("it states more samples than it has"));
    }
    if stated < extra {
        return Err(unsupported(
            "samples of which it does not say what they are",
        ));
    }
    let kinds = header.extra_kinds.iter().take(stated as usize);
    let found = kinds.zip(colours..).find_map(|(kind, channel)| match kind {
        1 => Some((channel, Alpha::Premultiplied)),
        2 => Some((channel, Alpha::Straight)),
        // Kind 0 is no alpha: Photoshop saves selections so.
        _ => None,
    });
    match found {
        Some((_, Alpha::Straight)) if !matches!(header.photometric, 0 | 1 | 2 | 3 | 5) => {
            Err(unsupported("alpha of YCbCr or CIELab"))
        }
        // Of inks, and where 0 is white, programs disagree about what was multiplied.
        Some((_, Alpha::Premultiplied)) if !matches!(header.photometric, 1 | 2) => Err(
            unsupported("premultiplied alpha of inks, palettes, YCbCr or CIELab"),
        ),
        found => Ok(found),
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
        let alpha = alpha(header, colours)?.map(|(_, alpha)| alpha);
        Ok(match header.photometric {
            0 | 1 => Meaning::Grey {
                most,
                white_is_zero: header.photometric == 0,
                alpha,
            },
            PALETTE if bits > 8 => {
                return Err(unsupported(&format!("a palette of {bits} bits")));
            }
            PALETTE => Meaning::Palette {
                colours: Box::new([[0; 256]; 3]),
                most,
                alpha,
            },
            5 => Meaning::Cmyk { most, alpha },
            YCBCR | 8 if bits != 8 => {
                return Err(unsupported(&format!("YCbCr or CIELab of {bits} bits")));
            }
            _ if is_ycbcr(header) => {
                Meaning::YCbCr(Box::new(Chroma::new(&header.luma, &header.black_white)?))
            }
            8 => Meaning::Lab,
            _ => Meaning::Rgb { most, alpha },
        })
    }

    /// From 16 bits to 8: by the high byte, as writers multiply by 256 or by 257. Some wrote 8 bits
    /// in the first place.
    pub fn scale_palette(&mut self) {
        if let Meaning::Palette { colours, .. } = self
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
            Meaning::Palette {
                colours,
                most,
                alpha,
            } => {
                // `scale_palette` has made bytes of them.
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
                            *to = alpha.on_white(shown(index), rgb::scale(a, *most));
                        }
                    }
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
