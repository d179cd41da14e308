//! Requests for responses.

use super::input::messages;
use crate::serve::body::Fields;
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::generate::{Conversation, ToolChoice, Wish, tools};
use crate::serve::loaded::Loaded;
use crate::serve::openai::{EFFORT, EXTRAS, MODEL, TOP_LOGPROBS};
use crate::serve::translate;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

const FIELDS: &[Field] = &[
    field("input", Kind::Either(&[Kind::Text, Kind::List(&Kind::Any)]), "A text or items")
        .required(),
    field("instructions", Kind::Text, "What the system says"),
    field("max_output_tokens", Kind::Whole(1, i64::MAX), "Tokens of the answer, most"),
    field("stream", Kind::Bool, "Tell the answer while it comes"),
    field("tools", Kind::List(&Kind::Map), "Tools; those that are no functions are passed over"),
    field("tool_choice", Kind::Either(&[Kind::Text, Kind::Map]), ""),
    field("parallel_tool_calls", Kind::Bool, "Whether an answer may have several calls"),
    field("text", Kind::Object(TEXT), ""),
    field("reasoning", Kind::Object(REASONING), ""),
    field("include", Kind::List(&Kind::Text), "message.output_text.logprobs tells probabilities"),
    field("top_logprobs", TOP_LOGPROBS, "Likeliest tokens to tell with each"),
    field("background", Kind::Bool, "Refused if true, as the server keeps no state"),
    field("previous_response_id", Kind::Any, "Refused, as the server keeps no state"),
    field("conversation", Kind::Any, "Refused, as the server keeps no state"),
    field("prompt", Kind::Any, "Refused, as the server keeps no state"),
    field("metadata", Kind::Map, "Told back"),
    field("user", Kind::Text, "Told back"),
];
const TEXT: &[Field] = &[field("format", Kind::Object(FORMAT), "")];
const FORMAT: &[Field] = &[
    field("type", Kind::Word(&["text", "json_object", "json_schema"]), "").required(),
    field("schema", Kind::Schema, ""),
];
const REASONING: &[Field] = &[field("effort", EFFORT, "")];

/// The body of a request for a response.
pub const RESPONSES: Body = Body { tables: &[MODEL, FIELDS, EXTRAS], samples: true };

/// Fields of a request.
#[derive(Debug, Deserialize)]
pub struct Asked {
    pub model: Option<String>,
    pub stream: Option<bool>,
    input: Option<Json>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    tools: Option<Vec<Json>>,
    tool_choice: Option<Json>,
    parallel_tool_calls: Option<bool>,
    text: Option<TextConfig>,
    reasoning: Option<Reasoning>,
    include: Option<Vec<String>>,
    top_logprobs: Option<usize>,
    background: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct TextConfig {
    format: Option<Format>,
}

#[derive(Debug, Deserialize)]
struct Format {
    r#type: String,
    schema: Option<Json>,
}

#[derive(Debug, Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

/// A wish, and what the response tells of it.
pub struct Wished {
    pub wish: Wish,
    /// Types of tools that are passed over.
    pub ignored: Vec<String>,
    /// Fields of the response that repeat the request.
    pub echo: Fields,
}

/// Field of the schema that an answer follows.
const SCHEMA: &str = "text.format.schema";

/// The wish of a request.
///
/// # Errors
/// A field is wrong, or needs state that the server does not keep.
pub fn wish(asked: &Asked, fields: Fields, loaded: &Loaded) -> Result<Wished, Fault> {
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.get(name).is_some_and(|value| !value.is_null()) {
            return Err(Fault::field(name, "the server keeps no state: send the whole input"));
        }
    }
    if asked.background == Some(true) {
        return Err(Fault::field("background", "the server keeps no state"));
    }
    let given = asked.tools.clone().unwrap_or_default();
    let (given, ignored) = translate::functions(given, |kind| kind == "function");
    let mut tools = tools("tools", &given)?;
    let choice = choice(asked.tool_choice.as_ref(), &mut tools)?;
    let effort = asked.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    let mut variables = Map::new();
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".into(), effort.into());
    }
    let echo = echo(asked, &fields, &given);
    let conversation = Conversation {
        messages: messages(
            asked.instructions.as_deref(),
            asked.input.as_ref().unwrap_or(&Json::Null),
        )?,
        tools,
        choice,
        parallel: asked.parallel_tool_calls.unwrap_or(true),
        variables,
        thinking: effort.map(|effort| effort != "none"),
        continues: false,
    };
    let schema = match asked.text.as_ref().and_then(|text| text.format.as_ref()) {
        None => None,
        Some(format) => match (format.r#type.as_str(), &format.schema) {
            ("text", _) => None,
            ("json_object", _) => Some((json!({ "type": "object" }), "text.format")),
            (_, Some(schema)) => Some((schema.clone(), SCHEMA)),
            (_, None) => return Err(Fault::field(SCHEMA, "is missing")),
        },
    };
    let mut wish = translate::wish(conversation, fields, schema, loaded)?;
    wish.max_tokens = asked.max_output_tokens;
    let n_top = asked.top_logprobs;
    let include = asked.include.as_deref().unwrap_or_default();
    let is_told = include.iter().any(|name| name == "message.output_text.logprobs");
    wish.logprobs = (is_told || n_top.unwrap_or(0) > 0).then(|| n_top.unwrap_or(0));
    Ok(Wished { wish, ignored, echo })
}

