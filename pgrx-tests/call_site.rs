//! Tests of what the functions keep at a call site (an expression of a running query) from one row to the next:
//! decoded queries, resolved settings. It must follow the arguments and the settings, even if one expression is
//! evaluated for many values of its variables, as in PL/pgSQL.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;
    use pgrx::spi::Error;

    /// Creates the table `vectors(id, v)` with 20 different vectors.
    fn make_vectors(dims: usize) -> Result<(), Error> {
        Spi::run(&format!(
            "CREATE TABLE vectors AS
             SELECT j AS id, (SELECT array_agg(sin(i * j + i * i)) FROM generate_series(1, {dims}) AS i)::mrl_vector AS v
             FROM generate_series(1, 20) AS j"
        ))
    }

    /// The number of pairs, whether the two evaluations agreed on all of them, and whether some
    /// pairs matched and others did not.
    type Seen = (Option<i64>, Option<bool>, Option<bool>);

    /// Evaluates `expression` over all pairs of vectors `e` and `q`, once in a loop with one call
    /// site and once in a new statement for each pair, and compares the results.
    fn in_a_loop(expression: &str) -> Result<Seen, Error> {
        Spi::run(&format!(
            "CREATE TABLE seen (a int, b int, in_loop bool, alone bool);
             DO $$
             DECLARE
                 e mrl_vector;
                 q mrl_vector;
                 a int;
                 b int;
                 in_loop bool;
                 alone bool;
             BEGIN
                 FOR a, e, b, q IN SELECT x.id, x.v, y.id, y.v FROM vectors AS x, vectors AS y ORDER BY y.id % 3, x.id, y.id LOOP
                     in_loop := {expression};
                     EXECUTE 'SELECT {expression} FROM (SELECT $1 AS e, $2 AS q OFFSET 0) AS pair' INTO alone USING e, q;
                     INSERT INTO seen VALUES (a, b, in_loop, alone);
                 END LOOP;
             END
             $$"
        ))?;
        let seen = Spi::get_three(
            "SELECT count(*), bool_and(in_loop = alone), bool_or(in_loop) AND NOT bool_and(in_loop) FROM seen",
        )?;
        Spi::run("DROP TABLE seen")?;
        Ok(seen)
    }

    fn check_loops(dims: usize) -> Result<(), Error> {
        make_vectors(dims)?;
        Spi::run("SET photosearch.coarse_threshold = 0.2; SET photosearch.coarse_dims = 4")?;
        for expression in [
            "coarse_match(e, q, 0.2, 4)",
            "coarse_match(q, e, 0.2, 4)",
            "NOT coarse_match(e, q, 0.2, 4)",
            "e @~ mrl_probe(q, 0.2, 4)",
            "e !@~ mrl_probe(q, 0.2, 4)",
            "coarse_match(e, q)",
            "e @~ q",
            "e !@~ q",
            "fine_score(e, q) > 0.2",
            "(e <=> q) < 0.8",
        ] {
            let seen = in_a_loop(expression)?;
            assert_eq!(seen, (Some(400), Some(true), Some(true)), "{expression}");
        }
        Ok(())
    }

    #[pg_test]
    fn the_query_changes_under_one_call_site() -> Result<(), Error> {
        check_loops(8)
    }

    #[pg_test]
    fn a_stored_query_changes_under_one_call_site() -> Result<(), Error> {
        check_loops(1200)
    }

    #[pg_test]
    fn threshold_and_dims_change_under_one_call_site() -> Result<(), Error> {
        make_vectors(8)?;
        let answers = Spi::get_three::<i64, bool, bool>(
            "SELECT count(*), bool_and(coarse_match(a.v, b.v, t, d) = (fine_score(subvector(a.v, 1, d), subvector(b.v, 1, d))::real >= t)),
                    bool_or(coarse_match(a.v, b.v, t, d)) AND NOT bool_and(coarse_match(a.v, b.v, t, d))
             FROM vectors AS a, vectors AS b, unnest('{0.1,0.5,-0.2}'::real[]) AS t, generate_series(1, 8) AS d",
        )?;
        assert_eq!(answers, (Some(9600), Some(true), Some(true)));
        Ok(())
    }

    #[pg_test]
    fn settings_change_under_one_call_site() -> Result<(), Error> {
        make_vectors(8)?;
        Spi::run(
            "CREATE TABLE seen (t real, d int, by_setting bool, explicit bool);
             DO $$
             DECLARE
                 e mrl_vector := (SELECT v FROM vectors WHERE id = 3);
                 q mrl_vector := (SELECT v FROM vectors WHERE id = 8);
                 t real;
                 d int;
             BEGIN
                 FOR t, d IN SELECT x, y FROM unnest('{-0.9,0.05,0.9,0.1}'::real[]) AS x, generate_series(1, 8) AS y LOOP
                     PERFORM set_config('photosearch.coarse_threshold', t::text, true);
                     PERFORM set_config('photosearch.coarse_dims', d::text, true);
                     INSERT INTO seen VALUES (t, d, e @~ q, coarse_match(e, q, t, d));
                 END LOOP;
             END
             $$",
        )?;
        let seen = Spi::get_three::<i64, bool, i64>(
            "SELECT count(*), bool_and(by_setting = explicit), count(DISTINCT explicit) FROM seen",
        )?;
        assert_eq!(seen, (Some(32), Some(true), Some(2)));
        Ok(())
    }

    /// The model's recommendations apply until a setting is set, and again after it is reset.
    #[pg_test]
    fn the_recommendations_apply_if_nothing_is_set() -> Result<(), Error> {
        Spi::run(
            "CREATE TABLE model AS SELECT * FROM photosearch.models WHERE name = 'photosearch-mini-1';
             CREATE TABLE vectors AS
             SELECT j AS id, (SELECT array_agg(sin(i * j + i * i)) FROM generate_series(1, (SELECT dimensions FROM model)) AS i)::mrl_vector AS v
             FROM generate_series(1, 60) AS j",
        )?;
        let count = |condition: &str| {
            Spi::get_one::<i64>(&format!(
                "SELECT count(*) FROM vectors AS a, vectors AS b, model WHERE {condition}"
            ))
        };
        let recommended = count("coarse_match(a.v, b.v, coarse_threshold, coarse_dims)")?;
        assert_eq!(count("coarse_match(a.v, b.v)")?, recommended);
        Spi::run("SET photosearch.coarse_threshold = -1")?;
        assert_eq!(count("coarse_match(a.v, b.v)")?, Some(3600));
        Spi::run("RESET photosearch.coarse_threshold; SET photosearch.coarse_dims = 1")?;
        let one_dimension = count("coarse_match(a.v, b.v, coarse_threshold, 1)")?;
        assert_ne!(one_dimension, recommended);
        assert_eq!(count("a.v @~ b.v")?, one_dimension);
        Spi::run("RESET photosearch.coarse_dims")?;
        assert_eq!(count("a.v @~ b.v")?, recommended);
        Ok(())
    }

    /// Evaluates `expression` for each row of `arguments`, once in a loop with one call site and
    /// once in a new statement for each row. Returns the number of rows with different results, and
    /// the number of distinct results.
    fn embedded_in_a_loop(expression: &str, arguments: &str) -> Result<(i64, i64), Error> {
        Spi::run(&format!(
            "CREATE TABLE seen (in_loop mrl_vector, alone mrl_vector);
             DO $$
             DECLARE
                 a text;
                 b text;
                 in_loop mrl_vector;
                 alone mrl_vector;
             BEGIN
                 FOR a, b IN {arguments} LOOP
                     in_loop := {expression};
                     EXECUTE 'SELECT {expression} FROM (SELECT $1 AS a, $2 AS b OFFSET 0) AS s' INTO alone USING a, b;
                     INSERT INTO seen VALUES (in_loop, alone);
                 END LOOP;
             END
             $$"
        ))?;
        let (wrong, different) = Spi::get_two::<i64, i64>(
            "SELECT count(*) FILTER (WHERE in_loop IS DISTINCT FROM alone), count(DISTINCT alone) FROM seen",
        )?;
        Spi::run("DROP TABLE seen")?;
        Ok((wrong.unwrap_or(-1), different.unwrap_or(-1)))
    }

    #[pg_test]
    fn what_is_embedded_changes_under_one_call_site() -> Result<(), Error> {
        let texts = "SELECT x, y FROM unnest(ARRAY['a baby', 'a dog', repeat('a boat ', 900), 'a dog and ' || repeat('a boat ', 900), NULL]) AS x, unnest(ARRAY[NULL, 'Find it.', 'Find it!']) AS y ORDER BY y, x";
        for expression in [
            "embed_text(a)",
            "embed_text($m$photosearch-mini-1$m$, a, b)",
            "embed($m$photosearch-mini-1$m$, a, instruction => b)",
        ] {
            let (wrong, different) = embedded_in_a_loop(expression, texts)?;
            assert_eq!(wrong, 0, "{expression}");
            assert!(different > 1, "{expression}");
        }
        Ok(())
    }

    /// The cast of a parameter keeps the vector of the last array, and uses it only for the same
    /// array.
    #[pg_test]
    fn arrays_change_under_one_call_site() -> Result<(), Error> {
        for of in ["real", "double precision", "integer", "numeric"] {
            let expression = format!("(a::{of}[])::mrl_vector");
            let arrays = "SELECT x, NULL FROM unnest(ARRAY['{1,2}', '{1,2}', '{2,1}', '{3,4,5}', '{1,2}', NULL]) AS x";
            let (wrong, different) = embedded_in_a_loop(&expression, arrays)?;
            assert_eq!((wrong, different), (0, 3), "{of}");
        }
        Ok(())
    }
}
