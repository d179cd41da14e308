//! The one transformer: a model's description and weights lowered to a program, and the steps that
//! run it over sequences in the paged KV cache.
//!
//! What computes the steps is a [`Backend`]. Its workers are gathered for as many steps as the
//! caller makes: [`Decoder::lead`] hands out a [`Stepper`].

mod ffn;
mod kept;
mod lora;
mod lower;
mod mixer;
mod streams;

pub use kept::KeptBytes;
pub use lora::adapt;
pub use lower::{ModelPart, lower, lower_part, lower_with};

use crate::backend::pages::{KvType, StateSlot};
use crate::backend::program::Program;
use crate::backend::{
    self, Backend, BackendOptions, CpuSet, DeviceError, Executor, LogitRows, Observer, Offload,
    Start, StartError, StepInput, Transfers, Unfinished,
};
use crate::kv::{ContextTooLarge, KvError, PagePool, SeqId};
use crate::model::{LENGTH_MAX, ModelError, ModelSpec};
use crate::tensor::memory::{NoThreads, OutOfMemory};
use gguf_rs_lite::GgufFile;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use teff_kernels::KernelTable;

/// Bytes that the activations of a step may take; larger steps are cut.
const STEP_BYTES_MAX: usize = 1 << 30;
/// Bytes that one token's activations may take: a hundred times what the largest models need.
const TOKEN_BYTES_MAX: usize = 16 << 20;

/// Bytes that the recurrent states of a sequence may take: ten times what the largest models need.
const STATE_BYTES_MAX: usize = 2 << 30;

/// A backend's buffers take every cell that these limits allow, be it a matrix of the longest lengths in F32
/// or all that a step computes.
const _: () = {
    assert!(4 * (LENGTH_MAX as u64).pow(2) <= backend::LEN_MAX);
    assert!(STEP_BYTES_MAX as u64 <= backend::LEN_MAX);
};

/// Sizes that are fixed when a decoder is made.
#[derive(Clone, Copy, Debug)]
pub struct DecoderOptions {
    /// Worker threads; `None`: the big cores that this process may run on.
    pub threads: Option<usize>,
    /// CPUs that get a worker each, which stays there, instead of `threads` that the system moves.
    pub cpus: Option<CpuSet>,
    /// Tokens in a step, at most.
    pub max_batch: usize,
    /// Rows of results in a step, at most.
    pub max_outputs: usize,
    /// Tokens in a sequence, at most.
    pub n_ctx: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Bytes that all pages and recurrent states may take: enough for one sequence of `n_ctx`
    /// tokens, or there is no decoder.
    pub kv_bytes_max: usize,
    /// Whether decoding may repack the weights.
    pub repack: bool,
}

/// Error of a decoder that cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecoderError {
    /// The file is no model that can be run.
    Model(ModelError),
    /// Worker threads could not be started.
    Threads(std::io::Error),
    /// The KV cache of one sequence does not fit its budget.
    Context(ContextTooLarge),
    /// The system has no memory for the buffers.
    Memory(OutOfMemory),
    /// A device beside the CPUs is not to be had.
    Device(DeviceError),
}

impl std::fmt::Display for DecoderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecoderError::Model(error) => error.fmt(f),
            DecoderError::Threads(error) => NoThreads(error).fmt(f),
            DecoderError::Context(error) => error.fmt(f),
            DecoderError::Memory(error) => error.fmt(f),
            DecoderError::Device(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecoderError {}

impl From<StartError> for DecoderError {
    fn from(error: StartError) -> DecoderError {
        match error {
            StartError::Threads(error) => DecoderError::Threads(error),
            StartError::Memory(error) => DecoderError::Memory(error),
            StartError::Device(error) => DecoderError::Device(error),
        }
    }
}

impl From<ModelError> for DecoderError {
    fn from(error: ModelError) -> DecoderError {
        DecoderError::Model(error)
    }
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct SequenceChunk<'a> {
    /// Sequence that the tokens belong to.
    pub sequence: SeqId,
    /// The tokens that follow what the sequence holds.
    pub tokens: &'a [u32],
    /// Tokens that want logits, or embeddings where the model gives those.
    pub outputs: Outputs,
}

/// Tokens of a [`SequenceChunk`] that want results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: a prompt that goes on.
    None,
    /// The first one.
    First,
    /// The last one.
    Last,
    /// Every one.
    All,
}

