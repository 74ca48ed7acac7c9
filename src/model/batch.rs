//! Helpers that all model families use to run several requests together: splitting requests into
//! batches, checking token IDs, and normalising vectors.

use super::ModelError;
use super::directory::TOKENIZER;

/// Maximum number of tokens in a batch of several requests. With this many rows, the cost of reading
/// the weights is negligible.
pub(super) const BATCH_TOKENS: usize = 2048;

/// Splits `items` into batches whose sizes sum to at most `limit`. An item larger than `limit` is a
/// batch of its own.
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

/// The memory to request for a forward pass that is estimated to take `bytes`. The margin covers
/// small allocations that the estimate omits, and the allocator's overhead per block.
pub(super) fn with_margin(bytes: u64) -> u64 {
    (bytes + bytes / 4).saturating_add(16 << 20)
}

/// Fails if there are no token IDs, or if one exceeds the embedding table. Both happen if the tokenizer
/// does not belong to the weights.
pub(super) fn check_ids(ids: &[u32], vocabulary: usize) -> Result<(), ModelError> {
    let reason = match ids.iter().max() {
        None => "it gives no tokens for a prompt".to_owned(),
        Some(&id) if id as usize >= vocabulary => {
            format!("token {id} is not among the model's {vocabulary} tokens")
        }
        Some(_) => return Ok(()),
    };
    Err(ModelError::malformed(TOKENIZER, reason))
}

/// `x / ‖x‖`. Fails if the norm is not finite or is zero, because weights that overflow would
/// otherwise give a vector that silently matches nothing.
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
