//! Unigram (`tokenizer.ggml.model = "t5"`, Kudo, arXiv:1804.10959): of all ways to write a text in
//! tokens the one with the greatest sum of scores, found by dynamic programming (Viterbi).
//!
//! Before that SentencePiece's rules apply: its table of replacements, which comes compiled in the
//! file, then spaces, which become "▁". Cost: 16 bytes per byte of text, and one step per token
//! that some part of the text begins with.

use gguf_rs_lite::GgufFile;
use tokenizers::Token;

use super::VISIBLE_SPACE;
use super::prefixes::PrefixIndex;
use super::vocab::{Vocab, attr, read_scores, token_too_long};
use crate::text::TextError;

/// A character that is no token costs this more than the worst token (SentencePiece's constant).
const UNKNOWN_PENALTY: f32 = 10.0;
const REPLACEMENTS: &str = "tokenizer.ggml.precompiled_charsmap";

/// Tables that the search needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Unigram {
    index: PrefixIndex,
    scores: Vec<f32>,
    unknown: u32,
    unknown_score: f64,
}

impl Unigram {
    pub fn read(file: &GgufFile, vocab: &Vocab) -> Result<Self, TextError> {
        let mut scores = read_scores(file, vocab.len())?;
        // Finite, so that every place can be reached.
        for score in &mut scores {
            *score = if score.is_nan() { f32::MIN } else { score.clamp(f32::MIN, f32::MAX) };
        }
        let ids = 0..vocab.len() as u32;
        let normal = ids.clone().filter(|&id| vocab.attr(id) & attr::NORMAL != 0);
        let worst = normal.map(|id| scores[id as usize]).fold(f32::MAX, f32::min);
        // Control tokens and bytes are never made from text.
        let hidden = attr::CONTROL | attr::UNKNOWN | attr::BYTE;
        let shown = ids.filter(|&id| vocab.attr(id) & hidden == 0);
        let tokens = shown.filter_map(|id| Some((id, vocab.str(id)?)));
        let index = PrefixIndex::new(tokens).map_err(|_| token_too_long())?;
        for (id, score) in (0..).zip(&mut scores) {
            if vocab.attr(id) & attr::USER != 0 {
                *score = 0.0; // better than any logarithm of a probability
            }
        }
        let unknown = vocab.special.unknown;
        let unknown = unknown.ok_or(TextError::MissingKey("tokenizer.ggml.unknown_token_id"))?;
        Ok(Self { index, scores, unknown, unknown_score: f64::from(worst - UNKNOWN_PENALTY) })
    }

    /// The tokens of a normalized text. Neighbouring unknown characters are one unknown token.
    pub fn tokenize(&self, vocab: &Vocab, text: &str) -> Vec<Token> {
        let steps = self.best_steps(text);
        let (mut tokens, mut end) = (Vec::new(), text.len());
        let mut was_unknown = false;
        while end > 0 {
            let Step { id, bytes, .. } = steps[end];
            let unknown = id == self.unknown;
            if !(unknown && was_unknown) {
                tokens.push(vocab.token(id, (end - usize::from(bytes), end)));
            }
            was_unknown = unknown;
            end -= usize::from(bytes);
        }
        tokens.reverse();
        tokens
    }

    /// The last step of the best way to each place of the text.
    fn best_steps(&self, text: &str) -> Vec<Step> {
        let start = Step { score: f64::NEG_INFINITY, id: self.unknown, bytes: 0 };
        let mut steps = vec![start; text.len() + 1];
        steps[0].score = 0.0;
        for (at, character) in text.char_indices() {
            let (here, char_bytes) = (steps[at].score, character.len_utf8());
            let mut go = |bytes: usize, id, score: f64| {
                let step = &mut steps[at + bytes];
                if here + score > step.score {
                    *step = Step { score: here + score, id, bytes: bytes as u16 };
                }
            };
            let mut known = false;
            for (bytes, id) in self.index.matches(&text.as_bytes()[at..]) {
                known |= bytes == char_bytes;
                go(bytes, id, self.scores[id as usize].into());
            }
            if !known {
                go(char_bytes, self.unknown, self.unknown_score);
            }
        }
        steps
    }
}

/// Best way to reach a place in the text.
#[derive(Clone, Copy)]
struct Step {
    /// Sum of all scores up to here.
    score: f64,
    id: u32,
    /// The token's length.
    bytes: u16,
}

/// Changes that a text goes through before it is cut.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    replacements: Option<Replacements>,
    /// A space goes before the first word.
    space_prefix: bool,
    /// Runs of spaces become one, those at the ends none.
    merge_spaces: bool,
}

