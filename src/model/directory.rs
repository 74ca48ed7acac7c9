//! Reads a model's directory: its configuration, the names of its weight files, and the optional
//! `photosearch.json`. The files come from disk, or from the model's pack (the server's packed copy).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ModelError;
use super::compute::{DType, SharedBytes};
use super::dual::Calibration;
use super::pack::{Pack, SectionKind};

pub(super) const CONFIG: &str = "config.json";
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const PHOTOSEARCH: &str = "photosearch.json";
/// Weight files that torch writes as pickles: a single file, or the index of a sharded checkpoint.
/// They are never read.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The first bytes of a Git LFS pointer file (`docs/spec.md` of Git LFS).
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The maximum size of a model's JSON file. The largest known tokenizers have about 30 MB.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// The description of a model that [`describe`](super::describe) returns.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The model family's name in `config.json`.
    pub family: &'static str,
    /// Dimensions of the model's vectors; `None` for a model that makes none (a cross-encoder).
    pub dims: Option<usize>,
    /// Total size of the model's files on disk, in bytes.
    pub bytes: u64,
    /// The recommended minimum similarity for a row to pass the coarse filter, in [-1, 1].
    pub coarse_threshold: Option<f32>,
    /// The recommended prefix length for the coarse filter, from 1 to the model's dimensions.
    pub coarse_dims: Option<usize>,
    /// The recommended similarity over all dimensions from which a picture counts as showing what
    /// the query describes, in [-1, 1].
    pub fine_threshold: Option<f32>,
    /// Size of the weights that each session holds itself, in bytes; 0 if all sessions share the
    /// mapped pack.
    pub session_bytes: u64,
    /// How a dual encoder turns a cosine into a logit; `None` for other models, or if it could not
    /// be read.
    pub calibration: Option<Calibration>,
    /// Names of needed files that are missing. If there are any, the model cannot be loaded.
    pub missing: Vec<String>,
}

/// The contents of `photosearch.json`: settings for which the model's own files have no key. Every
/// key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelSettings {
    coarse_threshold: Option<f32>,
    coarse_dims: Option<usize>,
    fine_threshold: Option<f32>,
    /// The number format of the matrices; overrides the checkpoint's.
    pub compute_dtype: Option<DType>,
    /// The instruction of a request that has none.
    pub default_instruction: Option<String>,
    /// The maximum number of tokens. A longer input is truncated.
    pub max_tokens: Option<usize>,
    /// Whether NomicBert applies a layer norm to the pooled vector. Other families ignore the key.
    pub layer_norm: Option<bool>,
    #[serde(default)]
    pub image: ImageBudget,
}

/// The range of pixel counts to which a picture is scaled before it is cut into patches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageBudget {
    pub min_pixels: Option<u64>,
    pub max_pixels: Option<u64>,
}

