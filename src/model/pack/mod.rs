//! Reads and writes packs. A pack is one file with everything that a model's forward pass needs,
//! laid out for this processor's kernel. Every backend maps it read-only.
//!
//! Layout (all numbers are little-endian):
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 … 8 | `PHOTOMDL` |
//! | 8 … 16 | version of the format |
//! | 16 … 24 | offset of the header |
//! | 24 … 32 | length of the header, which ends the file |
//! | 32 … 64 | SHA-256 of the header |
//! | 64 … | sections, each aligned to 64 bytes |
//! | … | the header, JSON: [`PackHeader`] |

mod cache;
mod map;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compute::{DType, Kernel, SharedBytes};
use map::Mapping;

pub use cache::{Cache, Packed};
pub(super) use write::PackWriter;

const MAGIC: [u8; 8] = *b"PHOTOMDL";
/// The format's version. It must increase when the format, the layout of packed matrices, or the
/// sections that a family loads change. Packs of other versions are made anew.
const VERSION: u64 = 2;
const ALIGNMENT: u64 = 64;
const PREAMBLE: usize = 64;
/// Limit on the header. The header for thousands of tensors takes a few hundred kB.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// The header of a pack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PackHeader {
    /// Hex SHA-256 of the checkpoint from which the pack was made.
    pub fingerprint: String,
    /// The number format of the matrices. Packs of this version call it `held`.
    #[serde(rename = "held")]
    pub dtype: DType,
    /// The name of the kernel for which the matrices are laid out.
    pub kernel: String,
    pub sections: BTreeMap<String, Section>,
}

/// A part of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Section {
    offset: u64,
    bytes: u64,
    pub kind: SectionKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SectionKind {
    /// A byte-for-byte copy of a checkpoint's file.
    File,
    /// A tokenizer in its compact form.
    Tokenizer,
    /// A [`Matrix`](super::compute::Matrix).
    Matrix { outputs: usize, inputs: usize },
    /// A table, such as an [`Embedding`](super::layers::Embedding).
    Table {
        rows: usize,
        columns: usize,
        #[serde(rename = "held")]
        dtype: DType,
    },
    /// f32 values.
    Vector { length: usize },
}

/// A mapped pack.
pub(super) struct Pack {
    header: PackHeader,
    kernel: Kernel,
    mapping: Arc<Mapping>,
}

/// Why a file cannot be used as a pack. The caller then makes the pack anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
}

impl Pack {
    /// Checks and maps `file`.
    pub fn open(mut file: File, kernel: Kernel) -> Result<Self, Unusable> {
        let length = file.metadata()?.len();
        let mut preamble = [0u8; PREAMBLE];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut preamble)?;
        let (words, _) = preamble.as_chunks::<8>();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        if words[0] != MAGIC || word(1) != VERSION {
            return Err(Unusable::Malformed("not of this version"));
        }
        let (start, bytes) = (word(2), word(3));
        if bytes > MAX_HEADER_BYTES || start.checked_add(bytes) != Some(length) {
            return Err(Unusable::Malformed("cut short"));
        }
        let mut header = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        (&file).take(bytes).read_to_end(&mut header)?;
        if Sha256::digest(&header).as_slice() != &preamble[32..] {
            return Err(Unusable::Malformed("wrong checksum"));
        }
        let header: PackHeader = serde_json::from_slice(&header)
            .map_err(|_| Unusable::Malformed("unreadable header"))?;
        let outside = |section: &Section| {
            let end = section.offset.checked_add(section.bytes);
            !section.offset.is_multiple_of(ALIGNMENT) || end.is_none_or(|end| end > start)
        };
        if header.sections.values().any(outside) {
            return Err(Unusable::Malformed("section outside the file"));
        }
        let length =
            usize::try_from(length).map_err(|_| Unusable::Malformed("too large to map"))?;
        Ok(Self {
            header,
            kernel,
            mapping: Arc::new(Mapping::new(file, length)?),
        })
    }

    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Size of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.mapping.as_ref().as_ref().len() as u64
    }

    /// The section of this name, if there is one.
    pub fn section(&self, name: &str) -> Option<(&SectionKind, SharedBytes)> {
        let section = self.header.sections.get(name)?;
        let start = usize::try_from(section.offset).ok()?;
        let end = start.checked_add(usize::try_from(section.bytes).ok()?)?;
        let bytes = SharedBytes::new(self.mapping.clone(), start..end)?;
        Some((&section.kind, bytes))
    }

    /// Names of the checkpoint's files that the pack contains.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let sections = self.header.sections.iter();
        sections
            .filter(|(_, section)| {
                matches!(section.kind, SectionKind::File | SectionKind::Tokenizer)
            })
            .map(|(name, _)| name.as_str())
    }

    /// Names and kinds of the weights.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &SectionKind)> {
        let sections = self.header.sections.iter();
        sections
            .filter(|(_, section)| {
                !matches!(section.kind, SectionKind::File | SectionKind::Tokenizer)
            })
            .map(|(name, section)| (name.as_str(), &section.kind))
    }

    /// Reads one byte of every page, so that the next forward pass need not wait for the disk.
    pub fn warm(&self, cancel: &super::Cancel) -> Result<(), super::ModelError> {
        const PAGE: usize = 4096;
        let bytes: &[u8] = self.mapping.as_ref().as_ref();
        for block in bytes.chunks(64 << 20) {
            cancel.check()?;
            let sum = block
                .iter()
                .step_by(PAGE)
                .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            std::hint::black_box(sum);
        }
        Ok(())
    }
}

/// Converts bytes to lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
