//! Compares the sweep with a scan of every vector.

use half::f16;
use photosearch_cpu::{Cpu, Level};

use super::code::NotFinite;
use super::filter::{fine_sums, fine_sums_as_compiled};
use super::kernel::{self, QuantizedQuery};
use super::{
    Ahead, Ceilings, CodeFilter, Encoder, Judge, Layout, Lines, Slab, SlabMut, Tid, Verdict,
    Verdicts,
};
use photosearch_vector::{Query, cosine, squared_norm};

const SLAB_LEN: usize = 8192 - 24 - 8;

/// A splitmix64 generator (Steele, Lea, Flood 2014). Each seed identifies a test case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A uniform value in -1..1.
    fn value(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.value()).sum::<f64>() / 2.0
    }
}

fn finite(v: f64) -> f16 {
    f16::from_f64(v.clamp(-65504.0, 65504.0))
}

/// A row of `dims` values: ordinary values, and values that could violate a bound. Some rows are
/// close to the query or opposite to it.
fn row(random: &mut Random, dims: usize, query: &[f16]) -> Vec<f16> {
    let mut values = |f: &mut dyn FnMut(&mut Random, usize) -> f64| -> Vec<f16> {
        (0..dims).map(|i| finite(f(random, i))).collect()
    };
    let kind = values(&mut |random, _| random.value())[0].to_bits() % 16;
    match kind {
        0 => vec![f16::ZERO; dims],
        1 => query.to_vec(),
        2 => query.iter().map(|q| -*q).collect(),
        3 => values(&mut |random, i| query[i].to_f64() * 3.0 + random.normal() * 1e-3),
        4 => values(&mut |random, i| query[i].to_f64() + random.normal()),
        5 => values(&mut |random, _| random.normal() * 6e-8),
        6 => values(&mut |random, _| random.normal() * 3e4),
        // A prefix of zeros, or a single nonzero value.
        7 => values(&mut |random, i| if i < dims / 2 { 0.0 } else { random.normal() }),
        8 => values(&mut |random, i| if i == dims / 3 { random.normal() } else { 0.0 }),
        // Values of very different magnitudes, of equal magnitudes, or multiples of one half.
        9 => values(&mut |random, _| random.normal() * 10f64.powf(random.value() * 4.0)),
        10 => values(&mut |random, _| if random.value() < 0.0 { -1.0 } else { 1.0 }),
        11 => values(&mut |random, _| (random.value() * 127.0).round() + 0.5),
        // Decaying values, as in the vectors of a Matryoshka model.
        _ => values(&mut |random, i| random.normal() / (1.0 + i as f64 / 16.0)),
    }
}

/// A random threshold, or one at, just above or just below some row's similarity.
fn threshold(random: &mut Random, similarities: &[f64]) -> f32 {
    let at = similarities[random.below(similarities.len())] as f32;
    match random.below(12) {
        0 => [
            0.0,
            -0.0,
            1.0,
            -1.0,
            2.0,
            -2.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ][random.below(8)],
        1 => 1f32.next_down(),
        2 => (-1f32).next_up(),
        3..=5 => at,
        6 => at.next_up(),
        7 => at.next_down(),
        8 => at + 1e-6,
        9 => at - 1e-6,
        _ => random.value() as f32,
    }
}

struct TestPage {
    layout: Layout,
    bytes: Vec<u8>,
    count: usize,
}

impl TestPage {
    fn new(layout: &Layout, rows: &[Vec<f16>]) -> TestPage {
        let mut bytes = vec![0; SLAB_LEN];
        let mut encoder = Encoder::new(layout);
        let mut slab = SlabMut::new(layout, &mut bytes, 0).unwrap();
        for (i, row) in rows.iter().enumerate() {
            encoder.encode(&row[..layout.dims()]).unwrap();
            slab.push(&encoder, tid(i));
        }
        TestPage {
            layout: layout.clone(),
            bytes,
            count: rows.len(),
        }
    }

    fn slab(&self) -> Slab<'_> {
        Slab::new(&self.layout, &self.bytes, self.count).unwrap()
    }
}

fn tid(i: usize) -> Tid {
    Tid {
        block: 0x0001_0002 + i as u32 * 70_000,
        offset: 1 + i as u16,
    }
}

