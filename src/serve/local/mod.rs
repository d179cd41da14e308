//! The APIs without a server: bodies of requests as OpenAI's clients write them, answered on the caller's
//! thread. Bindings to other languages are made of it.
//!
//! A request is checked and made ready by the same code as one that came over HTTP, so it may say the same
//! and is refused in the same words. Nothing here is async, and nothing waits for a runtime: an answer is an
//! iterator that waits for the engine's thread.

mod answer;
mod options;

pub use answer::{LocalAnswer, LocalEvent};
pub use options::LocalOptions;

use super::body::Fields;
use super::fault::Fault;
use super::generate::{Wish, prepared};
use super::loaded::Loaded;
use super::openai::{self, CHAT, Common};
use crate::engine::{CancelToken, DraftModel, Engine, EngineError, Model, Runner};
use crate::text::builtin_names;
use serde_json::Value as Json;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocalError {
    /// The request or an option is wrong.
    Request {
        /// The field at fault, as `messages[0].role`, if it is one.
        field: Option<String>,
        /// For people; it names the field.
        message: String,
    },
    /// The model cannot be loaded, or an answer failed.
    Failed {
        /// For people.
        message: String,
    },
    /// The answer was cancelled.
    Cancelled,
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalError::Request { message, .. } | LocalError::Failed { message } => {
                f.write_str(message)
            }
            LocalError::Cancelled => f.write_str("the answer was cancelled"),
        }
    }
}

impl std::error::Error for LocalError {}

impl From<Fault> for LocalError {
    fn from(fault: Fault) -> LocalError {
        match fault.status.is_client_error() {
            true => LocalError::Request { field: fault.param, message: fault.message },
            false => LocalError::Failed { message: fault.message },
        }
    }
}

impl From<EngineError> for LocalError {
    fn from(error: EngineError) -> LocalError {
        LocalError::Failed { message: error.to_string() }
    }
}

/// A model that answers requests from any thread, many at a time. A clone is another handle of it; when the
/// last one and all its answers are gone, what is under way is cancelled and the memory given back.
#[derive(Clone)]
pub struct Local {
    loaded: Arc<Loaded>,
}

impl Local {
    /// Loads a model and starts its engine; one that only reads texts gives vectors alone.
    ///
    /// # Errors
    /// The file is no model that can be run, or there is no memory for it.
    pub fn open(path: &Path, options: LocalOptions) -> Result<Local, LocalError> {
        let model = Model::open(path)?;
        let tokenizer = Arc::new(model.tokenizer()?);
        let LocalOptions { engine: mut engine_options, mut model_options, parallel, draft } =
            options;
        engine_options.max_outputs = engine_options.max_outputs.max(parallel);
        let file_says = crate::sample::SampleParams::of_file(model.file(), |_| false);
        model_options.sampling =
            file_says.map_err(|error| LocalError::Failed { message: error.to_string() })?;
        model_options.encoder = Some(options::encoder(&engine_options));
        if !model.spec().generates() {
            let n_ctx = engine_options.n_ctx.unwrap_or(model.spec().n_ctx_train);
            let loaded = Loaded::new(model, tokenizer, None, (n_ctx, 0), model_options);
            loaded.encoder()?;
            return Ok(Local { loaded: Arc::new(loaded) });
        }
        let mut engine = Engine::new(&model, &engine_options)?;
        if let Some(path) = draft {
            engine_options.n_ctx = Some(engine.n_ctx());
            let draft = Model::open(&path)?;
            engine.set_draft_model(DraftModel::new(&draft, &model, &tokenizer, &engine_options)?);
        }
        let sizes = (engine.n_ctx(), engine.decoder().kv().kv_bytes_max());
        let runner = Runner::start(engine, Some(tokenizer.clone()), parallel)?;
        let loaded = Loaded::new(model, tokenizer, Some(runner), sizes, model_options);
        // A template that does not parse is told now, not at the first request.
        loaded.prompter()?;
        Ok(Local { loaded: Arc::new(loaded) })
    }

    /// Length of the context in tokens.
    pub fn n_ctx(&self) -> usize {
        self.loaded.n_ctx
    }

    /// Answers a conversation: the body is that of `POST /v1/chat/completions`, but for `n` and `stream`.
    ///
    /// # Errors
    /// A field is wrong, or the model has no chat template.
    pub fn chat(&self, body: Fields, cancel: &CancelToken) -> Result<LocalAnswer, LocalError> {
        let fields = checked(CHAT.checked(body)?)?;
        let common = Common::of(&fields)?;
        let wish = openai::chat_wish(&common, &fields, &self.loaded)?;
        if !self.loaded.prompter()?.has_template() {
            let problem = format!(
                "the model has no chat template, as models that only continue texts; the option \
                 `chat_template` takes the source of one, or one of {}",
                builtin_names()
            );
            return Err(Fault::field("messages", problem).into());
        }
        self.start(wish, openai::chat_whole, cancel)
    }

    /// Continues a text: the body is that of `POST /v1/completions` with one prompt, but for `n`, `stream` and
    /// `echo`.
    ///
    /// # Errors
    /// A field is wrong.
    pub fn complete(&self, body: Fields, cancel: &CancelToken) -> Result<LocalAnswer, LocalError> {
        let fields = checked(openai::completions::BODY.checked(body)?)?;
        if fields.get("echo").is_some_and(|echo| echo == true) {
            return Err(Fault::field("echo", "is not to be had without a server").into());
        }
        let common = Common::of(&fields)?;
        let mut wishes = openai::completions::wishes(&common, &fields, &self.loaded, false)?;
        match (wishes.pop(), wishes.is_empty()) {
            (Some(wish), true) => self.start(wish, openai::completions::whole_one, cancel),
            _ => Err(Fault::field("prompt", "must be one text, or the tokens of one").into()),
        }
    }

    /// Vectors of unit length of texts. Cost: the first call makes an engine for them.
    ///
    /// # Errors
    /// A text is empty or longer than the model can see, or there is no memory for the engine.
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, LocalError> {
        let tokens = openai::embeddings::tokens(&self.loaded, &Json::from(texts.to_vec()));
        // The field's name in a request.
        let tokens = tokens.map_err(|mut fault| {
            fault.param = fault.param.map(|param| param.replacen("input", "texts", 1));
            fault.message = fault.message.replacen("input", "texts", 1);
            fault
        })?;
        Ok(self.loaded.encoder()?.vectors(&tokens, &AtomicBool::new(false))?)
    }

    fn start(
        &self,
        wish: Wish,
        write: answer::Write,
        cancel: &CancelToken,
    ) -> Result<LocalAnswer, LocalError> {
        let has_logprobs = wish.logprobs.is_some();
        let prepared = prepared(&self.loaded, wish)?;
        Ok(LocalAnswer::start(self.loaded.clone(), prepared, (write, has_logprobs), cancel)?)
    }
}

/// Fields that have a meaning for one answer to one caller.
fn checked(fields: Fields) -> Result<Fields, Fault> {
    match fields.get("n").and_then(Json::as_i64) {
        Some(n) if n != 1 => Err(Fault::field("n", "must be 1 without a server")),
        _ => Ok(fields),
    }
}
