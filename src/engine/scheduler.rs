//! Continuous batching: requests that come and go share the steps of one decoder.
//!
//! Each step takes one token of every request that is generating and parts of prompts (see
//! `batch`). A request has its own sampler, stop strings, limits and cancellation, and gets the
//! tokens that it would get alone: results do not depend on what shares a step. So a request can
//! lose its pages to others when memory runs out, and be computed anew later without a difference
//! in its text.
//!
//! **What goes wrong stays with its request.** A panic of a sampler or a listener ends that request
//! only. A panic of a step, or an error that does not tell whose it is, has the requests of the
//! step make their next one alone; the one that panics again ends.
//!
//! **Memory.** A request is admitted when its prompt has room beside what the others will need for
//! theirs. When an answer grows beyond the budget of the KV cache, the youngest request gives its
//! pages back and waits; then nobody is admitted before another request has ended.
//!
//! **Prefixes.** A request starts from what others left, and leaves its own tokens when its prompt is
//! computed and when it ends. One whose prompt begins as that of a running request does waits until
//! that is computed, instead of computing the same.
//!
//! [`Scheduler::step`] decides by requests alone, never by clocks: equal calls make equal steps, unless
//! a request asks for drafts by the clock (see [`Speculation`](super::Speculation)).

mod check;

use super::EngineError;
use super::batch::{Limits, PROMPT_TOKENS_BESIDE, Share, Wanted, is_fair, shares};
use super::draft_model::DraftModel;
use super::guard::guarded;
use super::pace::StepKind;
use super::request::{CancelToken, FinishReason, Request, Stats, TokenEvent};
use super::task::{Drawn, Task};
use crate::backend::LogitRows;
use crate::backend::pages::PAGE_TOKENS;
use crate::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use crate::kv::{KvError, SeqId};
use crate::text::Tokenizer;
use check::Check;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests that are computed at a time when nobody says: more hardly share weights better.
pub const RUNNING_DEFAULT: usize = 16;
/// Requests that wait, at most: beyond that a caller has to come back.
pub const WAITING_MAX: usize = 1024;
/// Answers to one prompt, at most, as they start together whatever else is running.
pub const ANSWERS_MAX: usize = 16;

/// Receiver of a request's news.
pub trait Listener: Send {
    /// Hears that the request has left the queue, and how many tokens of its prompt are known already.
    fn start(&mut self, n_cached: usize) {
        let _ = n_cached;
    }

    /// Hears what happened; [`ControlFlow::Break`] cancels the request.
    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()>;

    /// Hears how the request ended, exactly once.
    fn end(self: Box<Self>, result: Result<Stats, EngineError>);
}

/// Numbers of what a scheduler has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Steps that were computed to their end.
    pub n_steps: u64,
    /// Tokens in them.
    pub n_tokens: u64,
    /// Tokens that requests found in the cache when they were admitted.
    pub n_cached: u64,
    /// Requests that lost their pages and waited again.
    pub n_preempted: u64,
    /// Steps that a cancellation interrupted.
    pub n_interrupted: u64,
    /// Steps that panicked or failed.
    pub n_failed: u64,
    /// Answers that started from another one's computed prompt.
    pub n_forked: u64,
    /// Tokens of drafts that were checked.
    pub n_drafted: u64,
    /// Tokens of drafts that came true.
    pub n_accepted: u64,
}

/// Requests under way and requests that wait.
pub struct Scheduler<'l> {
    tokenizer: Option<Arc<Tokenizer>>,
    n_running_max: usize,
    interrupt: Arc<AtomicBool>,
    /// In the order of arrival.
    waiting: VecDeque<Task<'l>>,
    /// In the order of arrival.
    running: Vec<Task<'l>>,
    /// Arrival numbers of requests that make their next step alone.
    suspects: VecDeque<u64>,
    /// Whether a request lost its pages and none has ended since: then none is admitted.
    is_starved: bool,
    n_arrived: u64,
    /// Steps tried, which turns the order in which requests get places in a step.
    n_tried: usize,
    /// Tokens of prompts beside generating requests, at most.
    max_beside: usize,
    /// Tokens of prompts where nothing generates, at most.
    max_prompts: usize,
    /// What the last step was made of, if it was computed to its end.
    last: Option<StepKind>,
    /// What drafts for requests, in the place of the text so far.
    draft_model: Option<DraftModel>,
    counters: Counters,
}

