//! Recognises conditions on the similarity of two vectors in a query.

use pgrx::{PgList, is_a, pg_sys};

use super::nodes::{call, float8_const, to_float8};
use crate::index::operands::{Similarity, operator_of, similarity_of};
use crate::types::ScoreBoundArg;
use crate::vector::{CompareOp, Measure};

/// A condition `similarity op value`, such as `fine_score(e, q) >= 0.35`.
pub struct SimilarityCondition {
    pub similarity: Similarity,
    pub op: CompareOp,
    /// The number that the similarity is compared with: an expression of type float8.
    pub value: *mut pg_sys::Node,
}

impl SimilarityCondition {
    /// Whether vectors with a higher score satisfy the condition, rather than those with a lower one.
    pub fn sets_minimum(&self) -> bool {
        let is_distance = self.similarity.measure == Measure::Distance;
        matches!(self.op, CompareOp::AtLeast | CompareOp::Above) != is_distance
    }

    /// The lowest or highest score that satisfies the condition, up to rounding.
    ///
    /// # Safety
    /// `value` is an expression of type float8.
    pub unsafe fn score_limit(&self) -> *mut pg_sys::Node {
        if self.similarity.measure != Measure::Distance {
            return self.value;
        }
        let mut args = PgList::<pg_sys::Node>::new();
        args.push(float8_const(1.0));
        args.push(self.value);
        let function = pg_sys::Oid::from(pg_sys::F_FLOAT8MI);
        // SAFETY: the function subtracts one float8 from another.
        unsafe { call(function, pg_sys::FLOAT8OID, args) }
    }
}

/// Recognises a condition on the similarity of two vectors.
///
/// # Safety
/// `node` is a condition.
pub unsafe fn similarity_condition_of(node: *mut pg_sys::Node) -> Option<SimilarityCondition> {
    // SAFETY: the caller guarantees a node of the query, whose lists have the element types that
    // `nodes/primnodes.h` documents.
    unsafe {
        let (function, [left, right]) = operator_of(node)?;
        let op = match function.to_u32() {
            pg_sys::F_FLOAT8GE | pg_sys::F_FLOAT84GE | pg_sys::F_FLOAT48GE => CompareOp::AtLeast,
            pg_sys::F_FLOAT8GT | pg_sys::F_FLOAT84GT | pg_sys::F_FLOAT48GT => CompareOp::Above,
            pg_sys::F_FLOAT8LE | pg_sys::F_FLOAT84LE | pg_sys::F_FLOAT48LE => CompareOp::AtMost,
            pg_sys::F_FLOAT8LT | pg_sys::F_FLOAT84LT | pg_sys::F_FLOAT48LT => CompareOp::Below,
            _ => return None,
        };
        let (similarity, op, value) = match similarity_of(left) {
            Some(similarity) => (similarity, op, right),
            None => (similarity_of(right)?, op.commuted(), left),
        };
        Some(SimilarityCondition {
            similarity,
            op,
            value: to_float8(value),
        })
    }
}

/// Returns whether an operand is a constant whose query vector has another number of dimensions than
/// `typmod`, the type modifier of the indexed expression.
///
/// # Safety
/// `operand` is an expression of type mrl_score_bound.
pub unsafe fn has_other_dims(operand: *mut pg_sys::Node, typmod: i32) -> bool {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        if !is_a(operand, pg_sys::NodeTag::T_Const) {
            return false;
        }
        let constant = &*operand.cast::<pg_sys::Const>();
        !constant.constisnull
            && ScoreBoundArg::from_datum(constant.constvalue)
                .bound()
                .is_ok_and(|bound| usize::try_from(typmod).is_ok_and(|n| n != bound.values.len()))
    }
}
