//! From the sample layouts that decoders give to 8-bit RGB on white.

use image::ColorType;

/// `raw` holds samples as the decoders of the `image` crate write them: interleaved, 16-bit and
/// float samples in the machine's byte order. Returns `None` for a layout that no enabled
/// decoder gives.
pub(super) fn from_samples(color: ColorType, raw: Vec<u8>) -> Option<Vec<u8>> {
    let rgb = match color {
        ColorType::Rgb8 => raw,
        ColorType::L8 => pixels::<1>(&raw, |[l]| [l, l, l]),
        ColorType::La8 => pixels::<2>(&raw, |[l, a]| on_white([l, l, l], a)),
        ColorType::Rgba8 => pixels::<4>(&raw, |[r, g, b, a]| on_white([r, g, b], a)),
        ColorType::L16 => from_samples(ColorType::L8, words(&raw))?,
        ColorType::La16 => from_samples(ColorType::La8, words(&raw))?,
        ColorType::Rgb16 => words(&raw),
        ColorType::Rgba16 => from_samples(ColorType::Rgba8, words(&raw))?,
        ColorType::Rgb32F => floats(&raw),
        ColorType::Rgba32F => from_samples(ColorType::Rgba8, floats(&raw))?,
        _ => return None,
    };
    Some(rgb)
}

fn pixels<const N: usize>(raw: &[u8], to_rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    raw.as_chunks::<N>()
        .0
        .iter()
        .flat_map(|&samples| to_rgb(samples))
        .collect()
}

fn words(raw: &[u8]) -> Vec<u8> {
    raw.as_chunks::<2>()
        .0
        .iter()
        .map(|&two| to_8_bits(u16::from_ne_bytes(two)))
        .collect()
}

fn floats(raw: &[u8]) -> Vec<u8> {
    let to_8_bits = |value: f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8; // NaN becomes 0
    raw.as_chunks::<4>()
        .0
        .iter()
        .map(|&four| to_8_bits(f32::from_ne_bytes(four)))
        .collect()
}

/// `value / 257`, rounded: the scale on which 65535 is 255.
fn to_8_bits(value: u16) -> u8 {
    ((u32::from(value) + 128) / 257) as u8
}

/// Composited over white, each sample `(255 * (255 - alpha) + sample * alpha) / 255`, rounded:
/// the arithmetic of Pillow's `Image.paste` with a mask.
fn on_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    rgb.map(|sample| ((255 * (255 - alpha) + u32::from(sample) * alpha + 127) / 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_keep_the_ends_and_every_8_bit_level() {
        for level in 0..=255u16 {
            assert_eq!(to_8_bits(level * 257), level as u8);
        }
        assert_eq!(to_8_bits(128), 0);
        assert_eq!(to_8_bits(129), 1);
        assert_eq!(to_8_bits(u16::MAX - 129), 254);
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
    fn layouts() {
        let case = |color, raw: &[u8]| from_samples(color, raw.to_vec()).unwrap();
        assert_eq!(case(ColorType::L8, &[7, 9]), [7, 7, 7, 9, 9, 9]);
        assert_eq!(
            case(ColorType::La8, &[7, 255, 7, 0]),
            [7, 7, 7, 255, 255, 255]
        );
        assert_eq!(case(ColorType::Rgb8, &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(case(ColorType::Rgba8, &[0, 255, 100, 128]), [127, 255, 177]);

        let words = |values: &[u16]| {
            values
                .iter()
                .flat_map(|v| v.to_ne_bytes())
                .collect::<Vec<_>>()
        };
        assert_eq!(case(ColorType::L16, &words(&[0x0707])), [7, 7, 7]);
        assert_eq!(case(ColorType::La16, &words(&[0, 0x8080])), [127, 127, 127]);
        assert_eq!(
            case(ColorType::Rgb16, &words(&[0, 0x8080, 0xffff])),
            [0, 128, 255]
        );
        assert_eq!(
            case(ColorType::Rgba16, &words(&[0, 0, 0, 0])),
            [255, 255, 255]
        );

        let floats = |values: &[f32]| {
            values
                .iter()
                .flat_map(|v| v.to_ne_bytes())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            case(ColorType::Rgb32F, &floats(&[-1.0, 0.5, 1e9])),
            [0, 128, 255]
        );
        assert_eq!(
            case(ColorType::Rgba32F, &floats(&[f32::NAN, 0.0, 1.0, 1.0])),
            [0, 0, 255]
        );
    }
}
