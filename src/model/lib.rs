//! A model directory in Hugging Face layout to an [`Embedder`], which turns texts and pictures
//! into vectors of one space.
//!
//! [`load`] looks at `config.json` and hands the directory to the model family named there. A
//! family is a folder of its own (`qwen3_vl/`, `bert/`); what families share stands beside it: the
//! directory and its files, weights, layers, attention, tokenizer, chat prompt.

mod attention;
mod batch;
mod bert;
mod cancel;
pub mod compute;
mod directory;
mod error;
mod layers;
mod limits;
mod pack;
mod private;
mod prompt;
mod quantize;
mod qwen3_vl;
mod scope;
mod tokenizer;
mod weights;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use photosearch_image::{RgbImage, resize_bicubic};

pub use cancel::Cancel;
pub use directory::ModelInfo;
pub use error::ModelError;
pub use limits::{MAX_MODEL_NAME, MODEL_NAME_RULE, is_model_name};
pub use pack::{Cache, Packed};
pub use quantize::{Closeness, quantize};

use directory::{Directory, PREPROCESSOR, TOKENIZER};
use pack::{Pack, PackWriter, SectionKind};
use scope::{Packing, WeightSource};
use tokenizer::Tokenizer;
use weights::Weights;

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
    /// The dimensions of every vector that [`Self::embed`] returns; 0 where it returns none.
    fn dims(&self) -> usize;

    /// `Ok` where a request may have pictures, else the error that one with pictures ends in.
    fn check_images(&self) -> Result<(), ModelError>;

    /// The size at which the model looks at a picture of this one. Whoever resizes the picture to
    /// it by [`resize_bicubic`] gets the same vector, and need not keep a large photo's pixels.
    /// `None` where the picture has to stay as it is.
    ///
    /// # Errors
    /// Where the model takes no picture of this size, or none at all.
    fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError>;

    /// The picture at its [`Self::fitted_size`].
    fn fit(&self, image: RgbImage) -> Result<RgbImage, ModelError> {
        match self.fitted_size(image.width(), image.height())? {
            Some((width, height)) => resize_bicubic(&image, width, height)
                .map_err(|error| ModelError::Internal(error.to_string())),
            None => Ok(image),
        }
    }

    /// One vector a request, in order, each of length [`Self::dims`] and of L2 norm 1. A request's
    /// vector does not depend on the requests beside it (up to the rounding of f32 sums). Requests
    /// go through the model together as far as `memory` bytes for a forward pass allow.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`], before anything large is allocated, where one alone would take
    /// more.
    fn embed(
        &self,
        requests: &[Request<'_>],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError>;

    /// How well each pair's second text answers its first, in order: what a cross-encoder is for.
    /// `memory` is as for [`Self::embed`].
    fn score(
        &self,
        pairs: &[(&str, &str)],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let _ = (pairs, memory, cancel);
        Err(ModelError::WrongKind(
            "it makes embeddings; only a cross-encoder scores pairs of texts",
        ))
    }
}

/// A kind of model, known by the `model_type` in its `config.json`.
struct Family {
    model_type: &'static str,
    /// Files that it needs besides `config.json` and the weights.
    files: &'static [&'static str],
    /// Dimensions of the vectors, `None` where it makes none. Reads no weights.
    dims: fn(&Directory) -> Result<Option<usize>, ModelError>,
    load: Loader,
}

type Loader = fn(&Directory, WeightSource<'_>, &Cancel) -> Result<Box<dyn Embedder>, ModelError>;

const FAMILIES: &[Family] = &[
    Family {
        model_type: "qwen3_vl",
        files: &[PREPROCESSOR, TOKENIZER],
        dims: qwen3_vl::dims,
        load: qwen3_vl::load,
    },
    Family {
        model_type: "bert",
        files: &[TOKENIZER],
        dims: bert::dims,
        load: bert::load,
    },
    Family {
        model_type: "xlm-roberta",
        files: &[TOKENIZER],
        dims: bert::dims,
        load: bert::load,
    },
];

/// A model that is ready, and what it takes.
pub struct Loaded {
    pub embedder: Box<dyn Embedder>,
    pub packed: Packed,
}

/// Load the model in `dir`: its pack in the cache is mapped, and made first where there is none.
///
/// # Errors
/// Where `dir` holds no model that can be run, or not the model that was first used under its
/// name, or the pack cannot be made.
pub fn load(dir: &Path, cache: &Cache, cancel: &Cancel) -> Result<Loaded, ModelError> {
    let pack = Arc::new(pack(dir, cache, false, cancel)?);
    let directory = Directory::packed(pack.clone());
    let family = family(&directory)?;
    Ok(Loaded {
        embedder: (family.load)(&directory, WeightSource::Packed(&pack), cancel)?,
        packed: Packed::of(&pack),
    })
}

/// Make the pack of the model in `dir`, if there is none yet, and read it into the page cache.
/// `replace` accepts that the model's files have changed since it was first used: vectors that
/// were made before are then another model's.
pub fn prepare(
    dir: &Path,
    cache: &Cache,
    replace: bool,
    cancel: &Cancel,
) -> Result<Packed, ModelError> {
    let pack = pack(dir, cache, replace, cancel)?;
    pack.warm(cancel)?;
    Ok(Packed::of(&pack))
}

fn pack(dir: &Path, cache: &Cache, replace: bool, cancel: &Cancel) -> Result<Pack, ModelError> {
    let directory = Directory::open(dir)?;
    let family = family(&directory)?;
    directory.check_not_pickled()?;
    let missing = directory.missing_files(family.files)?;
    if !missing.is_empty() {
        return Err(ModelError::Incomplete { missing });
    }
    check_files(&directory, family)?;
    cache.open(dir, replace, cancel, &|directory, file, kernel| {
        let dims = (family.dims)(directory)?;
        let weights = Weights::open(directory, cancel)?;
        let recommended = directory.recommendations(dims.unwrap_or(usize::MAX))?;
        let held = recommended.compute_dtype.unwrap_or(weights.held());
        let packing = Packing {
            weights,
            writer: RefCell::new(PackWriter::new(file, held, kernel)?),
        };
        (family.load)(directory, WeightSource::Packing(&packing), cancel)?;
        let mut writer = packing.writer.into_inner();
        for (name, contents) in directory.contents() {
            let (kind, part) = match name.as_str() {
                TOKENIZER => (SectionKind::Tokenizer, Tokenizer::compact(&contents)?),
                _ => (SectionKind::File, contents.to_vec()),
            };
            writer.add::<ModelError>(&name, kind, std::iter::once(Ok(part)))?;
        }
        Ok(writer)
    })
}

/// What there is in `dir`, without reading any weights.
pub fn describe(dir: &Path) -> Result<ModelInfo, ModelError> {
    let directory = Directory::open(dir)?;
    let family = family(&directory)?;
    let dims = (family.dims)(&directory)?;
    directory.info(family.model_type, dims, family.files)
}

/// Why the model in `dir` cannot be loaded, as far as it shows without reading all of its weights: a
/// file that cannot be opened, is not the file itself, or is cut short.
pub fn check(dir: &Path) -> Result<(), ModelError> {
    let directory = Directory::open(dir)?;
    check_files(&directory, family(&directory)?)
}

fn check_files(directory: &Directory, family: &Family) -> Result<(), ModelError> {
    directory.check_not_pointers(family.files)?;
    Weights::open(directory, &Cancel::new()).map(drop)
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
