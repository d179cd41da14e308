//! Grammars of calls, and the words that tell a model of tools whose template knows none.

use crate::engine::grammar::Grammar;
use crate::sample::Filter;
use crate::serve::fault::Fault;
use crate::serve::limits::GRAMMAR_BYTES;
use crate::serve::loaded::{Loaded, Trigger};
use crate::text::{AnswerFormat, Tokenizer};
use serde_json::{Value as Json, json};

use super::{Conversation, ToolChoice};

/// Calls of an answer, most.
const CALLS: usize = 16;

/// The filter that has an answer call tools as is wished; `None` where it may be any text.
///
/// # Errors
/// Calls are forced, and a tool's schema has what cannot be enforced.
pub(super) fn filter(
    loaded: &Loaded,
    conversation: &Conversation,
    trigger: Option<u32>,
) -> Result<Option<Box<dyn Filter>>, Fault> {
    let Conversation { choice, parallel, .. } = conversation;
    let from = Trigger::behind(trigger);
    let knows = loaded.knows_tools();
    let marks = loaded.format.json_calls().filter(|_| knows);
    let tools: Vec<&Json> = conversation
        .tools
        .iter()
        .filter(|tool| match choice {
            ToolChoice::Named(name) => tool["function"]["name"] == name.as_str(),
            _ => true,
        })
        .collect();
    let many = *parallel && !matches!(choice, ToolChoice::Named(_));
    match (choice.is_forced(), marks, knows) {
        (true, Some((open, close)), _) => {
            let call = schema(&tools, "");
            let lark = tagged(&loaded.tokenizer, open, close, &call, many, true);
            checked(&call)?;
            loaded.filter("tools", &Grammar::Lark(lark), from).map(Some)
        }
        (true, None, true) => {
            let grammar = Grammar::JsonSchema(checked(&schema(&tools, ""))?);
            loaded.filter("tools", &grammar, from).map(Some)
        }
        (true, None, false) => {
            let grammar = Grammar::JsonSchema(checked(&wrapped(&tools, many))?);
            loaded.filter("tools", &grammar, from).map(Some)
        }
        (false, Some((open, close)), _) => {
            // Free text up to the mark.
            let mark = special(&loaded.tokenizer, open).map_or(Trigger::Text(open), Trigger::Token);
            let call = schema(&tools, "");
            // The model may call or not, and its calls are read anyway: what cannot be enforced is not.
            if checked(&call).is_err() {
                return Ok(None);
            }
            let lark = tagged(&loaded.tokenizer, open, close, &call, many, false);
            loaded.filter("tools", &Grammar::Lark(lark), mark).map(Some)
        }
        (false, None, true) => Ok(None),
        (false, None, false) => {
            let calls = wrapped(&tools, many);
            if checked(&calls).is_err() {
                return Ok(None);
            }
            // An answer that begins like JSON is calls.
            let lark = format!(
                "start: TEXT | calls\nTEXT: /[ \\t\\r\\n]*[^{{ \\t\\r\\n](.|\\n)*/\ncalls: %json {}\n",
                laid_out(calls)
            );
            loaded.filter("tools", &Grammar::Lark(lark), from).map(Some)
        }
    }
}

/// The schema as text, within its bounds and with nothing that cannot be enforced.
fn checked(schema: &Json) -> Result<String, Fault> {
    let text = schema.to_string();
    if text.len() > GRAMMAR_BYTES {
        let message = format!("the schemas have more than {GRAMMAR_BYTES} bytes");
        return Err(Fault::field("tools", message));
    }
    let check = Grammar::JsonSchema(text.clone()).check();
    check.map_err(|error| Fault::field("tools", error)).map(|()| text)
}

/// The token of a mark, if it is one.
fn special(tokenizer: &Tokenizer, mark: &str) -> Option<u32> {
    tokenizer.token_id(mark).filter(|&id| tokenizer.is_special(id))
}

/// The grammar of calls between marks; `opens`: from the mark on that opens the first.
fn tagged(
    tokenizer: &Tokenizer,
    open: &str,
    close: &str,
    call: &Json,
    many: bool,
    opens: bool,
) -> String {
    let mark = |mark: &str| match special(tokenizer, mark) {
        Some(id) if tokenizer.is_control(id) => mark.to_owned(),
        _ => Json::from(mark).to_string(),
    };
    let (open, close) = (mark(open), mark(close));
    let first = if opens { format!("{open} ") } else { String::new() };
    let more = match many {
        true => format!(" (\"\\n\" {open} \"\\n\" call \"\\n\" {close})*"),
        false => String::new(),
    };
    format!(
        "start: {first}\"\\n\" call \"\\n\" {close}{more}\ncall: %json {}\n",
        laid_out(call.clone())
    )
}

/// A schema whose documents have one layout: models run on in white space without end.
fn laid_out(mut schema: Json) -> Json {
    schema["x-guidance"] = json!({
        "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
    });
    schema
}

