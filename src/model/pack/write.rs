//! Writes packs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use super::{ALIGNMENT, MAGIC, PREAMBLE, PackHeader, Section, SectionKind, VERSION};
use crate::compute::{DType, Kernel};

/// A pack that is being written, one section after another.
pub(crate) struct PackWriter {
    file: BufWriter<File>,
    at: u64,
    dtype: DType,
    kernel: Kernel,
    sections: BTreeMap<String, Section>,
}

impl PackWriter {
    /// Starts a pack in a new, empty file.
    pub fn new(file: File, dtype: DType, kernel: Kernel) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; PREAMBLE])?;
        Ok(Self {
            file,
            at: PREAMBLE as u64,
            dtype,
            kernel,
            sections: BTreeMap::new(),
        })
    }

    /// The number format in which matrices are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Adds a section, whose contents come in parts.
    pub fn add<E: From<io::Error>>(
        &mut self,
        name: &str,
        kind: SectionKind,
        parts: impl Iterator<Item = Result<Vec<u8>, E>>,
    ) -> Result<(), E> {
        let offset = self.align()?;
        for part in parts {
            let part = part?;
            self.file.write_all(&part)?;
            self.at += part.len() as u64;
        }
        let section = Section {
            offset,
            bytes: self.at - offset,
            kind,
        };
        self.sections.insert(name.to_owned(), section);
        Ok(())
    }

    fn align(&mut self) -> io::Result<u64> {
        let aligned = self.at.next_multiple_of(ALIGNMENT);
        let padding = [0; ALIGNMENT as usize];
        self.file
            .write_all(&padding[..(aligned - self.at) as usize])?;
        self.at = aligned;
        Ok(aligned)
    }

    /// Writes the header and the preamble, and syncs the file to disk.
    pub fn finish(mut self, fingerprint: String) -> io::Result<()> {
        let start = self.align()?;
        let header = PackHeader {
            fingerprint,
            dtype: self.dtype,
            kernel: self.kernel.name(),
            sections: self.sections,
        };
        let header = serde_json::to_vec(&header)?;
        self.file.write_all(&header)?;
        let mut preamble = Vec::with_capacity(PREAMBLE);
        preamble.extend_from_slice(&MAGIC);
        for word in [VERSION, start, header.len() as u64] {
            preamble.extend_from_slice(&word.to_le_bytes());
        }
        preamble.extend_from_slice(&Sha256::digest(&header));
        let mut file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&preamble)?;
        file.sync_all()
    }
}
