//! Prefixes that outlive the process: pages and states of long prompts in a folder, where a later
//! start finds them.
//!
//! An entry is a session's file of one prompt. Its name has a hash of all that its numbers depend on,
//! and one of its tokens; the tokens themselves are compared before it is used. The folder may be
//! shared by processes: entries appear whole, and whoever finds one gone or damaged computes. What was
//! used the longest time ago is removed when the folder is full.

use super::error::SessionFault;
use super::format::{Header, VERSION};
use super::reader::Reader;
use super::writer::{self, Content};
use super::{SessionFileError, named, put_records};
use crate::engine::runner::Runner;
use crate::model::Fnv;
use gguf_rs_lite::PartFileError;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Tokens that an entry saves at least when nobody says: fewer are computed about as fast.
pub const DISK_TOKENS_MIN: usize = 256;
/// Ending of an entry's name.
const SUFFIX: &str = ".prefix";
/// Ending of a file that is being written.
const PART_SUFFIX: &str = ".prefix.part";
/// Age at which a file that was never finished is a dead process's.
const PART_AGE_MAX: Duration = Duration::from_secs(3600);

/// A folder of prefixes. Clones share it.
///
/// ```
/// use teff::engine::DiskCache;
/// # use teff::{Engine, EngineOptions, Model, Request, Runner};
/// # let path = "tests/golden/faults/tiny.gguf";
/// # let model = Model::open(path.as_ref())?;
/// # let engine = Engine::new(&model, &EngineOptions::default())?;
/// # let runner = Runner::start(engine, None, 1)?;
/// # let prompt: Vec<u32> = (0..40).collect();
/// # let folder = std::env::temp_dir().join(format!("teff-example-{}.cache", std::process::id()));
/// let mut cache = DiskCache::new(&folder, 1 << 30);
/// # cache.set_tokens_min(32);
/// // The longest known prefix comes back, if there is one on disk that memory does not have.
/// let n_cached = cache.fetch(&runner, &prompt);
/// # assert_eq!(n_cached, 0);
/// let mut request = Request::new(prompt.clone());
/// request.max_tokens = Some(8);
/// runner.submit(request).for_each(drop);
/// // Now the prompt is known; a later start will find it.
/// cache.keep(&runner, &prompt)?;
/// # assert!(cache.bytes() > 0);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DiskCache {
    folder: PathBuf,
    bytes_max: u64,
    tokens_min: usize,
    /// Tokens of entries that have been looked at, by their names, which tell the tokens.
    known: Arc<Mutex<HashMap<String, Arc<[u32]>>>>,
}

/// An entry that begins as a prompt does.
struct Found {
    path: PathBuf,
    /// Tokens in common.
    n_common: usize,
}

impl DiskCache {
    /// The cache in a folder, which is made when something is kept, with entries of at most
    /// `bytes_max` bytes in all. Entries hold what was said, in plain tokens.
    pub fn new(folder: &Path, bytes_max: u64) -> DiskCache {
        let (folder, tokens_min) = (folder.to_owned(), DISK_TOKENS_MIN);
        DiskCache { folder, bytes_max, tokens_min, known: Arc::default() }
    }

    /// Tokens that an entry has to save beyond those that memory or other entries have, to be read or
    /// written; [`DISK_TOKENS_MIN`] at first.
    pub fn set_tokens_min(&mut self, tokens_min: usize) {
        self.tokens_min = tokens_min.max(1);
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.entries().iter().map(|entry| entry.bytes).sum()
    }

    /// Puts the longest prefix of a prompt that the folder has into the runner's cache, if that saves
    /// enough tokens. Returns the tokens of the prompt that the runner knows then. A damaged entry is
    /// removed, and what goes wrong otherwise is as if there were no entry: the prompt can be computed
    /// always.
    pub fn fetch(&self, runner: &Runner, prompt: &[u32]) -> usize {
        let tokens: Arc<[u32]> = prompt.into();
        let known = |tokens: Arc<[u32]>| {
            runner.call(move |stepper| stepper.kv().known(&tokens)).unwrap_or(0)
        };
        let n_known = known(tokens.clone());
        let Some(found) = self.find(runner, prompt) else { return n_known };
        if found.n_common < n_known + self.tokens_min {
            return n_known;
        }
        match self.read(runner, &found) {
            Ok(()) => self.touch(&found.path),
            Err(fault) if is_damage(&fault) => self.forget(&found.path),
            Err(_) => {}
        }
        known(tokens)
    }

    /// Writes what the runner's cache has of a prompt, which has been computed, unless the folder has
    /// most of it already. Returns the bytes that were written. Entries that were used the longest
    /// time ago are removed to make room; a prompt that takes more than all of it is not written.
    ///
    /// # Errors
    /// The entry cannot be written, or the runner's thread has ended.
    pub fn keep(&self, runner: &Runner, prompt: &[u32]) -> Result<u64, SessionFileError> {
        let path = self.folder.join(name(&key(runner), prompt));
        named(&path, || self.write(runner, prompt, &path))
    }

