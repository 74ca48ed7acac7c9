//! Tests that run inside a backend.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn a_vector_survives_a_round_trip() {
        let text = Spi::get_one::<String>("SELECT '[1,-0.5,3e-3]'::mrl_vector::text");
        assert_eq!(text, Ok(Some("[1,-0.5,0.0029993057]".to_owned())));
    }
}
