//! Reads safetensors checkpoints, of one file or several shards, in order to pack them. The files
//! are read, not mapped: if a checkpoint is replaced or truncated while the server runs, the result
//! must be an error, not a SIGBUS.
//!
//! A safetensors file consists of the header's length (u64, little-endian), the header (a JSON
//! object from a tensor's name to its type, shape and byte range), and the tensors' bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::compute::{DType, Panel, widen};
use super::directory::{self, Directory, unreadable};
use super::{Cancel, ModelError};

/// The header's maximum length according to the safetensors format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The scales of a quantised matrix `NAME.weight`, of shape [outputs, blocks of inputs], are the
/// tensor `NAME.weight_scale`.
pub(super) const SCALE_SUFFIX: &str = "_scale";

/// A tensor's type, shape and place in its shard.
struct Entry {
    shard: usize,
    /// `None` for a type that no supported weight has. Such a tensor is an error only if it is
    /// requested.
    stored: Option<DType>,
    dtype_name: String,
    shape: Vec<usize>,
    /// Offset from the start of the file, in bytes.
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
struct SafetensorsHeader {
    /// Free text about the file. The field keeps serde from reading this key as a tensor.
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
    /// Opens all weight files and reads their headers.
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

    /// Finds a tensor. In a checkpoint of a model with a head, every name has the prefix `model.`; in
    /// one of the bare model, none has.
    fn find(&self, name: &str) -> Option<&Entry> {
        self.entries
            .get(name)
            .or_else(|| self.entries.get(&format!("model.{name}")))
    }

