//! Loads embedding models from directories in the Hugging Face layout and runs them on the CPU. A
//! loaded model is an [`Embedder`], which turns texts and pictures into vectors of one common
//! space.
//!
//! [`load`] reads the `model_type` in `config.json` and calls the matching model family. Each
//! family has a folder (`qwen3_vl/`, `bert/`, `nomic_bert/`, `clip/`, `siglip/`; `dual/` is what the last two share).
//! `siglip/` runs `siglip2`, too.
//! `nomic_bert/` runs candle's forward pass; the others have their own. The other modules serve several families: the
//! directory and its files, weights, layers, attention, tokenizer. The chat prompt (`prompt`) is Qwen3-VL's alone.

mod attention;
mod batch;
mod bert;
mod cancel;
mod clip;
pub mod compute;
mod directory;
mod dual;
mod error;
mod layers;
mod limits;
mod nomic_bert;
mod pack;
mod private;
mod prompt;
mod quantize;
mod qwen3_vl;
mod scope;
mod siglip;
mod text_tokens;
mod tokenizer;
mod weights;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use photosearch_image::{Filter, RgbImage, resize};

pub use cancel::Cancel;
pub use directory::ModelInfo;
pub use dual::Calibration;
pub use error::ModelError;
pub use limits::{MAX_MODEL_NAME, MODEL_NAME_RULE, is_model_name};
pub use nomic_bert::limit_threads;
pub use pack::{Cache, Packed};
pub use quantize::{Closeness, quantize};

use directory::{Directory, PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG};
use pack::{Pack, PackWriter, SectionKind};
use scope::{Packing, WeightSource};
use tokenizer::Tokenizer;
use weights::Weights;

/// One input to embed: pictures, followed by text, under an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The text, which follows the pictures. `Some("")` is an empty text, which differs from an
    /// absent one.
    pub text: Option<&'a str>,
    /// The pictures in order, already rotated upright.
    pub images: &'a [RgbImage],
    /// What the embedding will be used for. If absent or blank, the model's default instruction
    /// applies.
    pub instruction: Option<&'a str>,
}

/// A loaded model.
pub trait Embedder: Send + Sync {
    /// Dimensions of the vectors that [`Self::embed`] returns; 0 if the model makes no vectors.
    fn dims(&self) -> usize;

    /// `Ok` if the model accepts pictures, else the error that a request with pictures would get.
    fn check_images(&self) -> Result<(), ModelError>;

    /// The size to which the model scales a picture of `width` × `height` pixels. If the caller
    /// scales the picture to this size with [`resize`] and [`Self::filter`], the vector is the same,
    /// and the caller need not keep the pixels of a large photo. `None` if the caller must not scale
    /// the picture.
    ///
    /// # Errors
    /// If the model takes no picture of this size, or no pictures at all.
    fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError>;

    /// The filter with which the model scales a picture.
    fn filter(&self) -> Filter {
        Filter::Bicubic
    }

    /// Scales the picture to its [`Self::fitted_size`].
    fn fit(&self, image: RgbImage) -> Result<RgbImage, ModelError> {
        match self.fitted_size(image.width(), image.height())? {
            Some((width, height)) => resize(&image, width, height, self.filter())
                .map_err(|error| ModelError::Internal(error.to_string())),
            None => Ok(image),
        }
    }

