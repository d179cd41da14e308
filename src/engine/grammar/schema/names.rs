//! Names of properties: which there may be, and how many.

use super::pattern;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

type Refused = (&'static str, &'static str);

/// Has `propertyNames` said by other keywords, and refuses what the engine does not count.
pub(super) fn rewrite(keys: &mut Map<String, Value>) -> Result<(), Refused> {
    if let Some(Value::Object(patterns)) = keys.get_mut("patternProperties") {
        let mut translated = Map::new();
        for (pattern, schema) in std::mem::take(patterns) {
            let pattern =
                pattern::as_meant(&pattern).map_err(|reason| ("patternProperties", reason))?;
            if translated.insert(pattern, schema).is_some() {
                return Err(("patternProperties", "two patterns that mean the same"));
            }
        }
        *patterns = translated;
    }
    if let Some(names) = keys.shift_remove("propertyNames") {
        property_names(keys, names)?;
    }
    least(keys)
}

/// Names that are listed become properties, names of a pattern `patternProperties`; all others are forbidden.
fn property_names(keys: &mut Map<String, Value>, names: Value) -> Result<(), Refused> {
    const OTHER: Refused =
        ("propertyNames", "only a list of names, or a pattern without other properties");
    let mut asked = match names {
        Value::Bool(true) => return Ok(()),
        Value::Object(asked) => asked,
        _ => return Err(OTHER),
    };
    for annotation in super::ANNOTATIONS {
        asked.shift_remove(*annotation);
    }
    // Every name is a string.
    if asked.get("type").is_some_and(|name| name == "string") {
        asked.shift_remove("type");
    }
    let mut asked = asked.into_iter();
    let (keyword, value) = match (asked.next(), asked.next()) {
        (None, _) => return Ok(()),
        (Some(only), None) => only,
        _ => return Err(OTHER),
    };
    let listed = match (keyword.as_str(), value) {
        ("pattern", Value::String(pattern))
            if !keys.contains_key("properties") && !keys.contains_key("patternProperties") =>
        {
            let schema = keys.shift_remove("additionalProperties").unwrap_or(Value::Bool(true));
            // The pattern has been translated where it stood.
            keys.insert(
                "patternProperties".into(),
                Value::Object([(pattern, schema)].into_iter().collect()),
            );
            keys.insert("additionalProperties".into(), Value::Bool(false));
            return Ok(());
        }
        ("const", name @ Value::String(_)) => vec![name],
        ("enum", Value::Array(listed)) => listed,
        _ => return Err(OTHER),
    };
    if keys.contains_key("patternProperties") {
        return Err(OTHER);
    }
    let others = keys.shift_remove("additionalProperties").unwrap_or(Value::Bool(true));
    let mut known = match keys.shift_remove("properties") {
        Some(Value::Object(known)) => known,
        _ => Map::new(),
    };
    let mut properties = Map::new();
    // What is no string is nobody's name.
    for name in listed.iter().filter_map(Value::as_str) {
        let schema = known.shift_remove(name).unwrap_or_else(|| others.clone());
        properties.insert(name.to_owned(), schema);
    }
    keys.insert("properties".into(), Value::Object(properties));
    keys.insert("additionalProperties".into(), Value::Bool(false));
    Ok(())
}

/// Refuses a least number of properties that would be counted wrong: the name of one that is not listed may come
/// twice, which a reader takes for one.
fn least(keys: &Map<String, Value>) -> Result<(), Refused> {
    let Some(least) = keys.get("minProperties").and_then(Value::as_u64) else { return Ok(()) };
    let required = keys.get("required").and_then(Value::as_array).into_iter().flatten();
    let n_required = required.filter_map(Value::as_str).collect::<BTreeSet<_>>().len() as u64;
    let has_patterns = keys
        .get("patternProperties")
        .is_some_and(|patterns| patterns != &Value::Object(Map::new()));
    let is_open = keys.get("additionalProperties") != Some(&Value::Bool(false)) || has_patterns;
    match is_open && least > n_required + 1 {
        true => Err((
            "minProperties",
            "more than one beyond those that `required` lists: a name may come twice",
        )),
        false => Ok(()),
    }
}
