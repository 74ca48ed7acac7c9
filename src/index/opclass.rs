//! The operators of the operator class, and what makes one complete.

use pgrx::pg_sys;
use pgrx::prelude::*;

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

/// `amvalidate` of SQL: whether an opclass has what the access method needs, each strategy's
/// operator on the opclass' own type.
#[pg_guard]
pub unsafe extern "C-unwind" fn amvalidate(opclass: pg_sys::Oid) -> bool {
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
