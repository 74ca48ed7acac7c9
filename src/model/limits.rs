//! Bounds on what users and files may ask for: names; and sizes in a `config.json`, so that no
//! product of them overflows and nothing divides by zero.

/// The most bytes of a model's name, as of a file's (`NAME_MAX` of Linux).
pub const MAX_MODEL_NAME: usize = 255;

/// What [`is_model_name`] accepts.
pub const MODEL_NAME_RULE: &str = "A model's name consists of at most 255 letters, digits, \".\", \"_\" and \"-\", and does not begin with a dot.";

/// Whether a model may have this name. It can't lead out of the directory that it is looked up in.
pub fn is_model_name(name: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_MODEL_NAME).contains(&name.len()) && name.iter().all(allowed) && name[0] != b'.'
}

/// No size in a configuration reaches this; products of three stay within u64.
pub(super) const MAX_SIZE: usize = 1 << 20;
pub(super) const MAX_LAYERS: usize = 1 << 10;

/// The error says what `name` must be.
pub(super) fn check_size(name: &str, value: usize, limit: usize) -> Result<(), String> {
    if !(1..=limit).contains(&value) {
        return Err(format!("{name} must be between 1 and {limit}, not {value}"));
    }
    Ok(())
}
