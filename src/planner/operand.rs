//! What is known, while a query is planned, of the vector that a filter compares with.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{FromDatum, PgList, is_a, pg_sys};

use crate::coarse::{Coarse, CoarseQuery, CoarseSettings};
use crate::types::{ProbeArg, VectorArg};

/// An expression is evaluated while planning where Postgres says that it costs no more than a few
/// texts to embed (in units of `cpu_operator_cost`), whose vectors the session keeps: execution
/// does not pay again. Pictures (ten times a text) are embedded only when the query runs.
const AFFORDABLE: f64 = 5e6;

/// The other side of a filter.
pub enum Operand {
    /// All is known.
    Known(CoarseQuery),
    /// NULL: nothing matches.
    Null,
    /// An expression for the vector, not known now, and what it is compared by.
    Vector(*mut pg_sys::Node, Level),
    Unknown,
}

/// Where threshold and prefix length come from.
#[derive(Clone, Copy)]
pub enum Level {
    Named(Coarse),
    /// A threshold for the similarity of whole vectors.
    Whole(f32),
    Settings,
}

impl Level {
    /// For vectors of `of` dimensions; `None` where the filter would be an error.
    pub fn resolve(self, of: usize) -> Option<Coarse> {
        let coarse = match self {
            Level::Named(coarse) => coarse,
            Level::Whole(threshold) => Coarse {
                threshold,
                dims: of,
            },
            // The error, where it is one, is the execution's to raise.
            Level::Settings => CoarseSettings::current().resolve(of).ok()?,
        };
        (1..=of).contains(&coarse.dims).then_some(coarse)
    }

    /// The threshold, where it stands in the query.
    pub fn threshold(self) -> Option<f32> {
        match self {
            Level::Named(coarse) => Some(coarse.threshold),
            Level::Whole(threshold) => Some(threshold),
            Level::Settings => None,
        }
    }
}

impl Operand {
    /// Looks at the right-hand side of `vector @~ vector` (or its left: they may change places).
    ///
    /// # Safety
    /// `node` is a vector expression in the query of `root`, which is being planned.
    pub unsafe fn of_vector(
        root: *mut pg_sys::PlannerInfo,
        node: *mut pg_sys::Node,
        level: Level,
    ) -> Operand {
        // SAFETY: the caller's promise; a constant of the type that the operator takes.
        unsafe {
            let node = evaluate(root, node);
            match constant(node) {
                Some(None) => Operand::Null,
                Some(Some(datum)) => coarse_query(VectorArg::from_datum(datum), level)
                    .ok()
                    .flatten()
                    .map_or(Operand::Unknown, Operand::Known),
                None => Operand::Vector(node, level),
            }
        }
    }

    /// Looks at the right-hand side of `vector @~ probe`.
    ///
    /// # Safety
    /// `node` is a probe expression in the query of `root`, which is being planned.
    pub unsafe fn of_probe(
        root: *mut pg_sys::PlannerInfo,
        node: *mut pg_sys::Node,
        vector_type: pg_sys::Oid,
    ) -> Operand {
        // SAFETY: as above.
        unsafe {
            let node = evaluate(root, node);
            match constant(node) {
                Some(None) => Operand::Null,
                Some(Some(datum)) => CoarseQuery::of_probe(ProbeArg::from_datum(datum))
                    .map_or(Operand::Unknown, Operand::Known),
                None => of_probe_call(root, node, vector_type),
            }
        }
    }
}

