//! The vectors of recent texts: a query's text is embedded once, not once a row, and not again
//! when the next page of the answer is asked for.

use std::cell::RefCell;
use std::collections::VecDeque;

use half::f16;

/// Entries kept in a session; 4 kB each at 2048 dimensions.
const CAPACITY: usize = 256;

/// Texts longer than this are documents rather than queries, and not kept.
const MAX_TEXT_BYTES: usize = 8 * 1024;

#[derive(PartialEq)]
struct Key {
    model: String,
    instruction: Option<String>,
    text: String,
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
    text: &str,
    embed: impl FnOnce() -> Result<Vec<f16>, E>,
    is_still: impl FnOnce() -> bool,
) -> Result<Vec<f16>, E> {
    let size = text.len() + instruction.map_or(0, str::len);
    if size > MAX_TEXT_BYTES {
        return embed();
    }
    let key = Key {
        model: model.to_owned(),
        instruction: instruction.map(str::to_owned),
        text: text.to_owned(),
    };
    if let Some(vector) = CACHE.with_borrow_mut(|cache| cache.get(&key)) {
        return Ok(vector);
    }
    let vector = embed()?;
    if is_still() {
        CACHE.with_borrow_mut(|cache| cache.put(key, vector.clone()));
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key {
            model: "m".into(),
            instruction: None,
            text: text.into(),
        }
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
        let embed = |value: f32| move || Ok::<_, ()>(vec![f16::from_f32(value)]);
        let get = |model: &str, instruction, value| {
            get_or_embed(model, instruction, "a baby", embed(value), || model != "c").unwrap()[0]
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
}
