//! All models of a server: those that are loaded, and those that can be.
//!
//! A request asks for a model by name and waits while it is loaded; one is loaded at a time, and who asks for
//! another goes on. A model that nobody uses leaves when it has been idle for its time, or when another
//! needs its room; one that answers never leaves.

use super::fault::Fault;
use super::loaded::Loaded;
use crate::backend::available_bytes;
use axum::http::StatusCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// Time between looks for room.
const LOOK: Duration = Duration::from_millis(50);

/// Loads a model: whole, or only as far as it describes itself.
///
/// The error is told to whoever asked for the model.
pub type Loader = Box<dyn Fn(bool) -> Result<Loaded, String> + Send + Sync>;

/// A model that can be loaded.
#[non_exhaustive]
pub struct Offer {
    /// Name that clients ask for.
    pub id: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes that it takes when it is loaded, about.
    pub memory_bytes: u64,
    /// When its file was made, in seconds since 1970.
    pub created: u64,
    load: Loader,
}

impl Offer {
    /// A model of that name.
    pub fn new(id: String, load: Loader) -> Offer {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Offer { id, aliases: Vec::new(), file_bytes: 0, memory_bytes: 0, created, load }
    }
}

/// A model of the server.
pub struct Entry {
    /// Name that clients ask for.
    pub id: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// How to load it; `None` for one that is here and stays.
    pub offer: Option<Offer>,
    slot: Mutex<Slot>,
}

/// The place of a loaded model.
struct Slot {
    loaded: Option<Arc<Loaded>>,
    /// When it was last seen in use.
    used: Instant,
    /// Time that it may be idle, if a client has said so; the inner `None`: as long as it likes.
    keep: Option<Option<Duration>>,
}

impl Entry {
    fn new(id: String, aliases: Vec<String>, offer: Option<Offer>) -> Entry {
        let slot = Mutex::new(Slot { loaded: None, used: Instant::now(), keep: None });
        Entry { id, aliases, offer, slot }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client's name means this model; Ollama's clients write its usual tag behind names.
    pub fn is_named(&self, name: &str) -> bool {
        let is = |name: &str| self.id == name || self.aliases.iter().any(|alias| alias == name);
        is(name) || name.strip_suffix(":latest").is_some_and(is)
    }

    /// The model, if it is loaded.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        self.slot().loaded.clone()
    }

    /// The model for a request, if it is loaded.
    fn take(&self) -> Option<Arc<Loaded>> {
        let mut slot = self.slot();
        slot.used = Instant::now();
        slot.loaded.clone()
    }

    /// Has the model stay for so long behind its last request; `None`: as long as it likes.
    pub fn keep(&self, time: Option<Duration>) {
        self.slot().keep = Some(time);
    }

    /// Time until the model leaves, if nobody asks for it.
    pub fn time_left(&self, idle: Option<Duration>) -> Option<Duration> {
        let slot = self.slot();
        let time = slot.keep.unwrap_or(idle).filter(|_| self.offer.is_some())?;
        Some(time.saturating_sub(slot.used.elapsed()))
    }

    /// Takes the model out if nobody uses it and it has been idle for as long as `is_due` says.
    fn leave(&self, is_due: impl FnOnce(&Slot) -> bool) -> Option<Arc<Loaded>> {
        self.offer.as_ref()?;
        let mut slot = self.slot();
        let loaded = slot.loaded.as_ref()?;
        // Whoever uses it got it under this lock.
        if Arc::strong_count(loaded) > 1 {
            slot.used = Instant::now();
            return None;
        }
        if is_due(&slot) { slot.loaded.take() } else { None }
    }

    /// Description of the model by itself, whether it is loaded or not. It may block.
    ///
    /// # Errors
    /// The file is no model.
    pub fn described(&self) -> Result<Arc<Loaded>, Fault> {
        match (self.loaded(), &self.offer) {
            (Some(loaded), _) => Ok(loaded),
            (None, Some(offer)) => {
                let described = (offer.load)(false);
                described.map(Arc::new).map_err(|problem| cannot(&self.id, &problem))
            }
            (None, None) => Err(Fault::internal("the model is gone")),
        }
    }
}

fn cannot(id: &str, problem: &str) -> Fault {
    let fault = Fault::internal(format!("the model `{id}` cannot be loaded: {problem}"));
    fault.with_code("model_load_failed")
}

/// Hears of what becomes of models: a name, and `loaded` or `unloaded`.
type Told = Box<dyn Fn(&str, &str, Duration) + Send + Sync>;

/// The models of a server.
pub struct Registry {
    entries: RwLock<Vec<Arc<Entry>>>,
    /// Held by who loads.
    loading: tokio::sync::Mutex<()>,
    /// Bytes that loaded models may take; `None`: what the machine has.
    memory: Option<u64>,
    /// Time that a model may be idle.
    pub idle: Option<Duration>,
    /// Time to wait for room.
    patience: Duration,
    told: Told,
    /// Models that have been loaded, those that are gone included.
    pub n_loads: AtomicU64,
}

