//! SentencePiece BPE (`tokenizer.ggml.model = "llama"`): spaces are "▁", the pair whose joined
//! text is the token with the highest score merges first, the rest falls back to bytes.
//!
//! The file has scores and no merges. Deriving half a million merges at every start (what the
//! `tokenizers` crate's BPE would need) takes seconds; looking the joined text up takes nothing.
//!
//! Merging runs word by word although the algorithm knows no words: where no token of the
//! vocabulary has the text's "x▁" inside, no merge can cross it, so the cut changes nothing but
//! the speed (small queues that stay in cache).

use std::collections::BTreeSet;

use gguf_rs_lite::GgufFile;

use super::VISIBLE_SPACE;
use super::merge::Merger;
use super::vocab::{Vocab, read_scores};
use crate::text::TextError;

/// What merging needs beside the vocabulary.
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

    /// Appends the tokens of `text`, whose spaces are already "▁".
    pub fn encode(
        &self,
        vocab: &Vocab,
        merger: &mut Merger,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let priority = |joined: &str, _| Some(self.priorities[vocab.find(joined)? as usize]);
        let mut failed = None;
        for word in self.words(text) {
            // Only a single character can be no token.
            merger.run(word, priority, |piece| match vocab.find(piece) {
                Some(id) => out.push(id),
                None => failed = failed.or(self.encode_bytes(vocab, piece, out).err()),
            });
        }
        failed.map_or(Ok(()), |character| Err(TextError::Unencodable { character }))
    }

    /// Parts of `text` that no merge can cross.
    fn words<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let cuts = text.match_indices(VISIBLE_SPACE).map(|(at, _)| at).filter(move |&at| {
            let before = text[..at].chars().next_back();
            before.is_some_and(|c| c != '▁' && !self.before_space.contains(&c))
        });
        let mut start = 0;
        cuts.chain([text.len()]).map(move |cut| &text[std::mem::replace(&mut start, cut)..cut])
    }

    /// A character that is no token: its bytes, else the unknown token.
    fn encode_bytes(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) -> Result<(), char> {
        let bytes = piece.bytes().map(|byte| self.byte_ids[usize::from(byte)]);
        if let Some(ids) = bytes.collect::<Option<Vec<_>>>() {
            out.extend(ids);
            return Ok(());
        }
        out.push(vocab.special.unknown.ok_or(piece.chars().next().unwrap_or_default())?);
        Ok(())
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
        let words: Vec<_> = spm.words("▁▁xa▁c▁▁b▁").collect();
        assert_eq!(words, ["▁▁xa▁c", "▁▁b▁"]);
    }

    #[test]
    fn integers_order_as_their_floats() {
        let floats = [f32::NEG_INFINITY, -1000.0, -1.5, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        assert!(floats.map(ordered).is_sorted_by(|a, b| a < b));
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY));
    }
}
