//! Decodes files and writes their pixels, for comparison with other decoders.
//!
//! usage: decode [--wanted WIDTHxHEIGHT] [--memory BYTES] < LIST
//!
//! LIST has a file name on each line. For each file, the program writes one line to standard output:
//! `ok WIDTH HEIGHT`, followed by 3 × WIDTH × HEIGHT bytes of RGB, or `error CLASS MESSAGE`. CLASS is
//! `malformed`, `unsupported`, `large` or `other`.

use std::error::Error;
use std::io::{BufRead, Write};

use photosearch_image::{ImageError, Limits, open};

fn main() -> Result<(), Box<dyn Error>> {
    let mut limits = Limits::default();
    let mut wanted = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or("an option has no value")?;
        match argument.as_str() {
            "--wanted" => {
                let (width, height) = value.split_once('x').ok_or("not WIDTHxHEIGHT")?;
                wanted = Some((width.parse()?, height.parse()?));
            }
            "--memory" => limits.max_memory = value.parse()?,
            _ => return Err(format!("unknown option {argument}").into()),
        }
    }
    let mut out = std::io::stdout().lock();
    for name in std::io::stdin().lock().lines() {
        let bytes = std::fs::read(name?)?;
        match open(&bytes, &limits).and_then(|picture| picture.decode(wanted, &|| false)) {
            Ok(image) => {
                writeln!(out, "ok {} {}", image.width(), image.height())?;
                out.write_all(image.pixels())?;
            }
            Err(error) => {
                let class = match error {
                    ImageError::Malformed { .. } | ImageError::Empty { .. } => "malformed",
                    ImageError::Unsupported { .. } => "unsupported",
                    ImageError::TooManyBytes { .. }
                    | ImageError::TooManyPixels { .. }
                    | ImageError::TooLong { .. }
                    | ImageError::TooMuchMemory { .. } => "large",
                    _ => "other",
                };
                writeln!(out, "error {class} {error}")?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
