//! Turns a picture into patches: computes the size, resamples, normalises the values and orders the
//! patches. This follows qwen-vl-utils, which the reference embedding code calls. The image
//! processor of transformers computes other sizes for long, narrow pictures.

use serde::Deserialize;

use super::config::VisionConfig;
use super::rope::PatchGrid;
use crate::ModelError;
use crate::directory::{Directory, ImageBudget, PHOTOSEARCH, PREPROCESSOR};
use photosearch_image::{RgbImage, resize_bicubic};

const MAX_ASPECT_RATIO: u64 = 200;
/// The reference's pixel budget, in tokens. A token covers a square whose side is patch size times merge
/// size.
const MIN_TOKENS: u64 = 4;
const MAX_TOKENS: u64 = 1800;
/// Upper limit of every pixel budget: about 16,000 tokens at the usual patch size.
const MAX_PIXELS: u64 = 1 << 24;

/// The contents of `preprocessor_config.json`. Its pixel budget (`size`) is ignored: the reference
/// embedding code has a narrower budget of its own, and `photosearch.json` can set another.
#[derive(Deserialize)]
struct PreprocessorConfig {
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    merge_size: Option<usize>,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "default_rescale")]
    rescale_factor: f64,
    #[serde(default = "yes")]
    do_normalize: bool,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

fn yes() -> bool {
    true
}
fn default_rescale() -> f64 {
    1.0 / 255.0
}

pub(super) struct Preprocessor {
    patch: usize,
    frames: usize,
    merge: usize,
    min_pixels: u64,
    max_pixels: u64,
    /// The normalised value of each 8-bit level, per channel.
    levels: [[f32; 256]; 3],
}

impl Preprocessor {
    pub fn read(
        directory: &Directory,
        vision: &VisionConfig,
        budget: &ImageBudget,
    ) -> Result<Self, ModelError> {
        let config: PreprocessorConfig = directory.json(PREPROCESSOR)?;
        let reject = |reason: String| Err(ModelError::malformed(PREPROCESSOR, reason));
        for (name, found, expected) in [
            ("patch_size", config.patch_size, vision.patch_size),
            (
                "temporal_patch_size",
                config.temporal_patch_size,
                vision.temporal_patch_size,
            ),
            ("merge_size", config.merge_size, vision.spatial_merge_size),
        ] {
            if let Some(found) = found
                && found != expected
            {
                return reject(format!(
                    "{name} is {found}, but the vision model's is {expected}"
                ));
            }
        }
        if !(config.do_rescale && config.do_normalize) {
            return reject("do_rescale and do_normalize must be true".into());
        }
        let mut levels = [[0f32; 256]; 3];
        for (channel, table) in levels.iter_mut().enumerate() {
            // Scale mean and deviation to 8-bit levels, because transformers fuses rescaling and
            // normalisation.
            let mean = (config.image_mean[channel] / config.rescale_factor) as f32;
            let std = (config.image_std[channel] / config.rescale_factor) as f32;
            if !(mean.is_finite() && std.is_finite() && std > 0.0) {
                return reject(format!(
                    "image_mean {:?}, image_std {:?} and rescale_factor {} do not give finite means and positive deviations",
                    config.image_mean, config.image_std, config.rescale_factor
                ));
            }
            for (level, value) in table.iter_mut().enumerate() {
                *value = (level as f32 - mean) / std;
            }
        }

        let square = ((vision.patch_size * vision.spatial_merge_size) as u64).pow(2);
        let min_pixels = budget.min_pixels.unwrap_or(MIN_TOKENS * square);
        let max_pixels = budget.max_pixels.unwrap_or(MAX_TOKENS * square);
        if min_pixels == 0 || min_pixels > max_pixels || max_pixels > MAX_PIXELS {
            return Err(ModelError::malformed(
                PHOTOSEARCH,
                format!(
                    "image needs 1 <= min_pixels <= max_pixels <= {MAX_PIXELS}, \
                     not {min_pixels} and {max_pixels}"
                ),
            ));
        }
        Ok(Self {
            patch: vision.patch_size,
            frames: vision.temporal_patch_size,
            merge: vision.spatial_merge_size,
            min_pixels,
            max_pixels,
            levels,
        })
    }

