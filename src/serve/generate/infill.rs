//! Prompts for the text between two others, for models that have tokens for it.

use crate::serve::fault::Fault;
use crate::serve::loaded::Loaded;
use crate::text::{EncodeOptions, Tokenizer};

/// Names of the tokens before a prefix, a suffix and the middle, by families.
const TOKENS: &[[&str; 3]] = &[
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
];
/// Names of the tokens before a repository's and a file's name.
const FILES: [&str; 2] = ["<|repo_name|>", "<|file_sep|>"];

/// Tokens that ask for the text between `prefix` and `suffix`; `extra` are other files, with their names.
///
/// # Errors
/// The vocabulary has no such tokens.
pub fn infill(
    loaded: &Loaded,
    prefix: &str,
    suffix: &str,
    extra: &[(String, String)],
) -> Result<Vec<u32>, Fault> {
    let tokenizer = &loaded.tokenizer;
    let id = |name: &str| tokenizer.token_id(name);
    let marks = TOKENS.iter().find_map(|names| {
        let [prefix, suffix, middle] = names.map(id);
        Some([prefix?, suffix?, middle?])
    });
    let [before, after, middle] = marks.ok_or_else(|| {
        Fault::bad("the model has no tokens for a text between two others (infill)")
    })?;
    let mut ids: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    if !extra.is_empty()
        && let [Some(repository), Some(separator)] = FILES.map(id)
    {
        ids.push(repository);
        ids.extend(plain(tokenizer, "myproject\n")?);
        for (name, text) in extra {
            ids.push(separator);
            ids.extend(plain(tokenizer, &format!("{name}\n{text}\n"))?);
        }
        ids.push(separator);
        ids.extend(plain(tokenizer, "filename\n")?);
    }
    ids.push(before);
    ids.extend(plain(tokenizer, prefix)?);
    ids.push(after);
    ids.extend(plain(tokenizer, suffix)?);
    ids.push(middle);
    Ok(ids)
}

fn plain(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Fault> {
    Ok(tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false })?)
}
