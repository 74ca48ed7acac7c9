//! Packed codes of many vector prefixes, and the sweep that compares them with a query.
//!
//! The index stores for every vector a code of its prefix, which is the prefix with its values rounded
//! to 12 bits ([`code`]), and a bound on the code's error. A sweep compares all codes with a query
//! ([`filter`]) and decides most rows with certainty ([`bound`]), if the query compares as many values as
//! are coded. The remaining rows are decided by the full vectors, so the result is the same as that of a
//! scan of all vectors. Scans in order use upper bounds of the similarities instead ([`ceilings`]).
//! This crate does not depend on PostgreSQL; pages are byte slices.

pub mod bound;
pub mod ceilings;
pub mod code;
pub mod filter;
pub mod judge;
pub mod kernel;
pub mod layout;
pub mod prefetch;
pub mod verdicts;

pub use bound::ARITHMETIC;
pub use ceilings::Ceilings;
pub use code::Encoder;
pub use filter::CodeFilter;
pub use judge::{Counters, Judge};
pub use layout::{Layout, MAX_PREFIX_DIMS, Slab, SlabMut, Tid};
pub use prefetch::{Ahead, Lines};
pub use verdicts::{Verdict, Verdicts};

#[cfg(test)]
mod tests;
