use super::*;
use crate::compute::Output;

const MARK: f32 = 12345.0;

fn wave(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.61 + seed).sin()).collect()
}

/// Rows, outputs and inputs that cover every remainder and more than one block.
fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
    [1, 2, 5, 6, 7, 13]
        .into_iter()
        .flat_map(|rows| [1, 15, 16, 17, 63, 64, 65, 130].map(|outputs| (rows, outputs)))
        .flat_map(|(rows, outputs)| [1, 2, 3, 64, 129].map(|inputs| (rows, outputs, inputs)))
        .chain([(7, 70, 2048), (3, 64, 4100), (8, 33, 6144)])
}

/// Calls `product` with a target whose elements are marked. Asserts that the result is `expected`
/// (row, output), which returns a value and its tolerance, and that no other element changes.
fn check(
    (rows, outputs): (usize, usize),
    product: impl Fn(TargetColumns<'_>),
    expected: impl Fn(usize, usize) -> (f64, f64),
) {
    let stride = outputs + 3;
    let mut out = vec![MARK; rows * stride];
    // SAFETY: there is no other target.
    product(unsafe { Output::new(&mut out, stride).target(0, rows, 2, outputs) });
    for (row, out) in out.chunks_exact(stride).enumerate() {
        assert_eq!([out[0], out[1], out[outputs + 2]], [MARK; 3]);
        for (output, &got) in out[2..2 + outputs].iter().enumerate() {
            let (expected, tolerance) = expected(row, output);
            assert!(
                (f64::from(got) - expected).abs() <= tolerance,
                "{rows} × {outputs}: {got} for {expected}"
            );
        }
    }
}

fn float_products<T: UnitFloat + Into<f64>>(of: impl Fn(f32) -> T) {
    for (rows, outputs, inputs) in shapes() {
        let made = |count, seed| wave(count, seed).into_iter().map(&of).collect();
        let (x, weight): (Vec<T>, Vec<T>) = (made(rows * inputs, 0.2), made(outputs * inputs, 0.9));
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.25).collect();
        let mut packed = vec![0xFF; packed_bytes::<T>(outputs, inputs)];
        pack(&weight, outputs, inputs, &mut packed);
        let starts = [Start::Bias(None), Start::Bias(Some(&bias)), Start::Target];
        for start in starts {
            check(
                (rows, outputs),
                |target| product(&x, &packed, inputs, start, target),
                |row, output| {
                    let term = |i: usize| {
                        let (x, weight): (f64, f64) = (
                            x[row * inputs + i].into(),
                            weight[output * inputs + i].into(),
                        );
                        x * weight
                    };
                    let first = match start {
                        Start::Bias(bias) => bias.map_or(0.0, |bias| f64::from(bias[output])),
                        Start::Target => f64::from(MARK),
                    };
                    let expected = (0..inputs).map(term).sum::<f64>() + first;
                    (expected, 4e-6 * (inputs as f64 + expected.abs()))
                },
            );
        }
    }
}

#[test]
fn float_products_are_those_of_the_definition_and_stay_in_their_columns() {
    if available() {
        float_products(|x| x);
        float_products(bf16::from_f32);
    }
}

#[test]
fn int8_products_are_exact_but_for_their_scales() {
    if !available() {
        return;
    }
    for (rows, outputs, inputs) in shapes() {
        let integers = |count, seed| -> Vec<i8> {
            let floats = wave(count, seed).into_iter();
            floats
                .map(|x| (x * 200.0).clamp(-127.0, 127.0) as i8)
                .collect()
        };
        let (x, weight) = (
            integers(rows * inputs, 0.2),
            integers(outputs * inputs, 0.9),
        );
        let blocks = inputs.div_ceil(INT8_BLOCK);
        let scales = |count, seed| -> Vec<f32> {
            wave(count * blocks, seed)
                .into_iter()
                .map(f32::abs)
                .collect()
        };
        let (x_scales, scales) = (scales(rows, 0.5), scales(outputs, 0.7));
        let padded = inputs.next_multiple_of(UNIT_BYTES);
        let mut offset = vec![0; rows * padded];
        for (to, x) in offset.chunks_exact_mut(padded).zip(x.chunks_exact(inputs)) {
            to.iter_mut()
                .zip(x)
                .for_each(|(to, &x)| *to = x as u8 ^ OFFSET);
        }
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.25).collect();
        let mut packed = vec![0xFF; i8_packed_bytes(outputs, inputs)];
        i8_pack(&weight, outputs, inputs, &mut packed);
        for bias in [None, Some(bias.as_slice())] {
            check(
                (rows, outputs),
                |target| {
                    i8_product(&offset, &x_scales, inputs, &packed, &scales, bias, target);
                },
                |row, output| {
                    let mut sum = bias.map_or(0.0, |bias| f64::from(bias[output]));
                    let mut size = sum.abs();
                    for block in 0..blocks {
                        let range = block * INT8_BLOCK..inputs.min((block + 1) * INT8_BLOCK);
                        let dot: i32 = range
                            .map(|i| {
                                let (x, w) = (x[row * inputs + i], weight[output * inputs + i]);
                                i32::from(x) * i32::from(w)
                            })
                            .sum();
                        let part = f64::from(dot)
                            * f64::from(x_scales[row * blocks + block])
                            * f64::from(scales[output * blocks + block]);
                        sum += part;
                        size += part.abs();
                    }
                    (sum, 4e-7 * size)
                },
            );
        }
    }
}

fn transposed_matrices_are_packed<T: UnitFloat>(of: impl Fn(f32) -> T) {
    for outputs in [1, 63, 64, 65, 72, 130] {
        for inputs in [1, 2, 3, 32, 33] {
            let weight: Vec<T> = wave(outputs * inputs, 0.4).into_iter().map(&of).collect();
            let mut expected = vec![0xFF; packed_bytes::<T>(outputs, inputs)];
            pack(&weight, outputs, inputs, &mut expected);
            let given = inputs.div_ceil(2);
            let mut transposed = vec![T::zeroed(); outputs * inputs];
            for (output, row) in weight.chunks_exact(inputs).enumerate() {
                for (input, &x) in row.iter().enumerate() {
                    transposed[input * outputs + output] = x;
                }
            }
            let mut packed = vec![0xFF; expected.len()];
            pack_transposed(&transposed, outputs, inputs, &mut packed);
            assert!(packed == expected, "{outputs} × {inputs}");

            // Rows that are not given are zeros.
            transposed[given * outputs..].fill(T::zeroed());
            let mut shorter = packed.clone();
            pack_transposed(&transposed, outputs, inputs, &mut packed);
            transposed.truncate(given * outputs);
            pack_transposed(&transposed, outputs, inputs, &mut shorter);
            assert!(packed == shorter, "{outputs} × {inputs}");
        }
    }
}

#[test]
fn a_transposed_matrix_is_packed_as_the_matrix_itself() {
    transposed_matrices_are_packed(|x| x);
    transposed_matrices_are_packed(bf16::from_f32);
}
