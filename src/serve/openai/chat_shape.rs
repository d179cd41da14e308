//! Chat completions as OpenAI writes them, whole and as chunks.

use super::{FINGERPRINT, completion, finish_reason, id, last_parts, now, timings, token_logprob};
use crate::sample::Logprobs;
use crate::serve::fault::{Fault, Style};
use crate::serve::generate::{End, Event, Whole};
use crate::serve::loaded::Loaded;
use crate::serve::stream::{Part, Shape};
use crate::text::AnswerDelta;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::Instant;

/// The whole completion.
pub fn whole(loaded: &Loaded, answers: &[Whole], has_logprobs: bool) -> Json {
    let choices: Vec<Json> =
        answers.iter().enumerate().map(|(i, one)| choice(loaded, i, one, has_logprobs)).collect();
    completion(loaded, ("chatcmpl-", "chat.completion"), choices, answers)
}

/// The completion of one answer.
pub fn whole_one(loaded: &Loaded, answer: &Whole, has_logprobs: bool) -> Json {
    whole(loaded, std::slice::from_ref(answer), has_logprobs)
}

fn choice(loaded: &Loaded, index: usize, whole: &Whole, has_logprobs: bool) -> Json {
    let answer = &whole.answer;
    let mut message = json!({ "role": "assistant", "content": answer.content, "refusal": null });
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = answer.reasoning.as_str().into();
    }
    if !answer.tool_calls.is_empty() {
        if answer.content.is_empty() {
            message["content"] = Json::Null;
        }
        let calls = answer.tool_calls.iter().map(|call| {
            json!({
                "id": call.id,
                "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        });
        message["tool_calls"] = calls.collect();
    }
    let logprobs = match has_logprobs {
        true => logprobs(loaded, &whole.logprobs),
        false => Json::Null,
    };
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": whole.end.as_ref().map(finish_reason),
    })
}

fn logprobs(loaded: &Loaded, tokens: &[(u32, Logprobs)]) -> Json {
    let content: Vec<Json> =
        tokens.iter().map(|(id, logprobs)| token_logprob(loaded, *id, logprobs)).collect();
    json!({ "content": content, "refusal": null })
}

/// Extras that a stream of chunks tells beside the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tells {
    /// The usage, in a chunk of its own at the end.
    pub usage: bool,
    /// How far the prompt is computed.
    pub progress: bool,
    /// Probabilities of tokens.
    pub logprobs: bool,
}

/// The chunks of a completion.
pub struct Chunks {
    loaded: Arc<Loaded>,
    id: String,
    created: u64,
    tells: Tells,
    start: Instant,
    n_cached: usize,
    /// Whether the role of an answer has been told.
    begun: Vec<bool>,
    ends: Vec<End>,
}

impl Chunks {
    /// Chunks of `n` answers.
    pub fn new(loaded: Arc<Loaded>, n: usize, tells: Tells) -> Chunks {
        Chunks {
            loaded,
            id: id("chatcmpl-"),
            created: now(),
            tells,
            start: Instant::now(),
            n_cached: 0,
            begun: vec![false; n],
            ends: Vec::new(),
        }
    }

    fn chunk(&self, choices: Json) -> Json {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.loaded.id,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if self.tells.usage {
            chunk["usage"] = Json::Null;
        }
        chunk
    }

    fn delta(&self, index: usize, delta: Json, logprobs: Json, finish: Json) -> Part {
        Part::Data(self.chunk(json!([{
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        }])))
    }

    /// The chunk that tells the role of an answer, once.
    fn role(&mut self, index: usize) -> Option<Part> {
        let is_begun = std::mem::replace(&mut self.begun[index], true);
        (!is_begun).then(|| {
            let delta = json!({ "role": "assistant", "content": "" });
            self.delta(index, delta, Json::Null, Json::Null)
        })
    }

    fn piece(
        &mut self,
        index: usize,
        deltas: Vec<AnswerDelta>,
        token: Option<(u32, Option<Logprobs>)>,
    ) -> Vec<Part> {
        let token = token.filter(|_| self.tells.logprobs);
        let mut probabilities = match &token {
            Some((id, Some(logprobs))) => json!({
                "content": [token_logprob(&self.loaded, *id, logprobs)], "refusal": null
            }),
            _ => Json::Null,
        };
        let mut written: Vec<Json> = deltas.into_iter().filter_map(delta_json).collect();
        if written.is_empty() && !probabilities.is_null() {
            written.push(json!({ "content": "" }));
        }
        let told = |delta| self.delta(index, delta, probabilities.take(), Json::Null);
        written.into_iter().map(told).collect()
    }

    fn progress(&self, done: usize, total: usize) -> Part {
        let mut chunk = self.chunk(json!([]));
        chunk["prompt_progress"] = json!({
            "total": total,
            "cache": self.n_cached,
            "processed": done,
            "time_ms": self.start.elapsed().as_millis() as u64,
        });
        Part::Data(chunk)
    }

    fn ended(&mut self, index: usize, end: End) -> Vec<Part> {
        let finish = finish_reason(&end);
        let mut chunk = self.chunk(json!([{
            "index": index, "delta": {}, "logprobs": null, "finish_reason": finish,
        }]));
        chunk["timings"] = timings(&end);
        self.ends.push(end);
        vec![Part::Data(chunk)]
    }
}

/// A delta as chunks have it; `None` for one that says nothing.
fn delta_json(delta: AnswerDelta) -> Option<Json> {
    let call = |index: usize, rest: Map<String, Json>| {
        let mut call = Map::from_iter([("index".to_owned(), index.into())]);
        call.extend(rest);
        json!({ "tool_calls": [call] })
    };
    match delta {
        AnswerDelta::Reasoning(text) => Some(json!({ "reasoning_content": text })),
        AnswerDelta::Text(text) => Some(json!({ "content": text })),
        AnswerDelta::CallStart { index, id, name, .. } => {
            let rest = json!({
                "id": id, "type": "function", "function": { "name": name, "arguments": "" }
            });
            Some(call(index, rest.as_object().cloned().unwrap_or_default()))
        }
        AnswerDelta::CallArgs { index, json } => {
            let rest = json!({ "function": { "arguments": json } });
            Some(call(index, rest.as_object().cloned().unwrap_or_default()))
        }
        AnswerDelta::CallEnd { .. } => None,
    }
}

impl Shape for Chunks {
    fn tells_progress(&self) -> bool {
        self.tells.progress
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<Part> {
        let mut parts = Vec::new();
        match event {
            Event::Start { n_cached } => self.n_cached = n_cached,
            Event::Progress { done, total } if self.tells.progress => {
                parts.push(self.progress(done, total));
            }
            Event::Progress { .. } | Event::End(Err(_)) => {}
            Event::Piece { deltas, token } => {
                parts.extend(self.role(index));
                parts.extend(self.piece(index, deltas, token));
            }
            Event::End(Ok(end)) => {
                parts.extend(self.role(index));
                parts.extend(self.ended(index, end));
            }
        }
        parts
    }

    fn end(&mut self) -> Vec<Part> {
        last_parts(self.tells.usage.then(|| self.chunk(json!([]))), &self.ends)
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        vec![Part::Data(Style::OpenAi.body(fault, ""))]
    }
}
