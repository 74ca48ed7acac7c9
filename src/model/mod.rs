//! A model directory in Hugging Face layout to an [`Embedder`], which turns texts and pictures
//! into vectors of one space.
//!
//! [`load`] looks at `config.json` and hands the directory to the model family named there. A
//! family is a folder of its own (`qwen3_vl/`); what families share stands beside it: the
//! directory and its files, weights, layers, attention, tokenizer, chat prompt.

mod attention;
mod cancel;
mod directory;
mod error;
mod layers;
mod prompt;
mod qwen3_vl;
mod tokenizer;
mod weights;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::image::RgbImage;

pub use cancel::Cancel;
pub use directory::ModelInfo;
pub use error::ModelError;

use directory::Directory;

/// One thing to embed: pictures, then text, under an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The text, after the pictures. `Some("")` is an empty text, not an absent one.
    pub text: Option<&'a str>,
    /// The pictures, upright, in order.
    pub images: &'a [RgbImage],
    /// What the embedding is for; the model's own instruction where absent or blank.
    pub instruction: Option<&'a str>,
}

/// A loaded model.
pub trait Embedder: Send + Sync {
    /// The dimensions of every vector that [`Self::embed`] returns.
    fn dims(&self) -> usize;

    /// The picture at the size at which the model looks at it, for whoever holds several: the same
    /// vector comes of it, and a large photo's pixels need not be kept.
    fn fit(&self, image: RgbImage) -> Result<RgbImage, ModelError>;

    /// One vector a request, in order, each of length [`Self::dims`] and of L2 norm 1. A request's
    /// vector does not depend on the requests beside it (up to the rounding of f32 sums).
    fn embed(&self, requests: &[Request<'_>], cancel: &Cancel)
    -> Result<Vec<Vec<f32>>, ModelError>;
}

/// A kind of model, known by the `model_type` in its `config.json`.
struct Family {
    model_type: &'static str,
    /// Dimensions of the vectors, from `config.json` alone.
    dims: fn(&Directory) -> Result<usize, ModelError>,
    load: Loader,
}

type Loader = fn(&Directory, &Cancel) -> Result<Box<dyn Embedder>, ModelError>;

const FAMILIES: &[Family] = &[Family {
    model_type: "qwen3_vl",
    dims: qwen3_vl::dims,
    load: qwen3_vl::load,
}];

/// Load the model in `dir`: all weights are read into memory.
pub fn load(dir: &Path, cancel: &Cancel) -> Result<Box<dyn Embedder>, ModelError> {
    let directory = Directory::open(dir)?;
    let family = family(&directory)?;
    let missing = directory.missing_files()?;
    if !missing.is_empty() {
        return Err(ModelError::Incomplete { missing });
    }
    (family.load)(&directory, cancel)
}

/// What there is in `dir`, without reading any weights.
pub fn describe(dir: &Path) -> Result<ModelInfo, ModelError> {
    let directory = Directory::open(dir)?;
    let family = family(&directory)?;
    let dims = (family.dims)(&directory)?;
    directory.info(family.model_type, dims)
}

fn family(directory: &Directory) -> Result<&'static Family, ModelError> {
    let found = directory.model_type()?;
    FAMILIES
        .iter()
        .find(|family| family.model_type == found)
        .ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
            ModelError::UnsupportedModel(format!(
                "model type \"{found}\" is not supported (known: {})",
                known.join(", ")
            ))
        })
}
