//! A text cut into chunks of one length, as llama.cpp's tools cut it: tokenized once with BOS in front
//! if the vocabulary adds one, the first token of every chunk replaced by BOS, a tail shorter than a
//! chunk dropped.

use super::EvalError;
use crate::model::Fnv;
use crate::text::{EncodeOptions, Tokenizer};

/// Tokens in a chunk, at least: the second half has a token that is predicted then.
pub const N_CTX_MIN: usize = 4;

/// The tokens of a text in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<u32>,
    n_ctx: usize,
}

impl Chunks {
    /// Chunks of `n_ctx` tokens of a text, whose names of control tokens stay text.
    ///
    /// # Errors
    /// The text cannot be tokenized or fills no chunk, or `n_ctx` is less than [`N_CTX_MIN`].
    pub fn of_text(tokenizer: &Tokenizer, text: &str, n_ctx: usize) -> Result<Chunks, EvalError> {
        // No EOS at the end: it would be a chunk's last token or be dropped.
        let plain = EncodeOptions { add_special: false, parse_special: false };
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(tokenizer.encode(text, plain)?);
        Chunks::of_tokens(tokens, bos, n_ctx)
    }

    /// Chunks of `n_ctx` tokens, the first of each replaced by `bos` if there is one.
    ///
    /// # Errors
    /// The tokens fill no chunk, or `n_ctx` is less than [`N_CTX_MIN`].
    pub fn of_tokens(
        mut tokens: Vec<u32>,
        bos: Option<u32>,
        n_ctx: usize,
    ) -> Result<Chunks, EvalError> {
        if n_ctx < N_CTX_MIN {
            return Err(EvalError::ContextTooShort { n_ctx });
        }
        let n_tokens = tokens.len();
        if n_tokens < n_ctx {
            return Err(EvalError::TooFewTokens { n_tokens, n_ctx });
        }
        tokens.truncate(n_tokens / n_ctx * n_ctx);
        if let Some(bos) = bos {
            tokens.iter_mut().step_by(n_ctx).for_each(|token| *token = bos);
        }
        Ok(Chunks { tokens, n_ctx })
    }

    /// Keeps the first `n` chunks at most, at least one.
    pub fn truncate(&mut self, n: usize) {
        self.tokens.truncate(n.max(1).saturating_mul(self.n_ctx));
    }

    /// Number of chunks.
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Tokens in a chunk.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The chunks in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.n_ctx)
    }

    /// Position of the first token whose prediction of the next one is scored: the model has seen half
    /// a chunk there.
    pub fn first_scored(&self) -> usize {
        self.n_ctx / 2
    }

    /// Predictions scored in a chunk; the last token predicts what is in the next chunk.
    pub fn n_scored(&self) -> usize {
        self.n_ctx - 1 - self.first_scored()
    }

    /// Number by which the chunks are recognised, a hash of their length and tokens.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.update(&(self.n_ctx as u64).to_le_bytes());
        self.tokens.iter().for_each(|token| hash.update(&token.to_le_bytes()));
        hash.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_begin_with_bos_and_the_tail_is_dropped() {
        let chunks = Chunks::of_tokens((10..21).collect(), Some(1), 5).unwrap();
        let all: Vec<_> = chunks.iter().collect();
        assert_eq!(all, [[1, 11, 12, 13, 14], [1, 16, 17, 18, 19]]);
        assert_eq!((chunks.first_scored(), chunks.n_scored()), (2, 2));
        let mut plain = Chunks::of_tokens((10..21).collect(), None, 4).unwrap();
        assert_eq!(plain.len(), 2);
        assert_eq!((plain.first_scored(), plain.n_scored()), (2, 1));
        plain.truncate(1);
        assert_eq!(plain.iter().collect::<Vec<_>>(), [[10, 11, 12, 13]]);
    }

    #[test]
    fn texts_that_fill_no_chunk_are_refused() {
        let few = Chunks::of_tokens(vec![1; 7], None, 8);
        assert!(matches!(few, Err(EvalError::TooFewTokens { n_tokens: 7, n_ctx: 8 })));
        let short = Chunks::of_tokens(vec![1; 7], None, 3);
        assert!(matches!(short, Err(EvalError::ContextTooShort { n_ctx: 3 })));
    }

    #[test]
    fn fingerprints_tell_lengths_and_tokens() {
        let of = |tokens: &[u32], n_ctx| {
            Chunks::of_tokens(tokens.to_vec(), None, n_ctx).unwrap().fingerprint()
        };
        let eight = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(of(&eight, 4), of(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 4));
        assert_ne!(of(&eight, 4), of(&eight, 8));
        assert_ne!(of(&eight, 4), of(&[1, 2, 3, 4, 5, 6, 7, 9], 4));
    }
}
