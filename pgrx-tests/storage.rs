//! Tests that no result depends on how a vector is stored (in the row, with a short header, compressed or out of
//! line) or read (as a whole or by slices).

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;
    use pgrx::spi::Error;

    use super::super::random::Random;

    /// Dimension counts around the limits at which the storage changes. A value is 8 bytes and 2 for each
    /// dimension: a short header is used up to 59 dimensions (126 bytes), a TOAST chunk of 1,996 bytes holds
    /// 994, and a value is moved out of line at about 1,000, where the row reaches 2 kB.
    fn boundary_dims() -> Vec<usize> {
        (1..=62)
            .chain(980..=1005)
            .chain([1991, 1992, 1993])
            .collect()
    }

    /// Fills `stored` with vectors of these dimensions. Half of them have few distinct values, so
    /// that they can be compressed. Then compares every function that reads a part of a vector with
    /// the same function on a copy that is not stored.
    fn check_storage(storage: &str, all_dims: &[usize], prefixes: &[usize]) -> Result<(), Error> {
        let mut random = Random::new(4);
        Spi::run(&format!(
            "CREATE TABLE stored (id int, e mrl_vector); ALTER TABLE stored ALTER e SET STORAGE {storage}"
        ))?;
        for (id, &dims) in all_dims.iter().enumerate() {
            let mut vector = random.vector(dims);
            if id % 2 == 0 {
                vector = vector.iter().map(|value| value.signum()).collect();
            }
            Spi::run_with_args(
                "INSERT INTO stored VALUES ($1, $2)",
                &[(id as i32).into(), vector.into()],
            )?;
        }
        let prefixes: Vec<i32> = prefixes.iter().map(|&dims| dims as i32).collect();
        // `copy` has been converted to text and back, so it is neither stored nor sliced. Rows with
        // few more dimensions than the prefix also test the last values of the prefix.
        let differing = Spi::get_one_with_args::<i64>(
            "SELECT count(*) FILTER (WHERE NOT (
                    e = copy AND vector_dims(e) = vector_dims(copy) AND l2_norm(e) = l2_norm(copy)
                    AND mrl_vector_hash(e) = mrl_vector_hash(copy)
                    AND subvector(e, 1, dims) = subvector(copy, 1, dims)
                    AND subvector(e, dims, 1) = subvector(copy, dims, 1)
                    AND mrl_truncate(e, dims) = mrl_truncate(copy, dims)
                    AND mrl_probe(e, 0.5, dims)::text = mrl_probe(copy, 0.5, dims)::text
                    AND coarse_match(e, copy, 1, dims) AND coarse_match(copy, e, 1, dims)
                    AND e @~ mrl_probe(copy, 1, dims) AND copy @~ mrl_probe(e, 1, dims)
                    AND coarse_match(e, other, 0.1, dims) = coarse_match(copy, other, 0.1, dims)
                    AND fine_score(e, other) = fine_score(copy, other)
                    AND fine_score(other, e) = fine_score(other, copy)))
             FROM (SELECT e, e::text::mrl_vector AS copy,
                          (SELECT array_agg(sin(i * id)) FROM generate_series(1, vector_dims(e)) AS i)::mrl_vector AS other
                   FROM stored OFFSET 0) AS x, unnest($1) AS dims
             WHERE dims <= vector_dims(e)",
            &[prefixes.into()],
        )?;
        assert_eq!(differing, Some(0), "storage {storage}");
        Ok(())
    }

    fn prefixes() -> Vec<usize> {
        vec![1, 2, 58, 59, 60, 987, 988, 993, 994, 995, 1000, 1992]
    }

    #[pg_test]
    fn plain_storage() -> Result<(), Error> {
        check_storage("plain", &boundary_dims(), &prefixes())
    }

    #[pg_test]
    fn external_storage() -> Result<(), Error> {
        let mut dims = boundary_dims();
        dims.extend([2048, 16_000]);
        check_storage("external", &dims, &prefixes())
    }

    #[pg_test]
    fn extended_storage() -> Result<(), Error> {
        let mut dims = boundary_dims();
        dims.extend([2048, 16_000]);
        check_storage("extended", &dims, &prefixes())
    }

    #[pg_test]
    fn main_storage() -> Result<(), Error> {
        let mut dims = boundary_dims();
        dims.extend([2048, 16_000]);
        check_storage("main", &dims, &prefixes())
    }

    /// The purpose of external storage: a filter on a prefix does not read the rest of the vector.
    #[pg_test]
    fn a_prefix_is_read_without_the_rest() -> Result<(), Error> {
        Spi::run(
            "CREATE TABLE long (e mrl_vector);
             INSERT INTO long SELECT (SELECT array_agg(sin(i * j)) FROM generate_series(1, 16000) AS i)::mrl_vector
                              FROM generate_series(1, 20) AS j",
        )?;
        let blocks = |condition: &str| {
            let plan = Spi::get_one::<pgrx::Json>(&format!(
                "EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) SELECT FROM long WHERE {condition}"
            ))?
            .expect("a plan");
            let plan = &plan.0[0]["Plan"];
            let of = |key: &str| plan[key].as_u64().expect("a number of blocks");
            Ok::<_, Error>(of("Shared Hit Blocks") + of("Shared Read Blocks"))
        };
        // Each of the 20 vectors of 16,000 dimensions is stored in 17 chunks, on about five pages.
        let query = "array_fill(1, ARRAY[16000])::mrl_vector";
        let count = blocks("vector_dims(e) > 0")?;
        let prefix = blocks(&format!("coarse_match(e, {query}, 0.5, 900)"))?;
        let whole = blocks(&format!("coarse_match(e, {query}, 0.5, 16000)"))?;
        assert_eq!(count, prefix);
        assert!(whole >= prefix + 20 * 3, "{prefix} and {whole} blocks");
        Ok(())
    }

    /// A query out of line is identified by its TOAST pointer; two such queries must not be taken
    /// for the same.
    #[pg_test]
    fn stored_queries_are_told_apart() -> Result<(), Error> {
        Spi::run(
            "CREATE TABLE queries (id int, q mrl_vector);
             INSERT INTO queries SELECT j, (SELECT array_agg(sin(i * j)) FROM generate_series(1, 1500) AS i)::mrl_vector
                                 FROM generate_series(1, 12) AS j;
             SET photosearch.coarse_threshold = 0.9; SET photosearch.coarse_dims = 1200",
        )?;
        for condition in [
            "coarse_match(a.q, b.q, 0.9, 1200)",
            "coarse_match(a.q, b.q)",
            "a.q @~ b.q",
            "a.q @~ mrl_probe(b.q, 0.9, 1200)",
            "NOT a.q !@~ b.q",
            "fine_score(a.q, b.q) > 0.9",
            "(a.q <=> b.q) < 0.1",
        ] {
            let pairs = Spi::get_two::<i64, bool>(&format!(
                "SELECT count(*), bool_and(a.id = b.id) FROM queries AS a, queries AS b WHERE {condition}"
            ))?;
            assert_eq!(pairs, (Some(12), Some(true)), "{condition}");
        }
        Ok(())
    }
}
