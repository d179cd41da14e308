//! An answer on its way, read on the caller's thread.

use super::LocalError;
use crate::engine::{Answer, AnswerEvent, CancelToken, EngineError, Stats, TokenEvent};
use crate::serve::fault::Fault;
use crate::serve::generate::{End, Finish, Prepared, Reader, Whole};
use crate::serve::loaded::Loaded;
use crate::text::AnswerDelta;
use serde_json::Value as Json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Writes a whole answer down as an API has it, with or without probabilities of tokens.
pub(super) type Write = fn(&Loaded, &Whole, bool) -> Json;

/// News of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LocalEvent {
    /// A part of the prompt is computed.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in the prompt.
        total: usize,
    },
    /// More of the reasoning, of the text, or of a call.
    Delta(AnswerDelta),
    /// The end: the whole answer, as the API of the request writes it when it is not streamed.
    End(Json),
}

/// Events of an answer, the last of which is its end or an error. Dropping it cancels the answer.
pub struct LocalAnswer {
    loaded: Arc<Loaded>,
    answer: Answer,
    reader: Reader,
    stop: Vec<String>,
    whole: Whole,
    n_reasoning: usize,
    write: Write,
    has_logprobs: bool,
    /// Events that are not told yet.
    events: VecDeque<Result<LocalEvent, LocalError>>,
}

impl LocalAnswer {
    /// Hands a request to the engine.
    ///
    /// # Errors
    /// The model only reads.
    pub(super) fn start(
        loaded: Arc<Loaded>,
        prepared: Prepared,
        (write, has_logprobs): (Write, bool),
        cancel: &CancelToken,
    ) -> Result<LocalAnswer, Fault> {
        let Prepared { request, reader, stop, .. } = prepared;
        let answer = loaded.runner()?.submit_with(request, cancel.clone());
        Ok(LocalAnswer {
            loaded,
            answer,
            reader,
            stop,
            whole: Whole::default(),
            n_reasoning: 0,
            write,
            has_logprobs,
            events: VecDeque::new(),
        })
    }

    /// Switch that ends the answer.
    pub fn cancel_token(&self) -> &CancelToken {
        self.answer.cancel_token()
    }

    /// Waits for so long, about; whether the next event, or the end of them, is at hand without waiting.
    pub fn is_ready_within(&mut self, time: Duration) -> bool {
        while self.events.is_empty() {
            if !self.answer.is_ready_within(time) {
                return false;
            }
            let Some(event) = self.answer.next() else { break };
            self.take(event);
        }
        true
    }

    /// Reads the answer to its end.
    ///
    /// # Errors
    /// The answer fails, or is cancelled.
    pub fn whole(self) -> Result<Json, LocalError> {
        for event in self {
            if let LocalEvent::End(whole) = event? {
                return Ok(whole);
            }
        }
        Err(EngineError::Stopped.into())
    }

    /// Takes in what the engine tells.
    fn take(&mut self, event: AnswerEvent) {
        match event {
            AnswerEvent::Token(TokenEvent::Prompt { done, total }) => {
                self.events.push_back(Ok(LocalEvent::Prompt { done, total }));
            }
            AnswerEvent::Token(TokenEvent::Token { id, text, logprobs }) => {
                self.n_reasoning += usize::from(self.reader.in_reasoning());
                self.whole.logprobs.extend(logprobs.map(|logprobs| (id, logprobs)));
                let deltas = self.reader.token(&self.loaded.tokenizer, id, text);
                self.add(deltas);
            }
            AnswerEvent::Token(TokenEvent::Rest(text)) => {
                let deltas = self.reader.rest(text);
                self.add(deltas);
            }
            AnswerEvent::End(Ok(stats)) => {
                let deltas = self.reader.finish();
                self.add(deltas);
                let end = self.ended(stats).map(LocalEvent::End);
                self.events.push_back(end);
            }
            AnswerEvent::End(Err(error)) => self.events.push_back(Err(Fault::from(error).into())),
        }
    }

    fn add(&mut self, deltas: Vec<AnswerDelta>) {
        for delta in deltas {
            self.whole.answer.add(delta.clone());
            self.events.push_back(Ok(LocalEvent::Delta(delta)));
        }
    }

    fn ended(&mut self, stats: Stats) -> Result<Json, LocalError> {
        let finish = Finish::of(stats.finish, &self.stop).ok_or(LocalError::Cancelled)?;
        let n_calls = self.whole.answer.tool_calls.len();
        let n_reasoning = self.n_reasoning;
        self.whole.n_cached = stats.n_cached;
        self.whole.end = Some(End { stats, finish, n_reasoning, n_calls, is_first: true });
        Ok((self.write)(&self.loaded, &self.whole, self.has_logprobs))
    }
}

impl Iterator for LocalAnswer {
    type Item = Result<LocalEvent, LocalError>;

    /// Waits for the next event; `None` after the end.
    fn next(&mut self) -> Option<Result<LocalEvent, LocalError>> {
        while self.events.is_empty() {
            let event = self.answer.next()?;
            self.take(event);
        }
        self.events.pop_front()
    }
}
