//! Renders a request as the chat prompt on which Qwen3-VL-Embedding was trained: the instruction as
//! the system message, pictures and text as the user message, and the start of the assistant's answer.
//! The hidden state of the prompt's last token becomes the embedding.

use std::borrow::Cow;
use std::ops::Range;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::ModelError;
use super::tokenizer::{Encoded, Tokenizer};

pub(super) const DEFAULT_INSTRUCTION: &str = "Represent the user's input.";
/// The user text of a request that has neither text nor pictures.
const NO_CONTENT: &str = "NULL";

/// The special tokens that surround and stand for a picture, as text.
pub(super) struct ImageMarkers {
    pub start: String,
    pub pad: String,
    pub end: String,
}

/// A rendered prompt, and the byte range of the user's text in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub text: String,
    user_text: Range<usize>,
}

impl Prompt {
    /// Renders the prompt. `image_tokens` holds the number of tokens of each picture.
    pub fn render(
        instruction: &str,
        image_tokens: &[usize],
        text: Option<&str>,
        markers: &ImageMarkers,
    ) -> Self {
        let user_text = match text {
            Some(text) => text,
            None if image_tokens.is_empty() => NO_CONTENT,
            None => "",
        };
        let mut prompt = format!("<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n");
        for &tokens in image_tokens {
            prompt.push_str(&markers.start);
            prompt.push_str(&markers.pad.repeat(tokens));
            prompt.push_str(&markers.end);
        }
        let start = prompt.len();
        prompt.push_str(user_text);
        let end = prompt.len();
        prompt.push_str("<|im_end|>\n<|im_start|>assistant\n");
        Self {
            text: prompt,
            user_text: start..end,
        }
    }

    /// Encodes the prompt to at most `max_tokens` tokens. If it is too long, tokens are removed
    /// from the end of the user's text, so the end of the prompt stays. (Qwen's own code truncates
    /// the prompt's end, and so takes the embedding from the middle of the text.)
    pub fn encode(&self, tokenizer: &Tokenizer, max_tokens: usize) -> Result<Vec<u32>, ModelError> {
        let Encoded { mut ids, offsets } = tokenizer.encode(&self.text)?;
        let excess = ids.len().saturating_sub(max_tokens);
        if excess == 0 {
            return Ok(ids);
        }
        let cuttable = |&(start, end): &(usize, usize)| {
            start >= self.user_text.start && end <= self.user_text.end
        };
        let first = offsets.iter().position(cuttable);
        let last = offsets.iter().rposition(cuttable);
        match (first, last) {
            (Some(first), Some(last)) if last + 1 - first >= excess => {
                ids.drain(last + 1 - excess..=last);
                Ok(ids)
            }
            _ => Err(ModelError::LimitExceeded(format!(
                "request takes {} tokens without its text, but the model takes at most {max_tokens}",
                ids.len() - offsets.iter().filter(|offset| cuttable(offset)).count()
            ))),
        }
    }
}

/// The system message: `custom` without surrounding white space, and with a full stop appended
/// unless it ends in punctuation (Unicode category P). If nothing remains, the message is
/// `default`, unchanged.
pub(super) fn instruction<'a>(custom: Option<&'a str>, default: &'a str) -> Cow<'a, str> {
    let custom = custom.unwrap_or_default().trim_matches(is_python_space);
    match custom.chars().next_back() {
        None => Cow::Borrowed(default),
        Some(last) if last.general_category_group() == GeneralCategoryGroup::Punctuation => {
            Cow::Borrowed(custom)
        }
        Some(_) => Cow::Owned(format!("{custom}.")),
    }
}

/// Whether Python's `str.strip` removes `c`: Unicode white space and four ASCII separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The longest prefix of `text` that has at most `bytes` bytes and ends at a character boundary.
pub(super) fn shorten(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers() -> ImageMarkers {
        ImageMarkers {
            start: "<s>".into(),
            pad: "<p>".into(),
            end: "<e>".into(),
        }
    }

    #[test]
    fn pictures_stand_before_the_text() {
        let prompt = Prompt::render("Do.", &[2, 1], Some("hi"), &markers());
        assert_eq!(
            prompt.text,
            "<|im_start|>system\nDo.<|im_end|>\n<|im_start|>user\n\
             <s><p><p><e><s><p><e>hi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(&prompt.text[prompt.user_text], "hi");
    }

    #[test]
    fn only_a_request_with_nothing_in_it_is_null() {
        let content = |images: &[usize], text| {
            let prompt = Prompt::render("Do.", images, text, &markers());
            prompt.text[prompt.user_text].to_owned()
        };
        assert_eq!(content(&[], None), "NULL");
        assert_eq!(content(&[], Some("")), "");
        assert_eq!(content(&[1], None), "");
    }

    #[test]
    fn an_instruction_ends_in_punctuation() {
        for (custom, expected) in [
            ("Find the baby", "Find the baby."),
            ("  Find the baby \n", "Find the baby."),
            ("Find the baby!", "Find the baby!"),
            ("\u{1c}Is there a baby?\u{1f}", "Is there a baby?"),
            ("赤ちゃんを探す。", "赤ちゃんを探す。"),
            ("a (b)", "a (b)"),
            // Category S, not P.
            ("a + ", "a +."),
            ("costs 5$", "costs 5$."),
            ("a baby 👶", "a baby 👶."),
            ("", "Default"),
            (" \t\u{3000}", "Default"),
        ] {
            assert_eq!(instruction(Some(custom), "Default"), expected, "{custom:?}");
        }
        assert_eq!(instruction(None, "Default"), "Default");
    }

    #[test]
    fn shortening_keeps_characters_whole() {
        assert_eq!(shorten("naïve", 3), "na");
        assert_eq!(shorten("naïve", 4), "naï");
        assert_eq!(shorten("na", 9), "na");
    }
}
