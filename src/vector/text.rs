//! Parses and prints the text form of vectors, which is pgvector's: `[0.1,0.2,0.3]`, with spaces
//! allowed between tokens.

use half::f16;

use super::{MAX_DIMS, VectorError, check_dims, to_f16};

/// Number of characters of invalid input that an error message repeats.
const SHOWN_CHARS: usize = 64;

/// Parses `[number, …]`. Numbers are decimal, with an optional exponent.
///
/// A number is rounded to f32 and then to f16, like `real[]` input and pgvector, so that the same
/// text gives the same vector on every path.
pub fn parse(text: &str) -> Result<Vec<f16>, VectorError> {
    let syntax = |detail| VectorError::Syntax {
        text: shown(text),
        detail,
    };
    let inner = text
        .trim_matches(is_space)
        .strip_prefix('[')
        .ok_or_else(|| syntax("Vector contents must start with \"[\"."))?;
    let (inner, rest) = inner
        .split_once(']')
        .ok_or_else(|| syntax("Vector contents must end with \"]\"."))?;
    if !rest.is_empty() {
        return Err(syntax("Junk after closing \"]\"."));
    }
    if inner.trim_matches(is_space).is_empty() {
        return Err(VectorError::NoDimensions);
    }
    // Count before storing anything, so that the error message has the true count.
    let dims = inner.bytes().filter(|&b| b == b',').count() + 1;
    check_dims(dims)?;
    let mut values = Vec::with_capacity(dims.min(MAX_DIMS));
    for token in inner.split(',') {
        values.push(parse_value(token.trim_matches(is_space), &syntax)?);
    }
    Ok(values)
}

fn parse_value(
    token: &str,
    syntax: &impl Fn(&'static str) -> VectorError,
) -> Result<f16, VectorError> {
    if token.is_empty() {
        return Err(syntax("A number is missing."));
    }
    let value: f32 = token
        .parse()
        .map_err(|_| syntax("Vector contents must be numbers."))?;
    // "1e60" parses as infinity, but it is an out-of-range number, not an infinity.
    let overflowed = value.is_infinite() && token.bytes().any(|b| b.is_ascii_digit());
    if overflowed {
        return Err(VectorError::OutOfRange(shown(token)));
    }
    to_f16(value).map_err(|error| match error {
        VectorError::OutOfRange(_) => VectorError::OutOfRange(shown(token)),
        other => other,
    })
}

/// Appends a finite value. An integer is written exactly, and any other value with the fewest decimals
/// that read back as the same half; among these it is the nearest to the value, and of two that are as near
/// the even one. Below 0.0001 there is an exponent, as in the output of Postgres' `real`: `6e-08`.
pub fn write_f16(value: f16, text: &mut Vec<u8>) {
    let bits = value.to_bits();
    if bits >> 15 == 1 {
        text.push(b'-');
    }
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u64::from(bits & 0x3ff));
    // The magnitude is mantissa * 2^shift / 2^24.
    let (mantissa, shift) = match exponent {
        0 => (fraction, 0),
        _ => (fraction | 0x400, exponent - 1),
    };
    let mut buffer = [0; MAX_DIGITS];
    if (mantissa << shift) & 0xff_ffff == 0 {
        text.extend_from_slice(digits((mantissa << shift) >> 24, &mut buffer));
        return;
    }
    // Every half of 1024 and more is an integer, so the shift is below 24 here.
    let (number, decimals) = shortest(mantissa, 24 - shift, fraction == 0 && exponent > 1);
    let number = digits(number, &mut buffer);
    let len = number.len();
    if decimals >= len + 4 {
        let (first, rest) = number.split_at(1);
        text.extend_from_slice(first);
        if !rest.is_empty() {
            text.push(b'.');
            text.extend_from_slice(rest);
        }
        text.extend_from_slice(b"e-0");
        text.extend_from_slice(digits((decimals + 1 - len) as u64, &mut [0; MAX_DIGITS]));
    } else {
        let (whole, rest) = number.split_at(len.saturating_sub(decimals));
        text.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
        text.push(b'.');
        text.resize(text.len() + decimals - rest.len(), b'0');
        text.extend_from_slice(rest);
    }
}

/// The decimal `number / 10^decimals` with the fewest decimals that reads back as the half
/// `mantissa / 2^scale`, and among these the nearest, or the even one of two that are as near.
/// `narrow_below`: the mantissa is the smallest of its exponent, so the half below is half as far away as
/// the one above. `scale` is 1 to 24.
fn shortest(mantissa: u64, scale: u32, narrow_below: bool) -> (u64, usize) {
    // Ends with 8 decimals at the latest: such decimals are closer together than halves are anywhere. So
    // everything stays below 2^39.
    let (mut power, mut decimals) = (1u64, 0);
    loop {
        // Distances to the decimals below and above, in units of 1 / (10^decimals * 2^scale). One step
        // between halves is `power` of them.
        let exact = mantissa * power;
        let below = exact >> scale;
        let down = exact - (below << scale);
        let up = (1u64 << scale) - down;
        // A decimal reads back if it is nearer to this half than to the next one. None lies in the middle
        // of two halves, which has more decimals than the half itself.
        let reads_down = down * if narrow_below { 4 } else { 2 } < power;
        let reads_up = up * 2 < power;
        match (reads_down, reads_up) {
            (true, true) if down == up => return (below + below % 2, decimals),
            (true, true) if down > up => return (below + 1, decimals),
            (true, _) => return (below, decimals),
            (false, true) => return (below + 1, decimals),
            (false, false) => (power, decimals) = (power * 10, decimals + 1),
        }
    }
}

