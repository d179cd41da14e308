//! Responses as OpenAI writes them, whole and as events.

use crate::serve::body::Fields;
use crate::serve::fault::Fault;
use crate::serve::generate::{End, Event, Finish};
use crate::serve::loaded::Loaded;
use crate::serve::openai::{id, now, token_logprob};
use crate::serve::stream::{Part, Shape};
use crate::text::AnswerDelta;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// Kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call,
}

/// The item under way.
struct Open {
    kind: Kind,
    /// The item as it began.
    item: Json,
    /// Its text, or its arguments.
    text: String,
    logprobs: Vec<Json>,
}

/// The response under way: it tells the events of a stream, and is whole at the end.
pub struct Items {
    loaded: Arc<Loaded>,
    id: String,
    created: u64,
    echo: Fields,
    tells_logprobs: bool,
    n_events: u64,
    output: Vec<Json>,
    open: Option<Open>,
    /// Probabilities of tokens whose text is not told yet.
    pending: Vec<Json>,
    end: Option<End>,
    fault: Option<String>,
}

impl Items {
    /// A response that repeats these fields of its request.
    pub fn new(loaded: Arc<Loaded>, echo: Fields, tells_logprobs: bool) -> Items {
        Items {
            loaded,
            id: id("resp_"),
            created: now(),
            echo,
            tells_logprobs,
            n_events: 0,
            output: Vec::new(),
            open: None,
            pending: Vec::new(),
            end: None,
            fault: None,
        }
    }

    /// Whether the answer was cut.
    fn is_cut(&self) -> bool {
        let finish = self.end.as_ref().map(|end| &end.finish);
        matches!(finish, Some(Finish::Length | Finish::Context))
    }

