//! Requests for chat completions.

use super::{messages, within};
use crate::engine::ANSWERS_MAX;
use crate::engine::grammar::Grammar;
use crate::sample::LOGPROBS_MAX;
use crate::serve::body::{Fields, texts, typed};
use crate::serve::fault::Fault;
use crate::serve::generate::{Conversation, Input, ToolChoice, Wish, sampling, tools};
use crate::serve::limits::{GRAMMAR_BYTES, STOP_BYTES, STOPS};
use crate::serve::loaded::Loaded;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

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
}

/// What a stream tells.
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
    top_logprobs: Option<i64>,
    response_format: Option<ResponseFormat>,
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
        const TOKENS_MAX: i64 = i64::MAX;
        let limit = self.max_completion_tokens.or(self.max_tokens);
        let name = match self.max_completion_tokens {
            Some(_) => "max_completion_tokens",
            None => "max_tokens",
        };
        // As llama.cpp's clients ask for no limit.
        let own = self.n_predict.filter(|&n| n >= 0);
        let max_tokens = within(name, limit.or(own).filter(|&n| n != -1), 0, TOKENS_MAX)?;
        let n = within("n", self.n, 1, ANSWERS_MAX as i64)?.unwrap_or(1);
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
            given.push((choice(&texts("guided_choice", value)?), "guided_choice"));
        }
        if let Some(structured) = structured {
            let name = "structured_outputs";
            let Structured { json, regex, choice: choices, grammar } = structured;
            given.extend(json.as_ref().map(|json| (schema(json), name)));
            given.extend(regex.clone().map(|text| (Grammar::Regex(text), name)));
            given.extend(choices.as_ref().map(|choices| (choice(choices), name)));
            given.extend(grammar.clone().map(|text| (Grammar::Gbnf(text), name)));
        }
        given.retain(|(grammar, _)| !grammar.text().is_empty());
        if let [_, (_, second), ..] = &given[..] {
            return Err(Fault::field(*second, "an answer can follow one grammar only"));
        }
        let Some((grammar, name)) = given.pop() else { return Ok(None) };
        bounded(name, &grammar)?;
        Ok(Some((grammar, name.to_owned())))
    }
}

/// A grammar of its texts alone.
fn choice(texts: &[String]) -> Grammar {
    let list: Vec<String> =
        texts.iter().map(|text| Json::from(text.as_str()).to_string()).collect();
    Grammar::Lark(format!("start: {}\n", list.join(" | ")))
}

fn bounded(param: &str, grammar: &Grammar) -> Result<(), Fault> {
    match grammar.text().len() > GRAMMAR_BYTES {
        true => Err(Fault::field(param, format!("has more than {GRAMMAR_BYTES} bytes"))),
        false => Ok(()),
    }
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
    let n_top = within("top_logprobs", chat.top_logprobs, 0, LOGPROBS_MAX as i64)?;
    wish.logprobs = match (chat.logprobs.unwrap_or(false), n_top) {
        (true, n_top) => Some(n_top.unwrap_or(0)),
        (false, Some(1..)) => {
            return Err(Fault::field("top_logprobs", "has no effect without `logprobs: true`"));
        }
        (false, _) => None,
    };
    if let Some(format) = &chat.response_format {
        let grammar = response_format(format)?;
        if let (Some((_, other)), Some(_)) = (&wish.grammar, &grammar) {
            return Err(Fault::field(other, "an answer can follow one grammar only"));
        }
        wish.grammar = grammar.or(wish.grammar);
    }
    if wish.grammar.is_some()
        && let Input::Chat(conversation) = &mut wish.input
        && !conversation.tools.is_empty()
    {
        match &conversation.choice {
            choice if choice.is_forced() => {
                return Err(Fault::field("response_format", "excludes forced calls of tools"));
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
    let list = fields.get("messages");
    let list = list.ok_or_else(|| Fault::field("messages", "is missing"))?;
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

fn response_format(format: &ResponseFormat) -> Result<Option<(Grammar, String)>, Fault> {
    let (schema, place) = match (format.r#type.as_str(), &format.json_schema, &format.schema) {
        ("text", ..) => return Ok(None),
        ("json_object", _, None) => {
            (serde_json::json!({ "type": "object" }), "response_format".to_owned())
        }
        ("json_object" | "json_schema", None, Some(schema)) => {
            (schema.clone(), "response_format.schema".to_owned())
        }
        ("json_schema", Some(JsonSchema { schema: Some(schema) }), _) => {
            (schema.clone(), "response_format.json_schema.schema".to_owned())
        }
        ("json_schema", ..) => {
            return Err(Fault::field("response_format.json_schema.schema", "is missing"));
        }
        _ => {
            let need = "must be text, json_object or json_schema";
            return Err(Fault::field("response_format.type", need));
        }
    };
    let grammar = Grammar::JsonSchema(schema.to_string());
    bounded(&place, &grammar)?;
    Ok(Some((grammar, place)))
}
