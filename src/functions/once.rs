//! Once a statement: what a function keeps at its call site that makes a vector from constants.
//!
//! A function in WHERE or ORDER BY is called for every row, however stable it is, and an ORM can
//! write no other form.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{is_a, pg_sys};
use sha2::{Digest, Sha256};

use crate::guc;
use crate::inference;
use crate::types::{
    MrlVector, RawVarlena, StoredVector, VectorDatum, call_arguments, call_site_state,
};

/// An argument of up to so many bytes is compared by its bytes, a longer one by its hash: a call
/// site does not keep a copy of a picture.
const COMPARED_BYTES: usize = 4096;

/// Stands for an argument that is NULL, in place of its length.
const NULL: u64 = u64::MAX;
/// Stands for an argument that is a constant of the plan: the same in every call from a call site.
const CONSTANT: u64 = u64::MAX - 1;

/// What a call site keeps.
#[derive(Default)]
struct Site {
    /// Which arguments are constants of the plan; none before the first call.
    constants: Option<Vec<bool>>,
    /// Stands for the arguments of the last call.
    asked: Vec<u8>,
    /// Room for those of this call.
    asking: Vec<u8>,
    /// What else the vector depends on: which model a name stands for, and its files.
    models: (u64, u64),
    vector: Option<StoredVector>,
}

/// The vector of `arguments`: the one of the last call from here, where nothing has changed since,
/// else what `make` makes.
pub fn once(
    fcinfo: pg_sys::FunctionCallInfo,
    arguments: &[Option<RawVarlena<'_>>],
    make: impl FnOnce() -> Result<MrlVector, ErrorReport>,
) -> Result<VectorDatum, ErrorReport> {
    let mut own = Site::default();
    // SAFETY: this call's fcinfo; functions that call this keep nothing else.
    let site: &mut Site = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut own);
    let models = (guc::model_generation(), inference::generation());
    let constants = site.constants.get_or_insert_with(|| {
        // SAFETY: this call's fcinfo.
        let call = unsafe { call_arguments(fcinfo) };
        call.into_iter()
            // SAFETY: an expression of the call that is being executed.
            .map(|argument| unsafe { is_a(argument, pg_sys::NodeTag::T_Const) })
            .collect()
    });
    let is_known = identify(arguments, constants, &mut site.asking);
    if is_known
        && models == site.models
        && site.asking == site.asked
        && let Some(vector) = &site.vector
    {
        return Ok(vector.to_datum());
    }
    // Should `make` end in an error, nothing is kept.
    site.vector = None;
    let vector = StoredVector::from(make()?);
    let answer = vector.to_datum();
    if is_known {
        std::mem::swap(&mut site.asked, &mut site.asking);
        site.models = models;
        site.vector = Some(vector);
    }
    Ok(answer)
}

/// Writes bytes that stand for the arguments, each behind its length. False where one lies in
/// memory that may change under its address.
fn identify(
    arguments: &[Option<RawVarlena<'_>>],
    constants: &[bool],
    identity: &mut Vec<u8>,
) -> bool {
    identity.clear();
    for (index, argument) in arguments.iter().enumerate() {
        let Some(argument) = argument else {
            identity.extend_from_slice(&NULL.to_ne_bytes());
            continue;
        };
        if constants.get(index) == Some(&true) {
            identity.extend_from_slice(&CONSTANT.to_ne_bytes());
            continue;
        }
        let Some(bytes) = argument.identity(usize::MAX) else {
            return false;
        };
        identity.extend_from_slice(&(bytes.len() as u64).to_ne_bytes());
        if bytes.len() <= COMPARED_BYTES {
            identity.extend_from_slice(bytes);
        } else {
            identity.extend_from_slice(&Sha256::digest(bytes));
        }
    }
    true
}
