//! Reading a session's file. Nothing is believed: a length is compared with what is left of the file
//! before memory is asked for, and a part is used when its checksum is right.

use super::EXTRA_BYTES_MAX;
use super::error::{Part, SessionFault};
use super::format::{
    CHECKSUM_BYTES, END, HEADER_BYTES_MAX, Header, MAGIC, PAGE, PREFIX_BYTES, RECORD_BYTES,
    RecordHead, STATES, VERSION,
};
use super::xxh64::xxh64;
use crate::kv::{KeptAt, KeptKind};
use crate::tensor::memory;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// A session's file that is being read.
pub struct Reader {
    file: BufReader<File>,
    /// Bytes of the file, and those that have been read.
    len: u64,
    at: u64,
    header: Header,
    /// Checksum of the header, from which those of all other parts start.
    seed: u64,
}

/// Text of a session, as tokens and as what it was rendered from.
#[derive(Debug)]
pub struct Text {
    pub tokens: Vec<u32>,
    pub answers: Vec<usize>,
    pub extra: Vec<u8>,
}

/// Place of a page or of states in the file.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Number in the file.
    number: u64,
    /// First byte.
    start: u64,
    head: RecordHead,
    /// Place in the text.
    pub at: KeptAt,
}

impl Record {
    fn part(&self) -> Part {
        match self.at.kind {
            KeptKind::Page { .. } => Part::Page(self.number),
            KeptKind::States => Part::States(self.number),
        }
    }
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The system refuses, the file is no session's or of a later version, or the header is damaged.
    pub fn open(path: &Path) -> Result<Reader, SessionFault> {
        // Before it is opened: a pipe would wait for somebody to write.
        if !std::fs::metadata(path)?.is_file() {
            return Err(SessionFault::NotASession);
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let header = Header::default();
        let (len, file) = (metadata.len(), BufReader::new(file));
        let mut reader = Reader { file, len, at: 0, header, seed: 0 };
        reader.read_header()?;
        Ok(reader)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read_header(&mut self) -> Result<(), SessionFault> {
        if self.len < MAGIC.len() as u64 {
            return Err(SessionFault::NotASession);
        }
        let magic = self.array(Part::Header)?;
        if magic != MAGIC {
            return Err(SessionFault::NotASession);
        }
        let (version, len) = (self.array(Part::Header)?, self.array(Part::Header)?);
        let mut bytes = [&magic[..], &version, &len].concat();
        let (version, len) = (u32::from_le_bytes(version), u64::from(u32::from_le_bytes(len)));
        if !(1..=VERSION).contains(&version) {
            return Err(SessionFault::Version { version });
        }
        if !(PREFIX_BYTES as u64..=HEADER_BYTES_MAX).contains(&len) {
            let problem = format!("has {len} bytes");
            return Err(SessionFault::Malformed { part: Part::Header, problem });
        }
        let rest = len - PREFIX_BYTES as u64 + CHECKSUM_BYTES as u64;
        bytes.extend(self.take(Part::Header, rest)?);
        self.seed = checked(&bytes, Part::Header, 0)?;
        let fields = &bytes[PREFIX_BYTES..bytes.len() - CHECKSUM_BYTES];
        self.header = Header::from_fields(fields)?;
        Ok(())
    }

    /// Reads what was said, which follows the header.
    ///
    /// # Errors
    /// The system refuses, there is no memory, or these parts are damaged.
    pub fn text(&mut self) -> Result<Text, SessionFault> {
        let malformed = |part, problem: &str| {
            let problem = problem.to_owned();
            SessionFault::Malformed { part, problem }
        };
        let Header { n_tokens, n_answers, extra_bytes, .. } = self.header;
        let n_bytes = n_tokens.saturating_add(n_answers).saturating_mul(4);
        let bytes = self.part(Part::Tokens, n_bytes)?;
        let words = bytes[..bytes.len() - CHECKSUM_BYTES].as_chunks().0;
        let words = words.iter().map(|&word| u32::from_le_bytes(word));
        let mut tokens = Vec::new();
        memory::reserve(&mut tokens, words.len(), "the tokens of a session")?;
        tokens.extend(words);
        let answers = tokens.split_off(n_tokens as usize);
        let answers: Vec<usize> = answers.iter().map(|&start| start as usize).collect();
        if !answers.is_sorted() || answers.last().is_some_and(|&start| start > tokens.len()) {
            return Err(malformed(Part::Tokens, "an answer is not where one can be"));
        }
        if extra_bytes > EXTRA_BYTES_MAX {
            return Err(malformed(Part::Extra, "is longer than it may be"));
        }
        let mut extra = self.part(Part::Extra, extra_bytes)?;
        extra.truncate(extra.len() - CHECKSUM_BYTES);
        Ok(Text { tokens, answers, extra })
    }

    /// Places of the pages and states, which follow what was said and whose sizes the header tells.
    ///
    /// # Errors
    /// The system refuses, a record is none or not in order, or the file is cut short or too long.
    pub fn records(&mut self) -> Result<Vec<Record>, SessionFault> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let (number, start) = (records.len() as u64, self.at);
            let head = self.array(Part::Record(number)).map(RecordHead::from_bytes)?;
            if head.kind == END {
                self.end(number, head)?;
                return Ok(records);
            }
            let at = self.place(number, head)?;
            if records.last().is_some_and(|last| last.at >= at) {
                return Err(malformed(number, "is not behind the one before"));
            }
            let record = Record { number, start, head, at };
            let needed = self.content_bytes(at.kind).saturating_add(CHECKSUM_BYTES as u64);
            self.check_left(record.part(), needed)?;
            self.at = self.file.seek(SeekFrom::Start(self.at + needed))?;
            memory::reserve(&mut records, number as usize + 1, "the places of a session's pages")?;
            records.push(record);
        }
    }