    fn write(&self, runner: &Runner, prompt: &[u32], path: &Path) -> Result<u64, SessionFault> {
        let tokens: Arc<[u32]> = prompt.into();
        let (n_known, n_bytes) = runner.call(move |stepper| {
            let kept = stepper.kv().kept(&tokens);
            let bytes = kept.iter().map(|thing| stepper.kv().kept_bytes(thing.0.kind) as u64);
            (stepper.kv().known(&tokens), bytes.sum::<u64>())
        })?;
        let n_there = self.find(runner, &prompt[..n_known]).map_or(0, |found| found.n_common);
        if n_known < n_there + self.tokens_min || n_bytes > self.bytes_max {
            return Ok(0);
        }
        make_folder(&self.folder)?;
        let content = Content { tokens: prompt, answers: &[], extra: &[], has_kv: true };
        let written = writer::save(runner, path, content);
        let bytes = match written {
            Ok(report) => report.bytes,
            // Somebody else keeps the same prompt.
            Err(SessionFault::Output(PartFileError::Busy(_))) => 0,
            Err(error) => return Err(error),
        };
        self.evict();
        Ok(bytes)
    }

    /// The entry with the longest prefix of a prompt.
    fn find(&self, runner: &Runner, prompt: &[u32]) -> Option<Found> {
        let key = key(runner);
        let entries = self.entries();
        let own = entries.into_iter().filter(|entry| entry.name.starts_with(&key));
        let found = own.filter_map(|entry| {
            let path = self.folder.join(&entry.name);
            let tokens = self.tokens(&entry.name, &path)?;
            let n_common = prompt.iter().zip(&*tokens).take_while(|(a, b)| a == b).count();
            Some(Found { path, n_common })
        });
        found.max_by_key(|found| found.n_common)
    }

    /// The tokens of an entry; a damaged one is removed.
    fn tokens(&self, name: &str, path: &Path) -> Option<Arc<[u32]>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = known().get(name) {
            return Some(tokens.clone());
        }
        match Reader::open(path).and_then(|mut reader| reader.text()) {
            Ok(text) => {
                let tokens: Arc<[u32]> = text.tokens.into();
                known().insert(name.to_owned(), tokens.clone());
                Some(tokens)
            }
            Err(fault) => {
                if is_damage(&fault) {
                    self.forget(path);
                }
                None
            }
        }
    }

    /// Puts the pages and states of the common tokens into the runner's cache.
    fn read(&self, runner: &Runner, found: &Found) -> Result<(), SessionFault> {
        let mut reader = Reader::open(&found.path)?;
        runner.origin().check(reader.header())?;
        let tokens = reader.text()?.tokens.into();
        put_records(runner, &mut reader, &tokens, found.n_common).map(drop)
    }

    /// Takes note that an entry is used now.
    fn touch(&self, path: &Path) {
        let used = File::options().append(true).open(path);
        // Somebody may have removed it; an entry that looks older than it is goes earlier.
        let _ = used.and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn forget(&self, path: &Path) {
        // Another process may have done the same.
        let _ = fs::remove_file(path);
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }

    /// Removes entries until the others fit, and what dead processes have left.
    fn evict(&self) {
        let mut entries = self.entries();
        entries.sort_by_key(|entry| entry.used);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in &entries {
            if bytes <= self.bytes_max {
                break;
            }
            bytes -= entry.bytes;
            self.forget(&self.folder.join(&entry.name));
        }
        let is_old = |used: SystemTime| used.elapsed().is_ok_and(|age| age > PART_AGE_MAX);
        for part in files(&self.folder, PART_SUFFIX).iter().filter(|part| is_old(part.used)) {
            self.forget(&self.folder.join(&part.name));
        }
    }

    /// All entries, those of other models too. A file with another name is none, whatever it is.
    fn entries(&self) -> Vec<Entry> {
        let is_own = |entry: &Entry| {
            let hashes = entry.name.strip_suffix(SUFFIX).and_then(|name| name.split_once('-'));
            let is_hash =
                |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            hashes.is_some_and(|(key, prompt)| is_hash(key) && is_hash(prompt))
        };
        files(&self.folder, SUFFIX).into_iter().filter(is_own).collect()
    }
}

/// Whether a file is not what was written.
fn is_damage(fault: &SessionFault) -> bool {
    matches!(
        fault,
        SessionFault::NotASession
            | SessionFault::Truncated { .. }
            | SessionFault::Checksum { .. }
            | SessionFault::Malformed { .. }
    )
}

/// An entry of the folder.
struct Entry {
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// Files of a folder whose names end so; none of a folder that is not there.
fn files(folder: &Path, suffix: &str) -> Vec<Entry> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = listed.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.ends_with(suffix))?;
        let metadata = entry.metadata().ok().filter(|metadata| metadata.is_file())?;
        Some(Entry { name, bytes: metadata.len(), used: metadata.modified().ok()? })
    });
    entries.collect()
}

/// Begin of the names of entries that a runner can use.
fn key(runner: &Runner) -> String {
    let here =
        Header { teff: String::new(), model: String::new(), n_ctx: 0, ..runner.origin().header() };
    let mut hash = Fnv::default();
    hash.update(&VERSION.to_le_bytes());
    hash.update(&here.to_bytes());
    format!("{:016x}-", hash.0)
}

/// Name of the entry of a prompt.
fn name(key: &str, prompt: &[u32]) -> String {
    let mut hash = Fnv::default();
    prompt.iter().for_each(|token| hash.update(&token.to_le_bytes()));
    format!("{key}{:016x}{SUFFIX}", hash.0)
}

/// Makes a folder that only its owner may look into.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
