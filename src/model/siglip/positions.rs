//! The position table of the vision tower, resized to the patches of each picture.

use crate::compute::add;
use crate::dual::Grid;
use crate::layers::Embedding;
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// Learned position embeddings of a square of patches.
pub(super) struct PositionTable {
    /// [side · side, hidden]
    table: Embedding,
    side: usize,
    hidden: usize,
}

impl PositionTable {
    pub fn load(scope: &Scope<'_>, side: usize, hidden: usize) -> Result<Self, ModelError> {
        Ok(Self {
            table: scope.embedding("weight", side * side, hidden)?,
            side,
            hidden,
        })
    }

    /// Memory that resizing takes beside its result, in bytes: two lines of the square of
    /// positions, [side, hidden] each.
    pub fn resizing_bytes(&self) -> u64 {
        4 * 2 * (self.side * self.hidden) as u64
    }

    /// Adds to the patches of all pictures, [patches, hidden], their positions. `grids` has the size of
    /// each picture.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`].
    pub fn add_to(&self, x: &mut [f32], grids: &[Grid], cancel: &Cancel) -> Result<(), ModelError> {
        let mut rest = x;
        // Pictures of the same size often follow each other.
        let mut last: Option<(Grid, Vec<f32>)> = None;
        for &grid in grids {
            let positions = match last.take() {
                Some((size, positions)) if size == grid => positions,
                _ => resized(self.side, self.hidden, grid, |row| {
                    cancel.check()?;
                    self.row(row)
                })?,
            };
            let (own, others) = rest.split_at_mut(positions.len());
            add(own, &positions);
            rest = others;
            last = Some((grid, positions));
        }
        Ok(())
    }

    /// One row of the table, [side, hidden].
    fn row(&self, row: usize) -> Result<Vec<f32>, ModelError> {
        let first = (row * self.side) as u32;
        let indices: Vec<u32> = (first..).take(self.side).collect();
        self.table.forward(&indices)
    }
}

/// Resizes a table [side, side, hidden], whose rows `table_row` returns, to [rows, columns, hidden] of
/// `grid`, as torch's `interpolate` does with `mode="bilinear"`, `align_corners=False` and
/// `antialias=True`. At the table's own size the result is the table.
fn resized(
    side: usize,
    hidden: usize,
    grid: Grid,
    table_row: impl Fn(usize) -> Result<Vec<f32>, ModelError>,
) -> Result<Vec<f32>, ModelError> {
    let columns = bilinear_weights(side, grid.columns);
    let mut positions = vec![0.0; grid.patches() * hidden];
    let mut line = vec![0.0; side * hidden];
    let lines = positions.chunks_exact_mut(grid.columns * hidden);
    for (target, row) in lines.zip(bilinear_weights(side, grid.rows)) {
        line.fill(0.0);
        for (source, weight) in row {
            add_product(&mut line, weight, &table_row(source)?);
        }
        for (target, column) in target.chunks_exact_mut(hidden).zip(&columns) {
            for &(source, weight) in column {
                add_product(target, weight, &line[source * hidden..][..hidden]);
            }
        }
    }
    Ok(positions)
}

/// `sum += weight · x`
fn add_product(sum: &mut [f32], weight: f32, x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += weight * x;
    }
}

/// For each of `to` samples, the indices among `from` samples from which it is interpolated, with their
/// weights, which sum to 1. They are a triangle around the sample's centre. Each half of it is as wide as
/// the distance between two samples of `from`, or of `to` if that is larger.
fn bilinear_weights(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = from as f32 / to as f32;
    let support = scale.max(1.0);
    (0..to)
        .map(|index| {
            let centre = (index as f32 + 0.5) * scale - 0.5;
            let first = (centre - support).ceil().max(0.0) as usize;
            let last = (centre + support).floor().max(0.0) as usize;
            let mut weights: Vec<_> = (first..=last.min(from - 1))
                .map(|source| (source, 1.0 - (source as f32 - centre).abs() / support))
                .filter(|&(_, weight)| weight > 0.0)
                .collect();
            let sum: f32 = weights.iter().map(|&(_, weight)| weight).sum();
            weights.iter_mut().for_each(|(_, weight)| *weight /= sum);
            weights
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::compute::DType;
    use crate::tests::reference::{golden, relative_error};

    #[test]
    fn resizing_is_torchs() {
        let read = |file: &str| {
            let path = golden("dual/siglip_naflex").join(file);
            candle_core::safetensors::load(path, &Device::Cpu).unwrap()
        };
        let (weights, results) = (read("model.safetensors"), read("golden.safetensors"));
        let table = &weights["vision_model.embeddings.position_embedding.weight"];
        let (rows, hidden) = table.dims2().unwrap();
        let table: Vec<f32> = table.flatten_all().unwrap().to_vec1().unwrap();
        let side = rows.isqrt();
        let mut found = Vec::new();
        for shape in results["spatial_shapes"].to_vec2::<i64>().unwrap() {
            let grid = Grid {
                rows: shape[0] as usize,
                columns: shape[1] as usize,
            };
            let positions = resized(side, hidden, grid, |row| {
                Ok(table[row * side * hidden..][..side * hidden].to_vec())
            });
            found.extend(positions.unwrap());
        }
        let error = relative_error(&found, &results["positions"]);
        assert!(error <= 1e-6, "{error:e}");

        let same = Grid {
            rows: side,
            columns: side,
        };
        let positions = resized(side, hidden, same, |row| {
            Ok(table[row * side * hidden..][..side * hidden].to_vec())
        });
        assert_eq!(positions.unwrap(), table);
    }

    #[test]
    fn resizing_can_be_cancelled() {
        let table = PositionTable {
            table: Embedding::absent(2, DType::F32),
            side: 2,
            hidden: 2,
        };
        let grid = Grid {
            rows: 3,
            columns: 1,
        };
        let cancel = Cancel::new();
        cancel.cancel();
        let result = table.add_to(&mut [0.0; 6], &[grid], &cancel);
        assert!(matches!(result, Err(ModelError::Cancelled)), "{result:?}");
    }

    #[test]
    fn weights_sum_to_one_at_every_size() {
        for from in [1, 2, 5, 16, 1024] {
            for to in [1, 2, 3, 5, 7, 16, 40, 256, 1000, 65_535] {
                let weights = bilinear_weights(from, to);
                assert_eq!(weights.len(), to);
                for sample in weights {
                    let sum: f32 = sample.iter().map(|&(_, weight)| weight).sum();
                    assert!((sum - 1.0).abs() < 1e-5, "{from} to {to}: {sum}");
                    assert!(sample.iter().all(|&(source, _)| source < from));
                }
            }
        }
    }
}
