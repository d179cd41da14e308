//! The tokens of a vocabulary as GGUF has them: texts, types, scores.

use crate::convert::keys::Keys;
use gguf_rs_lite::{OwnedArray, OwnedValue};

/// Types of tokens in GGUF.
pub(super) mod ty {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// Score of tokens that were added to a vocabulary of SentencePiece, as the reference has it.
const ADDED_SCORE: f32 = -1000.0;
/// Score of ids without a token.
const UNUSED_SCORE: f32 = -10_000.0;
/// A token that was added to a vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) id: usize,
    pub(super) text: String,
    pub(super) special: bool,
    pub(super) strips_right: bool,
}

/// Tokens of the result.
pub(super) struct Table {
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<i32>,
    scores: Vec<f32>,
}

impl Table {
    /// A table of `n` unused tokens.
    pub(super) fn new(n: usize) -> Table {
        let tokens = (0..n).map(|id| format!("[PAD{id}]")).collect();
        Table { tokens, types: vec![ty::UNUSED; n], scores: vec![UNUSED_SCORE; n] }
    }

    pub(super) fn set(&mut self, id: usize, text: &str, ty: i32, score: f32) {
        if id < self.tokens.len() {
            text.clone_into(&mut self.tokens[id]);
            (self.types[id], self.scores[id]) = (ty, score);
        }
    }

    /// Puts added tokens in their places.
    pub(super) fn add(&mut self, added: &[Added]) {
        for token in added {
            match token.special || looks_special(&token.text) {
                true => self.set(token.id, &token.text, ty::CONTROL, ADDED_SCORE),
                false => {
                    let text = token.text.replace('▁', " ");
                    self.set(token.id, &text, ty::USER, ADDED_SCORE);
                }
            }
        }
    }
}

/// Whether a token is structure, though its file does not say so: the reference's rule.
fn looks_special(text: &str) -> bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || (text.starts_with("<|") && text.ends_with("|>"))
        || (text.starts_with("<｜") && text.ends_with("｜>"))
        || (text.starts_with("<unused") && text.ends_with('>'))
}

/// Writes a vocabulary that is cut by merges.
pub(super) fn write_bpe(keys: &mut Keys, table: Table, pre: &str, merges: &[(String, String)]) {
    keys.set("tokenizer.ggml.model", "gpt2");
    keys.set("tokenizer.ggml.pre", pre);
    keys.set("tokenizer.ggml.tokens", table.tokens);
    keys.set("tokenizer.ggml.token_type", OwnedValue::Array(OwnedArray::I32(table.types)));
    // A space within a token is spelled as bytes are.
    let spelled = |text: &str| text.replace(' ', "Ġ");
    let merges: Vec<String> =
        merges.iter().map(|(a, b)| format!("{} {}", spelled(a), spelled(b))).collect();
    keys.set("tokenizer.ggml.merges", merges);
}

/// Writes a vocabulary whose tokens have scores.
pub(super) fn write_scored(keys: &mut Keys, table: Table, model: &str) {
    keys.set("tokenizer.ggml.model", model);
    keys.set("tokenizer.ggml.pre", "default");
    keys.set("tokenizer.ggml.tokens", table.tokens);
    keys.set("tokenizer.ggml.scores", OwnedValue::Array(OwnedArray::F32(table.scores)));
    keys.set("tokenizer.ggml.token_type", OwnedValue::Array(OwnedArray::I32(table.types)));
}
