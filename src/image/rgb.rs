//! Arithmetic on samples: scaling to 8 bits, compositing on white, CMYK to RGB.

/// Scales a sample from 0..=`max` to 0..=255, rounded. For 16 bits that is `v / 257`, so that 65535
/// becomes 255.
pub(super) fn scale(sample: u32, max: u32) -> u8 {
    if max == 255 {
        return sample.min(255) as u8;
    }
    let sample = u64::from(sample.min(max));
    let max = u64::from(max);
    ((sample * 255 + max / 2) / max) as u8
}

/// [`scale`] for 16 bits.
pub(super) fn from_16_bits(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

/// Composites a colour over white. Each sample becomes `(255 * (255 - alpha) + sample * alpha) / 255`,
/// rounded, as in Pillow's `Image.paste` with a mask.
pub(super) fn on_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    rgb.map(|sample| ((255 * (255 - alpha) + u32::from(sample) * alpha + 127) / 255) as u8)
}

/// Converts CMYK, in which 255 is full ink, to RGB: each colour is `(255 - ink) * (255 - k) / 255`.
/// The rounding is that of Pillow's conversion, which ignores colour profiles.
pub(super) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
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
    fn scaling_from_16_bits_is_the_inverse_of_times_257() {
        for level in 0..=255u16 {
            assert_eq!(from_16_bits(level * 257), level as u8);
        }
        assert_eq!(from_16_bits(128), 0);
        assert_eq!(from_16_bits(129), 1);
        assert_eq!(from_16_bits(u16::MAX - 129), 254);
        for sample in 0..=u16::MAX {
            assert_eq!(from_16_bits(sample), scale(u32::from(sample), 65_535));
        }
    }

    #[test]
    fn every_precision_is_scaled_to_the_nearest_level() {
        for bits in 1..=16 {
            let max = (1_u32 << bits) - 1;
            for sample in 0..=max {
                let exact = f64::from(sample) * 255.0 / f64::from(max);
                // 255 and `max` are odd, so a quotient is never half way between two levels.
                assert_eq!(scale(sample, max), exact.round() as u8, "{sample} of {max}");
            }
            assert_eq!(scale(max + 1, max), 255);
        }
    }

    #[test]
    fn compositing_rounds_to_nearest() {
        for alpha in 0..=255u8 {
            for sample in 0..=255u8 {
                let share = f64::from(alpha) / 255.0;
                let exact = 255.0 * (1.0 - share) + f64::from(sample) * share;
                // 255 is odd, so a quotient is never half way between two levels.
                assert_eq!(on_white([sample; 3], alpha), [exact.round() as u8; 3]);
            }
        }
    }

    #[test]
    fn cmyk_becomes_rgb() {
        assert_eq!(cmyk_to_rgb([0, 0, 0, 0]), [255, 255, 255]);
        assert_eq!(cmyk_to_rgb([255, 0, 255, 0]), [0, 255, 0]);
        assert_eq!(cmyk_to_rgb([9, 99, 199, 255]), [0, 0, 0]);
        assert_eq!(cmyk_to_rgb([0, 128, 255, 55]), [200, 100, 0]);
    }
}
