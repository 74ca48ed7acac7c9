use half::f16;
use proptest::prelude::*;

use super::share::TAIL;
use super::*;
use crate::{Pilot, Query, from_f32s};

/// Pseudo-random values in [-1, 1), the same in every run.
fn random(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn vectors(count: usize, dims: usize) -> Vec<Vec<f16>> {
    let mut state = 7;
    let mut normal = || (0..6).map(|_| random(&mut state)).sum::<f32>();
    let vector = |_| {
        (0..dims)
            .map(|i| normal() / (1.0 + i as f32).powf(0.4))
            .collect()
    };
    let floats: Vec<Vec<f32>> = (0..count).map(vector).collect();
    floats.iter().map(|v| from_f32s(v).unwrap()).collect()
}

fn sample(vectors: &[Vec<f16>]) -> Vec<u8> {
    let mut builder = SampleBuilder::default();
    for (row, vector) in vectors.iter().enumerate() {
        builder.push(row, vector.len(), &vector[..vector.len().min(SAMPLE_DIMS)]);
    }
    builder.finish()
}

/// A sample of every `every`th vector, made as ANALYZE makes it.
fn calibrated_sample(vectors: &[Vec<f16>], every: usize) -> Vec<u8> {
    let count = vectors.len();
    let mut pilot = Pilot::new(
        Pilot::positions(count)
            .map(|row| vectors[row].len())
            .collect(),
    );
    if let Some(pilot) = &mut pilot {
        for row in Pilot::positions(count) {
            if pilot.takes(vectors[row].len()) {
                pilot.push(row, &vectors[row]);
            }
        }
    }
    let mut builder = SampleBuilder::new(pilot.and_then(Pilot::finish));
    for (row, vector) in vectors.iter().enumerate().step_by(every) {
        builder.push(row, vector.len(), vector);
    }
    builder.finish()
}

/// Vectors in clusters around a common mean. `decay` 0.35 gives half of the squared norm of 2048 values to
/// the first 256, as Matryoshka models do; 0 spreads it evenly.
fn clustered(count: usize, dims: usize, decay: f32) -> Vec<Vec<f16>> {
    const CLUSTERS: usize = 200;
    let scale: Vec<f32> = (0..dims).map(|i| (1.0 + i as f32).powf(-decay)).collect();
    let mut state = 11;
    let draw = |state: &mut u64, spread: f32| -> Vec<f32> {
        let mut normal = |_| (0..4).map(|_| random(state)).sum::<f32>();
        (0..dims).map(|i| spread * normal(i)).collect()
    };
    let mean = draw(&mut state, 0.5);
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| draw(&mut state, 1.0)).collect();
    let vector = |_| {
        let place = (random(&mut state) + 1.0) / 2.0 * CLUSTERS as f32;
        let centre = &centres[place as usize];
        let own = draw(&mut state, 0.8);
        let values = (0..dims).map(|i| scale[i] * (mean[i] + centre[i] + own[i]));
        from_f32s(&values.collect::<Vec<f32>>()).unwrap()
    };
    (0..count).map(vector).collect()
}

/// A row whose prefix equals the query's is compared with the threshold itself (`hit`), so a NaN threshold
/// would count as a NaN number of rows.
#[test]
fn a_threshold_that_is_not_a_number_gives_no_share() {
    let mut rows = clustered(150, 600, 0.35);
    rows.extend(rows.clone());
    let bytes = calibrated_sample(&rows, 1);
    let sample = Sample::parse(&bytes).unwrap();
    assert!(sample.rests.is_some());
    let of_vector = SampleQuery::new(&rows[0], 600);
    assert_eq!(sample.share(&of_vector, f32::NAN, None), None);
    let of_row = sample.query(0, 600).unwrap();
    assert!(sample.share(&of_row, 0.9, Some(0)).is_some());
    assert_eq!(sample.share(&of_row, f32::NAN, Some(0)), None);
}

