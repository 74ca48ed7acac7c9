use thiserror::Error;

/// Errors of vector input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VectorError {
    #[error("NaN not allowed in mrl_vector")]
    NotANumber,
    #[error("infinite value not allowed in mrl_vector")]
    Infinite,
    /// The value as written in the input.
    #[error("\"{0}\" is out of range for type mrl_vector")]
    OutOfRange(String),
    #[error("mrl_vector must have at least 1 dimension")]
    NoDimensions,
    #[error("mrl_vector cannot have more than {max} dimensions, not {0}", max = super::MAX_DIMS)]
    TooManyDimensions(usize),
    #[error("different vector dimensions {0} and {1}")]
    DifferentDimensions(usize, usize),
    /// A prefix length outside `1..=dimensions`.
    #[error("dims must be between 1 and {of}, not {dims}")]
    PrefixOutOfRange { dims: i64, of: usize },
    /// The input text, and a description of the error.
    #[error("invalid input syntax for type mrl_vector: \"{text}\"")]
    Syntax { text: String, detail: &'static str },
}
