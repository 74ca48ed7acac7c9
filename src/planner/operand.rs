//! What the planner can find out about the query operand of a filter before execution.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{FromDatum, PgList, is_a, pg_sys};

use super::objects::Objects;
use crate::coarse::{CoarseParams, CoarseQuery, CoarseSettings};
use crate::types::{ProbeArg, ScoreBoundArg, VectorArg, condition_of_name};
use crate::vector::ScoreCondition;

/// The maximum cost, in units of `cpu_operator_cost`, of an expression that is evaluated while
/// planning. It allows for embedding a few texts, at 1e6 each (`sql/embed.sql`). The session caches
/// their vectors, so execution does not embed them again. Embedding a picture costs 1e7, so it happens
/// only at execution.
const MAX_PLANNING_COST: f64 = 5e6;

/// The query operand of a filter, as far as the planner knows it.
pub enum Operand {
    /// The value is known.
    Known(CoarseQuery),
    /// The value is NULL, so no row matches.
    Null,
    /// An expression for the query vector, whose value is not known yet, and the source of
    /// threshold and prefix length.
    Vector(*mut pg_sys::Node, ParamSource),
    Unknown,
}

/// Where threshold and prefix length come from.
#[derive(Clone, Copy)]
pub enum ParamSource {
    Explicit(CoarseParams),
    /// A threshold for the similarity of whole vectors.
    Whole(f32),
    Settings,
}

impl ParamSource {
    /// Returns the parameters for vectors of `query_dims` dimensions, or `None` if evaluating the
    /// filter would be an error.
    pub fn resolve(self, query_dims: usize) -> Option<CoarseParams> {
        let params = match self {
            ParamSource::Explicit(params) => params,
            ParamSource::Whole(threshold) => CoarseParams {
                threshold,
                dims: query_dims,
            },
            // If the settings cannot be resolved, execution raises the error.
            ParamSource::Settings => CoarseSettings::current().resolve(query_dims).ok()?,
        };
        (1..=query_dims).contains(&params.dims).then_some(params)
    }

    /// The threshold, if the query contains it.
    pub fn threshold(self) -> Option<f32> {
        match self {
            ParamSource::Explicit(params) => Some(params.threshold),
            ParamSource::Whole(threshold) => Some(threshold),
            ParamSource::Settings => None,
        }
    }
}

impl Operand {
    /// Examines the right operand of `vector @~ vector`, or the left one, because the operator
    /// commutes.
    ///
    /// # Safety
    /// `node` is an expression of type mrl_vector in the query of `root`, which is being planned.
    pub unsafe fn from_vector(
        root: *mut pg_sys::PlannerInfo,
        node: *mut pg_sys::Node,
        source: ParamSource,
    ) -> Operand {
        // SAFETY: the caller guarantees an expression of type mrl_vector, so the datum of a
        // constant is one.
        unsafe {
            let node = evaluate(root, node);
            match const_value(node) {
                Some(None) => Operand::Null,
                Some(Some(datum)) => coarse_query(VectorArg::from_datum(datum), source)
                    .ok()
                    .flatten()
                    .map_or(Operand::Unknown, Operand::Known),
                None => Operand::Vector(node, source),
            }
        }
    }

    /// Examines the right operand of `vector @~ probe`.
    ///
    /// # Safety
    /// `node` is an expression of type mrl_probe in the query of `root`, which is being planned.
    pub unsafe fn from_probe(
        root: *mut pg_sys::PlannerInfo,
        node: *mut pg_sys::Node,
        vector_type: pg_sys::Oid,
    ) -> Operand {
        // SAFETY: the caller guarantees an expression of type mrl_probe, so the datum of a constant
        // is one.
        unsafe {
            let node = evaluate(root, node);
            match const_value(node) {
                Some(None) => Operand::Null,
                Some(Some(datum)) => CoarseQuery::of_probe(ProbeArg::from_datum(datum))
                    .map_or(Operand::Unknown, Operand::Known),
                None => from_probe_call(root, node, vector_type),
            }
        }
    }
}

