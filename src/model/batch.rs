//! What families share about running several requests at once: which go together, what is checked
//! on the way in, and what is done to each vector on the way out.

use super::ModelError;
use super::directory::TOKENIZER;

/// Requests go through a model together until they have so many tokens: enough rows to make reading
/// the weights worth while.
pub(super) const PACK_TOKENS: usize = 2048;

/// `items` cut where the next one would bring a batch over `limit`. An item which is larger by itself
/// is a batch of its own.
pub(super) fn batches<T>(
    items: &[T],
    limit: usize,
    size: impl Fn(&T) -> usize,
) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fitting = rest.iter().take_while(|item| {
            sum += size(item);
            sum <= limit
        });
        let count = fitting.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// What is asked of the system for a forward pass that is estimated to take so many bytes: the
/// estimates leave small things out, and an allocator needs room around each block.
pub(super) fn with_margin(bytes: u64) -> u64 {
    (bytes + bytes / 4).saturating_add(16 << 20)
}

/// A tokenizer that does not belong to the weights must not lead past their embeddings.
pub(super) fn check_ids(ids: &[u32], vocabulary: usize) -> Result<(), ModelError> {
    let reason = match ids.iter().max() {
        None => "it turns a prompt into no tokens".to_owned(),
        Some(&id) if id as usize >= vocabulary => {
            format!("token {id} is not among the model's {vocabulary}")
        }
        Some(_) => return Ok(()),
    };
    Err(ModelError::malformed(TOKENIZER, reason))
}

/// `x / ‖x‖`. Weights that overflow must not become a vector that matches nothing in silence.
pub(super) fn l2_normalised(mut x: Vec<f32>) -> Result<Vec<f32>, ModelError> {
    let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if !(norm.is_finite() && norm > 0.0) {
        return Err(ModelError::Internal(format!(
            "hidden state has the norm {norm}"
        )));
    }
    x.iter_mut()
        .for_each(|x| *x = (f64::from(*x) / norm) as f32);
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_item_once_and_no_more_than_fit() {
        let cut = |sizes: &[usize], limit| -> Vec<Vec<usize>> {
            batches(sizes, limit, |&size| size)
                .map(<[usize]>::to_vec)
                .collect()
        };
        assert_eq!(cut(&[3, 4, 5, 9, 1], 8), [&[3, 4][..], &[5], &[9], &[1]]);
        assert_eq!(cut(&[1, 1, 1], 8), [[1, 1, 1]]);
        assert_eq!(cut(&[], 8), Vec::<Vec<usize>>::new());
    }
}