    /// The number format of most of the checkpoint's bytes; Int8 if any tensor is Int8.
    pub fn dtype(&self) -> DType {
        let bytes = |dtype: DType| -> u64 {
            let stored = |entry: &&Entry| entry.stored == Some(dtype);
            self.entries
                .values()
                .filter(stored)
                .map(|entry| entry.bytes)
                .sum()
        };
        // Int8 tensors exist only in quantised checkpoints. The unquantised embedding tables may be
        // larger.
        if bytes(DType::Int8) > 0 {
            return DType::Int8;
        }
        [DType::F32, DType::F16, DType::Bf16]
            .into_iter()
            .max_by_key(|&dtype| bytes(dtype))
            .unwrap_or(DType::F32)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The tensor of this name. Fails if its shape is not `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>, ModelError> {
        let stored = self.tensor_of(name)?;
        if stored.entry.shape != shape {
            return Err(ModelError::malformed(
                &stored.shard.name,
                format!(
                    "tensor \"{name}\" has shape {:?}, but {} asks for {shape:?}",
                    stored.entry.shape,
                    directory::CONFIG
                ),
            ));
        }
        Ok(stored)
    }

    /// The number in a tensor of one element.
    pub fn scalar(&self, name: &str) -> Result<f32, ModelError> {
        let stored = self.tensor_of(name)?;
        if !stored.entry.shape.iter().all(|&size| size == 1) {
            return Err(ModelError::malformed(
                &stored.shard.name,
                format!("tensor \"{name}\" has shape {:?}", stored.entry.shape),
            ));
        }
        Ok(stored.floats(0..1, 1)?[0])
    }

    /// The tensor of this name, of any shape.
    pub fn tensor_of(&self, name: &str) -> Result<StoredTensor<'_>, ModelError> {
        let entry = self.find(name).ok_or_else(|| {
            let file = match self.shards.as_slice() {
                [single] => single.name.as_str(),
                _ => directory::WEIGHTS_INDEX,
            };
            ModelError::malformed(file, format!("no tensor \"{name}\""))
        })?;
        let shard = &self.shards[entry.shard];
        let dtype = entry.stored.ok_or_else(|| {
            ModelError::malformed(
                &shard.name,
                format!("tensor \"{name}\" has type {}", entry.dtype_name),
            )
        })?;
        Ok(StoredTensor {
            shard,
            entry,
            dtype,
        })
    }

    /// Reads rows of a matrix with `inputs` columns, which may be quantised.
    pub fn panel(
        &self,
        name: &str,
        stored: &StoredTensor<'_>,
        rows: Range<usize>,
        inputs: usize,
    ) -> Result<Panel, ModelError> {
        if stored.dtype != DType::Int8 {
            return Ok(Panel::F32(stored.floats(rows, inputs)?));
        }
        let integers = stored.bytes(rows.clone(), inputs)?;
        let blocks = super::compute::int8_blocks(inputs);
        let outputs = stored.entry.shape.first().copied().unwrap_or_default();
        let scales = self.tensor(&format!("{name}{SCALE_SUFFIX}"), &[outputs, blocks])?;
        Ok(Panel::Int8(
            bytemuck::cast_vec(integers),
            scales.floats(rows, blocks)?,
        ))
    }
}

/// A tensor of a checkpoint.
pub(super) struct StoredTensor<'a> {
    shard: &'a Shard,
    entry: &'a Entry,
    dtype: DType,
}

impl StoredTensor<'_> {
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    /// The tensor's type, as safetensors spells it.
    pub fn type_name(&self) -> &str {
        &self.entry.dtype_name
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.entry.bytes as usize
    }

    /// Reads the whole tensor, in its stored format.
    pub fn all(&self) -> Result<Vec<u8>, ModelError> {
        let elements = self.entry.shape.iter().product();
        self.bytes(0..1, elements)
    }

    /// Reads some rows, in their stored format. The header check has verified that the tensor lies
    /// within the file and that its size matches its shape, so the size on disk bounds the
    /// allocation.
    pub fn bytes(&self, rows: Range<usize>, columns: usize) -> Result<Vec<u8>, ModelError> {
        let row = self.dtype.row_bytes(columns);
        let start = (rows.start * row) as u64;
        let length = rows.len() * row;
        if start + length as u64 > self.entry.bytes {
            return Err(ModelError::Internal(format!(
                "rows {rows:?} of {columns} elements are past the end of a tensor of {} bytes",
                self.entry.bytes
            )));
        }
        let mut bytes = vec![0; length];
        self.shard
            .file
            .read_exact_at(&mut bytes, self.entry.offset + start)
            .map_err(|source| unreadable(&self.shard.name, source))?;
        Ok(bytes)
    }

    /// Reads some rows and converts them to f32.
    pub fn floats(&self, rows: Range<usize>, columns: usize) -> Result<Vec<f32>, ModelError> {
        let mut floats = vec![0.0; rows.len() * columns];
        widen(self.dtype, &self.bytes(rows, columns)?, &mut floats).ok_or_else(|| {
            ModelError::malformed(
                &self.shard.name,
                format!("a floating-point tensor has type {}", self.entry.dtype_name),
            )
        })?;
        Ok(floats)
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
    if length > MAX_HEADER_BYTES {
        return Err(malformed(format!(
            "header of {length} bytes in a file of {file_bytes} bytes"
        )));
    }
    let cut_short = |announced| ModelError::CutShort {
        file: name.to_owned(),
        bytes: file_bytes,
        announced,
    };
    if length > file_bytes - 8 {
        return Err(cut_short(8 + length));
    }
    let data_start = 8 + length;
    let data_bytes = file_bytes - data_start;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(fail)?;
    let header: SafetensorsHeader =
        serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;

    let ends = header.tensors.values().map(|found| found.data_offsets.1);
    let end = ends.max().unwrap_or(0);
    if end > data_bytes {
        return Err(cut_short(data_start.saturating_add(end)));
    }

    let mut entries = HashMap::with_capacity(header.tensors.len());
    for (tensor, found) in header.tensors {
        let stored = match found.dtype.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::Bf16),
            "I8" => Some(DType::Int8),
            _ => None,
        };
        let (begin, end) = found.data_offsets;
        if begin > end {
            return Err(malformed(format!(
                "tensor \"{tensor}\" spans bytes {begin} to {end}"
            )));
        }
        if let Some(stored) = stored {
            let element = stored.row_bytes(1);
            let expected = found
                .shape
                .iter()
                .try_fold(element, |size, &dim| size.checked_mul(dim));
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
                stored,
                dtype_name: found.dtype,
                shape: found.shape,
                offset: data_start + begin,
                bytes: end - begin,
            },
        );
    }
    Ok(entries)
}
