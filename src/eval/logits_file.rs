//! A teacher's answers in a file, so that many files of a model can be compared with it while it is
//! computed once.
//!
//! Little-endian, all of one length: `TEFFLGT1`; u32 tokens of the vocabulary, u32 tokens of a chunk,
//! u32 chunks, u32 zero; u64 fingerprint of the teacher, u64 of the chunks; then a row for each scored
//! position: f32 step, u16 codes. A logit is `-code * step` beside the row's largest, so that a row has
//! the teacher's distribution up to its largest: 2 bytes for a logit of 4. Logits of more than
//! [`RANGE`] below the largest count as that, which is a probability of 4e-11 at most; the rest is
//! exact to half a step, 2e-4 nats at most, and a mean divergence of a model from its own file is
//! about 1e-8.

use super::Chunks;
use crate::model::fingerprint;
use gguf_rs_lite::{GgufFile, PartFile, PartFileError};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// First bytes of a file.
const MAGIC: [u8; 8] = *b"TEFFLGT1";
/// Bytes before the rows.
const HEADER_BYTES: u64 = 40;
/// Span of the logits that have codes of their own, in nats.
const RANGE: f32 = 24.0;
/// The largest code.
const CODE_MAX: f32 = u16::MAX as f32;

/// Error of a file of logits.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogitsFileError {
    /// The system refused.
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// The file cannot be written.
    Output(PartFileError),
    /// The file is none of this kind, or a part of one.
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file is of another text, context or number of chunks.
    OtherText {
        /// The file.
        path: PathBuf,
        /// Its chunks and their tokens.
        file: [usize; 2],
        /// Those of the text at hand.
        text: [usize; 2],
    },
    /// The file is of another teacher.
    OtherTeacher {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for LogitsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogitsFileError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            LogitsFileError::Output(error) => error.fmt(f),
            LogitsFileError::Format { path, problem } => {
                write!(f, "{}: no usable file of logits: {problem}", path.display())
            }
            LogitsFileError::OtherText { path, file, text } => write!(
                f,
                "{}: the logits are of another text: of {} chunks of {} tokens, here are {} of {}",
                path.display(),
                file[0],
                file[1],
                text[0],
                text[1]
            ),
            LogitsFileError::OtherTeacher { path } => {
                write!(f, "{}: the logits are of another teacher", path.display())
            }
        }
    }
}

impl std::error::Error for LogitsFileError {}

impl From<PartFileError> for LogitsFileError {
    fn from(error: PartFileError) -> LogitsFileError {
        LogitsFileError::Output(error)
    }
}

/// Numbers in front of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    n_vocab: u32,
    n_ctx: u32,
    n_chunks: u32,
    teacher: u64,
    text: u64,
}

impl Header {
    fn of(chunks: &Chunks, n_vocab: usize, teacher: u64) -> Result<Header, String> {
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("{n} is too large a number"));
        Ok(Header {
            n_vocab: number(n_vocab)?,
            n_ctx: number(chunks.n_ctx())?,
            n_chunks: number(chunks.len())?,
            teacher,
            text: chunks.fingerprint(),
        })
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.n_vocab, self.n_ctx, self.n_chunks, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.teacher.to_le_bytes());
        bytes.extend(self.text.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES as usize]) -> Result<Header, String> {
        let (u32s, _) = bytes[8..24].as_chunks::<4>();
        let (u64s, _) = bytes[24..].as_chunks::<8>();
        let [n_vocab, n_ctx, n_chunks, zero] = [0, 1, 2, 3].map(|i| u32::from_le_bytes(u32s[i]));
        let [teacher, text] = [0, 1].map(|i| u64::from_le_bytes(u64s[i]));
        match () {
            () if bytes[..8] != MAGIC => Err("it does not begin with `TEFFLGT1`".into()),
            () if n_vocab == 0 || n_ctx == 0 || n_chunks == 0 || zero != 0 => {
                Err(format!("its header has numbers {n_vocab}, {n_ctx}, {n_chunks} and {zero}"))
            }
            () => Ok(Header { n_vocab, n_ctx, n_chunks, teacher, text }),
        }
    }

    fn row_bytes(self) -> u64 {
        4 + 2 * u64::from(self.n_vocab)
    }

    fn n_scored(self) -> u64 {
        u64::from(self.n_ctx - 1 - self.n_ctx / 2)
    }

    /// Bytes of the whole file; `None` if no file can be so long.
    fn file_bytes(self) -> Option<u64> {
        let rows = u64::from(self.n_chunks).checked_mul(self.n_scored())?;
        rows.checked_mul(self.row_bytes())?.checked_add(HEADER_BYTES)
    }

    /// Where the row of a scored position begins.
    fn offset(self, chunk: usize, row: usize) -> u64 {
        let rows = chunk as u64 * self.n_scored() + row as u64;
        HEADER_BYTES + rows * self.row_bytes()
    }
}

