//! JSON schemas: what of them is enforced, and how the documents are laid out.
//!
//! The engine passes over what it takes for an annotation, reads some keywords otherwise than draft 2020-12 does,
//! and names no place of what it refuses. So every keyword is looked at here first, and written in the way
//! that the engine reads as it is meant.

mod arrays;
mod formats;
mod names;
mod one_of;
mod pattern;
mod place;

pub(super) use place::placed;

use super::GrammarError;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Keywords that are enforced.
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
    "propertyNames",
    "required",
    "type",
];

/// Keywords that say nothing of what is valid. `discriminator` is OpenAPI's hint beside `oneOf`.
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
    "discriminator",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// Names of types.
const TYPES: &[&str] = &["array", "boolean", "integer", "null", "number", "object", "string"];

/// Drafts that `$schema` may name, without the scheme and `#`. What older ones write otherwise is read, too.
const DRAFTS: &[&str] = &[
    "json-schema.org/draft/2020-12/schema",
    "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft-06/schema",
    "json-schema.org/draft-04/schema",
    "json-schema.org/schema",
];

/// Schemas inside schemas, at most: the engine's own bound.
const DEPTH_MAX: usize = 100;
/// Limit of numbers, at most, as the engine counts in 64 bits: one beyond it, as those of int64 are, becomes this one,
/// which allows nothing that it does not.
const LIMIT_MAX: f64 = 1e18;
/// Largest `multipleOf`, its decimal point left out: the engine counts in 32 bits and does not look.
const MULTIPLE_MAX: u64 = 100_000_000;
/// The same without its factors 2 and 5, each of which costs the engine a state.
const MULTIPLE_STATES_MAX: u64 = 10_000;
/// Keys of `patternProperties`, at most: the engine compares each with each, at 0.1 ms a pair.
const PATTERNS_MAX: usize = 64;

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
    if let Some((line, column)) = too_long_integer(text) {
        let reason = "an integer of more than 64 bits".to_owned();
        return Err(GrammarError::Syntax { line, column, reason });
    }
    let root = schema.clone();
    let mut check = Check {
        root: &root,
        pointer: String::new(),
        multiples: BTreeSet::new(),
        unspellable: None,
        has_open_names: false,
    };
    check.schema(&mut schema, 0)?;
    check.multiples_together()?;
    let escapes = check.escapes()?;
    if schema.as_bool() == Some(true) {
        schema = json!({});
    }
    if let Value::Object(keys) = &mut schema {
        // One space behind separators and nothing else: models run on in white space without end.
        let layout = json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
            "json_allowed_escapes": escapes,
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

/// A walk over schemas and those in them.
struct Check<'r> {
    /// The whole schema as it was given, for references.
    root: &'r Value,
    /// JSON pointer to the schema at hand.
    pointer: String,
    /// Values of `multipleOf`, as digits and how many of them stand behind the point.
    multiples: BTreeSet<(u64, u32)>,
    /// Place and keyword of a value that only `\u` escapes can write.
    unspellable: Option<(String, String)>,
    /// Whether some object may have properties beside those that are listed.
    has_open_names: bool,
}