/// The right operand of `vector @<=> score_bound`.
pub struct ScoreOperand {
    /// The query, with the score that the condition compares with as its threshold.
    pub query: Operand,
    /// Whether the condition holds for the vectors that do not reach the threshold.
    pub is_negated: bool,
}

impl ScoreOperand {
    const UNKNOWN: ScoreOperand = ScoreOperand {
        query: Operand::Unknown,
        is_negated: false,
    };

    /// Examines the right operand of `vector @<=> score_bound`.
    ///
    /// # Safety
    /// `node` is an expression of type mrl_score_bound in the query of `root`, which is being planned.
    pub unsafe fn from_score_bound(
        root: *mut pg_sys::PlannerInfo,
        node: *mut pg_sys::Node,
    ) -> ScoreOperand {
        // SAFETY: the caller guarantees an expression of type mrl_score_bound, so the datum of a
        // constant is one.
        unsafe {
            let node = evaluate(root, node);
            match const_value(node) {
                Some(None) => ScoreOperand {
                    query: Operand::Null,
                    ..ScoreOperand::UNKNOWN
                },
                Some(Some(datum)) => {
                    let Ok(bound) = ScoreBoundArg::from_datum(datum).bound() else {
                        return ScoreOperand::UNKNOWN;
                    };
                    let (threshold, is_negated) = threshold_of(bound.condition);
                    let query = CoarseQuery {
                        query_dims: bound.values.len(),
                        prefix: bound.values,
                        threshold,
                    };
                    ScoreOperand {
                        query: Operand::Known(query),
                        is_negated,
                    }
                }
                None => from_score_bound_call(root, node).unwrap_or(ScoreOperand::UNKNOWN),
            }
        }
    }
}

/// The score that a condition compares with, rounded to f32, and whether lower scores satisfy the condition.
fn threshold_of(condition: ScoreCondition) -> (f32, bool) {
    let cutoffs = condition.cutoffs();
    (cutoffs.yes_from as f32, cutoffs.is_negated)
}

/// Examines a call `mrl_score_bound(vector, condition, value)` that could not be folded.
///
/// # Safety
/// As for [`ScoreOperand::from_score_bound`].
unsafe fn from_score_bound_call(
    root: *mut pg_sys::PlannerInfo,
    node: *mut pg_sys::Node,
) -> Option<ScoreOperand> {
    // SAFETY: a FuncExpr has a list of expressions as arguments. A constant is read as the type that
    // exprType has returned for it.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            return None;
        }
        let args = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::FuncExpr>()).args);
        let (3, Some(vector), Some(name), Some(value)) = (
            args.len(),
            args.get_ptr(0),
            args.get_ptr(1),
            args.get_ptr(2),
        ) else {
            return None;
        };
        if pg_sys::exprType(name) != pg_sys::TEXTOID || pg_sys::exprType(value) != pg_sys::FLOAT8OID
        {
            return None;
        }
        let (measure, op) = condition_of_name(&String::from_datum(const_value(name)??, false)?)?;
        let value = match const_value(evaluate(root, value))? {
            Some(value) => f64::from_datum(value, false)?,
            None => {
                return Some(ScoreOperand {
                    query: Operand::Null,
                    ..ScoreOperand::UNKNOWN
                });
            }
        };
        let (threshold, is_negated) = threshold_of(ScoreCondition { measure, op, value });
        Some(ScoreOperand {
            query: Operand::from_vector(root, vector, ParamSource::Whole(threshold)),
            is_negated,
        })
    }
}

/// Returns whether `right_type` is the type `mrl_score_bound` in the schema of the operator's function.
///
/// # Safety
/// A transaction is running.
pub unsafe fn is_score_bound(operator: pg_sys::Oid, right_type: pg_sys::Oid) -> bool {
    // SAFETY: the caller guarantees a running transaction.
    unsafe {
        Objects::of_function(pg_sys::get_opcode(operator))
            .and_then(|objects| objects.score_bound())
            .is_some_and(|score_bound| score_bound == right_type)
    }
}

/// Stands for all dimensions of a column, a number that is not known from the operand. It exceeds every
/// number of dimensions.
pub const ALL_DIMS: usize = usize::MAX;