/// Answers that start from the prompt of a running task.
struct Fork<'l> {
    /// Index of that task.
    task: usize,
    siblings: Vec<Task<'l>>,
    /// Outputs behind the prompt.
    logits: Vec<f32>,
}

/// What a step has led to.
#[derive(Default)]
struct Outcome<'l> {
    forks: Vec<Fork<'l>>,
    /// Indices of tasks whose prompt is computed now.
    read: Vec<usize>,
    /// Indices of tasks that have ended, ascending or not.
    ended: Vec<(usize, Result<FinishReason, EngineError>)>,
}

impl<'l> Scheduler<'l> {
    /// A scheduler without requests, of which `n_running_max` share the decoder at most, and never
    /// more than it gives rows of logits. `tokenizer` gives the text of tokens and says which ones
    /// end an answer; without one no token has a text or ends an answer.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, n_running_max: usize) -> Scheduler<'l> {
        Scheduler {
            tokenizer,
            n_running_max: n_running_max.max(1),
            interrupt: Arc::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            suspects: VecDeque::new(),
            is_starved: false,
            n_arrived: 0,
            n_tried: 0,
            max_beside: PROMPT_TOKENS_BESIDE,
            max_prompts: usize::MAX,
            last: None,
            draft_model: None,
            counters: Counters::default(),
        }
    }

    /// Has steps with generating requests take at most so many tokens of prompts; it changes no result.
    pub fn set_prompt_tokens_beside(&mut self, n: usize) {
        self.max_beside = n.max(1);
    }

    /// Has steps without generating requests take at most so many tokens of prompts; it changes no result.
    pub(super) fn set_prompt_tokens_alone(&mut self, n: usize) {
        self.max_prompts = n.max(1);
    }

    /// Has drafts made by a model, or of the text so far; it changes no result.
    pub fn set_draft_model(&mut self, draft: Option<DraftModel>) {
        self.draft_model = draft;
    }

    /// Takes the draft model away.
    pub fn take_draft_model(&mut self) -> Option<DraftModel> {
        self.draft_model.take()
    }

    /// Kind of the last step; `None` if it was not computed to its end, or there was none.
    pub(super) fn last_step(&self) -> Option<StepKind> {
        self.last
    }

    /// Takes a request. The listener hears as the request's end what is wrong with it.
    pub fn submit(
        &mut self,
        request: Request,
        cancel: &CancelToken,
        listener: Box<dyn Listener + 'l>,
    ) {
        self.submit_answers(request, vec![(cancel.clone(), listener)]);
    }

    /// Takes a request that is to be answered several times, at most [`ANSWERS_MAX`]: its prompt is
    /// computed once. Answer `i` is that of the request alone with `i` added to its seed.
    pub fn submit_answers(
        &mut self,
        request: Request,
        answers: Vec<(CancelToken, Box<dyn Listener + 'l>)>,
    ) {
        let n_answers = answers.len();
        let mut tasks = Vec::with_capacity(n_answers);
        for (i, (cancel, listener)) in answers.into_iter().enumerate() {
            if n_answers > ANSWERS_MAX {
                hear_end(listener, EngineError::TooManyAnswers { n: n_answers });
                continue;
            }
            if self.waiting.len() + tasks.len() >= WAITING_MAX {
                hear_end(listener, EngineError::Busy);
                continue;
            }
            let mut request = request.clone();
            request.sampling.seed = request.sampling.seed.wrapping_add(i as u64);
            let arrival = self.n_arrived;
            self.n_arrived += 1;
            match Task::new(arrival, request, cancel, listener, self.tokenizer.as_ref()) {
                Ok(task) => tasks.push(task),
                Err((listener, error)) => hear_end(listener, error),
            }
        }
        self.wait_together(tasks);
    }

    /// Number of requests that run and that wait.
    pub fn n_requests(&self) -> usize {
        let waiting = self.waiting.iter().chain(&self.running);
        waiting.map(|task| 1 + task.siblings.len()).sum()
    }

    /// Number of requests that may run at a time.
    pub(super) fn n_running_max(&self) -> usize {
        self.n_running_max
    }

    /// Number of requests that run.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Counters of what has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Makes one step for the requests at hand; without any, nothing happens. What goes wrong with
    /// a request is told to its listener.
    ///
    /// # Panics
    /// If the decoder gives no logits.
    pub fn step(&mut self, stepper: &mut Stepper<'_>) {
        self.last = None;
        // A swap, to see what was written before the flag was set.
        self.interrupt.swap(false, Ordering::AcqRel);
        self.end_cancelled(stepper);
        self.catch_up(stepper);
        self.admit(stepper);
        let shares = self.shares(stepper);
        if shares.is_empty() {
            return;
        }
        self.n_tried += 1;
        let check = self.make_draft(stepper, &shares);
        let kind = self.kind_of(&shares);
        let result = self.compute(stepper, &shares, check.as_ref());
        let refused = check.is_some_and(|check| self.settle_draft(stepper, check, &result));
        if refused {
            return;
        }
        match result {
            Ok(Ok(outcome)) => {
                self.last = Some(kind);
                self.conclude(stepper, &shares, outcome);
            }
            Ok(Err(StepError::Cancelled)) => self.counters.n_interrupted += 1,
            Ok(Err(StepError::Kv(KvError::OutOfBudget { .. }))) => {
                self.starve(stepper, Ok(FinishReason::OutOfMemory));
            }
            Ok(Err(error @ StepError::Memory(_))) => {
                self.restore(stepper);
                self.starve(stepper, Err(error.into()));
            }
            Ok(Err(StepError::Moved(_))) => {
                // The CPUs go on, and nobody is to blame: tokens are computed again.
                self.counters.n_failed += 1;
                self.restore(stepper);
            }
            Ok(Err(error @ StepError::Device(_))) => {
                self.restore(stepper);
                self.isolate(stepper, &shares, error.into());
            }
            Ok(Err(error)) => self.isolate(stepper, &shares, error.into()),
            Err(panic) => {
                self.restore(stepper);
                self.isolate(stepper, &shares, panic);
            }
        }
    }

    /// Ends every request: as cancelled.
    pub fn cancel_all(&mut self, stepper: &mut Stepper<'_>) {
        while !self.running.is_empty() {
            self.end(stepper, 0, Ok(FinishReason::Cancelled));
        }
        for mut task in std::mem::take(&mut self.waiting) {
            let siblings = std::mem::take(&mut task.siblings);
            for task in [task].into_iter().chain(siblings) {
                task.end(Ok(FinishReason::Cancelled));
            }
        }
    }

    /// Puts tasks with one prompt where they belong in the queue, the first one in front of the
    /// others, which wait for its prompt.
    fn wait_together(&mut self, mut tasks: Vec<Task<'l>>) {
        let siblings = tasks.split_off(tasks.len().min(1));
        if let Some(mut first) = tasks.pop() {
            first.siblings.extend(siblings);
            let at = self.waiting.partition_point(|task| task.arrival < first.arrival);
            self.waiting.insert(at, first);
        }
    }

    /// Ends requests that are cancelled.
    pub(super) fn end_cancelled(&mut self, stepper: &mut Stepper<'_>) {
        for task in self.running.iter_mut().chain(&mut self.waiting) {
            let cancelled = task.siblings.extract_if(.., |task| task.is_cancelled());
            cancelled.for_each(|task| task.end(Ok(FinishReason::Cancelled)));
        }
        for index in (0..self.running.len()).rev() {
            if self.running[index].is_cancelled() {
                self.end(stepper, index, Ok(FinishReason::Cancelled));
            }
        }
        let mut index = 0;
        while let Some(task) = self.waiting.get(index) {
            if !task.is_cancelled() {
                index += 1;
            } else if let Some(mut task) = self.waiting.remove(index) {
                // Its place in the queue is the first sibling's now, who has not been cancelled.
                self.wait_together(std::mem::take(&mut task.siblings));
                task.end(Ok(FinishReason::Cancelled));
            }
        }
    }

    /// Starts requests that wait, while there is room.
    fn admit(&mut self, stepper: &mut Stepper<'_>) {
        let n_max = self.n_running_max.min(stepper.max_outputs());
        let has_states = !stepper.program().states.is_empty();
        let mut index = 0;
        while self.running.len() < n_max && (self.running.is_empty() || !self.is_starved) {
            let Some(task) = self.waiting.get(index) else { return };
            if self.running.iter().any(|other| is_awaited(task, other, has_states)) {
                index += 1;
                continue;
            }
            let Some(mut task) = self.waiting.remove(index) else { return };
            if let Err(error) = task.start(stepper) {
                self.wait_together(std::mem::take(&mut task.siblings));
                task.end(Err(error));
                continue;
            }
            if !self.running.is_empty() && !self.has_room(stepper, &task) {
                task.give_pages_back(stepper.kv_mut(), false);
                self.waiting.insert(index, task);
                return;
            }
            task.take_part(&self.interrupt);
            self.counters.n_cached += (task.tokens().len() - task.left().len()) as u64;
            self.run_on(task);
        }
    }

    /// Puts a task with a sequence among the running ones.
    fn run_on(&mut self, task: Task<'l>) {
        let at = self.running.partition_point(|other| other.arrival < task.arrival);
        self.running.insert(at, task);
    }

    /// Whether the known tokens of a task have room beside those of the running ones.
    fn has_room(&self, stepper: &Stepper<'_>, task: &Task<'l>) -> bool {
        let (kv, max_batch) = (stepper.kv(), stepper.max_batch());
        let in_use = kv.kv_bytes() - kv.cached_bytes();
        let tasks = self.running.iter().chain([task]);
        let wanted = tasks.map(|task| task.bytes_wanted(kv, max_batch));
        wanted.fold(in_use, usize::saturating_add) <= kv.kv_bytes_max()
    }

    /// Shares of the next step: of one suspect, if there is any, else of all that run.
    fn shares(&mut self, stepper: &Stepper<'_>) -> Vec<Share> {
        let limits = Limits {
            max_batch: stepper.max_batch(),
            max_outputs: stepper.max_outputs(),
            max_beside: self.max_beside,
            max_prompts: self.max_prompts,
        };
        let wanted = |task: &Task<'_>| Wanted { left: task.left().len(), n_passed: task.n_passed };
        while let Some(&suspect) = self.suspects.front() {
            if let Some(task) = self.running.iter().position(|task| task.arrival == suspect) {
                let alone = shares(&[wanted(&self.running[task])], limits, 0);
                let alone = alone.into_iter().map(|share| Share { task, ..share });
                return alone.map(|share| self.cut_at_prefix(stepper, share)).collect();
            }
            self.suspects.pop_front();
        }
        let all: Vec<Wanted> = self.running.iter().map(wanted).collect();
        let shares = shares(&all, limits, self.n_tried);
        self.take_turns(&shares);
        shares.into_iter().map(|share| self.cut_at_prefix(stepper, share)).collect()
    }

    /// Takes note of who has had a share.
    fn take_turns(&mut self, shares: &[Share]) {
        let n_prompt = self.kind_of(shares).n_prompt;
        self.running.iter_mut().for_each(|task| task.n_passed += 1);
        for share in shares.iter().filter(|share| is_fair(**share, n_prompt)) {
            self.running[share.task].n_passed = 0;
        }
    }

    /// What a step of these shares is made of.
    fn kind_of(&self, shares: &[Share]) -> StepKind {
        let mut kind = StepKind::default();
        for share in shares {
            match self.running[share.task].left().len() {
                1 => kind.n_generating += 1,
                _ => kind.n_prompt += share.n_tokens,
            }
        }
        kind
    }

    /// The share, ended where a prefix is to be kept of its own.
    fn cut_at_prefix(&self, stepper: &Stepper<'_>, share: Share) -> Share {
        let task = &self.running[share.task];
        match stepper.kv().place_to_keep(task.shared_prefix()).checked_sub(task.n_done()) {
            Some(n) if (1..share.n_tokens).contains(&n) => {
                Share { n_tokens: n, draws: false, ..share }
            }
            _ => share,
        }
    }

    /// Whether the task of a share is where a prefix is to be kept of its own.
    fn is_at_prefix(&self, stepper: &Stepper<'_>, share: &Share) -> bool {
        let task = &self.running[share.task];
        task.n_done() > 0 && task.n_done() == stepper.kv().place_to_keep(task.shared_prefix())
    }

    /// Makes the step and draws tokens. The error outside is a panic of the step itself.
    fn compute(
        &mut self,
        stepper: &mut Stepper<'_>,
        shares: &[Share],
        check: Option<&Check>,
    ) -> Result<Result<Outcome<'l>, StepError>, EngineError> {
        let mut chunks: Vec<SequenceChunk<'_>> =
            shares.iter().map(|share| self.chunk_of(*share)).collect();
        if let (Some(check), [chunk]) = (check, &mut chunks[..]) {
            (chunk.tokens, chunk.outputs) = (&check.tokens, Outputs::All);
        }
        let interrupt = self.interrupt.clone();
        let rows = guarded(move || stepper.step_with_maxima(&chunks, Some(&interrupt)))?;
        Ok(rows.map(|rows| self.draw(shares, rows)))
    }

    fn chunk_of(&self, share: Share) -> SequenceChunk<'_> {
        let task = &self.running[share.task];
        let outputs = if share.draws { Outputs::Last } else { Outputs::None };
        let tokens = &task.left()[..share.n_tokens];
        SequenceChunk { sequence: task.sequence().expect("the task runs"), tokens, outputs }
    }

    /// Tells the tasks that their tokens are computed, and has them draw the next ones.
    fn draw(&mut self, shares: &[Share], mut rows: LogitRows<'_>) -> Outcome<'l> {
        let workers = rows.workers();
        let mut outcome = Outcome::default();
        for &Share { task: index, n_tokens, draws } in shares {
            let task = &mut self.running[index];
            if !task.draft().is_empty() {
                if let Drawn::End(result) = task.check_draft(&mut rows) {
                    outcome.ended.push((index, result));
                }
                continue;
            }
            let row = if draws { rows.next() } else { None };
            if let Some(row) = row.as_ref().filter(|_| task.is_reading()) {
                outcome.read.push(index);
                let siblings = std::mem::take(&mut task.siblings);
                if !siblings.is_empty() {
                    let logits = row.values().to_vec();
                    outcome.forks.push(Fork { task: index, siblings, logits });
                }
            }
            if let Drawn::End(result) = task.advance_guarded(n_tokens, row, workers) {
                outcome.ended.push((index, result));
            }
        }
        outcome
    }

    /// Keeps prompts that are computed, starts answers that waited for one, and ends others.
    fn conclude(&mut self, stepper: &mut Stepper<'_>, shares: &[Share], outcome: Outcome<'l>) {
        self.counters.n_steps += 1;
        self.counters.n_tokens += shares.iter().map(|share| share.n_tokens as u64).sum::<u64>();
        if let Some(suspect) = self.suspects.pop_front() {
            debug_assert!(shares.len() == 1 && self.running[shares[0].task].arrival == suspect);
        }
        let Outcome { forks, read, mut ended } = outcome;
        let at_prefix =
            shares.iter().filter(|share| !share.draws && self.is_at_prefix(stepper, share));
        let at_prefix: Vec<usize> = at_prefix.map(|share| share.task).collect();
        for index in read.into_iter().chain(at_prefix) {
            let task = &self.running[index];
            if let Some(sequence) = task.sequence().filter(|_| task.caches()) {
                stepper.kv_mut().retain(sequence, task.tokens());
            }
        }
        let mut forked = Vec::new();
        for Fork { task, siblings, logits } in forks {
            let parent = self.running[task].sequence().expect("the task runs");
            for sibling in siblings {
                forked.extend(self.fork(stepper, parent, sibling, &logits));
            }
        }
        ended.sort_by_key(|(task, _)| std::cmp::Reverse(*task));
        for (task, result) in ended {
            self.end(stepper, task, result);
        }
        forked.into_iter().for_each(|task| self.run_on(task));
    }

    /// Starts a sibling behind the prompt that `parent` holds; `None` if it has ended already.
    fn fork(
        &mut self,
        stepper: &mut Stepper<'_>,
        parent: SeqId,
        mut sibling: Task<'l>,
        logits: &[f32],
    ) -> Option<Task<'l>> {
        let kv = stepper.kv_mut();
        let n_ctx = kv.n_ctx();
        let n_prompt = sibling.tokens().len();
        let Some(sequence) = kv.fork(parent, n_prompt) else {
            // Computed anew then.
            self.wait_together(vec![sibling]);
            return None;
        };
        self.counters.n_forked += 1;
        match sibling.start_from(sequence, n_ctx, &self.interrupt, logits) {
            Drawn::Next => Some(sibling),
            Drawn::End(result) => {
                sibling.give_pages_back(kv, false);
                sibling.end(result);
                None
            }
        }
    }

    /// Brings cache and tasks in order behind a step that broke off.
    fn restore(&mut self, stepper: &mut Stepper<'_>) {
        stepper.kv_mut().undo();
        self.catch_up(stepper);
    }

    /// Has tasks compute again what their sequences have lost: by a step that broke off recurrent states
    /// that were changed in place; all of it by a device, be it in a step or between two.
    fn catch_up(&mut self, stepper: &mut Stepper<'_>) {
        for task in &mut self.running {
            let len = task.sequence().map_or(0, |sequence| stepper.kv().len(sequence));
            task.cut_back(len);
        }
    }

    /// Finds out whose fault a failed step was: whose step was made alone ends with the error, and
    /// several have to make their next one alone.
    fn isolate(&mut self, stepper: &mut Stepper<'_>, shares: &[Share], error: EngineError) {
        self.counters.n_failed += 1;
        if let [share] = shares {
            self.end(stepper, share.task, Err(error));
        } else {
            let arrivals = shares.iter().map(|share| self.running[share.task].arrival);
            self.suspects = arrivals.collect();
        }
    }

    /// Takes the pages of the youngest request, which waits then; a request alone ends so.
    fn starve(&mut self, stepper: &mut Stepper<'_>, alone: Result<FinishReason, EngineError>) {
        if self.running.len() == 1 {
            self.end(stepper, 0, alone);
        } else if let Some(mut task) = self.running.pop() {
            self.counters.n_preempted += 1;
            task.give_pages_back(stepper.kv_mut(), true);
            self.wait_together(vec![task]);
            self.is_starved = true;
        }
    }

    fn end(
        &mut self,
        stepper: &mut Stepper<'_>,
        index: usize,
        result: Result<FinishReason, EngineError>,
    ) {
        let mut task = self.running.remove(index);
        self.wait_together(std::mem::take(&mut task.siblings));
        task.give_pages_back(stepper.kv_mut(), result.is_ok());
        task.end(result);
        self.is_starved = false;
    }
}

/// Ends a request that is no task.
fn hear_end(listener: Box<dyn Listener + '_>, error: EngineError) {
    // A listener that panics at its end has no request left to fail.
    let _ = guarded(|| listener.end(Err(error)));
}

/// Whether a task that waits should start when the prompt of `other`, which runs, is computed: more
/// of its own prompt will be known then. States are known at the end of a prompt and of what it shares.
fn is_awaited(task: &Task<'_>, other: &Task<'_>, has_states: bool) -> bool {
    if !(other.is_reading() && other.caches() && task.caches()) {
        return false;
    }
    let (own, others) = (task.tokens(), other.tokens());
    // The last token has to be computed anyway.
    let n_common = own[..own.len() - 1].iter().zip(others).take_while(|(a, b)| a == b).count();
    let n_shared = other.shared_prefix().min(others.len());
    let n_known = match has_states {
        true if n_common < others.len() => {
            if n_shared <= n_common {
                n_shared
            } else {
                0
            }
        }
        true => n_common,
        false => n_common / PAGE_TOKENS * PAGE_TOKENS,
    };
    n_known > other.n_cached()
}
