//! Collects the rows of a sample, and serialises it.

use half::f16;

use super::{FORMAT, HEADER, LARGEST_SHARE, SAMPLE_DIMS};
use crate::MAX_DIMS;
use crate::rest::{Calibration, Parts};

const LARGEST_CODE: f32 = 127.0;

/// Collects the vectors of a sample.
#[derive(Default)]
pub struct SampleBuilder {
    dims: Vec<u16>,
    codes: Vec<i8>,
    calibration: Option<Calibration>,
    /// Of each row: the norms of prefix and sketch, in units of 1 / [`LARGEST_SHARE`] of the norm.
    norms: Vec<[u16; 2]>,
    sketches: Vec<i8>,
}

impl SampleBuilder {
    /// With a calibration (`rest/calibration.rs`), the sample can judge filters that compare more than
    /// [`SAMPLE_DIMS`] values.
    pub fn new(calibration: Option<Calibration>) -> SampleBuilder {
        SampleBuilder {
            calibration,
            ..SampleBuilder::default()
        }
    }

    /// Whether rows are to be added with all their values.
    pub fn needs_whole_vectors(&self) -> bool {
        self.calibration.is_some()
    }

    /// Adds a vector of `dims` dimensions. `values` contains at least its first
    /// `min(dims, SAMPLE_DIMS)` values, or all if the builder needs them. `row` is the number by
    /// which a [`crate::Pilot`] knows the same row.
    pub fn push(&mut self, row: usize, dims: usize, values: &[f16]) {
        self.dims.push(dims.min(MAX_DIMS) as u16);
        let prefix = &values[..dims.min(SAMPLE_DIMS)];
        push_codes(&mut self.codes, prefix.iter().map(|v| v.to_f32()));
        if let Some(calibration) = &mut self.calibration {
            let parts = if dims == calibration.of && values.len() == dims {
                calibration.add(row, values)
            } else {
                Parts::none(calibration.sketch_dims())
            };
            let share = |share: f64| (share * LARGEST_SHARE).round() as u16;
            self.norms
                .push([share(parts.norms.prefix), share(parts.norms.sketch)]);
            push_codes(&mut self.sketches, parts.sketch.iter().copied());
        }
    }

    /// The serialised sample, which [`Sample::parse`] reads.
    pub fn finish(self) -> Vec<u8> {
        let kept = |dims: u16| usize::from(dims).min(SAMPLE_DIMS);
        let width = self.dims.iter().copied().map(kept).max().unwrap_or(0);
        let calibration = self.calibration.as_ref();
        let of = calibration.map_or(0, |calibration| calibration.of as u16);
        let sketch_dims = calibration.map_or(0, |calibration| calibration.sketch_dims() as u16);
        let mut bytes = Vec::with_capacity(HEADER + self.dims.len() * (2 + width));
        bytes.extend_from_slice(&FORMAT.to_ne_bytes());
        bytes.extend_from_slice(&(width as u16).to_ne_bytes());
        bytes.extend_from_slice(&(self.dims.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&of.to_ne_bytes());
        bytes.extend_from_slice(&sketch_dims.to_ne_bytes());
        for dims in &self.dims {
            bytes.extend_from_slice(&dims.to_ne_bytes());
        }
        let mut codes = self.codes.as_slice();
        for &dims in &self.dims {
            let (row, rest) = codes.split_at(kept(dims));
            codes = rest;
            bytes.extend(row.iter().map(|&code| code as u8));
            bytes.resize(bytes.len() + width - row.len(), 0);
        }
        if let Some(calibration) = self.calibration {
            for part in 0..2 {
                for norms in &self.norms {
                    bytes.extend_from_slice(&norms[part].to_ne_bytes());
                }
            }
            bytes.extend(self.sketches.iter().map(|&code| code as u8));
            calibration.write(&mut bytes);
        }
        bytes
    }
}

/// Adds values as codes. The scale is chosen so that the largest one uses the full range.
fn push_codes(codes: &mut Vec<i8>, values: impl Iterator<Item = f32> + Clone) {
    let largest = values.clone().fold(0f32, |max, value| max.max(value.abs()));
    let scale = if largest > 0.0 {
        LARGEST_CODE / largest
    } else {
        0.0
    };
    codes.extend(values.map(|value| (value * scale).round() as i8));
}
