//! What Postgres has to know of the access method.

use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{Internal, pg_sys};

use super::{build, cost, insert, scan, vacuum};
use crate::sweep::MAX_PREFIX_DIMS;

/// The operators of the opclass, by strategy number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// `mrl_vector @~ mrl_vector`
    Match,
    /// `mrl_vector @~ mrl_probe`
    MatchProbe,
    /// `mrl_vector !@~ mrl_vector`
    Mismatch,
    /// `mrl_vector !@~ mrl_probe`
    MismatchProbe,
}

impl Strategy {
    pub const ALL: [Strategy; 4] = [
        Strategy::Match,
        Strategy::MatchProbe,
        Strategy::Mismatch,
        Strategy::MismatchProbe,
    ];

    pub fn from_number(number: pg_sys::StrategyNumber) -> Option<Strategy> {
        let index = usize::from(number).checked_sub(1)?;
        Strategy::ALL.get(index).copied()
    }

    pub fn takes_probe(self) -> bool {
        matches!(self, Strategy::MatchProbe | Strategy::MismatchProbe)
    }

    pub fn is_negated(self) -> bool {
        matches!(self, Strategy::Mismatch | Strategy::MismatchProbe)
    }
}

/// `mrl_handler(internal) returns index_am_handler`. Postgres calls it without an argument; the
/// declared one keeps it from being called in SQL.
#[pg_extern(sql = false)]
fn mrl_handler() -> Internal {
    // SAFETY: the node is zeroed, and each field is then what `access/amapi.h` says; a field that is
    // left null or false means that we can't do what it is for.
    unsafe {
        let mut am = PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine);
        am.amstrategies = Strategy::ALL.len() as u16;
        am.amcanparallel = true;
        am.amparallelvacuumoptions = (pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL
            | pg_sys::VACUUM_OPTION_PARALLEL_COND_CLEANUP)
            as u8;
        am.amkeytype = pg_sys::InvalidOid;

        am.ambuild = Some(build::ambuild);
        am.ambuildempty = Some(build::ambuildempty);
        am.aminsert = Some(insert::aminsert);
        am.ambulkdelete = Some(vacuum::ambulkdelete);
        am.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
        am.amcostestimate = Some(cost::amcostestimate);
        am.amoptions = Some(amoptions);
        am.amvalidate = Some(amvalidate);
        am.ambeginscan = Some(scan::ambeginscan);
        am.amrescan = Some(scan::amrescan);
        am.amgettuple = Some(scan::amgettuple);
        am.amgetbitmap = Some(scan::amgetbitmap);
        am.amendscan = Some(scan::amendscan);
        am.amestimateparallelscan = Some(scan::amestimateparallelscan);
        am.aminitparallelscan = Some(scan::aminitparallelscan);
        am.amparallelrescan = Some(scan::amparallelrescan);
        Internal::from(Some(pg_sys::Datum::from(am.into_pg())))
    }
}

/// Storage parameters as Postgres lays them out (`access/reloptions.h`).
#[repr(C)]
pub struct Options {
    vl_len: i32,
    prefix_dims: i32,
}

/// The value that stands for "not given".
const NOT_GIVEN: i32 = 0;

static OPTIONS: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register_options() {
    // SAFETY: as `_PG_init` of Postgres' own bloom does it; the strings are copied.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        pg_sys::add_int_reloption(
            kind,
            c"prefix_dims".as_ptr(),
            c"how many leading dimensions the index keeps".as_ptr(),
            NOT_GIVEN,
            1,
            MAX_PREFIX_DIMS as i32,
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        // A library is loaded once.
        let _ = OPTIONS.set(kind);
    }
}

impl Options {
    /// `prefix_dims`, where the index was made with it.
    ///
    /// # Safety
    /// `index` is an open index of this access method.
    pub unsafe fn prefix_dims(index: pg_sys::Relation) -> Option<usize> {
        // SAFETY: `rd_options` is null or what `amoptions` made.
        let options = unsafe { (*index).rd_options.cast::<Options>().as_ref()? };
        (options.prefix_dims != NOT_GIVEN).then_some(options.prefix_dims as usize)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let Some(kind) = OPTIONS.get() else {
        return std::ptr::null_mut();
    };
    // SAFETY: zeroed is a valid value of a C struct of numbers and pointers.
    let mut element: pg_sys::relopt_parse_elt = unsafe { std::mem::zeroed() };
    element.optname = c"prefix_dims".as_ptr();
    element.opttype = pg_sys::relopt_type::RELOPT_TYPE_INT;
    element.offset = std::mem::offset_of!(Options, prefix_dims) as i32;
    // SAFETY: one element, for a struct of this size.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            *kind,
            size_of::<Options>(),
            &element,
            1,
        )
        .cast()
    }
}

/// `amvalidate` of SQL: whether an opclass has what the access method needs, each strategy's
/// operator on the opclass' own type.
#[pg_guard]
unsafe extern "C-unwind" fn amvalidate(opclass: pg_sys::Oid) -> bool {
    // SAFETY: reads the system catalogs.
    unsafe {
        let input = pg_sys::get_opclass_input_type(opclass);
        let family = pg_sys::get_opclass_family(opclass);
        Strategy::ALL.into_iter().enumerate().all(|(i, strategy)| {
            let number = i as i16 + 1;
            // The right-hand type of the operator of a strategy is the only one it has.
            let right = if strategy.takes_probe() {
                probe_type(input)
            } else {
                input
            };
            let operator = pg_sys::get_opfamily_member(family, input, right, number);
            let complete = operator != pg_sys::InvalidOid
                && pg_sys::get_op_rettype(operator) == pg_sys::BOOLOID;
            if !complete {
                pgrx::info!("operator class {opclass} of access method mrl lacks an operator for strategy {number}");
            }
            complete
        })
    }
}

/// `mrl_probe`, found beside `mrl_vector`.
///
/// # Safety
/// Called in a transaction.
unsafe fn probe_type(vector: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: reads the system catalogs.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::TYPEOID as i32,
            pg_sys::Datum::from(vector),
        );
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let namespace = form.typnamespace;
        pg_sys::ReleaseSysCache(tuple);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"mrl_probe".as_ptr()),
            pg_sys::Datum::from(namespace),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        )
    }
}