fn all(verdicts: &Verdicts) -> Vec<Verdict> {
    (0..verdicts.len()).map(|i| verdicts.get(i)).collect()
}

/// An instruction level for each set of kernel variants that this processor can run.
fn cpus() -> impl Iterator<Item = Cpu> {
    [
        Level::Avx512Vnni,
        Level::Avx512,
        Level::Avx2,
        Level::Baseline,
    ]
    .into_iter()
    .filter_map(Cpu::at)
}

/// Judges random rows by a random query with several thresholds, by every kernel. Returns how many
/// verdicts decide a row, and the number of verdicts. The codes cover `prefix_dims` of `dims` values, and
/// the query compares `compared`.
fn check_case(seed: u64, prefix_dims: usize, dims: usize, compared: usize) -> (usize, usize) {
    let mut random = Random(seed);
    let layout = Layout::new(prefix_dims, SLAB_LEN).unwrap();
    let mut query: Vec<f16> = (0..dims).map(|_| finite(random.normal())).collect();
    if random.below(20) == 0 {
        let other = query.clone();
        query = row(&mut random, dims, &other);
    }
    let rows: Vec<Vec<f16>> = (0..layout.capacity())
        .map(|_| row(&mut random, dims, &query))
        .collect();
    let page = TestPage::new(&layout, &rows);
    let exact = Query::new(&query, compared).unwrap();
    let similarities: Vec<f64> = rows
        .iter()
        .map(|r| exact.similarity(&r[..compared]))
        .collect();
    let mut decided = 0;
    for _ in 0..8 {
        let threshold = threshold(&mut random, &similarities);
        let negated = random.below(4) == 0;
        let mut seen: Option<Vec<Verdict>> = None;
        for cpu in cpus() {
            let filter = CodeFilter::new(&layout, &query[..compared], threshold);
            let mut judge = Judge::at(cpu, &layout, vec![(filter, negated)]);
            let verdicts = all(judge.judge(&page.slab()));
            for (i, verdict) in verdicts.iter().enumerate() {
                let matches = (similarities[i] as f32 >= threshold) != negated;
                let right = match verdict {
                    Verdict::Yes => matches,
                    Verdict::No => !matches,
                    Verdict::Maybe => true,
                };
                assert!(
                    right,
                    "seed {seed}: {prefix_dims} of {dims} coded, {compared} compared, row {i}: \
                     {verdict:?} by {cpu:?}, similarity {}, threshold {threshold}",
                    similarities[i]
                );
            }
            let left: Vec<_> = judge.judge(&page.slab()).not_rejected().collect();
            let expected: Vec<_> = verdicts.iter().copied().enumerate().collect();
            assert!(
                left.iter()
                    .eq(expected.iter().filter(|(_, v)| *v != Verdict::No))
            );
            let mut judge = Judge::at(
                cpu,
                &layout,
                vec![(
                    CodeFilter::new(&layout, &query[..compared], threshold),
                    negated,
                )],
            );
            judge.judge(&page.slab());
            let counters = judge.counters();
            let maybe = verdicts.iter().filter(|v| **v == Verdict::Maybe).count();
            assert_eq!(counters.entries as usize, rows.len());
            assert_eq!(counters.undecided as usize, maybe);
            assert_eq!(
                counters.entries,
                counters.matches + counters.rejected + counters.undecided
            );
            decided += rows.len() - maybe;
            assert_eq!(*seen.get_or_insert(verdicts.clone()), verdicts, "{cpu:?}");
        }
    }
    (decided, 8 * cpus().count() * rows.len())
}

fn check_cases(cases: u64, seed: u64, dims_of: impl Fn(&mut Random) -> [usize; 3]) -> f64 {
    let (mut decided, mut all) = (0, 0);
    for case in 0..cases {
        let seed = seed + case;
        let [prefix_dims, dims, compared] = dims_of(&mut Random(!seed));
        let (d, a) = check_case(seed, prefix_dims, dims, compared);
        decided += d;
        all += a;
    }
    println!(
        "{all} decisions, {:.3}% decided",
        100.0 * decided as f64 / all as f64
    );
    decided as f64 / all as f64
}

/// The central property of the index. Together with the three tests below, a run checks more than
/// ten million decisions.
#[test]
fn no_verdict_is_wrong_where_the_query_compares_the_coded_prefix() {
    let share = check_cases(7000, 1, |random| {
        let prefix = [1, 7, 16, 31, 64, 100, 128, 128, 128, 256][random.below(10)];
        [prefix, prefix + random.below(3) * 50, prefix]
    });
    assert!(share > 0.6, "codes decide {share} of the rows");
}

