//! From samples to 8-bit RGB on white.

/// A sample of 0..=`most` on the scale of 0..=255, rounded. From 16 bits that is `v / 257`, so
/// that 65535 becomes 255.
pub(super) fn scale(sample: u32, most: u32) -> u8 {
    if most == 255 {
        return sample.min(255) as u8;
    }
    let sample = u64::from(sample.min(most));
    let most = u64::from(most);
    ((sample * 255 + most / 2) / most) as u8
}

/// [`scale`] from 16 bits.
pub(super) fn of_16_bits(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

/// Composited over white, each sample `(255 * (255 - alpha) + sample * alpha) / 255`, rounded:
/// the arithmetic of Pillow's `Image.paste` with a mask.
pub(super) fn on_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    rgb.map(|sample| ((255 * (255 - alpha) + u32::from(sample) * alpha + 127) / 255) as u8)
}

/// Inks (255 is full) as light: each ink takes its share of what black leaves. The arithmetic of
/// Pillow's conversion, which looks at no profile.
pub(super) fn of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        light.saturating_sub((product + (product >> 8)) >> 8) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_keep_the_ends_and_every_8_bit_level() {
        for level in 0..=255u16 {
            assert_eq!(of_16_bits(level * 257), level as u8);
        }
        assert_eq!(of_16_bits(128), 0);
        assert_eq!(of_16_bits(129), 1);
        assert_eq!(of_16_bits(u16::MAX - 129), 254);
        for sample in 0..=u16::MAX {
            assert_eq!(of_16_bits(sample), scale(u32::from(sample), 65_535));
        }
    }

    #[test]
    fn every_precision_is_scaled_to_the_nearest_level() {
        for bits in 1..=16 {
            let most = (1_u32 << bits) - 1;
            for sample in 0..=most {
                let exact = f64::from(sample) * 255.0 / f64::from(most);
                // 255 and `most` are odd, so a quotient never lies half way.
                assert_eq!(
                    scale(sample, most),
                    exact.round() as u8,
                    "{sample} of {most}"
                );
            }
            assert_eq!(scale(most + 1, most), 255);
        }
    }

    #[test]
    fn compositing_rounds_to_nearest() {
        for alpha in 0..=255u8 {
            for sample in 0..=255u8 {
                let share = f64::from(alpha) / 255.0;
                let exact = 255.0 * (1.0 - share) + f64::from(sample) * share;
                // 255 is odd, so a quotient never lies half way and rounding is unambiguous.
                assert_eq!(on_white([sample; 3], alpha), [exact.round() as u8; 3]);
            }
        }
    }

    #[test]
    fn inks() {
        assert_eq!(of_cmyk([0, 0, 0, 0]), [255, 255, 255]);
        assert_eq!(of_cmyk([255, 0, 255, 0]), [0, 255, 0]);
        assert_eq!(of_cmyk([9, 99, 199, 255]), [0, 0, 0]);
        assert_eq!(of_cmyk([0, 128, 255, 55]), [200, 100, 0]);
    }
}
