//! Compares the results of the coarse filter and the fine score in SQL with a computation in f64.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;
    use pgrx::spi::Error;

    use super::super::random::{Random, brute_force};

    /// More than the error of an f32 sum of a few hundred products.
    const TOLERANCE: f64 = 1e-5;

    #[pg_test]
    fn every_form_of_the_filter_equals_brute_force() -> Result<(), Error> {
        let mut random = Random::new(1);
        let mut matched = 0;
        for _ in 0..500 {
            let of = random.between(1, 300);
            let dims = random.between(1, of);
            let (e, q) = (random.vector(of), random.vector(of));
            let expected = brute_force(&e, &q, dims);
            // A margin from the threshold that is usually small, but larger than the error of
            // f32.
            let margin = TOLERANCE + random.signed().abs().powi(4) * 0.5;
            // Whether the similarity is below the threshold: at random, but a threshold lies in -1..=1,
            // so it cannot be above a similarity near 1, nor below one near -1.
            let below = match random.signed() < 0.0 {
                true => expected + margin <= 1.0,
                false => expected - margin < -1.0,
            };
            let threshold = expected + if below { margin } else { -margin };
            let (function, operator, not_function, not_operator) = Spi::connect(|client| {
                let row = client
                    .select(
                        "SELECT coarse_match(e, q, $3, $4), e @~ mrl_probe(q, $3, $4),
                                NOT coarse_match(e, q, $3, $4), e !@~ mrl_probe(q, $3, $4)
                         FROM (SELECT $1::mrl_vector AS e, $2::mrl_vector AS q OFFSET 0) AS x",
                        Some(1),
                        &[
                            e.clone().into(),
                            q.clone().into(),
                            (threshold as f32).into(),
                            (dims as i32).into(),
                        ],
                    )?
                    .first();
                Ok::<_, Error>((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?;
            let context = format!("{dims} of {of}, {expected} against {threshold}");
            assert_eq!(function, Some(!below), "coarse_match: {context}");
            assert_eq!(operator, Some(!below), "@~: {context}");
            assert_eq!(not_function, Some(below), "NOT coarse_match: {context}");
            assert_eq!(not_operator, Some(below), "!@~: {context}");
            matched += usize::from(!below);
        }
        assert!((200..300).contains(&matched), "{matched} of 500");
        Ok(())
    }

    #[pg_test]
    fn the_score_equals_brute_force_and_is_symmetric() -> Result<(), Error> {
        let mut random = Random::new(2);
        for _ in 0..300 {
            let dims = random.between(1, 700);
            let (e, q) = (random.vector(dims), random.vector(dims));
            let expected = brute_force(&e, &q, dims);
            let (score, swapped, distance) = Spi::get_three_with_args::<f64, f64, f64>(
                "SELECT fine_score(e, q), fine_score(q, e), e <=> q
                 FROM (SELECT $1::mrl_vector AS e, $2::mrl_vector AS q OFFSET 0) AS x",
                &[e.into(), q.into()],
            )?;
            let score = score.expect("a score");
            assert!(
                (score - expected).abs() < TOLERANCE,
                "{dims}: {score} for {expected}"
            );
            assert_eq!(swapped, Some(score));
            assert_eq!(distance, Some(1.0 - score));
        }
        Ok(())
    }

    /// Scans a table with the query as a constant, a parameter, a subquery and a row of another
    /// table.
    #[pg_test]
    fn a_scan_returns_exactly_the_matches() -> Result<(), Error> {
        const DIMS: usize = 48;
        let mut random = Random::new(3);
        Spi::run("CREATE TABLE album (id int, e mrl_vector); CREATE TABLE queries (q mrl_vector)")?;
        let rows: Vec<Vec<f32>> = (0..400).map(|_| random.vector(DIMS)).collect();
        for (id, row) in rows.iter().enumerate() {
            Spi::run_with_args(
                "INSERT INTO album VALUES ($1, $2)",
                &[(id as i32).into(), row.clone().into()],
            )?;
        }
        for (dims, threshold) in [(1, 0.5), (7, 0.2), (31, 0.1), (33, -0.05), (48, 0.15)] {
            let q = random.vector(DIMS);
            let similarities = rows.iter().map(|row| brute_force(row, &q, dims));
            let near = |s: &f64| (s - threshold).abs() < TOLERANCE;
            assert!(!similarities.clone().any(|s| near(&s)), "another seed");
            let expected: Vec<i32> = (0..)
                .zip(similarities)
                .filter(|(_, s)| *s >= threshold)
                .map(|(id, _)| id)
                .collect();
            assert!((1..400).contains(&expected.len()));
            let constant = format!("'{q:?}'::mrl_vector");
            Spi::run(&format!(
                "DELETE FROM queries; INSERT INTO queries VALUES ({constant})"
            ))?;
            for (from, query) in [
                ("album", constant.as_str()),
                ("album", "$1::mrl_vector"),
                ("album", "(SELECT q FROM queries)"),
                ("album, queries", "q"),
            ] {
                for condition in [
                    format!("coarse_match(e, {query}, {threshold}, {dims})"),
                    format!("NOT e !@~ mrl_probe({query}, {threshold}, {dims})"),
                    format!(
                        "CASE WHEN id >= 0 THEN coarse_match(e, {query}, {threshold}, {dims}) END"
                    ),
                ] {
                    let found = Spi::get_one_with_args::<Vec<i32>>(
                        &format!(
                            "SELECT array_agg(id ORDER BY id) FROM {from} WHERE {condition} AND cardinality($1) > 0"
                        ),
                        &[q.clone().into()],
                    )?;
                    assert_eq!(found.as_ref(), Some(&expected), "{condition}");
                }
            }
        }
        Ok(())
    }
}
