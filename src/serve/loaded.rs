//! A loaded model as the server has it: the engine's thread, vocabulary, template, grammars.

use super::encoder::Encoder;
use super::fault::Fault;
use super::metrics::ModelMetrics;
use super::prefixes::Prefixes;
use crate::engine::grammar::{Grammar, Grammars};
use crate::engine::{
    BATCH_DEFAULT, DiskCache, EngineError, EngineOptions, Model, Runner, Speculation, Status,
};
use crate::sample::{Filter, SampleParams};
use crate::text::{AnswerFormat, ChatTemplate, Prompter, Tokenizer};
use serde_json::{Map, Value as Json};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options that a model is served with.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Name that clients ask for; empty: the file's name without its ending.
    pub id: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Source of a template in the place of the file's.
    pub template: Option<String>,
    /// Variables of the template, beside the messages.
    pub variables: Map<String, Json>,
    /// Sampling where a request says nothing.
    pub sampling: SampleParams,
    /// Whether the seed of [`sampling`](Self::sampling) counts where a request has none.
    pub fixed_seed: bool,
    /// Drafts for requests that run alone.
    pub speculation: Speculation,
    /// Where long instructions outlive the server.
    pub disk: Option<DiskCache>,
    /// Engine for vectors and scores, made when they are first asked for; `None`: there are none.
    pub encoder: Option<EngineOptions>,
}

/// Where an answer begins to follow a grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger<'a> {
    /// At its first token.
    None,
    /// Behind this token.
    Token(u32),
    /// Behind this text.
    Text(&'a str),
}

impl Trigger<'_> {
    /// Trigger behind a token, if there is one to wait for.
    pub fn behind(token: Option<u32>) -> Trigger<'static> {
        token.map_or(Trigger::None, Trigger::Token)
    }
}

/// A model that answers.
pub struct Loaded {
    /// Name that clients ask for.
    pub id: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// The file and its description.
    pub model: Model,
    /// The vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// The thread that answers; `None` for a model that only reads.
    runner: Option<Runner>,
    /// Tokens of a context.
    pub n_ctx: usize,
    /// Bytes that keys and values may take.
    pub kv_bytes_max: usize,
    /// How the model writes answers.
    pub format: &'static AnswerFormat,
    /// How it is served.
    pub options: ModelOptions,
    /// Figures.
    pub metrics: ModelMetrics,
    /// Instructions that are kept on disk.
    pub prefixes: Prefixes,
    /// Number of steps, and when it was another one.
    last_step: Mutex<(u64, Instant)>,
    grammars: OnceLock<Result<Grammars, String>>,
    encoder: OnceLock<Result<Encoder, Fault>>,
    knows_tools: OnceLock<bool>,
}

impl Loaded {
    /// A model whose engine is a runner's.
    pub fn new(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        runner: Option<Runner>,
        sizes: (usize, usize),
        mut options: ModelOptions,
    ) -> Loaded {
        if options.id.is_empty() {
            let stem = model.path().file_stem();
            options.id = stem.map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
        }
        let architecture = model.file().get("general.architecture");
        let architecture = architecture.and_then(|value| value.as_str()).unwrap_or_default();
        let source = options.template.as_deref().or(tokenizer.chat_template());
        let format = AnswerFormat::of_template(source, architecture);
        let disk = options.disk.take();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Loaded {
            id: options.id.clone(),
            created,
            format,
            model,
            tokenizer,
            runner,
            n_ctx: sizes.0,
            kv_bytes_max: sizes.1,
            options,
            metrics: ModelMetrics::default(),
            prefixes: Prefixes::new(disk),
            last_step: Mutex::new((0, Instant::now())),
            grammars: OnceLock::new(),
            encoder: OnceLock::new(),
            knows_tools: OnceLock::new(),
        }
    }