/// Schema of a call of one of the tools, which is at a JSON pointer.
fn schema(tools: &[&Json], pointer: &str) -> Json {
    let one = |tool: &Json, at: String| {
        let function = &tool["function"];
        let mut arguments = function["parameters"].clone();
        close(&mut arguments);
        move_references(&mut arguments, &format!("#{at}/properties/arguments"));
        json!({
            "type": "object",
            "properties": { "name": { "const": function["name"] }, "arguments": arguments },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    match tools {
        [tool] => one(tool, pointer.to_owned()),
        _ => {
            let calls = tools.iter().enumerate();
            let calls = calls.map(|(i, tool)| one(tool, format!("{pointer}/anyOf/{i}")));
            json!({ "anyOf": calls.collect::<Vec<_>>() })
        }
    }
}

/// Schema of `{"tool_calls": [..]}`.
fn wrapped(tools: &[&Json], many: bool) -> Json {
    let calls = json!({
        "type": "array",
        "items": schema(tools, "/properties/tool_calls/items"),
        "minItems": 1,
        "maxItems": if many { CALLS } else { 1 },
    });
    json!({
        "type": "object",
        "properties": { "tool_calls": calls },
        "required": ["tool_calls"],
        "additionalProperties": false,
    })
}

/// Has arguments be those that a schema names: as others may be anything, small models go on without end.
fn close(schema: &mut Json) {
    let Some(fields) = schema.as_object_mut() else { return };
    let is_open = ["additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref"]
        .iter()
        .any(|keyword| fields.contains_key(*keyword));
    if !is_open && fields.get("properties").is_some_and(Json::is_object) {
        fields.insert("additionalProperties".into(), false.into());
    }
}

/// Has references to places of a schema lead to where it lies now.
fn move_references(schema: &mut Json, place: &str) {
    match schema {
        Json::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Json::String(target) if key == "$ref" && target.starts_with('#') => {
                        *target = format!("{place}{}", &target[1..]);
                    }
                    value => move_references(value, place),
                }
            }
        }
        Json::Array(values) => values.iter_mut().for_each(|value| move_references(value, place)),
        _ => {}
    }
}

/// Messages for a template that knows no tools: tools, calls and results as texts.
pub(super) fn in_words(conversation: &Conversation) -> Vec<Json> {
    let mut messages: Vec<Json> = conversation.messages.iter().map(without_calls).collect();
    if conversation.tools.is_empty() || conversation.choice == ToolChoice::None {
        return messages;
    }
    let list: Vec<String> =
        conversation.tools.iter().map(|tool| tool["function"].to_string()).collect();
    let end = match conversation.choice.is_forced() {
        true => "",
        false => "\nIf no tool is needed, answer in plain text.",
    };
    let words = format!(
        "You can call these tools:\n{}\nTo call tools, answer with nothing but JSON of this form: \
         {{\"tool_calls\": [{{\"name\": \"NAME\", \"arguments\": {{..}}}}]}}{end}",
        list.join("\n")
    );
    match messages.first_mut().filter(|message| message["role"] == "system") {
        Some(system) => {
            let before = system["content"].as_str().unwrap_or_default();
            system["content"] = format!("{before}\n\n{words}").into();
        }
        None => messages.insert(0, json!({ "role": "system", "content": words })),
    }
    messages
}

/// A message whose calls or result are its text.
fn without_calls(message: &Json) -> Json {
    let content = message["content"].as_str().unwrap_or_default();
    if message["role"] == "tool" {
        return json!({ "role": "user", "content": format!("Result of the tool: {content}") });
    }
    let Some(calls) = message["tool_calls"].as_array() else { return message.clone() };
    let calls: Vec<Json> = calls
        .iter()
        .map(|call| {
            let function = &call["function"];
            json!({ "name": function["name"], "arguments": function["arguments"] })
        })
        .collect();
    let calls = json!({ "tool_calls": calls });
    let text = if content.is_empty() { calls.to_string() } else { format!("{content}\n{calls}") };
    json!({ "role": message["role"], "content": text })
}

/// The format of answers to a conversation.
pub(super) fn format(loaded: &Loaded, conversation: &Conversation) -> &'static AnswerFormat {
    match conversation.tools.is_empty() || loaded.knows_tools() {
        true => loaded.format,
        false => AnswerFormat::generic(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_to_where_the_schema_lies() {
        let tool = json!({ "type": "function", "function": { "name": "f", "parameters": {
            "type": "object", "properties": { "a": { "$ref": "#/$defs/x" } },
            "$defs": { "x": { "type": "string" } }
        } } });
        let one = schema(&[&tool], "");
        assert_eq!(
            one["properties"]["arguments"]["properties"]["a"]["$ref"],
            "#/properties/arguments/$defs/x"
        );
        assert!(one.pointer("/properties/arguments/$defs/x").is_some());
        let two = wrapped(&[&tool, &tool], true);
        let place = "/properties/tool_calls/items/anyOf/1/properties/arguments";
        let arguments = two.pointer(place).unwrap();
        assert_eq!(arguments["properties"]["a"]["$ref"], format!("#{place}/$defs/x"));
        checked(&two).unwrap();
    }

    #[test]
    fn tools_are_told_in_words_where_the_template_knows_none() {
        let tools = vec![json!({ "type": "function", "function": { "name": "f" } })];
        let call =
            json!({ "type": "function", "function": { "name": "f", "arguments": { "a": 1 } } });
        let messages = vec![
            json!({ "role": "user", "content": "x" }),
            json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
            json!({ "role": "tool", "content": "7" }),
        ];
        let conversation = Conversation { messages, tools, ..Conversation::default() };
        let told = in_words(&conversation);
        assert_eq!(told.len(), 4);
        assert!(told[0]["content"].as_str().unwrap().contains("\"name\":\"f\""));
        assert_eq!(told[2]["content"], r#"{"tool_calls":[{"name":"f","arguments":{"a":1}}]}"#);
        assert_eq!(told[3]["role"], "user");
    }
}