/// Returns the number of dimensions that `vector operator right` compares, if it is known before
/// execution; [`ALL_DIMS`] if it is all of them.
///
/// # Safety
/// `clause` is an OpExpr, or a RestrictInfo that contains one, in the query of `root`. Its operator
/// belongs to an operator class of an mrl index, and its left operand is the indexed column.
pub unsafe fn compared_dims(
    root: *mut pg_sys::PlannerInfo,
    clause: *mut pg_sys::Node,
) -> Option<usize> {
    // SAFETY: the caller guarantees the clause; a node is cast only after its tag has been checked.
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
        let right_type = pg_sys::getBaseType(pg_sys::exprType(right));
        let operator = (*clause.cast::<pg_sys::OpExpr>()).opno;
        let query = if right_type == vector_type {
            Operand::from_vector(root, right, ParamSource::Settings)
        } else if is_score_bound(operator, right_type) {
            return Some(ALL_DIMS);
        } else {
            Operand::from_probe(root, right, vector_type)
        };
        match query {
            Operand::Known(query) => Some(query.prefix.len()),
            Operand::Vector(_, ParamSource::Explicit(params)) => Some(params.dims),
            Operand::Vector(_, ParamSource::Settings) => crate::guc::coarse_dims(),
            Operand::Vector(_, ParamSource::Whole(_)) => Some(ALL_DIMS),
            Operand::Null | Operand::Unknown => None,
        }
    }
}

