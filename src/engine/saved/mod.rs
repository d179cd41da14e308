//! Sessions on disk, with the pages of keys and values and the recurrent states of their tokens: a
//! session that is loaded goes on with the bits with which it would have gone on, and computes
//! nothing that the cache had when it was saved.
//!
//! # The file
//!
//! Numbers are little-endian, texts are UTF-8 behind their length in bytes, a u32. Checksums are
//! XXH64, u64. Nothing in a file depends on the machine, its instruction set or the number of threads.
//!
//! ```text
//! magic         TEFFSESS
//! u32           version of the format: 1
//! u32           bytes of the header up to its checksum
//! text          version of the program
//! text          name of the model
//! u64 u64       bytes of its file; hash of metadata, table of tensors, and a part of their data
//! u32           adapters, and for each:
//!   text u64      name, hash
//!   u32           f32 factor
//! text          type of keys and values
//! u64           tokens in the context
//! u64           hash of the angles by which positions turn
//! u32           groups of layers, and for each:
//!   u64           bytes of a page
//! u64           bytes of the recurrent states, 0 without any
//! u32           1 if pages and states were to be saved, else 0
//! u64 u64 u64   tokens T; answers A; bytes of the caller's part
//! checksum      of all before, with seed 0; the other checksums take it as their seed
//! u32[T] u32[A] token ids; number of tokens before each answer
//! checksum
//! u8[..]        the caller's part: what he likes, as JSON
//! checksum
//! records in the order of their places, and for each:
//!   u32           1: a page, 2: states
//!   u32           group of layers of a page, else 0
//!   u64           tokens of the session up to the last one that it is of
//!   u8[..]        as `Executor::read_page` and `Executor::read_states` say
//!   checksum      its seed is 1 and the record's number, counted from 0, more
//! u32 u32 u64   0, 0, number of records
//! checksum      as of a record
//! ```
//!
//! A page is of the tokens since the last multiple of [`PAGE_TOKENS`](crate::backend::pages::PAGE_TOKENS).
//! What a file holds is what the cache kept: the first pages may be missing where windows have passed.
//! The text is there without them, too; then its tokens are computed anew.
//!
//! **Nothing here is secret**: the file holds what was said, in plain tokens. It is written for its
//! owner's eyes only, where the system has such permissions.

mod disk;
mod error;
mod format;
mod origin;
mod reader;
mod writer;
mod xxh64;

pub use disk::{DISK_TOKENS_MIN, DiskCache};
pub use error::{Part, SessionFault, SessionFileError};

pub(super) use origin::Origin;

use super::runner::Runner;
use super::session::Session;
use crate::decoder::KeptBytes;
use reader::{Reader, Text};
use std::path::Path;
use std::sync::Arc;
use writer::Content;

/// Bytes of the caller's part, at most: a conversation as long as any context, as text, many times.
pub const EXTRA_BYTES_MAX: u64 = 64 << 20;
/// Bytes of pages and states that are copied between two steps: a few milliseconds.
const CHUNK_BYTES: usize = 16 << 20;

/// Figures of a session that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveReport {
    /// Tokens of the session.
    pub n_tokens: usize,
    /// Tokens that were not to be computed to go on, when the session was saved.
    pub n_cached: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Figures of a session that was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Tokens of the session.
    pub n_tokens: usize,
    /// Tokens that are not to be computed to go on.
    pub n_cached: usize,
    /// Whether the file has pages at all.
    pub has_kv: bool,
    /// Bytes of pages and states for which the budget of the cache had no room; their tokens are
    /// computed anew.
    pub left_out_bytes: u64,
}

/// A session that was loaded.
pub struct LoadedSession {
    /// The session.
    pub session: Session,
    /// The caller's part.
    pub extra: Vec<u8>,
    /// Figures.
    pub report: LoadReport,
}

/// Text of a session's file, which needs no model: for showing it, or for rendering it anew for another
/// model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedText {
    /// Name of the model.
    pub model: String,
    /// Version of the program that wrote the file.
    pub teff: String,
    /// Name of the type of keys and values.
    pub kv_type: String,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Number of tokens before each answer.
    pub answers: Vec<usize>,
    /// The caller's part.
    pub extra: Vec<u8>,
    /// Whether the file has pages.
    pub has_kv: bool,
}

impl SavedText {
    /// Reads all but the pages and states.
    ///
    /// # Errors
    /// The file cannot be read, is no session's, of a later version or damaged.
    pub fn read(path: &Path) -> Result<SavedText, SessionFileError> {
        named(path, || {
            let mut reader = Reader::open(path)?;
            let Text { tokens, answers, extra } = reader.text()?;
            let header = reader.header().clone();
            let (model, teff, kv_type) = (header.model, header.teff, header.kv_type);
            let has_kv = header.has_kv;
            Ok(SavedText { model, teff, kv_type, tokens, answers, extra, has_kv })
        })
    }
}

