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
mod generate;
#[cfg(feature = "grammar")]
pub mod grammar;
mod guard;
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
use crate::backend::{self, CpuSet, DeviceError, Start, available_bytes};
use crate::decoder::{
    Decoder, DecoderError, DecoderOptions, StepError, Stepper, adapt, lower_with,
};
use crate::kv::ContextTooLarge;
use crate::model::{Adapter, Hparams, ModelError, ModelSpec, arch};
use crate::sample::{LOGPROBS_MAX, SampleError};
use crate::tensor::Weight;
use crate::tensor::memory::{self, OutOfMemory};
use crate::text::{StopError, TextError, Tokenizer};
use gguf_rs_lite::GgufFile;
use std::fmt;
use std::path::{Path, PathBuf};
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
    /// How keys and values are stored.
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
    /// Which kernels to use.
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

/// Why a model cannot be loaded or a request not answered.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The file is no GGUF file.
    File(gguf_rs_lite::Error),
    /// The file is no model that can be run.
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ModelError,
    },
    /// The file's vocabulary cannot be used.
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TextError,
    },
    /// Worker threads could not be started.
    Threads(std::io::Error),
    /// The KV cache of a context does not fit its budget.
    Context(ContextTooLarge),
    /// The system has no memory for a buffer.
    Memory(OutOfMemory),
    /// A device beside the CPUs is not to be had.
    Device(DeviceError),
    /// A step was refused.
    Step(StepError),
    /// A token could not be drawn.
    Sample(SampleError),
    /// Stop strings are refused.
    Stop(StopError),
    /// Stop strings without a tokenizer, which gives the text that they are looked for in.
    NoTokenizer,
    /// More of the likeliest tokens are wanted than [`LOGPROBS_MAX`].
    TooManyLogprobs {
        /// Number of tokens.
        n_top: usize,
    },
    /// More answers to one prompt are wanted than [`ANSWERS_MAX`].
    TooManyAnswers {
        /// Number of answers.
        n: usize,
    },
    /// [`WAITING_MAX`] requests wait already.
    Busy,
    /// The thread that answers requests has ended.
    Stopped,
    /// The request's own work panicked: its sampler, its listener, or a step with its tokens alone.
    Panicked {
        /// Message of the panic.
        message: String,
    },
    /// A request without a token.
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    PromptTooLong {
        /// Tokens in the prompt.
        n_prompt: usize,
        /// Tokens in the context.
        n_ctx: usize,
    },
    /// A request to a model that gives no next token.
    NoLogits,
    /// Texts for a model that is not in embedding mode, see [`Model::output_embeddings`].
    NoEmbeddings,
    /// A draft model has another vocabulary than the model that it is to draft for.
    OtherVocabulary(Box<OtherVocabulary>),
    /// Scores are wanted of a model without a classifier.
    NoClassifier,
    /// A text without a token.
    EmptyText {
        /// Which one, from 0.
        text: usize,
    },
    /// A text that the model cannot see whole.
    TextTooLong {
        /// Which one, from 0.
        text: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Tokens that a text may have.
        max: usize,
    },
    /// A text whose vectors are infinite or no numbers.
    NotFinite {
        /// Which one, from 0.
        text: usize,
    },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::File(error) => error.fmt(f),
            EngineError::Model { path, error } => write!(f, "{}: {error}", path.display()),
            EngineError::Text { path, error } => write!(f, "{}: {error}", path.display()),
            EngineError::Threads(error) => memory::NoThreads(error).fmt(f),
            EngineError::Context(error) => error.fmt(f),
            EngineError::Memory(error) => error.fmt(f),
            EngineError::Device(error) => error.fmt(f),
            EngineError::Step(error) => error.fmt(f),
            EngineError::Sample(error) => error.fmt(f),
            EngineError::Stop(error) => error.fmt(f),
            EngineError::NoTokenizer => {
                write!(f, "stop strings need the text of tokens, and there is no tokenizer")
            }
            EngineError::TooManyLogprobs { n_top } => {
                write!(f, "{n_top} likeliest tokens are more than the {LOGPROBS_MAX} allowed")
            }
            EngineError::TooManyAnswers { n } => {
                write!(f, "{n} answers to a prompt are more than the {ANSWERS_MAX} allowed")
            }
            EngineError::Busy => write!(f, "{WAITING_MAX} requests are waiting already"),
            EngineError::Stopped => write!(f, "the thread that answers requests has ended"),
            EngineError::Panicked { message } => write!(f, "the request panicked: {message}"),
            EngineError::EmptyPrompt => write!(f, "the prompt is empty"),
            EngineError::PromptTooLong { n_prompt, n_ctx } => {
                write!(f, "the prompt has {n_prompt} tokens and the context holds {n_ctx}")
            }
            EngineError::NoLogits => {
                write!(f, "the model is an encoder, which gives no next token")
            }
            EngineError::NoEmbeddings => {
                write!(f, "the model was loaded to give logits, not embeddings")
            }
            EngineError::OtherVocabulary(error) => error.fmt(f),
            EngineError::NoClassifier => {
                write!(
                    f,
                    "the model is no reranker: it has no tensor `cls.weight` or `cls.output.weight`"
                )
            }
            EngineError::EmptyText { text } => write!(f, "text {} has no token", text + 1),
            EngineError::TextTooLong { text, n_tokens, max } => write!(
                f,
                "text {} has {n_tokens} tokens, more than the {max} that a text may have",
                text + 1
            ),
            EngineError::NotFinite { text } => {
                write!(f, "text {} gives vectors that are no finite numbers", text + 1)
            }
        }
    }
}