/// The digits of every u64 fit.
const MAX_DIGITS: usize = 20;

fn digits(mut number: u64, buffer: &mut [u8; MAX_DIGITS]) -> &[u8] {
    let mut start = MAX_DIGITS;
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

/// White space that PostgreSQL's number and array input skips.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_f32s;

    #[test]
    fn reads_what_pgvector_reads() {
        let expected = from_f32s(&[1.0, -2.5, 3e-3]).unwrap();
        for text in [
            "[1,-2.5,3e-3]",
            " [ 1 , -2.5 ,\t0.003 ] ",
            "[1.,-25e-1,.003]",
            "[+1,-2.5,3E-3]",
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn rejects_junk_with_the_right_error() {
        for text in [
            "", "1,2", "[1,2", "[1,2]x", "[1,2]]", "[1,,2]", "[1,]", "[,1]", "[1 2]", "[a]",
            "[1;2]", "[0x1]", "[[1]]", "[1_0]", "{1}",
        ] {
            assert!(
                matches!(parse(text), Err(VectorError::Syntax { .. })),
                "{text}"
            );
        }
        assert_eq!(parse("[]"), Err(VectorError::NoDimensions));
        assert_eq!(parse("[ ]"), Err(VectorError::NoDimensions));
        for text in ["[NaN]", "[nan]", "[1,-NaN]"] {
            assert_eq!(parse(text), Err(VectorError::NotANumber), "{text}");
        }
        for text in ["[inf]", "[-Infinity]"] {
            assert_eq!(parse(text), Err(VectorError::Infinite), "{text}");
        }
        assert_eq!(
            parse("[65520]"),
            Err(VectorError::OutOfRange("65520".into()))
        );
        assert_eq!(
            parse("[1,-1e60]"),
            Err(VectorError::OutOfRange("-1e60".into()))
        );
        let many = format!("[{}]", vec!["1"; 16_001].join(","));
        assert_eq!(parse(&many), Err(VectorError::TooManyDimensions(16_001)));
    }

    fn written(value: f16) -> String {
        let mut text = Vec::new();
        write_f16(value, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn writes_halves_as_people_do() {
        let halves = [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1.0 / 3.0, "0.3333"),
            (0.0001, "0.0001"),
            (0.00009, "9e-05"),
            (5.9604645e-8, "6e-08"),
            (6.1035156e-5, "6.104e-05"),
            (1023.5, "1023.5"),
            (2049.0, "2048"),
            (10008.0, "10008"),
            (65504.0, "65504"),
        ];
        for (value, text) in halves {
            assert_eq!(written(f16::from_f32(value)), text);
        }
    }

    /// Whether the text of a number reads back as this half: by `parse`, which rounds twice, and by a
    /// reader that rounds once.
    fn reads_back(text: &str, half: f16) -> bool {
        let once = crate::round_to_f16(text.parse().unwrap());
        parse(&format!("[{text}]")).is_ok_and(|values| values[0].to_bits() == half.to_bits())
            && once.to_bits() == half.to_bits()
    }

    #[test]
    fn every_finite_half_is_written_shortest_and_nearest() {
        let mut seen = 0;
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if !half.is_finite() {
                continue;
            }
            seen += 1;
            let text = written(half);
            let value = half.to_f64();
            assert!(reads_back(&text, half), "{text}");
            if value.fract() == 0.0 {
                assert_eq!(text, format!("{value}"));
                continue;
            }
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let decimals = mantissa.split_once('.').map_or(0, |(_, part)| part.len()) as i32
                - exponent.parse::<i32>().unwrap();
            assert!((1..=8).contains(&decimals), "{text}");
            // Both decimals around the value, exactly: it times 10^8 has fewer than 53 bits.
            let around = |decimals: i32| {
                let scaled = value * 10f64.powi(decimals);
                [scaled.floor(), scaled.ceil()].map(|n| {
                    // Of two that are as near, the even one comes first.
                    let order = ((n - scaled).abs(), n.rem_euclid(2.0));
                    (format!("{n}e-{decimals}"), order)
                })
            };
            for (shorter, _) in around(decimals - 1) {
                assert!(!reads_back(&shorter, half), "{text}: {shorter} is shorter");
            }
            let nearest = around(decimals)
                .into_iter()
                .filter(|(other, _)| reads_back(other, half))
                .min_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap())
                .unwrap();
            assert_eq!(nearest.0.parse::<f64>(), text.parse::<f64>(), "{text}");
        }
        assert_eq!(seen, 63_488);
    }

    #[test]
    fn long_input_is_not_repeated_whole() {
        let text = format!("[{}", "é".repeat(1000));
        let Err(VectorError::Syntax { text, .. }) = parse(&text) else {
            panic!("accepted {text}")
        };
        assert!(text.chars().count() < 70);
    }
}
