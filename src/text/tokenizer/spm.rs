//! SentencePiece BPE (`tokenizer.ggml.model = "llama"`): spaces are "▁", the pair whose joined
//! text is the token with the highest score merges first, the rest falls back to bytes.
//!
//! The file has scores and no merges. Deriving half a million merges at every start (what the
//! `tokenizers` crate's own BPE needs) takes seconds; looking the joined text up takes nothing.
//!
//! Merging runs word by word although the algorithm knows no words: where no token of the
//! vocabulary has the text's "x▁" inside, no merge can cross it, so the cut changes nothing but
//! the speed (small queues that stay in cache).

use std::collections::BTreeSet;

use gguf_rs_lite::GgufFile;
use tokenizers::Token;

use super::VISIBLE_SPACE;
use super::merge::Scratch;
use super::vocab::{Vocab, read_scores};
use crate::text::TextError;

/// Tables that merging needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    /// Score per token as an integer of the same order.
    priorities: Vec<u32>,
    byte_ids: [Option<u32>; 256],
    /// Characters that stand before "▁" inside some token: no cut behind these.
    before_space: BTreeSet<char>,
}

impl Spm {
    pub fn read(file: &GgufFile, vocab: &Vocab) -> Result<Self, TextError> {
        let scores = read_scores(file, vocab.len())?;
        let priorities = scores.into_iter().map(ordered).collect();
        let tokens = (0..vocab.len() as u32).filter_map(|id| vocab.str(id));
        let before_space = tokens.flat_map(before_spaces).collect();
        Ok(Self { priorities, byte_ids: vocab.byte_ids(), before_space })
    }

    /// The tokens of `text`, whose spaces are already "▁".
    pub fn tokenize(
        &self,
        vocab: &Vocab,
        scratch: &mut Scratch,
        text: &str,
    ) -> Result<Vec<Token>, TextError> {
        let priority = |joined: &str, _| Some(self.priorities[vocab.find(joined)? as usize]);
        let (mut tokens, mut end) = (Vec::with_capacity(text.len() / 3 + 1), 0);
        let (mut start, mut failed) = (0, None);
        for cut in self.word_starts(text, 0).chain([text.len()]) {
            // Only a single character can be no token.
            scratch.merger.run(&text[start..cut], priority, |piece| {
                let offsets = (end, end + piece.len());
                end = offsets.1;
                match vocab.find(piece) {
                    Some(id) => tokens.push(vocab.token(id, offsets)),
                    None => match self.fallback(vocab, piece) {
                        Ok(ids) => tokens.extend(ids.iter().map(|&id| vocab.token(id, offsets))),
                        Err(character) => failed = failed.or(Some(character)),
                    },
                }
            });
            start = cut;
        }
        failed.map_or(Ok(tokens), |character| Err(TextError::Unencodable { character }))
    }

    /// Cuts of a long text at least `size` apart; its spaces may be either kind.
    pub fn cuts(&self, text: &str, size: usize) -> Vec<usize> {
        let next = |from: usize| {
            let from = text.floor_char_boundary(from.saturating_add(size));
            self.word_starts(text, from).next()
        };
        std::iter::successors(next(0), |&cut| next(cut)).collect()
    }

    /// Positions behind `from`, except the start, that no merge can cross.
    fn word_starts(&self, text: &str, from: usize) -> impl Iterator<Item = usize> {
        let spaces = text[from..].match_indices([' ', '▁']).map(move |(at, _)| from + at);
        spaces.filter(move |&at| {
            let before = text[..at].chars().next_back();
            before.is_some_and(|c| c != ' ' && c != '▁' && !self.before_space.contains(&c))
        })
    }

    /// A character that is no token: its bytes, else the unknown token.
    fn fallback(&self, vocab: &Vocab, piece: &str) -> Result<Vec<u32>, char> {
        let bytes = piece.bytes().map(|byte| self.byte_ids[usize::from(byte)]);
        if let Some(ids) = bytes.collect() {
            return Ok(ids);
        }
        let unknown = vocab.special.unknown;
        unknown.map(|id| vec![id]).ok_or(piece.chars().next().unwrap_or_default())
    }
}

/// The characters right before each "▁" of a token, other than itself.
fn before_spaces(token: &str) -> impl Iterator<Item = char> + '_ {
    // By bytes: a string searcher per token would cost more than the search.
    let inside = token.as_bytes().windows(VISIBLE_SPACE.len()).enumerate().skip(1);
    let spaces = inside.filter(|(_, bytes)| *bytes == VISIBLE_SPACE.as_bytes());
    spaces.filter_map(|(at, _)| token[..at].chars().next_back()).filter(|&c| c != '▁')
}

/// Maps floats to integers of the same order; the zeros are equal, NaN is the lowest.
fn ordered(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_only_where_no_token_reaches_across() {
        let before_space = before_spaces("a▁b▁▁c").chain(before_spaces("▁d")).collect();
        assert_eq!(before_space, BTreeSet::from(['a', 'b']));
        let spm = Spm { priorities: Vec::new(), byte_ids: [None; 256], before_space };
        let text = "▁▁xa▁c▁▁b▁";
        let starts: Vec<_> = spm.word_starts(text, 0).collect();
        assert_eq!(starts, [text.find("▁▁b").unwrap()]);
        let text = "xx xx a xx  xx";
        assert_eq!(spm.cuts(text, 1), [2, 5, 10]);
        assert_eq!(spm.cuts(text, 3), [5, 10]);
    }

    #[test]
    fn integers_order_as_their_floats() {
        let floats = [f32::NEG_INFINITY, -1000.0, -1.5, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        assert!(floats.map(ordered).is_sorted_by(|a, b| a < b));
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY));
    }
}
