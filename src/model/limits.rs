//! Bounds on what a `config.json` may ask for, so that no product of sizes overflows and nothing
//! divides by zero.

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
