//! GIF by the `gif` crate: the first picture of the file.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};
use image::metadata::Orientation;

use super::decoding::{PixelLayout, Source, Work};
use super::{ImageError, RgbImage, rgb};

const FORMAT: &str = "GIF";

/// A GIF that has been read up to the pixels of its first picture.
pub(super) struct Gif<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    /// The position of the picture on the logical screen.
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl<'a> Gif<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::RGBA);
        // The limit would apply to palettes and metadata, which are no longer than the file. The
        // pixels are read into a buffer of this crate.
        options.set_memory_limit(MemoryLimit::Unlimited);
        let mut decoder = options
            .read_info(Cursor::new(bytes))
            .map_err(from_library)?;
        let Some(frame) = decoder.next_frame_info().map_err(from_library)? else {
            return Err(malformed("it has no picture"));
        };
        let (left, top) = (frame.left.into(), frame.top.into());
        let (width, height) = (frame.width.into(), frame.height.into());
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width, height });
        }
        Ok(Gif {
            decoder,
            left,
            top,
            width,
            height,
        })
    }
}

impl Source for Gif<'_> {
    /// The logical screen, enlarged if the picture extends beyond it, as browsers do.
    fn layout(&self) -> PixelLayout {
        PixelLayout {
            width: u32::from(self.decoder.width()).max(self.left + self.width),
            height: u32::from(self.decoder.height()).max(self.top + self.height),
            orientation: Orientation::NoTransforms,
        }
    }

    fn decode(mut self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let PixelLayout { width, height, .. } = self.layout();
        let mut image = work.canvas(width, height)?;
        // The screen around the picture is transparent.
        image.pixels.fill(255);
        let mut samples = work.bytes(4 * u64::from(self.width) * u64::from(self.height))?;
        work.check_cancelled()?;
        self.decoder
            .read_into_buffer(&mut samples)
            .map_err(from_library)?;
        let rows = image.rows_mut().skip(self.top as usize);
        for (to, from) in rows.zip(samples.chunks_exact(4 * self.width as usize)) {
            let to = to
                .as_chunks_mut::<3>()
                .0
                .iter_mut()
                .skip(self.left as usize);
            for (to, &[r, g, b, alpha]) in to.zip(from.as_chunks::<4>().0) {
                *to = rgb::on_white([r, g, b], alpha);
            }
        }
        Ok(image)
    }
}

fn malformed(reason: impl Into<String>) -> ImageError {
    ImageError::Malformed {
        format: FORMAT,
        reason: reason.into(),
    }
}

fn from_library(error: DecodingError) -> ImageError {
    malformed(error.to_string())
}
