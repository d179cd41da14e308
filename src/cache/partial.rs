//! A file that is still arriving. It gets its name in one rename, after its length, its sha256 and,
//! of a GGUF file, its first four bytes have been checked and its bytes have reached the disk;
//! until then it is `.NAME.partial`, which nothing takes for a model.
//!
//! Beside it `.NAME.partial.json` remembers whose bytes these are, written before the first of
//! them, so a process may die at any moment and the next one goes on where it was. The sha256 is
//! computed while bytes arrive; going on reads the part that is there once.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::CacheError;
use super::listing::is_gguf;
use super::store::{beside, file_len, remove_if_there};

/// The letters every GGUF file starts with, in either byte order.
const MAGIC: &[u8; 4] = b"GGUF";
/// Bytes that are read or written at once.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// A state file is a hundred bytes or so; anything bigger is not ours.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Length and hash that the finished file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// Length in bytes.
    pub bytes: u64,
    /// Lower-case hex; `None` where the publisher gives none (small files of the hub).
    pub sha256: Option<String>,
}

/// The bytes of a model so far.
pub(super) struct Partial {
    dest: PathBuf,
    path: PathBuf,
    state_path: PathBuf,
    file: File,
    expected: Expected,
    etag: Option<String>,
    len: u64,
    hasher: Sha256,
    resumed: bool,
}

impl Partial {
    /// Opens what there is of `dest`, or begins it. Bytes of another file, or of one that cannot
    /// be told to be the same, are dropped. The caller holds the [`Lock`](super::store::Lock).
    pub fn open(
        dest: &Path,
        expected: &Expected,
        cancel: &AtomicBool,
    ) -> Result<Partial, CacheError> {
        let path = beside(dest, ".partial");
        let state_path = beside(dest, ".partial.json");
        let etag = read_state(&state_path, expected);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut partial = Partial {
            dest: dest.to_owned(),
            file: file.map_err(|e| CacheError::io("open", &path, e))?,
            path,
            state_path,
            expected: expected.clone(),
            etag: None,
            len: 0,
            hasher: Sha256::new(),
            resumed: false,
        };
        let held = file_len(&partial.path).unwrap_or(0);
        let is_same_file = etag.is_some() && held <= expected.bytes;
        partial.etag = etag.flatten();
        if is_same_file && partial.can_resume() {
            partial.absorb(cancel)?;
            partial.resumed = partial.len > 0;
        } else {
            partial.restart(None)?;
        }
        Ok(partial)
    }

    /// Bytes that are here.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes the whole will have.
    #[cfg(feature = "hub")]
    pub fn total(&self) -> u64 {
        self.expected.bytes
    }

    /// Whether every byte is here.
    pub fn is_whole(&self) -> bool {
        self.len == self.expected.bytes
    }

    /// Whether a later connection may add to the bytes that are here: something must tell that
    /// they belong together, the checksum of the whole or the server's tag.
    pub fn can_resume(&self) -> bool {
        self.expected.sha256.is_some() || self.etag.is_some()
    }

