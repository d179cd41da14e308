//! What filters ask of a vocabulary: the seam to tokenizers, of which this room knows none.

use std::fmt;

/// Texts of tokens.
pub trait Vocabulary: fmt::Debug + Send + Sync {
    /// Number of tokens.
    fn len(&self) -> usize;

    /// Whether there is no token.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that a token adds to an answer; none of one that is structure and not text.
    fn bytes(&self, token: u32) -> Vec<u8>;

    /// Whether an answer ends with a token.
    fn ends_answer(&self, token: u32) -> bool;

    /// The token that ends an answer where any does.
    fn end(&self) -> Option<u32>;
}
