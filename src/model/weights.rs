//! Safetensors files, one or several shards, read tensor by tensor into the type in which the
//! model computes. Nothing is mapped: a checkpoint that is replaced or cut short under a running
//! server must be an error, not a bus error.
//!
//! A file is: the length of the header (u64, little-endian), the header (a JSON object from a
//! tensor's name to its type, shape and byte range), the tensors' bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use serde::Deserialize;

use super::directory::{self, Directory, unreadable};
use super::{Cancel, ModelError};

/// The format's own limit on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes that are read and converted between two looks at the cancel flag.
const BLOCK_BYTES: usize = 4 << 20;

/// Where a tensor lies.
struct Entry {
    shard: usize,
    /// `None`: a type which no weight of ours may have. Only an error if the tensor is asked for.
    dtype: Option<DType>,
    dtype_name: String,
    shape: Vec<usize>,
    /// From the start of the file.
    offset: u64,
    bytes: u64,
}

struct Shard {
    name: String,
    file: File,
}

/// All tensors of a checkpoint, by name.
pub(super) struct Weights {
    shards: Vec<Shard>,
    entries: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Header {
    /// Free text about the file; named here so that it is not taken for a tensor.
    #[serde(rename = "__metadata__")]
    _metadata: Option<HashMap<String, String>>,
    #[serde(flatten)]
    tensors: HashMap<String, HeaderEntry>,
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Weights {
    /// Read the headers of all weight files.
    pub fn open(directory: &Directory, cancel: &Cancel) -> Result<Self, ModelError> {
        let mut weights = Self {
            shards: Vec::new(),
            entries: HashMap::new(),
        };
        let Some(map) = directory.shards()? else {
            let entries = weights.open_shard(directory, directory::WEIGHTS)?;
            weights.entries = entries;
            return Ok(weights);
        };
        let mut by_shard: HashMap<String, HashMap<String, Entry>> = HashMap::new();
        for (tensor, shard) in map {
            cancel.check()?;
            if !by_shard.contains_key(&shard) {
                let entries = weights.open_shard(directory, &shard)?;
                by_shard.insert(shard.clone(), entries);
            }
            let entry = by_shard
                .get_mut(&shard)
                .and_then(|entries| entries.remove(&tensor))
                .ok_or_else(|| ModelError::malformed(&shard, format!("no tensor \"{tensor}\"")))?;
            weights.entries.insert(tensor, entry);
        }
        Ok(weights)
    }

    fn open_shard(
        &mut self,
        directory: &Directory,
        name: &str,
    ) -> Result<HashMap<String, Entry>, ModelError> {
        let mut file = directory.file(name)?;
        let entries = read_header(&mut file, name, self.shards.len())?;
        self.shards.push(Shard {
            name: name.to_owned(),
            file,
        });
        Ok(entries)
    }

    /// Checkpoints of a bare model and of one with a head differ in a `model.` before each name.
    fn find(&self, name: &str) -> Option<&Entry> {
        self.entries
            .get(name)
            .or_else(|| self.entries.get(&format!("model.{name}")))
    }

    /// The type in which a tensor is stored.
    pub fn stored_type(&self, name: &str) -> Option<DType> {
        self.find(name)?.dtype
    }

    /// Look at tensors whose names begin with `prefix`, and load matrices as `dtype`.
    pub fn scope<'a>(&'a self, prefix: &str, dtype: DType, cancel: &'a Cancel) -> Scope<'a> {
        Scope {
            weights: self,
            prefix: prefix.to_owned(),
            dtype,
            cancel,
        }
    }

    fn load(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let entry = self.find(name).ok_or_else(|| {
            let file = match self.shards.as_slice() {
                [single] => single.name.as_str(),
                _ => directory::WEIGHTS_INDEX,
            };
            ModelError::malformed(file, format!("no tensor \"{name}\""))
        })?;
        let shard = &self.shards[entry.shard];
        if entry.shape != shape {
            return Err(ModelError::malformed(
                &shard.name,
                format!(
                    "tensor \"{name}\" has shape {:?}, but {} asks for {shape:?}",
                    entry.shape,
                    directory::CONFIG
                ),
            ));
        }
        let Some(stored) = entry.dtype else {
            return Err(ModelError::malformed(
                &shard.name,
                format!("tensor \"{name}\" has type {}", entry.dtype_name),
            ));
        };
        let reader = Reader {
            shard,
            entry,
            cancel,
        };
        let tensor = match dtype {
            DType::F32 => {
                let values = match stored {
                    DType::BF16 => reader.read(|b| bf16::from_le_bytes(b).to_f32())?,
                    DType::F16 => reader.read(|b| f16::from_le_bytes(b).to_f32())?,
                    _ => reader.read(f32::from_le_bytes)?,
                };
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            DType::F16 => {
                let values = match stored {
                    DType::BF16 => {
                        reader.read(|b| f16::from_f32(bf16::from_le_bytes(b).to_f32()))?
                    }
                    DType::F16 => reader.read(f16::from_le_bytes)?,
                    _ => reader.read(|b| f16::from_f32(f32::from_le_bytes(b)))?,
                };
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            DType::BF16 => {
                let values = match stored {
                    DType::BF16 => reader.read(bf16::from_le_bytes)?,
                    DType::F16 => {
                        reader.read(|b| bf16::from_f32(f16::from_le_bytes(b).to_f32()))?
                    }
                    _ => reader.read(|b| bf16::from_f32(f32::from_le_bytes(b)))?,
                };
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            other => {
                return Err(ModelError::Internal(format!(
                    "weights cannot be held as {other:?}"
                )));
            }
        };
        Ok(tensor?)
    }
}

/// Reads one tensor.
struct Reader<'a> {
    shard: &'a Shard,
    entry: &'a Entry,
    cancel: &'a Cancel,
}

impl Reader<'_> {
    /// All elements of `N` stored bytes each, converted. The header check has made sure that the
    /// range lies within the file and has the size of the shape, so that what is allocated here is
    /// bounded by what is on disk.
    fn read<const N: usize, T>(
        &self,
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, ModelError> {
        let fail = |source| unreadable(&self.shard.name, source);
        let mut file = &self.shard.file;
        file.seek(SeekFrom::Start(self.entry.offset))
            .map_err(fail)?;
        let total = usize::try_from(self.entry.bytes)
            .map_err(|_| ModelError::malformed(&self.shard.name, "too large for this machine"))?;
        let mut values = Vec::with_capacity(total / N);
        let mut block = vec![0u8; BLOCK_BYTES.min(total)];
        let mut left = total;
        while left > 0 {
            self.cancel.check()?;
            let block = &mut block[..BLOCK_BYTES.min(left)];
            file.read_exact(block).map_err(fail)?;
            let (elements, _) = block.as_chunks::<N>();
            values.extend(elements.iter().map(|&bytes| convert(bytes)));
            left -= block.len();
        }
        Ok(values)
    }
}

fn read_header(
    file: &mut File,
    name: &str,
    shard: usize,
) -> Result<HashMap<String, Entry>, ModelError> {
    let fail = |source| unreadable(name, source);
    let malformed = |reason: String| ModelError::malformed(name, reason);
    let file_bytes = file.metadata().map_err(fail)?.len();
    if file_bytes < 8 {
        return Err(malformed(format!("only {file_bytes} bytes long")));
    }
    let mut length = [0u8; 8];
    file.read_exact(&mut length).map_err(fail)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > file_bytes - 8 {
        return Err(malformed(format!(
            "header of {length} bytes in a file of {file_bytes} bytes"
        )));
    }
    let data_start = 8 + length;
    let data_bytes = file_bytes - data_start;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(fail)?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;

    let mut entries = HashMap::with_capacity(header.tensors.len());
    for (tensor, found) in header.tensors {
        let dtype = match found.dtype.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        };
        let (begin, end) = found.data_offsets;
        if begin > end || end > data_bytes {
            return Err(malformed(format!(
                "tensor \"{tensor}\" spans bytes {begin} to {end} of {data_bytes}"
            )));
        }
        if let Some(dtype) = dtype {
            let expected = found
                .shape
                .iter()
                .try_fold(dtype.size_in_bytes(), |size, &dim| size.checked_mul(dim));
            if expected.map(|bytes| bytes as u64) != Some(end - begin) {
                return Err(malformed(format!(
                    "tensor \"{tensor}\" of type {} and shape {:?} has {} bytes",
                    found.dtype,
                    found.shape,
                    end - begin
                )));
            }
        }
        entries.insert(
            tensor,
            Entry {
                shard,
                dtype,
                dtype_name: found.dtype,
                shape: found.shape,
                offset: data_start + begin,
                bytes: end - begin,
            },
        );
    }
    Ok(entries)
}

/// A part of the checkpoint, addressed the way its names are built.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    dtype: DType,
    cancel: &'a Cancel,
}

impl Scope<'_> {
    /// The scope `{self}.{part}`.
    pub fn under(&self, part: impl std::fmt::Display) -> Self {
        Self {
            prefix: format!("{}.{part}", self.prefix),
            ..self.clone()
        }
    }

    /// A matrix or table, in the type in which the model's weights are held.
    pub fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.load(name, shape, self.dtype)
    }

    /// A small tensor (a bias, a norm's scale), always f32.
    pub fn vector(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.load(name, shape, DType::F32)
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        self.cancel.check()?;
        let name = format!("{}.{name}", self.prefix);
        self.weights.load(&name, shape, dtype, self.cancel)
    }
}
