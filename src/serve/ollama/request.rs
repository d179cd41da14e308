//! Requests of Ollama's API.

use super::given;
use crate::serve::body::Fields;
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, WHOLE, field};
use crate::serve::generate::{Conversation, Input, Wish, infill, tools};
use crate::serve::limits::MESSAGES;
use crate::serve::loaded::Loaded;
use crate::serve::openai::TOP_LOGPROBS;
use crate::serve::translate::{self, object};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

const ASKED: &[Field] = &[
    field("model", Kind::Text, "The model's name"),
    field("name", Kind::Text, "Its older name"),
    field("stream", Kind::Bool, "Tell the answer while it comes (default true)"),
    field("keep_alive", Kind::Either(&[Kind::Text, Kind::Number]), "How long the model stays"),
    field("think", Kind::Either(&[Kind::Bool, Kind::Word(&["low", "medium", "high"])]), ""),
    field(
        "format",
        Kind::Either(&[Kind::Word(&["", "json"]), Kind::Map]),
        "json, or a JSON schema",
    ),
    field("options", Kind::Options(OPTIONS), "Parameters"),
    field("logprobs", Kind::Bool, "Tell the probabilities of tokens"),
    field("top_logprobs", TOP_LOGPROBS, "Likeliest tokens to tell with each"),
];
const OPTIONS: &[Field] = &[
    field("num_predict", Kind::Whole(-2, i64::MAX), "Tokens of the answer, most"),
    field("num_ctx", Kind::Whole(0, i64::MAX), "Refused if it is more than the server's"),
    field("stop", Kind::Texts, "Texts that end an answer"),
    field("seed", WHOLE, ""),
    field("ignore_eos", Kind::Bool, "Go on where the model would end"),
];
const CONVERSATION: &[Field] = &[
    field("messages", Kind::List(&Kind::Any), "The conversation; without one the model is loaded"),
    field("tools", Kind::List(&Kind::Map), "Functions that the answer may call"),
];
const PROMPT: &[Field] = &[
    field("prompt", Kind::Text, "A text; without one the model is loaded"),
    field("system", Kind::Text, "What the system says"),
    field("suffix", Kind::Text, "A text behind the answer, for models that know such"),
    field("raw", Kind::Bool, "Continue the text as it is"),
    field("parse_special", Kind::Bool, "Whether names of control tokens in a raw prompt are such"),
    field("template", Kind::Any, "Refused"),
    field("context", Kind::Any, "Refused"),
    field("images", Kind::Any, "Refused"),
];

/// The body of a chat.
pub const CHAT: Body = Body { tables: &[ASKED, CONVERSATION], samples: false };
/// The body of a prompt.
pub const GENERATE: Body = Body { tables: &[ASKED, PROMPT], samples: false };

