//! How many rows the planner expects of `@~` and `!@~`.
//!
//! Where the query vector is known (see `query.rs`), the filter itself is evaluated on the sample
//! that ANALYZE has kept. Where it is the column of another table, so are the filters of a few of
//! that column's vectors. Else a prior is all there is.
//!
//! What that adds to planning, for a sample of 3,000 rows (x86-64, one core): 1.2 ms in a session
//! that reads the sample for the first time since ANALYZE, if 256 values are kept of each row (0.6
//! ms if 128); then 0.1 to 0.3 ms for each filter, by the prefix compared, and 2 to 4 ms for a join
//! of two columns of vectors.

use std::cell::RefCell;

use pgrx::prelude::*;
use pgrx::{Internal, PgList, pg_sys};

use super::operand::{Level, Operand};
use super::statistics::{Variable, Version};
use crate::coarse::CoarseQuery;
use crate::vector::{Sample, SampleQuery};

/// The share of rows that a filter is expected to keep of which nothing is known (no statistics,
/// or a query that only execution knows), as `DEFAULT_MATCHING_SEL` of Postgres'
/// `utils/selfuncs.h`.
const MATCHING: f64 = 0.01;

/// In a join, so many vectors of one side are compared with the sample of the other. With
/// [`Sample`]'s 3,000 rows of 256 values it bounds an estimate at 12 million multiplications.
const JOIN_QUERIES: usize = 16;

/// Estimates that a session remembers: one for each filter of a query that says what to find and
/// what to leave out.
const REMEMBERED: usize = 8;

/// What part of the pairs of a row and a query match.
struct Estimate {
    /// Of the pairs without a NULL.
    share: f64,
    /// The share of pairs without a NULL.
    not_null: f64,
}

impl Estimate {
    fn prior(threshold: Option<f32>, not_null: f64) -> Estimate {
        let share = match threshold {
            Some(threshold) if threshold > 1.0 => 0.0,
            Some(threshold) if threshold <= -1.0 => 1.0,
            _ => MATCHING,
        };
        Estimate { share, not_null }
    }

    fn selectivity(&self, negated: bool) -> f64 {
        let share = if negated {
            1.0 - self.share
        } else {
            self.share
        };
        (share * self.not_null).clamp(0.0, 1.0)
    }
}