/// The tools that are to be called; a list of allowed ones leaves only those.
fn choice(choice: Option<&Json>, tools: &mut Vec<Json>) -> Result<ToolChoice, Fault> {
    let wrong = || {
        let need =
            "must be none, auto, required, {\"type\": \"function\", \"name\"} or allowed_tools";
        Fault::field("tool_choice", need)
    };
    let named = |tools: &[Json], name: &str| {
        let is_there = tools.iter().any(|tool| tool["function"]["name"] == name);
        let missing = || Fault::field("tool_choice", format!("there is no tool `{name}`"));
        is_there.then(|| name.to_owned()).ok_or_else(missing)
    };
    let word = |word: &str| match word {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        _ => Err(wrong()),
    };
    let choice = match choice {
        None | Some(Json::Null) => return Ok(ToolChoice::Auto),
        Some(Json::String(text)) => word(text)?,
        Some(object) => match object["type"].as_str() {
            Some("function") => {
                ToolChoice::Named(named(tools, object["name"].as_str().ok_or_else(wrong)?)?)
            }
            Some("allowed_tools") => {
                let allowed = object["tools"].as_array().ok_or_else(wrong)?;
                let names: Vec<&str> =
                    allowed.iter().filter_map(|tool| tool["name"].as_str()).collect();
                for name in &names {
                    named(tools, name)?;
                }
                tools.retain(|tool| names.iter().any(|name| tool["function"]["name"] == **name));
                word(object["mode"].as_str().unwrap_or("auto"))?
            }
            Some(kind) => {
                let problem = format!("tools of type `{kind}` are not supported");
                return Err(Fault::field("tool_choice", problem));
            }
            None => return Err(wrong()),
        },
    };
    if choice == ToolChoice::Required && tools.is_empty() {
        return Err(Fault::field("tool_choice", "`required` needs tools of type `function`"));
    }
    Ok(choice)
}

/// Fields of the response that repeat the request.
fn echo(asked: &Asked, fields: &Fields, tools: &[Json]) -> Fields {
    let given = |name: &str, other: Json| {
        fields.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(other)
    };
    let tool = |tool: &Json| {
        json!({
            "type": "function", "name": tool["name"], "description": tool["description"],
            "parameters": tool["parameters"], "strict": tool["strict"].as_bool().unwrap_or(false),
        })
    };
    let mut text = given("text", json!({}));
    if let Some(text) = text.as_object_mut() {
        text.entry("format").or_insert_with(|| json!({ "type": "text" }));
    }
    let effort = asked.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    let echo = json!({
        "background": false,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": given("metadata", json!({})),
        "parallel_tool_calls": asked.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": null,
        "reasoning": { "effort": effort, "summary": null },
        "store": false,
        "temperature": given("temperature", Json::Null),
        "text": text,
        "tool_choice": given("tool_choice", "auto".into()),
        "tools": tools.iter().map(tool).collect::<Json>(),
        "top_logprobs": asked.top_logprobs.unwrap_or(0),
        "top_p": given("top_p", Json::Null),
        "truncation": "disabled",
        "user": given("user", Json::Null),
    });
    echo.as_object().cloned().unwrap_or_default()
}
