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

    #[test]
    fn long_input_is_not_repeated_whole() {
        let text = format!("[{}", "é".repeat(1000));
        let Err(VectorError::Syntax { text, .. }) = parse(&text) else {
            panic!("accepted {text}")
        };
        assert!(text.chars().count() < 70);
    }
}