#[pg_extern(sql = false)]
fn mrl_coarse_match_sel(
    root: Internal,
    operator: pg_sys::Oid,
    args: Internal,
    _relation: i32,
) -> f64 {
    // SAFETY: Postgres calls an estimator with these, for an operator that names it.
    unsafe { estimate(pointer(root), operator, pointer(args)) }.selectivity(false)
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_sel(
    root: Internal,
    operator: pg_sys::Oid,
    args: Internal,
    _relation: i32,
) -> f64 {
    // SAFETY: as above.
    unsafe { estimate(pointer(root), operator, pointer(args)) }.selectivity(true)
}

#[pg_extern(sql = false)]
fn mrl_coarse_match_joinsel(
    root: Internal,
    operator: pg_sys::Oid,
    args: Internal,
    join_type: i16,
    join: Internal,
) -> f64 {
    // SAFETY: as above.
    unsafe { join_selectivity(root, operator, args, join_type, join, false) }
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_joinsel(
    root: Internal,
    operator: pg_sys::Oid,
    args: Internal,
    join_type: i16,
    join: Internal,
) -> f64 {
    // SAFETY: as above.
    unsafe { join_selectivity(root, operator, args, join_type, join, true) }
}

/// # Safety
/// The arguments are those of a join selectivity function, as Postgres passes them.
unsafe fn join_selectivity(
    root: Internal,
    operator: pg_sys::Oid,
    args: Internal,
    join_type: i16,
    join: Internal,
    negated: bool,
) -> f64 {
    let (root, args) = (pointer(root), pointer(args));
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = estimate(root, operator, args).selectivity(negated);
        of_join(pairs, root, args, join_type, pointer(join))
    }
}

fn pointer<T>(argument: Internal) -> *mut T {
    argument
        .unwrap()
        .map_or(std::ptr::null_mut(), |datum| datum.cast_mut_ptr())
}

/// The share of pairs that match. It is the same whether one of the two is held fixed (a condition
/// on a table, an index looked into for each row of another) or neither is (a join).
///
/// # Safety
/// Called by the planner, for an operator `vector @~ vector` or `vector @~ probe`, or a negator.
unsafe fn estimate(
    root: *mut pg_sys::PlannerInfo,
    operator: pg_sys::Oid,
    args: *mut pg_sys::List,
) -> Estimate {
    // SAFETY: the arguments of an estimator are a planner and a list of two expressions.
    unsafe {
        let args = PgList::<pg_sys::Node>::from_pg(args);
        let (Some(left), Some(right)) = (args.get_ptr(0), args.get_ptr(1)) else {
            return Estimate::prior(None, 1.0);
        };
        let (mut vector, mut other) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(operator, &mut vector, &mut other);
        let planning = Planning { root };
        if vector != other {
            return planning
                .compare(left, Operand::of_probe(root, right, vector))
                .unwrap_or_else(|prior| prior);
        }
        let query = Operand::of_vector(root, right, Level::Settings);
        planning.compare(left, query).unwrap_or_else(|prior| {
            let query = Operand::of_vector(root, left, Level::Settings);
            planning.compare(right, query).unwrap_or(prior)
        })
    }
}

struct Planning {
    root: *mut pg_sys::PlannerInfo,
}

impl Planning {
    /// The estimate for `row` as the side with a sample; where it has none, or nothing is known of
    /// the query, the prior as an error.
    ///
    /// # Safety
    /// `row`, and what `query` holds, are expressions of the query that is being planned.
    unsafe fn compare(&self, row: *mut pg_sys::Node, query: Operand) -> Result<Estimate, Estimate> {
        // SAFETY: the caller's promise.
        unsafe {
            let mut row = Variable::examine(self.root, row);
            let not_null = 1.0 - row.null_fraction();
            let (share, not_null, threshold) = match query {
                Operand::Unknown => return Err(Estimate::prior(None, not_null)),
                Operand::Null => (Some(0.0), 0.0, None),
                Operand::Known(filter) => {
                    let version = row.version();
                    let share = row.with_sample(|sample| {
                        remembered(version?, &filter, || {
                            let query = SampleQuery::new(&filter.prefix, filter.of);
                            sample.share(&query, filter.threshold, None)
                        })
                    });
                    (share, not_null, Some(filter.threshold))
                }
                Operand::Vector(node, level) => {
                    let mut queries = Variable::examine(self.root, node);
                    let not_null = not_null * (1.0 - queries.null_fraction());
                    let share = self.average(&mut row, &mut queries, level);
                    (share, not_null, level.threshold())
                }
            };
            match share {
                Some(share) => Ok(Estimate { share, not_null }),
                None => Err(Estimate::prior(threshold, not_null)),
            }
        }
    }

    /// The share of pairs that match between two columns.
    ///
    /// # Safety
    /// As [`Planning::compare`].
    unsafe fn average(
        &self,
        rows: &mut Variable,
        queries: &mut Variable,
        level: Level,
    ) -> Option<f64> {
        let same = rows.is_same_column(queries);
        // In a table joined with itself a pair of a row and itself is one of as many as there are
        // rows, whatever the sample's size.
        let table = rows.relation().map_or(0.0, |relation| relation.tuples);
        let itself = if same && table >= 1.0 {
            1.0 / table
        } else {
            0.0
        };
        // SAFETY: the caller's promise.
        unsafe {
            rows.with_sample(|rows| {
                queries.with_sample(|queries| {
                    let shares: Vec<f64> = spread(queries.rows())
                        .filter_map(|i| share_of_row(rows, queries, i, level, same))
                        .collect();
                    let sum: f64 = shares.iter().sum();
                    (!shares.is_empty()).then(|| (sum / shares.len() as f64).max(itself))
                })
            })
        }
    }
}

thread_local! {
    /// Most recent last.
    static ESTIMATES: RefCell<Vec<(Version, CoarseQuery, Option<f64>)>> = const { RefCell::new(Vec::new()) };
}

/// The share of a filter, from memory where it was asked for just now: planning asks for each path
/// anew.
fn remembered(
    version: Version,
    filter: &CoarseQuery,
    share: impl FnOnce() -> Option<f64>,
) -> Option<f64> {
    ESTIMATES.with_borrow_mut(|estimates| {
        let known = estimates
            .iter()
            .find(|(of, about, _)| *of == version && about == filter);
        if let Some((_, _, share)) = known {
            return *share;
        }
        let share = share();
        if estimates.len() == REMEMBERED {
            estimates.remove(0);
        }
        estimates.push((version, filter.clone(), share));
        share
    })
}

/// Up to [`JOIN_QUERIES`] of the numbers below `count`, evenly.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(JOIN_QUERIES);
    (0..taken).map(move |i| i * count / taken)
}

fn share_of_row(
    rows: Sample<'_>,
    queries: Sample<'_>,
    i: usize,
    level: Level,
    same: bool,
) -> Option<f64> {
    let coarse = level.resolve(queries.dims(i))?;
    let query = queries.query(i, coarse.dims)?;
    rows.share(&query, coarse.threshold, same.then_some(i))
}

/// From the share of pairs to what Postgres asks of a join: for semi- and anti-joins the share of
/// outer rows with a match at all, taken as if the inner rows' matches knew nothing of each other.
///
/// # Safety
/// Called by the planner, with the arguments of a join estimator.
unsafe fn of_join(
    pairs: f64,
    root: *mut pg_sys::PlannerInfo,
    args: *mut pg_sys::List,
    join_type: i16,
    join: *mut pg_sys::SpecialJoinInfo,
) -> f64 {
    let join_type = join_type as pg_sys::JoinType::Type;
    if join_type != pg_sys::JoinType::JOIN_SEMI && join_type != pg_sys::JoinType::JOIN_ANTI {
        return pairs;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let inner = PgList::<pg_sys::Node>::from_pg(args)
            .iter_ptr()
            .filter_map(|node| {
                let variable = Variable::examine(root, node);
                let relation = variable.relation()?;
                pg_sys::bms_is_subset(relation.relids, (*join).min_righthand)
                    .then_some(relation.rows)
            })
            .next();
        1.0 - (1.0 - pairs).powf(inner.unwrap_or(1.0).max(1.0))
    }
}
