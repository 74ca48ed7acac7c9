//! The operators of the operator class, and its validation.

use std::ffi::CStr;

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
    /// `mrl_vector @~? mrl_vector`. The operators with `?` are the leakproof counterparts of those without: they
    /// are true for vectors that cannot be compared, and raise no error.
    MayMatch,
    /// `mrl_vector @~? mrl_probe`
    MayMatchProbe,
    /// `mrl_vector !@~? mrl_vector`
    MayMismatch,
    /// `mrl_vector !@~? mrl_probe`
    MayMismatchProbe,
    /// `mrl_vector @<=> mrl_score_bound`: a condition on the similarity over all dimensions
    ScoreWithin,
    /// `mrl_vector <=> mrl_vector`, which orders rows.
    Distance,
    /// `mrl_vector <~> mrl_vector`, which orders rows.
    NegativeScore,
}

impl Strategy {
    pub const ALL: [Strategy; 11] = [
        Strategy::Match,
        Strategy::MatchProbe,
        Strategy::Mismatch,
        Strategy::MismatchProbe,
        Strategy::MayMatch,
        Strategy::MayMatchProbe,
        Strategy::MayMismatch,
        Strategy::MayMismatchProbe,
        Strategy::ScoreWithin,
        Strategy::Distance,
        Strategy::NegativeScore,
    ];

    pub fn from_number(number: pg_sys::StrategyNumber) -> Option<Strategy> {
        let index = usize::from(number).checked_sub(1)?;
        Strategy::ALL.get(index).copied()
    }

    /// The name of the type of the right operand, if it is not that of the left one.
    pub fn right_type(self) -> Option<&'static CStr> {
        match self {
            Strategy::MatchProbe
            | Strategy::MismatchProbe
            | Strategy::MayMatchProbe
            | Strategy::MayMismatchProbe => Some(c"mrl_probe"),
            Strategy::ScoreWithin => Some(c"mrl_score_bound"),
            _ => None,
        }
    }

    /// Whether the operator orders rows by its result, instead of selecting them.
    pub fn is_ordering(self) -> bool {
        matches!(self, Strategy::Distance | Strategy::NegativeScore)
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
/// each strategy, with the operator class's input type on the left and the strategy's result type.
#[pg_guard]
pub unsafe extern "C-unwind" fn amvalidate(opclass: pg_sys::Oid) -> bool {
    // SAFETY: Postgres calls this in a transaction, which catalog lookups require.
    unsafe {
        let input = pg_sys::get_opclass_input_type(opclass);
        let family = pg_sys::get_opclass_family(opclass);
        Strategy::ALL.into_iter().enumerate().all(|(i, strategy)| {
            let number = i as i16 + 1;
            // Each strategy has an operator for one right-hand type only.
            let right = match strategy.right_type() {
                Some(name) => type_beside(input, name),
                None => input,
            };
            let operator = pg_sys::get_opfamily_member(family, input, right, number);
            let result = if strategy.is_ordering() {
                pg_sys::FLOAT8OID
            } else {
                pg_sys::BOOLOID
            };
            let is_valid =
                operator != pg_sys::InvalidOid && pg_sys::get_op_rettype(operator) == result;
            if !is_valid {
                pgrx::info!("operator class {opclass} of access method mrl lacks an operator for strategy {number}");
            }
            is_valid
        })
    }
}

/// The type with this name in the schema of `mrl_vector`.
///
/// # Safety
/// A transaction is running.
unsafe fn type_beside(vector: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
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
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(namespace),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        )
    }
}
