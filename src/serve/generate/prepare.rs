//! From a wish to a request of the engine: the prompt in tokens, filters, the reader of the answer.

use super::forced::ForcedCall;
use super::reader::Reader;
use super::{Conversation, Input, ToolChoice, Wish, calls};
use crate::engine::Request;
use crate::sample::Filter;
use crate::serve::fault::Fault;
use crate::serve::loaded::{Loaded, Trigger};
use crate::serve::record::Record;
use crate::text::{AnswerParser, Prompt, Prompter, Rendered, Tools, thinking_variables};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// A request of the engine, and how its answers are read.
pub struct Prepared {
    /// For the engine.
    pub request: Request,
    /// Answers.
    pub n: usize,
    /// Text of the prompt, where it was one.
    pub text: String,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// The prompt's instructions, if they are worth a place on disk.
    pub prefix: Option<Arc<[u32]>>,
    /// Reader of an answer.
    pub reader: Reader,
}

/// Makes a request ready on a thread that may block; a panic there fails this request alone.
///
/// # Errors
/// The wish cannot be fulfilled.
pub async fn prepare(loaded: Arc<Loaded>, wish: Wish, record: &Record) -> Result<Prepared, Fault> {
    super::super::reading(record, move || prepared(&loaded, wish)).await
}

/// The text of a conversation's prompt, with the tools as the model is told of them.
///
/// # Errors
/// The template fails.
pub fn render(loaded: &Loaded, conversation: &Conversation) -> Result<Prompt, Fault> {
    let prompter = loaded.prompter()?;
    rendered(&prompter, &input_of(loaded, &prompter, conversation)?, conversation)
}

/// What the template reads of a conversation.
fn input_of(
    loaded: &Loaded,
    prompter: &Prompter<'_>,
    conversation: &Conversation,
) -> Result<Json, Fault> {
    if !prompter.has_template() {
        return Err(crate::text::TextError::NoTemplate.into());
    }
    let has_tools = !conversation.tools.is_empty() && conversation.choice != ToolChoice::None;
    let knows = conversation.tools.is_empty() || loaded.knows_tools();
    let messages = match knows {
        true => conversation.messages.clone(),
        false => calls::in_words(conversation),
    };
    let mut input = loaded.options.variables.clone();
    input.extend(conversation.variables.clone());
    input.insert("messages".into(), messages.into());
    input.insert("add_generation_prompt".into(), (!conversation.continues).into());
    if has_tools && knows {
        input.insert("tools".into(), conversation.tools.clone().into());
    }
    switch_thinking(prompter, &mut input, conversation.thinking)?;
    Ok(Json::Object(input))
}

fn rendered(
    prompter: &Prompter<'_>,
    input: &Json,
    conversation: &Conversation,
) -> Result<Prompt, Fault> {
    match conversation.continues {
        true => continued(prompter, input, conversation),
        false => Ok(prompter.conversation(input)?),
    }
}

/// Makes prompts that are to be answered: what cannot fit the context is refused by its length.
fn prompter(loaded: &Loaded) -> Result<Prompter<'_>, Fault> {
    Ok(loaded.prompter()?.within(loaded.n_ctx))
}

/// The prompt of a conversation, and how many of its first tokens other conversations begin with.
fn with_head(loaded: &Loaded, conversation: &Conversation) -> Result<(Prompt, usize), Fault> {
    let prompter = prompter(loaded)?;
    let input = input_of(loaded, &prompter, conversation)?;
    let prompt = rendered(&prompter, &input, conversation)?;
    let n_head = prompter.head(&input, &prompt);
    Ok((prompt, n_head))
}

/// Turns reasoning on or off, where the template has a switch.
fn switch_thinking(
    prompter: &Prompter<'_>,
    input: &mut Map<String, Json>,
    thinking: Option<bool>,
) -> Result<(), Fault> {
    if let Some(on) = thinking {
        let whole = Json::Object(input.clone());
        input.extend(thinking_variables(prompter, &whole, on)?.unwrap_or_default());
    }
    Ok(())
}

/// A prompt that ends with the last message's text.
fn continued(
    prompter: &Prompter<'_>,
    input: &Json,
    conversation: &Conversation,
) -> Result<Prompt, Fault> {
    let last = conversation.messages.last().map(|message| &message["content"]);
    let last = last.and_then(Json::as_str).unwrap_or_default().trim_end();
    let Rendered { mut text, mut untrusted } = prompter.render(input)?;
    let at = text.rfind(last).filter(|_| !last.is_empty()).ok_or_else(|| {
        Fault::field("continue_final_message", "the template does not show the last message's text")
    })?;
    let end = at + last.len();
    text.truncate(end);
    untrusted.retain(|range| range.start < end);
    if let Some(range) = untrusted.last_mut() {
        range.end = range.end.min(end);
    }
    Ok(prompter.encode(Rendered { text, untrusted })?)
}