    /// Returns one vector per request, in order, each of length [`Self::dims`] and of L2 norm 1. A
    /// request's vector does not depend on the other requests of the call (up to the rounding of
    /// f32 sums). The model runs several requests in one forward pass if the pass fits into
    /// `memory` bytes.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`] if a single request needs more than `memory` bytes. The check
    /// comes before any large allocation.
    fn embed(
        &self,
        requests: &[Request<'_>],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Returns one score per pair, in order: how well the second text answers the first. Only a
    /// cross-encoder can do this. `memory` is as for [`Self::embed`].
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

/// A model architecture, identified by the `model_type` in `config.json`.
struct Family {
    model_type: &'static str,
    /// Files that the family needs besides `config.json` and the weights.
    files: &'static [&'static str],
    /// Returns the dimensions of the model's vectors, or `None` for a model that makes none. Reads
    /// no weights.
    dims: fn(&Directory) -> Result<Option<usize>, ModelError>,
    load: Loader,
    /// Whether the models are dual encoders. Their checkpoints contain a [`Calibration`], and they
    /// were not trained with a Matryoshka loss.
    dual: bool,
    /// Returns the size of the weights that each session holds itself, in bytes. `None` if the
    /// sessions hold none, because they share the pack: the server's packed copy, which they map.
    session_bytes: Option<SessionBytes>,
}

type SessionBytes = fn(&Directory) -> Result<u64, ModelError>;
type Loader = fn(&Directory, WeightSource<'_>, &Cancel) -> Result<Box<dyn Embedder>, ModelError>;

const FAMILIES: &[Family] = &[
    Family {
        model_type: "qwen3_vl",
        files: &[PREPROCESSOR, TOKENIZER],
        dims: qwen3_vl::dims,
        load: qwen3_vl::load,
        dual: false,
        session_bytes: None,
    },
    Family {
        model_type: "bert",
        files: &[TOKENIZER],
        dims: bert::dims,
        load: bert::load,
        dual: false,
        session_bytes: None,
    },
    Family {
        model_type: "xlm-roberta",
        files: &[TOKENIZER],
        dims: bert::dims,
        load: bert::load,
        dual: false,
        session_bytes: None,
    },
    Family {
        model_type: "nomic_bert",
        files: &[TOKENIZER],
        dims: nomic_bert::dims,
        load: nomic_bert::load,
        dual: false,
        session_bytes: Some(nomic_bert::session_bytes),
    },
    Family {
        model_type: "clip",
        files: &[PREPROCESSOR, TOKENIZER],
        dims: clip::dims,
        load: clip::load,
        dual: true,
        session_bytes: None,
    },
    Family {
        model_type: "siglip",
        files: &[PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG],
        dims: siglip::dims,
        load: siglip::load,
        dual: true,
        session_bytes: None,
    },
    Family {
        model_type: "siglip2",
        files: &[PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG],
        dims: siglip::dims,
        load: siglip::load,
        dual: true,
        session_bytes: None,
    },
];

/// A model that is ready to run, and a description of its pack.
pub struct Loaded {
    pub embedder: Box<dyn Embedder>,
    pub packed: Packed,
}

/// Loads the model in `dir` by mapping its pack from the cache. If the cache has no pack of this
/// model, `load` makes the pack first.
///
/// # Errors
/// If `dir` holds no model that can be run, if the model's files differ from those first used under
/// its name, or if the pack cannot be made.
pub fn load(dir: &Path, cache: &Cache, cancel: &Cancel) -> Result<Loaded, ModelError> {
    let pack = Arc::new(pack(dir, cache, false, cancel)?);
    let directory = Directory::packed(pack.clone());
    let family = family(&directory)?;
    Ok(Loaded {
        embedder: (family.load)(&directory, WeightSource::Packed(&pack), cancel)?,
        packed: Packed::of(&pack),
    })
}

/// Makes the pack of the model in `dir`, unless the cache has it already, and reads the pack into
/// the page cache. `replace` accepts that the model's files have changed since the model was first
/// used. The vectors made before the change then belong to another model.
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
        let settings = directory.settings(dims.unwrap_or(usize::MAX))?;
        let dtype = settings.compute_dtype.unwrap_or(weights.dtype());
        let packing = Packing {
            weights,
            writer: RefCell::new(PackWriter::new(file, dtype, kernel)?),
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

/// Describes the model in `dir`. Reads no weights, except the two numbers of a [`Calibration`].
pub fn describe(dir: &Path) -> Result<ModelInfo, ModelError> {
    let directory = Directory::open(dir)?;
    let family = family(&directory)?;
    let dims = (family.dims)(&directory)?;
    let mut info = directory.info(family.model_type, dims, family.files)?;
    if let Some(session_bytes) = family.session_bytes {
        info.session_bytes = session_bytes(&directory)?;
    }
    if family.dual {
        // Without a Matryoshka loss, a vector's prefix is no embedding, so the coarse filter should
        // compare whole vectors.
        info.coarse_dims = info.coarse_dims.or(dims);
        // An error is dropped here; [`check`] reports what is wrong with the weights.
        info.calibration = Calibration::read(&directory).ok();
        let even_odds = info.calibration.and_then(|own| own.cosine(0.5));
        info.fine_threshold = info.fine_threshold.or(even_odds);
    }
    Ok(info)
}

/// Checks whether the model in `dir` can be loaded, as far as possible without reading all of its
/// weights. The error names a file that cannot be opened, is a Git LFS pointer, or is cut short.
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
