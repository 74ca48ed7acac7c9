//! Decodes the pictures that are to be embedded, on the model thread and the threads of its pool.

use std::sync::OnceLock;

use crate::image::{self, ImageError, Limits, RgbImage};
use crate::model::compute;
use crate::model::{Cancel, Embedder, ModelError};

/// One item to embed. It owns its data, because it is sent to the model thread.
#[derive(Default)]
pub struct EmbedInput {
    pub text: Option<String>,
    /// Encoded pictures.
    pub images: Vec<Vec<u8>>,
    /// The position of the item in an array, counted from 1, for error messages.
    pub element: Option<usize>,
}

impl EmbedInput {
    /// The total length of the encoded pictures in bytes.
    fn image_bytes(&self) -> usize {
        self.images.iter().map(Vec::len).sum()
    }

    /// The total length of text and pictures in bytes.
    pub fn bytes(&self) -> usize {
        self.image_bytes() + self.text.as_ref().map_or(0, String::len)
    }
}

/// Errors that occur on the model thread.
pub enum EmbedError {
    Model(ModelError),
    /// An error of a picture, with its position in an array (from 1) if it is an element of one.
    Image(Option<usize>, ImageError),
}

/// A picture to decode.
struct Encoded<'a> {
    bytes: &'a [u8],
    /// The position of the picture in an array, counted from 1, for error messages. `None` if the
    /// picture was not passed in an array, or was the only one in the array of `embed`.
    element: Option<usize>,
}

/// Decodes the pictures of all items. Returns the pictures of each item.
pub fn decode_all(
    contents: &[EmbedInput],
    limits: &Limits,
    embedder: &dyn Embedder,
    cancel: &Cancel,
) -> Result<Vec<Vec<RgbImage>>, EmbedError> {
    if contents.iter().any(|content| !content.images.is_empty()) {
        embedder.check_images().map_err(EmbedError::Model)?;
    }
    let encoded: usize = contents.iter().map(EmbedInput::image_bytes).sum();
    let mut pictures = with_room(contents.iter().map(|content| content.images.len()).sum())?;
    for content in contents {
        let images = content.images.iter().enumerate();
        pictures.extend(images.map(|(index, bytes)| {
            Encoded {
                bytes,
                element: content
                    .element
                    .or((content.images.len() > 1).then_some(index + 1)),
            }
        }));
    }
    let mut decoder = Decoder {
        limits: Limits {
            held: encoded as u64,
            ..*limits
        },
        embedder,
        cancel,
    };
    let mut decoded = decoder.decode(&pictures)?.into_iter();
    let mut all = with_room(contents.len())?;
    for content in contents {
        let mut images = with_room(content.images.len())?;
        images.extend(decoded.by_ref().take(content.images.len()));
        all.push(images);
    }
    Ok(all)
}

/// An empty list with room for `count` elements.
fn with_room<T>(count: usize) -> Result<Vec<T>, EmbedError> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)
        .map_err(|_| EmbedError::Model(ModelError::NoMemory))?;
    Ok(list)
}

struct Decoder<'a> {
    /// `held` counts all encoded pictures, and the decoded pictures that are part of the result.
    limits: Limits,
    embedder: &'a dyn Embedder,
    cancel: &'a Cancel,
}

impl Decoder<'_> {
    /// Decodes pictures. Of JPEG files that follow each other, several are decoded at the same time. Other
    /// formats are not: their libraries change state of the whole process, or end the process for lack of
    /// memory. (The memory is asked for beforehand, but with several threads another one could take it.)
    /// Returns what decoding one after the other would return: the same pictures, or the error of the first
    /// picture that cannot be decoded.
    fn decode(&mut self, pictures: &[Encoded<'_>]) -> Result<Vec<RgbImage>, EmbedError> {
        let mut images = with_room(pictures.len())?;
        // A group has more pictures than there are threads, because some take longer than others.
        let threads = compute::threads();
        let at_a_time = if threads > 1 { 4 * threads } else { 1 };
        while images.len() < pictures.len() {
            let rest = &pictures[images.len()..];
            let files = rest.iter().take(at_a_time);
            let jpegs = files.take_while(|file| image::is_jpeg(file.bytes));
            let group = &rest[..jpegs.count().max(1)];
            let before = images.len();
            if group.len() > 1 {
                let together = self.decode_together(group);
                images.extend(together.into_iter().map_while(OnceLock::into_inner));
                for image in &images[before..] {
                    self.limits.held += image.pixels().len() as u64;
                }
            }
            // The first picture that failed may only have needed more than its share of the memory. Alone,
            // with all the memory that is left, it succeeds or fails with its own error. The pictures
            // after it have been dropped; they may need as much, so they are decoded alone, too.
            for picture in &group[images.len() - before..] {
                let image = self.decode_one(picture, &self.limits)?;
                self.limits.held += image.pixels().len() as u64;
                images.push(image);
            }
        }
        Ok(images)
    }

    /// Decodes pictures at the same time, each in an equal share of the memory that is left. An
    /// element of the result is empty if its picture could not be decoded.
    fn decode_together(&self, pictures: &[Encoded<'_>]) -> Vec<OnceLock<RgbImage>> {
        let left = self.limits.max_memory.saturating_sub(self.limits.held);
        let limits = Limits {
            held: self.limits.max_memory - left / pictures.len() as u64,
            ..self.limits
        };
        let decoded: Vec<OnceLock<RgbImage>> = pictures.iter().map(|_| OnceLock::new()).collect();
        compute::for_each(pictures.len(), compute::threads(), |at| {
            if let Ok(image) = self.decode_one(&pictures[at], &limits) {
                // This cannot fail, because each element is set once.
                let _ = decoded[at].set(image);
            }
        });
        decoded
    }

    /// Decodes one picture. A picture that is larger than the model's input is decoded at the model's
    /// size.
    fn decode_one(&self, picture: &Encoded<'_>, limits: &Limits) -> Result<RgbImage, EmbedError> {
        let Decoder {
            embedder, cancel, ..
        } = self;
        cancel.check().map_err(EmbedError::Model)?;
        let to_embed_error = |error| match error {
            // The decoder stops when `cancel.check()` fails, and that happens at a cancel request and
            // when memory is low. Another check tells which of them it was.
            ImageError::Cancelled => {
                EmbedError::Model(cancel.check().err().unwrap_or(ModelError::Cancelled))
            }
            error => EmbedError::Image(picture.element, error),
        };
        let opened = image::open(picture.bytes, limits).map_err(to_embed_error)?;
        let (width, height) = opened.size();
        let cancelled = || cancel.check().is_err();
        match embedder
            .fitted_size(width, height)
            .map_err(EmbedError::Model)?
        {
            Some((width, height)) => opened.decode_to(width, height, embedder.filter(), &cancelled),
            None => opened.decode(None, &cancelled),
        }
        .map_err(to_embed_error)
    }
}
