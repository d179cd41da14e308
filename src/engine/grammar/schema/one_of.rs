//! `oneOf` whose branches exclude each other: there it is `anyOf`, which the engine enforces for any branches.
//!
//! The engine tells strings and the constant properties of objects apart, but follows no references. Unions that
//! Pydantic writes have nothing else as branches.

use super::place::is_anywhere;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Branches that are compared each with each, at most; the engine compares more, if it can.
const BRANCHES_MAX: usize = 256;
/// Schemas that are looked at for one branch: itself, what it refers to, and what these consist of.
const VIEWS_MAX: usize = 16;
/// Properties in properties that are looked into.
const DEPTH_MAX: usize = 3;
/// Values of an `enum` that are compared, at most.
const VALUES_MAX: usize = 100;
/// Pairs of schemas that are compared for one `oneOf`, at most.
const PAIRS_MAX: usize = 200_000;

/// Makes `anyOf` of a `oneOf` whose branches are sure to exclude each other. References lead into `root`.
pub(super) fn rewrite(keys: &mut Map<String, Value>, root: &Value) {
    let Some(Value::Array(branches)) = keys.get("oneOf") else { return };
    if branches.is_empty() || branches.len() > BRANCHES_MAX {
        return;
    }
    // In a part that has a name of its own references lead elsewhere.
    let has_names = is_anywhere(root, "$id");
    let mut look = Look { root: (!has_names).then_some(root), n_left: PAIRS_MAX };
    let mut pairs =
        branches.iter().enumerate().flat_map(|(i, a)| branches[..i].iter().map(move |b| (a, b)));
    if !pairs.all(|(a, b)| look.are_apart(a, b, DEPTH_MAX)) {
        return;
    }
    let has_other = keys.contains_key("anyOf");
    let mut all = None;
    // In its place: the order of keywords is that of properties.
    *keys = std::mem::take(keys)
        .into_iter()
        .filter_map(|(key, value)| match key.as_str() {
            "oneOf" if has_other => {
                all = Some(Value::Object([("anyOf".to_owned(), value)].into_iter().collect()));
                None
            }
            "oneOf" => Some(("anyOf".to_owned(), value)),
            _ => Some((key, value)),
        })
        .collect();
    if let Some(any) = all
        && let Value::Array(list) = keys.entry("allOf").or_insert_with(|| Value::Array(Vec::new()))
    {
        list.push(any);
    }
}

struct Look<'r> {
    /// Where references lead to; `None` if that is not clear.
    root: Option<&'r Value>,
    /// Pairs that may still be compared.
    n_left: usize,
}

