//! What all requests share: options, models, figures.

use super::fault::Fault;
use super::limits::Limits;
use super::loaded::Loaded;
use super::metrics::Metrics;
use super::registry::{Entry, Registry};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Receiver of the log: one object a request.
pub type Log = Box<dyn Fn(&Json) + Send + Sync>;

/// Choices of a server. The defaults are those of a private one.
#[non_exhaustive]
pub struct ServeOptions {
    /// Keys of which a request needs one; without any, none is needed.
    pub keys: Vec<Vec<u8>>,
    /// Names beside those of the machine itself that the header Host may have.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask.
    pub origins: Vec<String>,
    /// Time that a model that can be loaded again may be idle before it leaves; `None`: until others need room.
    pub idle: Option<Duration>,
    /// Bytes that models loaded on demand may take; `None`: what the machine has.
    pub memory_bytes: Option<u64>,
    /// Requests that run at a time, most.
    pub n_running_max: usize,
    /// Requests that wait, most.
    pub n_waiting_max: usize,
    /// How long and how much others may be held up.
    pub limits: Limits,
    /// Time that requests get to end when the server is told to.
    pub drain: Duration,
    /// Whether names of control tokens in prompts of completions are such where a request does not say.
    pub parse_special: bool,
    /// Whether any model's name means the one that is loaded.
    pub any_model: bool,
    /// Whether the state of running requests is told.
    pub slots: bool,
    /// Certificate by which connections are encrypted; `None`: they are not.
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::Tls>,
    /// Where traces of requests go.
    #[cfg(feature = "otlp")]
    pub traces: Option<super::traces::Traces>,
    /// Hears of every request.
    pub log: Option<Log>,
    /// Whether the log has prompts.
    pub log_prompts: bool,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            keys: Vec::new(),
            hosts: Vec::new(),
            origins: Vec::new(),
            idle: None,
            memory_bytes: None,
            n_running_max: 16,
            n_waiting_max: 64,
            limits: Limits::default(),
            drain: Duration::from_secs(30),
            parse_special: false,
            any_model: false,
            slots: false,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "otlp")]
            traces: None,
            log: None,
            log_prompts: false,
        }
    }
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It answers.
    Serving,
    /// It ends what is under way and begins nothing.
    Draining,
    /// What is under way is cancelled.
    Cancelling,
    /// It ends.
    Ended,
}

/// Shared state.
pub struct App {
    /// Choices.
    pub options: ServeOptions,
    /// Hears of every request.
    pub log: Arc<Option<Log>>,
    /// Figures.
    pub metrics: Metrics,
    /// Requests of which an answer is under way, health and metrics apart.
    pub n_active: AtomicUsize,
    /// Whether the engine makes no step though there is work.
    pub is_stuck: AtomicBool,
    /// All models.
    pub registry: Arc<Registry>,
    /// Whether it can answer.
    is_ready: AtomicBool,
    phase: watch::Sender<Phase>,
    /// Answers that the engine has or that wait for it.
    n_submitted: AtomicUsize,
}

impl App {
    /// State without a model.
    pub fn new(mut options: ServeOptions) -> App {
        let log = Arc::new(options.log.take());
        let told = log.clone();
        let told = move |id: &str, what: &str, time: Duration| {
            if let Some(log) = told.as_ref() {
                log(&json!({ "model": id, "event": what, "ms": time.as_millis() as u64 }));
            }
        };
        let (memory, idle, patience) =
            (options.memory_bytes, options.idle, options.limits.queue_time);
        App {
            registry: Arc::new(Registry::new(memory, idle, patience, Box::new(told))),
            is_ready: AtomicBool::new(false),
            log,
            options,
            metrics: Metrics::default(),
            n_active: AtomicUsize::new(0),
            is_stuck: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Serving),
            n_submitted: AtomicUsize::new(0),
        }
    }

    /// Adds a model, with which the server can answer.
    pub fn add(&self, model: Loaded) {
        self.registry.add(model);
        self.make_ready();
    }

    /// Says that the server can answer from now on.
    pub fn make_ready(&self) {
        self.is_ready.store(true, Ordering::Release);
    }

    /// Whether the server can answer.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// All models that are loaded.
    pub fn models(&self) -> Vec<Arc<Loaded>> {
        self.registry.loaded()
    }

    /// The entry of a client's name for a model; without a name the first one.
    ///
    /// # Errors
    /// There is none yet, or none has the name.
    pub fn entry(&self, name: Option<&str>) -> Result<Arc<Entry>, Fault> {
        /// Names that are told, most.
        const TOLD: usize = 8;
        let entries = self.registry.entries();
        let Some(first) = entries.first() else {
            return Err(Fault::unavailable("the model is being loaded", "loading", 1));
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(first.clone()) };
        match entries.iter().find(|entry| entry.is_named(name)) {
            Some(entry) => Ok(entry.clone()),
            None if self.options.any_model => Ok(first.clone()),
            None => {
                let names: Vec<String> =
                    entries.iter().take(TOLD).map(|entry| format!("`{}`", entry.id)).collect();
                let more = if entries.len() > TOLD { ", .." } else { "" };
                let problem =
                    format!("there is no model `{name}`; there is {}{more}", names.join(", "));
                let fault = Fault::new(axum::http::StatusCode::NOT_FOUND, problem);
                Err(fault.with_param("model").with_code("model_not_found"))
            }
        }
    }

    /// The model of a client's name, loaded if need be; without a name the first one.
    ///
    /// # Errors
    /// Those of [`entry`](Self::entry), and the model cannot be loaded.
    pub async fn model(&self, name: Option<&str>) -> Result<Arc<Loaded>, Fault> {
        self.loaded(&self.entry(name)?).await
    }

    /// The model of an entry, loaded if need be.
    ///
    /// # Errors
    /// It cannot be loaded, or the server is not ready.
    pub async fn loaded(&self, entry: &Arc<Entry>) -> Result<Arc<Loaded>, Fault> {
        if !self.is_ready() {
            return Err(Fault::unavailable("the model is being loaded", "loading", 1));
        }
        self.registry.get(entry).await
    }

    /// Phase of life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a phase, never back.
    pub fn go_on(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = next > *phase;
            *phase = next.max(*phase);
            is_later
        });
    }

    /// Watches the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits for a phase.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.subscribe();
        // The sender is as old as this.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }

    /// A place for `n` answers among those that run or wait.
    ///
    /// # Errors
    /// The queue is full, or the server ends.
    pub fn place(self: &Arc<Self>, n: usize) -> Result<Place, Fault> {
        if self.phase() != Phase::Serving {
            return Err(Fault::unavailable("the server is shutting down", "draining", 1));
        }
        let n_max = self.options.n_running_max + self.options.n_waiting_max;
        let taken = self.n_submitted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            Some(before + n).filter(|&after| after <= n_max || before == 0)
        });
        match taken {
            Ok(_) => Ok(Place { app: self.clone(), n }),
            Err(_) => {
                self.metrics.rejected();
                Err(Fault::busy(n_max))
            }
        }
    }
}

/// Place among the answers that run or wait, given back when it is dropped.
pub struct Place {
    app: Arc<App>,
    n: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.n_submitted.fetch_sub(self.n, Ordering::AcqRel);
    }
}
