//! Measures how long a picture takes from its bytes to the size of the model's input, in one process on one core.
//!
//! usage: cargo bench -p photosearch-image --bench pictures -- WIDTHxHEIGHT FILE...
//!
//! Prints for each file the least of five times, in milliseconds: decoding in full; decoding at the smallest scale that the
//! wanted size allows; decoding and resizing to the wanted size. Then the size of the scaled decoding.

use std::error::Error;
use std::time::{Duration, Instant};

use photosearch_image::{Filter, ImageError, Limits, RgbImage, open};

const RUNS: usize = 5;

fn least(run: impl Fn() -> Result<RgbImage, ImageError>) -> Result<(f64, RgbImage), ImageError> {
    let mut image = run()?;
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let started = Instant::now();
        image = run()?;
        least = least.min(started.elapsed());
    }
    Ok((least.as_secs_f64() * 1e3, image))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let (size, files) = arguments
        .split_first()
        .ok_or("usage: WIDTHxHEIGHT FILE...")?;
    let (width, height) = size.split_once('x').ok_or("not WIDTHxHEIGHT")?;
    let (width, height) = (width.parse()?, height.parse()?);
    let limits = Limits::default();
    println!("{:>8} {:>8} {:>8}  scaled to", "full", "scaled", "resized");
    for name in files {
        let bytes = std::fs::read(name)?;
        let (full, _) = least(|| open(&bytes, &limits)?.decode(None, &|| false))?;
        let wanted = Some((width, height));
        let (scaled, image) = least(|| open(&bytes, &limits)?.decode(wanted, &|| false))?;
        let (resized, _) =
            least(|| open(&bytes, &limits)?.decode_to(width, height, Filter::Bicubic, &|| false))?;
        let (across, down) = (image.width(), image.height());
        println!("{full:8.1} {scaled:8.1} {resized:8.1}  {across} x {down}  {name}");
    }
    Ok(())
}