    /// Tokens of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The thread that answers.
    ///
    /// # Errors
    /// The model only reads.
    pub fn runner(&self) -> Result<&Runner, Fault> {
        self.runner.as_ref().ok_or_else(|| EngineError::NoLogits.into())
    }

    /// State of that thread, if there is one.
    pub fn status(&self) -> Status {
        self.runner.as_ref().map(Runner::status).unwrap_or_default()
    }

    /// Whether the engine has work and has made no step for so long, looked at every now and then. Where
    /// prompts are known to be slow, a step gets the time that it takes.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        /// A step of the largest part of a prompt is not stuck before several times its time.
        const STEPS: f64 = 4.0;
        let Status { counters, n_running, n_waiting, times, .. } = self.status();
        let n_steps = counters.n_steps + counters.n_interrupted + counters.n_failed;
        let mut last = self.last_step.lock().unwrap_or_else(PoisonError::into_inner);
        if n_steps != last.0 || n_running + n_waiting == 0 {
            *last = (n_steps, Instant::now());
        }
        let seconds = times.prompt_token_seconds * BATCH_DEFAULT as f64 * STEPS;
        last.1.elapsed() > limit.max(Duration::from_secs_f64(seconds.min(86_400.0)))
    }

    /// Encoder that turns texts into vectors. Cost: the first call makes an engine.
    ///
    /// # Errors
    /// The model cannot be one for vectors.
    pub fn encoder(&self) -> Result<&Encoder, Fault> {
        let made = self.encoder.get_or_init(|| match &self.options.encoder {
            Some(options) => Encoder::new(&self.model, options),
            None => Err(Fault::bad("the model is not served for vectors")),
        });
        made.as_ref().map_err(Fault::clone)
    }

    /// Renders prompts. Cost: the template is compiled.
    ///
    /// # Errors
    /// It does not parse.
    pub fn prompter(&self) -> Result<Prompter<'_>, Fault> {
        let internal = |error: crate::text::TextError| Fault::internal(error.to_string());
        match &self.options.template {
            Some(source) => {
                let template = ChatTemplate::new(source).map_err(internal)?;
                Ok(Prompter::with_template(&self.tokenizer, Some(template)))
            }
            None => Prompter::new(&self.tokenizer).map_err(internal),
        }
    }

    /// Whether the template shows the model the tools of a request.
    pub fn knows_tools(&self) -> bool {
        *self.knows_tools.get_or_init(|| {
            let rendered = |tools: Option<Json>| {
                let mut input = serde_json::json!({
                    "messages": [{ "role": "user", "content": "x" }],
                    "add_generation_prompt": true,
                });
                if let Some(tools) = tools {
                    input["tools"] = tools;
                }
                self.prompter().ok()?.render(&input).ok().map(|rendered| rendered.text)
            };
            let tools = serde_json::json!([{ "type": "function", "function": {
                "name": "f", "description": "x", "parameters": { "type": "object", "properties": {} }
            } }]);
            let with = rendered(Some(tools));
            with.is_some() && with != rendered(None)
        })
    }

    /// Grammars for the vocabulary.
    ///
    /// # Errors
    /// There can be none.
    pub fn grammars(&self) -> Result<&Grammars, Fault> {
        let made = self
            .grammars
            .get_or_init(|| Grammars::new(&self.tokenizer).map_err(|error| error.to_string()));
        made.as_ref().map_err(|problem| Fault::bad(format!("grammars: {problem}")))
    }

    /// A filter by which an answer follows a grammar.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn filter(
        &self,
        param: &str,
        grammar: &Grammar,
        from: Trigger<'_>,
    ) -> Result<Box<dyn Filter>, Fault> {
        let grammars = self.grammars()?;
        let filter = match from {
            Trigger::None => grammars.filter(grammar),
            Trigger::Token(trigger) => grammars.lazy(grammar, vec![trigger]),
            Trigger::Text(trigger) => grammars.lazy_text(grammar, &[trigger]),
        };
        filter.map_err(|error| Fault::field(param, error))
    }
}
