//! Bytes that several own together: a part of a mapped file, or of a buffer.

use std::ops::Range;
use std::sync::Arc;

/// What bytes may belong to.
pub(crate) type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A part of an owner's bytes, which lives as long as somebody holds it.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    owner: Owner,
    range: Range<usize>,
}

impl SharedBytes {
    /// `None` if the owner does not have this range.
    pub fn new(owner: Owner, range: Range<usize>) -> Option<Self> {
        owner.as_ref().as_ref().get(range.clone())?;
        Some(Self { owner, range })
    }

    /// No bytes, for a place that is never looked at.
    pub fn empty() -> Self {
        Self {
            owner: Arc::new([0u8; 0]),
            range: 0..0,
        }
    }

    /// Elements of another type, whose size and alignment the bytes must have.
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
        // `new` has made sure that there is such a range.
        &self.owner.as_ref().as_ref()[self.range.clone()]
    }
}
