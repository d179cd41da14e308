//! PLaMo 2 (`tokenizer.ggml.model = "plamo2"`): as Unigram, the tokens with the greatest sum of
//! scores, but found from the end, in integers, with bytes for characters that are no token.

use gguf_rs_lite::GgufFile;
use tokenizers::Token;

use super::prefixes::PrefixIndex;
use super::vocab::{Vocab, attr, read_scores, token_too_long};
use crate::text::TextError;

/// Scores are counted in these.
const SCORE_UNIT: f64 = 1e-4;
/// Score of a character that is no token.
const UNKNOWN_SCORE: i64 = -10_000_000;
/// Tokens at or below this are not used.
const SCORE_MIN: i64 = -20_000_000;

/// Tables that the search needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Plamo {
    index: PrefixIndex,
    scores: Vec<i64>,
    byte_ids: [u32; 256],
}

impl Plamo {
    pub fn read(file: &GgufFile, vocab: &Vocab) -> Result<Self, TextError> {
        let scores = read_scores(file, vocab.len())?.into_iter();
        let scores = scores.map(|score| match score.is_finite() {
            // 32 bits, so that no sum overflows.
            true => i64::from((f64::from(score) / SCORE_UNIT).round() as i32),
            false => SCORE_MIN,
        });
        let scores: Vec<_> = scores.collect();
        // Control tokens and bytes are never made from text.
        let hidden = attr::CONTROL | attr::UNKNOWN | attr::BYTE;
        let ids = (0..vocab.len() as u32).filter(|&id| vocab.attr(id) & hidden == 0);
        let ids = ids.filter(|&id| scores[id as usize] > SCORE_MIN);
        let tokens = ids.filter_map(|id| Some((id, vocab.str(id)?)));
        let index = PrefixIndex::new(tokens).map_err(|_| token_too_long())?;
        let mut byte_ids = [0; 256];
        for (id, found) in byte_ids.iter_mut().zip(vocab.byte_ids()) {
            *id = found.ok_or_else(|| TextError::BadKey {
                key: "tokenizer.ggml.tokens",
                need: "a list with a token for every byte".to_owned(),
            })?;
        }
        Ok(Self { index, scores, byte_ids })
    }

    /// The tokens of a text; a byte order mark at its start is dropped.
    pub fn tokenize(&self, vocab: &Vocab, text: &str) -> Vec<Token> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // The sum of scores from each place to the end, and the first step on that way.
        let mut best = vec![(i64::MIN, 0, None); text.len() + 1];
        best[text.len()].0 = 0;
        for (at, character) in text.char_indices().rev() {
            let matches: Vec<_> = self.index.matches(&text.as_bytes()[at..]).collect();
            // Longer ones win among equals.
            let known = matches.into_iter().rev();
            let known = known.map(|(bytes, id)| (bytes, Some(id), self.scores[id as usize]));
            for (bytes, id, score) in known.chain([(character.len_utf8(), None, UNKNOWN_SCORE)]) {
                let sum = best[at + bytes].0 + score;
                if sum > best[at].0 {
                    best[at] = (sum, bytes, id);
                }
            }
        }
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let (_, bytes, id) = best[at];
            let offsets = (at, at + bytes);
            match id {
                Some(id) => tokens.push(vocab.token(id, offsets)),
                None => tokens.extend(
                    text[at..at + bytes]
                        .bytes()
                        .map(|byte| vocab.token(self.byte_ids[usize::from(byte)], offsets)),
                ),
            }
            at += bytes;
        }
        tokens
    }
}
