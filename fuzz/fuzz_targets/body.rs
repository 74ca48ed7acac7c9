//! What every target does with its bytes.

use photosearch_image::{ImageError, Limits, open};

/// Decodes `bytes` in full and made smaller, where they begin as a file of the target's formats
/// does. Little memory is allowed, so that a decoder which takes more than it counted shows, and no
/// input takes long.
pub fn decode(bytes: &[u8], begins: impl Fn(&[u8]) -> bool) {
    if !begins(bytes) {
        return;
    }
    let limits = Limits {
        max_memory: 32 << 20,
        ..Limits::default()
    };
    let Ok(picture) = open(bytes, &limits) else {
        return;
    };
    let size = picture.size();
    match picture.decode(None, &|| false) {
        Ok(image) => assert_eq!((image.width(), image.height()), size),
        Err(ImageError::Malformed { reason, .. }) => assert_ne!(reason, "the decoder failed"),
        Err(_) => {}
    }
    if let Ok(picture) = open(bytes, &limits)
        && let Ok(image) = picture.decode_to(24, 16, &|| false)
    {
        assert_eq!((image.width(), image.height()), (24, 16));
    }
}