impl<'r> Look<'r> {
    /// Whether it is sure that nothing is an instance of both schemas.
    fn are_apart(&mut self, a: &'r Value, b: &'r Value, depth: usize) -> bool {
        if a == &Value::Bool(false) || b == &Value::Bool(false) {
            return true;
        }
        let (a, b) = (self.views(a), self.views(b));
        for (x, y) in a.iter().flat_map(|x| b.iter().map(move |y| (x, y))) {
            if self.n_left == 0 {
                return false;
            }
            self.n_left -= 1;
            if have_other_types(x, y) || have_other_values(x, y) {
                return true;
            }
        }
        let is_object =
            |view: &&Map<String, Value>| view.get("type").is_some_and(|name| name == "object");
        // What is no object has no properties that could differ.
        if depth == 0 || !(a.iter().any(is_object) || b.iter().any(is_object)) {
            return false;
        }
        let required = a.iter().chain(&b).filter_map(|view| view.get("required")?.as_array());
        let names: BTreeSet<&str> = required.flatten().filter_map(Value::as_str).collect();
        names.into_iter().any(|name| {
            let of = |views: &[&'r Map<String, Value>]| -> Vec<&'r Value> {
                views.iter().filter_map(|view| view.get("properties")?.get(name)).collect()
            };
            let (of_a, of_b) = (of(&a), of(&b));
            of_a.iter().any(|x| of_b.iter().any(|y| self.are_apart(x, y, depth - 1)))
        })
    }

    /// Schemas of which an instance satisfies all.
    fn views(&self, schema: &'r Value) -> Vec<&'r Map<String, Value>> {
        let mut views = Vec::new();
        let mut open = vec![schema];
        while let Some(schema) = open.pop().filter(|_| views.len() < VIEWS_MAX) {
            let Value::Object(keys) = schema else { continue };
            views.push(keys);
            let target = keys.get("$ref").and_then(Value::as_str);
            let target = target.and_then(|target| target.strip_prefix('#'));
            open.extend(target.zip(self.root).and_then(|(target, root)| root.pointer(target)));
            if let Some(Value::Array(all)) = keys.get("allOf") {
                open.extend(all);
            }
        }
        views
    }
}

/// Whether the `type`s of two schemas have none in common. An integer is a number.
fn have_other_types(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let (Some(a), Some(b)) = (types(a), types(b)) else { return false };
    a.is_disjoint(&b)
}

fn types(schema: &Map<String, Value>) -> Option<BTreeSet<&str>> {
    let name = |value| if value == "integer" { "number" } else { value };
    Some(match schema.get("type")? {
        Value::String(one) => [name(one.as_str())].into(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(name).collect(),
        _ => return None,
    })
}

/// Whether the values that two schemas list have none in common, or none has a type that the other wants.
fn have_other_values(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let none_is_of = |listed: &[&Value], types: &BTreeSet<&str>| {
        !listed.iter().any(|value| types.contains(type_of(value)))
    };
    match (values(a), values(b)) {
        (Some(a), Some(b)) => !a.iter().any(|x| b.iter().any(|y| are_equal(x, y))),
        (Some(listed), None) => types(b).is_some_and(|types| none_is_of(&listed, &types)),
        (None, Some(listed)) => types(a).is_some_and(|types| none_is_of(&listed, &types)),
        (None, None) => false,
    }
}

fn values(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(list))) if list.len() <= VALUES_MAX => Some(list.iter().collect()),
        _ => None,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether two values may be equal to JSON: `1` is `1.0`, and what consists of others is not looked into.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => true,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn branches_that_exclude_each_other_become_any_of() {
        let root = json!({"$defs": {
            "A": {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
            "B": {"type": "object", "properties": {"k": {"enum": ["b", "c"]}}, "required": ["k"]},
            "Same": {"properties": {"k": {"const": "c"}}, "required": ["k"]},
            "Open": {"type": "object", "properties": {"k": {"const": "z"}}},
            "Loop": {"$ref": "#/$defs/Loop"},
        }});
        let of = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
        for (branches, are_apart) in [
            (json!([{"const": 1}, {"const": 2}]), true),
            (json!([{"const": 1}, {"const": 1.0}]), false),
            (json!([{"const": [1]}, {"const": [2]}]), false),
            (json!([{"type": "integer"}, {"type": "number"}]), false),
            (json!([{"type": ["integer", "null"]}, {"type": "string"}]), true),
            (json!([{"enum": ["a", null]}, {"type": ["integer", "object"]}]), true),
            (json!([{"enum": ["a", 2]}, {"type": "number"}]), false),
            (json!([of("A"), of("B")]), true),
            (json!([of("A"), of("B"), {"type": "null"}]), true),
            (json!([of("B"), of("Same")]), false),
            // What the first has not to have may be missing, but then it is not the second.
            (json!([of("Open"), of("A")]), true),
            (json!([of("Open"), of("Open")]), false),
            (json!([of("Loop"), of("A")]), false),
            (json!([{"allOf": [of("A"), {"title": "x"}]}, of("B")]), true),
            // Without a type they have every number as an instance.
            (json!([{"properties": {"k": {"const": 1}}, "required": ["k"]}, of("Same")]), false),
            (json!([false, true]), true),
        ] {
            let mut schema = json!({"oneOf": branches, "anyOf": [{}]});
            rewrite(schema.as_object_mut().unwrap(), &root);
            assert_eq!(schema.get("oneOf").is_none(), are_apart, "{branches}");
            if are_apart {
                assert_eq!(schema, json!({"anyOf": [{}], "allOf": [{"anyOf": branches}]}));
            }
        }
    }
}
