//! Tokens with roles (beginning, end, unknown, ...), and which of them are added to texts.

use super::table::Added;
use super::{Files, content, steps, ty_of};
use crate::convert::ConvertError;
use crate::convert::config::Config;
use crate::convert::files::json;
use crate::convert::keys::Keys;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::Value;
use std::collections::HashMap;

/// Roles of tokens, and their names in GGUF (`seperator` is how files spell it).
const ROLES: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

impl Files<'_> {
    /// Tokens with roles, and which of them are added to texts.
    pub(super) fn special(
        &self,
        keys: &mut Keys,
        config: &Config,
        added: &[Added],
    ) -> Result<(), ConvertError> {
        let named = |key: &str| self.config.get(key).and_then(content).map(str::to_owned);
        let mut names: HashMap<&str, Option<String>> =
            ROLES.iter().map(|(role, _)| (*role, named(&format!("{role}_token")))).collect();
        if self.tokenizer.is_some() {
            let name = |names: &HashMap<&str, Option<String>>, role| names[role].clone();
            if name(&names, "bos").is_none() {
                names.insert("bos", name(&names, "cls"));
            }
            if name(&names, "eos").is_none() {
                names.insert("eos", name(&names, "sep"));
            }
        }
        let mut adds: HashMap<&str, bool> = HashMap::new();
        self.post_processor(&mut names, &mut adds);
        for role in ["bos", "eos", "sep"] {
            let key = format!("add_{role}_token");
            if let Some(on) = self.config.get(&key).and_then(Value::as_bool) {
                adds.entry(role).or_insert(on);
            }
        }
        let n = match keys.get("tokenizer.ggml.tokens") {
            Some(OwnedValue::Array(OwnedArray::Str(tokens))) => tokens.len(),
            _ => 0,
        };
        for (role, key) in ROLES {
            let name = names[role].as_deref();
            let by_name = name.and_then(|name| added.iter().find(|token| token.text == name));
            let by_name = by_name.map(|token| token.id as u64);
            let entry = format!("{role}_token_id");
            let by_config = config.get(&entry).map(|value| value.get(0).unwrap_or(value));
            let by_config = by_config.and_then(Value::as_u64);
            if let Some(id) = by_name.or(by_config).filter(|&id| id < n as u64) {
                keys.set(format!("tokenizer.ggml.{key}_token_id"), id as u32);
            }
        }
        let is_bpe = keys.get("tokenizer.ggml.model") == Some(&OwnedValue::Str("gpt2".into()));
        if is_bpe {
            adds.entry("bos").or_insert(false);
        }
        for role in ["bos", "eos", "sep"] {
            if let Some(&on) = adds.get(role) {
                keys.set(format!("tokenizer.ggml.add_{role}_token"), on);
            }
        }
        self.ends(keys, config, n)
    }

    /// All tokens that end an answer, where there are several: by `generation_config.json`, or if that
    /// says nothing, by `config.json`.
    fn ends(&self, keys: &mut Keys, config: &Config, n: usize) -> Result<(), ConvertError> {
        const ENTRY: &str = "eos_token_id";
        let generation = json(&self.folder.join("generation_config.json"))?;
        let own = generation.as_ref().and_then(|own| own.get(ENTRY)).filter(|own| !own.is_null());
        let Some(list) = own.or_else(|| config.get(ENTRY)).and_then(Value::as_array) else {
            return Ok(());
        };
        let ids = list.iter().filter_map(Value::as_u64).filter(|&id| id < n as u64);
        let ids: Vec<u32> = ids.map(|id| id as u32).collect();
        if ids.len() > 1 {
            let ids = OwnedValue::Array(OwnedArray::U32(ids));
            keys.set("tokenizer.ggml.eos_token_ids", ids);
        }
        Ok(())
    }

    /// What the post-processor adds to texts.
    fn post_processor<'r>(
        &self,
        names: &mut HashMap<&'r str, Option<String>>,
        adds: &mut HashMap<&'r str, bool>,
    ) {
        let processor = self.tokenizer().get("post_processor");
        for step in steps(processor, "processors") {
            match ty_of(step) {
                "ByteLevel" => {
                    adds.entry("bos").or_insert(false);
                    adds.entry("eos").or_insert(false);
                }
                "RobertaProcessing" | "BertProcessing" => {
                    let text = |key: &str| Some(step.get(key)?.get(0)?.as_str()?.to_owned());
                    for (role, own, key) in [("bos", "cls", "cls"), ("eos", "sep", "sep")] {
                        adds.insert(role, true);
                        if let Some(text) = text(key) {
                            names.insert(role, Some(text.clone()));
                            names.insert(own, Some(text));
                        }
                    }
                    if ty_of(step) == "RobertaProcessing" {
                        adds.insert("sep", true);
                    }
                }
                "TemplateProcessing" => {
                    let single = step.get("single").and_then(Value::as_array);
                    let Some(single) = single else { continue };
                    let special = |part: Option<&Value>| {
                        Some(part?.pointer("/SpecialToken/id")?.as_str()?.to_owned())
                    };
                    let (first, last) = (special(single.first()), special(single.last()));
                    adds.insert("bos", first.is_some());
                    adds.insert("eos", last.is_some());
                    if let Some(first) = first {
                        names.insert("bos", Some(first));
                    }
                    if let Some(last) = last {
                        names.insert("eos", Some(last));
                    }
                }
                _ => {}
            }
        }
    }
}