/// The factors by which estimates of the share of rows that reach a similarity are wrong. Each
/// query's threshold is reached by `share` of the rows.
fn errors(
    sample: &[u8],
    rows: &[Vec<f16>],
    queries: &[Vec<f16>],
    dims: usize,
    share: f64,
) -> Vec<f64> {
    let sample = Sample::parse(sample).unwrap();
    let error = |vector: &Vec<f16>| {
        let query = Query::new(vector, dims).unwrap();
        let similarity = |row: &Vec<f16>| query.similarity(&row[..dims]) as f32;
        let mut similarities: Vec<f32> = rows.iter().map(similarity).collect();
        similarities.sort_unstable_by(|a, b| b.total_cmp(a));
        let threshold = similarities[(share * rows.len() as f64) as usize - 1];
        let query = SampleQuery::new(&vector[..dims], vector.len());
        let estimate = sample.share(&query, threshold, None).unwrap();
        (estimate / share).max(share / estimate)
    };
    queries.iter().map(error).collect()
}

fn share_within(errors: &[f64], factor: f64) -> f64 {
    errors.iter().filter(|&&error| error <= factor).count() as f64 / errors.len() as f64
}

#[test]
fn estimates_for_whole_vectors_are_within_a_factor_of_three() {
    for (dims, decay) in [(2048, 0.35), (1024, 0.35), (512, 0.35), (512, 0.0)] {
        let all = clustered(8040, dims, decay);
        let (queries, rows) = all.split_at(40);
        let bytes = calibrated_sample(rows, 3);
        for compared in [dims, 3 * dims / 4] {
            for share in [0.3, 0.05, 0.01, 0.005] {
                let errors = errors(&bytes, rows, queries, compared, share);
                let within = share_within(&errors, 3.0);
                assert!(
                    within >= 0.9,
                    "{dims} {decay} {compared} {share}: {within} {errors:?}"
                );
            }
        }
    }
}

/// Without what the calibration adds, the test above would fail.
#[test]
fn prefixes_alone_do_not_suffice() {
    let all = clustered(8040, 2048, 0.35);
    let (queries, rows) = all.split_at(40);
    let errors = errors(&sample(&rows[..3000]), rows, queries, 2048, 0.01);
    assert!(share_within(&errors, 3.0) < 0.5, "{errors:?}");
}

#[test]
fn a_row_as_a_query_for_whole_vectors() {
    let rows = clustered(6000, 1024, 0.35);
    let bytes = calibrated_sample(&rows, 3);
    let sample = Sample::parse(&bytes).unwrap();
    for dims in [512, 1000, 1024] {
        let mut within = 0;
        for i in 0..40 {
            let query = Query::new(&rows[3 * i], dims).unwrap();
            let mut similarities: Vec<f32> = rows
                .iter()
                .map(|row| query.similarity(&row[..dims]) as f32)
                .collect();
            similarities.sort_unstable_by(|a, b| b.total_cmp(a));
            let of_row = sample.query(i, dims).unwrap();
            let estimate = sample.share(&of_row, similarities[60], Some(i)).unwrap();
            within += usize::from((0.01 / 3.0..=0.03).contains(&estimate));
        }
        assert!(within >= 34, "{dims}: {within}");
    }
}