/// How many dimensions `vector operator right` compares, where that is known while planning.
///
/// # Safety
/// `clause` is an operator of the opclass of mrl indexes, with the column on its left, as it is or in
/// a RestrictInfo, in the query of `root`.
pub unsafe fn compared_dims(
    root: *mut pg_sys::PlannerInfo,
    clause: *mut pg_sys::Node,
) -> Option<usize> {
    // SAFETY: the caller's promise; cast after a look at the tag.
    unsafe {
        let clause = if is_a(clause, pg_sys::NodeTag::T_RestrictInfo) {
            (*clause.cast::<pg_sys::RestrictInfo>()).clause.cast()
        } else {
            clause
        };
        if !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let args = PgList::<pg_sys::Node>::from_pg((*clause.cast::<pg_sys::OpExpr>()).args);
        let (left, right) = (args.get_ptr(0)?, args.get_ptr(1)?);
        let vector_type = pg_sys::getBaseType(pg_sys::exprType(left));
        let query = if pg_sys::getBaseType(pg_sys::exprType(right)) == vector_type {
            Operand::of_vector(root, right, Level::Settings)
        } else {
            Operand::of_probe(root, right, vector_type)
        };
        match query {
            Operand::Known(query) => Some(query.prefix.len()),
            Operand::Vector(_, Level::Named(coarse)) => Some(coarse.dims),
            Operand::Vector(_, Level::Settings) => crate::guc::coarse_dims(),
            // All of them, however many.
            Operand::Vector(_, Level::Whole(_)) => None,
            Operand::Null | Operand::Unknown => None,
        }
    }
}

/// Looks into `mrl_probe(vector, threshold, dims)`, or `mrl_probe_at_least(vector, score)` and the
/// like, which could not be folded: the vector may be the column of a function or of a table.
///
/// # Safety
/// As [`Operand::of_probe`].
unsafe fn of_probe_call(
    root: *mut pg_sys::PlannerInfo,
    node: *mut pg_sys::Node,
    vector_type: pg_sys::Oid,
) -> Operand {
    // SAFETY: a call has a list of expressions; constants are read as what their type says.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            return Operand::Unknown;
        }
        let args = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::FuncExpr>()).args);
        if let (2, Some(vector), Some(score)) = (args.len(), args.get_ptr(0), args.get_ptr(1))
            && pg_sys::exprType(vector) == vector_type
            && pg_sys::exprType(score) == pg_sys::FLOAT8OID
        {
            return match constant(evaluate(root, score)) {
                Some(None) => Operand::Null,
                Some(Some(score)) => {
                    let score = f64::from_datum(score, false).unwrap_or(f64::NAN) as f32;
                    Operand::of_vector(root, vector, Level::Whole(score))
                }
                None => Operand::Unknown,
            };
        }
        let (3, Some(vector), Some(threshold), Some(dims)) = (
            args.len(),
            args.get_ptr(0),
            args.get_ptr(1),
            args.get_ptr(2),
        ) else {
            return Operand::Unknown;
        };
        if pg_sys::exprType(vector) != vector_type
            || pg_sys::exprType(threshold) != pg_sys::FLOAT8OID
            || pg_sys::exprType(dims) != pg_sys::INT4OID
        {
            return Operand::Unknown;
        }
        match (
            constant(evaluate(root, threshold)),
            constant(evaluate(root, dims)),
        ) {
            (Some(Some(threshold)), Some(Some(dims))) => {
                let threshold = f64::from_datum(threshold, false).map(|t| t as f32);
                let dims = i32::from_datum(dims, false).and_then(|d| usize::try_from(d).ok());
                match (threshold.filter(|t| !t.is_nan()), dims) {
                    (Some(threshold), Some(dims)) => {
                        let level = Level::Named(Coarse { threshold, dims });
                        Operand::of_vector(root, vector, level)
                    }
                    _ => Operand::Unknown,
                }
            }
            (Some(None), _) | (_, Some(None)) => Operand::Null,
            _ => Operand::Unknown,
        }
    }
}

/// `None` where the comparison would be an error.
fn coarse_query(vector: VectorArg<'_>, level: Level) -> Result<Option<CoarseQuery>, ErrorReport> {
    let of = vector.dims()?;
    match level.resolve(of) {
        Some(coarse) => CoarseQuery::under(vector, of, coarse).map(Some),
        None => Ok(None),
    }
}

/// The value of a constant, `None` inside for NULL.
///
/// # Safety
/// `node` is a node.
pub unsafe fn constant(node: *mut pg_sys::Node) -> Option<Option<pg_sys::Datum>> {
    // SAFETY: cast after a look at the tag.
    unsafe {
        is_a(node, pg_sys::NodeTag::T_Const).then(|| {
            let constant = &*node.cast::<pg_sys::Const>();
            (!constant.constisnull).then_some(constant.constvalue)
        })
    }
}

