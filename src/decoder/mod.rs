//! The one transformer: a model's description and weights lowered to a program, and the steps that
//! run it over sequences in the paged KV cache.

mod ffn;
mod lora;
mod lower;
mod mixer;
mod streams;

pub use lora::adapt;
pub use lower::lower;

use crate::backend::cpu::pool::{self, Leader};
use crate::backend::cpu::{CpuBackend, StepInput};
use crate::backend::pages::KvType;
use crate::backend::program::Program;
use crate::backend::recurrent::States;
use crate::kv::{KvError, PagePool, SeqId};
use crate::model::{LENGTH_MAX, ModelError, ModelSpec};
use gguf_rs_lite::GgufFile;
use std::sync::Arc;
use teff_kernels::{BlockMax, KernelTable};

/// What the activations of a step may take; larger steps are cut.
const STEP_BYTES_MAX: usize = 1 << 30;
/// What one token's activations may take: a hundred times what the largest models need.
const TOKEN_BYTES_MAX: usize = 16 << 20;

/// What the recurrent states of a sequence may take: ten times what the largest models need.
const STATE_BYTES_MAX: usize = 2 << 30;

/// The pool takes every cell that these limits allow, be it a matrix of the longest lengths in F32
/// or all that a step computes.
const _: () = {
    assert!(4 * (LENGTH_MAX as u64).pow(2) <= pool::LEN_MAX);
    assert!(STEP_BYTES_MAX as u64 <= pool::LEN_MAX);
};

/// Sizes that are fixed when a decoder is made.
#[derive(Clone, Copy, Debug)]
pub struct DecoderOptions {
    /// Workers in a team, at most.
    pub max_threads: usize,
    /// Tokens in a step, at most.
    pub max_batch: usize,
    /// Rows of results in a step, at most.
    pub max_outputs: usize,
    /// Tokens in a sequence, at most.
    pub n_ctx: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Bytes that all pages of the KV cache may take.
    pub kv_bytes_max: usize,
    /// Whether decoding may interleave the weights.
    pub repack: bool,
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Whose they are.
    pub sequence: SeqId,
    /// The tokens that follow what the sequence holds.
    pub tokens: &'a [u32],
    /// Which of them want logits, or their vectors where the model gives those.
    pub logits: Logits,
}

/// Which tokens of a [`Run`] want results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: a prompt that goes on.
    None,
    /// The first one.
    First,
    /// The last one.
    Last,
    /// Every one.
    All,
}

impl Logits {
    /// How many of `n_tokens` tokens want results.
    pub fn count(self, n_tokens: usize) -> usize {
        match self {
            Logits::None => 0,
            Logits::First | Logits::Last => n_tokens.min(1),
            Logits::All => n_tokens,
        }
    }
}

/// Why a step was not made. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        }
    }
}

impl std::error::Error for StepError {}

impl From<KvError> for StepError {
    fn from(error: KvError) -> StepError {
        StepError::Kv(error)
    }
}

/// A model ready to compute.
pub struct Decoder {
    backend: CpuBackend,
    kv: PagePool,
    n_vocab: usize,
    n_out: usize,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequence: Vec<u32>,
    outputs: Vec<u32>,
}

impl Decoder {
    /// Binds the tensors of `file` to the description and makes the buffers.
    pub fn new(
        file: &Arc<GgufFile>,
        spec: &ModelSpec,
        kernels: &'static KernelTable,
        options: &DecoderOptions,
    ) -> Result<Decoder, ModelError> {
        let program = lower(file, spec, kernels, options.n_ctx)?;
        Decoder::of_program(program, spec, kernels, options)
    }

    /// A decoder that runs `program`, which [`lower`] made from the description.
    pub fn of_program(
        program: Program,
        spec: &ModelSpec,
        kernels: &'static KernelTable,
        options: &DecoderOptions,
    ) -> Result<Decoder, ModelError> {
        if let Some(n_ctx_max) = spec.n_ctx_max.filter(|&max| options.n_ctx > max) {
            return Err(ModelError::ContextTooLong { n_ctx: options.n_ctx, n_ctx_max });
        }
        let state_len = program.states.iter().fold(0_usize, |sum, &len| sum.saturating_add(len));
        let bytes = state_len.saturating_mul(size_of::<f32>());
        if bytes > STATE_BYTES_MAX {
            return Err(ModelError::StateTooLarge { bytes });
        }
        let kv =
            PagePool::new(program.kv.clone(), options.kv_type, options.n_ctx, options.kv_bytes_max)
                .with_states(program.states.clone());
        let bytes_per_token = program.bytes_per_token();
        if bytes_per_token > TOKEN_BYTES_MAX {
            return Err(ModelError::TooWide { bytes_per_token });
        }
        let max_batch = options.max_batch.min(STEP_BYTES_MAX / bytes_per_token.max(1)).max(1);
        let backend = CpuBackend::new(
            kernels,
            program,
            max_batch,
            options.max_outputs.clamp(1, max_batch),
            options.max_threads,
            options.repack,
        );
        Ok(Decoder {
            n_vocab: backend.program().n_vocab,
            n_out: backend.program().n_out,
            backend,
            kv,
            tokens: Vec::with_capacity(max_batch),
            positions: Vec::with_capacity(max_batch),
            sequence: Vec::with_capacity(max_batch),
            outputs: Vec::with_capacity(max_batch),
        })
    }

    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Length of a row of results: of logits, or of the vectors that the model gives instead.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Tokens that fit one step.
    pub fn max_batch(&self) -> usize {
        self.backend.max_tokens()
    }

