//! A cache of the vectors of recent texts, kept per session. With it a query's text is embedded
//! once, not once per row, and not again for the next page of results.

use std::cell::RefCell;
use std::collections::VecDeque;

use half::f16;
use sha2::{Digest, Sha256};

/// The maximum number of entries in a session. An entry takes 4 kB at 2048 dimensions, and all take 1 MB.
const CAPACITY: usize = 256;

/// A hash of model, instruction and text, so that the key of a long document takes no more memory
/// than that of a short query.
type Key = [u8; 32];

fn key(model: &str, instruction: Option<&str>, text: &str) -> Key {
    let mut hash = Sha256::new();
    for part in [Some(model), instruction, Some(text)] {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        hash.update(length.to_ne_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

/// The entries, most recently used first.
#[derive(Default)]
struct QueryCache(VecDeque<(Key, Vec<f16>)>);

impl QueryCache {
    fn get(&mut self, wanted: &Key) -> Option<Vec<f16>> {
        let position = self.0.iter().position(|(key, _)| key == wanted)?;
        let entry = self.0.remove(position)?;
        let vector = entry.1.clone();
        self.0.push_front(entry);
        Some(vector)
    }

    fn put(&mut self, key: Key, vector: Vec<f16>) {
        self.0.truncate(CAPACITY - 1);
        self.0.push_front((key, vector));
    }
}

thread_local! {
    static CACHE: RefCell<QueryCache> = RefCell::default();
}

/// Returns the vector of `text` from the cache; if it is not there, calls `embed` and caches the
/// result. Errors are not cached.
///
/// `model` is the model's fingerprint. `is_current` tells, after embedding, whether the model still
/// has that fingerprint. If it does not, the model was replaced in the meantime, and the vector is
/// not cached.
pub fn get_or_embed<E>(
    model: &str,
    instruction: Option<&str>,
    text: String,
    embed: impl FnOnce(String) -> Result<Vec<f16>, E>,
    is_current: impl FnOnce() -> bool,
) -> Result<Vec<f16>, E> {
    let key = key(model, instruction, &text);
    if let Some(vector) = CACHE.with_borrow_mut(|cache| cache.get(&key)) {
        return Ok(vector);
    }
    let vector = embed(text)?;
    if is_current() {
        CACHE.with_borrow_mut(|cache| cache.put(key, vector.clone()));
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        super::key("m", None, text)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = QueryCache::default();
        for i in 0..CAPACITY {
            cache.put(key(&i.to_string()), vec![f16::from_f32(i as f32)]);
        }
        assert!(cache.get(&key("0")).is_some());
        cache.put(key("new"), vec![f16::ONE]);
        assert_eq!(cache.0.len(), CAPACITY);
        assert!(cache.get(&key("1")).is_none());
        assert_eq!(cache.get(&key("0")), Some(vec![f16::ZERO]));
    }

    #[test]
    fn model_and_instruction_belong_to_the_key() {
        let embed = |value: f32| move |_| Ok::<_, ()>(vec![f16::from_f32(value)]);
        let get = |model: &str, instruction, value| {
            let text = "a baby".to_owned();
            get_or_embed(model, instruction, text, embed(value), || model != "c").unwrap()[0]
                .to_f32()
        };
        assert_eq!(get("a", None, 1.0), 1.0);
        assert_eq!(get("a", Some("x"), 2.0), 2.0);
        assert_eq!(get("b", None, 3.0), 3.0);
        assert_eq!(get("a", None, 9.0), 1.0);
        // The model was replaced while the text was embedded.
        assert_eq!(get("c", None, 4.0), 4.0);
        assert_eq!(get("c", None, 5.0), 5.0);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let keys = [
            super::key("a", None, "bc"),
            super::key("ab", None, "c"),
            super::key("a", Some(""), "bc"),
            super::key("a", Some("b"), "c"),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }
}
