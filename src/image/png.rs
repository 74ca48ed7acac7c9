//! PNG by the `png` crate. Rows are converted one by one, so that memory holds only one whole picture,
//! the one in RGB.

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Reader, Transformations};

use super::decoding::{PixelLayout, Source, Work};
use super::{CUT_SHORT, ImageError, Limits, RgbImage, check_size, orientation, rgb};

const FORMAT: &str = "PNG";

/// The passes of Adam7 interlacing: first column, first row, column step, row step (PNG specification,
/// third edition, 8.1).
const ADAM7: [(usize, usize, usize, usize); 7] = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
];
/// The only pass of a file without interlacing.
const WHOLE: [(usize, usize, usize, usize); 1] = [(0, 0, 1, 1)];

/// A PNG that has been read up to its pixels.
pub(super) struct Png<'a> {
    reader: Reader<Cursor<&'a [u8]>>,
    orientation: Orientation,
}

impl<'a> Png<'a> {
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, ImageError> {
        let mut exif = None;
        for (index, (name, content)) in PngChunks(bytes.get(8..).unwrap_or_default()).enumerate() {
            match (index, &name) {
                (0, b"IHDR") => {
                    // The decoder allocates a buffer for the stated width before it returns the width.
                    if let (Some(&width), Some(height)) = (content.first_chunk(), content.get(4..))
                        && let Some(&height) = height.first_chunk()
                    {
                        check_size(u32::from_be_bytes(width), u32::from_be_bytes(height))?;
                    }
                }
                (_, b"CgBI") => {
                    return Err(ImageError::Unsupported {
                        what: "PNG, Apple's variant for iOS programs (CgBI)".into(),
                    });
                }
                (_, b"eXIf") => exif = exif.or(Some(content)),
                _ => {}
            }
        }
        let mut options = DecodeOptions::default();
        // tRNS is an ancillary chunk, and damage to it changes the picture.
        options.set_skip_ancillary_crc_failures(false);
        let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
        decoder.set_limits(png::Limits {
            bytes: usize::try_from(limits.max_memory).unwrap_or(usize::MAX),
        });
        decoder.set_transformations(Transformations::EXPAND);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        Ok(Png {
            reader: decoder.read_info().map_err(from_library)?,
            orientation: exif.map_or(Orientation::NoTransforms, orientation::of_exif),
        })
    }
}

impl Source for Png<'_> {
    fn layout(&self) -> PixelLayout {
        let info = self.reader.info();
        PixelLayout {
            width: info.width,
            height: info.height,
            orientation: self.orientation,
        }
    }

    fn decode(mut self: Box<Self>, work: &mut Work<'_>) -> Result<RgbImage, ImageError> {
        let info = self.reader.info();
        let (width, height) = (info.width as usize, info.height as usize);
        let passes = if info.interlaced { &ADAM7[..] } else { &WHOLE };
        let samples = Samples::of(self.reader.output_color_type())?;
        let length = self.reader.output_line_size(info.width);
        let length = length.ok_or_else(|| work.out_of_memory())? as u64;
        // The decoder inflates into a vector (png 0.18.1, `unfiltering_buffer.rs`). It discards rows that are done only
        // when they are 4 rows or 128 kB. Beside them, the vector holds the previous row, a part of the current one, and
        // 40 kB for the window and the next step of inflate: at most 6 rows and 168 kB. A growing vector doubles its
        // capacity, and for a moment the old allocation exists beside the new one, so this counts three times. One more
        // row is copied if the file ends early.
        work.take(length.saturating_mul(3 * 6 + 1) + (1 << 20))?;
        let mut row = work.bytes(length)?;
        let mut image = work.canvas(info.width, info.height)?;
        work.confirm()?;
        let pixels = image.pixels.as_chunks_mut::<3>().0;
        for &(left, top, across, down) in passes {
            if left >= width {
                continue;
            }
            for y in (top..height).step_by(down) {
                if y % 64 == 0 {
                    work.check_cancelled()?;
                }
                let read = self.reader.read_row(&mut row).map_err(from_library)?;
                if read.is_none() {
                    return Err(malformed(CUT_SHORT));
                }
                let to = pixels[y * width..][..width].iter_mut();
                samples.write(&row, to.skip(left).step_by(across));
            }
        }
        // Read on to the checksum of the last data. A file that ends before it still has all pixels.
        match self.reader.read_row(&mut row) {
            Err(DecodingError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {}
            end => drop(end.map_err(from_library)?),
        }
        Ok(image)
    }
}

/// The layout of the samples in a row.
struct Samples {
    /// Samples of a pixel: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    count: usize,
    /// Whether a sample has two bytes, the high one first.
    wide: bool,
}

impl Samples {
    fn of((color, depth): (ColorType, BitDepth)) -> Result<Self, ImageError> {
        let unexpected = || {
            // `Transformations::EXPAND` turns depths below 8 bits and palettes into samples of 8 bits.
            malformed("its samples were not expanded")
        };
        Ok(Samples {
            count: match color {
                ColorType::Grayscale => 1,
                ColorType::GrayscaleAlpha => 2,
                ColorType::Rgb => 3,
                ColorType::Rgba => 4,
                ColorType::Indexed => return Err(unexpected()),
            },
            wide: match depth {
                BitDepth::Eight => false,
                BitDepth::Sixteen => true,
                _ => return Err(unexpected()),
            },
        })
    }

    /// Converts the pixels of a row to RGB, until `row` or `to` ends.
    fn write<'p>(&self, row: &[u8], to: impl Iterator<Item = &'p mut [u8; 3]>) {
        if self.wide {
            let words = row.as_chunks::<2>().0;
            let sample = |two: &[u8; 2]| rgb::from_16_bits(u16::from_be_bytes(*two));
            self.write_pixels(words, sample, to);
        } else {
            self.write_pixels(row, |sample| *sample, to);
        }
    }

    fn write_pixels<'p, T>(
        &self,
        row: &[T],
        level: impl Fn(&T) -> u8,
        to: impl Iterator<Item = &'p mut [u8; 3]>,
    ) {
        let pixels = row.chunks_exact(self.count);
        match self.count {
            1 => to
                .zip(pixels)
                .for_each(|(to, from)| *to = [level(&from[0]); 3]),
            2 => to.zip(pixels).for_each(|(to, from)| {
                *to = rgb::on_white([level(&from[0]); 3], level(&from[1]));
            }),
            3 => to.zip(pixels).for_each(|(to, from)| {
                *to = [level(&from[0]), level(&from[1]), level(&from[2])];
            }),
            _ => to.zip(pixels).for_each(|(to, from)| {
                let color = [level(&from[0]), level(&from[1]), level(&from[2])];
                *to = rgb::on_white(color, level(&from[3]));
            }),
        }
    }
}

/// The chunks of a PNG, as name and content, up to the first chunk that is cut short.
struct PngChunks<'a>(&'a [u8]);

impl<'a> Iterator for PngChunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (&name, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let content = rest.get(..length)?;
        // A checksum of 4 bytes follows.
        self.0 = rest.get(length..)?.get(4..).unwrap_or_default();
        Some((name, content))
    }
}

fn malformed(reason: &str) -> ImageError {
    ImageError::Malformed {
        format: FORMAT,
        reason: reason.to_owned(),
    }
}

fn from_library(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            malformed(CUT_SHORT)
        }
        DecodingError::LimitsExceeded => malformed("it takes more memory than its size allows"),
        error => malformed(&error.to_string()),
    }
}
