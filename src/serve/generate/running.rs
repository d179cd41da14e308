//! Answers under way: events of the engine, read back and bounded.

use super::prepare::Prepared;
use super::reader::Reader;
use super::teller::{News, Teller};
use crate::engine::{CancelToken, EngineError, FinishReason, Listener, Runner, Stats, TokenEvent};
use crate::sample::Logprobs;
use crate::serve::app::{App, Phase, Place};
use crate::serve::fault::Fault;
use crate::serve::limits::Limits;
use crate::serve::loaded::Loaded;
use crate::serve::record::Record;
use crate::text::{Answer, AnswerDelta};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::sleep_until;

/// News of an answer.
#[derive(Debug)]
pub enum Event {
    /// The answer has left the queue.
    Start {
        /// Tokens of the prompt that the cache had.
        n_cached: usize,
    },
    /// A part of the prompt is computed.
    Progress {
        /// Tokens done.
        done: usize,
        /// Tokens in the prompt.
        total: usize,
    },
    /// A token, or what was held back at the end.
    Piece {
        /// What it adds to the answer; often nothing in the middle of a character or a mark.
        deltas: Vec<AnswerDelta>,
        /// Token and its probabilities; `None` for what was held back.
        token: Option<(u32, Option<Logprobs>)>,
    },
    /// The end.
    End(Result<End, Fault>),
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Figures.
    pub stats: Stats,
    /// Why.
    pub finish: Finish,
    /// Tokens of reasoning.
    pub n_reasoning: usize,
    /// Calls.
    pub n_calls: usize,
    /// Whether it is the first answer to its prompt.
    pub is_first: bool,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    End,
    /// A text that ends answers came.
    Stop(String),
    /// As many tokens as were wished.
    Length,
    /// The context or its memory is full.
    Context,
}

/// One answer.
struct Choice {
    /// Whether it is the first to its prompt.
    is_first: bool,
    /// Instructions that are to be kept when the prompt is computed.
    prefix: Option<Arc<[u32]>>,
    cancel: CancelToken,
    reader: Reader,
    n_reasoning: usize,
    n_calls: usize,
    last_token: Option<Instant>,
    /// Deltas that are to be told before the end.
    end: Option<End>,
    has_ended: bool,
}

/// Answers to one prompt. Dropping it cancels those that have not ended.
pub struct Running {
    loaded: Arc<Loaded>,
    app: Arc<App>,
    record: Arc<Record>,
    news: UnboundedReceiver<(usize, News)>,
    unread: Arc<AtomicUsize>,
    is_overrun: Arc<AtomicBool>,
    choices: Vec<Choice>,
    stop: Vec<String>,
    submitted: Instant,
    phase: watch::Receiver<Phase>,
    _place: Place,
}

impl Running {
    /// Hands requests to the engine, whose answers are numbered one behind the other.
    ///
    /// # Errors
    /// There is no place, or the server ends.
    pub fn start(
        app: &Arc<App>,
        loaded: &Arc<Loaded>,
        prepared: Vec<Prepared>,
        record: &Arc<Record>,
    ) -> Result<Running, Fault> {
        let runner = loaded.runner()?;
        record.model(&loaded.id);
        let place = app.place(prepared.iter().map(|prepared| prepared.n).sum())?;
        let (sender, news) = unbounded_channel();
        let mut running = Running {
            loaded: loaded.clone(),
            app: app.clone(),
            record: record.clone(),
            news,
            unread: Arc::default(),
            is_overrun: Arc::default(),
            choices: Vec::new(),
            stop: prepared.first().map(|prepared| prepared.stop.clone()).unwrap_or_default(),
            submitted: Instant::now(),
            phase: app.watch(),
            _place: place,
        };
        for prepared in prepared {
            running.submit(runner, prepared, &sender);
        }
        Ok(running)
    }

    fn submit(
        &mut self,
        runner: &Runner,
        prepared: Prepared,
        sender: &UnboundedSender<(usize, News)>,
    ) {
        let Prepared { request, n, reader, text, prefix, .. } = prepared;
        let n_prompt = request.prompt.len();
        self.record.n_prompt.fetch_add(n_prompt, Ordering::Relaxed);
        if self.app.options.log_prompts {
            self.record.prompt(&text);
        }
        let mut answers: Vec<(CancelToken, Box<dyn Listener>)> = Vec::with_capacity(n);
        for i in 0..n {
            let cancel = CancelToken::default();
            let teller = Teller {
                index: self.choices.len(),
                news: sender.clone(),
                unread: self.unread.clone(),
                is_overrun: self.is_overrun.clone(),
                unread_max: self.limits().unread_bytes,
            };
            answers.push((cancel.clone(), Box::new(teller)));
            let prefix = prefix.clone().filter(|_| i == 0);
            let choice = Choice::new(cancel, reader.clone());
            self.choices.push(Choice { is_first: i == 0, prefix, ..choice });
        }
        let metrics = &self.loaded.metrics;
        metrics.prompt_tokens.fetch_add(n_prompt as u64, Ordering::Relaxed);
        metrics.cache_queries.fetch_add(n_prompt as u64, Ordering::Relaxed);
        runner.submit_to(request, answers);
    }

