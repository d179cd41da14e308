//! A loaded model that answers requests: prompt in, tokens out; or texts in, their vectors out.
//!
//! A [`Model`] is a file and its description, an [`Engine`] the threads and memory that run it. A
//! [`Scheduler`] has many requests share the steps of an engine; [`Engine::generate`] gives it one.
//! A [`Runner`] is a thread with an engine and a scheduler that takes requests from any other
//! thread, a [`Session`] a conversation of such requests.

mod batch;
#[cfg(feature = "chat-template")]
mod chat;
mod classifier;
mod draft;
mod draft_model;
mod embed;
mod error;
mod generate;
#[cfg(feature = "grammar")]
pub mod grammar;
mod guard;
mod model;
mod pace;
pub mod report;
mod report_offload;
mod request;
mod runner;
mod saved;
mod scheduler;
mod score;
mod session;
mod task;
mod vocabulary;

#[cfg(feature = "chat-template")]
pub use chat::Chat;
pub use draft::{DRAFT_MAX, Speculation};
pub use draft_model::{DraftModel, OtherVocabulary, VocabularyDifference};
pub use embed::normalize;
pub use error::EngineError;
pub use model::Model;
pub use pace::{STEP_BOUNDS, StepTimes};
pub use request::{CancelToken, FinishReason, Request, Stats, TokenEvent};
pub use runner::{Answer, AnswerEvent, Runner, Status};
pub use saved::{
    DISK_TOKENS_MIN, DiskCache, EXTRA_BYTES_MAX, LoadReport, LoadedSession, Part, SaveReport,
    SavedText, SessionFault, SessionFileError,
};
pub use scheduler::{ANSWERS_MAX, Counters, Listener, RUNNING_DEFAULT, Scheduler, WAITING_MAX};
pub use session::{Session, Turn};

use classifier::Classifier;
use saved::Origin;

use crate::backend::pages::KvType;
use crate::backend::{self, CpuSet, Start, available_bytes};
use crate::decoder::{Decoder, DecoderError, DecoderOptions, Stepper, adapt, lower_with};
use crate::tensor::memory;
use gguf_rs_lite::GgufFile;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Context in tokens when nobody says: long enough for a conversation, and a cache of this length
/// fits small machines.
pub const N_CTX_DEFAULT: usize = 4096;
/// Tokens of a prompt that are computed at a time when nobody says.
pub const BATCH_DEFAULT: usize = 512;

/// Bytes that the KV cache may take when nobody says and the system does not tell its memory: half
/// of what a small computer has.
pub const KV_BYTES_DEFAULT: usize = 2 << 30;
/// The KV cache may take this share of the memory that is available: the weights are mapped from
/// their file, and repacked ones take their share, too.
const AVAILABLE_SHARE: usize = 2;

/// Choices that are made when a model is made ready. The default serves one request at a time; its
/// fields are set one by one:
///
/// ```
/// let mut options = teff::EngineOptions::default();
/// options.n_ctx = Some(8192);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Worker threads; `None`: the big cores that this process may run on.
    pub threads: Option<usize>,
    /// CPUs that get a worker each, which stays there, instead of `threads` that the system moves.
    pub cpus: Option<CpuSet>,
    /// Tokens in a sequence; `None`: the model's, at most [`N_CTX_DEFAULT`] and what the budget of
    /// the KV cache holds.
    pub n_ctx: Option<usize>,
    /// Tokens computed at a time, at most. A bidirectional model computes whole texts at a time: a
    /// context's length if that is more.
    pub max_batch: usize,
    /// Rows of logits in a step, at most: as many requests can generate at a time. Vectors have no
    /// such bound.
    pub max_outputs: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Bytes that the KV cache may take, recurrent states and prefixes that are kept included;
    /// `None`: half of the memory that is available, or [`KV_BYTES_DEFAULT`] where the system does
    /// not tell that.
    pub kv_bytes_max: Option<usize>,
    /// Whether decoding may interleave the weights, which takes as much memory as they have but
    /// gives that of the file's pages back.
    pub repack: bool,
    /// Tokens of prompts in a step of a runner beside requests that generate, at most; `None`: so many,
    /// from 16 to 512, that by the clock such a step takes a tenth of a second. No result depends on it.
    pub prompt_tokens_beside: Option<usize>,
    /// Kernels of the CPU.
    pub kernels: &'static KernelTable,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            threads: None,
            cpus: None,
            n_ctx: None,
            max_batch: BATCH_DEFAULT,
            max_outputs: 1,
            kv_type: KvType::F16,
            kv_bytes_max: None,
            repack: true,
            prompt_tokens_beside: None,
            kernels: KernelTable::detect(),
        }
    }
}

/// A model with the threads and buffers to run it.
pub struct Engine {
    decoder: Decoder,
    classifier: Option<Arc<Classifier>>,
    origin: Arc<Origin>,
    prompt_tokens_beside: Option<usize>,
    draft: Option<DraftModel>,
}

impl Engine {
    /// Binds the model's tensors and starts the threads.
    ///
    /// # Errors
    /// [`EngineError::Model`] if a tensor is missing, has another shape than the metadata says or no
    /// place in the description; the same for tensors of adapters. [`EngineError::Context`] if keys
    /// and values of [`EngineOptions::n_ctx`] tokens exceed their budget, [`EngineError::Memory`] if
    /// the system refuses a buffer, and [`EngineError::Threads`] if it refuses a thread.
    pub fn new(model: &Model, options: &EngineOptions) -> Result<Engine, EngineError> {
        Engine::on(model, options, &backend::start)
    }

