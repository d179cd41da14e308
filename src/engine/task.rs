//! One request while it is answered: its tokens, its sampler, and what its listener has heard.

use super::EngineError;
use super::draft::{Drafter, Speculation};
use super::draft_model::DraftModel;
use super::guard::guarded;
use super::request::{CancelToken, FinishReason, Request, Stats, TokenEvent};
use super::scheduler::Listener;
use super::vocabulary::Texts;
use crate::backend::LogitRows;
use crate::decoder::{StepError, Stepper};
use crate::kv::{PagePool, SeqId};
use crate::sample::{LOGPROBS_MAX, Logprobs, SamplerChain};
use crate::text::{StopStrings, TextStream, Tokenizer};
use crate::workers::{Alone, Workers};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use teff_kernels::BlockMax;

/// A request under way, or waiting.
pub(super) struct Task<'l> {
    /// Number in the order of arrival.
    pub arrival: u64,
    /// Requests with the same prompt, which start from this one's pages when it is computed.
    pub siblings: Vec<Task<'l>>,
    /// Steps since it had a fair share of one.
    pub n_passed: usize,
    /// What was asked for, but for the prompt, the filters and the stop strings.
    request: Request,
    cancel: CancelToken,
    listener: Box<dyn Listener + 'l>,
    sampler: SamplerChain,
    /// Whether the sampler has been told the prompt.
    is_primed: bool,
    tokenizer: Option<Arc<Tokenizer>>,
    stream: Option<TextStream>,
    stop: StopStrings,
    drafter: Drafter,
    /// Tokens that the step under way computes behind those that are known.
    draft: Vec<u32>,
    /// Prompt and drawn tokens that the model is to see.
    tokens: Vec<u32>,
    /// Tokens at the front that are computed.
    n_done: usize,
    /// Pages of the computed tokens, while the request runs.
    sequence: Option<SeqId>,
    /// Tokens that a sequence may have.
    n_ctx: usize,
    /// Whether the listener wants no more.
    is_left: bool,
    started: Option<Instant>,
    generating: Option<Instant>,
    stats: Stats,
}

/// Consequence of a step for a task.
pub(super) enum Drawn {
    /// More tokens are to be computed.
    Next,
    /// The answer has ended.
    End(Result<FinishReason, EngineError>),
}

/// What a request is made into before it becomes a task.
struct Parts {
    sampler: SamplerChain,
    stop: StopStrings,
}