    /// How long and how much the client may hold others up.
    pub fn limits(&self) -> Limits {
        self.app.options.limits
    }

    /// The next event, with the index of its answer; `None` when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        if let Some(index) = self.choices.iter().position(|choice| choice.end.is_some()) {
            let end = self.choices[index].end.take()?;
            return Some((index, self.ended(index, Ok(end))));
        }
        if self.choices.iter().all(|choice| choice.has_ended) {
            return None;
        }
        let time = self.limits().queue_time;
        let deadline = tokio::time::Instant::from_std(self.submitted + time);
        let waits = !self.record.is_started.load(Ordering::Relaxed);
        let news = tokio::select! {
            biased;
            news = self.news.recv() => news.ok_or_else(|| EngineError::Stopped.into()),
            _ = sleep_until(deadline), if waits => {
                let message = format!("waited {} s for a place", time.as_secs());
                Err(Fault::unavailable(message, "queue_timeout", 5))
            }
            _ = self.phase.wait_for(|phase| *phase >= Phase::Cancelling) => {
                Err(Fault::unavailable("the server is shutting down", "draining", 1))
            }
        };
        let (index, news) = match news {
            Ok(news) => news,
            Err(fault) => return Some(self.break_off(fault)),
        };
        self.unread.fetch_sub(news.n_bytes(), Ordering::AcqRel);
        Some((index, self.event(index, news)))
    }

    /// Ends all answers with a fault, which is told of the first.
    fn break_off(&mut self, fault: Fault) -> (usize, Event) {
        let open = self.choices.iter().position(|choice| !choice.has_ended).unwrap_or(0);
        for choice in &mut self.choices {
            choice.cancel.cancel();
            choice.has_ended = true;
        }
        (open, self.ended(open, Err(fault)))
    }

    fn event(&mut self, index: usize, news: News) -> Event {
        match news {
            News::Start(n_cached) => {
                if self.choices[index].is_first {
                    if let Some(prefix) = &self.choices[index].prefix {
                        self.loaded.prefixes.found(prefix, n_cached);
                    }
                    self.record.n_cached.fetch_add(n_cached, Ordering::Relaxed);
                    let metrics = &self.loaded.metrics;
                    metrics.cache_hits.fetch_add(n_cached as u64, Ordering::Relaxed);
                    metrics.queue.add(self.submitted.elapsed());
                }
                self.record.is_started.store(true, Ordering::Relaxed);
                Event::Start { n_cached }
            }
            News::Token(TokenEvent::Prompt { done, total }) => Event::Progress { done, total },
            News::Token(TokenEvent::Token { id, text, logprobs }) => {
                self.count_token(index);
                let tokenizer = self.loaded.tokenizer.clone();
                self.piece(index, Some((id, logprobs)), |reader| reader.token(&tokenizer, id, text))
            }
            News::Token(TokenEvent::Rest(text)) => {
                self.piece(index, None, |reader| reader.rest(text))
            }
            News::End(Ok(stats)) => self.last(index, stats),
            News::End(Err(error)) => self.ended(index, Err(error.into())),
        }
    }

    fn count_token(&mut self, index: usize) {
        let metrics = &self.loaded.metrics;
        metrics.generated_tokens.fetch_add(1, Ordering::Relaxed);
        if let Some(time) = self.record.token() {
            metrics.first_token.add(time);
        }
        let choice = &mut self.choices[index];
        if let Some(prefix) = choice.prefix.take() {
            keep(&self.loaded, prefix);
        }
        let now = Instant::now();
        if let Some(last) = choice.last_token.replace(now) {
            metrics.between_tokens.add(now - last);
        }
        choice.n_reasoning += usize::from(choice.reader.in_reasoning());
    }

    /// Reads a piece of an answer; a panic of the reader ends it.
    fn piece(
        &mut self,
        index: usize,
        token: Option<(u32, Option<Logprobs>)>,
        read: impl FnOnce(&mut Reader) -> Vec<AnswerDelta>,
    ) -> Event {
        let choice = &mut self.choices[index];
        match catch_unwind(AssertUnwindSafe(|| read(&mut choice.reader))) {
            Ok(deltas) => {
                choice.count_calls(&deltas);
                Event::Piece { deltas, token }
            }
            Err(_) => {
                choice.cancel.cancel();
                self.ended(index, Err(Fault::internal("the answer could not be read")))
            }
        }
    }

    /// The last deltas of an answer, behind which its end is told.
    fn last(&mut self, index: usize, stats: Stats) -> Event {
        let Some(finish) = Finish::of(stats.finish, &self.stop) else {
            let fault = match self.is_overrun.load(Ordering::Acquire) {
                true => Fault::left().slow("the client reads its answer too slowly"),
                false => Fault::left(),
            };
            return self.ended(index, Err(fault));
        };
        self.loaded.metrics.end(stats.finish);
        let event = self.piece(index, None, Reader::finish);
        let choice = &mut self.choices[index];
        if !choice.has_ended {
            let Choice { n_reasoning, n_calls, is_first, .. } = *choice;
            choice.end = Some(End { stats, finish, n_reasoning, n_calls, is_first });
        }
        event
    }

    fn ended(&mut self, index: usize, end: Result<End, Fault>) -> Event {
        self.choices[index].has_ended = true;
        if self.choices.iter().all(|choice| choice.has_ended) {
            self.record.is_ended.store(true, Ordering::Relaxed);
            self.loaded.metrics.whole.add(self.record.start.elapsed());
        }
        match &end {
            Ok(end) => self.record.finish(end.finish.name()),
            Err(fault) => self.record.fault(&fault.message),
        }
        Event::End(end)
    }

    /// Reads all answers to their end.
    ///
    /// # Errors
    /// One of them fails.
    pub async fn whole(mut self) -> Result<Vec<Whole>, Fault> {
        let mut answers: Vec<Whole> = self.choices.iter().map(|_| Whole::default()).collect();
        while let Some((index, event)) = self.next().await {
            let answer = &mut answers[index];
            match event {
                Event::Start { n_cached } => answer.n_cached = n_cached,
                Event::Progress { .. } => {}
                Event::Piece { deltas, token } => {
                    deltas.into_iter().for_each(|delta| answer.answer.add(delta));
                    if let Some((id, Some(logprobs))) = token {
                        answer.logprobs.push((id, logprobs));
                    }
                }
                Event::End(Ok(end)) => answer.end = Some(end),
                Event::End(Err(fault)) => return Err(fault),
            }
        }
        Ok(answers)
    }

    /// Answers.
    pub fn n(&self) -> usize {
        self.choices.len()
    }
}