impl std::error::Error for EngineError {}

impl EngineError {
    /// The same of texts that come after `n` others.
    pub fn after_texts(mut self, n: usize) -> EngineError {
        if let EngineError::EmptyText { text }
        | EngineError::TextTooLong { text, .. }
        | EngineError::NotFinite { text } = &mut self
        {
            *text += n;
        }
        self
    }
}

impl From<StepError> for EngineError {
    fn from(error: StepError) -> EngineError {
        EngineError::Step(error)
    }
}

/// A file and its description, and the adapters that change it.
pub struct Model {
    file: Arc<GgufFile>,
    spec: ModelSpec,
    path: PathBuf,
    /// Weights in place of the file's tensors of their names.
    replaced: Vec<Weight>,
    adapters: Vec<Adapter>,
    /// Of the adapters.
    adapter_paths: Vec<PathBuf>,
}

impl Model {
    /// Opens a GGUF file and reads what its metadata describes. Tensors are bound by
    /// [`Engine::new`]. Those of a big-endian file are turned around, which takes as much memory as
    /// the file has bytes.
    ///
    /// # Errors
    /// [`EngineError::File`] if the file cannot be read, is no GGUF file, or is to be turned around
    /// and the memory for that is refused. [`EngineError::Model`] if its architecture is unknown, or
    /// a key of it is missing, unknown or has a value that cannot be.
    pub fn open(path: &Path) -> Result<Model, EngineError> {
        let mut file = GgufFile::open(path).map_err(EngineError::File)?;
        memory::ask(|| file.make_little_endian()).map_err(EngineError::File)?;
        Model::from_file(Arc::new(file), path)
    }

    /// The model of a file that is open already; `path` is for messages. Its tensors must be
    /// little-endian: [`GgufFile::make_little_endian`].
    ///
    /// # Errors
    /// [`EngineError::Model`] if the architecture is unknown, or a key of it is missing, unknown or
    /// has a value that cannot be.
    pub fn from_file(file: Arc<GgufFile>, path: &Path) -> Result<Model, EngineError> {
        let named = |error| EngineError::Model { path: path.to_path_buf(), error };
        let h = Hparams::new(&file).map_err(named)?;
        let spec = arch::spec(&h).map_err(named)?;
        let (adapters, adapter_paths) = (Vec::new(), Vec::new());
        let replaced = Vec::new();
        Ok(Model { spec, path: path.to_path_buf(), file, replaced, adapters, adapter_paths })
    }

    /// Gives engines that are made from now on these weights in place of the file's tensors of their
    /// names, and the file's own in place of those that were given before.
    pub fn replace_weights(&mut self, weights: Vec<Weight>) {
        self.replaced = weights;
    }

    /// Adds a LoRA adapter, times `scale`; `path` is for messages. Its tensors are bound by
    /// [`Engine::new`].
    ///
    /// # Errors
    /// The file is no adapter, or one for another architecture.
    pub fn add_adapter(
        &mut self,
        mut file: GgufFile,
        path: &Path,
        scale: f32,
    ) -> Result<(), EngineError> {
        memory::ask(|| file.make_little_endian()).map_err(EngineError::File)?;
        let path = path.to_path_buf();
        let architecture = self.file.get("general.architecture").and_then(|value| value.as_str());
        match Adapter::new(Arc::new(file), architecture.unwrap_or_default(), scale) {
            Ok(adapter) => self.adapters.push(adapter),
            Err(error) => return Err(EngineError::Model { path, error }),
        }
        self.adapter_paths.push(path);
        Ok(())
    }

    /// Switches to embedding mode: engines made from now on give embeddings of texts in place of
    /// logits.
    pub fn output_embeddings(&mut self) {
        self.spec.head.logits = false;
    }

    /// The file.
    pub fn file(&self) -> &Arc<GgufFile> {
        &self.file
    }

    /// The description.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's vocabulary.
    ///
    /// # Errors
    /// [`EngineError::Text`] if the file has no vocabulary, or one that cannot be used.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        Tokenizer::from_gguf(&self.file)
            .map_err(|error| EngineError::Text { path: self.path.clone(), error })
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
