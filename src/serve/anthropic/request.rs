//! Requests of Anthropic's API, made into conversations.

use crate::serve::body::Fields;
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, COUNT, Field, Kind, field};
use crate::serve::generate::{Conversation, ToolChoice, Wish, tools};
use crate::serve::limits;
use crate::serve::loaded::Loaded;
use crate::serve::openai::{EFFORT, EXTRAS, MODEL};
use crate::serve::translate;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

/// What a line begins with that some clients put in front of the system's text, and that is another one in
/// each request: with it, no prompt would be found again.
const BILLING: &str = "x-anthropic-billing-header:";

const ASKED: &[Field] = &[
    field("messages", Kind::List(&Kind::Any), "The conversation").required(),
    field("system", Kind::Either(&[Kind::Text, Kind::List(&Kind::Any)]), "What the system says"),
    field("tools", Kind::List(&Kind::Map), "Tools that the answer may call"),
    field("tool_choice", Kind::Object(CHOICE), ""),
    field("thinking", Kind::Object(THINKING), ""),
    field("output_config", Kind::Object(OUTPUT_CONFIG), ""),
];
const ANSWERED: &[Field] = &[
    field("max_tokens", COUNT, "Tokens of the answer, most").required(),
    field("stream", Kind::Bool, "Tell the answer while it comes"),
    field("stop_sequences", Kind::List(&Kind::Text), "Texts that end the answer"),
];
const CHOICE: &[Field] = &[
    field("type", Kind::Word(&["auto", "any", "tool", "none"]), "").required(),
    field("name", Kind::Text, ""),
    field("disable_parallel_tool_use", Kind::Bool, ""),
];
const THINKING: &[Field] = &[
    field("type", Kind::Word(&["enabled", "adaptive", "disabled"]), "").required(),
    field("budget_tokens", COUNT, "Not used"),
];
const OUTPUT_CONFIG: &[Field] =
    &[field("effort", EFFORT, ""), field("format", Kind::Object(FORMAT), "")];
const FORMAT: &[Field] = &[
    field("type", Kind::Word(&["json_schema"]), "").required(),
    field("schema", Kind::Schema, "").required(),
];

/// The body of a request for an answer.
pub const MESSAGES: Body = Body { tables: &[MODEL, ASKED, ANSWERED, EXTRAS], samples: true };
/// The body of a request for the number of a prompt's tokens.
pub const COUNT_TOKENS: Body = Body { tables: &[MODEL, ASKED], samples: false };

/// Fields of a request.
#[derive(Debug, Deserialize)]
pub struct Asked {
    pub model: Option<String>,
    pub stream: Option<bool>,
    system: Option<Json>,
    #[serde(default)]
    messages: Json,
    stop_sequences: Option<Vec<String>>,
    tools: Option<Vec<Json>>,
    tool_choice: Option<Choice>,
    thinking: Option<Thinking>,
    output_config: Option<OutputConfig>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    r#type: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Thinking {
    r#type: String,
}

#[derive(Debug, Deserialize)]
struct OutputConfig {
    effort: Option<String>,
    format: Option<Format>,
}

#[derive(Debug, Deserialize)]
struct Format {
    schema: Json,
}

/// The wish of a request, and the types of tools that are passed over.
///
/// # Errors
/// A field is wrong.
pub fn wish(
    asked: &Asked,
    mut fields: Fields,
    loaded: &Loaded,
) -> Result<(Wish, Vec<String>), Fault> {
    let (conversation, ignored) = conversation(asked)?;
    let format = asked.output_config.as_ref().and_then(|config| config.format.as_ref());
    let schema = format.map(|format| (format.schema.clone(), "output_config.format.schema"));
    fields.insert("stop".into(), json!(asked.stop_sequences.as_deref().unwrap_or_default()));
    Ok((translate::wish(conversation, fields, schema, loaded)?, ignored))
}

