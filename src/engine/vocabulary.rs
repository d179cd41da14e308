//! A tokenizer as the sampler sees it: texts of tokens.

use crate::sample::Vocabulary;
use crate::text::Tokenizer;
use std::fmt;
use std::sync::Arc;

/// Texts of a tokenizer's tokens.
pub(super) struct Texts(Arc<Tokenizer>);

impl Texts {
    /// The texts, for the sampler.
    pub fn of(tokenizer: &Arc<Tokenizer>) -> Arc<dyn Vocabulary> {
        Arc::new(Texts(tokenizer.clone()))
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts").field("n", &self.0.vocab_size()).finish()
    }
}

impl Vocabulary for Texts {
    fn len(&self) -> usize {
        self.0.vocab_size()
    }

    fn bytes(&self, token: u32) -> Vec<u8> {
        // As answers are made: see `TextStream`.
        if self.0.is_control(token) { Vec::new() } else { self.0.token_bytes(token) }
    }

    fn ends_answer(&self, token: u32) -> bool {
        self.0.is_end_of_generation(token)
    }

    fn end(&self) -> Option<u32> {
        self.0.eos().or_else(|| self.0.end_of_generation().first().copied())
    }
}
