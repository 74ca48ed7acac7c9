//! The operators of the operator class, and its validation.

use pgrx::pg_sys;
use pgrx::prelude::*;

/// The operators of the operator class, in the order of their strategy numbers.
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
    /// `mrl_vector @~? mrl_vector`
    MayMatch,
    /// `mrl_vector @~? mrl_probe`
    MayMatchProbe,
    /// `mrl_vector !@~? mrl_vector`
    MayMismatch,
    /// `mrl_vector !@~? mrl_probe`
    MayMismatchProbe,
}

impl Strategy {
    pub const ALL: [Strategy; 8] = [
        Strategy::Match,
        Strategy::MatchProbe,
        Strategy::Mismatch,
        Strategy::MismatchProbe,
        Strategy::MayMatch,
        Strategy::MayMatchProbe,
        Strategy::MayMismatch,
        Strategy::MayMismatchProbe,
    ];

    pub fn from_number(number: pg_sys::StrategyNumber) -> Option<Strategy> {
        let index = usize::from(number).checked_sub(1)?;
        Strategy::ALL.get(index).copied()
    }

    pub fn takes_probe(self) -> bool {
        matches!(
            self,
            Strategy::MatchProbe
                | Strategy::MismatchProbe
                | Strategy::MayMatchProbe
                | Strategy::MayMismatchProbe
        )
    }

    pub fn is_negated(self) -> bool {
        matches!(
            self,
            Strategy::Mismatch
                | Strategy::MismatchProbe
                | Strategy::MayMismatch
                | Strategy::MayMismatchProbe
        )
    }
}

/// Callback of the SQL function `amvalidate`: returns whether an operator class has an operator for
/// each strategy, with the operator class's input type on the left.
#[pg_guard]
pub unsafe extern "C-unwind" fn amvalidate(opclass: pg_sys::Oid) -> bool {
    // SAFETY: Postgres calls this in a transaction, which catalog lookups require.
    unsafe {
        let input = pg_sys::get_opclass_input_type(opclass);
        let family = pg_sys::get_opclass_family(opclass);
        Strategy::ALL.into_iter().enumerate().all(|(i, strategy)| {
            let number = i as i16 + 1;
            // Each strategy has an operator for one right-hand type only.
            let right = if strategy.takes_probe() {
                probe_type(input)
            } else {
                input
            };
            let operator = pg_sys::get_opfamily_member(family, input, right, number);
            let is_valid = operator != pg_sys::InvalidOid
                && pg_sys::get_op_rettype(operator) == pg_sys::BOOLOID;
            if !is_valid {
                pgrx::info!("operator class {opclass} of access method mrl lacks an operator for strategy {number}");
            }
            is_valid
        })
    }
}

/// The type `mrl_probe` in the schema of `mrl_vector`.
///
/// # Safety
/// A transaction is running.
unsafe fn probe_type(vector: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog lookups require a running transaction, which the caller guarantees. The
    // pg_type row is read before it is released.
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