#[test]
fn no_verdict_is_wrong_where_the_query_compares_less() {
    let share = check_cases(2500, 1_000_000, |random| {
        let prefix = [7, 64, 128, 256][random.below(4)];
        [
            prefix,
            prefix + random.below(3) * 50,
            1 + random.below(prefix),
        ]
    });
    assert!(share > 0.5, "codes decide {share} of the rows");
}

#[test]
fn no_verdict_is_wrong_where_the_query_compares_more() {
    let share = check_cases(2500, 2_000_000, |random| {
        let prefix = [1, 16, 64, 128][random.below(4)];
        let compared = prefix + 1 + random.below(prefix);
        [prefix, compared + random.below(3) * 50, compared]
    });
    assert!(share > 0.05, "codes decide {share} of the rows");
}

#[test]
fn no_verdict_is_wrong_on_long_prefixes() {
    check_cases(60, 3_000_000, |random| {
        let prefix = [1023, 1040, 2048, 4096][random.below(4)];
        [
            prefix,
            4096,
            [prefix, prefix / 2 + 1, 4096][random.below(3)],
        ]
    });
}

/// A bound on the similarity without rounding: at, just above or just below some row's similarity, or a
/// random one.
fn exact_cutoff(random: &mut Random, similarities: &[f64]) -> f64 {
    let at = similarities[random.below(similarities.len())];
    match random.below(8) {
        0 => [0.0, 1.0, -1.0, 2.0, f64::INFINITY, f64::NEG_INFINITY][random.below(6)],
        1 | 2 => at,
        3 => at.next_up(),
        4 => at.next_down(),
        5 => at + 1e-15,
        _ => random.value(),
    }
}

#[test]
fn no_verdict_between_unrounded_bounds_is_wrong() {
    let (mut decided, mut judged) = (0, 0);
    for seed in 0..1500 {
        let mut random = Random(4_000_000 + seed);
        let prefix_dims: usize = [1, 16, 31, 64, 128][random.below(5)];
        // As many dimensions as are coded, fewer, or more.
        let compared = [
            prefix_dims,
            prefix_dims,
            prefix_dims.div_ceil(2),
            prefix_dims + 20,
        ][random.below(4)];
        let dims = prefix_dims.max(compared);
        let layout = Layout::new(prefix_dims, SLAB_LEN).unwrap();
        let mut query: Vec<f16> = (0..dims).map(|_| finite(random.normal())).collect();
        if random.below(20) == 0 {
            query.fill(f16::ZERO);
        }
        let rows: Vec<Vec<f16>> = (0..layout.capacity())
            .map(|_| row(&mut random, dims, &query))
            .collect();
        let page = TestPage::new(&layout, &rows);
        let exact = Query::new(&query, compared).unwrap();
        let similarities: Vec<f64> = rows
            .iter()
            .map(|r| exact.similarity(&r[..compared]))
            .collect();
        for _ in 0..8 {
            let no_below = exact_cutoff(&mut random, &similarities);
            let yes_from = [no_below, no_below.next_up(), no_below + 0.1][random.below(3)];
            for cpu in cpus() {
                let filter = CodeFilter::between(&layout, &query[..compared], no_below, yes_from);
                let mut judge = Judge::at(cpu, &layout, vec![(filter, false)]);
                for (i, verdict) in all(judge.judge(&page.slab())).into_iter().enumerate() {
                    let similarity = similarities[i];
                    let is_right = match verdict {
                        Verdict::Yes => similarity >= yes_from,
                        Verdict::No => similarity < no_below,
                        Verdict::Maybe => true,
                    };
                    assert!(
                        is_right,
                        "seed {seed}, row {i}: {verdict:?} by {cpu:?}, similarity {similarity}, \
                         {no_below} .. {yes_from}"
                    );
                    judged += 1;
                    decided += u32::from(verdict != Verdict::Maybe);
                }
            }
        }
    }
    assert!(decided > judged / 2, "codes decide {decided} of {judged}");
}