impl<'l> Task<'l> {
    /// A task that waits.
    ///
    /// # Errors
    /// The request is refused, of which the listener knows nothing yet.
    pub fn new(
        arrival: u64,
        mut request: Request,
        cancel: CancelToken,
        listener: Box<dyn Listener + 'l>,
        tokenizer: Option<&Arc<Tokenizer>>,
    ) -> Result<Task<'l>, (Box<dyn Listener + 'l>, EngineError)> {
        let parts = guarded(|| parts(&mut request, tokenizer));
        let Parts { sampler, stop } = match parts.and_then(|parts| parts) {
            Ok(parts) => parts,
            Err(error) => return Err((listener, error)),
        };
        let tokens = std::mem::take(&mut request.prompt);
        let stats = Stats {
            n_prompt: tokens.len(),
            n_cached: 0,
            prompt_time: Duration::ZERO,
            n_generated: 0,
            n_drafted: 0,
            n_accepted: 0,
            generate_time: Duration::ZERO,
            finish: FinishReason::Cancelled,
        };
        let drafter = Drafter::new(request.speculation);
        Ok(Task {
            arrival,
            drafter,
            draft: Vec::new(),
            siblings: Vec::new(),
            n_passed: 0,
            request,
            cancel,
            listener,
            sampler,
            is_primed: false,
            tokenizer: tokenizer.cloned(),
            stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer.clone())),
            stop,
            tokens,
            n_done: 0,
            sequence: None,
            n_ctx: usize::MAX,
            is_left: false,
            started: None,
            generating: None,
            stats,
        })
    }

    /// Prompt and drawn tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that are yet to be computed.
    pub fn left(&self) -> &[u32] {
        &self.tokens[self.n_done..]
    }

    /// Number of tokens at the front that are computed.
    pub fn n_done(&self) -> usize {
        self.n_done
    }

    /// Drafts at most `n_max` tokens below `n_vocab` for the next step, by a model or of the text so far.
    pub fn make_draft(&mut self, n_max: usize, n_vocab: usize, model: Option<&mut DraftModel>) {
        let n_answer = self.request.max_tokens.unwrap_or(usize::MAX) - self.stats.n_generated;
        // Behind the last token of an answer, or of the context, none is wanted.
        let n_max = n_max.min(n_answer.saturating_sub(1)).min(self.n_ctx - self.tokens.len());
        self.draft = match model {
            Some(model) => self.drafter.ask(model, &self.tokens, n_max, n_vocab),
            None => self.drafter.draft(&self.tokens, n_max),
        };
    }

    /// Tokens of the draft for the step under way.
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Gives the draft up.
    pub fn drop_draft(&mut self) {
        self.draft.clear();
    }

    /// Gives the draft up, and all that may come where there is no memory for them.
    pub fn give_drafts_up(&mut self, for_good: bool) {
        self.draft.clear();
        if for_good {
            self.drafter = Drafter::new(Speculation::Off);
        }
    }

    /// Number of tokens that were generated.
    pub fn n_generated(&self) -> usize {
        self.stats.n_generated
    }

    /// Takes note of the time of a step with this task alone, which led to `n_new` tokens.
    pub fn learn(&mut self, n_new: usize, time: Duration) {
        let n_draft = self.draft.len();
        self.stats.n_drafted += n_draft;
        self.stats.n_accepted += n_new.saturating_sub(1);
        self.drafter.learn(n_draft, n_new, time);
        self.draft.clear();
    }

    /// Puts the task on another sequence, which has its first `n` tokens. Returns the one before.
    pub fn go_back_to(&mut self, sequence: SeqId, n: usize) -> Option<SeqId> {
        self.n_done = n;
        self.sequence.replace(sequence)
    }

    /// Number of tokens of the prompt that were in the cache.
    pub fn n_cached(&self) -> usize {
        self.stats.n_cached
    }

    /// Sequence of the task's pages, while it runs.
    pub fn sequence(&self) -> Option<SeqId> {
        self.sequence
    }

    /// Whether no token has been drawn yet.
    pub fn is_reading(&self) -> bool {
        self.generating.is_none()
    }

    /// Whether the task uses and leaves prefixes.
    pub fn caches(&self) -> bool {
        self.request.cache_prefix
    }

    /// Number of the prompt's first tokens that are to be kept for others, beside the whole.
    pub fn shared_prefix(&self) -> usize {
        if self.caches() { self.request.shared_prefix } else { 0 }
    }

    /// Whether the request is to end.
    pub fn is_cancelled(&self) -> bool {
        self.is_left || self.cancel.is_cancelled()
    }

    /// Bytes of the cache, beyond what is in use, that the tokens left will take.
    pub fn bytes_wanted(&self, kv: &PagePool, max_batch: usize) -> usize {
        let Some(sequence) = self.sequence else { return 0 };
        let needed = kv.needed(sequence, self.left().len());
        // Windows give pages back on the way.
        needed.map_or(0, |bytes| bytes.min(kv.bytes_of(self.tokens.len(), max_batch)))
    }

    /// Gives the task a sequence, with what is known of its tokens.
    ///
    /// # Errors
    /// The prompt is longer than the context or has unknown tokens, or the sampler panics.
    pub fn start(&mut self, stepper: &mut Stepper<'_>) -> Result<(), EngineError> {
        let (n_ctx, n_vocab) = (stepper.kv().n_ctx(), stepper.n_vocab());
        if self.tokens.len() > n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt: self.tokens.len(), n_ctx });
        }
        if let Some(&id) = self.tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(EngineError::Step(StepError::TokenId { id, n_vocab }));
        }
        self.prime()?;
        let kv = stepper.kv_mut();
        // The last token has to be computed: its logits are wanted.
        let known = &self.tokens[..self.tokens.len() - 1];
        let (sequence, n_done) = match self.caches() {
            true => kv.match_prefix(known),
            false => (kv.create(), 0),
        };
        (self.sequence, self.n_done, self.n_ctx) = (Some(sequence), n_done, n_ctx);
        Ok(())
    }

    /// Takes note that the task is in steps from now on, which `interrupt` interrupts.
    pub fn take_part(&mut self, interrupt: &Arc<AtomicBool>) {
        if self.started.is_none() {
            self.started = Some(Instant::now());
            self.stats.n_cached = self.n_done;
            let (listener, n_cached) = (&mut self.listener, self.n_done);
            // A listener that panics wants no more.
            self.is_left |= guarded(|| listener.start(n_cached)).is_err();
        }
        self.cancel.attach(interrupt);
    }

    /// Tells the sampler the prompt.
    fn prime(&mut self) -> Result<(), EngineError> {
        if !std::mem::replace(&mut self.is_primed, true) {
            let (tokens, sampler) = (&self.tokens, &mut self.sampler);
            guarded(|| tokens.iter().for_each(|&id| sampler.accept(id)))?;
        }
        Ok(())
    }

    /// Starts a sibling from the computed prompt of another task, whose pages `sequence` shares, and
    /// draws its first token from the prompt's logits.
    pub fn start_from(
        &mut self,
        sequence: SeqId,
        n_ctx: usize,
        interrupt: &Arc<AtomicBool>,
        logits: &[f32],
    ) -> Drawn {
        (self.sequence, self.n_done, self.n_ctx) = (Some(sequence), self.tokens.len(), n_ctx);
        self.take_part(interrupt);
        if let Err(error) = self.prime() {
            return Drawn::End(Err(error));
        }
        // The sampler overwrites them.
        let (mut logits, mut maxima) = (logits.to_vec(), Vec::new());
        self.advance_guarded(0, Some(BlockMax::of(&mut logits, &mut maxima)), &Alone)
    }

    /// Takes note that no more than `n` of the tokens are computed.
    pub fn cut_back(&mut self, n: usize) {
        self.n_done = self.n_done.min(n);
    }

    /// Takes the task's sequence away; its tokens have to be computed anew, but for those that are
    /// kept as a prefix.
    pub fn give_pages_back(&mut self, kv: &mut PagePool, keeps: bool) {
        if let Some(sequence) = self.sequence.take() {
            if keeps && self.caches() {
                kv.retain_to_end(sequence, &self.tokens);
            }
            kv.remove(sequence);
        }
        self.n_done = 0;
    }

    /// Draws from the rows of a step that computed the last token and the draft, as long as the draft
    /// comes true. A panic ends the task.
    pub fn check_draft(&mut self, rows: &mut LogitRows<'_>) -> Drawn {
        let draft = std::mem::take(&mut self.draft);
        let mut expected = draft.iter();
        let (mut drawn, workers) = (Drawn::Next, rows.workers());
        for row in rows.take(draft.len() + 1) {
            drawn = self.advance_guarded(1, Some(row), workers);
            let came_true = expected.next().is_some_and(|id| self.tokens.last() == Some(id));
            if !(came_true && matches!(drawn, Drawn::Next)) {
                break;
            }
        }
        self.draft = draft;
        drawn
    }

    /// Takes note of `n` computed tokens; draws the next one from `row` if they were the last, with the
    /// help of workers. A panic ends the task.
    pub fn advance_guarded(
        &mut self,
        n: usize,
        row: Option<BlockMax<'_>>,
        workers: &dyn Workers,
    ) -> Drawn {
        guarded(|| self.advance(n, row, workers)).unwrap_or_else(|error| Drawn::End(Err(error)))
    }

    fn advance(&mut self, n: usize, row: Option<BlockMax<'_>>, workers: &dyn Workers) -> Drawn {
        self.n_done += n;
        let Some(row) = row else {
            if self.is_reading() {
                let (done, total) = (self.n_done, self.stats.n_prompt);
                self.tell(TokenEvent::Prompt { done, total });
            }
            return Drawn::Next;
        };
        if self.generating.is_none() {
            self.stats.prompt_time = self.started.map_or(Duration::ZERO, |start| start.elapsed());
            self.generating = Some(Instant::now());
        }
        match self.draw(row, workers) {
            Ok(None) => Drawn::Next,
            Ok(Some(finish)) => Drawn::End(Ok(finish)),
            Err(error) => Drawn::End(Err(error)),
        }
    }

    /// Draws a token and tells it; a reason if it is the last one.
    fn draw(
        &mut self,
        row: BlockMax<'_>,
        workers: &dyn Workers,
    ) -> Result<Option<FinishReason>, EngineError> {
        let n_max = self.request.max_tokens.unwrap_or(usize::MAX);
        if n_max == 0 {
            return Ok(Some(FinishReason::MaxTokens));
        }
        // The sampler overwrites the logits.
        let raw = self.request.logprobs.map(|n_top| (row.values().to_vec(), n_top));
        let id = self.sampler.sample_on(workers, row).map_err(EngineError::Sample)?;
        self.stats.n_generated += 1;
        if self.tokenizer.as_ref().is_some_and(|t| t.is_end_of_generation(id)) {
            return Ok(Some(FinishReason::EndOfGeneration));
        }
        self.sampler.accept(id);
        self.tokens.push(id);
        let text = self.stream.as_mut().map(|stream| stream.push(id)).unwrap_or_default();
        let (text, stop) = match self.stop.is_empty() {
            true => (text, None),
            false => {
                let released = self.stop.push(&text);
                (released.text, released.stop)
            }
        };
        let logprobs = raw.map(|(raw, n_top)| Logprobs::of(&raw, id, n_top));
        self.tell(TokenEvent::Token { id, text, logprobs });
        Ok(match stop {
            Some(index) => Some(FinishReason::Stop { index }),
            None if self.is_cancelled() => Some(FinishReason::Cancelled),
            None if self.stats.n_generated == n_max => Some(FinishReason::MaxTokens),
            None if self.tokens.len() > self.n_ctx => Some(FinishReason::ContextFull),
            None => None,
        })
    }

    fn tell(&mut self, event: TokenEvent) {
        self.is_left |= self.listener.tell(event).is_break();
    }

    /// Text that was held back and is to be shown, as the answer ends for this reason.
    fn rest(&mut self, finish: FinishReason) -> String {
        if matches!(finish, FinishReason::Stop { .. }) {
            return String::new();
        }
        let text = self.stream.as_mut().map(TextStream::finish).unwrap_or_default();
        let released = self.stop.push(&text);
        match released.stop {
            Some(_) => released.text,
            None => released.text + &self.stop.finish(),
        }
    }

    /// Tells the listener the end.
    pub fn end(mut self, result: Result<FinishReason, EngineError>) {
        if let Some(start) = self.generating {
            self.stats.generate_time = start.elapsed();
        }
        let told = result.and_then(|finish| {
            guarded(|| {
                let rest = self.rest(finish);
                if !rest.is_empty() {
                    self.tell(TokenEvent::Rest(rest));
                }
            })?;
            Ok(Stats { finish, ..self.stats })
        });
        let listener = self.listener;
        // A listener that panics at its end has no request left to fail.
        let _ = guarded(|| listener.end(told));
    }
}

/// Makes the parts of a request that may be wrong, whatever the model.
fn parts(request: &mut Request, tokenizer: Option<&Arc<Tokenizer>>) -> Result<Parts, EngineError> {
    if request.prompt.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if let Some(n_top) = request.logprobs.filter(|&n_top| n_top > LOGPROBS_MAX) {
        return Err(EngineError::TooManyLogprobs { n_top });
    }
    let stop = std::mem::take(&mut request.stop);
    if !stop.is_empty() && tokenizer.is_none() {
        return Err(EngineError::NoTokenizer);
    }
    let stop = StopStrings::new(stop).map_err(EngineError::Stop)?;
    let filters = std::mem::take(&mut request.filters);
    let vocabulary = tokenizer.map(Texts::of);
    let sampler =
        SamplerChain::of_vocabulary(request.sampling.clone(), filters, vocabulary.as_ref());
    Ok(Parts { sampler: sampler.map_err(EngineError::Sample)?, stop })
}
