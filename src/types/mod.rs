//! The Postgres types `mrl_vector`, `mrl_probe` and `mrl_score_bound`: input and output functions, casts, comparison,
//! arithmetic and aggregates. `sql/types.sql` declares them in SQL.

mod aggregate;
mod arithmetic;
mod call_site;
mod casts;
mod compare;
mod error;
mod pgvector;
mod probe;
mod score_bound;
mod varlena;
mod vector;
mod vector_io;

pub use call_site::{Prepared, call_arguments, call_site_state, first_argument_is_query};
pub use error::{sql_error, vector_error};
pub use probe::{PERCENTAGE_HINT, Probe, ProbeArg, check_prefix_dims, check_threshold};
pub use score_bound::{ScoreBoundArg, condition_name, condition_of_name};
pub use varlena::{ArrayArg, ByteaArg, RawVarlena, TextArg, check_memory, new_varlena};
pub use vector::{
    MrlVector, StoredVector, VectorArg, VectorArray, VectorDatum, corrupted, reserve_one,
};
