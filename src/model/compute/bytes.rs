//! Bytes with shared ownership, such as a part of a mapped file or of a buffer.

use std::ops::Range;
use std::sync::Arc;

/// The owner of shared bytes.
pub(crate) type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A range of an owner's bytes, which keeps the owner alive.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    owner: Owner,
    range: Range<usize>,
}

impl SharedBytes {
    /// `None` if the range exceeds the owner's bytes.
    pub fn new(owner: Owner, range: Range<usize>) -> Option<Self> {
        owner.as_ref().as_ref().get(range.clone())?;
        Some(Self { owner, range })
    }

    /// An empty range, for a weight that is never read.
    pub fn empty() -> Self {
        Self {
            owner: Arc::new([0u8; 0]),
            range: 0..0,
        }
    }

    /// The bytes as elements of another type; `None` unless size and alignment fit.
    pub fn cast<T: bytemuck::AnyBitPattern>(&self) -> Option<&[T]> {
        bytemuck::try_cast_slice(self.as_ref()).ok()
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            owner: Arc::new(bytes),
            range,
        }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        // `new` has checked the range.
        &self.owner.as_ref().as_ref()[self.range.clone()]
    }
}