/// Codes of a row.
fn encode(logits: &[f32], out: &mut Vec<u8>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().filter(|x| x.is_finite()).fold(max, f32::min);
    let step = (max - min).min(RANGE) / CODE_MAX;
    let per_step = if step > 0.0 { 1.0 / step } else { 0.0 };
    out.extend(step.to_le_bytes());
    for &logit in logits {
        let code = match logit == f32::NEG_INFINITY {
            true => CODE_MAX,
            false => ((max - logit) * per_step).round().min(CODE_MAX),
        };
        out.extend((code as u16).to_le_bytes());
    }
}

/// Logits of a row's bytes; `None` if the step is no number that a row can have.
fn decode(bytes: &[u8], out: &mut [f32]) -> Option<()> {
    let (step, codes) = bytes.split_first_chunk::<4>()?;
    let step = f32::from_le_bytes(*step);
    // A row all alike has a step of 0; rounding may take the largest step beyond the quotient.
    if !(0.0..=RANGE / CODE_MAX * 1.001).contains(&step) {
        return None;
    }
    for (logit, code) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        *logit = -f32::from(u16::from_le_bytes(*code)) * step;
    }
    Some(())
}

/// A file of logits being read.
#[derive(Debug)]
pub struct LogitsFile {
    file: File,
    path: PathBuf,
    header: Header,
    /// Bytes of the rows that are read.
    bytes: Vec<u8>,
}

impl LogitsFile {
    /// Opens a file for the chunks that it was made from. Reads its header only.
    ///
    /// # Errors
    /// The file cannot be read, is cut or no file of logits, or of another text.
    pub fn open(path: &Path, chunks: &Chunks) -> Result<LogitsFile, LogitsFileError> {
        let io = |error| LogitsFileError::Io { path: path.into(), error };
        let format = |problem| LogitsFileError::Format { path: path.into(), problem };
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        if len < HEADER_BYTES {
            return Err(format(format!("it has {len} bytes, less than a header")));
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        let header = Header::from_bytes(&bytes).map_err(format)?;
        if header.file_bytes() != Some(len) {
            return Err(format(format!("it has {len} bytes, which is not what its header says")));
        }
        if header.text != chunks.fingerprint()
            || header.n_ctx as usize != chunks.n_ctx()
            || header.n_chunks as usize != chunks.len()
        {
            let file = [header.n_chunks as usize, header.n_ctx as usize];
            let text = [chunks.len(), chunks.n_ctx()];
            return Err(LogitsFileError::OtherText { path: path.into(), file, text });
        }
        Ok(LogitsFile { file, path: path.into(), header, bytes: Vec::new() })
    }

    /// Tokens of the teacher's vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.header.n_vocab as usize
    }

    /// The teacher's [`fingerprint`].
    pub fn teacher(&self) -> u64 {
        self.header.teacher
    }

    /// Checks that the file is of this teacher.
    ///
    /// # Errors
    /// [`LogitsFileError::OtherTeacher`].
    pub fn check_teacher(&self, teacher: &GgufFile) -> Result<(), LogitsFileError> {
        match fingerprint(teacher) == self.header.teacher {
            true => Ok(()),
            false => Err(LogitsFileError::OtherTeacher { path: self.path.clone() }),
        }
    }

    /// Reads rows of a chunk from scored position `row` on into `out`, `[rows][n_vocab]`.
    pub(super) fn read(
        &mut self,
        chunk: usize,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), LogitsFileError> {
        let io = |error| LogitsFileError::Io { path: self.path.clone(), error };
        let row_bytes = self.header.row_bytes() as usize;
        self.bytes.resize(out.len() / self.header.n_vocab as usize * row_bytes, 0);
        self.file.seek(SeekFrom::Start(self.header.offset(chunk, row))).map_err(io)?;
        self.file.read_exact(&mut self.bytes).map_err(io)?;
        let rows = out.chunks_exact_mut(self.header.n_vocab as usize);
        for (i, (bytes, out)) in self.bytes.chunks_exact(row_bytes).zip(rows).enumerate() {
            decode(bytes, out).ok_or_else(|| LogitsFileError::Format {
                path: self.path.clone(),
                problem: format!("row {} of chunk {} has a bad step", row + i + 1, chunk + 1),
            })?;
        }
        Ok(())
    }
}

