//! Compares the speed of the AVX-512 kernels with that of the libraries, to justify these kernels.
//! Run by hand:
//!
//! ```text
//! cargo test --release avx512::cost -- --ignored --nocapture --test-threads 1
//! ```

use std::hint::black_box;
use std::time::Instant;

use half::bf16;

use crate::compute::{FloatElement, Kernel, Output, SCORE_UNIT, Start, int8_blocks};

use super::available;

/// Outputs per product, as in [`Matrix`](crate::compute::Matrix). gemm packs the rows again for
/// each product, so it gets all outputs of a layer at once.
const PANEL: usize = 128;
/// Inputs and outputs of a layer, and row counts of a text query and of a picture.
const SIZE: usize = 2048;
const ROWS: [usize; 2] = [16, 512];

/// The minimum time of several runs, in seconds. Other load on the machine only increases a time.
fn seconds(mut of: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        of();
        start.elapsed().as_secs_f64()
    };
    (0..30).map(run).fold(f64::INFINITY, f64::min)
}

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.61).sin()).collect()
}

/// Prints the times of our kernel and of the library for one layer. `product` multiplies the rows
/// by panel `i` into the target's columns.
fn compare(
    name: &str,
    rows: usize,
    library_panel: usize,
    mut product: impl FnMut(Kernel, usize, super::TargetColumns<'_>),
) {
    let mut out = vec![0.0; rows * SIZE];
    let each = [(Kernel::Avx512, PANEL), (Kernel::NumKong, library_panel)];
    let [ours, library] = each.map(|(kernel, outputs)| {
        seconds(|| {
            let output = Output::new(&mut out, SIZE);
            for panel in 0..SIZE / outputs {
                // SAFETY: there is no other target.
                let target = unsafe { output.target(0, rows, panel * outputs, outputs) };
                product(kernel, panel, target);
            }
            black_box(&mut out);
        })
    });
    let products = (rows * SIZE * SIZE) as f64;
    println!(
        "{name:5} {rows:4} rows: {:7.3} ms ours, {:7.3} ms library, {:5.2} x; {:4.0} billion products a second",
        ours * 1e3,
        library * 1e3,
        library / ours,
        products / ours * 1e-9,
    );
}

/// A packed panel, aligned to 64 bytes as in a pack.
struct AlignedPanel(Vec<u8>, usize);

impl AlignedPanel {
    fn new(bytes: usize, pack: impl Fn(&mut [u8])) -> Self {
        let mut panel = Self(vec![0; bytes + 64], bytes);
        let start = panel.start();
        pack(&mut panel.0[start..start + bytes]);
        panel
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(64)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.start()..][..self.1]
    }
}

/// As many panels as a layer has, each in its own memory.
fn panels(outputs: usize, bytes: usize, pack: impl Fn(&mut [u8])) -> Vec<AlignedPanel> {
    (0..SIZE / outputs)
        .map(|_| AlignedPanel::new(bytes, &pack))
        .collect()
}

fn float_products<T: FloatElement>(name: &str, library_panel: usize, of: fn(f32) -> T) {
    let weight: Vec<T> = wave(SIZE * SIZE).into_iter().map(of).collect();
    let each = [(Kernel::Avx512, PANEL), (Kernel::NumKong, library_panel)];
    let panels = each.map(|(kernel, outputs)| {
        let bytes = kernel.packed_bytes::<T>(outputs, SIZE);
        panels(outputs, bytes, |packed| {
            kernel.pack(&weight[..outputs * SIZE], outputs, SIZE, packed);
        })
    });
    for rows in ROWS {
        let x: Vec<T> = wave(rows * SIZE).into_iter().map(of).collect();
        compare(name, rows, library_panel, |kernel, panel, target| {
            let packed = panels[usize::from(kernel == Kernel::NumKong)][panel].bytes();
            kernel.product(&x, SIZE, packed, Start::Bias(None), target);
        });
    }
}

#[test]
#[ignore = "measures"]
fn of_products() {
    if !available() {
        return;
    }
    float_products("f32", SIZE, |x| x);
    float_products("bf16", PANEL, bf16::from_f32);
    let weight: Vec<i8> = wave(PANEL * SIZE)
        .iter()
        .map(|x| (x * 127.0) as i8)
        .collect();
    let panels = [Kernel::Avx512, Kernel::NumKong].map(|kernel| {
        let bytes = kernel.i8_packed_bytes(PANEL, SIZE);
        panels(PANEL, bytes, |packed| {
            kernel.i8_pack(&weight, PANEL, SIZE, packed)
        })
    });
    let scales = vec![0.01; PANEL * int8_blocks(SIZE)];
    for rows in ROWS {
        let x: Vec<i8> = wave(rows * SIZE)
            .iter()
            .map(|x| (x * 127.0) as i8)
            .collect();
        let x_scales = vec![0.01; rows * int8_blocks(SIZE)];
        compare("int8", rows, PANEL, |kernel, panel, target| {
            let packed = panels[usize::from(kernel == Kernel::NumKong)][panel].bytes();
            kernel.i8_product(&x, &x_scales, SIZE, packed, &scales, None, target);
        });
    }
}

/// Measures the functions that turn a query's scores into weights.
#[test]
#[ignore = "measures"]
fn of_weights() {
    if !available() {
        return;
    }
    const COUNT: usize = 32 * SCORE_UNIT;
    let scores = wave(COUNT);
    let [ours, portable] = [Kernel::Avx512, Kernel::NumKong].map(|kernel| {
        let mut own = scores.clone();
        let mut weights = vec![bf16::ZERO; COUNT];
        seconds(|| {
            for _ in 0..1000 {
                own.copy_from_slice(&scores);
                let shift = kernel.largest(black_box(&own));
                black_box(bf16::weights(kernel, &mut own, shift, &mut weights));
            }
        }) / 1000.0
    });
    println!(
        "weights of {COUNT} keys: {:.0} ns by AVX-512, {:.0} ns by AVX2",
        ours * 1e9,
        portable * 1e9
    );
}
