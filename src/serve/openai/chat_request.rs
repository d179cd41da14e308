//! Requests for chat completions.

use super::messages;
use crate::engine::ANSWERS_MAX;
use crate::engine::grammar::Grammar;
use crate::sample::LOGPROBS_MAX;
use crate::serve::body::{Fields, texts, typed};
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, WHOLE, field};
use crate::serve::generate::{Conversation, Input, ToolChoice, Wish, sampling, tools};
use crate::serve::limits::{GRAMMAR_BYTES, STOP_BYTES, STOPS};
use crate::serve::loaded::Loaded;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Efforts of reasoning that clients name.
pub const EFFORT: Kind = Kind::Word(&["none", "minimal", "low", "medium", "high", "xhigh", "max"]);
/// Token probabilities of an answer.
pub const TOP_LOGPROBS: Kind = Kind::Whole(0, LOGPROBS_MAX as i64);

/// Fields of all requests that generate, whatever their API.
pub const EXTRAS: &[Field] = &[
    field("seed", WHOLE, "Seed of the draws; without one, or with -1, each request has its own"),
    field("ignore_eos", Kind::Bool, "Go on where the model would end"),
    field("cache_prompt", Kind::Bool, "Use and leave prefixes (default true)"),
    field("grammar", Kind::Text, "A grammar in llama.cpp's notation that the answer follows"),
    field("json_schema", Kind::Schema, "A JSON schema that the answer follows"),
    field("guided_json", Kind::Schema, "The same"),
    field("guided_regex", Kind::Text, "A regular expression that the answer matches"),
    field("guided_grammar", Kind::Text, "As grammar"),
    field("guided_choice", Kind::Texts, "Texts one of which is the answer"),
    field("structured_outputs", Kind::Object(STRUCTURED), "The same, one of them"),
    field(
        "lora",
        Kind::List(&Kind::Any),
        "Not supported but empty: adapters are models of their own",
    ),
];

const STRUCTURED: &[Field] = &[
    field("json", Kind::Schema, ""),
    field("regex", Kind::Text, ""),
    field("choice", Kind::List(&Kind::Text), ""),
    field("grammar", Kind::Text, ""),
];

/// The field that all requests have.
pub const MODEL: &[Field] =
    &[field("model", Kind::Text, "The model's name; the first model without one")];

/// Fields that are the same for all of OpenAI's older ways to generate.
pub const COMMON: &[Field] = &[
    field("max_tokens", Kind::Whole(-1, i64::MAX), "Tokens of an answer, most; -1: no limit"),
    field("max_completion_tokens", Kind::Whole(-1, i64::MAX), "The same, its newer name"),
    field("n_predict", Kind::Whole(-2, i64::MAX), "The same, llama.cpp's name"),
    field("n", Kind::Whole(1, ANSWERS_MAX as i64), "Answers"),
    field("stream", Kind::Bool, "Tell the answer while it comes"),
    field("stream_options", Kind::Object(STREAM_OPTIONS), ""),
    field("return_progress", Kind::Bool, "Tell in the stream how far the prompt is computed"),
    field("stop", Kind::Texts, "Texts that end an answer"),
    field("response_format", Kind::Object(RESPONSE_FORMAT), "Form of the answer"),
];

const STREAM_OPTIONS: &[Field] =
    &[field("include_usage", Kind::Bool, "Tell the usage in a last chunk")];
const RESPONSE_FORMAT: &[Field] = &[
    field("type", Kind::Word(&["text", "json_object", "json_schema"]), "").required(),
    field("json_schema", Kind::Object(JSON_SCHEMA), ""),
    field("schema", Kind::Schema, "llama.cpp's place of the schema"),
];
const JSON_SCHEMA: &[Field] = &[
    field("name", Kind::Text, ""),
    field("schema", Kind::Schema, ""),
    field("strict", Kind::Bool, ""),
];

const CONVERSATION: &[Field] = &[
    field("messages", Kind::List(&Kind::Any), "The conversation").required(),
    field("logprobs", Kind::Bool, "Tell the probabilities of tokens"),
    field("top_logprobs", TOP_LOGPROBS, "Likeliest tokens to tell with each"),
    field("tools", Kind::List(&Kind::Map), "Functions that the answer may call"),
    field(
        "tool_choice",
        Kind::Either(&[Kind::Text, Kind::Map]),
        "none, auto, required or a function",
    ),
    field("parallel_tool_calls", Kind::Bool, "Whether an answer may have several calls"),
    field("reasoning_effort", EFFORT, ""),
    field("chat_template_kwargs", Kind::Map, "Variables of the template"),
    field("continue_final_message", Kind::Bool, "Go on with the last message"),
    field("add_generation_prompt", Kind::Bool, "Begin a new message (default true)"),
];

/// The body of a request for the prompt of a conversation.
pub const TEMPLATE: Body = Body { tables: &[CONVERSATION, MODEL], samples: false };
/// The body of a request for a chat completion.
pub const CHAT: Body = Body { tables: &[MODEL, CONVERSATION, COMMON, EXTRAS], samples: true };

