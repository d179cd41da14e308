//! The vocabulary of the first Qwen: bytes of tokens in base64 with their ranks, as OpenAI's tiktoken reads
//! them. Two tokens are joined if what comes of it has a rank, the lowest one first; so the merges that
//! `tokenizer.json` would have are read off the ranks.

use super::{TOKENS_MAX, base64};
use crate::text::byte_alphabet;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Name of the file.
pub(super) const FILE: &str = "qwen.tiktoken";

/// Bytes of a token at most: several times those of the longest, a run of spaces.
const TOKEN_BYTES_MAX: usize = 1024;

/// How texts are cut into words, as by Qwen 2.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Tokens behind the ranks that stand for no text; as many more have only numbers.
const SPECIAL: &[&str] = &["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const EXTRA: usize = 205;

/// The `tokenizer.json` of such a list; `config` gets the roles that it does not have.
///
/// # Errors
/// A line has no token and its rank, or a token is not made of two others.
pub(super) fn tokenizer(list: &str, config: &mut Value) -> Result<Value, String> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (number, line) in list.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = || format!("line {}: no token in base64 and its rank", number + 1);
        let (token, rank) = line.split_once(' ').ok_or_else(bad)?;
        let token = base64(token).filter(|token| !token.is_empty()).ok_or_else(bad)?;
        let is_next = rank.trim().parse() == Ok(tokens.len());
        if !is_next || token.len() > TOKEN_BYTES_MAX || tokens.len() >= TOKENS_MAX {
            return Err(bad());
        }
        tokens.push(token);
    }
    let ranks: HashMap<&[u8], usize> =
        tokens.iter().enumerate().map(|(rank, token)| (&token[..], rank)).collect();
    let (mut vocab, mut merges) = (Map::new(), Vec::new());
    for (rank, token) in tokens.iter().enumerate() {
        let text = byte_alphabet(token);
        if token.len() > 1 {
            let halves = halves(token, rank, &ranks);
            let at = halves.ok_or_else(|| format!("token {rank} is not made of two others"))?;
            let (a, b) = token.split_at(at);
            merges.push(json!([byte_alphabet(a), byte_alphabet(b)]));
        }
        vocab.insert(text, Value::from(rank));
    }
    let extra = (0..EXTRA).map(|i| format!("<|extra_{i}|>"));
    let special = SPECIAL.iter().map(|&text| text.to_owned()).chain(extra);
    let added = special
        .enumerate()
        .map(|(i, text)| json!({"id": tokens.len() + i, "content": text, "special": true}));
    let added: Vec<Value> = added.collect();
    for role in ["bos_token", "eos_token", "unk_token"] {
        if config.get(role).is_none() {
            config[role] = Value::from(SPECIAL[0]);
        }
    }
    Ok(json!({
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

/// Where the two tokens meet that the last merge of a token joins: of all that have lower ranks, the lowest
/// first.
fn halves(token: &[u8], rank: usize, ranks: &HashMap<&[u8], usize>) -> Option<usize> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let joined = |i: usize| ranks.get(&token[ends[i]..ends[i + 2]]).copied();
        let all = (0..ends.len() - 2).filter_map(|i| Some((joined(i)?, i)));
        let (_, first) = all.filter(|(joined, _)| *joined < rank).min()?;
        ends.remove(first + 1);
    }
    let both = ends.windows(2).all(|pair| ranks.contains_key(&token[pair[0]..pair[1]]));
    (ends.len() == 3 && both).then(|| ends[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_read_off_ranks() {
        // a b c ab abc " a"
        let list = "YQ== 0\nYg== 1\nYw== 2\nIA== 3\nYWI= 4\nYWJj 5\nIGE= 6\n";
        let mut config = json!({"eos_token": "x"});
        let tokenizer = tokenizer(list, &mut config).expect("it reads");
        assert_eq!(
            tokenizer["model"]["merges"],
            json!([["a", "b"], ["ab", "c"], ["\u{120}", "a"]])
        );
        assert_eq!(tokenizer["model"]["vocab"]["\u{120}a"], json!(6));
        assert_eq!(tokenizer["added_tokens"][2]["id"], json!(9));
        assert_eq!(config["eos_token"], json!("x"));
        assert_eq!(config["bos_token"], json!("<|endoftext|>"));
        for bad in ["YQ==", "YQ== 1", "!! 0", "YQ== 0\nYWI= 1"] {
            assert!(super::tokenizer(bad, &mut Value::Null.clone()).is_err(), "{bad}");
        }
    }
}
