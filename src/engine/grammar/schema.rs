//! JSON schemas: what of them is enforced, and how the documents are laid out.
//!
//! The engine passes over what it takes for an annotation and names no place of what it refuses, so
//! every keyword is looked at here first.

use super::GrammarError;
use serde_json::{Map, Value, json};

/// Keywords that the engine enforces.
const ENFORCED: &[&str] = &[
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// Formats that the engine enforces; others are annotations.
const FORMATS: &[&str] = &[
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "unknown",
    "uri",
    "uuid",
];

/// Schemas inside schemas, at most: the engine's own bound.
const DEPTH_MAX: usize = 100;

/// A schema that was read and checked, with the layout of its documents.
///
/// # Errors
/// The text is no JSON, or a keyword is refused.
pub(super) fn checked(text: &str) -> Result<Value, GrammarError> {
    let mut schema: Value = serde_json::from_str(text).map_err(|error| GrammarError::Syntax {
        line: error.line(),
        column: error.column(),
        reason: "no JSON: ".to_owned() + error.to_string().split(" at line").next().unwrap_or(""),
    })?;
    check(&mut schema, &mut String::new(), 0)?;
    if schema.as_bool() == Some(true) {
        schema = json!({});
    }
    if let Value::Object(keys) = &mut schema {
        // One space behind separators and nothing else: models run on in white space without end.
        let layout = json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
        });
        keys.insert("x-guidance".into(), layout);
    }
    Ok(schema)
}

fn refusal(pointer: &str, keyword: &str, reason: &str) -> GrammarError {
    GrammarError::Keyword {
        pointer: format!("#{pointer}"),
        keyword: keyword.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Checks a schema and those in it, and takes formats away that are annotations.
fn check(schema: &mut Value, pointer: &mut String, depth: usize) -> Result<(), GrammarError> {
    let keys = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keys) => keys,
        _ => {
            let keyword = pointer.rsplit('/').next().unwrap_or("");
            return Err(refusal(pointer, keyword, "a schema is an object, true or false"));
        }
    };
    if depth > DEPTH_MAX {
        return Err(refusal(pointer, "", "schemas in schemas in schemas without end"));
    }
    // Extensions are annotations, and so is a keyword that asks for nothing.
    keys.retain(|key, value| {
        !key.starts_with("x-") && (key != "uniqueItems" || *value != Value::Bool(false))
    });
    check_keywords(keys, pointer)?;
    let is_known = |value: &Value| value.as_str().is_none_or(|name| FORMATS.contains(&name));
    if keys.get("format").is_some_and(|value| !is_known(value)) {
        keys.shift_remove("format");
    }
    let mut visit = |value: &mut Value, path: String| {
        let length = pointer.len();
        *pointer += &path;
        let checked = check(value, pointer, depth + 1);
        pointer.truncate(length);
        checked
    };
    for (key, value) in keys.iter_mut() {
        match (key.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(schemas),
            ) => {
                for (name, value) in schemas.iter_mut() {
                    visit(value, format!("/{key}/{}", escaped(name)))?;
                }
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                for (i, value) in schemas.iter_mut().enumerate() {
                    visit(value, format!("/{key}/{i}"))?;
                }
            }
            ("items" | "additionalItems" | "additionalProperties", value) => {
                visit(value, format!("/{key}"))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_keywords(keys: &Map<String, Value>, pointer: &str) -> Result<(), GrammarError> {
    for (key, value) in keys {
        if !ENFORCED.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str()) {
            return Err(refusal(pointer, key, "not supported"));
        }
        let is_fine = match key.as_str() {
            "properties" | "patternProperties" | "$defs" | "definitions" => value.is_object(),
            "anyOf" | "allOf" | "oneOf" | "prefixItems" | "enum" | "required" => value.is_array(),
            "$ref" => {
                if value.as_str().is_some_and(|target| !target.starts_with('#')) {
                    return Err(refusal(pointer, key, "only references into the schema itself"));
                }
                value.is_string()
            }
            "pattern" | "format" => value.is_string(),
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties"
            | "maxProperties" => value.as_f64().is_some_and(|x| x >= 0.0 && x.fract() == 0.0),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => value.is_number(),
            "multipleOf" => value.as_f64().is_some_and(|x| x > 0.0),
            _ => true,
        };
        if !is_fine {
            return Err(refusal(pointer, key, "its value is of the wrong kind"));
        }
    }
    Ok(())
}

/// A key in a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The place of what the engine refuses, where its words tell which keyword that is.
pub(super) fn placed(text: &str, reason: &str) -> Option<GrammarError> {
    let schema: Value = serde_json::from_str(text).ok()?;
    let (keyword, reason) = match reason {
        r if r.contains("oneOf constraints") => ("oneOf", "its branches cannot be told apart"),
        r if r.starts_with("Invalid type: ") => ("type", "there is no such type"),
        r if r.contains("pattern") || r.contains("regular") || r.contains("regex") => {
            ("pattern", reason)
        }
        r if r.contains("$ref") || r.contains("resolve") || r.contains("Pointer") => {
            ("$ref", reason)
        }
        _ => return None,
    };
    let mut places = Vec::new();
    find(&schema, keyword, &mut String::new(), &mut places);
    match places.is_empty() {
        true => None,
        false => Some(GrammarError::Keyword {
            pointer: places.join(" or "),
            keyword: keyword.into(),
            reason: reason.into(),
        }),
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
