//! Makes the nodes of the conditions that are added to a query.

use pgrx::{IntoDatum, PgList, pg_sys};

/// Casts an expression of type float4 to float8, which changes no value.
///
/// # Safety
/// `node` is an expression of type float8 or float4.
pub unsafe fn to_float8(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees one of two types, and the cast takes a float4.
    unsafe {
        if pg_sys::exprType(node) == pg_sys::FLOAT8OID {
            return node;
        }
        let mut args = PgList::<pg_sys::Node>::new();
        args.push(node);
        let function = pg_sys::Oid::from(pg_sys::F_FLOAT8_FLOAT4);
        call(function, pg_sys::FLOAT8OID, args)
    }
}

/// # Safety
/// The arguments are those of the function, which returns the type.
pub unsafe fn call(
    function: pg_sys::Oid,
    result: pg_sys::Oid,
    args: PgList<pg_sys::Node>,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::makeFuncExpr(
            function,
            result,
            args.into_pg(),
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        )
        .cast()
    }
}

pub fn text_const(value: &str) -> Option<*mut pg_sys::Node> {
    let datum = value.into_datum()?;
    // SAFETY: a text is a varlena, passed by reference.
    let constant = unsafe {
        let collation = pg_sys::DEFAULT_COLLATION_OID;
        pg_sys::makeConst(pg_sys::TEXTOID, -1, collation, -1, datum, false, false)
    };
    Some(constant.cast())
}

pub fn float8_const(value: f64) -> *mut pg_sys::Node {
    let datum = value.into_datum().unwrap_or(pg_sys::Datum::null());
    // SAFETY: a float8 is passed by value in every build that pgrx supports (64 bits).
    unsafe {
        pg_sys::makeConst(
            pg_sys::FLOAT8OID,
            -1,
            pg_sys::InvalidOid,
            8,
            datum,
            false,
            true,
        )
        .cast()
    }
}

/// # Safety
/// `node` is an expression.
pub unsafe fn copy(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}
