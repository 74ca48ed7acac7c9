//! The SQL functions for users, and the functions behind the operators. The scripts in `sql/`
//! declare them.

mod check_index;
mod coarse;
mod decode;
mod embed;
mod fine;
mod last_sweep;
mod models;
mod once;
mod probe;
mod rerank;
mod text;