impl Outputs {
    /// Number of results that `n_tokens` tokens want.
    pub fn count(self, n_tokens: usize) -> usize {
        match self {
            Outputs::None => 0,
            Outputs::First | Outputs::Last => n_tokens.min(1),
            Outputs::All => n_tokens,
        }
    }
}

/// Error of a step that was not made. Sequences are as they were before then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// No room in the cache.
    Kv(KvError),
    /// A token id that the model does not have.
    TokenId {
        /// The id.
        id: u32,
        /// Number of tokens in the vocabulary.
        n_vocab: usize,
    },
    /// More tokens or results than [`DecoderOptions`] allow.
    BatchTooLarge {
        /// Tokens allowed.
        max_batch: usize,
        /// Rows of results allowed.
        max_outputs: usize,
    },
    /// A sequence is twice in the batch.
    SequenceTwice,
    /// More tokens for a sequence of a bidirectional model, whose first ones cannot see them.
    Continued,
    /// The caller's flag was set while the step was computed.
    Cancelled,
    /// The system has no memory for the step. A sequence whose states had been changed by then is
    /// cut back to where they are known.
    Memory(OutOfMemory),
    /// A device beside the CPUs is lost, or refused something; sequences are as for
    /// [`StepError::Memory`].
    Device(DeviceError),
    /// The same, and the CPUs have taken its part over. All sequences are empty now, and no prefix is kept:
    /// their tokens can be computed again.
    Moved(DeviceError),
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StepError::Kv(error) => error.fmt(f),
            StepError::TokenId { id, n_vocab } => {
                write!(f, "token id {id} is not in the vocabulary of {n_vocab} tokens")
            }
            StepError::BatchTooLarge { max_batch, max_outputs } => {
                write!(f, "a step takes {max_batch} tokens and gives {max_outputs} rows of logits")
            }
            StepError::SequenceTwice => write!(f, "a sequence is twice in the batch"),
            StepError::Continued => {
                write!(f, "the model sees texts whole: a text cannot be continued")
            }
            StepError::Cancelled => write!(f, "the step was cancelled"),
            StepError::Memory(error) => error.fmt(f),
            StepError::Device(error) | StepError::Moved(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StepError {}

impl From<Unfinished> for StepError {
    fn from(error: Unfinished) -> StepError {
        match error {
            Unfinished::Cancelled => StepError::Cancelled,
            Unfinished::Memory(error) => StepError::Memory(error),
            Unfinished::Device(error) => StepError::Device(error),
            Unfinished::Moved(error) => StepError::Moved(error),
        }
    }
}

impl From<KvError> for StepError {
    fn from(error: KvError) -> StepError {
        StepError::Kv(error)
    }
}

/// A model ready to compute.
pub struct Decoder {
    backend: Box<dyn Backend>,
    core: Core,
}

/// Part of a decoder that is no backend's.
struct Core {
    program: Arc<Program>,
    /// Ranges of the program's operations that are run one after the other.
    ranges: Vec<Range<usize>>,
    kv: PagePool,
    max_batch: usize,
    max_outputs: usize,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequence: Vec<u32>,
    outputs: Vec<u32>,
}

impl Decoder {
    /// Binds the tensors of `file` to the description and makes the buffers.
    ///
    /// # Errors
    /// The file is no model that can be run, threads could not be started, or there is no memory.
    pub fn new(
        file: &Arc<GgufFile>,
        spec: &ModelSpec,
        kernels: &'static KernelTable,
        options: &DecoderOptions,
    ) -> Result<Decoder, DecoderError> {
        let program = lower(file, spec, kernels, options.n_ctx)?;
        Decoder::of_program(program, spec, kernels, options)
    }

    /// A decoder that runs `program`, which [`lower`] made from the description.
    ///
    /// # Errors
    /// As [`Decoder::on`].
    pub fn of_program(
        program: Program,
        spec: &ModelSpec,
        kernels: &'static KernelTable,
        options: &DecoderOptions,
    ) -> Result<Decoder, DecoderError> {
        Decoder::on(program, spec, kernels, options, &backend::start)
    }

    /// [`Decoder::of_program`] on a backend that `start` makes.
    ///
    /// # Errors
    /// The context is longer than the model's, a token or a sequence takes too much memory, the
    /// context does not fit the budget of the cache, threads could not be started, there is no
    /// memory for the buffers, or a device is not to be had.
    pub fn on(
        program: Program,
        spec: &ModelSpec,
        kernels: &'static KernelTable,
        options: &DecoderOptions,
        start: &Start<'_>,
    ) -> Result<Decoder, DecoderError> {
        lower::check(&program)?;
        if let Some(n_ctx_max) = spec.n_ctx_max.filter(|&max| options.n_ctx > max) {
            return Err(ModelError::ContextTooLong { n_ctx: options.n_ctx, n_ctx_max }.into());
        }
        let state_len = program.states.iter().fold(0_usize, |sum, &len| sum.saturating_add(len));
        let bytes = state_len.saturating_mul(size_of::<f32>());
        if bytes > STATE_BYTES_MAX {
            return Err(ModelError::StateTooLarge { bytes }.into());
        }
        let bytes_per_token = program.bytes_per_token();
        if bytes_per_token > TOKEN_BYTES_MAX {
            return Err(ModelError::TooWide { bytes_per_token }.into());
        }
        let max_tokens = options.max_batch.min(STEP_BYTES_MAX / bytes_per_token.max(1)).max(1);
        new_kv(&program, options).check_context(max_tokens).map_err(DecoderError::Context)?;
        let backend_options = BackendOptions {
            threads: options.threads,
            cpus: options.cpus,
            kernels,
            max_tokens,
            max_outputs: options.max_outputs.clamp(1, max_tokens),
            n_ctx: options.n_ctx,
            kv_type: options.kv_type,
            repack: options.repack,
        };
        let backend = start(program, &backend_options)?;
        Ok(Decoder::with_backend(backend, options))
    }

    /// A decoder whose steps are computed by a backend that has its program already.
    pub fn with_backend(backend: Box<dyn Backend>, options: &DecoderOptions) -> Decoder {
        let program = backend.program().clone();
        let max_batch = backend.max_tokens();
        let core = Core {
            ranges: std::iter::once(0..program.ops.len()).collect(),
            kv: new_kv(&program, options),
            program,
            max_batch,
            max_outputs: backend.max_outputs(),
            tokens: Vec::with_capacity(max_batch),
            positions: Vec::with_capacity(max_batch),
            sequence: Vec::with_capacity(max_batch),
            outputs: Vec::with_capacity(max_batch),
        };
        Decoder { backend, core }
    }

    /// Runs the program in ranges from now on, the second and later ones from these operations on,
    /// which ascend. That changes no bit.
    pub fn cut_program(&mut self, at: &[usize]) {
        let end = self.core.program.ops.len();
        let starts = [0].into_iter().chain(at.iter().copied());
        let ends = at.iter().copied().chain([end]);
        self.core.ranges = starts.zip(ends).map(|(start, end)| start..end).collect();
    }

    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.core.program.n_vocab
    }

    /// Length of a row of results: of logits, or of the vectors that the model gives instead.
    pub fn n_out(&self) -> usize {
        self.core.program.n_out
    }

    /// Tokens that fit one step.
    pub fn max_batch(&self) -> usize {
        self.core.max_batch
    }

    /// Rows of results that one step can give.
    pub fn max_outputs(&self) -> usize {
        self.core.max_outputs
    }

    /// Number of worker threads.
    pub fn n_threads(&self) -> usize {
        self.backend.n_threads()
    }

    /// Bytes that the steps so far sent to a device beside the CPUs, and got back.
    pub fn transfers(&self) -> Transfers {
        self.backend.transfers()
    }

    /// Bytes per second that a device beside the CPUs copies in its memory, read and written ones; `None`:
    /// there is no device. It takes a fraction of a second.
    pub fn copy_bandwidth(&self) -> Option<f64> {
        self.backend.copy_bandwidth()
    }

    /// Which part of the program runs where; `None`: all of it on the CPUs.
    pub fn offload(&self) -> Option<Offload> {
        self.backend.offload()
    }

    /// Keeps in memory what was made of the weights.
    ///
    /// # Errors
    /// More than the process may lock.
    pub fn lock_weights(&self) -> std::io::Result<()> {
        self.backend.lock_weights()
    }

    /// Program that the steps run.
    pub fn program(&self) -> &Program {
        &self.core.program
    }

    /// The sequences.
    pub fn kv(&self) -> &PagePool {
        &self.core.kv
    }

    /// The sequences.
    pub fn kv_mut(&mut self) -> &mut PagePool {
        &mut self.core.kv
    }

    /// Runs `f` with all workers at hand: one gathering of the threads for as many steps as `f`
    /// makes.
    pub fn lead<R: Send>(&mut self, f: impl FnOnce(&mut Stepper<'_>) -> R + Send) -> R {
        let Decoder { backend, core } = self;
        let mut f = Some(f);
        let mut result = None;
        backend.lead(&mut |executor| {
            let f = f.take().expect("a backend gathers its workers once");
            result = Some(f(&mut Stepper { executor, core }));
        });
        result.expect("a backend calls what it is given")
    }
}

/// The cache of a program, empty.
fn new_kv(program: &Program, options: &DecoderOptions) -> PagePool {
    let &DecoderOptions { kv_type, n_ctx, kv_bytes_max, .. } = options;
    PagePool::new(&program.kv, &program.states, kv_type, n_ctx, kv_bytes_max)
}

/// A decoder whose workers are gathered: it makes steps.
pub struct Stepper<'a> {
    executor: &'a mut dyn Executor,
    core: &'a mut Core,
}