    /// Rows of results that one step can give.
    pub fn max_outputs(&self) -> usize {
        self.backend.max_outputs()
    }

    /// Bytes of weights that decoding has interleaved so far, and that it will have in the end.
    pub fn interleaved_bytes(&self) -> [usize; 2] {
        self.backend.interleaved_bytes()
    }

    /// Keeps the interleaved weights in memory.
    ///
    /// # Errors
    /// More than the process may lock.
    pub fn lock_weights(&self) -> std::io::Result<()> {
        self.backend.lock_weights()
    }

    /// What the steps run.
    pub fn program(&self) -> &Program {
        self.backend.program()
    }

    /// The sequences.
    pub fn kv(&self) -> &PagePool {
        &self.kv
    }

    /// The sequences.
    pub fn kv_mut(&mut self) -> &mut PagePool {
        &mut self.kv
    }

    /// Feeds tokens to one or more sequences. Returns the results that were asked for, in the order
    /// of the runs and their tokens, `[outputs][n_out]`.
    pub fn step(&mut self, leader: &Leader<'_>, runs: &[Run<'_>]) -> Result<&mut [f32], StepError> {
        self.run(leader, runs, false)?;
        let n = self.outputs.len() * self.n_out;
        Ok(&mut self.backend.results_mut()[..n])
    }

    /// As [`Decoder::step`], for logits of which the largest are to be found: the workers take the
    /// maxima of blocks while those are in their caches.
    ///
    /// # Panics
    /// If the model gives vectors.
    pub fn step_with_maxima<'a>(
        &'a mut self,
        leader: &Leader<'_>,
        runs: &[Run<'_>],
    ) -> Result<impl Iterator<Item = BlockMax<'a>> + use<'a>, StepError> {
        assert!(self.program().gives_logits(), "maxima are of logits");
        self.run(leader, runs, true)?;
        let n = self.outputs.len();
        Ok(self.backend.results_with_maxima().take(n))
    }

    /// Makes a step, with or without maxima.
    fn run(
        &mut self,
        leader: &Leader<'_>,
        runs: &[Run<'_>],
        maxima: bool,
    ) -> Result<(), StepError> {
        self.gather(runs)?;
        let tables = runs.iter().filter_map(|run| self.kv.table(run.sequence));
        let tables: Vec<&[_]> = tables.map(|table| &table[..]).collect();
        let states = runs.iter().filter_map(|run| self.kv.states(run.sequence));
        let states: Vec<&States> = states.collect();
        let input = StepInput {
            tokens: &self.tokens,
            positions: &self.positions,
            sequence: &self.sequence,
            tables: &tables,
            states: &states,
            outputs: &self.outputs,
            maxima,
        };
        if !self.tokens.is_empty() {
            self.backend.run(leader, self.kv.arena(), &input);
        }
        for run in runs {
            self.kv.commit(run.sequence);
        }
        Ok(())
    }

    /// Lays out the batch and takes pages for it.
    fn gather(&mut self, runs: &[Run<'_>]) -> Result<(), StepError> {
        self.tokens.clear();
        self.positions.clear();
        self.sequence.clear();
        self.outputs.clear();
        for (i, run) in runs.iter().enumerate() {
            if runs[..i].iter().any(|other| other.sequence == run.sequence) {
                return Err(StepError::SequenceTwice);
            }
            let bad = run.tokens.iter().find(|&&id| id as usize >= self.n_vocab);
            if let Some(&id) = bad {
                return Err(StepError::TokenId { id, n_vocab: self.n_vocab });
            }
            let (start, first) = (self.kv.len(run.sequence), self.tokens.len());
            if start > 0 && self.program().bidirectional {
                return Err(StepError::Continued);
            }
            self.tokens.extend(run.tokens);
            self.positions.extend((start..start + run.tokens.len()).map(|p| p as u32));
            self.sequence.extend(run.tokens.iter().map(|_| i as u32));
            let end = self.tokens.len();
            let outputs = match run.logits {
                Logits::None => end..end,
                Logits::First => first..end.min(first + 1),
                Logits::Last => end.saturating_sub(1).max(first)..end,
                Logits::All => first..end,
            };
            self.outputs.extend(outputs.map(|t| t as u32));
        }
        let (max_batch, max_outputs) = (self.max_batch(), self.max_outputs());
        if self.tokens.len() > max_batch || self.outputs.len() > max_outputs {
            return Err(StepError::BatchTooLarge { max_batch, max_outputs });
        }
        let mut first = 0;
        for (i, run) in runs.iter().enumerate() {
            if let Err(error) = self.kv.reserve(run.sequence, run.tokens.len(), first) {
                runs[..i].iter().for_each(|run| self.kv.unreserve(run.sequence));
                return Err(error.into());
            }
            first += run.tokens.len();
        }
        Ok(())
    }
}
