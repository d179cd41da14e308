//! SentencePiece BPE (`tokenizer.ggml.model = "llama"`): spaces are "▁", the pair whose joined
//! text is the token with the highest score merges first, the rest falls back to bytes.
//!
//! The file has scores and no merges. Deriving half a million merges at every start (what the
//! `tokenizers` crate's BPE would need) takes seconds; looking the joined text up takes nothing.

use gguf_rs_lite::GgufFile;

use super::merge::Merger;
use super::vocab::{Vocab, read_scores};
use crate::text::TextError;

/// What merging needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    /// Score per token as an integer of the same order.
    priorities: Vec<u32>,
    byte_ids: [Option<u32>; 256],
}

impl Spm {
    pub fn read(file: &GgufFile, vocab: &Vocab) -> Result<Self, TextError> {
        let scores = read_scores(file, vocab.len())?;
        let priorities = scores.into_iter().map(ordered).collect();
        Ok(Self { priorities, byte_ids: vocab.byte_ids() })
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
        merger.run(text, priority, |piece| match vocab.find(piece) {
            Some(id) => out.push(id),
            None => failed = failed.or(self.encode_bytes(vocab, piece, out).err()),
        });
        // Only a single character can be no token.
        failed.map_or(Ok(()), |character| Err(TextError::Unencodable { character }))
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
    fn integers_order_as_their_floats() {
        let floats = [f32::NEG_INFINITY, -1000.0, -1.5, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        assert!(floats.map(ordered).is_sorted_by(|a, b| a < b));
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY));
    }
}
