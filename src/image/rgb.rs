//! From the sample layouts that decoders give to 8-bit RGB on white.

use image::ColorType;

/// Turns samples as the decoders of the `image` crate write them (interleaved, 16-bit samples in
/// the machine's byte order) into RGB.
pub(super) type Converter = fn(Vec<u8>) -> Vec<u8>;

/// `None` for float samples, which no camera writes and Pillow does not read either.
pub(super) fn converter(color: ColorType) -> Option<Converter> {
    let converter: Converter = match color {
        ColorType::L8 => |raw| grey(&raw),
        ColorType::La8 => |raw| grey_with_alpha(&raw),
        ColorType::Rgb8 => |raw| raw,
        ColorType::Rgba8 => |raw| rgb_with_alpha(&raw),
        ColorType::L16 => |raw| grey(&eight_bits(raw)),
        ColorType::La16 => |raw| grey_with_alpha(&eight_bits(raw)),
        ColorType::Rgb16 => eight_bits,
        ColorType::Rgba16 => |raw| rgb_with_alpha(&eight_bits(raw)),
        _ => return None,
    };
    Some(converter)
}

fn grey(raw: &[u8]) -> Vec<u8> {
    pixels::<1>(raw, |[l]| [l, l, l])
}

fn grey_with_alpha(raw: &[u8]) -> Vec<u8> {
    pixels::<2>(raw, |[l, a]| on_white([l, l, l], a))
}

fn rgb_with_alpha(raw: &[u8]) -> Vec<u8> {
    pixels::<4>(raw, |[r, g, b, a]| on_white([r, g, b], a))
}

fn pixels<const N: usize>(raw: &[u8], to_rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    raw.as_chunks::<N>()
        .0
        .iter()
        .flat_map(|&samples| to_rgb(samples))
        .collect()
}

/// 16-bit samples as 8-bit ones.
fn eight_bits(raw: Vec<u8>) -> Vec<u8> {
    let words = raw.as_chunks::<2>().0.iter();
    words
        .map(|&two| to_8_bits(u16::from_ne_bytes(two)))
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
        let case = |color, raw: &[u8]| converter(color).unwrap()(raw.to_vec());
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

        assert!(converter(ColorType::Rgb32F).is_none());
    }
}
