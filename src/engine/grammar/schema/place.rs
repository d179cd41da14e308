//! Places of what the engine refuses, which names none.

use super::{GrammarError, escaped};
use serde_json::Value;

/// Words of the engine's refusals, and the keyword that each is about.
const ABOUT: &[(&str, &str)] = &[
    ("oneOf constraints", "oneOf"),
    ("min/maxProperties", "minProperties"),
    ("min/maxProperties", "maxProperties"),
    ("patternProperty", "patternProperties"),
    ("required property", "required"),
    ("required item", "minItems"),
    ("prefixItems", "prefixItems"),
    ("minItems", "minItems"),
    ("minLength", "minLength"),
    ("minProperties", "minProperties"),
    ("required > maxProperties", "maxProperties"),
    (" range", "minimum"),
    (" range", "maximum"),
    (" range", "exclusiveMinimum"),
    (" range", "exclusiveMaximum"),
    ("inimum", "minimum"),
    ("aximum", "maximum"),
    ("incompatible", "type"),
    ("incompatible", "allOf"),
    ("anyOf", "anyOf"),
    ("anyOf is empty", "enum"),
    ("anyOf is empty", "type"),
    ("oneOf", "oneOf"),
    ("multipleOf", "multipleOf"),
    ("lookarounds", "pattern"),
    ("lookarounds", "patternProperties"),
    ("pattern", "pattern"),
    ("regular", "pattern"),
    ("regular", "patternProperties"),
    ("regex", "pattern"),
    ("egex is empty", "pattern"),
    ("$ref", "$ref"),
    ("resolve", "$ref"),
    ("Pointer", "$ref"),
    ("URI", "$ref"),
    ("circular", "$ref"),
    ("Unimplemented keys", "$ref"),
    ("no token can follow", "$ref"),
];

/// Longest reason of the engine that is told, in characters: it may quote the schema.
const REASON_CHARS_MAX: usize = 200;

/// Places that are told, at most.
const PLACES_MAX: usize = 8;

/// The place of what the engine refuses, where its words tell which keyword that is.
pub(in super::super) fn placed(text: &str, reason: &str) -> Option<GrammarError> {
    let schema: Value = serde_json::from_str(text).ok()?;
    let about = ABOUT.iter().filter(|(words, _)| reason.contains(words));
    let (keyword, places) = about
        .map(|(_, keyword)| {
            let mut places = Vec::new();
            find(&schema, keyword, &mut String::new(), &mut places);
            (keyword, places)
        })
        .find(|(_, places)| !places.is_empty())?;
    let reason = match *keyword {
        "oneOf" if reason.contains("oneOf constraints") => {
            "its branches cannot be told apart".into()
        }
        "$ref" if reason.contains("no token can follow") => {
            "it leads to itself and nowhere else".into()
        }
        _ => reason.chars().take(REASON_CHARS_MAX).collect(),
    };
    let n_more = places.len().saturating_sub(PLACES_MAX);
    let mut pointer = places[..places.len() - n_more].join(" or ");
    if n_more > 0 {
        pointer += &format!(" or {n_more} more");
    }
    Some(GrammarError::Keyword { pointer, keyword: (*keyword).into(), reason })
}

/// Whether a key is anywhere in a value.
pub(super) fn is_anywhere(value: &Value, keyword: &str) -> bool {
    match value {
        Value::Object(keys) => {
            keys.contains_key(keyword) || keys.values().any(|value| is_anywhere(value, keyword))
        }
        Value::Array(values) => values.iter().any(|value| is_anywhere(value, keyword)),
        _ => false,
    }
}

/// Places of values with a key, wherever they are.
fn find(value: &Value, keyword: &str, pointer: &mut String, places: &mut Vec<String>) {
    let mut visit = |value: &Value, key: String, places: &mut Vec<String>| {
        let length = pointer.len();
        *pointer += &key;
        find(value, keyword, pointer, places);
        pointer.truncate(length);
    };
    match value {
        Value::Object(keys) => {
            for (key, value) in keys {
                visit(value, format!("/{}", escaped(key)), places);
            }
            if keys.contains_key(keyword) {
                places.push(format!("#{pointer}"));
            }
        }
        Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                visit(value, format!("/{i}"), places);
            }
        }
        _ => {}
    }
}