/// Makes a request ready on this thread.
///
/// # Errors
/// The wish cannot be fulfilled.
pub fn prepared(loaded: &Loaded, wish: Wish) -> Result<Prepared, Fault> {
    let Wish { input, grammar, sampling, max_tokens, stop, logprobs, n, .. } = wish;
    let (prompt, n_head, conversation) = match &input {
        Input::Chat(conversation) => {
            let (prompt, n_head) = with_head(loaded, conversation)?;
            (prompt, n_head, Some(&**conversation))
        }
        Input::Text(text) => (prompter(loaded)?.text(text)?, 0, None),
        Input::Parsed(text) => {
            let trusted = Rendered { text: text.clone(), untrusted: Vec::new() };
            (prompter(loaded)?.encode(trusted)?, 0, None)
        }
        Input::Tokens(ids) => (Prompt { ids: ids.clone(), ..Prompt::default() }, 0, None),
    };
    if prompt.ids.is_empty() {
        return Err(Fault::bad("the prompt is empty"));
    }
    if prompt.ids.len() >= loaded.n_ctx && max_tokens != Some(0) || prompt.ids.len() > loaded.n_ctx
    {
        return Err(Fault::too_long(prompt.ids.len(), loaded.n_ctx));
    }
    let mut filters: Vec<Box<dyn Filter>> = Vec::new();
    let mut reader = Reader::Raw;
    let mut trigger = None;
    if let Some(conversation) = conversation {
        let forced = conversation.choice.is_forced();
        let parser = parser(loaded, conversation, &prompt.rendered.text, sampling.seed);
        // Reasoning that the prompt has opened ends before a grammar begins.
        trigger = parser.in_reasoning().then(|| reasoning_end(loaded, &parser)).flatten();
        if !conversation.tools.is_empty() && conversation.choice != ToolChoice::None {
            filters.extend(calls::filter(loaded, conversation, trigger)?);
        }
        // Where a grammar sees to calls, their arguments are told as they come.
        let call = ForcedCall::new(sampling.seed);
        reader = match (forced, parser.in_reasoning(), filters.is_empty()) {
            (true, false, _) => Reader::Forced(call),
            (_, _, true) => Reader::Parsed(Box::new(parser)),
            (false, false, _) if !loaded.knows_tools() => Reader::Undecided(String::new(), call),
            _ => Reader::Parsed(Box::new(parser.with_early_calls())),
        };
    }
    if let Some((grammar, param)) = grammar {
        filters.push(loaded.filter(&param, &grammar, Trigger::behind(trigger))?);
    }
    let mut sampling = sampling;
    if wish.ignore_eos {
        let ends = loaded.tokenizer.end_of_generation().iter();
        sampling.logit_bias.extend(ends.map(|id| format!("{id}-inf")));
    }
    let mut request = Request::new(prompt.ids);
    request.max_tokens = max_tokens;
    request.sampling = sampling;
    request.filters = filters;
    request.stop = stop.clone();
    request.logprobs = logprobs;
    request.cache_prefix = wish.cache_prompt;
    request.speculation = loaded.options.speculation;
    let prefix = match wish.cache_prompt {
        true => loaded.prefixes.fetch(loaded.runner()?, &mut request, n_head),
        false => None,
    };
    Ok(Prepared { request, n, text: prompt.rendered.text, stop, prefix, reader })
}

fn parser(loaded: &Loaded, conversation: &Conversation, prompt: &str, seed: u64) -> AnswerParser {
    let tools = match conversation.choice {
        ToolChoice::None => Tools::none(),
        _ => Tools::from_json(&json!(conversation.tools)),
    };
    AnswerParser::new(calls::format(loaded, conversation), tools)
        .with_seed(seed)
        .with_vocabulary(&loaded.tokenizer)
        .after_prompt(prompt)
}

/// The token that ends reasoning, if it is one.
fn reasoning_end(loaded: &Loaded, parser: &AnswerParser) -> Option<u32> {
    let token = |mark: &str| loaded.tokenizer.token_id(mark);
    parser.format().reasoning_marks().find_map(|(_, close)| token(close))
}
