//! Tests that run inside a backend. Each file has a schema `tests`, because pgrx looks for tests
//! there.

mod call_site;
mod random;
mod similarity;
mod sql_files;
mod storage;
