//! Tools of a request, checked.

use crate::serve::fault::Fault;
use crate::serve::limits::TOOLS;
use serde_json::{Value as Json, json};

/// Characters of a name, most.
const NAME_CHARS: usize = 64;

/// The tools of a list of functions, as OpenAI's chat has them. Each gets an object as its parameters.
///
/// # Errors
/// There are too many, or one has no name, the name of another, or no schema.
pub fn tools(param: &str, list: &[Json]) -> Result<Vec<Json>, Fault> {
    if list.len() > TOOLS {
        return Err(Fault::field(param, format!("has more than {TOOLS} entries")));
    }
    let mut tools: Vec<Json> = Vec::with_capacity(list.len());
    for (i, tool) in list.iter().enumerate() {
        let at = |field: &str| format!("{param}[{i}].{field}");
        let kind = tool["type"].as_str().unwrap_or("function");
        if kind != "function" {
            return Err(Fault::field(at("type"), format!("`{kind}` is not `function`")));
        }
        let function = tool.get("function").unwrap_or(tool);
        let name = function["name"].as_str().unwrap_or_default();
        let is_plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        if name.is_empty() || name.len() > NAME_CHARS || !name.chars().all(is_plain) {
            let need = "must have 1 to 64 letters, digits, `_`, `-`, `.`, `:` or `/`";
            return Err(Fault::field(at("function.name"), need));
        }
        if tools.iter().any(|other| other["function"]["name"] == name) {
            return Err(Fault::field(at("function.name"), format!("`{name}` is there twice")));
        }
        let parameters = match &function["parameters"] {
            Json::Null => json!({ "type": "object", "properties": {} }),
            Json::Object(fields) => {
                let mut fields = fields.clone();
                if !["type", "anyOf", "oneOf", "allOf", "$ref"]
                    .iter()
                    .any(|k| fields.contains_key(*k))
                {
                    fields.insert("type".into(), "object".into());
                }
                Json::Object(fields)
            }
            _ => return Err(Fault::field(at("function.parameters"), "must be a JSON schema")),
        };
        let mut made = json!({ "name": name });
        if let Some(text) = function["description"].as_str() {
            made["description"] = text.into();
        }
        made["parameters"] = parameters;
        tools.push(json!({ "type": "function", "function": made }));
    }
    Ok(tools)
}
