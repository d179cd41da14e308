//! The tools that a request offers, and values read by their schemas.

use std::sync::Arc;

use serde_json::Value as Json;

use super::python;

/// References and alternatives of a schema that are followed, at most.
const SCHEMA_STEPS_MAX: usize = 256;

/// Tools of a request: names, and schemas of their parameters. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    list: Arc<[Tool]>,
}

#[derive(Clone, Debug)]
struct Tool {
    name: String,
    parameters: Json,
}

impl Tools {
    /// No tools: then no answer has calls.
    pub fn none() -> Self {
        Self::default()
    }

    /// The tools of a list as chat APIs have it: `{"type": "function", "function": {"name",
    /// "parameters"}}`, or the inner object alone. What has no name is no tool.
    pub fn from_json(list: &Json) -> Self {
        let tools = list.as_array().map_or(&[][..], |tools| &tools[..]).iter().filter_map(|tool| {
            let function = tool.get("function").unwrap_or(tool);
            let name = function.get("name")?.as_str()?.to_owned();
            Some(Tool { name, parameters: function.get("parameters").cloned().unwrap_or_default() })
        });
        Self { list: tools.collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a tool has this name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Tool> {
        self.list.iter().find(|tool| tool.name == name)
    }

    /// The JSON of a parameter that was written as bare text, by its schema. A parameter that the
    /// tool does not have is a string.
    pub(super) fn json_of_text(&self, tool: &str, parameter: &str, text: &str) -> String {
        match self.types(tool, parameter) {
            Some(types) => types.read(text),
            None => quoted(text),
        }
    }

    /// The JSON of an element's text: of a parameter, or of what is within it, by names from the outside.
    /// What the tool does not have is a string; an array or object may be empty.
    pub(super) fn json_of_element(&self, tool: &str, path: &[&str], text: &str) -> String {
        let Some(root) = self.find(tool).map(|tool| &tool.parameters) else { return quoted(text) };
        let mut steps = SCHEMA_STEPS_MAX;
        let inner = |schema, name: &&str| part_of(schema, root, name, &mut steps);
        let Some(schema) = path.iter().try_fold(root, inner) else { return quoted(text) };
        let mut types = Types::default();
        types.add(schema, root, &mut SCHEMA_STEPS_MAX.clone());
        match (text.trim().is_empty() && !types.string, types.array, types.object) {
            (true, true, _) => "[]".to_owned(),
            (true, _, true) => "{}".to_owned(),
            _ => types.read(text),
        }
    }

    /// The JSON of a parameter that was written as a literal: as it is where its schema allows its
    /// type, else read from its text.
    pub(super) fn json_of_literal(
        &self,
        tool: &str,
        parameter: &str,
        json: &str,
        source: &str,
    ) -> String {
        let Some(types) = self.types(tool, parameter) else { return json.to_owned() };
        if types.allow(json) {
            return json.to_owned();
        }
        match serde_json::from_str::<String>(json) {
            Ok(text) => types.read(&text),
            Err(_) if types.string && !json.starts_with(['[', '{', 'n']) => quoted(source),
            Err(_) => json.to_owned(),
        }
    }

    fn types(&self, tool: &str, parameter: &str) -> Option<Types> {
        let root = &self.find(tool)?.parameters;
        let schema = root.get("properties")?.get(parameter)?;
        let mut types = Types::default();
        types.add(schema, root, &mut SCHEMA_STEPS_MAX.clone());
        Some(types)
    }
}

/// The schema of what is within something by this name; `item` is that of an array.
fn part_of<'s>(
    schema: &'s Json,
    root: &'s Json,
    name: &str,
    steps: &mut usize,
) -> Option<&'s Json> {
    *steps = steps.checked_sub(1)?;
    let own = || schema.get("properties").and_then(|properties| properties.get(name));
    let items = || schema.get("items").filter(|_| name == "item");
    let any = || schema.get("additionalProperties").filter(|schema| schema.is_object());
    if let Some(found) = own().or_else(items).or_else(any) {
        return Some(found);
    }
    let target = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
    let branches =
        ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    branches.chain(target).find_map(|part| part_of(part, root, name, steps))
}

/// Types that a schema allows; none of them: any.
#[derive(Clone, Debug, Default)]
struct Types {
    string: bool,
    integer: bool,
    number: bool,
    boolean: bool,
    array: bool,
    object: bool,
    null: bool,
    /// Texts that the schema lists.
    listed: Vec<String>,
}

impl Types {
    fn add(&mut self, schema: &Json, root: &Json, steps: &mut usize) {
        if *steps == 0 {
            return;
        }
        *steps -= 1;
        match &schema["type"] {
            Json::String(name) => self.add_name(name),
            Json::Array(names) => {
                names.iter().filter_map(Json::as_str).for_each(|name| self.add_name(name));
            }
            _ => {
                let listed = schema["enum"].as_array().into_iter().flatten();
                listed.chain(schema.get("const")).for_each(|value| self.add_type_of(value));
            }
        }
        let texts = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
        self.listed.extend(texts.filter_map(Json::as_str).map(str::to_owned));
        self.null |= schema["nullable"] == true;
        for key in ["anyOf", "oneOf", "allOf"] {
            for part in schema[key].as_array().into_iter().flatten() {
                self.add(part, root, steps);
            }
        }
        let target = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
        if let Some(target) = target {
            self.add(target, root, steps);
        }
    }

    fn add_name(&mut self, name: &str) {
        match name {
            "string" => self.string = true,
            "integer" => self.integer = true,
            "number" => self.number = true,
            "boolean" => self.boolean = true,
            "array" => self.array = true,
            "object" => self.object = true,
            "null" => self.null = true,
            _ => {}
        }
    }