impl Rules {
    pub fn read(file: &GgufFile) -> Result<Rules, TextError> {
        let flag = |key| file.get(key).and_then(|value| value.as_bool()).unwrap_or(false);
        Ok(Rules {
            replacements: Replacements::read(file)?,
            space_prefix: flag("tokenizer.ggml.add_space_prefix"),
            merge_spaces: flag("tokenizer.ggml.remove_extra_whitespaces"),
        })
    }

    /// Whether the first word has a space before it that is not the text's.
    pub fn prefixes(&self) -> bool {
        self.space_prefix || self.merge_spaces
    }

    /// The text with its replacements, and with "▁" for spaces.
    pub fn apply(&self, text: &str) -> Result<String, TextError> {
        let (mut out, mut at) = (String::with_capacity(text.len() * 2), 0);
        let (mut in_word, mut prefixed) = (false, false);
        while let Some(first) = text[at..].chars().next() {
            let own = (first.len_utf8(), &text[at..at + first.len_utf8()]);
            let (bytes, replacement) = match &self.replacements {
                Some(table) => table.longest(&text[at..])?.unwrap_or(own),
                None => own,
            };
            at += bytes;
            for character in replacement.chars() {
                if character == ' ' {
                    in_word = false;
                    if !self.merge_spaces {
                        out.push_str(VISIBLE_SPACE);
                    }
                    continue;
                }
                if !in_word && (self.merge_spaces || (self.space_prefix && !prefixed)) {
                    out.push_str(VISIBLE_SPACE);
                    prefixed = true;
                }
                in_word = true;
                out.push(character);
            }
        }
        Ok(out)
    }
}

/// SentencePiece's compiled replacements: the longest key that a text begins with gives the text
/// that stands for it.
///
/// Keys are in the double array of darts-clone (github.com/s-yata/darts-clone): little-endian words
/// behind their length in bytes. Bits of a word: 0-7 the byte that leads here, 8 whether a key ends
/// here, 10-30 the offset of the children, 9 whether that counts in 256s; bit 31 marks a value,
/// which is a place among the replacements.
#[derive(Clone, Debug)]
struct Replacements {
    words: Vec<u32>,
    /// Each ends with a zero.
    texts: String,
}

impl Replacements {
    fn read(file: &GgufFile) -> Result<Option<Replacements>, TextError> {
        let Some(value) = file.get(REPLACEMENTS) else { return Ok(None) };
        let ints = value.as_array().and_then(|array| array.to_i64s());
        let bytes = ints.and_then(|ints| {
            let byte = |&int: &i64| u8::try_from(int).or(i8::try_from(int).map(|i| i as u8)).ok();
            ints.iter().map(byte).collect::<Option<Vec<u8>>>()
        });
        let bytes = bytes.ok_or_else(|| bad("an array of bytes"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let parsed = bytes.split_first_chunk().and_then(|(&len, rest)| {
            let (words, texts) = rest.split_at_checked(u32::from_le_bytes(len) as usize)?;
            let words = words.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
            Some(Replacements { words, texts: String::from_utf8(texts.to_vec()).ok()? })
        });
        parsed.map(Some).ok_or_else(|| bad("a table of SentencePiece, its length in front"))
    }

    /// The bytes of the longest key that `text` begins with, and what stands for them.
    fn longest(&self, text: &str) -> Result<Option<(usize, &str)>, TextError> {
        let word = |at: u32| self.words.get(at as usize).copied().ok_or_else(damaged);
        let children = |word: u32| (word >> 10) << ((word & (1 << 9)) >> 6);
        let (mut found, mut node) = (None, children(word(0)?));
        for (byte, depth) in text.bytes().zip(1..).take_while(|&(byte, _)| byte != 0) {
            node ^= u32::from(byte);
            let entry = word(node)?;
            if entry & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= children(entry);
            if entry >> 8 & 1 == 1 {
                found = Some((depth, (word(node)? & !(1 << 31)) as usize));
            }
        }
        let Some((bytes, at)) = found else { return Ok(None) };
        let rest = self.texts.get(at..).filter(|_| text.is_char_boundary(bytes));
        let (replacement, _) = rest.and_then(|r| r.split_once('\0')).ok_or_else(damaged)?;
        Ok(Some((bytes, replacement)))
    }
}

fn bad(need: &str) -> TextError {
    TextError::BadKey { key: REPLACEMENTS, need: need.to_owned() }
}

fn damaged() -> TextError {
    bad("a table whose entries lie within it")
}
