//! A cache at the call site of a function that embeds, so that constant arguments are embedded once
//! per statement.
//!
//! Postgres calls a function in WHERE or ORDER BY for every row, even if the function is stable. A
//! subselect avoids that, but ORMs write the call itself into WHERE and ORDER BY.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{is_a, pg_sys};
use sha2::{Digest, Sha256};

use crate::guc;
use crate::inference;
use crate::types::{
    MrlVector, RawVarlena, StoredVector, VectorDatum, call_arguments, call_site_state,
};

/// An argument of at most this length is compared by its bytes, a longer one by its hash, so that a
/// call site does not keep a copy of a picture.
const HASHED_ABOVE: usize = 4096;

/// Marks an argument that is NULL. The marker stands where the length of another argument would.
const NULL: u64 = u64::MAX;
/// Marks an argument that is a constant of the plan, and therefore the same in every call from one
/// call site.
const CONSTANT: u64 = u64::MAX - 1;

/// The state of a call site.
#[derive(Default)]
struct EmbedSite {
    /// For each argument, whether it is a constant of the plan. `None` before the first call.
    constants: Option<Vec<bool>>,
    /// The identity of the arguments from which `vector` was computed.
    last_identity: Vec<u8>,
    /// A buffer for the identity of the current call's arguments.
    identity: Vec<u8>,
    /// The counters of changes of the settings and of the model files when `vector` was computed.
    models: (u64, u64),
    vector: Option<StoredVector>,
}

/// Returns the embedding of `arguments`. If neither the arguments nor the models have changed since
/// the last call from this call site, it returns the kept vector. Otherwise `make` computes a new one.
pub fn embed_once(
    fcinfo: pg_sys::FunctionCallInfo,
    arguments: &[Option<RawVarlena<'_>>],
    make: impl FnOnce() -> Result<MrlVector, ErrorReport>,
) -> Result<VectorDatum, ErrorReport> {
    let mut temporary = EmbedSite::default();
    // SAFETY: `fcinfo` is the current call's, and the SQL functions that call this one keep no
    // other state.
    let site: &mut EmbedSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let models = (guc::model_generation(), inference::generation());
    let constants = site.constants.get_or_insert_with(|| {
        // SAFETY: `fcinfo` is the current call's.
        let call = unsafe { call_arguments(fcinfo) };
        call.into_iter()
            // SAFETY: the argument is an expression node of the call that is being executed.
            .map(|argument| unsafe { is_a(argument, pg_sys::NodeTag::T_Const) })
            .collect()
    });
    let has_identity = identify(arguments, constants, &mut site.identity);
    if has_identity
        && models == site.models
        && site.identity == site.last_identity
        && let Some(vector) = &site.vector
    {
        return Ok(vector.to_datum());
    }
    // If `make` returns an error, no vector is kept.
    site.vector = None;
    let vector = StoredVector::from(make()?);
    let datum = vector.to_datum();
    if has_identity {
        std::mem::swap(&mut site.last_identity, &mut site.identity);
        site.models = models;
        site.vector = Some(vector);
    }
    Ok(datum)
}

/// Writes an identity of the arguments to `identity`: for each of them its length and its bytes (a hash of
/// them if they are many), or only a marker for NULL and for a constant. The bytes are those of
/// [`RawVarlena::identity`]. Returns false if an argument has no identity, because it is an in-memory
/// value that may change.
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
        if bytes.len() <= HASHED_ABOVE {
            identity.extend_from_slice(bytes);
        } else {
            identity.extend_from_slice(&Sha256::digest(bytes));
        }
    }
    true
}
