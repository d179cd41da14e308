//! The one transformer: a model's description and weights lowered to a program, and the steps that
//! run it over sequences in the paged KV cache.
//!
//! What computes the steps is a [`Backend`]. Its workers are gathered for as many steps as the
//! caller makes: [`Decoder::lead`] hands out a [`Stepper`].

mod error;
mod ffn;
mod kept;
mod lora;
mod lower;
mod mixer;
mod stepper;
mod streams;

pub use error::{DecoderError, StepError};
pub use kept::KeptBytes;
pub use lora::adapt;
pub use lower::{ModelPart, lower, lower_part, lower_with};
pub use stepper::Stepper;

use crate::backend::pages::KvType;
use crate::backend::program::Program;
use crate::backend::{self, Backend, BackendOptions, CpuSet, Offload, Start, Transfers};
use crate::kv::{PagePool, SeqId};
use crate::model::{LENGTH_MAX, ModelError, ModelSpec};
use gguf_rs_lite::GgufFile;
use std::ops::Range;
use std::sync::Arc;
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

    /// Parts of the program with their places; `None`: all of it is on the CPUs.
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
