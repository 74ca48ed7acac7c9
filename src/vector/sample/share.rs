//! The estimate of a filter's selectivity: the share of a sample's rows that reach a threshold.

use super::query::{Longer, Quantised, SampleQuery};
use super::{Rests, SAMPLE_DIMS, Sample};
use crate::rest::{Directions, Fit, NEGLIGIBLE, Norms, Ranks, lengths, scale};

/// Maximum number of the highest similarities to which an exponential tail is fitted. With this
/// many matches, the tail is not used.
pub(super) const TAIL: usize = 30;

/// A row of the sample, compared with a query that compares more than [`SAMPLE_DIMS`] values.
struct Compared {
    /// The cosine of the known parts.
    cosine: f32,
    /// What the known parts contribute to the similarity, and the most that the unknown ones do.
    known: f64,
    unknown: f64,
    /// The norm of the codes of the row's prefix; 0 if nothing was rounded.
    prefix_code_norm: f64,
}

/// The result of comparing a query with all rows.
struct Matches {
    rows: usize,
    expected: f64,
    /// May be empty if at least [`TAIL`] matches are expected.
    similarities: Vec<f64>,
}

impl Sample<'_> {
    /// The share of rows whose similarity to the query is at least `threshold`, excluding the row
    /// `skip`.
    ///
    /// Only rows with the query's number of dimensions count. On other rows the filter raises an
    /// error, so a query that succeeds must exclude them by another condition, whose selectivity
    /// the planner includes separately. `None` if there are no such rows, and for a threshold that is
    /// not a number.
    pub fn share(&self, query: &SampleQuery, threshold: f32, skip: Option<usize>) -> Option<f64> {
        if threshold.is_nan() {
            return None;
        }
        let threshold = f64::from(threshold);
        let rests = self.rests.filter(|rests| rests.of == query.of);
        let mut matches = match (&query.longer, rests) {
            (Some(longer), Some(rests)) => {
                self.matches_of_longer(query, longer, rests, threshold, skip)
            }
            _ => self.matches(query, threshold, skip),
        };
        if matches.rows == 0 {
            return None;
        }
        let hits = matches.expected;
        let counted = hits / matches.rows as f64;
        let share = if hits >= TAIL as f64 {
            counted
        } else {
            // The tail estimate has the weight of one match: full weight without matches, little
            // weight with several.
            let tail = tail_share(&mut matches.similarities, threshold);
            (hits * counted + tail) / (hits + 1.0)
        };
        share.is_finite().then(|| share.clamp(0.0, 1.0))
    }

    /// The rows that a query is compared with.
    fn candidates(&self, query: &SampleQuery, skip: Option<usize>) -> impl Iterator<Item = usize> {
        let of = query.of;
        (0..self.rows()).filter(move |&row| self.dims(row) == of && Some(row) != skip)
    }

    /// For a query that compares at most [`SAMPLE_DIMS`] values.
    fn matches(&self, query: &SampleQuery, threshold: f64, skip: Option<usize>) -> Matches {
        let mut expected = 0.0;
        let mut similarities = Vec::with_capacity(self.rows());
        for row in self.candidates(query, skip) {
            let (similarity, norm) = query.prefix.cosine(self.codes(row)).unwrap_or_default();
            expected += hit(similarity, threshold, norm);
            similarities.push(similarity);
        }
        Matches {
            rows: similarities.len(),
            expected,
            similarities,
        }
    }

    /// For a query that compares more.
    fn matches_of_longer(
        &self,
        query: &SampleQuery,
        longer: &Longer,
        rests: Rests<'_>,
        threshold: f64,
        skip: Option<usize>,
    ) -> Matches {
        let directions = Directions {
            codes: rests.directions,
            scales: rests.scales,
        };
        let whole = longer.rest.len() == rests.of - SAMPLE_DIMS;
        let sketch = whole.then(|| directions.project(&longer.rest));
        let sketch = sketch.map(|sketch| {
            let square: f64 = sketch.iter().map(|&v| f64::from(v).powi(2)).sum();
            (square.sqrt(), Quantised::new(sketch.iter().copied()))
        });
        let q = Norms::new(
            longer.prefix_norm,
            sketch.as_ref().map_or(0.0, |sketch| sketch.0),
        );
        let compare = |row: usize| {
            let (cosine, norm) = query.prefix.cosine(self.codes(row)).unwrap_or_default();
            let mut x = Norms::new(rests.prefix_norm(row, longer.dims), 0.0);
            let mut known = x.prefix * q.prefix * cosine;
            if let Some((_, sketch)) = &sketch {
                let (norm, codes) = rests.sketch(row);
                x = Norms::new(x.prefix, norm);
                let (cosine, _) = sketch.cosine(codes).unwrap_or_default();
                known += x.sketch * q.sketch * cosine;
            }
            Compared {
                cosine: x.cosine(q, known),
                known,
                unknown: x.unknown * q.unknown,
                prefix_code_norm: norm,
            }
        };
        let compared: Vec<Compared> = self.candidates(query, skip).map(compare).collect();
        let ranks = Ranks::of(compared.iter().map(|row| row.cosine));
        let fit = rests.fit(if sketch.is_some() {
            lengths(rests.of).count()
        } else {
            let shorter = |&length: &usize| length < longer.dims;
            lengths(rests.of).take_while(shorter).count()
        });
        let hits = compared.iter().map(|row| {
            let bin = ranks.bin(row.cosine);
            if row.unknown * f64::from(scale(row.cosine)) < NEGLIGIBLE {
                hit(
                    row.similarity(&fit, bin, 0.5),
                    threshold,
                    row.prefix_code_norm,
                )
            } else {
                let wanted = (threshold - row.known) / row.unknown;
                f64::from(fit.probability(bin, row.cosine, wanted as f32))
            }
        });
        let expected = hits.sum();
        let mut level = 0f32;
        let similarity = |row: &Compared| {
            // Levels at steps of the golden ratio are evenly distributed in every bin.
            level = (level + 0.618_034).fract();
            row.similarity(&fit, ranks.bin(row.cosine), level)
        };
        Matches {
            rows: compared.len(),
            expected,
            similarities: if expected < TAIL as f64 {
                compared.iter().map(similarity).collect()
            } else {
                Vec::new()
            },
        }
    }
}

