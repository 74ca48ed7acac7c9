//! Rotary position embeddings: the 3-D positions of the text model's tokens (M-RoPE), and the
//! rotary tables of the text model and the vision tower (Su et al. 2021, RoFormer; Bai et al. 2025,
//! Qwen3-VL, for the interleaved 3-D form).
//!
//! Frequencies and angles are f32 and rounded at the same steps as in transformers. At position
//! 8,000, half an f32 rounding step of a frequency already shifts an angle by 2e-4.

use crate::compute::rotate;

/// The size of a picture in patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PatchGrid {
    /// Patches per column, a multiple of the merge size.
    pub rows: usize,
    /// Patches per row, a multiple of the merge size.
    pub columns: usize,
}

impl PatchGrid {
    pub fn patches(self) -> usize {
        self.rows * self.columns
    }

    /// The (row, column) of each patch in the model's input order: blocks of merge × merge patches,
    /// which become one token each, row by row; within a block, patches row by row.
    pub fn walk(self, merge: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows / merge).flat_map(move |block_row| {
            (0..self.columns / merge).flat_map(move |block_column| {
                (0..merge).flat_map(move |row| {
                    (0..merge)
                        .map(move |column| (block_row * merge + row, block_column * merge + column))
                })
            })
        })
    }
}

/// The (time, row, column) position of each token of a sequence. A text token advances all three.
/// The tokens of a picture share one time position, and their row and column positions count up
/// from it. The next text token continues after the largest of the three. `None` if the picture
/// tokens do not match `grids`.
pub(super) fn positions(
    ids: &[u32],
    image_token: u32,
    grids: &[PatchGrid],
    merge: usize,
) -> Option<Vec<[u32; 3]>> {
    let mut positions = Vec::with_capacity(ids.len());
    let mut grids = grids.iter();
    let mut next = 0u32;
    let mut at = 0;
    while let Some(&id) = ids.get(at) {
        if id != image_token {
            positions.push([next; 3]);
            next += 1;
            at += 1;
            continue;
        }
        let grid = grids.next()?;
        let (rows, columns) = (grid.rows / merge, grid.columns / merge);
        let end = at + rows * columns;
        if ids.get(at..end)?.iter().any(|&id| id != image_token) {
            return None;
        }
        for row in 0..rows as u32 {
            positions.extend((0..columns as u32).map(|column| [next, next + row, next + column]));
        }
        next += rows.max(columns) as u32;
        at = end;
    }
    grids.next().is_none().then_some(positions)
}

/// Cosines and sines, each [n, head_dim / 2], for rotating the pairs (i, i + head_dim / 2).
pub(super) struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    fn new(angles: &[f32]) -> Self {
        Self {
            cos: angles.iter().map(|angle| angle.cos()).collect(),
            sin: angles.iter().map(|angle| angle.sin()).collect(),
        }
    }

    /// Rotates the first `heads` heads of each row of `x`, [n, width].
    pub fn rotate(&self, x: &mut [f32], width: usize, heads: usize) {
        rotate(x, width, heads, &self.cos, &self.sin);
    }
}

/// `theta^(-2i / size)` for i in 0..size / 2
fn frequencies(theta: f64, size: usize) -> Vec<f32> {
    (0..size)
        .step_by(2)
        .map(|i| 1.0 / (theta as f32).powf(i as f32 / size as f32))
        .collect()
}

/// The text model's rotary frequencies, each assigned to one of the three axes.
pub(super) struct TextRope {
    frequencies: Vec<f32>,
    axes: Vec<usize>,
}

impl TextRope {
    /// `section` holds the number of frequencies for time, row and column. The axes interleave:
    /// starting at the second and third frequency, row and column each take every third frequency
    /// until they have their number. The remaining frequencies belong to time.
    pub fn new(theta: f64, head_dim: usize, section: &[usize]) -> Self {
        let frequencies = frequencies(theta, head_dim);
        let axes = (0..frequencies.len())
            .map(|slot| match slot % 3 {
                axis if axis > 0 && slot < 3 * section[axis] => axis,
                _ => 0,
            })
            .collect();
        Self { frequencies, axes }
    }

    pub fn tables(&self, positions: &[[u32; 3]]) -> Rotary {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|position| {
                self.frequencies
                    .iter()
                    .zip(&self.axes)
                    .map(|(frequency, &axis)| position[axis] as f32 * frequency)
            })
            .collect();
        Rotary::new(&angles)
    }
}

/// The vision tower's rotary frequencies. The first half of a head's frequencies apply to the row,
/// the second half to the column. Both halves have the same values.
pub(super) struct VisionRope {
    frequencies: Vec<f32>,
}

impl VisionRope {
    pub fn new(theta: f64, head_dim: usize) -> Self {
        Self {
            frequencies: frequencies(theta, head_dim / 2),
        }
    }

    pub fn tables(&self, grids: &[PatchGrid], merge: usize) -> Rotary {
        let patches: usize = grids.iter().map(|grid| grid.patches()).sum();
        let mut angles = Vec::with_capacity(patches * 2 * self.frequencies.len());
        for (row, column) in grids.iter().flat_map(|grid| grid.walk(merge)) {
            for place in [row, column] {
                angles.extend(self.frequencies.iter().map(|f| place as f32 * f));
            }
        }
        Rotary::new(&angles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: u32 = 9;

    #[test]
    fn text_after_a_picture_resumes_past_its_longer_side() {
        let grid = PatchGrid {
            rows: 2,
            columns: 6,
        };
        let ids = [1, IMAGE, IMAGE, IMAGE, 2, 3];
        assert_eq!(
            positions(&ids, IMAGE, &[grid], 2).unwrap(),
            [
                [0, 0, 0],
                [1, 1, 1],
                [1, 1, 2],
                [1, 1, 3],
                [4, 4, 4],
                [5, 5, 5]
            ]
        );
    }

    #[test]
    fn picture_tokens_that_are_not_the_pictures_have_no_positions() {
        let grid = PatchGrid {
            rows: 2,
            columns: 4,
        };
        let of = |ids: &[u32], grids: &[PatchGrid]| positions(ids, IMAGE, grids, 2);
        assert!(of(&[IMAGE, IMAGE], &[grid]).is_some());
        assert!(of(&[IMAGE], &[grid]).is_none());
        assert!(of(&[IMAGE, 1, IMAGE], &[grid]).is_none());
        assert!(of(&[IMAGE, IMAGE, IMAGE], &[grid]).is_none());
        assert!(of(&[IMAGE, IMAGE], &[]).is_none());
        assert!(of(&[1], &[grid]).is_none());
    }

    #[test]
    fn patches_are_walked_block_by_block() {
        let grid = PatchGrid {
            rows: 2,
            columns: 4,
        };
        let walk: Vec<_> = grid.walk(2).collect();
        assert_eq!(
            walk,
            [
                (0, 0),
                (0, 1),
                (1, 0),
                (1, 1),
                (0, 2),
                (0, 3),
                (1, 2),
                (1, 3)
            ]
        );
    }

    #[test]
    fn axes_interleave_until_their_share_is_used_up() {
        let rope = TextRope::new(1e4, 16, &[4, 2, 2]);
        assert_eq!(rope.axes, [0, 1, 2, 0, 1, 2, 0, 0]);
    }
}
