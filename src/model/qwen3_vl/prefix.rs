//! Keeps the keys and values of prompt prefixes between forward passes. Most prompts of a session
//! begin with the same system turn, and attention is causal, so the keys and values of these tokens
//! are the same in every prompt.

use std::sync::{Arc, Mutex, PoisonError};

use crate::ModelError;

/// Maximum number of tokens in a cached prefix. With the 2B model, a prefix of this length takes 15
/// MB.
const MAX_PREFIX: usize = 64;
/// Number of cached prefixes; a session typically uses one or two instructions.
pub(super) const PREFIXES: usize = 2;

/// A prompt's first tokens, and their keys and values in each layer.
pub(super) struct PromptPrefix {
    pub ids: Vec<u32>,
    layers: Vec<KeysValues>,
}

/// [tokens, kv heads · head dim] each.
#[derive(Clone)]
pub(super) struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The keys and values that a forward pass takes from a cached prefix, or that it keeps in order to
/// cache them.
#[derive(Clone, Default)]
pub(super) enum Past {
    #[default]
    None,
    /// Every sequence continues the first `count` tokens of a cached prefix.
    Cached {
        prefix: Arc<PromptPrefix>,
        count: usize,
    },
    /// The first `count` tokens of the first sequence become a cached prefix.
    Kept {
        count: usize,
        layers: Vec<KeysValues>,
    },
}

impl Past {
    /// Number of tokens that precede every sequence.
    pub fn length(&self) -> usize {
        match self {
            Self::Cached { count, .. } => *count,
            Self::None | Self::Kept { .. } => 0,
        }
    }

    /// Whether a prompt can join a batch with this past.
    pub fn precedes(&self, ids: &[u32]) -> bool {
        match self {
            Self::Cached { prefix, count } => {
                *count < ids.len() && common(&prefix.ids, ids) >= *count
            }
            Self::None | Self::Kept { .. } => true,
        }
    }

    /// Inserts the cached keys and values before those of each sequence, [tokens, kv heads · head
    /// dim], or keeps those of the tokens to cache. `lengths` has the number of tokens of each sequence.
    pub fn update(
        &mut self,
        layer: usize,
        keys: Vec<f32>,
        values: Vec<f32>,
        lengths: &[usize],
    ) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let width = keys.len() / lengths.iter().sum::<usize>().max(1);
        match self {
            Self::None => Ok((keys, values)),
            Self::Kept { count, layers } => {
                layers.push(KeysValues {
                    keys: keys[..*count * width].to_vec(),
                    values: values[..*count * width].to_vec(),
                });
                Ok((keys, values))
            }
            Self::Cached { prefix, count } => {
                let cached = prefix.layers.get(layer).ok_or_else(|| {
                    ModelError::Internal("a prefix has fewer layers than the model".into())
                })?;
                let joined = |cached: &[f32], mut own: &[f32]| {
                    let cached = &cached[..*count * width];
                    let mut out = Vec::with_capacity(own.len() + lengths.len() * cached.len());
                    for length in lengths {
                        let (first, rest) = own.split_at(length * width);
                        out.extend_from_slice(cached);
                        out.extend_from_slice(first);
                        own = rest;
                    }
                    out
                };
                Ok((joined(&cached.keys, &keys), joined(&cached.values, &values)))
            }
        }
    }
}

/// The cached prefixes of a model, most recently used first.
#[derive(Default)]
pub(super) struct PrefixCache(Mutex<Vec<Arc<PromptPrefix>>>);

impl PrefixCache {
    /// The past for a batch whose first prompt has these tokens.
    pub fn past(&self, ids: &[u32]) -> Past {
        let template = template(ids);
        if template == 0 {
            return Past::None;
        }
        let mut prefixes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The template's last token is a line feed. The tokenizer may merge it with the start of
        // the text, so the last token need not match.
        let same = |prefix: &Arc<PromptPrefix>| common(&prefix.ids, ids) + 1 >= template;
        match prefixes.iter().position(same) {
            Some(found) => {
                let prefix = prefixes.remove(found);
                prefixes.insert(0, prefix.clone());
                let count = common(&prefix.ids, ids).min(ids.len() - 1);
                Past::Cached { prefix, count }
            }
            None => Past::Kept {
                count: template,
                layers: Vec::new(),
            },
        }
    }

    /// Caches the keys and values that a forward pass kept. `ids` are the tokens of its batch.
    pub fn remember(&self, ids: &[u32], past: Past) {
        if let Past::Kept { count, layers } = past {
            let ids = ids[..count].to_vec();
            let mut prefixes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            prefixes.insert(0, Arc::new(PromptPrefix { ids, layers }));
            prefixes.truncate(PREFIXES);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Number of tokens before the content of the user's turn, at most [`MAX_PREFIX`]; 0 if the prompt has
/// no second turn.
fn template(ids: &[u32]) -> usize {
    let Some(&start) = ids.first() else { return 0 };
    let turn = ids.iter().skip(1).position(|&id| id == start);
    // Three tokens open the user's turn: the start token, the role "user", and a line feed.
    let length = turn.map_or(0, |turn| turn + 1 + 3);
    length.min(MAX_PREFIX).min(ids.len().saturating_sub(1))
}

/// Length of the longest common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
