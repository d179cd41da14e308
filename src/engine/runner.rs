//! A thread that answers requests from any other thread.
//!
//! The workers stay gathered as long as the runner lives: requests come through a channel between
//! two steps, news goes out through a channel for each request. Neither waits for a slow reader; a
//! request's news is bounded by the tokens of its context.

use super::batch::PROMPT_TOKENS_BESIDE;
use super::guard::guarded;
use super::pace::{Pace, StepTimes};
use super::request::{CancelToken, Request, Stats, TokenEvent};
use super::saved::Origin;
use super::scheduler::{Counters, Listener, Scheduler};
use super::session::Session;
use super::{Engine, EngineError};
use crate::decoder::Stepper;
use crate::kv::PageCounts;
use crate::tensor::memory;
use crate::text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Order to the thread.
enum Order {
    Answer(Box<Job>),
    /// Work between two steps.
    Call(Box<Call>),
}

/// A request, and who hears its answers.
struct Job {
    request: Request,
    answers: Vec<(CancelToken, Box<dyn Listener>)>,
}

type Call = dyn FnOnce(&mut Stepper<'_>) + Send;

/// News of a request that a [`Runner`] answers.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnswerEvent {
    /// A part of the prompt, a token or text.
    Token(TokenEvent),
    /// The end: figures of the request, or why it could not be answered.
    End(Result<Stats, EngineError>),
}

/// Handle of a thread that owns an engine. Clones are handles of the same thread. When the last one
/// is dropped, what is under way is cancelled, and the drop waits for the thread.
#[derive(Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` when the thread is to end.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    status: Arc<Mutex<Status>>,
    origin: Arc<Origin>,
}

/// State of a runner behind its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Requests that run.
    pub n_running: usize,
    /// Requests that wait.
    pub n_waiting: usize,
    /// Bytes of the KV cache that requests use or that are kept for others.
    pub kv_bytes: usize,
    /// Bytes of the KV cache that are kept and that no request uses.
    pub cached_bytes: usize,
    /// Counters of what has been done so far.
    pub counters: Counters,
    /// Pages of keys and values.
    pub pages: PageCounts,
    /// Times that steps took.
    pub times: StepTimes,
    /// Tokens of prompts that a step beside generating requests has at most.
    pub prompt_tokens_beside: usize,
}

impl Runner {
    /// Starts the thread. `n_running_max` requests share a step at most, and never more than the
    /// engine gives rows of logits ([`EngineOptions::max_outputs`](super::EngineOptions)).
    ///
    /// # Errors
    /// A model without logits, or no thread to be had.
    pub fn start(
        mut engine: Engine,
        tokenizer: Option<Arc<Tokenizer>>,
        n_running_max: usize,
    ) -> Result<Runner, EngineError> {
        engine.check_generates()?;
        let (sender, orders) = channel();
        let origin = engine.origin.clone();
        let status = Arc::new(Mutex::new(Status::default()));
        let told = status.clone();
        let thread = memory::spawn("teff-runner", move || {
            work(&mut engine, Scheduler::new(tokenizer, n_running_max), orders, &told);
        });
        let thread = Some(thread.map_err(EngineError::Threads)?);
        let orders = Some(sender);
        Ok(Runner { shared: Arc::new(Shared { orders, thread, status, origin }) })
    }

    /// Hands a request over; its events come through the answer.
    pub fn submit(&self, request: Request) -> Answer {
        self.submit_with(request, CancelToken::default())
    }

    /// The same with a switch that is there before the answer. A switch is for one request.
    pub fn submit_with(&self, request: Request, cancel: CancelToken) -> Answer {
        let (sender, events) = channel();
        self.submit_to(request, vec![(cancel.clone(), Box::new(Events(sender)))]);
        Answer::new(events, cancel)
    }

    /// Hands a request over that is to be answered `n` times: see [`Scheduler::submit_answers`].
    pub fn submit_answers(&self, request: Request, n: usize) -> Vec<Answer> {
        let mut listeners: Vec<(CancelToken, Box<dyn Listener>)> = Vec::with_capacity(n);
        let mut answers = Vec::with_capacity(n);
        for _ in 0..n {
            let (sender, events) = channel();
            let cancel = CancelToken::default();
            listeners.push((cancel.clone(), Box::new(Events(sender))));
            answers.push(Answer::new(events, cancel));
        }
        self.submit_to(request, listeners);
        answers
    }

    /// Hands a request over with a listener for each answer, which is called on the runner's thread
    /// and must not block.
    pub fn submit_to(&self, request: Request, answers: Vec<(CancelToken, Box<dyn Listener>)>) {
        let Some(orders) = &self.shared.orders else { return };
        if let Err(refused) = orders.send(Order::Answer(Box::new(Job { request, answers })))
            && let Order::Answer(job) = refused.0
        {
            for (_, listener) in job.answers {
                listener.end(Err(EngineError::Stopped));
            }
        }
    }

