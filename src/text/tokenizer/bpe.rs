//! BPE with ranked merges (`tokenizer.ggml.model = "gpt2"`, `"gemma4"`): words from the
//! pre-tokenizer, spelled in GPT-2's byte alphabet (or as UTF-8 with "▁"), merged by rank.
//!
//! Merges stay strings `left right`, found by hash: building is one hash per merge (llama-bpe's
//! 280,000 take some 15 ms), and files whose merges name texts outside the vocabulary work.

use gguf_rs_lite::GgufFile;

use super::byte_level;
use super::merge::Merger;
use super::pre::{Pre, Splitter};
use super::table::StrTable;
use super::vocab::{Vocab, bad_strings, too_large};
use crate::text::TextError;

const MERGES: &str = "tokenizer.ggml.merges";

/// What merging needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pre: &'static Pre,
    splitter: Splitter,
    /// `left right` in order of rank.
    merges: StrTable,
    /// Tokens for the bytes of a piece that is no token.
    byte_ids: [Option<u32>; 256],
}

/// Buffers reused from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    spelled: String,
    joined: std::cell::RefCell<String>,
}

impl Bpe {
    pub fn read(file: &GgufFile, vocab: &Vocab, pre: &'static Pre) -> Result<Self, TextError> {
        let value = file.get(MERGES).ok_or(TextError::MissingKey(MERGES))?;
        let strings = value.as_array().and_then(|array| array.strs());
        let strings = strings.ok_or_else(|| bad_strings(MERGES))?;
        let merges = StrTable::first_wins(strings).map_err(|_| too_large(MERGES))?;
        let byte_ids = if pre.byte_level {
            // As in llama.cpp, such a piece gives one token per ASCII byte of its spelling.
            std::array::from_fn(|byte| {
                let ascii = u8::try_from(byte).ok().filter(u8::is_ascii)?;
                vocab.find(char::from(ascii).encode_utf8(&mut [0; 4]))
            })
        } else {
            vocab.byte_ids()
        };
        Ok(Self { pre, splitter: pre.splitter(), merges, byte_ids })
    }

    pub fn pre(&self) -> &'static Pre {
        self.pre
    }

    /// Appends the tokens of `text`.
    pub fn encode(
        &self,
        vocab: &Vocab,
        merger: &mut Merger,
        scratch: &mut Scratch,
        text: &str,
        out: &mut Vec<u32>,
    ) {
        for word in self.splitter.split(text) {
            scratch.spelled.clear();
            if self.pre.byte_level {
                byte_level::encode(&text[word], &mut scratch.spelled);
            } else {
                scratch.spelled.push_str(&text[word]);
            }
            self.encode_word(vocab, merger, scratch, out);
        }
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        merger: &mut Merger,
        scratch: &Scratch,
        out: &mut Vec<u32>,
    ) {
        let word = &scratch.spelled;
        let whole =
            self.pre.ignore_merges || (self.pre.gemma4 && word.bytes().all(|byte| byte == b'\n'));
        if let Some(id) = whole.then(|| vocab.find(word)).flatten() {
            out.push(id);
            return;
        }
        let rank = |joined: &str, split: usize| {
            let (left, right) = joined.split_at(split);
            let mut key = scratch.joined.borrow_mut();
            key.clear();
            key.extend([left, " ", right]);
            // The first space after the first byte is the separator in a merge.
            if left.len() > 1 && left.as_bytes()[1..].contains(&b' ') {
                return None;
            }
            self.merges.find(&key).map(|rank| u32::MAX - rank)
        };
        merger.run(word, rank, |piece| match vocab.find(piece) {
            Some(id) => out.push(id),
            None => out.extend(piece.bytes().filter_map(|b| self.byte_ids[usize::from(b)])),
        });
    }
}
