//! The vectors of recent texts: a query's text is embedded once, not once a row, and not again
//! when the next page of the answer is asked for.

use std::cell::RefCell;
use std::collections::VecDeque;

use half::f16;
use sha2::{Digest, Sha256};

/// Entries kept in a session; 4 kB each at 2048 dimensions.
const CAPACITY: usize = 256;

/// A hash of model, instruction and text: an entry for a document is no larger than one for a query.
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

/// Most recently used first.
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

/// The vector of `text`, from the cache or else from `embed`, whose errors are not kept.
/// `model` is its fingerprint, and `is_still` asks whether it still is: a vector of another model is
/// not kept under its name.
pub fn get_or_embed<E>(
    model: &str,
    instruction: Option<&str>,
    text: String,
    embed: impl FnOnce(String) -> Result<Vec<f16>, E>,
    is_still: impl FnOnce() -> bool,
) -> Result<Vec<f16>, E> {
    let key = key(model, instruction, &text);
    if let Some(vector) = CACHE.with_borrow_mut(|cache| cache.get(&key)) {
        return Ok(vector);
    }
    let vector = embed(text)?;
    if is_still() {
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
        // Replaced meanwhile.
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
