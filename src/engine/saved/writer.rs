//! Writing a session's file.

use super::error::SessionFault;
use super::format::{END, Header, PAGE, RecordHead, STATES};
use super::reader::record_seed;
use super::xxh64::xxh64;
use super::{CHUNK_BYTES, EXTRA_BYTES_MAX, SaveReport};
use crate::decoder::KeptBytes;
use crate::engine::runner::Runner;
use crate::kv::KeptKind;
use gguf_rs_lite::PartFile;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Content of a session's file.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Number of tokens before each answer.
    pub answers: &'a [usize],
    /// The caller's part.
    pub extra: &'a [u8],
    /// Whether pages and states are saved, too.
    pub has_kv: bool,
}

/// Saves what was said to a runner.
pub fn save(
    runner: &Runner,
    path: &Path,
    content: Content<'_>,
) -> Result<SaveReport, SessionFault> {
    let bytes = content.extra.len() as u64;
    if bytes > EXTRA_BYTES_MAX {
        return Err(SessionFault::TooMuchExtra { bytes });
    }
    let part = PartFile::create(path)?;
    let report = write(runner, part.file(), content).map_err(|fault| match fault {
        SessionFault::Io(error) => SessionFault::Output(part.error(error)),
        other => other,
    })?;
    part.finish()?;
    Ok(report)
}

/// Writes all parts.
fn write(runner: &Runner, file: &File, content: Content<'_>) -> Result<SaveReport, SessionFault> {
    let Content { tokens, answers, extra, has_kv } = content;
    make_private(file)?;
    let header = Header {
        has_kv,
        n_tokens: tokens.len() as u64,
        n_answers: answers.len() as u64,
        extra_bytes: extra.len() as u64,
        ..runner.origin().header()
    };
    let mut file = Sums { file: BufWriter::new(file), n_bytes: 0 };
    let seed = file.part(&header.to_bytes(), 0)?;
    let words = tokens.iter().copied().chain(answers.iter().map(|&start| start as u32));
    file.part(&words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>(), seed)?;
    file.part(extra, seed)?;
    let (mut n_records, mut n_cached) = (0, 0);
    if has_kv {
        let text: Arc<[u32]> = tokens.into();
        let known = text.clone();
        n_cached = runner.call(move |stepper| stepper.kv().known(&known))?;
        n_records = write_kept(runner, &mut file, &text, seed)?;
    }
    let end = RecordHead { kind: END, group: 0, len: n_records };
    file.record(end, &[], record_seed(seed, n_records))?;
    file.file.flush()?;
    Ok(SaveReport { n_tokens: tokens.len(), n_cached, bytes: file.n_bytes })
}

/// Writes what the cache keeps, in parts between which others are answered. Returns the number of
/// records.
fn write_kept(
    runner: &Runner,
    file: &mut Sums<'_>,
    text: &Arc<[u32]>,
    seed: u64,
) -> Result<u64, SessionFault> {
    let (mut after, mut n_records) = (None, 0);
    loop {
        let text = text.clone();
        let things = runner.call(move |stepper| stepper.read_kept(&text, after, CHUNK_BYTES))??;
        let Some(last) = things.last() else { return Ok(n_records) };
        after = Some(last.at);
        for thing in &things {
            file.record(head_of(thing), &thing.bytes, record_seed(seed, n_records))?;
            n_records += 1;
        }
    }
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
