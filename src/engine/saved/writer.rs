//! Writing a session's file.

use super::error::SessionFault;
use super::format::{END, Header, PAGE, RecordHead, STATES};
use super::reader::record_seed;
use super::xxh64::xxh64;
use super::{CHUNK_BYTES, EXTRA_BYTES_MAX, SaveReport};
use crate::decoder::KeptBytes;
use crate::engine::session::Session;
use crate::kv::KeptKind;
use gguf_rs_lite::PartFile;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Saves a session.
pub fn save(
    session: &Session,
    path: &Path,
    extra: &[u8],
    has_kv: bool,
) -> Result<SaveReport, SessionFault> {
    let (runner, bytes) = (session.runner(), extra.len() as u64);
    if bytes > EXTRA_BYTES_MAX {
        return Err(SessionFault::TooMuchExtra { bytes });
    }
    let part = PartFile::create(path)?;
    let written = |result: std::io::Result<()>| {
        result.map_err(|error| SessionFault::Output(part.error(error)))
    };
    written(make_private(part.file()))?;
    let (tokens, answers) = (session.tokens(), session.answers());
    let header = Header {
        has_kv,
        n_tokens: tokens.len() as u64,
        n_answers: answers.len() as u64,
        extra_bytes: extra.len() as u64,
        ..runner.origin().header()
    };
    let mut file = Sums { file: BufWriter::new(part.file()), n_bytes: 0 };
    let seed = file.part(&header.to_bytes(), 0);
    let seed = seed.map_err(|error| SessionFault::Output(part.error(error)))?;
    let words = tokens.iter().copied().chain(answers.iter().map(|&start| start as u32));
    let words: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    written(file.part(&words, seed).map(drop))?;
    written(file.part(extra, seed).map(drop))?;
    let (tokens, mut after, mut n_records): (Arc<[u32]>, _, u64) = (tokens.into(), None, 0);
    let (known, mut more) = (tokens.clone(), has_kv);
    let n_cached = runner.call(move |stepper| stepper.kv().known(&known))?;
    while more {
        let tokens = tokens.clone();
        let things =
            runner.call(move |stepper| stepper.read_kept(&tokens, after, CHUNK_BYTES))??;
        for thing in &things {
            written(file.record(head_of(thing), &thing.bytes, record_seed(seed, n_records)))?;
            (after, n_records) = (Some(thing.at), n_records + 1);
        }
        more = !things.is_empty();
    }
    let end = RecordHead { kind: END, group: 0, len: n_records };
    written(file.record(end, &[], record_seed(seed, n_records)))?;
    written(file.file.flush())?;
    let bytes = file.n_bytes;
    drop(file);
    part.finish()?;
    let n_cached = if has_kv { n_cached } else { 0 };
    Ok(SaveReport { n_tokens: tokens.len(), n_cached, bytes })
}

fn head_of(thing: &KeptBytes) -> RecordHead {
    let len = thing.at.len as u64;
    match thing.at.kind {
        KeptKind::Page { group } => RecordHead { kind: PAGE, group: group as u32, len },
        KeptKind::States => RecordHead { kind: STATES, group: 0, len },
    }
}

/// A file of parts with checksums.
struct Sums<'f> {
    file: BufWriter<&'f File>,
    n_bytes: u64,
}

impl Sums<'_> {
    /// Writes bytes and their checksum, which it returns.
    fn part(&mut self, bytes: &[u8], seed: u64) -> std::io::Result<u64> {
        let sum = xxh64(bytes, seed);
        self.file.write_all(bytes)?;
        self.file.write_all(&sum.to_le_bytes())?;
        self.n_bytes += (bytes.len() + size_of::<u64>()) as u64;
        Ok(sum)
    }

    fn record(&mut self, head: RecordHead, content: &[u8], seed: u64) -> std::io::Result<()> {
        self.part(&[&head.to_bytes(), content].concat(), seed).map(drop)
    }
}

/// Lets nobody but the owner read a file.
#[cfg(unix)]
fn make_private(file: &File) -> std::io::Result<()> {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Files of a user are his own here.
#[cfg(not(unix))]
fn make_private(_file: &File) -> std::io::Result<()> {
    Ok(())
}
