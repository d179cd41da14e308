//! WordPiece (`tokenizer.ggml.model = "bert"`): words cut at white space, punctuation and around
//! Chinese characters, each into the longest tokens from the left.
//!
//! Normalizer and pre-tokenizer are the crate's, which the models were trained with. In a file a
//! token that begins a word has "▁" in front, one inside a word nothing.

use gguf_rs_lite::GgufFile;
use tokenizers::Token;
use tokenizers::normalizers::BertNormalizer;

use super::VISIBLE_SPACE;
use super::prefixes::PrefixIndex;
use super::vocab::{Vocab, token_too_long};
use crate::text::TextError;

/// Words of more characters than this are unknown, as in the models' own tokenizer.
const WORD_CHARS_MAX: usize = 100;

/// Tables that matching needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct WordPiece {
    index: PrefixIndex,
    unknown: u32,
}

/// Cleaning of text, by the file's flags: lower case unless they say otherwise, and without accents
/// if in lower case.
pub(super) fn normalizer(file: &GgufFile) -> BertNormalizer {
    let flag = |key| file.get(key).and_then(|value| value.as_bool());
    let lowercase = flag("tokenizer.ggml.normalizer.lowercase").unwrap_or(true);
    let strip_accents = flag("tokenizer.ggml.normalizer.strip_accents");
    BertNormalizer::new(true, true, strip_accents, lowercase)
}

impl WordPiece {
    pub fn new(vocab: &Vocab) -> Result<Self, TextError> {
        let tokens = (0..vocab.len() as u32).filter_map(|id| Some((id, vocab.str(id)?)));
        let index = PrefixIndex::new(tokens).map_err(|_| token_too_long())?;
        let unknown = vocab.special.unknown;
        let unknown = unknown.ok_or(TextError::MissingKey("tokenizer.ggml.unknown_token_id"))?;
        Ok(Self { index, unknown })
    }

    /// The tokens of a word: the unknown token alone if some part of it is none.
    pub fn tokenize(&self, vocab: &Vocab, spelled: &mut String, word: &str) -> Vec<Token> {
        spelled.clear();
        spelled.extend([VISIBLE_SPACE, word]);
        let tokens = self.pieces(vocab, spelled).filter(|_| word.chars().count() <= WORD_CHARS_MAX);
        tokens.unwrap_or_else(|| vec![vocab.token(self.unknown, (0, word.len()))])
    }

    fn pieces(&self, vocab: &Vocab, spelled: &str) -> Option<Vec<Token>> {
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < spelled.len() {
            let rest = &spelled[at..];
            // Only what begins a word begins with "▁", and it is more than that.
            let marked = if rest.starts_with(VISIBLE_SPACE) { VISIBLE_SPACE.len() } else { 0 };
            let (bytes, id) = self.index.longest(rest.as_bytes())?;
            if (marked > 0) != (at == 0) || bytes <= marked {
                return None;
            }
            let word_at = |at: usize| at.saturating_sub(VISIBLE_SPACE.len());
            tokens.push(vocab.token(id, (word_at(at), word_at(at + bytes))));
            at += bytes;
        }
        Some(tokens)
    }
}
