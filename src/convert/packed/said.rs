//! Settings by which a checkpoint is quantized, from wherever its tool has put them.

use super::ConvertError;
use crate::convert::files::json;
use serde_json::{Map, Value};
use std::path::Path;

/// The entry of `config.json`.
const ENTRY: &str = "quantization_config";
/// The one that compressed-tensors had before.
const ENTRY_BEFORE: &str = "compression_config";
/// Files that say it in place of an entry (AutoGPTQ, AutoAWQ, ModelOpt): what they have it under, if not as a
/// whole, and the method, which they need not name.
const FILES: &[(&str, Option<&str>, &str)] = &[
    ("quantize_config.json", None, "gptq"),
    ("quant_config.json", None, "awq"),
    ("hf_quant_config.json", Some("quantization"), "modelopt"),
];

/// Brings what is said elsewhere into the entry of a configuration that has none.
///
/// # Errors
/// A file cannot be read or is malformed.
pub fn find(root: &mut Map<String, Value>, folder: &Path) -> Result<(), ConvertError> {
    let is_said = |part: &Map<String, Value>| part.get(ENTRY).is_some_and(Value::is_object);
    let mut parts = root.values().filter_map(Value::as_object);
    if is_said(root) || parts.any(is_said) {
        return Ok(());
    }
    if let Some(Value::Object(mut own)) = root.get(ENTRY_BEFORE).cloned() {
        own.insert("quant_method".into(), "compressed-tensors".into());
        root.insert(ENTRY.into(), own.into());
        return Ok(());
    }
    for &(name, under, method) in FILES {
        let Some(value) = json(&folder.join(name))? else { continue };
        let own = under.map_or(Some(&value), |under| value.get(under)).and_then(Value::as_object);
        let Some(mut own) = own.cloned() else { continue };
        own.entry("quant_method").or_insert_with(|| method.into());
        root.insert(ENTRY.into(), own.into());
        return Ok(());
    }
    Ok(())
}

/// Rows and columns of a block, where one is said.
pub fn block_size(quantization: &Value) -> Option<[u64; 2]> {
    let pair = |value: &Value| -> Option<[u64; 2]> {
        Some([value.get(0)?.as_u64()?, value.get(1)?.as_u64()?])
    };
    let own = quantization.get("weight_block_size").and_then(pair);
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    let mut groups = groups
        .into_iter()
        .flatten()
        .filter_map(|(_, group)| group.pointer("/weights/block_structure").and_then(pair));
    own.or_else(|| groups.next())
}