/// The conversation of a request, and the types of tools that are passed over.
///
/// # Errors
/// A field is wrong.
pub fn conversation(asked: &Asked) -> Result<(Conversation, Vec<String>), Fault> {
    let mut all = Vec::new();
    let system = system(asked.system.as_ref().unwrap_or(&Json::Null))?;
    if !system.is_empty() {
        all.push(json!({ "role": "system", "content": system }));
    }
    all.extend(messages(&asked.messages)?);
    let given = asked.tools.clone().unwrap_or_default();
    let (given, ignored) = translate::functions(given, |kind| kind == "custom");
    let given: Vec<Json> = given
        .into_iter()
        .map(|tool| {
            json!({
                "name": tool["name"],
                "description": tool["description"],
                "parameters": tool["input_schema"],
            })
        })
        .collect();
    let tools = tools("tools", &given)?;
    let mut variables = Map::new();
    let effort = asked.output_config.as_ref().and_then(|config| config.effort.as_deref());
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".into(), effort.into());
    }
    let thinking = asked.thinking.as_ref().map(|thinking| thinking.r#type != "disabled");
    // An answer that the client has begun goes on.
    let continues = all.last().is_some_and(|last| {
        last["role"] == "assistant"
            && last.get("tool_calls").is_none()
            && last["content"].as_str().is_some_and(|text| !text.trim().is_empty())
    });
    let parallel = asked.tool_choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
    let conversation = Conversation {
        messages: all,
        choice: choice(asked.tool_choice.as_ref(), &tools)?,
        tools,
        parallel: !parallel.unwrap_or(false),
        variables,
        thinking,
        continues,
    };
    Ok((conversation, ignored))
}

fn choice(choice: Option<&Choice>, tools: &[Json]) -> Result<ToolChoice, Fault> {
    let Some(choice) = choice else { return Ok(ToolChoice::Auto) };
    match (choice.r#type.as_str(), &choice.name) {
        ("auto", _) => Ok(ToolChoice::Auto),
        ("none", _) => Ok(ToolChoice::None),
        ("any", _) if tools.is_empty() => Err(Fault::field("tool_choice", "`any` needs `tools`")),
        ("any", _) => Ok(ToolChoice::Required),
        (_, Some(name)) => match tools.iter().any(|tool| tool["function"]["name"] == **name) {
            true => Ok(ToolChoice::Named(name.clone())),
            false => Err(Fault::field("tool_choice.name", format!("there is no tool `{name}`"))),
        },
        (_, None) => Err(Fault::field("tool_choice.name", "is missing")),
    }
}

/// The system's text, without a line of billing.
fn system(system: &Json) -> Result<String, Fault> {
    let blocks = match system {
        Json::Null => return Ok(String::new()),
        Json::String(text) => vec![text.clone()],
        Json::Array(blocks) => {
            let text = |(i, block)| text_of(&format!("system[{i}]"), block).map(str::to_owned);
            blocks.iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        _ => return Err(Fault::field("system", "must be a text or a list of blocks")),
    };
    let mut texts: Vec<&str> = blocks.iter().map(String::as_str).collect();
    if let Some(first) = texts.first_mut()
        && first.starts_with(BILLING)
    {
        *first = first.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n'));
    }
    texts.retain(|text| !text.is_empty());
    Ok(texts.join("\n"))
}

fn messages(list: &Json) -> Result<Vec<Json>, Fault> {
    let list = list.as_array().ok_or_else(|| Fault::field("messages", "must be a list"))?;
    if list.is_empty() {
        return Err(Fault::field("messages", "must have at least one message"));
    }
    if list.len() > limits::MESSAGES {
        return Err(Fault::field(
            "messages",
            format!("has more than {} messages", limits::MESSAGES),
        ));
    }
    let mut all = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let at = format!("messages[{i}].content");
        let content = &message["content"];
        match message["role"].as_str() {
            Some(role @ ("user" | "system")) => of_user(&at, role, content, &mut all)?,
            Some("assistant") => all.push(of_assistant(&at, content)?),
            _ => {
                let need = "must be user, assistant or system";
                return Err(Fault::field(format!("messages[{i}].role"), need));
            }
        }
    }
    Ok(all)
}

/// The blocks of a content; a text is one block.
fn blocks(at: &str, content: &Json) -> Result<Vec<Json>, Fault> {
    match content {
        Json::String(text) => Ok(vec![json!({ "type": "text", "text": text })]),
        Json::Array(blocks) => Ok(blocks.clone()),
        _ => Err(Fault::field(at, "must be a text or a list of blocks")),
    }
}

/// The text of a block of text.
fn text_of<'a>(at: &str, block: &'a Json) -> Result<&'a str, Fault> {
    match block["type"].as_str() {
        Some("text") => {}
        Some(kind) => {
            let problem = format!("blocks of type `{kind}` are not supported here");
            return Err(Fault::field(at, problem));
        }
        None => return Err(Fault::field(format!("{at}.type"), "is missing")),
    }
    block["text"].as_str().ok_or_else(|| Fault::field(format!("{at}.text"), "must be a text"))
}