/// A file of logits being written: under another name until it is whole.
#[derive(Debug)]
pub struct LogitsWriter {
    part: PartFile,
    header: Header,
    bytes: Vec<u8>,
}

impl LogitsWriter {
    /// Begins a file for the logits that `teacher` gives behind the tokens of `chunks`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(
        path: &Path,
        chunks: &Chunks,
        n_vocab: usize,
        teacher: &GgufFile,
    ) -> Result<LogitsWriter, LogitsFileError> {
        let format = |problem| LogitsFileError::Format { path: path.into(), problem };
        let header = Header::of(chunks, n_vocab, fingerprint(teacher)).map_err(format)?;
        if header.file_bytes().is_none() {
            return Err(format("it would be too long".into()));
        }
        let part = PartFile::create(path)?;
        part.file().write_all(&header.to_bytes()).map_err(|error| part.error(error))?;
        Ok(LogitsWriter { part, header, bytes: Vec::new() })
    }

    /// Name of the file until it is whole, for whoever ends the process.
    pub fn part(&self) -> &Path {
        self.part.path()
    }

    /// Tokens of the vocabulary.
    pub(super) fn n_vocab(&self) -> usize {
        self.header.n_vocab as usize
    }

    /// Writes rows of a chunk from scored position `row` on.
    pub(super) fn write(
        &mut self,
        chunk: usize,
        row: usize,
        rows: &[f32],
    ) -> Result<(), LogitsFileError> {
        self.bytes.clear();
        let rows = rows.chunks_exact(self.header.n_vocab as usize);
        rows.for_each(|row| encode(row, &mut self.bytes));
        let at = SeekFrom::Start(self.header.offset(chunk, row));
        let mut file = self.part.file();
        let written = file.seek(at).and_then(|_| file.write_all(&self.bytes));
        Ok(written.map_err(|error| self.part.error(error))?)
    }

    /// Gives the file its name, once all rows are written.
    ///
    /// # Errors
    /// The system refuses, or rows are missing.
    pub fn finish(self) -> Result<(), LogitsFileError> {
        let written = self.part.file().metadata().map_err(|error| self.part.error(error))?;
        if Some(written.len()) != self.header.file_bytes() {
            let (path, problem) = (self.part().to_owned(), "rows are missing".into());
            return Err(LogitsFileError::Format { path, problem });
        }
        Ok(self.part.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_to_half_a_step() {
        let mut logits: Vec<f32> = (0..1000).map(|i| (i * i % 997) as f32 / 60.0).collect();
        logits[7] = f32::NEG_INFINITY;
        logits[8] = -300.0;
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; 1000]);
        encode(&logits, &mut bytes);
        assert_eq!(bytes.len(), 2004);
        decode(&bytes, &mut back).unwrap();
        let max = logits.iter().copied().fold(0.0, f32::max);
        for (i, (&logit, &back)) in logits.iter().zip(&back).enumerate() {
            let expected = (logit - max).max(-RANGE);
            assert!((back - expected).abs() <= RANGE / CODE_MAX * 0.51, "{i}: {back} {expected}");
        }
    }

    #[test]
    fn rows_all_alike_and_bad_steps() {
        let (mut bytes, mut back) = (Vec::new(), [1.0; 3]);
        encode(&[2.5; 3], &mut bytes);
        assert_eq!(decode(&bytes, &mut back), Some(()));
        assert_eq!(back, [0.0; 3]);
        for step in [f32::NAN, f32::INFINITY, -1.0, 1.0] {
            bytes[..4].copy_from_slice(&step.to_le_bytes());
            assert_eq!(decode(&bytes, &mut back), None);
        }
    }

    #[test]
    fn headers_are_checked() {
        let header = Header { n_vocab: 3, n_ctx: 4, n_chunks: 2, teacher: 5, text: 6 };
        let bytes: [u8; 40] = header.to_bytes().try_into().unwrap();
        assert_eq!(Header::from_bytes(&bytes), Ok(header));
        assert_eq!(header.file_bytes(), Some(40 + 2 * 10));
        for at in [0, 8, 12, 16, 20] {
            let mut bad = bytes;
            bad[at] = u8::from(at == 20);
            assert!(Header::from_bytes(&bad).is_err(), "{at}");
        }
        let mut huge = bytes;
        huge[8..20].fill(255);
        assert_eq!(Header::from_bytes(&huge).unwrap().file_bytes(), None);
    }
}
