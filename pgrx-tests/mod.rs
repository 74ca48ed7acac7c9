//! Tests that run inside a backend. Each file has a schema `tests`, in which pgrx looks for them.

mod call_site;
mod random;
mod similarity;
mod sql_files;
mod storage;