    fn add_type_of(&mut self, value: &Json) {
        self.add_name(match value {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        });
    }

    fn is_any(&self) -> bool {
        let Types { string, integer, number, boolean, array, object, null, .. } = self;
        ![string, integer, number, boolean, array, object, null].into_iter().any(|is| *is)
    }

    /// Whether a valid JSON value has one of the types.
    fn allow(&self, json: &str) -> bool {
        self.is_any()
            || match json.as_bytes().first() {
                Some(b'"') => self.string,
                Some(b'[') => self.array,
                Some(b'{') => self.object,
                Some(b't' | b'f') => self.boolean,
                Some(b'n') => self.null,
                _ => self.number || (self.integer && !json.contains(['.', 'e', 'E'])),
            }
    }

    /// The value of a text: of the first type that it can have, strings last.
    fn read(&self, text: &str) -> String {
        if self.listed.iter().any(|listed| listed == text) {
            return quoted(text);
        }
        let word = text.trim();
        if self.null && matches!(word, "null" | "None") {
            return "null".to_owned();
        }
        if self.boolean && (word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false"))
        {
            return word.to_ascii_lowercase();
        }
        let only_text = self.string && !(self.integer || self.number || self.array || self.object);
        if only_text {
            return quoted(text);
        }
        let json = match serde_json::from_str::<Json>(word) {
            Ok(_) => Some(word.to_owned()),
            Err(_) => python::literal(word),
        };
        match json {
            Some(json) if self.allow(&json) || !self.string => json,
            _ => quoted(text),
        }
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools() -> Tools {
        Tools::from_json(&json!([
            { "type": "function", "function": { "name": "f", "parameters": {
                "properties": {
                    "s": { "type": "string" }, "i": { "type": "integer" },
                    "n": { "type": "number" }, "b": { "type": "boolean" },
                    "a": { "type": "array" }, "o": { "type": "object" },
                    "maybe": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
                    "either": { "type": ["integer", "string"] }, "any": {},
                    "listed": { "enum": ["1", 2] }, "ref": { "$ref": "#/$defs/n" },
                    "cycle": { "$ref": "#/properties/cycle" },
                    "list": { "type": "array", "items": { "type": "integer" } },
                    "deep": { "anyOf": [{ "type": "null" }, { "properties": {
                        "x": { "type": "array", "items": { "type": "string" } } } }] }
                },
                "$defs": { "n": { "type": "integer" } }
            } } },
            { "name": "bare" }, { "type": "function" }
        ]))
    }

    #[test]
    fn texts_are_read_by_their_schema() {
        let tools = tools();
        for (parameter, text, expected) in [
            ("s", "12345", r#""12345""#),
            ("s", " a\n", r#"" a\n""#),
            ("s", "null", r#""null""#),
            ("i", "12", "12"),
            ("i", " 12 ", "12"),
            ("i", "x", r#""x""#),
            ("i", "1.5", "1.5"),
            ("n", "0.5", "0.5"),
            ("n", "1e5", "1e5"),
            ("b", "true", "true"),
            ("b", "True", "true"),
            ("b", "no", r#""no""#),
            ("a", r#"["a", "b"]"#, r#"["a", "b"]"#),
            ("a", "['a']", r#"["a"]"#),
            ("o", r#"{"x": 1}"#, r#"{"x": 1}"#),
            ("maybe", "null", "null"),
            ("maybe", "1", r#""1""#),
            ("either", "1", "1"),
            ("either", "one", r#""one""#),
            ("any", "1", "1"),
            ("any", "one", r#""one""#),
            ("listed", "1", r#""1""#),
            ("listed", "2", "2"),
            ("ref", "7", "7"),
            ("unknown", "1", r#""1""#),
            ("cycle", "1", "1"),
        ] {
            assert_eq!(tools.json_of_text("f", parameter, text), expected, "{parameter} {text}");
        }
    }

    #[test]
    fn elements_are_read_by_the_schema_of_their_place() {
        let tools = tools();
        for (path, text, expected) in [
            (&["s"][..], "1", r#""1""#),
            (&["i"], "1", "1"),
            (&["a"], "", "[]"),
            (&["o"], " \n", "{}"),
            (&["s"], "", r#""""#),
            (&["list", "item"], "1", "1"),
            (&["deep", "x", "item"], "1", r#""1""#),
            (&["deep", "y"], "1", r#""1""#),
            (&["cycle", "z"], "1", r#""1""#),
        ] {
            assert_eq!(tools.json_of_element("f", path, text), expected, "{path:?} {text}");
        }
    }

    #[test]
    fn literals_stay_where_their_type_is_allowed() {
        let tools = tools();
        for (parameter, json, source, expected) in [
            ("s", r#""1""#, "'1'", r#""1""#),
            ("s", "1", "1", r#""1""#),
            ("i", r#""1""#, "'1'", "1"),
            ("n", "1", "1", "1"),
            ("b", r#""True""#, "'True'", "true"),
            ("any", "[1]", "[1]", "[1]"),
            ("s", "true", "True", r#""True""#),
            ("s", "[1]", "[1]", "[1]"),
            ("unknown", "1", "1", "1"),
        ] {
            let read = tools.json_of_literal("f", parameter, json, source);
            assert_eq!(read, expected, "{parameter} {json}");
        }
    }

    #[test]
    fn tools_are_those_with_a_name() {
        let tools = tools();
        assert!(tools.has("f") && tools.has("bare") && !tools.has("g") && !tools.is_empty());
        assert!(Tools::none().is_empty() && Tools::from_json(&json!({})).is_empty());
    }
}
