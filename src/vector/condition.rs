//! A condition on the similarity of a vector with a query, such as `fine_score(e, q) >= 0.35`.

/// What a condition compares. Each is computed from the similarity in f64, in the way that SQL
/// computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The similarity `s`, the result of `fine_score`.
    Score,
    /// `1 - s`, the result of `<=>`.
    Distance,
    /// `1 - (1 - s)`, as in `1 - (e <=> q)`. It differs from `s` by rounding.
    OneMinusDistance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    AtLeast,
    Above,
    AtMost,
    Below,
}

impl CompareOp {
    /// The operator for the operands in the other order.
    pub fn commuted(self) -> CompareOp {
        match self {
            CompareOp::AtLeast => CompareOp::AtMost,
            CompareOp::Above => CompareOp::Below,
            CompareOp::AtMost => CompareOp::AtLeast,
            CompareOp::Below => CompareOp::Above,
        }
    }
}

/// A comparison of a measure with a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreCondition {
    pub measure: Measure,
    pub op: CompareOp,
    pub value: f64,
}

/// Similarities that decide a [`ScoreCondition`]. A similarity below `no_below` does not reach the
/// condition's threshold, and one of at least `yes_from` does. Between the two, rounding decides, so ask
/// [`ScoreCondition::holds`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreCutoffs {
    pub no_below: f64,
    pub yes_from: f64,
    /// Whether the condition holds for the similarities that do not reach the threshold.
    pub is_negated: bool,
}

/// More than the rounding errors of a distance and of the number that it is compared with. A distance
/// lies in 0..=2 and has an error of at most 2^-53; `1 - (1 - s)` has two such errors; `1 - value` for a
/// value in -2..=2 has an error of at most 2^-52. For any other value, a condition holds for all vectors
/// or for none.
const ROUNDING: f64 = 1e-15;

impl ScoreCondition {
    /// Returns whether the condition holds for a similarity in -1..=1. As in Postgres, NaN is
    /// greater than every number.
    pub fn holds(&self, similarity: f64) -> bool {
        let measured = match self.measure {
            Measure::Score => similarity,
            Measure::Distance => 1.0 - similarity,
            Measure::OneMinusDistance => 1.0 - (1.0 - similarity),
        };
        match self.op {
            CompareOp::AtLeast => measured >= self.value,
            CompareOp::Above => measured > self.value,
            CompareOp::AtMost => measured <= self.value || self.value.is_nan(),
            CompareOp::Below => measured < self.value || self.value.is_nan(),
        }
    }

    pub fn cutoffs(&self) -> ScoreCutoffs {
        let sets_minimum = matches!(self.op, CompareOp::AtLeast | CompareOp::Above);
        if self.value.is_nan() {
            // No measure reaches NaN.
            return ScoreCutoffs {
                no_below: f64::INFINITY,
                yes_from: f64::INFINITY,
                is_negated: !sets_minimum,
            };
        }
        let (threshold, rounding, is_negated) = match self.measure {
            Measure::Score => (self.value, 0.0, !sets_minimum),
            Measure::Distance => (1.0 - self.value, ROUNDING, sets_minimum),
            Measure::OneMinusDistance => (self.value, ROUNDING, !sets_minimum),
        };
        // `s <= value` is "not `s > value`".
        let is_strict = matches!(self.op, CompareOp::Above | CompareOp::AtMost);
        let yes_from = if self.measure == Measure::Score && is_strict {
            threshold.next_up()
        } else {
            threshold + rounding
        };
        ScoreCutoffs {
            no_below: threshold - rounding,
            yes_from,
            is_negated,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEASURES: [Measure; 3] = [Measure::Score, Measure::Distance, Measure::OneMinusDistance];
    const OPS: [CompareOp; 4] = [
        CompareOp::AtLeast,
        CompareOp::Above,
        CompareOp::AtMost,
        CompareOp::Below,
    ];

    /// A number of `steps` floating-point numbers above `value`, or below it.
    fn step(mut value: f64, steps: i32) -> f64 {
        for _ in 0..steps.abs() {
            value = if steps > 0 {
                value.next_up()
            } else {
                value.next_down()
            };
        }
        value
    }

    proptest! {
        #[test]
        fn cutoffs_decide_as_the_condition_does(
            similarity in -1.0f64..=1.0,
            other in -2.5f64..=2.5,
            steps in -20i32..=20,
            relation in 0..6,
        ) {
            for measure in MEASURES {
                let at = match measure {
                    Measure::Score => similarity,
                    Measure::Distance => 1.0 - similarity,
                    Measure::OneMinusDistance => 1.0 - (1.0 - similarity),
                };
                let value = match relation {
                    0 => other,
                    1 => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, 5.0, -5.0]
                        [steps.unsigned_abs() as usize % 7],
                    _ => step(at, steps),
                };
                for op in OPS {
                    let condition = ScoreCondition { measure, op, value };
                    let cutoffs = condition.cutoffs();
                    prop_assert!(cutoffs.no_below <= cutoffs.yes_from);
                    if similarity < cutoffs.no_below {
                        prop_assert_eq!(condition.holds(similarity), cutoffs.is_negated);
                    }
                    if similarity >= cutoffs.yes_from {
                        prop_assert_eq!(condition.holds(similarity), !cutoffs.is_negated);
                    }
                    // The interval without a decision is narrow.
                    let width = cutoffs.yes_from - cutoffs.no_below;
                    prop_assert!(!width.is_finite() || width < 1e-14 * value.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn nan_is_greater_than_every_number() {
        for measure in MEASURES {
            for op in OPS {
                let value = f64::NAN;
                let holds = ScoreCondition { measure, op, value }.holds(0.5);
                assert_eq!(holds, matches!(op, CompareOp::AtMost | CompareOp::Below));
            }
        }
    }
}