/// The contents of `model.safetensors.index.json`, which maps each tensor to its shard.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// File metadata by which a change of the file is detected. A mere `touch` counts as a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stat {
    /// `None` if there is no such file.
    pub fn of(dir: &Path, name: &str) -> Result<Option<Self>, ModelError> {
        match std::fs::metadata(dir.join(name)) {
            Ok(found) => Ok(Some(Self {
                bytes: found.len(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
                inode: found.ino(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(name, error)),
        }
    }
}

/// The settings in [`PHOTOSEARCH`] that affect vectors, serialised. Thresholds do not affect
/// vectors, so they may change, or the file may be added later, without invalidating the vectors.
/// `None` for any other file, because all of its contents count.
pub(super) fn vector_relevant(
    name: &str,
    file: Option<&mut File>,
) -> Result<Option<Vec<u8>>, ModelError> {
    if name != PHOTOSEARCH {
        return Ok(None);
    }
    let malformed = |error: serde_json::Error| ModelError::malformed(name, error.to_string());
    let found: ModelSettings = match file {
        None => ModelSettings::default(),
        Some(file) => {
            let mut json = Vec::new();
            file.take(MAX_JSON_BYTES)
                .read_to_end(&mut json)
                .map_err(|source| unreadable(name, source))?;
            serde_json::from_slice(&json).map_err(malformed)?
        }
    };
    let relevant = (
        found.compute_dtype,
        found.default_instruction,
        found.max_tokens,
        found.image.min_pixels,
        found.image.max_pixels,
    );
    // A file without `layer_norm` is serialised as before the key existed, so recorded fingerprints
    // stay valid.
    let relevant = match found.layer_norm {
        None => serde_json::to_vec(&relevant),
        Some(layer_norm) => serde_json::to_vec(&(relevant, layer_norm)),
    };
    relevant.map(Some).map_err(malformed)
}

/// The files of a model, read either from a directory on disk or from the copies in a pack.
pub(super) struct Directory {
    path: PathBuf,
    files: Files,
}

enum Files {
    Disk,
    /// Reads from disk and records each requested file, whether it exists or not, with its metadata
    /// at the time of the request.
    Recorded(Mutex<BTreeMap<String, Seen>>),
    Packed(Arc<Pack>),
}

#[derive(Clone)]
struct Seen {
    stat: Option<Stat>,
    contents: Option<Arc<[u8]>>,
}

impl Directory {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::with(path, Files::Disk)
    }

    /// Opens a directory that records which files are read, and their contents.
    pub fn recording(path: &Path) -> Result<Self, ModelError> {
        Self::with(path, Files::Recorded(Mutex::default()))
    }

    fn with(path: &Path, files: Files) -> Result<Self, ModelError> {
        if !path.is_dir() {
            return Err(ModelError::NotFound);
        }
        Ok(Self {
            path: path.to_owned(),
            files,
        })
    }

    /// The files stored in a pack.
    pub fn packed(pack: Arc<Pack>) -> Self {
        Self {
            path: PathBuf::new(),
            files: Files::Packed(pack),
        }
    }

    /// The files requested so far, with their metadata at the time of the request.
    pub fn seen(&self) -> BTreeMap<String, Option<Stat>> {
        self.recorded()
            .into_iter()
            .map(|(name, seen)| (name, seen.stat))
            .collect()
    }

    /// The contents of the files read so far, which go into the pack.
    pub fn contents(&self) -> Vec<(String, Arc<[u8]>)> {
        self.recorded()
            .into_iter()
            .filter_map(|(name, seen)| Some((name, seen.contents?)))
            .collect()
    }

    fn recorded(&self) -> BTreeMap<String, Seen> {
        match &self.files {
            Files::Recorded(seen) => seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Files::Disk | Files::Packed(_) => BTreeMap::new(),
        }
    }

    /// In recording mode, records that this file was requested.
    fn note(&self, name: &str) -> Result<(), ModelError> {
        if let Files::Recorded(seen) = &self.files {
            let stat = Stat::of(&self.path, name)?;
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(name.to_owned())
                .or_insert(Seen {
                    stat,
                    contents: None,
                });
        }
        Ok(())
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> Result<bool, ModelError> {
        self.note(name)?;
        Ok(match &self.files {
            Files::Packed(pack) => pack.section(name).is_some(),
            _ => self.path.join(name).is_file(),
        })
    }

    /// Opens a file on disk. `name` must be a constant in the code, or must have passed
    /// [`is_plain_file_name`], as the shard names of [`Self::shards`] have.
    pub fn file(&self, name: &str) -> Result<File, ModelError> {
        self.note(name)?;
        File::open(self.path.join(name)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ModelError::Incomplete {
                missing: vec![name.to_owned()],
            },
            _ => unreadable(name, source),
        })
    }

    /// Reads a JSON file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        if let Files::Packed(pack) = &self.files {
            return match pack.section(name) {
                Some((SectionKind::File, bytes)) => Ok(bytes.as_ref().to_vec()),
                _ => Err(ModelError::Incomplete {
                    missing: vec![name.to_owned()],
                }),
            };
        }
        let file = self.file(name)?;
        let mut bytes = Vec::new();
        file.take(MAX_JSON_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| unreadable(name, source))?;
        if bytes.len() as u64 > MAX_JSON_BYTES {
            return Err(ModelError::malformed(
                name,
                format!("larger than {MAX_JSON_BYTES} bytes"),
            ));
        }
        if bytes.starts_with(POINTER) {
            return Err(ModelError::Pointer(name.to_owned()));
        }
        if let Files::Recorded(seen) = &self.files {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(seen) = seen.get_mut(name) {
                seen.contents = Some(bytes.as_slice().into());
            }
        }
        Ok(bytes)
    }

    /// The tokenizer in the pack's compact form; `None` if the directory is not a pack.
    pub fn compact_tokenizer(&self) -> Option<SharedBytes> {
        let Files::Packed(pack) = &self.files else {
            return None;
        };
        match pack.section(TOKENIZER)? {
            (SectionKind::Tokenizer, bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Reads and parses a JSON file.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ModelError> {
        serde_json::from_slice(&self.read(name)?)
            .map_err(|error| ModelError::malformed(name, error.to_string()))
    }

    /// The `model_type` in `config.json`.
    pub fn model_type(&self) -> Result<String, ModelError> {
        #[derive(Deserialize)]
        struct Head {
            model_type: String,
        }
        Ok(self.json::<Head>(CONFIG)?.model_type)
    }

    /// Parses a JSON file that may be absent; an absent file yields `T`'s default.
    pub fn optional_json<T: DeserializeOwned + Default>(
        &self,
        name: &str,
    ) -> Result<T, ModelError> {
        match self.has(name)? {
            true => self.json(name),
            false => Ok(T::default()),
        }
    }

    /// The settings in `photosearch.json`, or the defaults if there is no such file. `dims` is the
    /// number of dimensions of the model's vectors, the upper limit of `coarse_dims`.
    pub fn settings(&self, dims: usize) -> Result<ModelSettings, ModelError> {
        let found: ModelSettings = self.optional_json(PHOTOSEARCH)?;
        let reject = |reason: String| Err(ModelError::malformed(PHOTOSEARCH, reason));
        for (key, threshold) in [
            ("coarse_threshold", found.coarse_threshold),
            ("fine_threshold", found.fine_threshold),
        ] {
            if let Some(threshold) = threshold
                && !(-1.0..=1.0).contains(&threshold)
            {
                return reject(format!("{key} must be between -1 and 1, not {threshold}"));
            }
        }
        if let Some(coarse) = found.coarse_dims
            && !(1..=dims).contains(&coarse)
        {
            return reject(format!(
                "coarse_dims must be between 1 and {dims}, not {coarse}"
            ));
        }
        if found.max_tokens == Some(0) {
            return reject("max_tokens must be at least 1, not 0".into());
        }
        Ok(found)
    }

    /// The map from tensor to shard of a sharded checkpoint, with checked shard names; `None` if
    /// the weights are a single file. If both exist, the single file is used, as in transformers.
    pub fn shards(&self) -> Result<Option<BTreeMap<String, String>>, ModelError> {
        if self.has(WEIGHTS)? || !self.has(WEIGHTS_INDEX)? {
            return Ok(None);
        }
        let index: ShardIndex = self.json(WEIGHTS_INDEX)?;
        for shard in index.weight_map.values() {
            if !is_plain_file_name(shard) {
                return Err(ModelError::malformed(
                    WEIGHTS_INDEX,
                    format!("\"{shard}\" is not the name of a file in the model's directory"),
                ));
            }
        }
        Ok(Some(index.weight_map))
    }

    /// Names of the weight files, whether they exist or not.
    fn weight_files(&self) -> Result<BTreeSet<String>, ModelError> {
        Ok(match self.shards()? {
            None => BTreeSet::from([WEIGHTS.to_owned()]),
            Some(map) => map.into_values().collect(),
        })
    }

    /// Names of missing files among the configuration, the weights, and the files that the family
    /// also needs (`files`).
    pub fn missing_files(&self, files: &[&str]) -> Result<Vec<String>, ModelError> {
        let needed = [CONFIG].iter().chain(files).map(|&name| name.to_owned());
        let mut missing = Vec::new();
        for name in needed.chain(self.weight_files()?) {
            if !self.has(&name)? {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// Fails if one of the files listed at [`Self::missing_files`] is a Git LFS pointer or cannot
    /// be opened.
    pub fn check_not_pointers(&self, files: &[&str]) -> Result<(), ModelError> {
        let needed = [CONFIG].iter().chain(files).map(|&name| name.to_owned());
        for name in needed.chain(self.weight_files()?) {
            let mut start = Vec::new();
            self.file(&name)?
                .take(POINTER.len() as u64)
                .read_to_end(&mut start)
                .map_err(|source| unreadable(&name, source))?;
            if start == POINTER {
                return Err(ModelError::Pointer(name));
            }
        }
        Ok(())
    }

    /// Fails if the directory has weights only as torch pickles.
    pub fn check_not_pickled(&self) -> Result<(), ModelError> {
        if self.has(WEIGHTS)? || self.has(WEIGHTS_INDEX)? {
            return Ok(());
        }
        for name in PICKLES {
            if self.has(name)? {
                return Err(ModelError::Pickled(name));
            }
        }
        Ok(())
    }

    /// Describes the model. `files` is as for [`Self::missing_files`].
    pub fn info(
        &self,
        family: &'static str,
        dims: Option<usize>,
        files: &[&str],
    ) -> Result<ModelInfo, ModelError> {
        let settings = self.settings(dims.unwrap_or(usize::MAX))?;
        let fixed = [CONFIG, PHOTOSEARCH, WEIGHTS_INDEX];
        let fixed = fixed.iter().chain(files).map(|&name| name.to_owned());
        let mut bytes = 0u64;
        for name in fixed.chain(self.weight_files()?) {
            match self.path.join(&name).metadata() {
                Ok(metadata) => bytes = bytes.saturating_add(metadata.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(unreadable(&name, source)),
            }
        }
        Ok(ModelInfo {
            family,
            dims,
            bytes,
            coarse_threshold: settings.coarse_threshold,
            coarse_dims: settings.coarse_dims,
            fine_threshold: settings.fine_threshold,
            session_bytes: 0,
            calibration: None,
            missing: self.missing_files(files)?,
        })
    }
}

/// Whether `name` is a single path component. Joined to a directory's path, such a name cannot lead
/// out of that directory.
pub(super) fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

pub(super) fn unreadable(name: &str, source: io::Error) -> ModelError {
    ModelError::Unreadable {
        file: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain_file_name;

    #[test]
    fn shard_names_stay_in_the_directory() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in [
            "",
            ".",
            "..",
            "../model.safetensors",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "a\0",
        ] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