    /// The place in the text that a record names.
    fn place(&self, number: u64, head: RecordHead) -> Result<KeptAt, SessionFault> {
        let Header { n_tokens, page_bytes, state_bytes, has_kv, .. } = &self.header;
        let group = head.group as usize;
        let kind = match head.kind {
            PAGE if group < page_bytes.len() => KeptKind::Page { group },
            STATES if group == 0 && *state_bytes > 0 => KeptKind::States,
            _ => return Err(malformed(number, "is of no kind that the model has")),
        };
        if head.len == 0 || head.len > *n_tokens || !has_kv {
            return Err(malformed(number, "is of tokens that the session does not have"));
        }
        Ok(KeptAt { len: head.len as usize, kind })
    }

    /// Checks the last record, whose head has been read.
    fn end(&mut self, number: u64, head: RecordHead) -> Result<(), SessionFault> {
        let mut bytes = head.to_bytes().to_vec();
        bytes.extend(self.take(Part::End, CHECKSUM_BYTES as u64)?);
        checked(&bytes, Part::End, self.record_seed(number))?;
        let malformed = |problem: String| SessionFault::Malformed { part: Part::End, problem };
        if head.len != number {
            return Err(malformed(format!("there are {number} records instead of {}", head.len)));
        }
        match self.len - self.at {
            0 => Ok(()),
            more => Err(malformed(format!("{more} bytes follow"))),
        }
    }

    /// The content of a page or of states.
    ///
    /// # Errors
    /// The system refuses, there is no memory, or the record is damaged.
    pub fn content(&mut self, record: &Record) -> Result<Vec<u8>, SessionFault> {
        self.at = self.file.seek(SeekFrom::Start(record.start))?;
        let n_bytes = RECORD_BYTES as u64 + self.content_bytes(record.at.kind);
        let bytes = self.take(record.part(), n_bytes.saturating_add(CHECKSUM_BYTES as u64))?;
        checked(&bytes, record.part(), self.record_seed(record.number))?;
        if bytes[..RECORD_BYTES] != record.head.to_bytes() {
            return Err(malformed(record.number, "has changed while it was read"));
        }
        let mut bytes = bytes;
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        bytes.drain(..RECORD_BYTES);
        Ok(bytes)
    }

    fn content_bytes(&self, kind: KeptKind) -> u64 {
        match kind {
            KeptKind::Page { group } => self.header.page_bytes[group],
            KeptKind::States => self.header.state_bytes,
        }
    }

    fn record_seed(&self, number: u64) -> u64 {
        record_seed(self.seed, number)
    }

    /// A part of so many bytes and its checksum.
    fn part(&mut self, part: Part, n_bytes: u64) -> Result<Vec<u8>, SessionFault> {
        let bytes = self.take(part, n_bytes.saturating_add(CHECKSUM_BYTES as u64))?;
        checked(&bytes, part, self.seed)?;
        Ok(bytes)
    }

    fn check_left(&self, part: Part, needed: u64) -> Result<(), SessionFault> {
        let left = self.len.saturating_sub(self.at);
        match needed <= left {
            true => Ok(()),
            false => Err(SessionFault::Truncated { part, needed, left }),
        }
    }

    /// The next bytes, few of them.
    fn array<const N: usize>(&mut self, part: Part) -> Result<[u8; N], SessionFault> {
        self.check_left(part, N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// The next bytes.
    fn take(&mut self, part: Part, n_bytes: u64) -> Result<Vec<u8>, SessionFault> {
        self.check_left(part, n_bytes)?;
        let (mut bytes, n) = (Vec::new(), usize::try_from(n_bytes).unwrap_or(usize::MAX));
        memory::reserve(&mut bytes, n, "a part of a session's file")?;
        bytes.resize(n, 0);
        self.file.read_exact(&mut bytes)?;
        self.at += n_bytes;
        Ok(bytes)
    }
}

/// The seed of a record's checksum: records in another order are damaged.
pub fn record_seed(seed: u64, number: u64) -> u64 {
    seed.wrapping_add(1).wrapping_add(number)
}

/// The checksum at the end of `bytes`, if it is theirs.
fn checked(bytes: &[u8], part: Part, seed: u64) -> Result<u64, SessionFault> {
    let damaged = SessionFault::Checksum { part };
    let Some((content, &sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged);
    };
    let sum = u64::from_le_bytes(sum);
    if xxh64(content, seed) == sum { Ok(sum) } else { Err(damaged) }
}

fn malformed(number: u64, problem: &str) -> SessionFault {
    SessionFault::Malformed { part: Part::Record(number), problem: problem.to_owned() }
}
