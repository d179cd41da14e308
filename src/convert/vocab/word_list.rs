//! Vocabularies of BERT as they were before there was `tokenizer.json`: a word or piece in each line.

use serde_json::{Map, Value, json};

/// Name of the file.
pub(super) const FILE: &str = "vocab.txt";
/// Tokens that stand for no text, and their roles in `tokenizer_config.json`.
const SPECIAL: &[(&str, &str)] = &[
    ("[PAD]", "pad_token"),
    ("[UNK]", "unk_token"),
    ("[CLS]", "cls_token"),
    ("[SEP]", "sep_token"),
    ("[MASK]", "mask_token"),
];

/// The `tokenizer.json` of such a list and its `tokenizer_config.json`, which gets the roles
/// that it does not have; `None` if it is not one of BERT's.
pub(super) fn tokenizer(list: &str, config: &mut Value) -> Option<Value> {
    let words = list.lines().enumerate();
    let vocab: Map<String, Value> =
        words.map(|(id, word)| (word.trim_end().to_owned(), Value::from(id))).collect();
    let id = |word: &str| vocab.get(word).cloned();
    let (start, end) = (id("[CLS]")?, id("[SEP]")?);
    let mut added = Vec::new();
    for (word, role) in SPECIAL {
        let Some(id) = id(word) else { continue };
        added.push(json!({"id": id, "content": word, "special": true}));
        if config.get(role).is_none() {
            config[role] = Value::from(*word);
        }
    }
    let lowercase = config.get("do_lower_case").and_then(Value::as_bool).unwrap_or(true);
    let strips = config.get("strip_accents").and_then(Value::as_bool).unwrap_or(lowercase);
    Some(json!({
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "lowercase": lowercase, "strip_accents": strips},
        "post_processor":
            {"type": "BertProcessing", "sep": ["[SEP]", end], "cls": ["[CLS]", start]},
        "model": {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": vocab},
    }))
}
