//! Tests that run inside a backend, and (`sql_files`) a test that reads the scripts in `sql`. The tests of a file are
//! in a schema `tests`, because pgrx looks for them there.

mod call_site;
mod random;
mod similarity;
mod sql_files;
mod storage;