/// The texts of a user as messages of their own between results of tools.
fn of_user(at: &str, role: &str, content: &Json, all: &mut Vec<Json>) -> Result<(), Fault> {
    let mut texts: Vec<String> = Vec::new();
    let said = |texts: &[String]| json!({ "role": role, "content": texts.join("\n") });
    for (i, block) in blocks(at, content)?.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if block["type"] != "tool_result" {
            texts.push(text_of(&at, block)?.to_owned());
            continue;
        }
        if !texts.is_empty() {
            all.push(said(&texts));
            texts.clear();
        }
        let id = block["tool_use_id"].as_str();
        let id = id.ok_or_else(|| Fault::field(format!("{at}.tool_use_id"), "must be a text"))?;
        let place = format!("{at}.content");
        let result = match &block["content"] {
            Json::Null => String::new(),
            content => {
                let blocks = blocks(&place, content)?;
                let text = |(i, block)| text_of(&format!("{place}[{i}]"), block);
                let texts = blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
                texts.join("\n")
            }
        };
        all.push(json!({ "role": "tool", "tool_call_id": id, "content": result }));
    }
    let is_empty = matches!(content, Json::Array(blocks) if blocks.is_empty());
    if !texts.is_empty() || is_empty {
        all.push(said(&texts));
    }
    Ok(())
}

fn of_assistant(at: &str, content: &Json) -> Result<Json, Fault> {
    let (mut texts, mut calls, mut reasoning) = (Vec::new(), Vec::new(), String::new());
    for (i, block) in blocks(at, content)?.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match block["type"].as_str() {
            Some("thinking") => reasoning += block["thinking"].as_str().unwrap_or_default(),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let name = block["name"].as_str().filter(|name| !name.is_empty());
                let name =
                    name.ok_or_else(|| Fault::field(format!("{at}.name"), "must be a text"))?;
                if !block["input"].is_object() {
                    return Err(Fault::field(format!("{at}.input"), "must be an object"));
                }
                calls.push(json!({
                    "type": "function", "id": block["id"],
                    "function": { "name": name, "arguments": block["input"] },
                }));
            }
            _ => texts.push(text_of(&at, block)?.to_owned()),
        }
    }
    let mut made = json!({ "role": "assistant", "content": texts.join("\n") });
    if !calls.is_empty() {
        made["tool_calls"] = calls.into();
    }
    if !reasoning.is_empty() {
        made["reasoning_content"] = reasoning.into();
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(body: Json) -> Result<(Conversation, Vec<String>), Fault> {
        conversation(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn blocks_become_messages_of_templates() {
        let (made, ignored) = made(json!({
            "system": [
                { "type": "text", "text": "x-anthropic-billing-header: v=1; cch=0af3;" },
                { "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } },
            ],
            "messages": [
                { "role": "user", "content": "hi" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "" },
                    { "type": "redacted_thinking", "data": "x" },
                    { "type": "text", "text": "I look." },
                    { "type": "tool_use", "id": "t", "name": "f", "input": { "a": 1 } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t", "content": [
                        { "type": "text", "text": "7" } ] },
                    { "type": "text", "text": "and?" },
                ] },
            ],
            "tools": [
                { "name": "f", "input_schema": { "type": "object" } },
                { "type": "web_search_20250305", "name": "web_search" },
            ],
        }))
        .unwrap();
        let call = json!({
            "type": "function", "id": "t", "function": { "name": "f", "arguments": { "a": 1 } }
        });
        let expected = json!([
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "hi" },
            { "role": "assistant", "content": "I look.", "tool_calls": [call],
                "reasoning_content": "hm" },
            { "role": "tool", "tool_call_id": "t", "content": "7" },
            { "role": "user", "content": "and?" },
        ]);
        assert_eq!(json!(made.messages), expected);
        assert_eq!(made.tools.len(), 1);
        assert_eq!(ignored, ["web_search_20250305"]);
        assert!(!made.continues);
    }

    #[test]
    fn what_is_no_request_is_refused_by_its_place() {
        let user = |content: Json| json!({ "messages": [{ "role": "user", "content": content }] });
        for (body, place) in [
            (json!({}), "messages"),
            (json!({ "messages": [] }), "messages"),
            (json!({ "messages": [{ "role": "robot", "content": "x" }] }), "messages[0].role"),
            (user(json!(7)), "messages[0].content"),
            (user(json!([{ "type": "image" }])), "messages[0].content[0]"),
            (user(json!([{ "text": "x" }])), "messages[0].content[0].type"),
            (
                json!({ "messages": [{ "role": "assistant", "content": [
                    { "type": "tool_use", "name": "f", "input": "{" }] }] }),
                "messages[0].content[0].input",
            ),
            (json!({ "system": 7, "messages": [{ "role": "user", "content": "x" }] }), "system"),
        ] {
            assert_eq!(made(body).unwrap_err().param.as_deref(), Some(place));
        }
        assert_eq!(system(&json!(format!("{BILLING} a\n\nRest"))).unwrap(), "Rest");
    }
}
