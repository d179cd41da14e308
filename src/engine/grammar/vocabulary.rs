//! A tokenizer as the grammar engine sees it: the bytes of every token in a tree.

use super::GrammarError;
use crate::text::{EncodeOptions, Tokenizer};
use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;

/// Longest token that the tree takes: its nodes count up to 1,024 parents. Longer ones are never
/// allowed; there are none but in broken files.
const TOKEN_BYTES_MAX: usize = 1000;
/// Most tokens: nodes have 24 bits for a token's number, and 22 for the nodes below.
const TOKENS_MAX: usize = 1 << 20;
/// Texts that tell whether the tokenizer keeps texts as they are.
const PROBES: [&str; 4] = ["a", " a", "{\"a\": [1, 2.5]}", "\u{e9}\n\n  x"];

/// Tokens of a tokenizer.
pub(super) struct Env {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    /// Whether the model's own tokens of a text have that text: else nothing is forced.
    is_exact: bool,
}

impl Env {
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Env, GrammarError> {
        let refuse = |reason| Err(GrammarError::Vocabulary { reason });
        let ends = tokenizer.end_of_generation();
        let Some(&end) = ends.first() else {
            return refuse("the vocabulary has no token that ends an answer");
        };
        let n = tokenizer.vocab_size();
        if n > TOKENS_MAX {
            return refuse("the vocabulary is larger than grammars can have");
        }
        let words: Vec<Vec<u8>> = (0..n as u32).map(|id| bytes_of(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n as u32, end), &words).with_eos_tokens(ends);
        let mut env = Env { tokenizer: tokenizer.clone(), trie, is_exact: false };
        env.is_exact = PROBES.iter().all(|text| env.own_tokens(text.as_bytes()).is_some());
        Ok(env)
    }

    /// The tokenizer's own tokens of a text, if they have that text.
    fn own_tokens(&self, text: &[u8]) -> Option<Vec<TokenId>> {
        let plain = EncodeOptions { add_special: false, parse_special: false };
        let ids = self.tokenizer.encode(std::str::from_utf8(text).ok()?, plain).ok()?;
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.tokenizer.token_bytes(id)).collect();
        (bytes == text).then_some(ids)
    }
}

/// Bytes of a token in the tree; those of structure are marked.
fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = tokenizer.token_bytes(id);
    if tokenizer.is_control(id) || tokenizer.is_end_of_generation(id) {
        bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    }
    if bytes.len() > TOKEN_BYTES_MAX { Vec::new() } else { bytes }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.own_tokens(text).unwrap_or_else(|| self.trie.greedy_tokenize(text))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_exact
    }
}
