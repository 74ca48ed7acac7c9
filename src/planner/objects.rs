//! Lookup of the extension's own types, operators and functions in the system catalogs.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The extension's own objects, looked up in the schema of the function that is being planned. This
/// does not depend on `search_path`, and nothing is cached that DROP EXTENSION would make stale.
pub struct Objects {
    schema: pg_sys::Oid,
    pub vector: pg_sys::Oid,
    pub probe: pg_sys::Oid,
}

impl Objects {
    /// # Safety
    /// A transaction is running.
    pub unsafe fn of_function(function: pg_sys::Oid) -> Option<Objects> {
        // SAFETY: a syscache lookup requires a running transaction, which the caller guarantees.
        // The names are null-terminated.
        unsafe {
            let schema = pg_sys::get_func_namespace(function);
            Some(Objects {
                schema,
                vector: type_of(schema, c"mrl_vector")?,
                probe: type_of(schema, c"mrl_probe")?,
            })
        }
    }

    /// The type `mrl_score_bound`.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn score_bound(&self) -> Option<pg_sys::Oid> {
        // SAFETY: the caller guarantees a running transaction.
        unsafe { type_of(self.schema, c"mrl_score_bound") }
    }

    /// The operator `vector name right_type`.
    ///
    /// # Safety
    /// A transaction is running.
    unsafe fn operator(&self, name: &CStr, right_type: pg_sys::Oid) -> Option<pg_sys::Oid> {
        // SAFETY: a syscache lookup requires a running transaction, which the caller guarantees.
        // The name is null-terminated.
        unsafe {
            non_zero(pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::OPERNAMENSP as i32,
                pg_sys::Anum_pg_operator_oid as i16,
                pg_sys::Datum::from(name.as_ptr()),
                pg_sys::Datum::from(self.vector),
                pg_sys::Datum::from(right_type),
                pg_sys::Datum::from(self.schema),
            ))
        }
    }

    /// The condition `left name right`, where `left` is a vector. The type of `right` determines the
    /// operator.
    ///
    /// # Safety
    /// A transaction is running, and the expressions have these types.
    pub unsafe fn filter(
        &self,
        name: &CStr,
        left: *mut pg_sys::Expr,
        right: *mut pg_sys::Expr,
        location: i32,
    ) -> Option<*mut pg_sys::OpExpr> {
        // SAFETY: the caller guarantees expressions of the operator's types.
        unsafe {
            let operator = self.operator(name, pg_sys::exprType(right.cast()))?;
            let clause = operation(operator, pg_sys::BOOLOID, left, right);
            (*clause).location = location;
            Some(clause)
        }
    }

    /// The expression `left <~> right` of two vectors.
    ///
    /// # Safety
    /// A transaction is running, and the expressions are vectors.
    pub unsafe fn negative_score(
        &self,
        left: *mut pg_sys::Expr,
        right: *mut pg_sys::Expr,
    ) -> Option<*mut pg_sys::OpExpr> {
        // SAFETY: the caller guarantees expressions of the operator's types.
        unsafe {
            let operator = self.operator(c"<~>", self.vector)?;
            Some(operation(operator, pg_sys::FLOAT8OID, left, right))
        }
    }

    /// `mrl_probe(mrl_vector, double precision, dims)`, where the type `dims` is one of
    /// [`DIMS_TYPES`](super::operand::DIMS_TYPES).
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn probe_function(&self, dims: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let types = [self.vector, pg_sys::FLOAT8OID, dims];
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(c"mrl_probe", &types) }
    }

    /// `mrl_probe(mrl_vector)`, and its leakproof counterpart, `mrl_leakproof_probe(mrl_vector)`. A database whose
    /// extension is still of version 0.1.0 has neither.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn settings_probe_functions(&self) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
        // SAFETY: the caller guarantees a running transaction.
        unsafe {
            Some((
                self.function(c"mrl_probe", &[self.vector])?,
                self.function(c"mrl_leakproof_probe", &[self.vector])?,
            ))
        }
    }

    /// `mrl_score_bound(mrl_vector, text, double precision)`.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn score_bound_function(&self) -> Option<pg_sys::Oid> {
        let types = [self.vector, pg_sys::TEXTOID, pg_sys::FLOAT8OID];
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(c"mrl_score_bound", &types) }
    }

    /// Returns whether `function` is the extension's `name(mrl_vector, mrl_vector)`.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn compares_vectors(&self, name: &CStr, function: pg_sys::Oid) -> bool {
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(name, &[self.vector, self.vector]) == Some(function) }
    }

    /// `mrl_leakproof_probe` with the arguments of [`probe_function`](Self::probe_function).
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn leakproof_probe_function(&self, dims: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let types = [self.vector, pg_sys::FLOAT8OID, dims];
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(c"mrl_leakproof_probe", &types) }
    }

    /// The leakproof counterpart of an operator `@~` or `!@~` of the extension; `None` for any other
    /// operator.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn leakproof_operator(&self, operator: pg_sys::Oid) -> Option<pg_sys::Oid> {
        // SAFETY: the caller guarantees a running transaction.
        unsafe {
            for (name, leakproof) in [(c"@~", c"@~?"), (c"!@~", c"!@~?")] {
                for right in [self.vector, self.probe] {
                    if self.operator(name, right) == Some(operator) {
                        return self.operator(leakproof, right);
                    }
                }
            }
            None
        }
    }

    /// `mrl_probe_at_least(mrl_vector, double precision)`.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn probe_at_least_function(&self) -> Option<pg_sys::Oid> {
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(c"mrl_probe_at_least", &[self.vector, pg_sys::FLOAT8OID]) }
    }

    /// `mrl_probe_at_most(mrl_vector, double precision)`.
    ///
    /// # Safety
    /// A transaction is running.
    pub unsafe fn probe_at_most_function(&self) -> Option<pg_sys::Oid> {
        // SAFETY: the caller guarantees a running transaction.
        unsafe { self.function(c"mrl_probe_at_most", &[self.vector, pg_sys::FLOAT8OID]) }
    }

    /// # Safety
    /// A transaction is running.
    unsafe fn function(&self, name: &CStr, types: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
        // SAFETY: a syscache lookup requires a running transaction, which the caller guarantees.
        // `buildoidvector` copies the OIDs.
        unsafe {
            let types = pg_sys::buildoidvector(types.as_ptr(), types.len() as i32);
            non_zero(pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
                pg_sys::Anum_pg_proc_oid as i16,
                pg_sys::Datum::from(name.as_ptr()),
                pg_sys::Datum::from(types),
                pg_sys::Datum::from(self.schema),
                pg_sys::Datum::null(),
            ))
        }
    }
}

