//! Items of a request, made into the messages that templates read.

use crate::serve::fault::Fault;
use crate::serve::limits::MESSAGES;
use crate::serve::openai::text;
use crate::serve::translate::object;
use serde_json::{Value as Json, json};

/// The messages of instructions and items. What the system and developers say before anybody else is one
/// message, since templates refuse a second.
///
/// # Errors
/// An item is of a type that is not supported, or has no text.
pub fn messages(instructions: Option<&str>, input: &Json) -> Result<Vec<Json>, Fault> {
    let list = match input {
        Json::String(text) => vec![json!({ "role": "user", "content": text })],
        Json::Array(list) => list.clone(),
        Json::Null => return Err(Fault::field("input", "is missing")),
        _ => return Err(Fault::field("input", "must be a text or a list of items")),
    };
    if list.is_empty() {
        return Err(Fault::field("input", "must have at least one item"));
    }
    if list.len() > MESSAGES {
        return Err(Fault::field("input", format!("has more than {MESSAGES} items")));
    }
    let mut all = Messages::default();
    all.system.extend(instructions.filter(|text| !text.is_empty()).map(str::to_owned));
    for (i, item) in list.iter().enumerate() {
        all.add(&format!("input[{i}]"), item)?;
    }
    Ok(all.whole())
}

#[derive(Default)]
struct Messages {
    /// Texts of the system before all others.
    system: Vec<String>,
    all: Vec<Json>,
    /// The assistant's turn under way: reasoning, text and calls are items of their own.
    turn: Option<Json>,
}

impl Messages {
    fn add(&mut self, at: &str, item: &Json) -> Result<(), Fault> {
        let field = |name: &str| {
            let text = item[name].as_str();
            text.ok_or_else(|| Fault::field(format!("{at}.{name}"), "must be a text"))
        };
        let content = |name: &str| text(&format!("{at}.{name}"), &item[name]);
        match item["type"].as_str().unwrap_or("message") {
            "message" => match field("role")? {
                "assistant" => self.said(content("content")?),
                "user" => self.other("user", &content("content")?),
                "system" | "developer" => {
                    let text = content("content")?;
                    match self.all.is_empty() && self.turn.is_none() {
                        true => self.system.push(text),
                        false => self.other("system", &text),
                    }
                }
                _ => {
                    let need = "must be user, assistant, system or developer";
                    return Err(Fault::field(format!("{at}.role"), need));
                }
            },
            "function_call" => {
                let place = || Fault::field(format!("{at}.arguments"), "must be a JSON object");
                let arguments = object(field("arguments")?).ok_or_else(place)?;
                let call = json!({
                    "type": "function", "id": field("call_id")?,
                    "function": { "name": field("name")?, "arguments": arguments },
                });
                let turn = self.turn();
                match turn["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => turn["tool_calls"] = json!([call]),
                }
            }
            "function_call_output" => {
                let (id, output) = (field("call_id")?, content("output")?);
                self.end_turn();
                let message = json!({ "role": "tool", "tool_call_id": id, "content": output });
                self.all.push(message);
            }
            "reasoning" => self.reasoned(item),
            "item_reference" => {
                let problem = "the server keeps no items: send the item itself";
                return Err(Fault::field(at, problem));
            }
            kind => {
                let problem = format!("items of type `{kind}` are not supported");
                return Err(Fault::field(at, problem));
            }
        }
        Ok(())
    }

    /// The assistant's turn under way, or a new one.
    fn turn(&mut self) -> &mut Json {
        self.turn.get_or_insert_with(|| json!({ "role": "assistant", "content": "" }))
    }

    /// A text of the assistant, which is a turn of its own behind another text or calls.
    fn said(&mut self, text: String) {
        let turn = self.turn();
        if turn["content"] != "" || turn.get("tool_calls").is_some() {
            self.end_turn();
        }
        self.turn()["content"] = text.into();
    }

    fn reasoned(&mut self, item: &Json) {
        let parts = |name: &str| {
            let parts = item[name].as_array().map(Vec::as_slice).unwrap_or_default();
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<String>()
        };
        let text = Some(parts("content")).filter(|text| !text.is_empty());
        let text = text.unwrap_or_else(|| parts("summary"));
        if text.is_empty() {
            return;
        }
        // Reasoning begins a turn.
        self.end_turn();
        self.turn()["reasoning_content"] = text.into();
    }

    fn other(&mut self, role: &str, text: &str) {
        self.end_turn();
        self.all.push(json!({ "role": role, "content": text }));
    }

    fn end_turn(&mut self) {
        let turn = self.turn.take();
        // Reasoning behind which nothing was said is no turn.
        self.all
            .extend(turn.filter(|turn| turn["content"] != "" || turn.get("tool_calls").is_some()));
    }

    fn whole(mut self) -> Vec<Json> {
        self.end_turn();
        let system = Some(self.system.join("\n\n")).filter(|text| !text.is_empty());
        let system = system.map(|text| json!({ "role": "system", "content": text }));
        system.into_iter().chain(self.all).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let input = json!([
            { "role": "developer", "content": "b" },
            { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "hi" }] },
            { "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "hm" }] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look." }] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}" },
            { "type": "function_call", "call_id": "d", "name": "g", "arguments": "" },
            { "type": "function_call_output", "call_id": "c", "output": "7" },
            { "type": "function_call_output", "call_id": "d", "output": [{ "type": "input_text", "text": "8" }] },
        ]);
        let call = |id: &str, name: &str, arguments: Json| json!({ "type": "function", "id": id, "function": { "name": name, "arguments": arguments } });
        let calls = [call("c", "f", json!({ "a": 1 })), call("d", "g", json!({}))];
        let expected = json!([
            { "role": "system", "content": "a\n\nb" },
            { "role": "user", "content": "hi" },
            { "role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": calls },
            { "role": "tool", "tool_call_id": "c", "content": "7" },
            { "role": "tool", "tool_call_id": "d", "content": "8" },
        ]);
        assert_eq!(json!(messages(Some("a"), &input).unwrap()), expected);
        let one = json!([{ "role": "user", "content": "hi" }]);
        assert_eq!(json!(messages(None, &json!("hi")).unwrap()), one);
    }

    #[test]
    fn what_is_no_item_is_refused_by_its_place() {
        for (item, place) in [
            (json!({ "role": "robot", "content": "x" }), "input[0].role"),
            (json!({ "type": "web_search_call" }), "input[0]"),
            (json!({ "type": "item_reference", "id": "x" }), "input[0]"),
            (
                json!({ "role": "user", "content": [{ "type": "input_image" }] }),
                "input[0].content[0]",
            ),
            (
                json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\"" }),
                "input[0].arguments",
            ),
            (json!({ "type": "function_call_output", "output": "x" }), "input[0].call_id"),
        ] {
            let fault = messages(None, &json!([item])).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(place));
        }
        assert!(messages(None, &Json::Null).is_err() && messages(None, &json!([])).is_err());
    }
}
