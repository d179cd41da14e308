//! Chat templates, byte for byte: one in a file or in `tokenizer_config.json`, and those with names of
//! their own.

use super::ConvertError;
use super::files::{json, text};
use super::keys::Keys;
use serde_json::Value;
use std::path::Path;

/// Folders of templates that have names of their own.
const TEMPLATE_FOLDERS: &[&str] = &["additional_chat_templates", "chat_templates"];

/// A template's name and text.
type Named = (String, String);

/// Adds the templates of a folder with this `tokenizer_config.json`.
///
/// # Errors
/// A file cannot be read or is malformed.
pub(super) fn add(keys: &mut Keys, folder: &Path, config: &Value) -> Result<(), ConvertError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut named: Vec<Named> = Vec::new();
    let mut push_all = |value: &Value| match value {
        Value::String(text) => named.push(("default".into(), text.clone())),
        Value::Array(list) => {
            let text = |v: &Value, key: &str| v.get(key)?.as_str().map(str::to_owned);
            named
                .extend(list.iter().filter_map(|v| Some((text(v, "name")?, text(v, "template")?))));
        }
        _ => {}
    };
    // transformers writes the file since it exists, and then reads nothing else.
    let file = text(&folder.join("chat_template.jinja"))?;
    let old = json(&folder.join("chat_template.json"))?;
    match (&file, config.get("chat_template")) {
        (Some(text), _) => push_all(&Value::String(text.clone())),
        (None, Some(value)) => push_all(value),
        (None, None) => {
            if let Some(value) = old.as_ref().and_then(|v| v.get("chat_template")) {
                push_all(value);
            }
        }
    }
    for more in TEMPLATE_FOLDERS {
        read_folder(&folder.join(more), &mut named)?;
    }
    let is_default = |row: &&Named| row.0 == "default";
    if let Some((_, text)) = named.iter().find(is_default) {
        keys.set(KEY, text.clone());
    }
    let others: Vec<_> = named.iter().filter(|row| !is_default(row)).collect();
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|row| row.0.clone()).collect();
        keys.set("tokenizer.chat_templates", names);
        for (name, text) in others {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = name.replace(|c: char| !plain(c), "_");
            keys.set(format!("{KEY}.{name}"), text.clone());
        }
    }
    Ok(())
}

/// Templates in a folder, if it is there, by the names of their files.
fn read_folder(folder: &Path, named: &mut Vec<Named>) -> Result<(), ConvertError> {
    if !folder.is_dir() {
        return Ok(());
    }
    let io = |error| ConvertError::Io { path: folder.to_owned(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja")) {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if named.iter().all(|row| row.0 != name)
            && let Some(text) = text(path)?
        {
            named.push((name.to_owned(), text));
        }
    }
    Ok(())
}
