//! Column statistics for `mrl_vector`: the ANALYZE function, and the planner's access to its
//! result.
//!
//! One slot of `pg_statistic` holds a [`Sample`] in a `bytea`: up to 3,000 rows, with the first 256
//! values of each quantized to 8 bits. If a filter matches 0.3% of the rows, a sample of 3,000
//! contains 9 matches on average, and fewer than 3 with a probability of 1 in 160.
//!
//! The sample takes 774 kB on disk for vectors of 256 dimensions, and as much memory in each session
//! that plans with the column, because the catalog cache keeps it until the next ANALYZE. For
//! longer vectors it also describes the values after the first 256 (`src/vector/rest.rs`) and takes 892 kB
//! for 512 dimensions, 943 kB for 2048. `selectivity.rs` states how long reading it and an estimate take.
//!
//! For vectors of at most 256 dimensions ANALYZE detoasts only what the sample holds, and the first bytes of
//! some hundred vectors more. Of longer ones it reads up to 3,612 whole (the sample and the 612 of a
//! [`Pilot`]), and compares 102 of them with all that are in the sample. For 2048 dimensions that takes 0.2 s
//! of CPU time, of 0.25 s that the whole ANALYZE takes for 20,000 rows.
//!
//! For `=` and `<` only the number of distinct values is stored. Other types also have most common
//! values and a histogram; those would be large, and nobody compares embeddings with constants by
//! these operators.

use std::ffi::c_int;
use std::ptr::null_mut;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys, varlena};

use crate::types::{VectorArg, check_memory, new_varlena};
use crate::vector::{Pilot, SAMPLE_DIMS, Sample, SampleBuilder};
use crate::version;

/// The `stakind` of the slot. `pg_statistic.h` reserves numbers from 10,000 for private use.
const KIND: i16 = 18_256;

/// Rows that ANALYZE fetches per unit of the statistics target, as many as Postgres fetches for a
/// histogram.
const ROWS_PER_TARGET: c_int = 300;

/// The sample has one row for every ten that ANALYZE asks for: 3,000 at the default target of 100. A table
/// with fewer vectors than the sample has room for is sampled whole.
const FETCHED_PER_SAMPLED: usize = 10;

/// The maximum number of rows in a sample for any statistics target. It bounds the time of
/// planning.
const MAX_ROWS: usize = 3_000;

/// The type's `ANALYZE` function: sets the number of rows to fetch, and the function that computes
/// the statistics.
#[pg_extern(sql = false)]
fn mrl_vector_typanalyze(stats: Internal) -> bool {
    // SAFETY: Postgres passes a VacAttrStats to the ANALYZE function of a type.
    unsafe {
        let stats = stats
            .unwrap()
            .and_then(|datum| datum.cast_mut_ptr::<pg_sys::VacAttrStats>().as_mut());
        let Some(stats) = stats else { return false };
        stats.minrows = target(stats).saturating_mul(ROWS_PER_TARGET);
        stats.compute_stats = Some(compute);
    }
    true
}

/// Returns the column's statistics target, or the server's default if the column has none. Postgres
/// does not call the ANALYZE function for a target of 0.
fn target(stats: &pg_sys::VacAttrStats) -> c_int {
    // SAFETY: ANALYZE has passed `stats`.
    let own = unsafe { version::statistics_target(stats) };
    if own >= 0 {
        own
    } else {
        // SAFETY: a setting, which only the backend's thread changes.
        unsafe { pg_sys::default_statistics_target }
    }
}

/// Computes `stats` from the fetched rows. ANALYZE calls it in a memory context that it resets
/// afterwards.
#[pg_guard]
unsafe extern "C-unwind" fn compute(
    stats: pg_sys::VacAttrStatsP,
    fetch: pg_sys::AnalyzeAttrFetchFunc,
    rows: c_int,
    _total_rows: f64,
) {
    let fetch = fetch.expect("ANALYZE gives a function to fetch values");
    // SAFETY: ANALYZE guarantees that `stats` is valid during the call and that `fetch` returns the
    // value of each row below `rows`.
    unsafe {
        let mut present = Vec::new();
        let mut width = 0.0;
        for row in 0..rows {
            delay_point();
            let mut null = false;
            let value = fetch(stats, row, &mut null);
            if !null {
                present.push(row);
                width += varlena::varsize_any(value.cast_mut_ptr()) as f64;
            }
        }
        let stats = &mut *stats;
        if rows <= 0 {
            return;
        }
        stats.stats_valid = true;
        let share = present.len() as f64 / f64::from(rows);
        stats.stanullfrac = (1.0 - share) as f32;
        if present.is_empty() {
            return;
        }
        stats.stawidth = (width / present.len() as f64) as i32;
        // Equal embeddings of different photos are rare, so nearly all values that are not null are
        // distinct. A negative number is a fraction of the table's rows.
        stats.stadistinct = -share as f32;

        let wanted =
            (usize::try_from(stats.minrows).unwrap_or(0) / FETCHED_PER_SAMPLED).clamp(1, MAX_ROWS);
        let fetch = |index: usize| {
            delay_point();
            check_memory();
            let mut null = false;
            VectorArg::from_datum(fetch(stats, present[index], &mut null))
        };
        match sample(fetch, present.len(), wanted) {
            Ok(sample) => store(stats, &sample),
            Err(error) => error.report(PgLogLevel::ERROR),
        }
    }
}