/// The expression with all evaluated that can be while planning, stable functions too.
///
/// # Safety
/// `node` is an expression in the query of `root`.
unsafe fn evaluate(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; Postgres evaluates a copy.
    unsafe {
        let node = source(root, node);
        if is_a(node, pg_sys::NodeTag::T_Const) {
            return node;
        }
        let mut cost = pg_sys::QualCost::default();
        pg_sys::cost_qual_eval_node(&mut cost, node, root);
        if cost.startup + cost.per_tuple > AFFORDABLE * pg_sys::cpu_operator_cost {
            return node;
        }
        pg_sys::estimate_expression_value(root, node)
    }
}

/// Where a value comes from: for the column of a function in FROM the call, for the value of a
/// subselect without a FROM what it selects, else the expression itself.
///
/// # Safety
/// `node` is an expression in the query of `root`.
unsafe fn source(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: nodes are cast after a look at their tags; the planner's arrays are read within the
    // bounds that it gives.
    unsafe {
        let found = if is_a(node, pg_sys::NodeTag::T_Var) {
            function_in_from(&*root, &*node.cast::<pg_sys::Var>())
        } else if is_a(node, pg_sys::NodeTag::T_Param) {
            subselect(&*root, &*node.cast::<pg_sys::Param>())
        } else {
            None
        };
        found.unwrap_or(node)
    }
}

/// `FROM photos, embed_text('a baby') AS q`: the call behind `q`. One that depends on another
/// table's row is not folded, and so is not known.
///
/// # Safety
/// `var` stands in the query of `root`.
unsafe fn function_in_from(
    root: &pg_sys::PlannerInfo,
    var: &pg_sys::Var,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the index is inside the array, whose entries are null or valid.
    unsafe {
        let entry = super::range_table_entry(root, var)?;
        if entry.rtekind != pg_sys::RTEKind::RTE_FUNCTION
            || entry.funcordinality
            || var.varattno != 1
        {
            return None;
        }
        let functions = PgList::<pg_sys::RangeTblFunction>::from_pg(entry.functions);
        let (1, Some(function)) = (functions.len(), functions.get_ptr(0)) else {
            return None;
        };
        let call = (*function).funcexpr;
        let scalar = (*function).funccolcount == 1
            && is_a(call, pg_sys::NodeTag::T_FuncExpr)
            && !(*call.cast::<pg_sys::FuncExpr>()).funcretset
            && pg_sys::exprType(call) == var.vartype;
        scalar.then_some(call)
    }
}

/// `(SELECT embed_text('a baby'))`: planned already, as a Result node that reads nothing.
///
/// # Safety
/// `param` stands in the query of `root`.
unsafe fn subselect(
    root: &pg_sys::PlannerInfo,
    param: &pg_sys::Param,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: lists of the planner, of the node types that it documents.
    unsafe {
        if param.paramkind != pg_sys::ParamKind::PARAM_EXEC {
            return None;
        }
        let plans = PgList::<pg_sys::SubPlan>::from_pg(root.init_plans);
        let plan = plans.iter_ptr().find(|&plan| {
            (*plan).subLinkType == pg_sys::SubLinkType::EXPR_SUBLINK
                && pg_sys::list_member_int((*plan).setParam, param.paramid)
        })?;
        let index = usize::try_from((*plan).plan_id - 1).ok()?;
        let plan = PgList::<pg_sys::Plan>::from_pg((*root.glob).subplans).get_ptr(index)?;
        if !is_a(plan.cast(), pg_sys::NodeTag::T_Result) || !(*plan).lefttree.is_null() {
            return None;
        }
        let filtered =
            !(*plan).qual.is_null() || !(*plan.cast::<pg_sys::Result>()).resconstantqual.is_null();
        let selected = PgList::<pg_sys::TargetEntry>::from_pg((*plan).targetlist);
        match (filtered, selected.len(), selected.get_ptr(0)) {
            (false, 1, Some(entry)) => Some((*entry).expr.cast()),
            _ => None,
        }
    }
}