#[test]
fn no_similarity_exceeds_its_ceiling() {
    let mut distances = Vec::new();
    for seed in 0..1500 {
        let mut random = Random(5_000_000 + seed);
        let prefix_dims = [1, 16, 31, 64, 128, 512][random.below(6)];
        let dims = prefix_dims + [0, 0, 0, 20][random.below(4)];
        let layout = Layout::new(prefix_dims, SLAB_LEN).unwrap();
        let mut query: Vec<f16> = (0..dims).map(|_| finite(random.normal())).collect();
        if random.below(20) == 0 {
            query.fill(f16::ZERO);
        }
        let rows: Vec<Vec<f16>> = (0..layout.capacity())
            .map(|_| row(&mut random, dims, &query))
            .collect();
        let page = TestPage::new(&layout, &rows);
        let exact = Query::new(&query, dims).unwrap();
        let similarities: Vec<f64> = rows.iter().map(|row| exact.similarity(row)).collect();
        let mut of_all: Option<Vec<f64>> = None;
        for cpu in cpus() {
            let mut ceilings = Ceilings::at(cpu, &layout, &query);
            let mut found = vec![f64::NAN; rows.len()];
            ceilings.visit(
                &page.slab(),
                f64::NEG_INFINITY,
                Ahead::none(),
                |i, ceiling| {
                    assert!(
                        ceiling >= similarities[i],
                        "seed {seed}, row {i}: {ceiling} by {cpu:?}, similarity {}",
                        similarities[i]
                    );
                    found[i] = ceiling;
                },
            );
            // Every entry is visited, with the same ceiling by every kernel.
            assert!(found.iter().all(|ceiling| !ceiling.is_nan()));
            assert_eq!(*of_all.get_or_insert(found.clone()), found, "{cpu:?}");
            if dims == prefix_dims {
                distances.extend(found.iter().zip(&similarities).map(|(c, s)| c - s));
            }
            // With a floor, exactly the entries whose ceilings reach it are visited.
            let floor = exact_cutoff(&mut random, &similarities);
            let mut visited = vec![false; rows.len()];
            ceilings.visit(&page.slab(), floor, Ahead::none(), |i, ceiling| {
                assert!(ceiling >= floor && ceiling == found[i]);
                visited[i] = true;
            });
            for (i, similarity) in similarities.iter().enumerate() {
                assert!(visited[i] || *similarity < floor, "seed {seed}, row {i}");
                assert!(visited[i] || found[i] < floor, "seed {seed}, row {i}");
            }
        }
    }
    distances.sort_by(f64::total_cmp);
    let median = distances[distances.len() / 2];
    assert!(
        median < 2e-3,
        "ceilings exceed the similarities by {median}"
    );
}

/// A sweep takes the lowest ceiling that it has kept as the floor for the rest. An entry must not be left
/// out if its ceiling reaches the floor. With few dimensions, the error of a code often points in the
/// direction of the query, and the bound of the first level is then lower than that of the second.
#[test]
fn entries_with_a_ceiling_at_the_floor_are_visited() {
    let visited = |ceilings: &mut Ceilings, page: &TestPage, floor: f64| {
        let mut visited = Vec::new();
        ceilings.visit(&page.slab(), floor, Ahead::none(), |i, ceiling| {
            visited.push((i, ceiling));
        });
        visited
    };
    for seed in 0..40 {
        let mut random = Random(8_000_000 + seed);
        let dims = 1 + random.below(4);
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        let query: Vec<f16> = (0..dims).map(|_| finite(random.normal())).collect();
        let rows: Vec<Vec<f16>> = (0..layout.capacity())
            .map(|_| (0..dims).map(|_| finite(random.value())).collect())
            .collect();
        let page = TestPage::new(&layout, &rows);
        for cpu in cpus() {
            let mut ceilings = Ceilings::at(cpu, &layout, &query);
            let all = visited(&mut ceilings, &page, f64::NEG_INFINITY);
            for (_, floor) in &all {
                let expected: Vec<_> = all.iter().filter(|(_, c)| c >= floor).copied().collect();
                let found = visited(&mut ceilings, &page, *floor);
                assert_eq!(found, expected, "seed {seed} by {cpu:?}");
            }
        }
    }
}