    fn status(&self) -> &'static str {
        match (&self.fault, &self.end) {
            (Some(_), _) => "failed",
            (None, None) => "in_progress",
            (None, Some(_)) if self.is_cut() => "incomplete",
            (None, Some(_)) => "completed",
        }
    }

    /// The response as far as it has come.
    pub fn response(&self) -> Json {
        let status = self.status();
        let cut = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        let fault =
            self.fault.as_ref().map(|text| json!({ "code": "server_error", "message": text }));
        let usage = self.end.as_ref().map(|end| {
            let (prompt, generated) = (end.stats.n_prompt, end.stats.n_generated);
            json!({
                "input_tokens": prompt,
                "input_tokens_details": {
                    "cached_tokens": end.stats.n_cached, "cache_write_tokens": 0,
                },
                "output_tokens": generated,
                "output_tokens_details": { "reasoning_tokens": end.n_reasoning },
                "total_tokens": prompt + generated,
            })
        });
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": (status == "completed").then(now),
            "status": status,
            "error": fault,
            "incomplete_details": cut,
            "model": self.loaded.id,
            "output": self.output,
            "usage": usage,
        });
        if let Some(fields) = response.as_object_mut() {
            fields.extend(self.echo.clone());
        }
        response
    }

    /// An event with its number.
    fn event_of(&mut self, name: &'static str, fields: Json) -> Part {
        let mut event = json!({ "type": name, "sequence_number": self.n_events });
        self.n_events += 1;
        if let (Some(event), Json::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        Part::Named(name, event)
    }

    /// An event of the whole response.
    fn told(&mut self, name: &'static str) -> Part {
        let response = self.response();
        self.event_of(name, json!({ "response": response }))
    }

    /// An event within the item under way.
    fn within(&mut self, name: &'static str, mut fields: Json) -> Part {
        fields["output_index"] = self.output.len().into();
        fields["item_id"] = self.open.as_ref().map_or(Json::Null, |open| open.item["id"].clone());
        self.event_of(name, fields)
    }

    fn begin(&mut self, kind: Kind, item: Json, parts: &mut Vec<Part>) {
        self.close("completed", parts);
        let fields = json!({ "output_index": self.output.len(), "item": item });
        parts.push(self.event_of("response.output_item.added", fields));
        self.open = Some(Open { kind, item, text: String::new(), logprobs: Vec::new() });
        if kind == Kind::Message {
            let part = output_text("", &[]);
            let fields = json!({ "content_index": 0, "part": part });
            parts.push(self.within("response.content_part.added", fields));
        }
    }

    /// Has an item of that kind be under way.
    fn open(&mut self, kind: Kind, parts: &mut Vec<Part>) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        let item = match kind {
            Kind::Reasoning => json!({
                "id": id("rs_"), "type": "reasoning", "summary": [], "content": [],
                "status": "in_progress",
            }),
            _ => json!({
                "id": id("msg_"), "type": "message", "role": "assistant", "content": [],
                "status": "in_progress",
            }),
        };
        self.begin(kind, item, parts);
    }

    fn close(&mut self, status: &'static str, parts: &mut Vec<Part>) {
        let Some(Open { kind, mut item, text, logprobs }) = self.open.take() else { return };
        let at = |fields: Json| {
            let mut fields = fields;
            fields["item_id"] = item["id"].clone();
            fields["output_index"] = self.output.len().into();
            fields
        };
        let told = match kind {
            Kind::Reasoning => vec![(
                "response.reasoning_text.done",
                at(json!({ "content_index": 0, "text": text })),
            )],
            Kind::Message => {
                let part = output_text(&text, &logprobs);
                let done = json!({ "content_index": 0, "text": text, "logprobs": logprobs });
                vec![
                    ("response.output_text.done", at(done)),
                    ("response.content_part.done", at(json!({ "content_index": 0, "part": part }))),
                ]
            }
            Kind::Call => {
                let done = json!({ "arguments": text, "name": item["name"] });
                vec![("response.function_call_arguments.done", at(done))]
            }
        };
        for (name, fields) in told {
            parts.push(self.event_of(name, fields));
        }
        item["status"] = status.into();
        match kind {
            Kind::Reasoning => {
                item["content"] = json!([{ "type": "reasoning_text", "text": text }]);
            }
            Kind::Message => item["content"] = json!([output_text(&text, &logprobs)]),
            Kind::Call => item["arguments"] = text.into(),
        }
        let fields = json!({ "output_index": self.output.len(), "item": item });
        parts.push(self.event_of("response.output_item.done", fields));
        self.output.push(item);
    }

    fn delta(&mut self, delta: AnswerDelta, parts: &mut Vec<Part>) {
        match delta {
            AnswerDelta::Reasoning(text) if !text.is_empty() => {
                self.pending.clear();
                self.open(Kind::Reasoning, parts);
                let fields = json!({ "content_index": 0, "delta": text });
                parts.push(self.more("response.reasoning_text.delta", fields, &text));
            }
            AnswerDelta::Text(text) if !text.is_empty() => {
                self.open(Kind::Message, parts);
                let logprobs = std::mem::take(&mut self.pending);
                let fields = json!({ "content_index": 0, "delta": text, "logprobs": logprobs });
                if let Some(open) = &mut self.open {
                    open.logprobs.extend(logprobs);
                }
                parts.push(self.more("response.output_text.delta", fields, &text));
            }
            AnswerDelta::CallStart { id: call_id, name, .. } => {
                self.pending.clear();
                let item = json!({
                    "id": id("fc_"), "type": "function_call", "call_id": call_id, "name": name,
                    "arguments": "", "status": "in_progress",
                });
                self.begin(Kind::Call, item, parts);
            }
            AnswerDelta::CallArgs { json, .. } => {
                self.pending.clear();
                let fields = json!({ "delta": json });
                parts.push(self.more("response.function_call_arguments.delta", fields, &json));
            }
            AnswerDelta::CallEnd { .. } => self.close("completed", parts),
            _ => {}
        }
    }

    /// More of the item under way.
    fn more(&mut self, name: &'static str, fields: Json, text: &str) -> Part {
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
        }
        self.within(name, fields)
    }

    fn ended(&mut self, end: End, parts: &mut Vec<Part>) {
        self.end = Some(end);
        if self.output.is_empty() && self.open.is_none() {
            self.open(Kind::Message, parts);
        }
        self.close(self.status(), parts);
    }
}

fn output_text(text: &str, logprobs: &[Json]) -> Json {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

impl Shape for Items {
    fn begin(&mut self) -> Vec<Part> {
        vec![self.told("response.created"), self.told("response.in_progress")]
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<Part> {
        let mut parts = Vec::new();
        match event {
            Event::Piece { deltas, token } => {
                if let Some((id, Some(logprobs))) = token.filter(|_| self.tells_logprobs) {
                    self.pending.push(token_logprob(&self.loaded, id, &logprobs));
                }
                deltas.into_iter().for_each(|delta| self.delta(delta, &mut parts));
            }
            Event::End(Ok(end)) => self.ended(end, &mut parts),
            Event::Start { .. } | Event::Progress { .. } | Event::End(Err(_)) => {}
        }
        parts
    }

    fn end(&mut self) -> Vec<Part> {
        let name = match self.is_cut() {
            true => "response.incomplete",
            false => "response.completed",
        };
        vec![self.told(name)]
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        let mut parts = Vec::new();
        self.close("incomplete", &mut parts);
        self.fault = Some(fault.message.clone());
        parts.push(self.told("response.failed"));
        parts
    }
}
