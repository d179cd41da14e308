//! Messages as Anthropic writes them, whole and as events.

use crate::serve::fault::{Fault, Style};
use crate::serve::generate::{End, Event, Finish};
use crate::serve::loaded::Loaded;
use crate::serve::openai::id;
use crate::serve::stream::{Part, Shape};
use crate::serve::translate::object;
use crate::text::AnswerDelta;
use serde_json::{Value as Json, json};

/// Kind of the block under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    /// A call, with its arguments so far.
    Call(String),
}

/// The message under way: it tells the events of a stream, and is whole at the end.
pub struct Blocks {
    id: String,
    model: String,
    request_id: String,
    n_prompt: usize,
    n_cached: usize,
    is_begun: bool,
    content: Vec<Json>,
    open: Option<Open>,
    end: Option<End>,
}

impl Blocks {
    /// A message that answers a prompt of so many tokens.
    pub fn new(loaded: &Loaded, request_id: &str, n_prompt: usize) -> Blocks {
        Blocks {
            id: id("msg_"),
            model: loaded.id.clone(),
            request_id: request_id.to_owned(),
            n_prompt,
            n_cached: 0,
            is_begun: false,
            content: Vec::new(),
            open: None,
            end: None,
        }
    }

    /// The message as far as it has come.
    pub fn message(&self) -> Json {
        let (reason, sequence) = self.reason();
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": self.content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self.usage(),
        })
    }

    fn usage(&self) -> Json {
        let end = self.end.as_ref();
        json!({
            "input_tokens": self.n_prompt.saturating_sub(self.n_cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.n_cached,
            "output_tokens": end.map_or(0, |end| end.stats.n_generated),
            "output_tokens_details": { "thinking_tokens": end.map_or(0, |end| end.n_reasoning) },
        })
    }

    /// Why the message ended, and the text that ended it.
    fn reason(&self) -> (Option<&'static str>, Option<&str>) {
        let Some(end) = &self.end else { return (None, None) };
        match &end.finish {
            Finish::Stop(text) => (Some("stop_sequence"), Some(text)),
            Finish::End if end.n_calls > 0 => (Some("tool_use"), None),
            Finish::End => (Some("end_turn"), None),
            Finish::Length => (Some("max_tokens"), None),
            Finish::Context => (Some("model_context_window_exceeded"), None),
        }
    }

    /// The event that begins a stream, once.
    fn start(&mut self) -> Option<Part> {
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        (!is_begun).then(|| named("message_start", json!({ "message": self.message() })))
    }

    fn begin(&mut self, open: Open, block: Json, parts: &mut Vec<Part>) {
        self.close(parts);
        let told = json!({ "index": self.content.len(), "content_block": block });
        parts.push(named("content_block_start", told));
        self.content.push(block);
        self.open = Some(open);
    }

    /// More of the block under way.
    fn more(&self, delta: Json, parts: &mut Vec<Part>) {
        let index = self.content.len().saturating_sub(1);
        parts.push(named("content_block_delta", json!({ "index": index, "delta": delta })));
    }

    fn close(&mut self, parts: &mut Vec<Part>) {
        let Some(open) = self.open.take() else { return };
        match open {
            Open::Thinking => {
                self.more(json!({ "type": "signature_delta", "signature": "" }), parts);
            }
            Open::Call(arguments) => {
                // A call that was cut has arguments that are no JSON yet.
                if let (Some(block), Some(input)) = (self.content.last_mut(), object(&arguments)) {
                    block["input"] = input;
                }
            }
            Open::Text => {}
        }
        let index = self.content.len().saturating_sub(1);
        parts.push(named("content_block_stop", json!({ "index": index })));
    }

    fn add(&mut self, field: &str, text: &str) {
        if let Some(Json::String(all)) =
            self.content.last_mut().and_then(|block| block.get_mut(field))
        {
            all.push_str(text);
        }
    }

    fn delta(&mut self, delta: AnswerDelta, parts: &mut Vec<Part>) {
        match delta {
            AnswerDelta::Reasoning(text) if !text.is_empty() => {
                if self.open != Some(Open::Thinking) {
                    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    self.begin(Open::Thinking, block, parts);
                }
                self.add("thinking", &text);
                self.more(json!({ "type": "thinking_delta", "thinking": text }), parts);
            }
            AnswerDelta::Text(text) if !text.is_empty() => {
                if self.open != Some(Open::Text) {
                    self.begin(Open::Text, json!({ "type": "text", "text": "" }), parts);
                }
                self.add("text", &text);
                self.more(json!({ "type": "text_delta", "text": text }), parts);
            }
            AnswerDelta::CallStart { id, name, .. } => {
                let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.begin(Open::Call(String::new()), block, parts);
            }
            AnswerDelta::CallArgs { json, .. } => {
                if let Some(Open::Call(arguments)) = &mut self.open {
                    arguments.push_str(&json);
                }
                self.more(json!({ "type": "input_json_delta", "partial_json": json }), parts);
            }
            AnswerDelta::CallEnd { .. } => self.close(parts),
            _ => {}
        }
    }

    fn ended(&mut self, end: End, parts: &mut Vec<Part>) {
        self.close(parts);
        self.n_cached = end.stats.n_cached;
        self.end = Some(end);
        let (reason, sequence) = self.reason();
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        parts.push(named("message_delta", json!({ "delta": delta, "usage": self.usage() })));
    }
}

/// An event, which tells its name also within.
fn named(name: &'static str, fields: Json) -> Part {
    let mut event = json!({ "type": name });
    if let (Some(event), Json::Object(fields)) = (event.as_object_mut(), fields) {
        event.extend(fields);
    }
    Part::Named(name, event)
}

impl Shape for Blocks {
    fn event(&mut self, _: usize, event: Event) -> Vec<Part> {
        let mut parts = Vec::new();
        match event {
            Event::Start { n_cached } => {
                self.n_cached = n_cached;
                parts.extend(self.start());
            }
            Event::Piece { deltas, .. } => {
                parts.extend(self.start());
                deltas.into_iter().for_each(|delta| self.delta(delta, &mut parts));
            }
            Event::End(Ok(end)) => {
                parts.extend(self.start());
                self.ended(end, &mut parts);
            }
            Event::Progress { .. } | Event::End(Err(_)) => {}
        }
        parts
    }

    fn end(&mut self) -> Vec<Part> {
        vec![named("message_stop", json!({}))]
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        vec![Part::Named("error", Style::Anthropic.body(fault, &self.request_id))]
    }

    fn keep_alive(&mut self) -> Option<Part> {
        // A message begins before anything else is told of it.
        Some(self.start().unwrap_or_else(|| named("ping", json!({}))))
    }
}