impl Stepper<'_> {
    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.core.program.n_vocab
    }

    /// Length of a row of results: of logits, or of the vectors that the model gives instead.
    pub fn n_out(&self) -> usize {
        self.core.program.n_out
    }

    /// Tokens that fit one step.
    pub fn max_batch(&self) -> usize {
        self.core.max_batch
    }

    /// Rows of results that one step can give.
    pub fn max_outputs(&self) -> usize {
        self.core.max_outputs
    }

    /// Bytes of weights that decoding has repacked so far, and that it will have in the end.
    pub fn repacked_bytes(&self) -> [usize; 2] {
        self.executor.repacked_bytes()
    }

    /// Program that the steps run.
    pub fn program(&self) -> &Program {
        &self.core.program
    }

    /// The sequences.
    pub fn kv(&self) -> &PagePool {
        &self.core.kv
    }

    /// The sequences.
    pub fn kv_mut(&mut self) -> &mut PagePool {
        &mut self.core.kv
    }

    /// Computes those of the tokens that a sequence, which begins with them, does not hold: after
    /// [`StepError::Moved`] all of them.
    ///
    /// # Errors
    /// A step is refused; those before it were made.
    pub fn catch_up(&mut self, sequence: SeqId, tokens: &[u32]) -> Result<(), StepError> {
        let max_batch = self.max_batch();
        let known = self.kv().len(sequence).min(tokens.len());
        for tokens in tokens[known..].chunks(max_batch) {
            self.step(&[SequenceChunk { sequence, tokens, outputs: Outputs::None }])?;
        }
        Ok(())
    }

    /// Feeds tokens to one or more sequences. Returns the results that were asked for, in the order
    /// of the chunks and their tokens, `[outputs][n_out]`.
    ///
    /// # Errors
    /// The step is refused; nothing has changed then.
    pub fn step(&mut self, chunks: &[SequenceChunk<'_>]) -> Result<&mut [f32], StepError> {
        self.run(chunks, false, None, None)?;
        let n = self.core.outputs.len() * self.core.program.n_out;
        Ok(&mut self.executor.results().rows[..n])
    }

    /// [`Stepper::step`] whose products an observer sees the inputs of: the same bits, and about a
    /// phase more for each operation that multiplies.
    ///
    /// # Errors
    /// The step is refused; nothing has changed then, and nothing was shown.
    pub fn step_observed(
        &mut self,
        chunks: &[SequenceChunk<'_>],
        observer: &mut dyn Observer,
    ) -> Result<&mut [f32], StepError> {
        self.run(chunks, false, None, Some(observer))?;
        let n = self.core.outputs.len() * self.core.program.n_out;
        Ok(&mut self.executor.results().rows[..n])
    }

    /// A [`Stepper::step`] that gives logits of which the largest are to be found: the workers take
    /// the maxima of blocks while those are in their caches. `cancel` ends the step within about
    /// one layer's time, as if it had not been made; where a model has recurrent states, only a
    /// step that is more than one token for each sequence, as a copy of the states is made for that.
    ///
    /// # Errors
    /// The step is refused or cancelled; nothing has changed then.
    ///
    /// # Panics
    /// If the model gives vectors.
    pub fn step_with_maxima<'s>(
        &'s mut self,
        chunks: &[SequenceChunk<'_>],
        cancel: Option<&AtomicBool>,
    ) -> Result<LogitRows<'s>, StepError> {
        assert!(self.program().gives_logits(), "maxima are of logits");
        self.run(chunks, true, cancel, None)?;
        let n = self.core.outputs.len();
        Ok(self.executor.results().with_maxima(n))
    }

    /// Makes a step, with or without maxima.
    fn run(
        &mut self,
        chunks: &[SequenceChunk<'_>],
        maxima: bool,
        cancel: Option<&AtomicBool>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<(), StepError> {
        let core = &mut *self.core;
        core.gather(chunks)?;
        let is_decode = chunks.iter().all(|chunk| chunk.tokens.len() <= 1);
        let can_undo = core.program.states.is_empty() || !is_decode;
        let cancel = cancel.filter(|_| can_undo && core.kv.make_restorable());
        let tables = chunks.iter().filter_map(|chunk| core.kv.table(chunk.sequence));
        let tables: Vec<&[_]> = tables.map(|table| &table[..]).collect();
        // A chunk without tokens may have no states, and none of the batch's tokens is of it.
        let none = StateSlot(u32::MAX);
        let states = chunks.iter().map(|chunk| core.kv.states(chunk.sequence).unwrap_or(none));
        let states: Vec<StateSlot> = states.collect();
        let input = StepInput {
            tokens: &core.tokens,
            positions: &core.positions,
            sequence: &core.sequence,
            tables: &tables,
            states: &states,
            fills: core.kv.fills(),
            outputs: &core.outputs,
            maxima,
        };
        if let Err(error) = self.executor.prepare(core.kv.ops(), &input) {
            core.kv.unreserve();
            return Err(self.broken_off(error));
        }
        if !core.tokens.is_empty() {
            for range in &core.ranges {
                let observer =
                    observer.as_deref_mut().map(|observer| observer as &mut dyn Observer);
                let ran = self.executor.run(range.clone(), &input, cancel, observer);
                let Err(error) = ran else { continue };
                let is_exact = core.kv.undo();
                let is_cancelled = error == Unfinished::Cancelled;
                debug_assert!(is_exact || !is_cancelled, "cancelled steps were made restorable");
                return Err(self.broken_off(error));
            }
        }
        core.kv.commit();
        Ok(())
    }

    /// The error of what the backend has not done. If pages are elsewhere now, what they held is forgotten.
    fn broken_off(&mut self, error: Unfinished) -> StepError {
        if matches!(error, Unfinished::Moved(_)) {
            self.core.kv.forget_all();
        }
        error.into()
    }
}

impl Core {
    /// Lays out the batch and takes pages for it.
    fn gather(&mut self, chunks: &[SequenceChunk<'_>]) -> Result<(), StepError> {
        self.tokens.clear();
        self.positions.clear();
        self.sequence.clear();
        self.outputs.clear();
        let n_vocab = self.program.n_vocab;
        for (i, chunk) in chunks.iter().enumerate() {
            if chunks[..i].iter().any(|other| other.sequence == chunk.sequence) {
                return Err(StepError::SequenceTwice);
            }
            let bad = chunk.tokens.iter().find(|&&id| id as usize >= n_vocab);
            if let Some(&id) = bad {
                return Err(StepError::TokenId { id, n_vocab });
            }
            let (start, first) = (self.kv.len(chunk.sequence), self.tokens.len());
            if start > 0 && self.program.bidirectional {
                return Err(StepError::Continued);
            }
            self.tokens.extend(chunk.tokens);
            self.positions.extend((start..start + chunk.tokens.len()).map(|p| p as u32));
            self.sequence.extend(chunk.tokens.iter().map(|_| i as u32));
            let end = self.tokens.len();
            let outputs = match chunk.outputs {
                Outputs::None => end..end,
                Outputs::First => first..end.min(first + 1),
                Outputs::Last => end.saturating_sub(1).max(first)..end,
                Outputs::All => first..end,
            };
            self.outputs.extend(outputs.map(|t| t as u32));
        }
        let (max_batch, max_outputs) = (self.max_batch, self.max_outputs);
        if self.tokens.len() > max_batch || self.outputs.len() > max_outputs {
            return Err(StepError::BatchTooLarge { max_batch, max_outputs });
        }
        let lens: Vec<_> =
            chunks.iter().map(|chunk| (chunk.sequence, chunk.tokens.len())).collect();
        Ok(self.kv.reserve(&lens)?)
    }
}