/// Fields of a request that are the same for all of OpenAI's ways to generate.
#[derive(Debug, Default, Deserialize)]
pub struct Common {
    pub model: Option<String>,
    pub max_tokens: Option<i64>,
    pub max_completion_tokens: Option<i64>,
    pub n_predict: Option<i64>,
    pub n: Option<i64>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub ignore_eos: Option<bool>,
    pub cache_prompt: Option<bool>,
    pub return_progress: Option<bool>,
    pub grammar: Option<String>,
    pub structured_outputs: Option<Structured>,
    pub guided_regex: Option<String>,
    pub guided_grammar: Option<String>,
    response_format: Option<ResponseFormat>,
    lora: Option<Vec<Json>>,
}

/// Options of a stream.
#[derive(Debug, Default, Deserialize)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
}

/// Grammars under vLLM's names.
#[derive(Debug, Default, Deserialize)]
pub struct Structured {
    pub json: Option<Json>,
    pub regex: Option<String>,
    pub choice: Option<Vec<String>>,
    pub grammar: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Chat {
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Vec<Json>>,
    tool_choice: Option<Json>,
    parallel_tool_calls: Option<bool>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Json>>,
    continue_final_message: Option<bool>,
    add_generation_prompt: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    r#type: String,
    json_schema: Option<JsonSchema>,
    /// llama.cpp's place of the schema.
    schema: Option<Json>,
}

#[derive(Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Json>,
}

impl Common {
    /// The fields of a request.
    ///
    /// # Errors
    /// One is of another type.
    pub fn of(fields: &Fields) -> Result<Common, Fault> {
        typed(fields)
    }

    /// Whether the answer is to be streamed.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a stream tells the usage at its end.
    pub fn tells_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// A wish with what all requests have.
    ///
    /// # Errors
    /// A field is out of range.
    pub fn wish(&self, input: Input, fields: &Fields, loaded: &Loaded) -> Result<Wish, Fault> {
        if self.lora.as_ref().is_some_and(|list| !list.is_empty()) {
            let problem = "adapters are chosen by the model's name, as in `model:adapter`";
            return Err(Fault::field("lora", problem));
        }
        let limit = self.max_completion_tokens.or(self.max_tokens);
        // Below 0 there is none, as llama.cpp's clients ask for.
        let max_tokens = limit.or(self.n_predict).and_then(|n| usize::try_from(n).ok());
        let n = self.n.and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        Ok(Wish {
            input,
            grammar: self.grammar(fields)?,
            sampling: sampling(fields, loaded)?,
            max_tokens,
            stop: stops(fields)?,
            logprobs: None,
            n,
            cache_prompt: self.cache_prompt.unwrap_or(true),
            ignore_eos: self.ignore_eos.unwrap_or(false),
        })
    }

    /// The grammar that a field names.
    fn grammar(&self, fields: &Fields) -> Result<Option<(Grammar, String)>, Fault> {
        let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let structured = self.structured_outputs.as_ref();
        let schema = |schema: &Json| Grammar::JsonSchema(schema.to_string());
        let mut given: Vec<(Grammar, &str)> = Vec::new();
        given.extend(self.grammar.clone().map(|text| (Grammar::Gbnf(text), "grammar")));
        for name in ["json_schema", "guided_json"] {
            given.extend(field(name).map(|value| (schema(value), name)));
        }
        given.extend(self.guided_regex.clone().map(|text| (Grammar::Regex(text), "guided_regex")));
        given.extend(
            self.guided_grammar.clone().map(|text| (Grammar::Gbnf(text), "guided_grammar")),
        );
        if let Some(value) = field("guided_choice") {
            given
                .push((choice("guided_choice", &texts("guided_choice", value)?)?, "guided_choice"));
        }
        if let Some(structured) = structured {
            let name = "structured_outputs";
            let Structured { json, regex, choice: choices, grammar } = structured;
            given.extend(json.as_ref().map(|json| (schema(json), name)));
            given.extend(regex.clone().map(|text| (Grammar::Regex(text), name)));
            if let Some(choices) = choices {
                given.push((choice("structured_outputs.choice", choices)?, name));
            }
            given.extend(grammar.clone().map(|text| (Grammar::Gbnf(text), name)));
        }
        if let Some(format) = &self.response_format {
            given.extend(response_format(format)?);
        }
        given.retain(|(grammar, _)| !grammar.text().is_empty());
        if let [_, (_, second), ..] = &given[..] {
            return Err(Fault::field(*second, "an answer can follow one grammar only"));
        }
        let Some((grammar, name)) = given.pop() else { return Ok(None) };
        if grammar.text().len() > GRAMMAR_BYTES {
            return Err(Fault::field(name, format!("has more than {GRAMMAR_BYTES} bytes")));
        }
        Ok(Some((grammar, name.to_owned())))
    }
}

/// A grammar of its texts alone.
fn choice(param: &str, texts: &[String]) -> Result<Grammar, Fault> {
    if texts.is_empty() {
        return Err(Fault::field(param, "must have at least one text"));
    }
    let list: Vec<String> =
        texts.iter().map(|text| Json::from(text.as_str()).to_string()).collect();
    Ok(Grammar::Lark(format!("start: {}\n", list.join(" | "))))
}