impl Session {
    /// Saves the session with what the cache keeps of its tokens, and `extra`, in which the caller
    /// has what he needs to go on: messages, parameters of the sampler, the state of its generator.
    /// The file gets its name when it is whole, and only its owner may read it. Requests of others
    /// go on meanwhile. Not for a [`Listener`](super::Listener), on whose thread the cache is read.
    ///
    /// # Errors
    /// The file cannot be written, `extra` is longer than [`EXTRA_BYTES_MAX`], or the runner's thread
    /// has ended. An older file of the name stays as it was.
    pub fn save(&self, path: &Path, extra: &[u8]) -> Result<SaveReport, SessionFileError> {
        named(path, || self.write(path, extra, true))
    }

    /// [`Session::save`] without pages and states: a small file, whose session computes its tokens
    /// again when it goes on.
    ///
    /// # Errors
    /// As [`Session::save`].
    pub fn save_without_kv(
        &self,
        path: &Path,
        extra: &[u8],
    ) -> Result<SaveReport, SessionFileError> {
        named(path, || self.write(path, extra, false))
    }

    fn write(&self, path: &Path, extra: &[u8], has_kv: bool) -> Result<SaveReport, SessionFault> {
        let content = Content { tokens: self.tokens(), answers: self.answers(), extra, has_kv };
        writer::save(self.runner(), path, content)
    }
}

impl Runner {
    /// Loads a session that was saved with the same model, adapters and type of cache. The context
    /// may have another length, as long as the tokens fit. Where the budget of the cache has no room
    /// for all that the file holds, what was used before goes, then the rest of the session is left
    /// out and computed anew.
    ///
    /// # Errors
    /// The file cannot be read, is no session's, is damaged in a part that the error names, or was
    /// made with something else than what is at hand.
    pub fn load_session(&self, path: &Path) -> Result<LoadedSession, SessionFileError> {
        named(path, || load(self, path))
    }
}

/// Adds the file to an error.
fn named<R>(
    path: &Path,
    work: impl FnOnce() -> Result<R, SessionFault>,
) -> Result<R, SessionFileError> {
    work().map_err(|fault| SessionFileError { path: path.into(), fault })
}

fn load(runner: &Runner, path: &Path) -> Result<LoadedSession, SessionFault> {
    let origin = runner.origin();
    let mut reader = Reader::open(path)?;
    origin.check(reader.header())?;
    let Text { tokens, answers, extra } = reader.text()?;
    origin.check_tokens(&tokens)?;
    let tokens: Arc<[u32]> = tokens.into();
    let left_out_bytes = put_records(runner, &mut reader, &tokens, tokens.len())?;
    let known = tokens.clone();
    let n_cached = runner.call(move |stepper| stepper.kv().known(&known))?;
    let (n_tokens, has_kv) = (tokens.len(), reader.header().has_kv);
    let session = Session::of_tokens(runner.clone(), tokens.to_vec(), answers);
    let report = LoadReport { n_tokens, n_cached, has_kv, left_out_bytes };
    Ok(LoadedSession { session, extra, report })
}

/// Puts the pages and states of a file's first `n` tokens into the cache, as many as there is room for,
/// and checks the others of those. Returns the bytes of the others.
fn put_records(
    runner: &Runner,
    reader: &mut Reader,
    tokens: &Arc<[u32]>,
    n: usize,
) -> Result<u64, SessionFault> {
    let mut records = reader.records()?;
    records.retain(|record| record.at.len <= n);
    let places: Vec<_> = records.iter().map(|record| record.at).collect();
    let text = tokens.clone();
    let (since, fitting) = runner.call(move |stepper| {
        let since = stepper.kv_mut().begin_put();
        (since, stepper.kv().fitting(&text, &places))
    })?;
    let (mut chunk, mut chunk_bytes, mut left_out) = (Vec::new(), 0, 0);
    for (i, (record, fits)) in records.iter().zip(fitting).enumerate() {
        let bytes = reader.content(record)?;
        match fits {
            true => {
                chunk_bytes += bytes.len();
                chunk.push(KeptBytes { at: record.at, bytes });
            }
            false => left_out += bytes.len() as u64,
        }
        if chunk_bytes >= CHUNK_BYTES || i + 1 == records.len() {
            chunk_bytes = 0;
            let (things, tokens) = (std::mem::take(&mut chunk), tokens.clone());
            left_out += runner.call(move |stepper| {
                let n = stepper.put_kept(&tokens, since, &things)?;
                let rest = things[n..].iter().map(|thing| thing.bytes.len() as u64);
                Ok::<u64, SessionFault>(rest.sum())
            })??;
        }
    }
    Ok(left_out)
}