/// A row whose codes have an error of the same size in each value but the first one, and the query in the
/// direction of that error. The error of the estimate by these codes is then nearly as large as its
/// bound: by at most 2% smaller, the share of the rounding error of f32 sums at 4,000 dimensions. `level` is 0 for the first level of the codes, 1 for both.
fn row_and_query_at_the_bound(random: &mut Random, dims: usize, level: usize) -> [Vec<f16>; 2] {
    // With a largest value of 127 · 16, one step of the second level is 1.
    let row: Vec<f64> = std::iter::once(2032.0)
        .chain((1..dims).map(|_| match level {
            0 => 16.0 * (random.below(80) as f64 - 40.0) + 8.0,
            _ => (random.below(1600) as f64 - 800.0) + 0.5,
        }))
        .collect();
    let row: Vec<f16> = row.into_iter().map(finite).collect();
    let layout = Layout::new(dims, SLAB_LEN).unwrap();
    let page = TestPage::new(&layout, std::slice::from_ref(&row));
    let (codes, fine) = (page.slab().entry_codes(0), page.slab().fine(0));
    let query = row.iter().enumerate().map(|(i, value)| {
        let coarse = 16 * (i32::from(codes[i]) - 128);
        let nibble = i32::from(fine[i / 2] >> (4 * (i % 2)) & 0xf) - 8;
        let code = if level == 0 { coarse } else { coarse + nibble };
        f16::from_f64((value.to_f64() - f64::from(code)).signum() * f64::from(u8::from(i > 0)))
    });
    let query = query.collect();
    [row, query]
}

#[test]
fn verdicts_and_ceilings_hold_where_the_error_is_as_large_as_its_bound() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let (level, dims) = (
            (seed % 2) as usize,
            16 + random.below(if seed < 50 { 300 } else { 4000 }),
        );
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        let [row, query] = row_and_query_at_the_bound(&mut random, dims, level);
        let page = TestPage::new(&layout, std::slice::from_ref(&row));
        let opposite: Vec<f16> = query.iter().map(|value| -*value).collect();
        for cpu in cpus() {
            for query in [&query, &opposite] {
                let similarity = Query::new(query, dims).unwrap().similarity(&row);
                // With the similarity itself as the cutoff the row matches, with the next larger number
                // it does not.
                let cutoffs = [
                    (similarity, Verdict::No),
                    (similarity.next_up(), Verdict::Yes),
                ];
                for (cutoff, wrong) in cutoffs {
                    let filter = CodeFilter::between(&layout, query, cutoff, cutoff);
                    let mut judge = Judge::at(cpu, &layout, vec![(filter, false)]);
                    let verdict = judge.judge(&page.slab()).get(0);
                    assert_ne!(verdict, wrong, "{seed} {dims} {level} {cpu:?}");
                }
                let mut ceiling = f64::NEG_INFINITY;
                let mut ceilings = Ceilings::at(cpu, &layout, query);
                ceilings.visit(&page.slab(), similarity, Ahead::none(), |_, c| ceiling = c);
                assert!(ceiling >= similarity, "{seed} {dims} {level} {cpu:?}");
            }
        }
    }
}

#[test]
fn filters_of_a_conjunction_are_judged_together() {
    let layout = Layout::new(32, SLAB_LEN).unwrap();
    for seed in 0..300 {
        let mut random = Random(seed);
        let queries: Vec<Vec<f16>> = (0..3)
            .map(|_| (0..32).map(|_| finite(random.normal())).collect())
            .collect();
        let rows: Vec<Vec<f16>> = (0..layout.capacity())
            .map(|i| row(&mut random, 32, &queries[i % 3]))
            .collect();
        let page = TestPage::new(&layout, &rows);
        let conjunction: Vec<(usize, f32, bool)> = (0..3)
            .map(|i| (i, random.value() as f32 * 0.5, random.below(2) == 0))
            .collect();
        let filters = conjunction
            .iter()
            .map(|(i, t, negated)| (CodeFilter::new(&layout, &queries[*i], *t), *negated))
            .collect();
        let mut judge = Judge::new(&layout, filters);
        for (row, verdict) in rows.iter().zip(all(judge.judge(&page.slab()))) {
            let matches = conjunction.iter().all(|(i, t, negated)| {
                let exact = Query::new(&queries[*i], 32).unwrap();
                (exact.similarity(row) as f32 >= *t) != *negated
            });
            assert_ne!(verdict, Verdict::of_bool(!matches), "seed {seed}");
        }
    }
}