    /// The patch grid of a picture of this size. Both sides are whole tokens, the area is within
    /// the pixel budget, and the aspect ratio is kept as closely as these two conditions allow.
    pub fn grid(&self, width: u32, height: u32) -> Result<PatchGrid, ModelError> {
        let (long, short) = (width.max(height), width.min(height));
        if u64::from(long) > MAX_ASPECT_RATIO * u64::from(short) {
            return Err(ModelError::InvalidInput(format!(
                "image of {width} x {height} pixels is more than {MAX_ASPECT_RATIO} times longer \
                 than wide"
            )));
        }
        let token = (self.patch * self.merge) as f64;
        let (width, height) = (f64::from(width), f64::from(height));
        // Round ties to even, like Python.
        let nearest = |side: f64| (side / token).round_ties_even().max(1.0);
        let (mut columns, mut rows) = (nearest(width), nearest(height));
        let area = columns * rows * token * token;
        if area > self.max_pixels as f64 {
            let shrink = (width * height / self.max_pixels as f64).sqrt();
            let fit = |side: f64| (side / shrink / token).floor();
            (columns, rows) = (fit(width), fit(height));
            // A side that would round to 0 tokens becomes 1 token, and the other side is limited by
            // the budget. The reference fails in this case.
            let most = (self.max_pixels as f64 / (token * token)).floor().max(1.0);
            if columns < 1.0 {
                (columns, rows) = (1.0, rows.min(most));
            } else if rows < 1.0 {
                (columns, rows) = (columns.min(most), 1.0);
            }
        } else if area < self.min_pixels as f64 {
            let grow = (self.min_pixels as f64 / (width * height)).sqrt();
            let fit = |side: f64| (side * grow / token).ceil();
            (columns, rows) = (fit(width), fit(height));
        }
        Ok(PatchGrid {
            rows: rows as usize * self.merge,
            columns: columns as usize * self.merge,
        })
    }

    /// The size in pixels of the grid for a picture of this size. `None` if a picture of the
    /// resulting size has a different grid: near the limits of the budget or the aspect ratio,
    /// rounding twice can give another grid.
    pub fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        let grid = self.grid(width, height)?;
        let (width, height) = self.pixels(grid)?;
        Ok(match self.grid(width, height) {
            Ok(again) if again == grid => Some((width, height)),
            _ => None,
        })
    }

    /// Width and height of a grid in pixels.
    fn pixels(&self, grid: PatchGrid) -> Result<(u32, u32), ModelError> {
        let side = |patches: usize| {
            u32::try_from(patches * self.patch)
                .map_err(|_| ModelError::Internal(format!("an image side of {patches} patches")))
        };
        Ok((side(grid.columns)?, side(grid.rows)?))
    }

    /// Appends the picture's patches to `patches`, in the order of [`PatchGrid::walk`]. The values
    /// of a patch are ordered by channel, frame (all frames are equal), row from the top, and
    /// column.
    pub fn append_patches(
        &self,
        image: &RgbImage,
        grid: PatchGrid,
        patches: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (width, height) = self.pixels(grid)?;
        let resized = resize(image, width, height)?;
        let (width, height) = (width as usize, height as usize);
        let pixels = resized.pixels();
        patches.reserve(3 * width * height * self.frames);
        for (row, column) in grid.walk(self.merge) {
            for (channel, levels) in self.levels.iter().enumerate() {
                for _ in 0..self.frames {
                    for y in row * self.patch..(row + 1) * self.patch {
                        let start = 3 * (y * width + column * self.patch);
                        let line = &pixels[start..start + 3 * self.patch];
                        patches.extend(
                            line.iter()
                                .skip(channel)
                                .step_by(3)
                                .map(|&level| levels[usize::from(level)]),
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

fn resize(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage, ModelError> {
    resize_bicubic(image, width, height).map_err(|error| ModelError::Internal(error.to_string()))
}
