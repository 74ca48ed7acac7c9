//! What one call site of a function (one expression in one running query) keeps between rows.

use pgrx::{PgMemoryContexts, pg_sys};

/// The bytes of an argument are compared, and copied, up to this length: those of a vector of the
/// most dimensions, or of an array of as many numbers. A longer one is prepared anew each time.
const COMPARED_BYTES: usize = 256 * 1024;

/// Something made from an argument, kept until the argument changes.
///
/// The argument is compared on every call, by the bytes that stand for it. Postgres' own word that
/// it is stable (`get_fn_expr_arg_stable`) is not enough: PL/pgSQL evaluates one expression, with
/// one call site, for many values of a variable.
pub struct Prepared<T> {
    identity: Vec<u8>,
    value: Option<T>,
}

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Prepared {
            identity: Vec::new(),
            value: None,
        }
    }
}

impl<T> Prepared<T> {
    /// The value for an argument with this identity: kept, or made by `prepare`. An argument
    /// without an identity is prepared anew.
    pub fn get<E>(
        &mut self,
        identity: Option<&[u8]>,
        prepare: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        let identity = identity.filter(|identity| identity.len() <= COMPARED_BYTES);
        let kept = self
            .value
            .take()
            .filter(|_| identity == Some(self.identity.as_slice()));
        let value = match kept {
            Some(value) => value,
            None => {
                let value = prepare()?;
                self.identity.clear();
                self.identity
                    .extend_from_slice(identity.unwrap_or_default());
                value
            }
        };
        Ok(self.value.insert(value))
    }
}

/// The state that this call site kept, or a new one: it lives as long as the expression. `None`
/// where Postgres calls the function without a call site.
///
/// # Safety
/// `fcinfo` is the current call's, and a function keeps only one type of state.
pub unsafe fn call_site_state<'fcx, T: Default>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<&'fcx mut T> {
    // SAFETY: `flinfo` is null or valid during the call; `fn_extra` is the function's own, and
    // `fn_mcxt` lives as long as `flinfo`.
    unsafe {
        let flinfo = (*fcinfo).flinfo.as_mut()?;
        if flinfo.fn_extra.is_null() {
            let state = PgMemoryContexts::For(flinfo.fn_mcxt).leak_and_drop_on_delete(T::default());
            flinfo.fn_extra = state.cast();
        }
        Some(&mut *flinfo.fn_extra.cast())
    }
}

/// Which of two symmetric arguments is the query, and which the row: the one that the plan calls
/// constant is the query, else the second. Only the speed depends on it.
///
/// # Safety
/// `fcinfo` is the current call's.
pub unsafe fn first_argument_is_query(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: Postgres accepts a null flinfo here, and finds no expression then.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        pg_sys::get_fn_expr_arg_stable(flinfo, 0) && !pg_sys::get_fn_expr_arg_stable(flinfo, 1)
    }
}
