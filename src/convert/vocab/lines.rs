//! Vocabularies of PLaMo 2 and 3: a token in each line, as a list of its text, score and type.

use super::TOKENS_MAX;
use super::table::{Added, Table, ty, write_scored};
use crate::convert::keys::Keys;
use serde_json::Value;

/// Name of the file.
pub(super) const FILE: &str = "tokenizer.jsonl";

/// A token.
pub(super) struct Line {
    pub text: String,
    pub score: f32,
    pub ty: i32,
}

/// The tokens, by their ids.
///
/// # Errors
/// A line is no such list.
pub(super) fn read(text: &str) -> Result<Vec<Line>, String> {
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = || format!("line {}: no text, score and type", number + 1);
        let value: Value = serde_json::from_str(line).map_err(|_| bad())?;
        let text = value.get(0).and_then(Value::as_str).ok_or_else(bad)?;
        let score = value.get(1).and_then(Value::as_f64).ok_or_else(bad)?;
        let is_mark = text.starts_with("<|plamo:") && text.ends_with("|>");
        let ty = match value.get(2).and_then(Value::as_str) {
            Some("UNKNOWN") => ty::UNKNOWN,
            Some("CONTROL") => ty::CONTROL,
            Some("BYTE") => ty::BYTE,
            _ if is_mark => ty::CONTROL,
            _ => ty::NORMAL,
        };
        if all.len() >= TOKENS_MAX {
            return Err(format!("more than {TOKENS_MAX} tokens"));
        }
        all.push(Line { text: text.to_owned(), score: score as f32, ty });
    }
    Ok(all)
}

/// Tokens that stand for no text, which roles may be given to.
pub(super) fn marks(lines: &[Line]) -> Vec<Added> {
    let marks = lines.iter().enumerate().filter(|(_, line)| line.ty != ty::NORMAL);
    let added = marks.map(|(id, line)| Added {
        id,
        text: line.text.clone(),
        special: true,
        strips_right: false,
    });
    added.collect()
}

/// Writes a vocabulary of so many tokens.
pub(super) fn write(keys: &mut Keys, lines: &[Line], n: usize) {
    let mut table = Table::new(n);
    for (id, line) in lines.iter().enumerate() {
        table.set(id, &line.text, line.ty, line.score);
    }
    write_scored(keys, table, "plamo2");
    // An answer ends with it.
    if let Some(id) = lines.iter().take(n).position(|line| line.text == "<|plamo:op|>") {
        keys.set("tokenizer.ggml.eot_token_id", id as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tokens() {
        let text = concat!(
            r#"["<|plamo:unk|>", 0.0, "UNKNOWN", 0]"#,
            "\n",
            r#"["<|plamo:op|>", 0.0, "NORMAL"]"#,
            "\n",
            r#"["a", -1.5]"#,
            "\n\n"
        );
        let lines = read(text).expect("it reads");
        let types: Vec<i32> = lines.iter().map(|line| line.ty).collect();
        assert_eq!(types, [ty::UNKNOWN, ty::CONTROL, ty::NORMAL]);
        assert_eq!((lines[2].score, marks(&lines).len()), (-1.5, 2));
        assert!(read("[1]").is_err() && read("x").is_err());
    }
}
