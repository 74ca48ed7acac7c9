//! Turns a picture into patches, of a square of fixed size or (NaFlex) of the picture's own shape:
//! resamples, crops, normalises the values and cuts. This follows `CLIPImageProcessorPil`,
//! `SiglipImageProcessorPil` and `Siglip2ImageProcessorPil` of transformers, which resample the 8-bit
//! picture with Pillow, as the models' authors do.

use serde::Deserialize;

use crate::ModelError;
use crate::directory::{Directory, PREPROCESSOR};
use crate::limits::check_size;
use photosearch_image::{Filter, MAX_SIDE, RgbImage, resize};

/// The longest side of a model's square picture, and of a patch. Published models have at most 512 and
/// 32 pixels.
const MAX_IMAGE_SIZE: usize = 4096;
/// The width of the range at which NaFlex's search for the scale of a picture ends.
const SCALE_EPSILON: f64 = 1e-5;
/// The range in which it searches.
const MIN_SCALE: f64 = SCALE_EPSILON / 10.0;
const MAX_SCALE: f64 = 100.0;

/// The contents of `preprocessor_config.json`. The family's [`ProcessorDefaults`] are used for missing
/// keys whose defaults differ between families.
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

/// The keys of `preprocessor_config.json` that only NaFlex has, with the defaults of
/// `Siglip2ImageProcessor` in transformers.
#[derive(Deserialize)]
#[serde(default)]
struct NaflexConfig {
    patch_size: usize,
    max_num_patches: usize,
}

impl Default for NaflexConfig {
    fn default() -> Self {
        Self {
            patch_size: 16,
            max_num_patches: 256,
        }
    }
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
    pub filter: Filter,
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// The size of a picture in patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub rows: usize,
    pub columns: usize,
}

impl Grid {
    pub fn patches(self) -> usize {
        self.rows * self.columns
    }
}

/// How a picture of any shape gets a shape that the model takes. Sides are in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The shorter side becomes `shorter`. Then a square of `side` is cut from the centre.
    Crop { shorter: u32, side: u32 },
    /// The picture is scaled to a square of `side`; its aspect ratio is not kept.
    Squeeze { side: u32 },
    /// NaFlex: the picture is scaled, with nearly its own aspect ratio, to whole patches, as many as
    /// possible up to `most`.
    Patches { most: usize },
}

pub(crate) struct Preprocessor {
    fit: Fit,
    filter: Filter,
    /// The side of a patch, in pixels.
    patch: usize,
    /// The normalised value of each 8-bit level, per channel.
    levels: [[f32; 256]; 3],
}

