//! Conversion of YCbCr and CIELab to RGB.

use super::malformed;
use crate::ImageError;

/// Tables for the conversion of YCbCr to RGB (TIFF 6.0, section 21), rounded as in libtiff's
/// `TIFFYCbCrToRGBInit`, which Pillow uses. The tables have, for each value of a sample, the luma, or
/// what the chroma adds to a colour.
#[derive(Debug, PartialEq)]
pub(super) struct YCbCrConversion {
    luma: [i32; 256],
    cr_red: [i32; 256],
    cb_blue: [i32; 256],
    /// What is added to green is in units of 1/65536.
    cr_green: [i32; 256],
    cb_green: [i32; 256],
}

impl YCbCrConversion {
    /// Makes the tables from YCbCrCoefficients and ReferenceBlackWhite.
    ///
    /// # Errors
    /// [`ImageError::Malformed`] if a range is empty or not finite, or a coefficient is invalid.
    pub fn new(luma: &[f32; 3], black_white: &[f32; 6]) -> Result<Self, ImageError> {
        let &[y0, y1, b0, b1, r0, r1] = black_white;
        let range = [[y0, y1], [b0, b1], [r0, r1]];
        let sound = range.iter().all(|[black, white]| {
            black.is_finite() && white.is_finite() && (white - black).abs() > 1e-6
        });
        if !sound
            || !luma
                .iter()
                .all(|coefficient| (0.0..=1.0).contains(coefficient))
            || luma[1] < 1e-6
        {
            return Err(malformed("its YCbCr coefficients are invalid"));
        }
        let fixed = |factor: f32| (f64::from(factor.clamp(0.0, 2.0) * 65_536.0_f32) + 0.5) as i32;
        // Casts truncate towards 0, as in C.
        let code = |sample: i32, black: f32, white: f32, span: f32| {
            let code = (sample.saturating_sub(black as i32) as f32 * span) / (white - black);
            code.clamp(-4096.0, 4096.0) as i32
        };
        let [red, green, blue] = *luma;
        let (of_red, of_blue) = (2.0 - 2.0 * red, 2.0 - 2.0 * blue);
        let red_of_green = fixed(red * of_red / green);
        let blue_of_green = fixed(blue * of_blue / green);
        let table = |value: &dyn Fn(i32) -> i32| std::array::from_fn(|i| value(i as i32));
        let cr = |i: i32| code(i - 128, r0 - 128.0, r1 - 128.0, 127.0);
        let cb = |i: i32| code(i - 128, b0 - 128.0, b1 - 128.0, 127.0);
        let half = 1 << 15;
        Ok(YCbCrConversion {
            luma: table(&|i| code(i, y0, y1, 255.0)),
            cr_red: table(&|i| (fixed(of_red) * cr(i) + half) >> 16),
            cb_blue: table(&|i| (fixed(of_blue) * cb(i) + half) >> 16),
            cr_green: table(&|i| -red_of_green * cr(i)),
            cb_green: table(&|i| -blue_of_green * cb(i) + half),
        })
    }

    pub fn to_rgb(&self, samples: [u32; 3]) -> [u8; 3] {
        let [y, cb, cr] = samples.map(|sample| sample as usize & 255);
        let green = (self.cb_green[cb] + self.cr_green[cr]) >> 16;
        [self.cr_red[cr], green, self.cb_blue[cb]]
            .map(|added| (self.luma[y] + added).clamp(0, 255) as u8)
    }
}

/// Converts CIE 1976 L*a*b* with the white point D50 to sRGB, adapted to D65 by Bradford's method. L is
/// 0..=255 for 0..=100; a and b are signed bytes. Source of the matrix: Lindbloom, "RGB/XYZ Matrices".
pub(super) fn lab_to_rgb([l, a, b]: [u32; 3]) -> [u8; 3] {
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

    /// Colours with the coefficients of JFIF, and with a limited range.
    #[test]
    fn ycbcr_becomes_rgb() {
        let luma = [0.299, 0.587, 0.114];
        let full = [0.0, 255.0, 128.0, 255.0, 128.0, 255.0];
        let chroma = YCbCrConversion::new(&luma, &full).unwrap();
        assert_eq!(chroma.to_rgb([0, 128, 128]), [0, 0, 0]);
        assert_eq!(chroma.to_rgb([255, 128, 128]), [255, 255, 255]);
        assert_eq!(chroma.to_rgb([76, 85, 255]), [254, 0, 0]);
        assert_eq!(chroma.to_rgb([29, 255, 107]), [0, 0, 254]);
        // Black at 16 and white at 235.
        let studio = [16.0, 235.0, 128.0, 240.0, 128.0, 240.0];
        let chroma = YCbCrConversion::new(&luma, &studio).unwrap();
        assert_eq!(chroma.to_rgb([16, 128, 128]), [0, 0, 0]);
        assert_eq!(chroma.to_rgb([235, 128, 128]), [255, 255, 255]);
        assert_eq!(chroma.to_rgb([255, 255, 255])[0], 255);
    }

    #[test]
    fn invalid_coefficients_are_refused() {
        let luma = [0.299, 0.587, 0.114];
        let full = [0.0, 255.0, 128.0, 255.0, 128.0, 255.0];
        for broken in [f32::NAN, f32::INFINITY, -1.0] {
            assert!(YCbCrConversion::new(&[broken; 3], &full).is_err());
        }
        assert!(YCbCrConversion::new(&[1.0, 0.0, 0.0], &full).is_err());
        assert!(YCbCrConversion::new(&luma, &[0.0; 6]).is_err());
        // Ranges far beyond the samples must not overflow.
        let vast = [-3e38, 3e38, -3e38, 3e38, 1e-3, 2e-3];
        if let Ok(chroma) = YCbCrConversion::new(&luma, &vast) {
            chroma.to_rgb([255, 255, 255]);
        }
    }

    #[test]
    fn lab_becomes_srgb() {
        assert_eq!(lab_to_rgb([0, 0, 0]), [0, 0, 0]);
        assert_eq!(lab_to_rgb([255, 0, 0]), [255, 255, 255]);
        // sRGB's red is L*a*b* (53.24, 80.09, 67.20) under D65, adapted to D50 (54.29, 80.8, 69.9).
        let [r, g, b] = lab_to_rgb([138, 81, 70]);
        assert!(r >= 252 && g < 15 && b < 15, "{r} {g} {b}");
    }
}