/// Makes a sample of at most `wanted` of `count` values, which `fetch` returns by their numbers. Of
/// a value out of line, only the chunks with the prefix are read, unless the sample needs whole
/// vectors.
fn sample<'a>(
    mut fetch: impl FnMut(usize) -> VectorArg<'a>,
    count: usize,
    wanted: usize,
) -> Result<Vec<u8>, ErrorReport> {
    let dims: Result<Vec<usize>, _> = Pilot::positions(count).map(|i| fetch(i).dims()).collect();
    let mut pilot = Pilot::new(dims?);
    if let Some(pilot) = &mut pilot {
        for i in Pilot::positions(count) {
            let value = fetch(i);
            if pilot.takes(value.dims()?) {
                pilot.push(i, value.values()?.as_slice());
            }
        }
    }
    let mut sample = SampleBuilder::new(pilot.and_then(Pilot::finish));
    // The rows of ANALYZE are a random sample of the table, so evenly spaced ones are a random sample, too.
    let taken = count.min(wanted);
    for i in (0..taken).map(|i| i * count / taken) {
        let value = fetch(i);
        let values = if sample.needs_whole_vectors() {
            value.values()?
        } else {
            value.prefix(SAMPLE_DIMS)?
        };
        sample.push(i, values.dims(), values.as_slice());
    }
    Ok(sample.finish())
}

/// Stores the sample in the first slot, in the memory context that lives until ANALYZE has written
/// the statistics.
///
/// # Safety
/// `stats` is the struct that ANALYZE passed.
unsafe fn store(stats: &mut pg_sys::VacAttrStats, sample: &[u8]) {
    // SAFETY: ANALYZE guarantees that `anl_context` is valid, and `stavalues[0]` points to one
    // datum, as `numvalues[0]` says.
    unsafe {
        PgMemoryContexts::For(stats.anl_context).switch_to(|_| {
            let value = new_varlena(sample.len(), |data| data.copy_from_slice(sample));
            let values = pg_sys::palloc(size_of::<pg_sys::Datum>()).cast::<pg_sys::Datum>();
            values.write(value);
            stats.stavalues[0] = values;
        });
    }
    stats.stakind[0] = KIND;
    stats.numvalues[0] = 1;
    stats.statypid[0] = pg_sys::BYTEAOID;
    stats.statyplen[0] = -1;
    stats.statypbyval[0] = false;
    stats.statypalign[0] = pg_sys::TYPALIGN_INT as std::ffi::c_char;
}

/// Processes interrupts, and applies the cost-based vacuum delay.
fn delay_point() {
    // SAFETY: called between rows, while no buffer lock is held.
    unsafe { version::vacuum_delay_point(true) }
}

/// Identifies the result of one ANALYZE of one column: the column, and the TID and xmin of its row
/// in pg_statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatisticsVersion {
    column: (pg_sys::Oid, i16),
    tid: u64,
    xmin: pg_sys::TransactionId,
}

/// An expression in a query, with the statistics that Postgres has for it.
pub struct Variable(pg_sys::VariableStatData);

