//! What ANALYZE keeps of a column of vectors, and how the planner gets at it.
//!
//! One slot of `pg_statistic` holds a [`Sample`]: up to 3,000 rows, the first 256 values of each at
//! 8 bits, in a `bytea`. At a share of 0.3% of the rows, 3,000 of them hold 9 matches on average,
//! and fewer than 3 once in 160 times.
//!
//! That is 774 kB on disk for vectors of 256 dimensions or more, and as much memory in each session
//! that plans with the column: the catalog cache reads it once after each ANALYZE. `selectivity.rs`
//! says how long that and an estimate take. ANALYZE reads no more than the sampled prefixes.
//!
//! For `=` and `<` only the number of distinct values is kept, not the commonest and a histogram,
//! as of every other type: nobody compares embeddings with constants so, and the values are large.

use std::ffi::c_int;
use std::ptr::null_mut;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys, varlena};

use crate::types::{VectorArg, new_varlena};
use crate::vector::{SAMPLE_DIMS, Sample, SampleBuilder};

/// The kind of our slot: 10,000 and above are left to private use (`pg_statistic.h`).
const KIND: i16 = 18_256;

/// Rows sampled for each unit of the statistics target, as Postgres does it for a histogram.
const ROWS_PER_TARGET: c_int = 300;

/// One of so many of those rows goes into the sample: 3,000 at the default target of 100.
const ONE_OF: usize = 10;

/// The most rows in a sample, whatever the target: it bounds the time that planning takes.
const MAX_ROWS: usize = 3_000;

/// `ANALYZE =` of the type: names the rows that are wanted and the function that looks at them.
#[pg_extern(sql = false)]
fn mrl_vector_typanalyze(stats: Internal) -> bool {
    // SAFETY: Postgres hands an analyze function a VacAttrStats.
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

/// The column's statistics target, the server's where it has none. (A target of 0 never comes so
/// far.)
fn target(stats: &pg_sys::VacAttrStats) -> c_int {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    // SAFETY: `attr` is the column's row of pg_attribute.
    #[allow(clippy::unnecessary_cast)] // an int2 since 16
    let own = unsafe { (*stats.attr).attstattarget } as c_int;
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    let own = stats.attstattarget;
    if own >= 0 {
        own
    } else {
        // SAFETY: a setting, read in the backend's only thread.
        unsafe { pg_sys::default_statistics_target }
    }
}

/// Fills `stats` from the sampled rows; called by ANALYZE in a context that it resets afterwards.
#[pg_guard]
unsafe extern "C-unwind" fn compute(
    stats: pg_sys::VacAttrStatsP,
    fetch: pg_sys::AnalyzeAttrFetchFunc,
    rows: c_int,
    _total_rows: f64,
) {
    let fetch = fetch.expect("ANALYZE gives a function to fetch values");
    // SAFETY: `stats` is valid during the call, and has `rows` rows for `fetch`.
    unsafe {
        // Rows come in the order of the table: every so many of them are as good a sample.
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
        // Two photos with one embedding are rare; a negative number scales with the table.
        stats.stadistinct = -share as f32;

        let wanted = (usize::try_from(stats.minrows).unwrap_or(0) / ONE_OF).clamp(1, MAX_ROWS);
        let taken = present.len().min(wanted);
        let mut sample = SampleBuilder::default();
        for i in 0..taken {
            delay_point();
            let mut null = false;
            let value = fetch(stats, present[i * present.len() / taken], &mut null);
            match push(&mut sample, VectorArg::from_datum(value)) {
                Ok(()) => {}
                Err(error) => error.report(PgLogLevel::ERROR),
            }
        }
        store(stats, &sample.finish());
    }
}

/// Adds a value's prefix: of one out of line, no more than that is read.
fn push(sample: &mut SampleBuilder, value: VectorArg<'_>) -> Result<(), ErrorReport> {
    let values = value.prefix(SAMPLE_DIMS)?;
    sample.push(values.dims(), values.as_slice());
    Ok(())
}

/// Puts the sample into the first slot, in memory that lives until ANALYZE has written it.
///
/// # Safety
/// `stats` is what ANALYZE gave.
unsafe fn store(stats: &mut pg_sys::VacAttrStats, sample: &[u8]) {
    // SAFETY: the context is ANALYZE's own, and the array has the one value that is claimed.
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

/// Lets ANALYZE be cancelled, and slows it down as it was told to.
fn delay_point() {
    // SAFETY: called between rows, with no lock held.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::vacuum_delay_point();
        #[cfg(feature = "pg18")]
        pg_sys::vacuum_delay_point(true);
    }
}

/// Tells the statistics of one ANALYZE from those of any other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Version {
    column: (pg_sys::Oid, i16),
    place: u64,
    made_by: pg_sys::TransactionId,
}