/// Examines a call `mrl_probe(vector, threshold, dims)`, `mrl_probe(vector)`, `mrl_probe_at_least(vector, score)`
/// or `mrl_probe_at_most(vector, score)` that could not be folded, for instance because the vector is a
/// column of a table or of a function in FROM.
///
/// # Safety
/// As for [`Operand::from_probe`].
unsafe fn from_probe_call(
    root: *mut pg_sys::PlannerInfo,
    node: *mut pg_sys::Node,
    vector_type: pg_sys::Oid,
) -> Operand {
    // SAFETY: a FuncExpr has a list of expressions as arguments. A constant is read as the type
    // that exprType has returned for it.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            return Operand::Unknown;
        }
        let args = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::FuncExpr>()).args);
        if let (1, Some(vector)) = (args.len(), args.get_ptr(0))
            && pg_sys::exprType(vector) == vector_type
        {
            return Operand::from_vector(root, vector, ParamSource::Settings);
        }
        if let (2, Some(vector), Some(score)) = (args.len(), args.get_ptr(0), args.get_ptr(1))
            && pg_sys::exprType(vector) == vector_type
            && pg_sys::exprType(score) == pg_sys::FLOAT8OID
        {
            return match const_value(evaluate(root, score)) {
                Some(None) => Operand::Null,
                Some(Some(score)) => {
                    let score = f64::from_datum(score, false).unwrap_or(f64::NAN) as f32;
                    Operand::from_vector(root, vector, ParamSource::Whole(score))
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
            || !DIMS_TYPES.contains(&pg_sys::exprType(dims))
        {
            return Operand::Unknown;
        }
        let dims = evaluate(root, dims);
        match (const_value(evaluate(root, threshold)), const_value(dims)) {
            (Some(Some(threshold)), Some(Some(_))) => {
                let threshold = f64::from_datum(threshold, false).map(|t| t as f32);
                let dims = const_dims(dims).and_then(|d| usize::try_from(d).ok());
                match (threshold.filter(|t| !t.is_nan()), dims) {
                    (Some(threshold), Some(dims)) => {
                        let source = ParamSource::Explicit(CoarseParams { threshold, dims });
                        Operand::from_vector(root, vector, source)
                    }
                    _ => Operand::Unknown,
                }
            }
            (Some(None), _) | (_, Some(None)) => Operand::Null,
            _ => Operand::Unknown,
        }
    }
}

/// Returns `None` if evaluating the comparison would be an error.
fn coarse_query(
    vector: VectorArg<'_>,
    source: ParamSource,
) -> Result<Option<CoarseQuery>, ErrorReport> {
    let dims = vector.dims()?;
    match source.resolve(dims) {
        Some(params) => CoarseQuery::with_params(vector, dims, params).map(Some),
        None => Ok(None),
    }
}

/// Returns the value of a constant, with an inner `None` for NULL. Returns an outer `None` if the
/// node is not a constant.
///
/// # Safety
/// `node` is a node.
pub unsafe fn const_value(node: *mut pg_sys::Node) -> Option<Option<pg_sys::Datum>> {
    // SAFETY: the caller guarantees a node; it is cast only after its tag has been checked.
    unsafe {
        is_a(node, pg_sys::NodeTag::T_Const).then(|| {
            let constant = &*node.cast::<pg_sys::Const>();
            (!constant.constisnull).then_some(constant.constvalue)
        })
    }
}

/// The types that a prefix length may have: `bigint`, and `integer` in a database whose extension is still of
/// version 0.1.0.
pub const DIMS_TYPES: [pg_sys::Oid; 2] = [pg_sys::INT8OID, pg_sys::INT4OID];

/// Returns the value of a constant of one of the [`DIMS_TYPES`], or `None` for NULL and for any other
/// node.
///
/// # Safety
/// `node` is an expression.
pub unsafe fn const_dims(node: *mut pg_sys::Node) -> Option<i64> {
    // SAFETY: the caller guarantees an expression. The datum is read as the type that exprType returns.
    unsafe {
        let datum = const_value(node)??;
        match pg_sys::exprType(node) {
            pg_sys::INT8OID => i64::from_datum(datum, false),
            pg_sys::INT4OID => i32::from_datum(datum, false).map(i64::from),
            _ => None,
        }
    }
}

/// Evaluates the parts of an expression that can be evaluated while planning, including stable
/// functions, unless that is too expensive.
///
/// # Safety
/// `node` is an expression in the query of `root`.
unsafe fn evaluate(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees an expression of the query; Postgres evaluates a copy of it.
    unsafe {
        let node = defining_expression(root, node);
        if is_a(node, pg_sys::NodeTag::T_Const) {
            return node;
        }
        let mut cost = pg_sys::QualCost::default();
        pg_sys::cost_qual_eval_node(&mut cost, node, root);
        if cost.startup + cost.per_tuple > MAX_PLANNING_COST * pg_sys::cpu_operator_cost {
            return node;
        }
        pg_sys::estimate_expression_value(root, node)
    }
}

/// Returns the expression that defines the value of `node`: the function call if `node` is the
/// column of a function in FROM, the selected expression if `node` is the result of a subselect
/// without FROM, and otherwise `node` itself.
///
/// # Safety
/// `node` is an expression in the query of `root`.
unsafe fn defining_expression(
    root: *mut pg_sys::PlannerInfo,
    node: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees an expression of the query; a node is cast only after its tag
    // has been checked.
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

/// Returns the function call that defines a column of FROM, for instance `embed_text('a baby')` for
/// `q` in `FROM photos, embed_text('a baby') AS q`. A call that depends on the row of another table
/// is returned, too, but it cannot be folded, so its value stays unknown.
///
/// # Safety
/// `var` is an expression in the query of `root`.
unsafe fn function_in_from(
    root: &pg_sys::PlannerInfo,
    var: &pg_sys::Var,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the range table entry lives until planning has finished, and its lists contain the
    // node types that `nodes/parsenodes.h` documents.
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

/// Returns the expression that a subselect such as `(SELECT embed_text('a baby'))` selects. Such a
/// subselect has been planned already, as a Result node without a subplan.
///
/// # Safety
/// `param` is an expression in the query of `root`.
unsafe fn subselect(
    root: &pg_sys::PlannerInfo,
    param: &pg_sys::Param,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the lists of the planner contain the node types that `nodes/pathnodes.h` documents; a
    // plan node is cast only after its tag has been checked.
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
        let (false, 1, Some(entry)) = (filtered, selected.len(), selected.get_ptr(0)) else {
            return None;
        };
        let selected = (*entry).expr.cast();
        // For a remote estimate, postgres_fdw puts `(SELECT null::mrl_vector)` in place of each parameter. This NULL
        // stands for a value that is not known.
        (!matches!(const_value(selected), Some(None))).then_some(selected)
    }
}
