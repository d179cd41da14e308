//! What all requests share: options, models, figures.

use super::fault::Fault;
use super::loaded::Loaded;
use super::metrics::Metrics;
use serde_json::Value as Json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
    /// Requests that run at a time, most.
    pub n_running_max: usize,
    /// Requests that wait, most.
    pub n_waiting_max: usize,
    /// Time that requests get to end when the server is told to.
    pub drain: Duration,
    /// Whether any model's name means the one that is loaded.
    pub any_model: bool,
    /// Whether the state of running requests is told.
    pub slots: bool,
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
            n_running_max: 16,
            n_waiting_max: 64,
            drain: Duration::from_secs(30),
            any_model: false,
            slots: false,
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
    /// Figures.
    pub metrics: Metrics,
    /// Requests of which an answer is under way, health and metrics apart.
    pub n_active: AtomicUsize,
    /// Whether the engine makes no step though there is work.
    pub is_stuck: AtomicBool,
    phase: watch::Sender<Phase>,
    models: RwLock<Vec<Arc<Loaded>>>,
    /// Answers that the engine has or that wait for it.
    n_submitted: AtomicUsize,
}

impl App {
    /// State without a model.
    pub fn new(options: ServeOptions) -> App {
        App {
            options,
            metrics: Metrics::default(),
            n_active: AtomicUsize::new(0),
            is_stuck: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Serving),
            models: RwLock::new(Vec::new()),
            n_submitted: AtomicUsize::new(0),
        }
    }

    /// Adds a model.
    pub fn add(&self, model: Loaded) {
        self.models.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(model));
    }

    /// All models.
    pub fn models(&self) -> Vec<Arc<Loaded>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of a client's name; without a name the first one.
    ///
    /// # Errors
    /// None is loaded yet, or none has the name.
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Loaded>, Fault> {
        let models = self.models();
        let Some(first) = models.first() else {
            return Err(Fault::unavailable("the model is being loaded", "loading", 1));
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(first.clone()) };
        match models.iter().find(|model| model.is_named(name)) {
            Some(model) => Ok(model.clone()),
            None if self.options.any_model => Ok(first.clone()),
            None => Err(Fault::new(
                axum::http::StatusCode::NOT_FOUND,
                format!("there is no model `{name}`: `{}` is loaded", first.id),
            )
            .with_param("model")
            .with_code("model_not_found")),
        }
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