impl Preprocessor {
    /// Reads the preprocessing of a model that takes squares. `image_size` and `patch_size` are the vision tower's, as
    /// checked by [`Self::check_sizes`].
    pub fn read(
        directory: &Directory,
        image_size: usize,
        patch_size: usize,
        defaults: &ProcessorDefaults,
    ) -> Result<Self, ModelError> {
        let config: PreprocessorConfig = directory.json(PREPROCESSOR)?;
        let crop = match config.do_center_crop.unwrap_or(defaults.center_crop) {
            false => None,
            true => Some(config.crop_size.unwrap_or(Size::Number(224))),
        };
        let square = Size::Rectangle {
            height: image_size,
            width: image_size,
        };
        let side = image_size as u32;
        let whole = |size: Size| size == square || size == Size::Number(image_size);
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
                side,
            },
            (Some(size), None) if size == square => Fit::Squeeze { side },
            (Some(size), Some(crop)) if size == square && whole(crop) => Fit::Squeeze { side },
            (size, crop) => {
                let shown =
                    |size: Option<Size>| size.map_or("none".into(), |size| size.to_string());
                return Err(ModelError::malformed(
                    PREPROCESSOR,
                    format!(
                        "size ({}) and crop_size ({}) do not make pictures of {image_size} x {image_size} pixels, which the vision model takes",
                        shown(size),
                        shown(crop)
                    ),
                ));
            }
        };
        Self::with(fit, patch_size, &config, defaults)
    }

    /// Reads the preprocessing of NaFlex. `patch_size` is the vision tower's, as checked by
    /// [`Self::check_patch_size`]. As in transformers, `size` and `crop_size` do not count.
    pub fn read_naflex(
        directory: &Directory,
        patch_size: usize,
        defaults: &ProcessorDefaults,
    ) -> Result<Self, ModelError> {
        let naflex: NaflexConfig = directory.json(PREPROCESSOR)?;
        if naflex.patch_size != patch_size {
            return Err(ModelError::malformed(
                PREPROCESSOR,
                format!(
                    "patch_size is {}, but the vision model's is {patch_size}",
                    naflex.patch_size
                ),
            ));
        }
        // All patches of a picture can lie in one row, which is then max_num_patches · patch_size pixels
        // wide: at most MAX_SIDE. With the limit on `patch_size`, the picture also has at most
        // `photosearch_image::MAX_PIXELS`.
        let limit = MAX_SIDE as usize / patch_size;
        let most = naflex.max_num_patches;
        check_size("max_num_patches", most, limit)
            .map_err(|reason| ModelError::malformed(PREPROCESSOR, reason))?;
        let mut json: serde_json::Map<String, serde_json::Value> = directory.json(PREPROCESSOR)?;
        json.remove("size");
        json.remove("crop_size");
        let config: PreprocessorConfig = serde_json::from_value(json.into())
            .map_err(|error| ModelError::malformed(PREPROCESSOR, error.to_string()))?;
        Self::with(Fit::Patches { most }, patch_size, &config, defaults)
    }

    fn with(
        fit: Fit,
        patch: usize,
        config: &PreprocessorConfig,
        defaults: &ProcessorDefaults,
    ) -> Result<Self, ModelError> {
        let reject = |reason: String| Err(ModelError::malformed(PREPROCESSOR, reason));
        if !(config.do_resize && config.do_rescale && config.do_normalize) {
            return reject("do_resize, do_rescale and do_normalize must be true".into());
        }
        let filter = match config.resample {
            None => defaults.filter,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => {
                return reject(format!(
                    "resample {other} is not supported (known: 2, bilinear; 3, bicubic)"
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
            patch,
            levels,
        })
    }

    /// Checks the sizes in the configuration of a vision tower that takes squares.
    pub fn check_sizes(image_size: usize, patch_size: usize) -> Result<(), String> {
        check_size("vision_config.image_size", image_size, MAX_IMAGE_SIZE)?;
        check_size("vision_config.patch_size", patch_size, image_size)
    }

    /// Checks the patch size in the configuration of a vision tower of NaFlex.
    pub fn check_patch_size(patch_size: usize) -> Result<(), String> {
        check_size("vision_config.patch_size", patch_size, MAX_IMAGE_SIZE)
    }

    pub fn filter(&self) -> Filter {
        self.filter
    }

    /// The patches of a picture of this size. As in a convolution without padding, pixels of a square
    /// that do not fill a patch are left out.
    pub fn grid(&self, width: u32, height: u32) -> Result<Grid, ModelError> {
        match self.fit {
            Fit::Crop { side, .. } | Fit::Squeeze { side } => {
                let count = side as usize / self.patch;
                Ok(Grid {
                    rows: count,
                    columns: count,
                })
            }
            Fit::Patches { most } => {
                naflex_grid(width, height, self.patch, most).ok_or_else(|| {
                    ModelError::InvalidInput(format!(
                        "image of {width} x {height} pixels is too large to become {most} patches"
                    ))
                })
            }
        }
    }

    /// Number of values of a patch.
    pub fn patch_values(&self) -> usize {
        3 * self.patch * self.patch
    }

    /// The size to which the caller may resample a picture in advance; `None` if the model would
    /// resample the result once more. With NaFlex this happens to pictures of a few pixels, which
    /// [`MAX_SCALE`] keeps from filling the patches, and to few others, for which the search ends
    /// below the best scale.
    pub fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        let (width, height) = self.resampled_size(width, height)?;
        let again = self.resampled_size(width, height)?;
        Ok((again == (width, height)).then_some(again))
    }

    /// The size to which a picture is resampled before it is cropped.
    fn resampled_size(&self, width: u32, height: u32) -> Result<(u32, u32), ModelError> {
        let shorter = match self.fit {
            Fit::Squeeze { side } => return Ok((side, side)),
            Fit::Patches { .. } => {
                let grid = self.grid(width, height)?;
                // At most MAX_SIDE, by the limit on the number of patches.
                let side = |patches: usize| (patches * self.patch) as u32;
                return Ok((side(grid.columns), side(grid.rows)));
            }
            Fit::Crop { shorter, .. } => shorter,
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

    /// Appends the picture's patches to `patches`, in rows from the top, as many as [`Self::grid`]
    /// says. The values of a patch are ordered by channel, row and column, those of NaFlex by row,
    /// column and channel.
    pub fn append_patches(
        &self,
        image: &RgbImage,
        patches: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let grid = self.grid(image.width(), image.height())?;
        let (width, height) = self.resampled_size(image.width(), image.height())?;
        let resized;
        let image = match (image.width(), image.height()) == (width, height) {
            true => image,
            false => {
                resized = resize(image, width, height, self.filter)
                    .map_err(|error| ModelError::Internal(error.to_string()))?;
                &resized
            }
        };
        let (left, top) = match self.fit {
            // Rounded down, as in transformers.
            Fit::Crop { side, .. } | Fit::Squeeze { side } => {
                ((width - side) / 2, (height - side) / 2)
            }
            Fit::Patches { .. } => (0, 0),
        };
        let (left, top, width, patch) = (left as usize, top as usize, width as usize, self.patch);
        let columns = 0..grid.columns;
        for (row, column) in
            (0..grid.rows).flat_map(|row| columns.clone().map(move |column| (row, column)))
        {
            let lines = (top + row * patch..top + (row + 1) * patch).map(|y| {
                let start = 3 * (y * width + left + column * patch);
                &image.pixels()[start..start + 3 * patch]
            });
            if matches!(self.fit, Fit::Patches { .. }) {
                for line in lines {
                    let values = line.iter().zip(self.levels.iter().cycle());
                    patches.extend(values.map(|(&level, levels)| levels[usize::from(level)]));
                }
                continue;
            }
            for (channel, levels) in self.levels.iter().enumerate() {
                for line in lines.clone() {
                    let own = line.iter().skip(channel).step_by(3);
                    patches.extend(own.map(|&level| levels[usize::from(level)]));
                }
            }
        }
        Ok(())
    }
}

/// The patches that NaFlex makes of a picture, as `get_image_size_for_max_num_patches` of transformers
/// computes them: by the largest scale at which rows times columns, each side rounded up to whole
/// patches, is at most `most`. A binary search finds the scale to within [`SCALE_EPSILON`]. `None` if even the
/// least scale gives more patches, which takes a side far beyond [`MAX_SIDE`].
pub(super) fn naflex_grid(width: u32, height: u32, patch: usize, most: usize) -> Option<Grid> {
    let scaled = |scale: f64| {
        let side = |side: u32| (f64::from(side) * scale / patch as f64).ceil().max(1.0);
        (side(height), side(width))
    };
    let fits = |(rows, columns): (f64, f64)| rows * columns <= most as f64;
    let (mut least, mut largest) = (MIN_SCALE, MAX_SCALE);
    while largest - least >= SCALE_EPSILON {
        let scale = (least + largest) / 2.0;
        match fits(scaled(scale)) {
            true => least = scale,
            false => largest = scale,
        }
    }
    let (rows, columns) = scaled(least);
    fits((rows, columns)).then_some(Grid {
        rows: rows as usize,
        columns: columns as usize,
    })
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