impl Registry {
    /// A registry without models.
    pub fn new(
        memory: Option<u64>,
        idle: Option<Duration>,
        patience: Duration,
        told: Told,
    ) -> Registry {
        Registry {
            entries: RwLock::default(),
            loading: tokio::sync::Mutex::default(),
            memory,
            idle,
            patience,
            told,
            n_loads: AtomicU64::new(0),
        }
    }

    /// Adds a model that is loaded and stays.
    pub fn add(&self, loaded: Loaded) {
        let entry = Entry::new(loaded.id.clone(), loaded.options.aliases.clone(), None);
        entry.slot().loaded = Some(Arc::new(loaded));
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        self.push(entry);
    }

    /// Has a model that has been offered under that name be loaded.
    pub fn put(&self, name: &str, loaded: Loaded) {
        if let Some(entry) = self.entries().iter().find(|entry| entry.id == name) {
            let mut slot = entry.slot();
            (slot.loaded, slot.used) = (Some(Arc::new(loaded)), Instant::now());
            self.n_loads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a model that is loaded when it is asked for.
    pub fn offer(&self, offer: Offer) {
        self.push(Entry::new(offer.id.clone(), offer.aliases.clone(), Some(offer)));
    }

    fn push(&self, entry: Entry) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(entry));
    }

    /// All models.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Models that are loaded.
    pub fn loaded(&self) -> Vec<Arc<Loaded>> {
        self.entries().iter().filter_map(|entry| entry.loaded()).collect()
    }

    /// The model of an entry, loaded if need be.
    ///
    /// # Errors
    /// It cannot be loaded, or others have no room for it.
    pub async fn get(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Arc<Loaded>, Fault> {
        if let Some(loaded) = entry.take() {
            return Ok(loaded);
        }
        // What has begun is ended, though the client may leave: others may wait for it.
        let (registry, entry) = (self.clone(), entry.clone());
        let loading = tokio::spawn(async move { registry.load(&entry).await });
        loading.await.unwrap_or_else(|_| Err(Fault::internal("loading the model panicked")))
    }

    async fn load(&self, entry: &Arc<Entry>) -> Result<Arc<Loaded>, Fault> {
        let _one = self.loading.lock().await;
        if let Some(loaded) = entry.take() {
            return Ok(loaded);
        }
        let Some(offer) = &entry.offer else {
            return Err(Fault::internal("the model is gone"));
        };
        self.make_room(offer.memory_bytes).await?;
        let start = Instant::now();
        let loader = entry.clone();
        let loaded = super::blocking(move || {
            let Some(offer) = &loader.offer else { return Err(Fault::internal("no offer")) };
            (offer.load)(true).map_err(|problem| cannot(&loader.id, &problem))
        });
        let loaded = Arc::new(loaded.await?);
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        (self.told)(&entry.id, "loaded", start.elapsed());
        let mut slot = entry.slot();
        (slot.loaded, slot.used) = (Some(loaded.clone()), Instant::now());
        Ok(loaded)
    }

    /// Waits until there is room for a model, for which idle ones leave.
    async fn make_room(&self, bytes: u64) -> Result<(), Fault> {
        let start = Instant::now();
        while !self.has_room(bytes) {
            if self.unload_oldest() {
                continue;
            }
            // Whether one alone fits is for the loader to say.
            if self.loaded().is_empty() {
                return Ok(());
            }
            if start.elapsed() > self.patience {
                let problem = "other models answer and leave no room for this one";
                let fault = Fault::unavailable(problem, "no_room", 5);
                return Err(Fault { status: StatusCode::SERVICE_UNAVAILABLE, ..fault });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let taken = self.entries().into_iter().filter(|entry| entry.loaded().is_some());
        let taken: u64 = taken.filter_map(|entry| Some(entry.offer.as_ref()?.memory_bytes)).sum();
        match self.memory {
            Some(most) => taken + bytes <= most,
            None => available_bytes().is_none_or(|free| bytes <= free as u64),
        }
    }

    /// Unloads the model that nobody has used for the longest time; whether there was one.
    fn unload_oldest(&self) -> bool {
        let mut entries = self.entries();
        entries.sort_by_key(|entry| entry.slot().used);
        entries.iter().any(|entry| self.unload(entry, |_| true))
    }

    /// Unloads what has been idle for its time. Called every now and then.
    pub fn unload_idle(&self) {
        for entry in self.entries() {
            self.unload(&entry, |slot| {
                slot.keep.unwrap_or(self.idle).is_some_and(|time| slot.used.elapsed() >= time)
            });
        }
    }

    fn unload(&self, entry: &Entry, is_due: impl FnOnce(&Slot) -> bool) -> bool {
        let start = Instant::now();
        let Some(loaded) = entry.leave(is_due) else { return false };
        entry.slot().keep = None;
        // Its threads have nothing to do and end at once, but memory is given back.
        tokio::task::block_in_place(|| drop(loaded));
        (self.told)(&entry.id, "unloaded", start.elapsed());
        true
    }
}
