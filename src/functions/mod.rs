//! The SQL functions that people type, and those behind the operators. Their declarations stand in
//! `sql/`.

mod check_index;
mod coarse;
mod embed;
mod fine;
mod last_sweep;
mod models;
mod once;
mod rerank;
mod text;
