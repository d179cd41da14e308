//! BPE with ranked merges (`tokenizer.ggml.model = "gpt2"`, `"gemma4"`): words from the
//! pre-tokenizer, spelled in GPT-2's byte alphabet (or as UTF-8 with "▁"), merged by rank.
//!
//! Merges stay strings `left right`, found by hash: building is one hash per merge (llama-bpe's
//! 280,000 take some 15 ms), and files whose merges name texts outside the vocabulary work.

use std::borrow::Cow;

use gguf_rs_lite::GgufFile;
use tokenizers::Token;

use super::byte_level;
use super::merge::Scratch;
use super::pre::Pre;
use super::table::StrTable;
use super::vocab::{Vocab, bad_strings, name_of_bytes, too_large};
use crate::text::TextError;

const MERGES: &str = "tokenizer.ggml.merges";

/// Tables that merging needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pre: &'static Pre,
    /// `left right` in order of rank.
    merges: StrTable,
    /// Tokens for the bytes of a piece that is no token.
    byte_ids: [Option<u32>; 256],
}

impl Bpe {
    pub fn read(file: &GgufFile, vocab: &Vocab, pre: &'static Pre) -> Result<Self, TextError> {
        let value = file.get(MERGES).ok_or(TextError::MissingKey(MERGES))?;
        let array = value.as_array();
        let merges = match array.and_then(|array| array.strs()) {
            Some(strings) => StrTable::first_wins(strings),
            None => {
                let strings = array.and_then(|array| array.byte_strs());
                let strings = strings.ok_or_else(|| bad_strings(MERGES))?;
                // What is not UTF-8 is never found in a text, but has a rank.
                StrTable::first_wins(strings.map(|bytes| {
                    let text = std::str::from_utf8(bytes).map(Cow::Borrowed);
                    text.unwrap_or_else(|_| Cow::Owned(name_of_bytes(bytes)))
                }))
            }
        };
        let merges = merges.map_err(|_| too_large(MERGES))?;
        let byte_ids = if pre.byte_level {
            // As in llama.cpp, such a piece gives one token per ASCII byte of its spelling.
            std::array::from_fn(|byte| {
                let ascii = u8::try_from(byte).ok().filter(u8::is_ascii)?;
                vocab.find(char::from(ascii).encode_utf8(&mut [0; 4]))
            })
        } else {
            vocab.byte_ids()
        };
        Ok(Self { pre, merges, byte_ids })
    }

    pub fn pre(&self) -> &'static Pre {
        self.pre
    }

    /// The tokens of a word.
    pub fn tokenize(&self, vocab: &Vocab, scratch: &mut Scratch, word: &str) -> Vec<Token> {
        let Scratch { merger, spelled, joined } = scratch;
        spelled.clear();
        if self.pre.byte_level {
            byte_level::encode(word, spelled);
        } else {
            spelled.push_str(word);
        }
        let whole =
            self.pre.ignore_merges || (self.pre.gemma4 && word.bytes().all(|byte| byte == b'\n'));
        if let Some(id) = whole.then(|| vocab.find(spelled)).flatten() {
            return vec![vocab.token(id, (0, word.len()))];
        }
        let rank = |pair: &str, split: usize| {
            let (left, right) = pair.split_at(split);
            // The first space after the first byte is the separator in a merge.
            if left.len() > 1 && left.as_bytes()[1..].contains(&b' ') {
                return None;
            }
            let mut key = joined.borrow_mut();
            key.clear();
            key.extend([left, " ", right]);
            self.merges.find(&key).map(|rank| u32::MAX - rank)
        };
        let (mut tokens, mut end) = (Vec::new(), 0);
        merger.run(spelled, rank, |piece| {
            // One character of the alphabet spells one byte.
            let bytes = if self.pre.byte_level { piece.chars().count() } else { piece.len() };
            let offsets = (end, end + bytes);
            end += bytes;
            match vocab.find(piece) {
                Some(id) => tokens.push(vocab.token(id, offsets)),
                None => {
                    let ids = piece.bytes().filter_map(|b| self.byte_ids[usize::from(b)]);
                    tokens.extend(ids.map(|id| vocab.token(id, offsets)));
                }
            }
        });
        tokens
    }
}