impl Variable {
    /// # Safety
    /// `node` is an expression in the query of `root`, which is being planned.
    pub unsafe fn examine(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Variable {
        let mut data = pg_sys::VariableStatData::default();
        // SAFETY: the caller guarantees an expression of the query that is being planned.
        unsafe { pg_sys::examine_variable(root, node, 0, &mut data) };
        Variable(data)
    }

    /// The relation that the expression belongs to, if it belongs to exactly one.
    pub fn relation(&self) -> Option<&pg_sys::RelOptInfo> {
        // SAFETY: `rel` is null or a RelOptInfo of the planner, which lives until planning has
        // finished.
        unsafe { self.0.rel.as_ref() }
    }

    /// The fraction of NULLs.
    pub fn null_fraction(&self) -> f64 {
        if self.0.statsTuple.is_null() {
            return 0.0;
        }
        // SAFETY: `statsTuple` is a pg_statistic row that the catalog cache keeps until `self` is
        // dropped.
        let form: &pg_sys::FormData_pg_statistic =
            unsafe { &*pg_sys::GETSTRUCT(self.0.statsTuple).cast() };
        f64::from(form.stanullfrac).clamp(0.0, 1.0)
    }

    /// Returns whether both expressions are the same column of the same table, which is the case if
    /// they share a row of pg_statistic.
    pub fn is_same_column(&self, other: &Variable) -> bool {
        !self.0.statsTuple.is_null() && self.0.statsTuple == other.0.statsTuple
    }

    /// The version of the statistics, or `None` if there are no statistics.
    pub fn version(&self) -> Option<StatisticsVersion> {
        if self.0.statsTuple.is_null() {
            return None;
        }
        // SAFETY: `statsTuple` is a pg_statistic row with its tuple header, which the catalog cache
        // keeps until `self` is dropped.
        unsafe {
            let tuple = &*self.0.statsTuple;
            let form: &pg_sys::FormData_pg_statistic =
                &*pg_sys::GETSTRUCT(self.0.statsTuple).cast();
            Some(StatisticsVersion {
                column: (form.starelid, form.staattnum),
                tid: pgrx::itemptr::item_pointer_to_u64(tuple.t_self),
                xmin: (*tuple.t_data).t_choice.t_heap.t_xmin,
            })
        }
    }

    /// Calls `f` with the sample. Returns `None` if there is no sample, or if the user may not read
    /// the whole column: EXPLAIN shows the estimate, so it would reveal whether hidden rows
    /// resemble a query. Postgres lets its own estimators use such statistics if the operator is
    /// leakproof. That is not sufficient here, because the user chooses the query.
    ///
    /// # Safety
    /// Called while the query is being planned.
    pub unsafe fn with_sample<R>(&mut self, f: impl FnOnce(Sample<'_>) -> Option<R>) -> Option<R> {
        // SAFETY: `statsTuple` is a pg_statistic row that the catalog cache keeps until `self` is
        // dropped. The array is read only after its element type has been checked.
        unsafe {
            let tuple = self.0.statsTuple;
            if tuple.is_null() || !self.0.acl_ok {
                return None;
            }
            // This is what get_attstatsslot does, without its copy of the values.
            let form: &pg_sys::FormData_pg_statistic = &*pg_sys::GETSTRUCT(tuple).cast();
            let slot = [
                form.stakind1,
                form.stakind2,
                form.stakind3,
                form.stakind4,
                form.stakind5,
            ]
            .iter()
            .position(|&kind| kind == KIND)?;
            let mut null = false;
            let stored = pg_sys::SysCacheGetAttr(
                pg_sys::SysCacheIdentifier::STATRELATTINH as i32,
                tuple,
                pg_sys::Anum_pg_statistic_stavalues1 as i16 + slot as i16,
                &mut null,
            );
            if null {
                return None;
            }
            let stored = stored.cast_mut_ptr::<pg_sys::varlena>();
            let array = pg_sys::pg_detoast_datum(stored);
            let sample = single_bytea(array.cast());
            let result = sample.and_then(Sample::parse).and_then(f);
            if array != stored {
                pg_sys::pfree(array.cast());
            }
            result
        }
    }
}

/// Returns the bytes of the only element of a `bytea` array, or `None` if the array has another
/// form.
///
/// # Safety
/// `array` is a detoasted array that outlives the result.
unsafe fn single_bytea<'a>(array: *mut pg_sys::ArrayType) -> Option<&'a [u8]> {
    // SAFETY: the caller guarantees a detoasted array. Its element type is checked first, and the
    // values that deconstruct_array returns point into the array.
    unsafe {
        if (*array).elemtype != pg_sys::BYTEAOID {
            return None;
        }
        let (mut values, mut nulls, mut count) = (null_mut(), null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            pg_sys::BYTEAOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let element = (count == 1 && !*nulls).then(|| (*values).cast_mut_ptr::<pg_sys::varlena>());
        let bytes = element
            .filter(|&value| !varlena::varatt_is_1b_e(value) && !varlena::varatt_is_4b_c(value));
        bytes.map(|value| varlena::varlena_to_byte_slice(value))
    }
}

impl Drop for Variable {
    fn drop(&mut self) {
        if let (false, Some(free)) = (self.0.statsTuple.is_null(), self.0.freefunc) {
            // SAFETY: this is what ReleaseVariableStats does. `examine_variable` has set `freefunc`
            // to the function that releases `statsTuple`.
            unsafe { free(self.0.statsTuple) }
        }
    }
}