/// Fields of a request.
#[derive(Debug, Deserialize)]
pub struct Asked {
    pub model: Option<String>,
    /// The model's old name.
    pub name: Option<String>,
    pub stream: Option<bool>,
    pub messages: Option<Vec<Json>>,
    pub prompt: Option<String>,
    pub keep_alive: Option<Json>,
    suffix: Option<String>,
    system: Option<String>,
    raw: Option<bool>,
    parse_special: Option<bool>,
    tools: Option<Vec<Json>>,
    think: Option<Json>,
    format: Option<Json>,
    options: Option<Fields>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

/// Options whose names are not those of samplers, or that say how the machine is used.
const OTHERS: &[&str] =
    &["num_predict", "num_ctx", "n", "max_tokens", "max_completion_tokens", "n_predict"];

/// The wish of a chat.
///
/// # Errors
/// A field is wrong.
pub fn chat_wish(asked: &Asked, loaded: &Loaded) -> Result<Wish, Fault> {
    let messages = messages(asked.messages.as_deref().unwrap_or_default())?;
    let tools = tools("tools", asked.tools.as_deref().unwrap_or_default())?;
    wish(asked, Conversation { messages, tools, ..Conversation::default() }, loaded)
}

/// The wish of a prompt: a conversation of one message, a text as it is, or what is between two texts.
///
/// # Errors
/// A field is wrong.
pub fn generate_wish(
    asked: &Asked,
    fields: &Fields,
    parses: bool,
    loaded: &Loaded,
) -> Result<Wish, Fault> {
    for name in ["template", "context"] {
        let is_empty = |value: &Json| value == "" || *value == json!([]);
        if given(fields, name).is_some_and(|value| !is_empty(value)) {
            return Err(Fault::field(name, "is not supported"));
        }
    }
    if given(fields, "images").is_some_and(|images| *images != json!([])) {
        return Err(Fault::field("images", "are not supported"));
    }
    let prompt = asked.prompt.as_deref().unwrap_or_default();
    let mut messages = Vec::new();
    let system = asked.system.as_deref().unwrap_or_default();
    if !system.is_empty() {
        messages.push(json!({ "role": "system", "content": system }));
    }
    messages.push(json!({ "role": "user", "content": prompt }));
    let conversation = Conversation { messages, ..Conversation::default() };
    let mut wish = wish(asked, conversation, loaded)?;
    let suffix = asked.suffix.as_deref().unwrap_or_default();
    if !suffix.is_empty() {
        let ids = infill(loaded, prompt, suffix, &[]);
        wish.input = Input::Tokens(ids.map_err(|fault| fault.with_param("suffix"))?);
    } else if asked.raw == Some(true) || !loaded.prompter()?.has_template() {
        let text = format!("{system}{prompt}");
        wish.input = match asked.parse_special.unwrap_or(parses) {
            true => Input::Parsed(text),
            false => Input::Text(text),
        };
    }
    Ok(wish)
}

/// A wish by the options that both have.
fn wish(asked: &Asked, mut conversation: Conversation, loaded: &Loaded) -> Result<Wish, Fault> {
    (conversation.thinking, conversation.variables) = thinking(asked.think.as_ref());
    conversation.parallel = true;
    let schema = match &asked.format {
        Some(Json::String(word)) if word == "json" => Some(json!({ "type": "object" })),
        Some(schema @ Json::Object(_)) => Some(schema.clone()),
        _ => None,
    };
    let mut options = asked.options.clone().unwrap_or_default();
    let max_tokens = n_predict(&options);
    check_context(&options, loaded)?;
    options.retain(|name, _| !OTHERS.contains(&name.as_str()));
    let schema = schema.map(|schema| (schema, "format"));
    let mut wish = translate::wish(conversation, options, schema, loaded)?;
    wish.max_tokens = max_tokens;
    wish.logprobs = (asked.logprobs == Some(true)).then(|| asked.top_logprobs.unwrap_or(0));
    Ok(wish)
}

/// Tokens of the answer; -1 and -2 are as many as there is room for.
fn n_predict(options: &Fields) -> Option<usize> {
    let n = given(options, "num_predict").and_then(Json::as_i64);
    n.and_then(|n| usize::try_from(n).ok())
}

/// Refuses a context that the server does not have: a prompt would be cut where the client thinks it is not.
fn check_context(options: &Fields, loaded: &Loaded) -> Result<(), Fault> {
    let n = given(options, "num_ctx").and_then(Json::as_i64).unwrap_or(0);
    match n > loaded.n_ctx as i64 {
        true => {
            let problem = format!("the server has a context of {} tokens, not {n}", loaded.n_ctx);
            Err(Fault::field("options.num_ctx", problem))
        }
        false => Ok(()),
    }
}

/// Whether the model is to reason, and how much.
fn thinking(think: Option<&Json>) -> (Option<bool>, Map<String, Json>) {
    match think {
        Some(Json::Bool(on)) => (Some(*on), Map::new()),
        Some(effort @ Json::String(_)) => {
            (Some(true), Map::from_iter([("reasoning_effort".to_owned(), effort.clone())]))
        }
        _ => (None, Map::new()),
    }
}

fn messages(list: &[Json]) -> Result<Vec<Json>, Fault> {
    if list.len() > MESSAGES {
        return Err(Fault::field("messages", format!("has more than {MESSAGES} messages")));
    }
    list.iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(i: usize, message: &Json) -> Result<Json, Fault> {
    let at = |field: &str| format!("messages[{i}].{field}");
    let role = match message["role"].as_str() {
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        _ => return Err(Fault::field(at("role"), "must be system, user, assistant or tool")),
    };
    if message["images"].as_array().is_some_and(|images| !images.is_empty()) {
        return Err(Fault::field(at("images"), "are not supported"));
    }
    let content = match &message["content"] {
        Json::Null => "",
        Json::String(text) => text,
        _ => return Err(Fault::field(at("content"), "must be a text")),
    };
    let mut made = json!({ "role": role, "content": content });
    if let Some(text) = message["thinking"].as_str().filter(|text| !text.is_empty()) {
        made["reasoning_content"] = text.into();
    }
    if let Some(name) = message["tool_name"].as_str() {
        made["name"] = name.into();
    }
    if let Some(id) = message["tool_call_id"].as_str() {
        made["tool_call_id"] = id.into();
    }
    if let Some(calls) = message["tool_calls"].as_array().filter(|calls| !calls.is_empty()) {
        let call = |(k, call): (usize, &Json)| {
            let function = &call["function"];
            let name = function["name"].as_str();
            let place = |field: &str| at(&format!("tool_calls[{k}].function.{field}"));
            let name = name.ok_or_else(|| Fault::field(place("name"), "must be a text"))?;
            let arguments = match &function["arguments"] {
                Json::Null => Some(json!({})),
                Json::String(text) => object(text),
                other => Some(other.clone()).filter(Json::is_object),
            };
            let arguments = arguments
                .ok_or_else(|| Fault::field(place("arguments"), "must be a JSON object"))?;
            let mut made = json!({
                "type": "function", "function": { "name": name, "arguments": arguments }
            });
            if let Some(id) = call["id"].as_str() {
                made["id"] = id.into();
            }
            Ok(made)
        };
        made["tool_calls"] =
            calls.iter().enumerate().map(call).collect::<Result<Vec<Json>, Fault>>()?.into();
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_made_into_those_of_templates() {
        let call = json!({ "function": { "name": "f", "arguments": { "a": 1 } } });
        let made = messages(&[
            json!({ "role": "assistant", "thinking": "hm", "tool_calls": [call] }),
            json!({ "role": "tool", "tool_name": "f", "content": "7" }),
        ])
        .unwrap();
        assert_eq!(made[0]["tool_calls"][0]["function"]["arguments"], json!({ "a": 1 }));
        assert_eq!(made[0]["reasoning_content"], "hm");
        assert_eq!(made[1], json!({ "role": "tool", "content": "7", "name": "f" }));
        for (message, place) in [
            (json!({ "role": "robot" }), "messages[0].role"),
            (json!({ "role": "user", "content": [] }), "messages[0].content"),
            (json!({ "role": "user", "images": ["x"] }), "messages[0].images"),
            (
                json!({ "role": "assistant", "tool_calls": [{ "function": {
                    "name": "f", "arguments": [1] } }] }),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ] {
            assert_eq!(messages(&[message]).unwrap_err().param.as_deref(), Some(place));
        }
    }

    #[test]
    fn tokens_of_answers_have_names_for_no_limit() {
        let of = |value: Json| n_predict(&Fields::from_iter([("num_predict".to_owned(), value)]));
        assert_eq!((of(json!(7)), of(json!(-1)), of(json!(null))), (Some(7), None, None));
    }
}