impl Check<'_> {
    /// Checks a schema, and writes it in the engine's way.
    fn schema(&mut self, schema: &mut Value, depth: usize) -> Result<(), GrammarError> {
        let keys = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(keys) => keys,
            _ => {
                let keyword = self.pointer.rsplit('/').next().unwrap_or("");
                return Err(refusal(
                    &self.pointer,
                    keyword,
                    "a schema is an object, true or false",
                ));
            }
        };
        if depth > DEPTH_MAX {
            let problem = format!("schemas in schemas, more than {DEPTH_MAX} of them");
            return Err(refusal(&self.pointer, "", &problem));
        }
        // Nothing is allowed.
        if keys.get("not").is_some_and(|not| *not == json!({}) || *not == json!(true)) {
            *schema = Value::Bool(false);
            return Ok(());
        }
        // Extensions are annotations, and so is a keyword that asks for nothing.
        keys.retain(|key, value| {
            !key.starts_with("x-") && (key != "uniqueItems" || *value != Value::Bool(false))
        });
        self.keywords(keys)?;
        for (key, value) in keys.iter_mut() {
            match (key.as_str(), value) {
                (
                    "properties" | "patternProperties" | "$defs" | "definitions",
                    Value::Object(schemas),
                ) => {
                    for (name, value) in schemas.iter_mut() {
                        self.visit(value, &format!("/{key}/{}", escaped(name)), depth)?;
                    }
                }
                ("anyOf" | "allOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                    for (i, value) in schemas.iter_mut().enumerate() {
                        self.visit(value, &format!("/{key}/{i}"), depth)?;
                    }
                }
                ("items" | "additionalItems" | "additionalProperties" | "propertyNames", value) => {
                    self.visit(value, &format!("/{key}"), depth)?
                }
                _ => {}
            }
        }
        self.rewrite(keys)?;
        let lists = ["properties", "patternProperties", "required"];
        self.has_open_names |= keys.get("additionalProperties") != Some(&Value::Bool(false))
            && lists.iter().any(|keyword| keys.contains_key(*keyword));
        Ok(())
    }

    fn visit(&mut self, schema: &mut Value, path: &str, depth: usize) -> Result<(), GrammarError> {
        let length = self.pointer.len();
        self.pointer += path;
        let checked = self.schema(schema, depth + 1);
        self.pointer.truncate(length);
        checked
    }

    /// Refuses keywords that are not enforced, and values of the wrong kind.
    fn keywords(&mut self, keys: &Map<String, Value>) -> Result<(), GrammarError> {
        for (key, value) in keys {
            if matches!(key.as_str(), "const" | "enum") && has_unspellable(value) {
                self.unspellable.get_or_insert_with(|| (self.pointer.clone(), key.clone()));
            }
            if !ENFORCED.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str()) {
                return Err(refusal(&self.pointer, key, "not supported"));
            }
            let problem = match key.as_str() {
                "$schema" if !is_draft(value) => "no draft of JSON Schema that is known",
                "$ref" if value.as_str().is_some_and(|target| !target.starts_with('#')) => {
                    "only references into the schema itself"
                }
                "type" if !is_type(value) => "there is no such type",
                "multipleOf" => match self.multiple(value) {
                    Ok(()) => continue,
                    Err(problem) => problem,
                },
                "patternProperties"
                    if value.as_object().is_some_and(|p| p.len() > PATTERNS_MAX) =>
                {
                    "more patterns than can be told apart in time"
                }
                _ if is_of_kind(key, value) => continue,
                _ => "its value is of the wrong kind",
            };
            return Err(refusal(&self.pointer, key, problem));
        }
        Ok(())
    }

    /// Writes what the engine reads otherwise, or not at all, in keywords that it reads as they are meant.
    fn rewrite(&self, keys: &mut Map<String, Value>) -> Result<(), GrammarError> {
        let refused = |(keyword, reason): (&str, &str)| refusal(&self.pointer, keyword, reason);
        keys.shift_remove("$schema");
        keys.shift_remove("discriminator");
        for key in
            ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"]
        {
            if let Some(limit) = keys.get_mut(key)
                && let Some(x) = limit.as_f64().filter(|_| limit.is_f64())
            {
                *limit = Value::from(x as u64);
            }
        }
        for (key, sign) in [
            ("minimum", -1.0),
            ("exclusiveMinimum", -1.0),
            ("maximum", 1.0),
            ("exclusiveMaximum", 1.0),
        ] {
            if let Some(limit) = keys.get_mut(key)
                && limit.as_f64().is_some_and(|x| sign * x > LIMIT_MAX)
            {
                *limit = Value::from((sign * LIMIT_MAX) as i64);
            }
        }
        arrays::rewrite(keys).map_err(refused)?;
        names::rewrite(keys).map_err(refused)?;
        formats::rewrite(keys).map_err(refused)?;
        one_of::rewrite(keys, self.root);
        Ok(())
    }

    /// Takes note of a `multipleOf`, if the engine can count by it.
    fn multiple(&mut self, value: &Value) -> Result<(), &'static str> {
        let mut x = value.as_f64().filter(|x| *x > 0.0).ok_or("its value is of the wrong kind")?;
        let mut n_behind = 0;
        while x.fract() != 0.0 && x < MULTIPLE_MAX as f64 {
            (x, n_behind) = (10.0 * x, n_behind + 1);
        }
        let digits = x as u64;
        let mut states = digits;
        for factor in [2, 5] {
            while states > 0 && states.is_multiple_of(factor) {
                states /= factor;
            }
        }
        if x > MULTIPLE_MAX as f64 || states > MULTIPLE_STATES_MAX {
            return Err("too many digits to count by");
        }
        self.multiples.insert((digits, n_behind));
        Ok(())
    }

    /// Escapes that strings may have. `\u` is one where a value cannot do without: otherwise the name of a property
    /// that is listed could be spelled by it, and pass for one that is not.
    fn escapes(&self) -> Result<&'static str, GrammarError> {
        match &self.unspellable {
            None => Ok("nrbtf\\\""),
            Some((pointer, keyword)) if self.has_open_names => {
                let problem =
                    "a control character without a short escape, beside properties of any name";
                Err(refusal(pointer, keyword, problem))
            }
            Some(_) => Ok("nrbtf\\\"u"),
        }
    }

    /// Refuses values of `multipleOf` of which a schema may ask all, if the engine cannot count by their
    /// common multiple.
    fn multiples_together(&self) -> Result<(), GrammarError> {
        let n_behind = self.multiples.iter().map(|&(_, n)| n).max().unwrap_or(0);
        let mut scaled = self
            .multiples
            .iter()
            .map(|&(digits, n)| digits.checked_mul(10u64.checked_pow(n_behind - n)?));
        let product = scaled.try_fold(1u64, |product, next| product.checked_mul(next?));
        let fits = product.is_some_and(|product| product <= u64::from(u32::MAX));
        if self.multiples.len() < 2 || fits {
            return Ok(());
        }
        let meets = |keyword: &&str| place::is_anywhere(self.root, keyword);
        match ["allOf", "anyOf", "oneOf", "$ref"].iter().find(|keyword| meets(keyword)) {
            None => Ok(()),
            Some(keyword) => {
                let problem =
                    format!("with `{keyword}`, values that have too many digits together");
                Err(refusal("", "multipleOf", &problem))
            }
        }
    }
}