    /// Whether bytes of an earlier process are among these.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The server's strong tag for the bytes that are here.
    #[cfg(feature = "hub")]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Drops every byte and notes the tag of those to come.
    pub fn restart(&mut self, etag: Option<&str>) -> Result<(), CacheError> {
        self.truncate()?;
        self.etag = etag.map(str::to_owned);
        let state = json!({
            "bytes": self.expected.bytes,
            "sha256": self.expected.sha256,
            "etag": self.etag,
        });
        fs::write(&self.state_path, state.to_string())
            .map_err(|e| CacheError::io("write", &self.state_path, e))
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`CacheError::WrongLength`] for more than expected, [`CacheError::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        let got = self.len + bytes.len() as u64;
        if got > self.expected.bytes {
            return Err(self.wrong_length(got));
        }
        self.file.write_all(bytes).map_err(|e| CacheError::io("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.len = got;
        Ok(())
    }

    /// Checks the whole and puts it in its place. After a wrong checksum the bytes are dropped:
    /// nobody could tell which of them are good.
    pub fn commit(mut self) -> Result<PathBuf, CacheError> {
        if !self.is_whole() {
            return Err(self.wrong_length(self.len));
        }
        let got = hex(&self.hasher.finalize_reset());
        let what = self.dest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(expected) = self.expected.sha256.clone().filter(|sha| *sha != got) {
            self.discard()?;
            return Err(CacheError::WrongHash { what, expected, got });
        }
        let mut magic = [0; 4];
        let read = self.file.rewind().and_then(|()| self.file.read_exact(&mut magic));
        if is_gguf(&what) && (read.is_err() || &magic != MAGIC) {
            self.discard()?;
            return Err(CacheError::NotGguf { what });
        }
        self.file.sync_all().map_err(|e| CacheError::io("write", &self.path, e))?;
        let Partial { dest, path, state_path, file, .. } = self;
        drop(file); // Windows renames no open file.
        fs::rename(&path, &dest).map_err(|e| CacheError::io("create", &dest, e))?;
        sync_folder(&dest);
        remove_if_there(&state_path)?;
        Ok(dest)
    }

    /// Keeps what is here for the next try; if that is nothing, nothing is left behind.
    pub fn leave(self) {
        if self.len == 0 {
            // The error that ended the download is the one to tell.
            let _ = self.discard();
        }
    }

    fn truncate(&mut self) -> Result<(), CacheError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| CacheError::io("write", &self.path, e))?;
        (self.len, self.hasher, self.resumed) = (0, Sha256::new(), false);
        Ok(())
    }

    fn discard(self) -> Result<(), CacheError> {
        drop(self.file);
        remove_if_there(&self.path)?;
        remove_if_there(&self.state_path)?;
        Ok(())
    }

    /// Reads what is there into the checksum and goes to its end.
    fn absorb(&mut self, cancel: &AtomicBool) -> Result<(), CacheError> {
        let mut file = &self.file;
        self.len = hash_reader(&mut file, &mut self.hasher, cancel, &self.path)?;
        let end = SeekFrom::Start(self.len);
        self.file.seek(end).map(drop).map_err(|e| CacheError::io("read", &self.path, e))
    }

    fn wrong_length(&self, got: u64) -> CacheError {
        let what = self.dest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        CacheError::WrongLength { what, expected: self.expected.bytes, got }
    }
}

/// The sha256 of a file, lower-case hex.
pub(super) fn sha256_of(path: &Path, cancel: &AtomicBool) -> Result<String, CacheError> {
    let mut file = File::open(path).map_err(|e| CacheError::io("open", path, e))?;
    let mut hasher = Sha256::new();
    hash_reader(&mut file, &mut hasher, cancel, path)?;
    Ok(hex(&hasher.finalize()))
}

fn hash_reader(
    file: &mut impl Read,
    hasher: &mut Sha256,
    cancel: &AtomicBool,
    path: &Path,
) -> Result<u64, CacheError> {
    let (mut buffer, mut len) = (vec![0; CHUNK_BYTES], 0);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(CacheError::Cancelled);
        }
        match file.read(&mut buffer).map_err(|e| CacheError::io("read", path, e))? {
            0 => return Ok(len),
            n => {
                hasher.update(&buffer[..n]);
                len += n as u64;
            }
        }
    }
}

/// `Some(etag)` if the state file is about the same bytes; `None` if it is missing, broken or
/// about others.
fn read_state(path: &Path, expected: &Expected) -> Option<Option<String>> {
    if file_len(path)? > STATE_BYTES_MAX {
        return None;
    }
    let state: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let sha256 = state["sha256"].as_str().map(str::to_owned);
    let seen = Expected { bytes: state["bytes"].as_u64()?, sha256 };
    (seen == *expected).then(|| state["etag"].as_str().map(str::to_owned))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the rename itself durable where the platform lets a folder be synced; where it does not,
/// a power cut may lose the new name, and with it only the download.
fn sync_folder(file: &Path) {
    if let Some(folder) = file.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
}