/// An expression in a query, with the statistics that Postgres has of it.
pub struct Variable(pg_sys::VariableStatData);

impl Variable {
    /// # Safety
    /// `node` is an expression in the query of `root`, which is being planned.
    pub unsafe fn examine(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Variable {
        let mut data = pg_sys::VariableStatData::default();
        // SAFETY: the caller's promise.
        unsafe { pg_sys::examine_variable(root, node, 0, &mut data) };
        Variable(data)
    }

    /// The relation that the expression is of, where it is of one.
    pub fn relation(&self) -> Option<&pg_sys::RelOptInfo> {
        // SAFETY: null, or the planner's own, which outlives this.
        unsafe { self.0.rel.as_ref() }
    }

    /// The share of NULLs.
    pub fn null_fraction(&self) -> f64 {
        if self.0.statsTuple.is_null() {
            return 0.0;
        }
        // SAFETY: a row of pg_statistic.
        let form: &pg_sys::FormData_pg_statistic =
            unsafe { &*pg_sys::GETSTRUCT(self.0.statsTuple).cast() };
        f64::from(form.stanullfrac).clamp(0.0, 1.0)
    }

    /// Whether both are the same column of the same table, by its statistics.
    pub fn is_same_column(&self, other: &Variable) -> bool {
        !self.0.statsTuple.is_null() && self.0.statsTuple == other.0.statsTuple
    }

    /// Which version of the statistics this is.
    pub fn version(&self) -> Option<Version> {
        if self.0.statsTuple.is_null() {
            return None;
        }
        // SAFETY: a row of pg_statistic, which the catalog cache keeps with its header.
        unsafe {
            let tuple = &*self.0.statsTuple;
            let form: &pg_sys::FormData_pg_statistic =
                &*pg_sys::GETSTRUCT(self.0.statsTuple).cast();
            Some(Version {
                column: (form.starelid, form.staattnum),
                place: pgrx::itemptr::item_pointer_to_u64(tuple.t_self),
                made_by: (*tuple.t_data).t_choice.t_heap.t_xmin,
            })
        }
    }

    /// Calls `f` with the sample. `None` where there is none, or where the user may not read all of
    /// the column: an estimate from hidden rows, which EXPLAIN shows, would tell whether they show
    /// a baby. That the operator is leakproof, for which Postgres lets its own estimators use such
    /// values, is not enough here: the user chooses the query.
    ///
    /// # Safety
    /// Called while the query is being planned.
    pub unsafe fn with_sample<R>(&mut self, f: impl FnOnce(Sample<'_>) -> Option<R>) -> Option<R> {
        // SAFETY: the row is one of pg_statistic, and stays in the cache as long as self; the
        // array is read only after a look at its type.
        unsafe {
            let tuple = self.0.statsTuple;
            if tuple.is_null() || !self.0.acl_ok {
                return None;
            }
            // As get_attstatsslot does it, but without its copy of the values.
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
            let sample = only_bytea(array.cast());
            let result = sample.and_then(Sample::parse).and_then(f);
            if array != stored {
                pg_sys::pfree(array.cast());
            }
            result
        }
    }
}

/// The bytes of an array of one `bytea`.
///
/// # Safety
/// `array` is an array, uncompressed in memory, that outlives what is returned.
unsafe fn only_bytea<'a>(array: *mut pg_sys::ArrayType) -> Option<&'a [u8]> {
    // SAFETY: the elements are of the type that they are taken for (checked first), and
    // deconstruct_array points into the array.
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
        let only = (count == 1 && !*nulls).then(|| (*values).cast_mut_ptr::<pg_sys::varlena>());
        let bytes = only
            .filter(|&value| !varlena::varatt_is_1b_e(value) && !varlena::varatt_is_4b_c(value));
        bytes.map(|value| varlena::varlena_to_byte_slice(value))
    }
}

impl Drop for Variable {
    fn drop(&mut self) {
        if let (false, Some(free)) = (self.0.statsTuple.is_null(), self.0.freefunc) {
            // SAFETY: what ReleaseVariableStats does.
            unsafe { free(self.0.statsTuple) }
        }
    }
}
