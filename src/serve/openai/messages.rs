//! Messages of a conversation as clients send them, checked and made into those that templates read.

use crate::serve::fault::Fault;
use crate::serve::limits::MESSAGES;
use serde_json::{Map, Value as Json, json};

/// The messages of a list, as templates read them.
///
/// # Errors
/// A message has no known role, a content that is no text, or calls that are none.
pub fn messages(list: &Json) -> Result<Vec<Json>, Fault> {
    let list = list.as_array().ok_or_else(|| Fault::field("messages", "must be a list"))?;
    if list.is_empty() {
        return Err(Fault::field("messages", "must have at least one message"));
    }
    if list.len() > MESSAGES {
        return Err(Fault::field("messages", format!("has more than {MESSAGES} messages")));
    }
    list.iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(i: usize, message: &Json) -> Result<Json, Fault> {
    let at = |field: &str| format!("messages[{i}].{field}");
    let fields = message
        .as_object()
        .ok_or_else(|| Fault::field(format!("messages[{i}]"), "must be an object"))?;
    let role = match fields.get("role").and_then(Json::as_str) {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        _ => {
            let need = "must be system, developer, user, assistant or tool";
            return Err(Fault::field(at("role"), need));
        }
    };
    let calls = fields.get("tool_calls").filter(|calls| !calls.is_null());
    let content = match fields.get("content") {
        None | Some(Json::Null) if role == "assistant" => String::new(),
        None | Some(Json::Null) => {
            return Err(Fault::field(at("content"), "must be a text or a list of parts"));
        }
        Some(content) => text(&at("content"), content)?,
    };
    let mut made = Map::new();
    made.insert("role".into(), role.into());
    made.insert("content".into(), content.into());
    if let Some(calls) = calls {
        if role != "assistant" {
            return Err(Fault::field(at("tool_calls"), "only an assistant's message has calls"));
        }
        made.insert("tool_calls".into(), tool_calls(&at("tool_calls"), calls)?);
    }
    let reasoning = fields.get("reasoning_content").or(fields.get("reasoning"));
    if let Some(Json::String(reasoning)) = reasoning.filter(|_| role == "assistant") {
        made.insert("reasoning_content".into(), reasoning.as_str().into());
    }
    for name in ["name", "tool_call_id"] {
        match fields.get(name) {
            None | Some(Json::Null) => {}
            Some(Json::String(text)) => {
                made.insert(name.into(), text.as_str().into());
            }
            Some(_) => return Err(Fault::field(at(name), "must be a text")),
        }
    }
    Ok(Json::Object(made))
}

/// The text of a content: a text, or parts that are texts.
///
/// # Errors
/// A part is something else.
pub fn text(at: &str, content: &Json) -> Result<String, Fault> {
    match content {
        Json::String(text) => Ok(text.clone()),
        Json::Array(parts) => {
            let mut all = String::new();
            for (i, part) in parts.iter().enumerate() {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text" | "input_text" | "output_text"), Some(text)) => all += text,
                    (Some("refusal"), _) => all += part["refusal"].as_str().unwrap_or_default(),
                    (Some(kind), _) => {
                        let problem = format!("parts of type `{kind}` are not supported");
                        return Err(Fault::field(format!("{at}[{i}]"), problem));
                    }
                    (None, _) => {
                        return Err(Fault::field(format!("{at}[{i}].type"), "must be `text`"));
                    }
                }
            }
            Ok(all)
        }
        _ => Err(Fault::field(at, "must be a text or a list of parts")),
    }
}

/// Calls of an earlier answer, their arguments as objects.
fn tool_calls(at: &str, calls: &Json) -> Result<Json, Fault> {
    let calls = calls.as_array().ok_or_else(|| Fault::field(at, "must be a list"))?;
    let one = |(i, call): (usize, &Json)| {
        let function = &call["function"];
        let name = function["name"].as_str().filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Fault::field(format!("{at}[{i}].function.name"), "must be a text"))?;
        let place = format!("{at}[{i}].function.arguments");
        let arguments = match &function["arguments"] {
            Json::String(text) if text.trim().is_empty() => json!({}),
            Json::String(text) => {
                let parsed: Result<Json, _> = serde_json::from_str(text);
                let object = parsed.ok().filter(Json::is_object);
                object.ok_or_else(|| Fault::field(place, "must be a JSON object, as text"))?
            }
            Json::Object(fields) => Json::Object(fields.clone()),
            Json::Null => json!({}),
            _ => return Err(Fault::field(place, "must be a JSON object, as text")),
        };
        let mut made = json!({
            "type": "function", "function": { "name": name, "arguments": arguments }
        });
        if let Some(id) = call["id"].as_str() {
            made["id"] = id.into();
        }
        Ok(made)
    };
    calls.iter().enumerate().map(one).collect::<Result<Vec<Json>, Fault>>().map(Json::Array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_made_into_those_of_templates() {
        let call = json!({ "id": "c", "type": "function", "function": {
            "name": "f", "arguments": "{\"a\": 1}" } });
        let list = json!([
            { "role": "developer", "content": [{ "type": "text", "text": "a" },
                { "type": "text", "text": "b" }] },
            { "role": "user", "content": "hi", "name": "Ann" },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "content": "7", "tool_call_id": "c" },
        ]);
        let made = messages(&list).unwrap();
        assert_eq!(made[0], json!({ "role": "system", "content": "ab" }));
        assert_eq!(made[1]["name"], "Ann");
        assert_eq!(made[2]["tool_calls"][0]["function"]["arguments"], json!({ "a": 1 }));
        assert_eq!(made[3]["tool_call_id"], "c");
    }

    #[test]
    fn what_is_no_message_is_refused_by_its_place() {
        for (message, place) in [
            (json!({ "role": "robot", "content": "x" }), "messages[0].role"),
            (json!({ "role": "user" }), "messages[0].content"),
            (json!({ "role": "user", "content": 7 }), "messages[0].content"),
            (
                json!({ "role": "user", "content": [{ "type": "image_url" }] }),
                "messages[0].content[0]",
            ),
            (
                json!({ "role": "assistant", "tool_calls": [{ "function": {
                    "name": "f", "arguments": "{\"a\": " } }] }),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (json!("hi"), "messages[0]"),
        ] {
            let fault = messages(&json!([message])).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(place));
            assert_eq!(fault.status.as_u16(), 400);
        }
        assert!(messages(&json!([])).is_err() && messages(&json!({})).is_err());
    }
}