/// Keeps instructions that are computed, while the answer goes on.
fn keep(loaded: &Arc<Loaded>, prefix: Arc<[u32]>) {
    if loaded.prefixes.wants(&prefix) {
        let loaded = loaded.clone();
        tokio::task::spawn_blocking(move || {
            if let Ok(runner) = loaded.runner() {
                loaded.prefixes.keep(runner, &prefix);
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let is_open = self.choices.iter().any(|choice| !choice.has_ended);
        for choice in &self.choices {
            choice.cancel.cancel();
        }
        if is_open {
            let is_started = self.record.is_started.load(Ordering::Relaxed);
            let has_token = self.record.n_generated.load(Ordering::Relaxed) > 0;
            self.app.metrics.cancelled(is_started, has_token);
            self.record.finish("cancelled");
        }
    }
}

impl Choice {
    fn new(cancel: CancelToken, reader: Reader) -> Choice {
        Choice {
            is_first: false,
            prefix: None,
            cancel,
            reader,
            n_reasoning: 0,
            n_calls: 0,
            last_token: None,
            end: None,
            has_ended: false,
        }
    }

    fn count_calls(&mut self, deltas: &[AnswerDelta]) {
        let starts = deltas.iter().filter(|delta| matches!(delta, AnswerDelta::CallStart { .. }));
        self.n_calls += starts.count();
    }
}

impl Finish {
    /// The reason of an answer with these texts that end it; `None` for one that was cancelled.
    pub fn of(reason: FinishReason, stop: &[String]) -> Option<Finish> {
        match reason {
            FinishReason::EndOfGeneration => Some(Finish::End),
            FinishReason::Stop { index } => {
                Some(Finish::Stop(stop.get(index).cloned().unwrap_or_default()))
            }
            FinishReason::MaxTokens => Some(Finish::Length),
            FinishReason::ContextFull | FinishReason::OutOfMemory => Some(Finish::Context),
            FinishReason::Cancelled => None,
        }
    }

    /// Name in the log.
    fn name(&self) -> &'static str {
        match self {
            Finish::End => "end",
            Finish::Stop(_) => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// Reasoning, text and calls.
    pub answer: Answer,
    /// Tokens with their probabilities, where they were wished.
    pub logprobs: Vec<(u32, Logprobs)>,
    /// Tokens of the prompt that the cache had.
    pub n_cached: usize,
    /// How it ended.
    pub end: Option<End>,
}
