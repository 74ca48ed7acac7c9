//! Turns a picture into the patches of a square of fixed size: resamples, crops, normalises the
//! values and cuts. This follows `CLIPImageProcessorPil` and `SiglipImageProcessorPil` of
//! transformers, which resample the 8-bit picture with Pillow, as the models' authors do.

use serde::Deserialize;

use crate::ModelError;
use crate::directory::{Directory, PREPROCESSOR};
use crate::limits::check_size;
use photosearch_image::{Filter, MAX_SIDE, RgbImage, resize};

/// The longest side of a model's picture. Published models have at most 512 pixels.
const MAX_IMAGE_SIZE: usize = 4096;

/// The contents of `preprocessor_config.json`. The family's [`ProcessorDefaults`] replace the keys that
/// may differ between families.
#[derive(Deserialize)]
struct PreprocessorConfig {
    #[serde(default = "yes")]
    do_resize: bool,
    size: Option<Size>,
    resample: Option<u32>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "default_rescale")]
    rescale_factor: f64,
    #[serde(default = "yes")]
    do_normalize: bool,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// A size in pixels; a plain number in files that transformers wrote before version 4.22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    Rectangle { height: usize, width: usize },
    ShortestEdge { shortest_edge: usize },
}

fn yes() -> bool {
    true
}
fn default_rescale() -> f64 {
    1.0 / 255.0
}

/// The values of keys that `preprocessor_config.json` lacks, as in the family's image processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessorDefaults {
    pub center_crop: bool,
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// How a picture of any shape becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The shorter side becomes this long, and the centre of the longer side is kept.
    Crop { shorter: u32 },
    /// The picture is scaled to the square; its aspect ratio is not kept.
    Squeeze,
}

pub(crate) struct Preprocessor {
    fit: Fit,
    filter: Filter,
    /// The side of the square, in pixels.
    side: u32,
    /// The side of a patch, in pixels.
    patch: usize,
    /// The normalised value of each 8-bit level, per channel.
    levels: [[f32; 256]; 3],
}

impl Preprocessor {
    /// `image_size` and `patch_size` are the vision tower's, as checked by [`Self::check_sizes`].
    pub fn read(
        directory: &Directory,
        image_size: usize,
        patch_size: usize,
        defaults: &ProcessorDefaults,
    ) -> Result<Self, ModelError> {
        let config: PreprocessorConfig = directory.json(PREPROCESSOR)?;
        let reject = |reason: String| Err(ModelError::malformed(PREPROCESSOR, reason));
        if !(config.do_resize && config.do_rescale && config.do_normalize) {
            return reject("do_resize, do_rescale and do_normalize must be true".into());
        }
        let filter = match config.resample {
            Some(2) => Filter::Bilinear,
            None | Some(3) => Filter::Bicubic,
            Some(other) => {
                return reject(format!(
                    "resample {other} is not supported (known: 2, bilinear; 3, bicubic)"
                ));
            }
        };
        let crop = match config.do_center_crop.unwrap_or(defaults.center_crop) {
            false => None,
            true => Some(config.crop_size.unwrap_or(Size::Number(224))),
        };
        let side = Size::Rectangle {
            height: image_size,
            width: image_size,
        };
        let whole = |size: Size| size == side || size == Size::Number(image_size);
        let fit = match (config.size, crop) {
            (
                Some(
                    Size::Number(shorter)
                    | Size::ShortestEdge {
                        shortest_edge: shorter,
                    },
                ),
                Some(crop),
            ) if whole(crop) && (image_size..=MAX_IMAGE_SIZE).contains(&shorter) => Fit::Crop {
                shorter: shorter as u32,
            },
            (Some(size), None) if size == side => Fit::Squeeze,
            (Some(size), Some(crop)) if size == side && whole(crop) => Fit::Squeeze,
            (size, crop) => {
                let shown =
                    |size: Option<Size>| size.map_or("none".into(), |size| size.to_string());
                return reject(format!(
                    "size ({}) and crop_size ({}) do not make pictures of {image_size} x {image_size} pixels, which the vision model takes",
                    shown(size),
                    shown(crop)
                ));
            }
        };
        let (mean, std) = (
            config.image_mean.unwrap_or(defaults.mean),
            config.image_std.unwrap_or(defaults.std),
        );
        let mut levels = [[0f32; 256]; 3];
        for (channel, table) in levels.iter_mut().enumerate() {
            let (mean, std) = (mean[channel] as f32, std[channel] as f32);
            for (level, value) in table.iter_mut().enumerate() {
                // As numpy rounds: the product of rescaling in f64, the rest in f32.
                *value = ((level as f64 * config.rescale_factor) as f32 - mean) / std;
            }
            if !table.iter().all(|value| value.is_finite()) || std <= 0.0 {
                return reject(format!(
                    "image_mean {mean}, image_std {std} and rescale_factor {} do not give finite values",
                    config.rescale_factor
                ));
            }
        }
        Ok(Self {
            fit,
            filter,
            side: image_size as u32,
            patch: patch_size,
            levels,
        })
    }