fn is_draft(value: &Value) -> bool {
    let name = value.as_str().unwrap_or("");
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
    name.is_some_and(|name| DRAFTS.contains(&name.trim_end_matches('#')))
}

fn is_type(value: &Value) -> bool {
    let is_name = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    value.as_array().map_or(is_name(value), |names| names.iter().all(is_name))
}

/// Whether a keyword may have a value.
fn is_of_kind(key: &str, value: &Value) -> bool {
    match key {
        "properties" | "patternProperties" | "$defs" | "definitions" => value.is_object(),
        "anyOf" | "allOf" | "oneOf" | "prefixItems" | "enum" => value.is_array(),
        "required" => value.as_array().is_some_and(|names| names.iter().all(Value::is_string)),
        "$ref" | "pattern" | "format" => value.is_string(),
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
            value.as_f64().is_some_and(|x| (0.0..2e19).contains(&x) && x.fract() == 0.0)
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => value.is_number(),
        _ => true,
    }
}

/// Whether a string of a value can only be written by `\u` escapes.
fn has_unspellable(value: &Value) -> bool {
    match value {
        Value::String(text) => text.chars().any(pattern::is_unspellable),
        Value::Array(values) => values.iter().any(has_unspellable),
        Value::Object(keys) => keys.values().any(has_unspellable),
        _ => false,
    }
}

/// Place of the first integer of a JSON text that a 64-bit one cannot hold: it would be read as another number.
fn too_long_integer(text: &str) -> Option<(usize, usize)> {
    let (mut in_string, mut is_escaped, mut number) = (false, false, None);
    // A blank, so that there is an end to the last number.
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if in_string {
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.') {
            number = number.or(Some(at));
            continue;
        }
        in_string = c == '"';
        let Some(start) = number.take() else { continue };
        let number = &text[start..at];
        let is_integer = number.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
        if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            let before = &text[..start];
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            let line = 1 + before.matches('\n').count();
            return Some((line, 1 + before[line_start..].chars().count()));
        }
    }
    None
}

/// A key in a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
