//! Record of one request, from its head to the last byte of its answer: what the log and the metrics tell.

use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Record of a request: what it has come to.
#[derive(Debug)]
pub struct Record {
    /// Id that answers carry.
    pub id: String,
    /// When its head had come.
    pub start: Instant,
    /// Bytes of its body.
    pub n_body: AtomicUsize,
    /// Tokens of the prompt.
    pub n_prompt: AtomicUsize,
    /// Tokens among them that the cache had.
    pub n_cached: AtomicUsize,
    /// Tokens of the answers.
    pub n_generated: AtomicUsize,
    /// Whether the engine has begun.
    pub is_started: AtomicBool,
    /// Whether all answers have ended.
    pub is_ended: AtomicBool,
    first_token_micros: AtomicU64,
    model: Mutex<Option<String>>,
    finish: Mutex<Option<&'static str>>,
    fault: Mutex<Option<String>>,
    prompt: Mutex<Option<String>>,
    ignored_tools: Mutex<Vec<String>>,
}

impl Record {
    /// A record that begins now.
    pub fn new(id: String) -> Record {
        Record {
            id,
            start: Instant::now(),
            n_body: AtomicUsize::new(0),
            n_prompt: AtomicUsize::new(0),
            n_cached: AtomicUsize::new(0),
            n_generated: AtomicUsize::new(0),
            is_started: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
            first_token_micros: AtomicU64::new(0),
            model: Mutex::new(None),
            finish: Mutex::new(None),
            fault: Mutex::new(None),
            prompt: Mutex::new(None),
            ignored_tools: Mutex::default(),
        }
    }

    /// Takes note of a token; the time of the first one.
    pub fn token(&self) -> Option<Duration> {
        let is_first = self.n_generated.fetch_add(1, Ordering::Relaxed) == 0;
        let time = self.start.elapsed();
        is_first.then(|| {
            self.first_token_micros.store(time.as_micros() as u64, Ordering::Relaxed);
            time
        })
    }

    /// Takes note of the model that answers.
    pub fn model(&self, id: &str) {
        *self.model.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
    }

    /// Takes note of the reason of the end.
    pub fn finish(&self, reason: &'static str) {
        *self.finish.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Takes note of an error.
    pub fn fault(&self, message: &str) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
    }

    /// Takes note of the prompt, for logs that are to have it.
    pub fn prompt(&self, text: &str) {
        *self.prompt.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// Takes note of the types of tools that were passed over.
    pub fn ignored_tools(&self, names: &[&str]) {
        let mut ignored = self.ignored_tools.lock().unwrap_or_else(PoisonError::into_inner);
        *ignored = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// The line of the log.
    pub fn line(&self, endpoint: &str, status: u16) -> Json {
        let millis = |micros: u64| (micros as f64 / 100.0).round() / 10.0;
        let mut line = json!({
            "id": self.id,
            "endpoint": endpoint,
            "status": status,
            "ms": millis(self.start.elapsed().as_micros() as u64),
        });
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        if load(&self.n_prompt) > 0 {
            line["prompt_tokens"] = load(&self.n_prompt).into();
            line["cached_tokens"] = load(&self.n_cached).into();
            line["completion_tokens"] = load(&self.n_generated).into();
        }
        let first = self.first_token_micros.load(Ordering::Relaxed);
        if first > 0 {
            line["first_token_ms"] = millis(first).into();
        }
        let text = |text: &Mutex<Option<String>>| {
            text.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        if let Some(finish) = *self.finish.lock().unwrap_or_else(PoisonError::into_inner) {
            line["finish"] = finish.into();
        }
        if let Some(model) = text(&self.model) {
            line["model"] = model.into();
        }
        if let Some(fault) = text(&self.fault) {
            line["error"] = fault.into();
        }
        let ignored = self.ignored_tools.lock().unwrap_or_else(PoisonError::into_inner);
        if !ignored.is_empty() {
            line["ignored_tools"] = json!(*ignored);
        }
        if let Some(prompt) = text(&self.prompt) {
            line["prompt"] = prompt.into();
        }
        line
    }
}
