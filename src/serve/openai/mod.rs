//! OpenAI's API: chat completions, completions, embeddings, models.

pub mod chat;
mod chat_request;
mod chat_shape;
pub mod completions;
pub mod embeddings;
mod messages;
pub mod models;

pub use chat_request::{
    CHAT, COMMON, Common, EFFORT, EXTRAS, MODEL, TEMPLATE, TOP_LOGPROBS, chat as chat_wish,
    conversation_of,
};
pub use chat_shape::whole_one as chat_whole;
pub use messages::{messages, text};

use super::generate::{End, Finish, Whole};
use super::loaded::Loaded;
use super::stream::Part;
use crate::sample::Logprobs;
use serde_json::{Value as Json, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the program and its version, where clients look for what their answers came from.
pub const FINGERPRINT: &str = concat!("teff-", env!("CARGO_PKG_VERSION"));

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// An id that no other answer has.
pub fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", super::fresh(), super::fresh() as u32)
}

/// Reason of an answer's end.
pub fn finish_reason(end: &End) -> &'static str {
    match end.finish {
        Finish::End | Finish::Stop(_) if end.n_calls > 0 => "tool_calls",
        Finish::End | Finish::Stop(_) => "stop",
        Finish::Length | Finish::Context => "length",
    }
}

/// Tokens of a request and its answers.
pub fn usage(ends: &[&End]) -> Json {
    // A prompt is computed once for all of its answers.
    let firsts = || ends.iter().filter(|end| end.is_first);
    let prompt: usize = firsts().map(|end| end.stats.n_prompt).sum();
    let cached: usize = firsts().map(|end| end.stats.n_cached).sum();
    let completion: usize = ends.iter().map(|end| end.stats.n_generated).sum();
    let reasoning: usize = ends.iter().map(|end| end.n_reasoning).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

/// Whole answers, in the choices of an API's kind of object.
pub fn completion(
    loaded: &Loaded,
    (prefix, object): (&str, &str),
    choices: Vec<Json>,
    answers: &[Whole],
) -> Json {
    let ends: Vec<&End> = answers.iter().filter_map(|answer| answer.end.as_ref()).collect();
    let mut made = json!({
        "id": id(prefix),
        "object": object,
        "created": now(),
        "model": loaded.id,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage(&ends),
    });
    if let Some(end) = ends.first() {
        made["timings"] = timings(end);
    }
    made
}

/// Last parts of a stream: a chunk for the usage of all answers, if it is wished for, and the mark of the end.
pub fn last_parts(chunk: Option<Json>, ends: &[End]) -> Vec<Part> {
    let with_usage = chunk.map(|mut chunk| {
        chunk["usage"] = usage(&ends.iter().collect::<Vec<&End>>());
        Part::Data(chunk)
    });
    with_usage.into_iter().chain([Part::Done]).collect()
}

/// Speeds of an answer, as llama.cpp tells them.
pub fn timings(end: &End) -> Json {
    let stats = &end.stats;
    let computed = stats.n_prompt.saturating_sub(stats.n_cached);
    let (prompt, predicted) = (stats.prompt_time.as_secs_f64(), stats.generate_time.as_secs_f64());
    let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let each = |n: usize, seconds: f64| if n > 0 { seconds * 1e3 / n as f64 } else { 0.0 };
    json!({
        "cache_n": stats.n_cached,
        "prompt_n": computed,
        "prompt_ms": prompt * 1e3,
        "prompt_per_token_ms": each(computed, prompt),
        "prompt_per_second": rate(computed, prompt),
        "predicted_n": stats.n_generated,
        "predicted_ms": predicted * 1e3,
        "predicted_per_token_ms": each(stats.n_generated, predicted),
        "predicted_per_second": rate(stats.n_generated.saturating_sub(1), predicted),
        "draft_n": stats.n_drafted,
        "draft_n_accepted": stats.n_accepted,
    })
}

/// A token with its probabilities, as chats tell it.
pub fn token_logprob(loaded: &Loaded, id: u32, logprobs: &Logprobs) -> Json {
    let one = |id: u32, logprob: f32| {
        let bytes = loaded.tokenizer.token_bytes(id);
        json!({
            "token": String::from_utf8_lossy(&bytes),
            "logprob": finite(logprob),
            "bytes": bytes,
        })
    };
    let mut told = one(id, logprobs.token);
    told["top_logprobs"] = logprobs.top.iter().map(|&(id, p)| one(id, p)).collect();
    told
}

/// A log-probability as JSON can tell it: OpenAI's API has this number for what cannot come.
pub fn finite(logprob: f32) -> f32 {
    const NEVER: f32 = -9999.0;
    if logprob.is_finite() { logprob } else { NEVER }
}