impl Compared {
    /// The similarity that is exceeded with the probability `1 - level`.
    fn similarity(&self, fit: &Fit, bin: usize, level: f32) -> f64 {
        self.known + self.unknown * f64::from(fit.quantile(bin, self.cosine, level))
    }
}

/// Whether a similarity reaches the threshold, from 0 to 1. Rounding has moved each value of the row
/// by up to half a code, and the similarity by about that fraction of the norm. A row this close to
/// the threshold counts as a fraction of a match. (So a duplicate of the query counts about half at
/// threshold 1.) A `norm` of 0 means that nothing was rounded, because the row or the query is zero.
fn hit(similarity: f64, threshold: f64, norm: f64) -> f64 {
    if norm == 0.0 {
        return if similarity >= threshold { 1.0 } else { 0.0 };
    }
    ((similarity - threshold) * norm + 0.5).clamp(0.0, 1.0)
}

/// The share of similarities above `threshold`, on the assumption that the highest similarities
/// follow an exponential tail, as in many distributions. The tail starts at the lowest of the top
/// similarities, and its mean is their mean excess over it. Similarities are transformed by
/// Fisher's z, `atanh`, because they are bounded by 1.
fn tail_share(similarities: &mut [f64], threshold: f64) -> f64 {
    const LARGEST: f64 = 1.0 - 1e-6;
    let z = |similarity: f64| similarity.clamp(-LARGEST, LARGEST).atanh();
    let count = similarities.len();
    let top = TAIL.min(count.div_ceil(4));
    let (_, anchor, above) =
        similarities.select_nth_unstable_by(count - top, |a, b| a.total_cmp(b));
    let (anchor, threshold) = (z(*anchor), z(threshold));
    let share = top as f64 / count as f64;
    let excess: f64 = above.iter().map(|&similarity| z(similarity) - anchor).sum();
    let mean = excess / above.len().max(1) as f64;
    if threshold <= anchor {
        share
    } else if mean > 0.0 {
        share * (-(threshold - anchor) / mean).exp()
    } else {
        0.0
    }
}