impl Verdict {
    fn of_bool(matches: bool) -> Verdict {
        if matches { Verdict::Yes } else { Verdict::No }
    }
}

#[test]
fn an_undecided_filter_leaves_what_others_do_not_reject() {
    let layout = Layout::new(16, SLAB_LEN).unwrap();
    let mut random = Random(5);
    let query: Vec<f16> = (0..16).map(|_| finite(random.normal())).collect();
    let page = TestPage::new(
        &layout,
        &[query.clone(), query.iter().map(|q| -*q).collect()],
    );
    let filters = vec![
        (CodeFilter::undecided(), false),
        (CodeFilter::new(&layout, &query, 0.5), false),
    ];
    let mut judge = Judge::new(&layout, filters);
    let verdicts = judge.judge(&page.slab());
    assert_eq!(all(verdicts), [Verdict::Maybe, Verdict::No]);
    assert_eq!(
        verdicts.not_rejected().collect::<Vec<_>>(),
        [(0, Verdict::Maybe)]
    );
}

#[test]
fn judging_corrupt_entries_does_not_panic() {
    // On any bits, judging must neither panic nor read out of bounds.
    let mut random = Random(9);
    for dims in [1, 16, 128, 1000] {
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        let query: Vec<f16> = (0..2 * dims).map(|_| finite(random.normal())).collect();
        for compared in [dims, dims.div_ceil(2), dims + 1] {
            for _ in 0..50 {
                let bytes: Vec<u8> = (0..SLAB_LEN).map(|_| random.next() as u8).collect();
                let slab = Slab::new(&layout, &bytes, layout.capacity()).unwrap();
                let filter = CodeFilter::new(&layout, &query[..compared], 0.2);
                let mut judge = Judge::new(&layout, vec![(filter, false)]);
                judge.judge(&slab);
                let counters = judge.counters();
                let decided = counters.matches + counters.rejected + counters.undecided;
                assert_eq!(decided, layout.capacity() as u64);
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_integer_dot_product() {
    for seed in 0..400 {
        let mut random = Random(seed);
        // The longest stride is that of 4096 dimensions.
        let stride = 16 * (1 + random.below(if seed % 10 == 0 { 256 } else { 40 }));
        let unit: Vec<f64> = match random.below(3) {
            0 => vec![1.0 / (stride as f64).sqrt(); stride],
            _ => {
                let v: Vec<f64> = (0..stride).map(|_| random.normal()).collect();
                let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
                v.iter().map(|v| v / norm).collect()
            }
        };
        let query = QuantizedQuery::new(&unit, stride);
        let extreme = random.below(3) == 0;
        let codes: Vec<u8> = (0..stride * 9)
            .map(|_| {
                if extreme {
                    255
                } else {
                    1 + (random.next() % 255) as u8
                }
            })
            .collect();
        let expected: Vec<i64> = codes
            .chunks(stride)
            .map(|row| {
                let values = row.iter().zip(query.values());
                values
                    .map(|(c, k)| (i64::from(*c) - 128) * i64::from(*k))
                    .sum()
            })
            .collect();
        for cpu in cpus() {
            let mut dots = [0; 9];
            kernel::dots(
                cpu,
                &codes,
                &query,
                &mut dots,
                &mut Ahead::new(Lines::new(codes.as_ptr(), codes.len()), [Lines::none(); 2]),
            );
            assert_eq!(dots.map(i64::from).to_vec(), expected, "{cpu:?}");
        }
        let fine: Vec<u8> = (0..stride / 2)
            .map(|_| if extreme { 255 } else { random.next() as u8 })
            .collect();
        let halves = fine.iter().flat_map(|pair| [pair & 0xf, pair >> 4]);
        let expected: i64 = halves
            .zip(query.values())
            .map(|(f, k)| (i64::from(f) - 8) * i64::from(*k))
            .sum();
        for cpu in cpus() {
            let dot = kernel::fine_dot(cpu, &fine, &query);
            assert_eq!(i64::from(dot), expected, "{cpu:?}");
        }
        // The error of the quantised query must be within its stated bound.
        let lost: f64 = unit
            .iter()
            .zip(query.values())
            .map(|(u, k)| (u - f64::from(*k) * query.scale()).powi(2))
            .sum();
        assert!(lost.sqrt() <= query.lost() && query.lost() < 4e-4);
    }
}

#[test]
fn removing_keeps_the_others_as_they_are() {
    let layout = Layout::new(40, SLAB_LEN).unwrap();
    for seed in 0..200 {
        let mut random = Random(seed);
        let query = vec![f16::ONE; 40];
        let rows: Vec<Vec<f16>> = (0..random.below(layout.capacity() + 1))
            .map(|_| row(&mut random, 40, &query))
            .collect();
        let mut page = TestPage::new(&layout, &rows);
        let dead: Vec<bool> = rows.iter().map(|_| random.below(2) == 0).collect();
        let mut slab = SlabMut::new(&layout, &mut page.bytes, page.count).unwrap();
        let removed = slab.remove(|i| dead[i]);
        page.count = slab.count();
        assert_eq!(removed, dead.iter().filter(|d| **d).count());
        let mut encoder = Encoder::new(&layout);
        let kept: Vec<usize> = (0..rows.len()).filter(|i| !dead[*i]).collect();
        assert_eq!(page.count, kept.len());
        for (entry, i) in kept.iter().enumerate() {
            encoder.encode(&rows[*i]).unwrap();
            assert!(page.slab().holds(entry, &encoder), "seed {seed}, row {i}");
            assert_eq!(page.slab().tid(entry), tid(*i));
        }
        // The freed places must equal those of a page that never held the removed entries.
        let left: Vec<Vec<f16>> = kept.iter().map(|i| rows[*i].clone()).collect();
        let mut again = vec![0; SLAB_LEN];
        let mut slab = SlabMut::new(&layout, &mut again, 0).unwrap();
        for (row, i) in left.iter().zip(&kept) {
            encoder.encode(row).unwrap();
            slab.push(&encoder, tid(*i));
        }
        assert_eq!(page.bytes, again);
    }
}

/// Generic WAL zeroes the bytes between `pd_lower` and `pd_upper`, so no entry may lie there.
#[test]
fn the_hole_is_what_the_entries_leave() {
    for dims in [1, 7, 16, 40, 100, 128, 1000, 2048, 4096] {
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        let mut random = Random(dims as u64);
        let mut encoder = Encoder::new(&layout);
        let mut bytes = vec![0; SLAB_LEN];
        let rows: Vec<Vec<f16>> = (0..layout.capacity())
            .map(|_| row(&mut random, dims, &vec![f16::ONE; dims]))
            .collect();
        let checked = |bytes: &[u8], kept: &[usize]| {
            let hole = layout.hole(kept.len()).unwrap();
            assert!(bytes[hole].iter().all(|b| *b == 0), "{dims}");
            let slab = Slab::new(&layout, bytes, kept.len()).unwrap();
            assert!(slab.ends_at_count());
            let mut encoder = Encoder::new(&layout);
            for (entry, i) in kept.iter().enumerate() {
                encoder.encode(&rows[*i]).unwrap();
                assert!(slab.holds(entry, &encoder), "{dims}, entry {entry}");
                assert_eq!(slab.tid(entry), tid(*i));
            }
        };
        let mut kept: Vec<usize> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            encoder.encode(row).unwrap();
            let mut slab = SlabMut::new(&layout, &mut bytes, i).unwrap();
            slab.push(&encoder, tid(i));
            kept.push(i);
            // Checking all entries after every step would be slow on pages with many entries.
            if i % 16 == 0 || i + 1 == rows.len() {
                checked(&bytes, &kept);
            }
        }
        while !kept.is_empty() {
            let dead: Vec<bool> = kept.iter().map(|_| random.below(3) == 0).collect();
            let mut slab = SlabMut::new(&layout, &mut bytes, kept.len()).unwrap();
            slab.remove(|entry| dead[entry]);
            let mut dead = dead.into_iter();
            kept.retain(|_| dead.next() == Some(false));
            checked(&bytes, &kept);
        }
    }
}

/// An index may be checked on another CPU than the one that built it.
#[test]
fn codes_are_the_same_on_every_cpu() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let dims = 1 + random.below(300);
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        let (mut one, mut other) = (Encoder::new(&layout), Encoder::new(&layout));
        let row = row(&mut random, dims, &vec![f16::ONE; dims]);
        one.encode(&row).unwrap();
        other.encode_as_compiled(&row).unwrap();
        assert_eq!(one.parts(), other.parts(), "seed {seed}");
        // The sums of the second level must also be the same.
        let page = TestPage::new(&layout, std::slice::from_ref(&row));
        let slab = page.slab();
        let unit: Vec<f64> = (0..1 + random.below(dims))
            .map(|_| random.normal())
            .collect();
        assert_eq!(
            fine_sums(&slab, 0, &unit),
            fine_sums_as_compiled(slab.codes(), slab.fine(0), &unit),
            "seed {seed}"
        );
    }
}

#[test]
fn damaged_values_are_no_code() {
    let layout = Layout::new(20, SLAB_LEN).unwrap();
    let mut encoder = Encoder::new(&layout);
    for value in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN, -f16::NAN] {
        for at in [0, 7, 19] {
            let mut row = vec![f16::ONE; 20];
            row[at] = value;
            assert_eq!(encoder.encode(&row), Err(NotFinite), "{value} at {at}");
        }
    }
    assert_eq!(encoder.encode(&[f16::MAX; 20]), Ok(()));
}