    /// Checks the sizes in the vision tower's configuration.
    pub fn check_sizes(image_size: usize, patch_size: usize) -> Result<(), String> {
        check_size("vision_config.image_size", image_size, MAX_IMAGE_SIZE)?;
        check_size("vision_config.patch_size", patch_size, image_size)
    }

    pub fn filter(&self) -> Filter {
        self.filter
    }

    /// Number of patches of a picture. As in a convolution without padding, pixels that do not
    /// fill a patch are left out.
    pub fn patches(&self) -> usize {
        (self.side as usize / self.patch).pow(2)
    }

    /// Number of values of a patch.
    pub fn patch_values(&self) -> usize {
        3 * self.patch * self.patch
    }

    /// The size to which a picture is resampled before it is cropped.
    pub fn fitted_size(&self, width: u32, height: u32) -> Result<(u32, u32), ModelError> {
        let Fit::Crop { shorter } = self.fit else {
            return Ok((self.side, self.side));
        };
        let (long, short) = (width.max(height), width.min(height).max(1));
        // Rounded down, as Python's int() does.
        let longer = u64::from(shorter) * u64::from(long) / u64::from(short);
        let longer = u32::try_from(longer)
            .ok()
            .filter(|&longer| longer <= MAX_SIDE)
            .ok_or_else(|| {
                ModelError::InvalidInput(format!(
                    "image of {width} x {height} pixels is more than {} times longer than wide",
                    MAX_SIDE / shorter
                ))
            })?;
        Ok(match width <= height {
            true => (shorter, longer),
            false => (longer, shorter),
        })
    }

    /// Appends the picture's patches to `patches`, in rows from the top. The values of a patch are
    /// ordered by channel, row and column.
    pub fn append_patches(
        &self,
        image: &RgbImage,
        patches: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (width, height) = self.fitted_size(image.width(), image.height())?;
        let resized;
        let image = match (image.width(), image.height()) == (width, height) {
            true => image,
            false => {
                resized = resize(image, width, height, self.filter)
                    .map_err(|error| ModelError::Internal(error.to_string()))?;
                &resized
            }
        };
        // Rounded down, as in transformers.
        let left = ((width - self.side) / 2) as usize;
        let top = ((height - self.side) / 2) as usize;
        let (width, patch) = (width as usize, self.patch);
        let count = self.side as usize / patch;
        for (row, column) in (0..count).flat_map(|row| (0..count).map(move |column| (row, column)))
        {
            for (channel, levels) in self.levels.iter().enumerate() {
                for y in top + row * patch..top + (row + 1) * patch {
                    let start = 3 * (y * width + left + column * patch);
                    let line = &image.pixels()[start..start + 3 * patch];
                    let own = line.iter().skip(channel).step_by(3);
                    patches.extend(own.map(|&level| levels[usize::from(level)]));
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(size) => write!(f, "{size}"),
            Self::Rectangle { height, width } => write!(f, "{height} x {width}"),
            Self::ShortestEdge { shortest_edge } => write!(f, "shortest edge {shortest_edge}"),
        }
    }
}