    /// [`Engine::new`] on a backend that `start` makes, as
    /// [`start_placed`](crate::backend::start_placed) with layers on a GPU.
    ///
    /// # Errors
    /// As [`Engine::new`]; and [`EngineError::Device`] if a device is not to be had.
    pub fn on(
        model: &Model,
        options: &EngineOptions,
        start: &Start<'_>,
    ) -> Result<Engine, EngineError> {
        read_ahead(&model.file);
        let n_ctx = options.n_ctx.unwrap_or_else(|| model.spec.n_ctx_default(N_CTX_DEFAULT)).max(1);
        let kv_bytes_max = options.kv_bytes_max.unwrap_or_else(|| {
            available_bytes().map_or(KV_BYTES_DEFAULT, |bytes| bytes / AVAILABLE_SHARE)
        });
        let decoder =
            match (make_decoder(model, options, n_ctx, kv_bytes_max, start), options.n_ctx) {
                // Nobody asked for so long a context.
                (Err(EngineError::Context(error)), None) if error.n_ctx_fitting > 0 => {
                    make_decoder(model, options, error.n_ctx_fitting, kv_bytes_max, start)?
                }
                (decoder, _) => decoder?,
            };
        let named = |error| EngineError::Model { path: model.path.clone(), error };
        let gives_logits = model.spec.head.logits;
        let classifier = match &model.spec.head.classifier {
            Some(spec) if !gives_logits => {
                Classifier::read(&model.file, spec, &model.spec, options.kernels).map_err(named)?
            }
            _ => None,
        };
        let origin = Arc::new(Origin::new(model, options, &decoder));
        Ok(Engine {
            decoder,
            classifier: classifier.map(Arc::new),
            origin,
            prompt_tokens_beside: options.prompt_tokens_beside,
            draft: None,
        })
    }

    /// Length of the context in tokens.
    pub fn n_ctx(&self) -> usize {
        self.decoder.kv().n_ctx()
    }

    /// Has drafts made by a model, not of the text so far, for requests that want drafts (see
    /// [`Request::speculation`]). It must have been made for this engine's model.
    pub fn set_draft_model(&mut self, draft: DraftModel) {
        self.draft = Some(draft);
    }

    /// Number of worker threads.
    pub fn n_threads(&self) -> usize {
        self.decoder.n_threads()
    }

    /// Keeps the weights in memory: those of the model's file, and what is made of them.
    ///
    /// # Errors
    /// More than the process may lock.
    pub fn lock_weights(&self, model: &Model) -> std::io::Result<()> {
        model.file.lock()?;
        self.decoder.lock_weights()
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Runs `f` with all workers at hand, see [`Decoder::lead`].
    pub fn lead<R: Send>(&mut self, f: impl FnOnce(&mut Stepper<'_>) -> R + Send) -> R {
        self.decoder.lead(f)
    }
}

/// Lowers a model for sequences of `n_ctx` tokens, and starts the threads that run it.
fn make_decoder(
    model: &Model,
    options: &EngineOptions,
    n_ctx: usize,
    kv_bytes_max: usize,
    start: &Start<'_>,
) -> Result<Decoder, EngineError> {
    let gives_logits = model.spec.head.logits;
    let max_batch = match (model.spec.bidirectional, gives_logits) {
        (true, _) => options.max_batch.max(n_ctx),
        // Several texts may share a step.
        (false, false) => options.max_batch.max(1),
        (false, true) => options.max_batch.min(n_ctx).max(1),
    };
    let decoder_options = DecoderOptions {
        threads: options.threads,
        cpus: options.cpus,
        max_batch,
        max_outputs: if gives_logits { options.max_outputs } else { max_batch },
        n_ctx,
        kv_type: options.kv_type,
        kv_bytes_max,
        repack: options.repack,
    };
    let named = |error| EngineError::Model { path: model.path.clone(), error };
    let mut program = lower_with(&model.file, &model.replaced, &model.spec, options.kernels, n_ctx)
        .map_err(named)?;
    adapt(&mut program, &model.adapters, options.kernels).map_err(|(number, error)| {
        EngineError::Model { path: model.adapter_paths[number].clone(), error }
    })?;
    let (spec, kernels) = (&model.spec, options.kernels);
    let decoder = Decoder::on(program, spec, kernels, &decoder_options, start);
    decoder.map_err(|error| match error {
        DecoderError::Model(error) => named(error),
        DecoderError::Threads(error) => EngineError::Threads(error),
        DecoderError::Context(error) => EngineError::Context(error),
        DecoderError::Memory(error) => EngineError::Memory(error),
        DecoderError::Device(error) => EngineError::Device(error),
    })
}

/// Asks for the file's pages before the first step touches them one by one. For a large file the
/// system takes its time over the request itself, so a thread of its own makes it; a file that
/// does not fit the memory is better read as it is needed.
fn read_ahead(file: &Arc<GgufFile>) {
    if available_bytes().is_some_and(|bytes| file.total_bytes() <= bytes as u64) {
        let file = file.clone();
        // Without the thread loading is slower, no more.
        let _ = memory::spawn("teff-read-ahead", move || file.advise_willneed());
    }
}