#[test]
fn duplicates_and_zeros_among_long_vectors() {
    let mut rows = clustered(900, 600, 0.35);
    let one = rows[0].clone();
    for row in (0..900).step_by(3) {
        rows[row] = one.clone();
    }
    for row in (1..900).step_by(9) {
        rows[row] = vec![f16::ZERO; 600];
    }
    // Nothing but zeros in the prefix, or behind it.
    let mut behind = one.clone();
    behind[..SAMPLE_DIMS].fill(f16::ZERO);
    rows[2] = behind.clone();
    let mut before = one.clone();
    before[SAMPLE_DIMS..].fill(f16::ZERO);
    rows[5] = before.clone();
    let bytes = calibrated_sample(&rows, 1);
    let sample = Sample::parse(&bytes).unwrap();
    assert!(sample.rests.is_some());
    let share =
        |query: &[f16], threshold| sample.share(&SampleQuery::new(query, 600), threshold, None);
    let near = |share: Option<f64>, wanted: f64| {
        assert!((share.unwrap() - wanted).abs() < 0.01, "{share:?} {wanted}");
    };
    near(share(&one, 0.995), 1.0 / 3.0);
    // A duplicate counts about half at a threshold of 1 (see `hit`).
    near(share(&one, 1.0), 1.0 / 6.0);
    near(share(&one[..400], 0.995), 1.0 / 3.0);
    near(share(&one, -1.0), 1.0);
    near(share(&one, 1.5), 0.0);
    let zero = vec![f16::ZERO; 600];
    near(share(&zero, 0.0), 1.0);
    near(share(&zero, 0.1), 0.0);
    for query in [&before, &behind] {
        let share = share(query, 0.2).unwrap();
        assert!((0.2..0.9).contains(&share), "{share}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_rows_and_queries_give_a_share(
        seed in any::<u64>(),
        kinds in proptest::collection::vec(0usize..6, 1..160),
        query_kind in 0usize..6,
        compared in 1usize..700,
        threshold in prop_oneof![-2.0f32..2.0, Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(0.0)],
    ) {
        let mut state = seed;
        let mut make = |kind: usize| -> Vec<f16> {
            let dims = [1, 256, 257, 600, 600, 700][kind];
            let mut values: Vec<f32> = (0..dims).map(|_| random(&mut state)).collect();
            match (state >> 20) % 8 {
                0 => values.fill(0.0),
                1 => values.iter_mut().skip(256).for_each(|v| *v = 0.0),
                2 => values.iter_mut().take(256).for_each(|v| *v = 0.0),
                3 => values.fill(1.0),
                4 => values.iter_mut().for_each(|v| *v *= 65000.0),
                5 => values.iter_mut().for_each(|v| *v *= 1e-7),
                _ => {}
            }
            from_f32s(&values).unwrap()
        };
        let query = make(query_kind);
        let rows: Vec<Vec<f16>> = kinds.iter().map(|&kind| make(kind)).collect();
        let bytes = calibrated_sample(&rows, 1);
        let sample = Sample::parse(&bytes).unwrap();
        let compared = compared.min(query.len());
        let of_vector = SampleQuery::new(&query[..compared], query.len());
        let known = rows.iter().any(|row| row.len() == query.len());
        let share = sample.share(&of_vector, threshold, None);
        prop_assert_eq!(share.is_some(), known);
        prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
        prop_assert_eq!(sample.share(&of_vector, f32::NAN, None), None);
        for row in 0..rows.len().min(8) {
            let Some(of_row) = sample.query(row, compared) else { continue };
            let share = sample.share(&of_row, threshold, Some(row));
            prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}

fn truth(vectors: &[Vec<f16>], query: &[f16], dims: usize, threshold: f32) -> f64 {
    let query = Query::new(query, dims).unwrap();
    let matches = |v: &&Vec<f16>| query.similarity(&v[..dims]) as f32 >= threshold;
    vectors.iter().filter(matches).count() as f64 / vectors.len() as f64
}

#[test]
fn the_share_of_the_sample_is_nearly_the_exact_one() {
    let vectors = vectors(2000, 300);
    let bytes = sample(&vectors);
    let sample = Sample::parse(&bytes).unwrap();
    for (i, query) in vectors.iter().take(20).enumerate() {
        for dims in [1, 7, 64, 128, 256] {
            for threshold in [-0.3, 0.0, 0.1, 0.2] {
                let exact = truth(&vectors, query, dims, threshold);
                let ready = SampleQuery::new(&query[..dims], 300);
                let share = sample.share(&ready, threshold, None).unwrap();
                if exact * 2000.0 >= TAIL as f64 + 5.0 {
                    assert!(
                        (share - exact).abs() < 0.004,
                        "{i} {dims} {threshold}: {share} {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_the_sample_does_not_hold_is_read_from_its_tail() {
    let all = vectors(40_000, 64);
    let bytes = sample(&all[..1000]);
    let sample = Sample::parse(&bytes).unwrap();
    let mut telling = 0;
    for query in &all[1000..1030] {
        for threshold in [0.35, 0.4, 0.45] {
            let exact = truth(&all, query, 64, threshold);
            let ready = SampleQuery::new(query, 64);
            let share = sample.share(&ready, threshold, None).unwrap();
            if (2e-4..2e-3).contains(&exact) {
                telling += 1;
                assert!(
                    share > exact / 6.0 && share < exact * 6.0,
                    "{share} {exact}"
                );
            }
        }
    }
    assert!(telling > 10, "{telling}");
}

#[test]
fn a_query_from_the_sample_is_its_row() {
    let vectors = vectors(500, 100);
    let bytes = sample(&vectors);
    let sample = Sample::parse(&bytes).unwrap();
    let of_row = sample.query(3, 50).unwrap();
    let of_vector = SampleQuery::new(&vectors[3][..50], 100);
    for threshold in [0.05, 0.1] {
        let a = sample.share(&of_row, threshold, Some(3)).unwrap();
        let b = sample.share(&of_vector, threshold, Some(3)).unwrap();
        assert!((a - b).abs() < 0.01, "{a} {b}");
    }
    let alone = sample.share(&of_row, 0.999, Some(3)).unwrap();
    assert!(alone < 1e-5 && sample.share(&of_row, 0.999, None).unwrap() > 1e-4);
    assert!(sample.query(3, 101).is_none());
}

#[test]
fn duplicates_zeros_and_other_dimensions() {
    let one = from_f32s(&[0.3, -0.1, 0.7]).unwrap();
    let zero = from_f32s(&[0.0; 3]).unwrap();
    let longer = from_f32s(&[1.0; 5]).unwrap();
    let mut rows = vec![one.clone(); 60];
    rows.extend(vec![zero.clone(); 40]);
    rows.extend(vec![longer; 100]);
    let bytes = sample(&rows);
    let sample = Sample::parse(&bytes).unwrap();
    let share =
        |query: &[f16], of, threshold| sample.share(&SampleQuery::new(query, of), threshold, None);
    assert!((0.25..0.6).contains(&share(&one, 3, 1.0).unwrap()));
    assert_eq!(share(&one, 3, 0.9), Some(0.6));
    assert_eq!(share(&one, 3, -1.0), Some(1.0));
    assert_eq!(share(&one, 3, 1.5), Some(0.0));
    // A zero vector has similarity 0 to every vector.
    assert_eq!(share(&one, 3, 0.0), Some(1.0));
    assert_eq!(share(&zero, 3, 0.0), Some(1.0));
    assert_eq!(share(&zero, 3, 0.1), Some(0.0));
    assert_eq!(share(&one, 4, 0.0), None);
    // A query that compares more values than the rows have must not panic.
    assert!(share(&from_f32s(&[1.0; 300]).unwrap(), 5, 0.1).is_some());
}

#[test]
fn what_is_no_sample_is_none() {
    let bytes = sample(&vectors(3, 10));
    assert!(Sample::parse(&bytes).is_some());
    assert!(Sample::parse(&[]).is_none());
    assert!(Sample::parse(&bytes[..bytes.len() - 1]).is_none());
    for at in 0..HEADER {
        let mut other = bytes.clone();
        other[at] ^= 0x40;
        assert!(Sample::parse(&other).is_none(), "{at}");
    }
    assert!(Sample::parse(&SampleBuilder::default().finish()).is_none());

    let mut bytes = calibrated_sample(&clustered(100, 300, 0.0), 2);
    assert!(Sample::parse(&bytes).unwrap().rests.is_some());
    for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(Sample::parse(&bytes[..len]).is_none(), "{len}");
    }
    // Any bytes behind the header and the 50 numbers of dimensions are a valid sample, and must not make an
    // estimate panic.
    for (at, byte) in bytes.iter_mut().enumerate().skip(HEADER + 2 * 50) {
        *byte ^= (at * 151) as u8;
    }
    let sample = Sample::parse(&bytes).unwrap();
    for row in 0..50 {
        if let Some(query) = sample.query(row, 299) {
            sample.share(&query, 0.1, None);
        }
    }
    let query = from_f32s(&[0.5; 300]).unwrap();
    sample.share(&SampleQuery::new(&query, 300), 0.1, None);
}
