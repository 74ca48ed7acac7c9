//! Bounds on values that users and files supply: model names, and sizes in `config.json`. The
//! bounds on sizes ensure that no product of sizes overflows and that no divisor is zero.

/// The maximum length of a model's name in bytes, equal to Linux's limit on a file name
/// (`NAME_MAX`).
pub const MAX_MODEL_NAME: usize = 255;

/// Describes the names that [`is_model_name`] accepts.
pub const MODEL_NAME_RULE: &str = "A model's name consists of at most 255 letters, digits, \".\", \"_\" and \"-\", and does not begin with a dot.";

/// Whether `name` is allowed as a model's name. An allowed name, joined to a directory's path,
/// cannot lead out of that directory.
pub fn is_model_name(name: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_MODEL_NAME).contains(&name.len()) && name.iter().all(allowed) && name[0] != b'.'
}

/// The maximum of a size in a configuration; a vocabulary may be 16 times as large. Products of three
/// sizes fit in a u64.
pub(super) const MAX_SIZE: usize = 1 << 20;
/// The maximum number of layers, and of attention heads.
pub(super) const MAX_LAYERS: usize = 1 << 10;

/// Checks that `value` lies in 1..=`limit`. The error states the allowed range of `name`.
pub(super) fn check_size(name: &str, value: usize, limit: usize) -> Result<(), String> {
    if !(1..=limit).contains(&value) {
        return Err(format!("{name} must be between 1 and {limit}, not {value}"));
    }
    Ok(())
}