/// Texts that end an answer.
fn stops(fields: &Fields) -> Result<Vec<String>, Fault> {
    let mut stop = texts("stop", fields.get("stop").unwrap_or(&Json::Null))?;
    stop.retain(|text| !text.is_empty());
    if stop.len() > STOPS {
        return Err(Fault::field("stop", format!("has more than {STOPS} texts")));
    }
    if let Some(i) = stop.iter().position(|text| text.len() > STOP_BYTES) {
        let problem = format!("is longer than {STOP_BYTES} bytes");
        return Err(Fault::field(format!("stop[{i}]"), problem));
    }
    Ok(stop)
}

/// The wish of a request for a chat completion.
///
/// # Errors
/// A field is wrong.
pub fn chat(common: &Common, fields: &Fields, loaded: &Loaded) -> Result<Wish, Fault> {
    let chat: Chat = typed(fields)?;
    let conversation = conversation(&chat, fields)?;
    let mut wish = common.wish(Input::Chat(Box::new(conversation)), fields, loaded)?;
    wish.logprobs = match (chat.logprobs.unwrap_or(false), chat.top_logprobs) {
        (true, n_top) => Some(n_top.unwrap_or(0)),
        (false, Some(1..)) => {
            return Err(Fault::field("top_logprobs", "has no effect without `logprobs: true`"));
        }
        (false, _) => None,
    };
    if let Some((_, param)) = &wish.grammar
        && let Input::Chat(conversation) = &mut wish.input
        && !conversation.tools.is_empty()
    {
        match &conversation.choice {
            choice if choice.is_forced() => {
                return Err(Fault::field(param, "excludes forced calls of tools"));
            }
            // The answer is what the grammar says, which has no calls.
            _ => conversation.choice = ToolChoice::None,
        }
    }
    Ok(wish)
}

/// The conversation of a request, without its sampling.
///
/// # Errors
/// A field is wrong.
pub fn conversation_of(fields: &Fields) -> Result<Conversation, Fault> {
    conversation(&typed(fields)?, fields)
}

fn conversation(chat: &Chat, fields: &Fields) -> Result<Conversation, Fault> {
    let list = fields.get("messages").unwrap_or(&Json::Null);
    let tools = tools("tools", chat.tools.as_deref().unwrap_or_default())?;
    let choice = tool_choice(chat.tool_choice.as_ref(), &tools)?;
    let mut variables = chat.chat_template_kwargs.clone().unwrap_or_default();
    let effort = chat.reasoning_effort.as_deref();
    if let Some(effort) = effort {
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    let continues = chat.continue_final_message.unwrap_or(false);
    if continues && chat.add_generation_prompt == Some(true) {
        let problem = "excludes `add_generation_prompt`";
        return Err(Fault::field("continue_final_message", problem));
    }
    Ok(Conversation {
        messages: messages(list)?,
        tools,
        choice,
        parallel: chat.parallel_tool_calls.unwrap_or(true),
        variables,
        thinking: effort.map(|effort| effort != "none"),
        continues,
    })
}

fn tool_choice(choice: Option<&Json>, tools: &[Json]) -> Result<ToolChoice, Fault> {
    let wrong = || {
        let need =
            "must be none, auto, required, or {\"type\": \"function\", \"function\": {\"name\"}}";
        Fault::field("tool_choice", need)
    };
    let choice = match choice {
        None | Some(Json::Null) => return Ok(ToolChoice::Auto),
        Some(Json::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" | "any" => ToolChoice::Required,
            _ => return Err(wrong()),
        },
        Some(object) => {
            let name = object["function"]["name"].as_str().or(object["name"].as_str());
            let name = name.ok_or_else(wrong)?;
            if !tools.iter().any(|tool| tool["function"]["name"] == name) {
                return Err(Fault::field("tool_choice", format!("there is no tool `{name}`")));
            }
            ToolChoice::Named(name.to_owned())
        }
    };
    if choice == ToolChoice::Required && tools.is_empty() {
        return Err(Fault::field("tool_choice", "`required` needs `tools`"));
    }
    Ok(choice)
}

/// The grammar of a form of answers, and the field that it is from.
fn response_format(format: &ResponseFormat) -> Result<Option<(Grammar, &'static str)>, Fault> {
    const PLACE: &str = "response_format.json_schema.schema";
    let any = serde_json::json!({ "type": "object" });
    let (schema, place) = match (format.r#type.as_str(), &format.json_schema, &format.schema) {
        ("text", ..) => return Ok(None),
        ("json_object", _, None) => (&any, "response_format"),
        (_, None, Some(schema)) => (schema, "response_format.schema"),
        ("json_schema", Some(JsonSchema { schema: Some(schema) }), _) => (schema, PLACE),
        _ => return Err(Fault::field(PLACE, "is missing")),
    };
    Ok(Some((Grammar::JsonSchema(schema.to_string()), place)))
}
