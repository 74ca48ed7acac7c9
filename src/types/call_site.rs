//! State that a call site keeps from one row to the next. A call site is one function call or operator
//! in an expression that Postgres has prepared for execution.

use pgrx::{PgList, PgMemoryContexts, is_a, pg_sys};

/// The maximum length of an argument that is copied and compared byte by byte. A vector with the
/// maximum number of dimensions is shorter, and so is an array of as many numbers, except `numeric`s of
/// many digits. A longer argument is prepared again for every call.
const COMPARED_BYTES: usize = 256 * 1024;

/// A value that was prepared from an argument, kept until the argument changes.
///
/// Every call compares the argument with the last one by identifying bytes. It is not enough that
/// Postgres calls the argument stable (`get_fn_expr_arg_stable`): PL/pgSQL evaluates one
/// expression, with one call site, for many values of a variable.
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
    /// Returns the kept value if the argument has the same identity as the last one; otherwise
    /// calls `prepare` and keeps its result. An argument without an identity is always prepared
    /// again.
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

/// Returns the state of this call site; the first call creates it. The state lives as long as the
/// expression. Returns `None` if the function was called without an FmgrInfo.
///
/// # Safety
/// `fcinfo` is the current call's, and each SQL function uses only one type `T`.
pub unsafe fn call_site_state<'fcx, T: Default>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<&'fcx mut T> {
    // SAFETY: `flinfo` is null or valid during the call. `fn_extra` belongs to the called function,
    // which stores only a `T` in it (the caller guarantees that). `fn_mcxt` lives as long as
    // `flinfo`.
    unsafe {
        let flinfo = (*fcinfo).flinfo.as_mut()?;
        if flinfo.fn_extra.is_null() {
            let state = PgMemoryContexts::For(flinfo.fn_mcxt).leak_and_drop_on_delete(T::default());
            flinfo.fn_extra = state.cast();
        }
        Some(&mut *flinfo.fn_extra.cast())
    }
}

/// Returns which of two symmetric arguments is the query and which is the row. The first argument
/// is the query if only the first is stable in the plan; otherwise the second is. The result of the
/// function does not depend on this choice, only its speed does.
///
/// # Safety
/// `fcinfo` is the current call's.
pub unsafe fn first_argument_is_query(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the caller guarantees that `fcinfo` is valid. get_fn_expr_arg_stable accepts a null
    // flinfo and then returns false.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        pg_sys::get_fn_expr_arg_stable(flinfo, 0) && !pg_sys::get_fn_expr_arg_stable(flinfo, 1)
    }
}

/// Returns the argument expressions of the call that runs. The list is empty if something other than a
/// function call runs the function, an operator for instance.
///
/// # Safety
/// `fcinfo` is the current call's.
pub unsafe fn call_arguments(fcinfo: pg_sys::FunctionCallInfo) -> Vec<*mut pg_sys::Node> {
    // SAFETY: `flinfo` and `fn_expr` are null or valid during the call. The node is cast only after
    // its tag has been checked.
    unsafe {
        let call = (*fcinfo)
            .flinfo
            .as_ref()
            .map_or(std::ptr::null_mut(), |flinfo| flinfo.fn_expr);
        if call.is_null() || !is_a(call, pg_sys::NodeTag::T_FuncExpr) {
            return Vec::new();
        }
        let args = (*call.cast::<pg_sys::FuncExpr>()).args;
        PgList::<pg_sys::Node>::from_pg(args).iter_ptr().collect()
    }
}