#[test]
fn a_page_holds_what_it_promises() {
    // A page holds 39 entries of 128 dimensions, and no page leaves room for one entry more and its padding.
    let layout = Layout::new(128, SLAB_LEN).unwrap();
    assert_eq!((layout.capacity(), layout.entry_len()), (39, 206));
    for dims in 1..=4096 {
        let layout = Layout::new(dims, SLAB_LEN).unwrap();
        assert!(layout.capacity() >= 1);
        let unused = SLAB_LEN - layout.capacity() * layout.entry_len();
        assert!(unused < layout.entry_len() + 64, "{dims}");
        assert!(layout.hole(layout.capacity()).is_some(), "{dims}");
        for count in [layout.capacity() + 1, usize::from(u16::MAX)] {
            assert!(layout.hole(count).is_none(), "{dims}, {count}");
        }
    }
    assert!(Layout::new(0, SLAB_LEN).is_none());
    assert!(Layout::new(4097, SLAB_LEN).is_none());
    assert!(Layout::new(4096, 6000).is_none());
    assert!(Slab::new(&layout, &[0; SLAB_LEN], 40).is_none());
    assert!(Slab::new(&layout, &[0; 100], 1).is_none());
}

/// On rows like those of a model, the first level leaves less than 2% of the rows to the second, and both
/// leave less than 0.1% undecided.
#[test]
fn two_levels_leave_few_rows_undecided() {
    let layout = Layout::new(128, SLAB_LEN).unwrap();
    let mut random = Random(77);
    let vector = |random: &mut Random| -> Vec<f16> {
        (0..128)
            .map(|i| finite(random.normal() / (1.0 + i as f64 / 16.0)))
            .collect()
    };
    let query = vector(&mut random);
    let filter = CodeFilter::new(&layout, &query, 0.35);
    let mut judge = Judge::new(&layout, vec![(filter, false)]);
    for _ in 0..1000 {
        let rows: Vec<Vec<f16>> = (0..39).map(|_| vector(&mut random)).collect();
        judge.judge(&TestPage::new(&layout, &rows).slab());
    }
    let counters = judge.counters();
    println!("{counters:?}");
    assert_eq!(counters.entries, 39_000);
    assert!(counters.matches > 50);
    assert!(counters.refined < counters.entries / 50);
    assert!(counters.undecided < counters.entries / 1000);
}

#[test]
fn the_similarity_error_holds() {
    // Values for which f32 sums have large rounding errors.
    let mut random = Random(3);
    for _ in 0..2000 {
        let dims = 1 + random.below(3000);
        let query: Vec<f16> = (0..dims)
            .map(|_| finite(1.0 + random.value() * 0.5))
            .collect();
        let row = row(&mut random, dims, &query);
        let seen = Query::new(&query, dims).unwrap().similarity(&row);
        let (mut dot, mut x, mut q) = (0.0, 0.0, 0.0);
        for (a, b) in row.iter().zip(&query) {
            dot += a.to_f64() * b.to_f64();
            x += a.to_f64().powi(2);
            q += b.to_f64().powi(2);
        }
        let exact = if x > 0.0 { dot / (x * q).sqrt() } else { 0.0 };
        assert!((seen - exact).abs() <= photosearch_vector::similarity_error(dims));
        assert_eq!(cosine(0.0, squared_norm(&row), 1.0), 0.0);
    }
}