    /// Has the thread do `work` between two steps, when requests that are cancelled by now have
    /// ended, and waits for it. Not for the runner's own thread, which would wait for itself.
    ///
    /// # Errors
    /// The thread has ended, or the work panicked.
    pub(super) fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Stepper<'_>) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let (sender, result) = channel();
        let call = move |stepper: &mut Stepper<'_>| {
            // Whoever asked for the result waits for it.
            let _ = sender.send(guarded(|| work(stepper)));
        };
        if let Some(orders) = &self.shared.orders {
            // A refused order is dropped with its sender, as one that is never done.
            let _ = orders.send(Order::Call(Box::new(call)));
        }
        result.recv().unwrap_or(Err(EngineError::Stopped))
    }

    /// Origin of the engine's numbers.
    pub(super) fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    /// A conversation without a token.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// State behind the last step; never waits for one.
    pub fn status(&self) -> Status {
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            // A listener may hold the last handle: the thread cannot wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread has ended its requests; a destructor must not panic about it.
            let _ = thread.join();
        }
    }
}

/// Answers requests until all handles are gone.
fn work(
    engine: &mut Engine,
    mut scheduler: Scheduler<'static>,
    orders: Receiver<Order>,
    status: &Mutex<Status>,
) {
    let n_fixed = engine.prompt_tokens_beside;
    let may_come = scheduler.n_running_max() > 1;
    let mut n_beside = n_fixed.unwrap_or(PROMPT_TOKENS_BESIDE);
    scheduler.set_prompt_tokens_beside(n_beside);
    scheduler.set_draft_model(engine.draft.take());
    let mut pace = Pace::default();
    engine.lead(move |stepper| {
        loop {
            // Without work the thread sleeps until an order comes.
            let order = match scheduler.n_requests() {
                0 => orders.recv().map_err(|_| TryRecvError::Disconnected),
                _ => orders.try_recv(),
            };
            match order {
                Ok(Order::Answer(job)) => {
                    let Job { request, answers } = *job;
                    scheduler.submit_answers(request, answers);
                }
                Ok(Order::Call(call)) => {
                    scheduler.end_cancelled(stepper);
                    call(stepper);
                }
                Err(TryRecvError::Empty) => {
                    let start = Instant::now();
                    scheduler.step(stepper);
                    if let Some(kind) = scheduler.last_step() {
                        pace.learn(kind, start.elapsed());
                        n_beside = n_fixed.or(pace.tokens_beside()).unwrap_or(n_beside);
                        scheduler.set_prompt_tokens_beside(n_beside);
                        // Where others may come, they are not to wait for a long step.
                        if let Some(n) = pace.tokens_alone().filter(|_| may_come) {
                            scheduler.set_prompt_tokens_alone(n);
                        }
                    }
                }
                Err(TryRecvError::Disconnected) => break,
            }
            let (n_running, kv) = (scheduler.n_running(), stepper.kv());
            let now = Status {
                n_running,
                n_waiting: scheduler.n_requests() - n_running,
                kv_bytes: kv.kv_bytes(),
                cached_bytes: kv.cached_bytes(),
                counters: scheduler.counters(),
                pages: kv.page_counts(),
                times: pace.times(),
                prompt_tokens_beside: n_beside,
            };
            *status.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        scheduler.cancel_all(stepper);
    });
}

/// Events of one request, in order. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    events: Receiver<AnswerEvent>,
    cancel: CancelToken,
    /// An event that has come and is not told yet.
    next: Option<AnswerEvent>,
    has_ended: bool,
}

impl Answer {
    fn new(events: Receiver<AnswerEvent>, cancel: CancelToken) -> Answer {
        Answer { events, cancel, next: None, has_ended: false }
    }

    /// Waits for so long; whether the next event, or the end of them, is at hand without waiting.
    pub fn is_ready_within(&mut self, time: Duration) -> bool {
        if self.next.is_none() && !self.has_ended {
            self.next = match self.events.recv_timeout(time) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => return false,
                // A thread that died tells no end.
                Err(RecvTimeoutError::Disconnected) => Some(stopped()),
            };
        }
        true
    }

    /// Switch that ends the request.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }
}

impl Iterator for Answer {
    type Item = AnswerEvent;

    /// Waits for the next event; `None` after the end.
    fn next(&mut self) -> Option<AnswerEvent> {
        if self.has_ended {
            return None;
        }
        let next = self.next.take();
        // A thread that died tells no end.
        let event = next.unwrap_or_else(|| self.events.recv().unwrap_or_else(|_| stopped()));
        self.has_ended = matches!(event, AnswerEvent::End(_));
        Some(event)
    }
}

/// The end of an answer whose thread died.
fn stopped() -> AnswerEvent {
    AnswerEvent::End(Err(EngineError::Stopped))
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Listener that sends events on.
struct Events(Sender<AnswerEvent>);

impl Listener for Events {
    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()> {
        match self.0.send(AnswerEvent::Token(event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        // A caller that has left wants no news.
        let _ = self.0.send(AnswerEvent::End(result));
    }
}
