//! Loads a model's weights by name. The source is either the model's pack or, the first time, a
//! checkpoint whose weights are packed while they are loaded.

use std::cell::RefCell;

use super::compute::{DType, Matrix, SharedBytes, matrix_panels, pack_panel};
use super::layers::Embedding;
use super::pack::{Pack, PackWriter, SectionKind};
use super::weights::Weights;
use super::{Cancel, ModelError};

/// Number of table rows that are copied between two checks of the cancel flag.
const TABLE_ROWS: usize = 1024;

/// A checkpoint that is being packed. A model built from it has empty matrices and tables, and cannot
/// run.
pub(super) struct Packing {
    pub weights: Weights,
    pub writer: RefCell<PackWriter>,
}

#[derive(Clone, Copy)]
pub(super) enum WeightSource<'a> {
    Packing(&'a Packing),
    Packed(&'a Pack),
}

/// A group of weights whose names share a prefix.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    source: WeightSource<'a>,
    prefix: String,
    cancel: &'a Cancel,
}

impl<'a> Scope<'a> {
    /// The weights whose names begin with `prefix`; all weights if `prefix` is empty.
    pub fn new(source: WeightSource<'a>, prefix: &str, cancel: &'a Cancel) -> Self {
        Self {
            source,
            prefix: prefix.to_owned(),
            cancel,
        }
    }

    /// The scope `{self}.{part}`.
    pub fn under(&self, part: impl std::fmt::Display) -> Self {
        Self {
            prefix: self.name(part),
            ..self.clone()
        }
    }

    fn name(&self, part: impl std::fmt::Display) -> String {
        match self.prefix.as_str() {
            "" => part.to_string(),
            prefix => format!("{prefix}.{part}"),
        }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        let name = self.name(name);
        match self.source {
            WeightSource::Packing(packing) => packing.weights.has(&name),
            WeightSource::Packed(pack) => pack.section(&name).is_some(),
        }
    }

    /// A weight matrix, stored with `shape`. The first dimension is the number of outputs, and the
    /// product of the others is the number of inputs.
    pub fn matrix(&self, name: &str, shape: &[usize]) -> Result<Matrix, ModelError> {
        self.cancel.check()?;
        let name = self.name(name);
        let outputs = shape.first().copied().unwrap_or(1);
        let inputs = shape.iter().skip(1).product();
        let kind = SectionKind::Matrix { outputs, inputs };
        let packing = match self.source {
            WeightSource::Packing(packing) => packing,
            WeightSource::Packed(pack) => {
                let packed = section(pack, &name, &kind)?;
                let (dtype, kernel) = (pack.header().dtype, pack.kernel());
                return Matrix::new(outputs, inputs, dtype, kernel, packed)
                    .ok_or_else(|| wrong_size(&name));
            }
        };
        let mut writer = packing.writer.borrow_mut();
        let (dtype, kernel) = (writer.dtype(), writer.kernel());
        let stored = packing.weights.tensor(&name, shape)?;
        let panels = matrix_panels(outputs).map(|(first, rows)| {
            self.cancel.check()?;
            let range = first..first + rows;
            let weights = packing.weights.panel(&name, &stored, range, inputs)?;
            Ok(pack_panel(dtype, kernel, weights, rows, inputs))
        });
        writer.add::<ModelError>(&name, kind, panels)?;
        Ok(Matrix::absent(outputs, inputs, dtype, kernel))
    }

    /// A table of rows, in the checkpoint's number format.
    pub fn embedding(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Embedding, ModelError> {
        self.cancel.check()?;
        let name = self.name(name);
        let packing = match self.source {
            WeightSource::Packing(packing) => packing,
            WeightSource::Packed(pack) => {
                let (kind, bytes) = pack.section(&name).ok_or_else(|| lacking(&name))?;
                let table = match *kind {
                    SectionKind::Table {
                        rows: packed_rows,
                        columns: packed_columns,
                        dtype,
                    } if (packed_rows, packed_columns) == (rows, columns) => {
                        Embedding::new(rows, columns, dtype, bytes)
                    }
                    _ => None,
                };
                return table.ok_or_else(|| wrong_size(&name));
            }
        };
        let stored = packing.weights.tensor(&name, &[rows, columns])?;
        let dtype = stored.dtype();
        if dtype == DType::Int8 {
            return Err(ModelError::malformed(
                super::directory::WEIGHTS,
                format!("table \"{name}\" contains 8-bit integers"),
            ));
        }
        let kind = SectionKind::Table {
            rows,
            columns,
            dtype,
        };
        let parts = (0..rows).step_by(TABLE_ROWS).map(|start| {
            self.cancel.check()?;
            stored.bytes(start..rows.min(start + TABLE_ROWS), columns)
        });
        packing
            .writer
            .borrow_mut()
            .add::<ModelError>(&name, kind, parts)?;
        Ok(Embedding::absent(columns, dtype))
    }

    /// A small tensor (a bias or a norm's weight), in f32.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        self.shaped_vector(name, &[length])
    }

    /// A single number, stored as a tensor of one element or without dimensions.
    pub fn scalar(&self, name: &str) -> Result<f32, ModelError> {
        let shape: &[usize] = match self.source {
            WeightSource::Packing(packing)
                if packing
                    .weights
                    .tensor_of(&self.name(name))?
                    .shape()
                    .is_empty() =>
            {
                &[]
            }
            _ => &[1],
        };
        let numbers = self.shaped_vector(name, shape)?;
        numbers.first().copied().ok_or_else(|| wrong_size(name))
    }

    /// A small tensor that is stored with `shape`, in f32.
    pub fn shaped_vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.cancel.check()?;
        let name = self.name(name);
        let length = shape.iter().product();
        let kind = SectionKind::Vector { length };
        let packing = match self.source {
            WeightSource::Packing(packing) => packing,
            WeightSource::Packed(pack) => {
                let bytes = section(pack, &name, &kind)?;
                let vector: &[f32] = bytes.cast().ok_or_else(|| wrong_size(&name))?;
                return Ok(vector.to_vec());
            }
        };
        let stored = packing.weights.tensor(&name, shape)?;
        let vector = stored.floats(0..1, length)?;
        let bytes = bytemuck::cast_slice(&vector).to_vec();
        packing
            .writer
            .borrow_mut()
            .add::<ModelError>(&name, kind, std::iter::once(Ok(bytes)))?;
        Ok(vector)
    }
}

fn section(pack: &Pack, name: &str, expected: &SectionKind) -> Result<SharedBytes, ModelError> {
    match pack.section(name) {
        Some((kind, bytes)) if kind == expected => Ok(bytes),
        Some(_) => Err(wrong_size(name)),
        None => Err(lacking(name)),
    }
}

fn lacking(name: &str) -> ModelError {
    ModelError::Internal(format!("the packed copy has no \"{name}\""))
}

fn wrong_size(name: &str) -> ModelError {
    ModelError::Internal(format!(
        "\"{name}\" has another size or kind in the packed copy"
    ))
}