/// # Safety
/// A transaction is running, and the expressions have the types of the operator.
unsafe fn operation(
    operator: pg_sys::Oid,
    result: pg_sys::Oid,
    left: *mut pg_sys::Expr,
    right: *mut pg_sys::Expr,
) -> *mut pg_sys::OpExpr {
    // SAFETY: the caller guarantees the types; make_opclause returns an OpExpr.
    unsafe {
        let no_collation = pg_sys::InvalidOid;
        let node = pg_sys::make_opclause(
            operator,
            result,
            false,
            left,
            right,
            no_collation,
            no_collation,
        );
        let operation = node.cast::<pg_sys::OpExpr>();
        (*operation).opfuncid = pg_sys::get_opcode(operator);
        operation
    }
}

/// Returns whether a type is `mrl_vector`, in whichever schema the extension is.
///
/// # Safety
/// A transaction is running, and the type exists.
pub unsafe fn is_vector_type(of: pg_sys::Oid) -> bool {
    // SAFETY: the caller guarantees a running transaction and the type, whose row begins with the fields of
    // `FormData_pg_type`.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(of));
        if row.is_null() {
            return false;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_type>();
        let schema = form.typnamespace;
        pg_sys::ReleaseSysCache(row);
        type_of(schema, c"mrl_vector") == Some(of)
    }
}

/// # Safety
/// A transaction is running.
unsafe fn type_of(schema: pg_sys::Oid, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache lookup requires a running transaction, which the caller guarantees. The name
    // is null-terminated.
    unsafe {
        non_zero(pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        ))
    }
}

fn non_zero(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    (oid != pg_sys::InvalidOid).then_some(oid)
}
