//! Importance matrices: how large the inputs of each product were on a calibration text.
//!
//! A quantizer that knows the mean square of a column's activations spends its error where it hurts
//! least. The file format is that of llama.cpp's `llama-imatrix`: a GGUF file of
//! `<weight>.in_sum2` and `<weight>.counts` (`tools/imatrix/imatrix.cpp`), or, older, a flat binary
//! file (`.dat`), which holds means instead of sums and does not tell experts apart. Both are read and
//! written. Memory: what the file has, twice while it is read.
//!
//! Files are not trusted: lengths are held against the bytes that are left, shapes against each
//! other, and numbers that no activations have (negative, NaN, infinite) are named errors.

use gguf_rs_lite::{Error as GgufError, GgmlType, GgufFile, GgufWriter, OwnedArray, OwnedValue};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of a `.dat` file at most: the widest known models have about 100 MB of importances.
const DAT_BYTES_MAX: u64 = 1 << 30;

/// Entries of a file at most: half of the tensors that a GGUF file may have.
const ENTRIES_MAX: usize = 1 << 15;

/// Bytes of a weight's name at most, in a `.dat` file; GGUF has a limit of its own.
const NAME_BYTES_MAX: usize = 128;

/// Datasets of a file at most: each merge adds those of the other file.
const DATASETS_MAX: usize = 1 << 16;

const TYPE_KEY: &str = "general.type";
const TYPE: &str = "imatrix";
const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
const SUMS_SUFFIX: &str = ".in_sum2";
const COUNTS_SUFFIX: &str = ".counts";

/// Statistics of the inputs of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    in_sum2: Vec<f32>,
    counts: Vec<f32>,
}

impl Statistics {
    /// Sums of squares `[n_mat][columns]` and numbers of rows added up, `[n_mat]`: one matrix, or one
    /// per expert.
    ///
    /// # Errors
    /// No matrix, sums that are not the same number for each, or numbers that no activations have.
    pub fn new(in_sum2: Vec<f32>, counts: Vec<f32>) -> Result<Statistics, StatisticsFault> {
        let (sums, matrices) = (in_sum2.len(), counts.len());
        if matrices == 0 || sums == 0 || !sums.is_multiple_of(matrices) {
            return Err(StatisticsFault::Shape { sums, matrices });
        }
        let is_bad = |x: &f32| !(x.is_finite() && *x >= 0.0);
        if let Some(column) = in_sum2.iter().position(is_bad) {
            return Err(StatisticsFault::Sum { column, value: in_sum2[column] });
        }
        if let Some(matrix) = counts.iter().position(is_bad) {
            return Err(StatisticsFault::Count { matrix, value: counts[matrix] });
        }
        Ok(Statistics { in_sum2, counts })
    }

    /// Number of matrices: of experts, or 1.
    pub fn matrices(&self) -> usize {
        self.counts.len()
    }

    /// Columns of each matrix.
    pub fn columns(&self) -> usize {
        self.in_sum2.len() / self.counts.len()
    }

    /// Sums of squared inputs, `[n_mat][columns]`.
    pub fn in_sum2(&self) -> &[f32] {
        &self.in_sum2
    }

    /// Rows of inputs added up for each matrix.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// Matrices without a single row of inputs: experts that the text never chose.
    pub fn unseen(&self) -> usize {
        self.counts.iter().filter(|&&count| count == 0.0).count()
    }

    /// Mean squares `[n_mat][columns]`; 1 throughout a matrix that has seen nothing.
    pub fn importances(&self) -> Vec<f32> {
        let matrices = self.in_sum2.chunks_exact(self.columns()).zip(&self.counts);
        let mean = |sum: f32, count: f32| if count == 0.0 { 1.0 } else { sum / count };
        matrices.flat_map(|(sums, &count)| sums.iter().map(move |&sum| mean(sum, count))).collect()
    }

    /// Adds the sums and counts of the same weight on another text.
    fn add(&mut self, other: &Statistics) -> Result<(), StatisticsFault> {
        if other.in_sum2.len() != self.in_sum2.len() || other.counts.len() != self.counts.len() {
            return Err(StatisticsFault::Other {
                expected: [self.matrices(), self.columns()],
                found: [other.matrices(), other.columns()],
            });
        }
        let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        // Sums of finite numbers may be infinite.
        *self =
            Statistics::new(sum(&self.in_sum2, &other.in_sum2), sum(&self.counts, &other.counts))?;
        Ok(())
    }
}

/// An importance matrix: statistics of many weights, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// Names of the calibration texts.
    pub datasets: Vec<String>,
    /// Chunks that the statistics are of.
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 is unknown (a `.dat` file does not say).
    pub chunk_size: u32,
    weights: BTreeMap<String, Statistics>,
}

impl Imatrix {
    /// An importance matrix without weights yet.
    pub fn new(datasets: Vec<String>, chunk_count: u32, chunk_size: u32) -> Imatrix {
        Imatrix { datasets, chunk_count, chunk_size, weights: BTreeMap::new() }
    }

    /// Reads a file of either form.
    ///
    /// # Errors
    /// The file cannot be read or is no importance matrix.
    pub fn open(path: &Path) -> Result<Imatrix, ImatrixError> {
        let io = |source| ImatrixError::Io { path: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes > DAT_BYTES_MAX {
            return Err(ImatrixError::TooLarge { bytes });
        }
        let mut content = Vec::new();
        (&mut file).take(DAT_BYTES_MAX).read_to_end(&mut content).map_err(io)?;
        Imatrix::from_bytes(content)
    }

    /// Reads a file's bytes, GGUF if they begin so, and else the old binary form.
    ///
    /// # Errors
    /// The bytes are no importance matrix.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Imatrix, ImatrixError> {
        if bytes.starts_with(b"GGUF") { from_gguf(bytes) } else { from_dat(&bytes) }
    }

    /// The statistics of a weight, `blk.0.attn_q.weight` for example.
    pub fn get(&self, name: &str) -> Option<&Statistics> {
        self.weights.get(name)
    }

    /// All weights and their statistics, sorted by name.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = (&str, &Statistics)> {
        self.weights.iter().map(|(name, statistics)| (&name[..], statistics))
    }

    /// Adds statistics of a weight to those that are there, if any.
    ///
    /// # Errors
    /// What is there has another shape, or sums become infinite.
    pub fn add(&mut self, name: &str, statistics: Statistics) -> Result<(), ImatrixError> {
        let fault = |fault| ImatrixError::Weight { name: name.to_owned(), fault };
        match self.weights.get_mut(name) {
            Some(own) => own.add(&statistics).map_err(fault),
            None => {
                self.weights.insert(name.to_owned(), statistics);
                Ok(())
            }
        }
    }

    /// Says how many tokens a chunk has, for what was read from a `.dat` file: until then its counts
    /// are numbers of chunks.
    pub fn set_chunk_size(&mut self, tokens: u32) {
        if self.chunk_size == 0 && tokens != 0 {
            let factor = tokens as f32;
            for statistics in self.weights.values_mut() {
                statistics.in_sum2.iter_mut().for_each(|sum| *sum *= factor);
                statistics.counts.iter_mut().for_each(|count| *count *= factor);
            }
            self.chunk_size = tokens;
        }
    }

    /// Adds another importance matrix: sums and counts of weights that both have, the datasets, and the
    /// chunks. If the sizes of chunks differ, the count is in chunks of this one's size.
    ///
    /// # Errors
    /// A weight has another shape, or only one of the two knows the size of its chunks.
    pub fn merge(&mut self, other: &Imatrix) -> Result<(), ImatrixError> {
        if self.weights.is_empty() && self.chunk_count == 0 {
            self.chunk_size = other.chunk_size;
        }
        if (self.chunk_size == 0) != (other.chunk_size == 0) {
            return Err(ImatrixError::ChunkSizeUnknown);
        }
        let mut merged = self.clone();
        for (name, statistics) in other.weights() {
            merged.add(name, statistics.clone())?;
        }
        let of_other = u64::from(other.chunk_count) * u64::from(other.chunk_size.max(1));
        let chunks = of_other.div_ceil(self.chunk_size.max(1).into());
        let chunks = chunks.saturating_add(self.chunk_count.into());
        merged.chunk_count = u32::try_from(chunks).unwrap_or(u32::MAX);
        merged.datasets.extend(other.datasets.iter().cloned());
        *self = merged;
        Ok(())
    }

    /// Writes the GGUF form.
    ///
    /// # Errors
    /// The output fails, or a name is too long for a tensor.
    pub fn write_gguf(&self, out: impl Write) -> Result<(), ImatrixError> {
        let mut writer = GgufWriter::new(out);
        writer.add(TYPE_KEY, TYPE)?;
        let datasets = OwnedArray::Str(self.datasets.clone());
        writer.add(DATASETS_KEY, OwnedValue::Array(datasets))?;
        writer.add(CHUNK_COUNT_KEY, self.chunk_count)?;
        writer.add(CHUNK_SIZE_KEY, self.chunk_size)?;
        for (name, statistics) in self.weights() {
            let dims = |len: usize| match statistics.matrices() {
                1 => vec![len as u64],
                matrices => vec![len as u64, matrices as u64],
            };
            let sums = format!("{name}{SUMS_SUFFIX}");
            writer.declare(sums, GgmlType::F32, &dims(statistics.columns()))?;
            writer.declare(format!("{name}{COUNTS_SUFFIX}"), GgmlType::F32, &dims(1))?;
        }
        let mut data = writer.write_header()?;
        for statistics in self.weights.values() {
            data.write_tensor(&le_bytes(&statistics.in_sum2))?;
            data.write_tensor(&le_bytes(&statistics.counts))?;
        }
        data.finish()?.flush().map_err(|source| ImatrixError::Gguf(GgufError::Write(source)))
    }

    /// Writes the old binary form: means times chunks, 1 where an expert has seen nothing. Weights
    /// without any input are left out, and of the datasets only the last is kept.
    ///
    /// # Errors
    /// The output fails.
    pub fn write_dat(&self, mut out: impl Write) -> std::io::Result<()> {
        let seen = || self.weights().filter(|(_, s)| s.unseen() < s.matrices());
        let mut bytes = Vec::new();
        let int = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as i32).to_le_bytes());
        int(&mut bytes, seen().count());
        for (name, statistics) in seen() {
            int(&mut bytes, name.len());
            bytes.extend(name.as_bytes());
            let rows = statistics.counts.iter().fold(0.0, |most: f32, &count| most.max(count));
            let calls = (rows as usize).div_ceil(self.chunk_size.max(1) as usize);
            int(&mut bytes, calls);
            int(&mut bytes, statistics.in_sum2.len());
            let scaled: Vec<f32> =
                statistics.importances().iter().map(|mean| mean * calls as f32).collect();
            bytes.extend(le_bytes(&scaled));
            out.write_all(&bytes)?;
            bytes.clear();
        }
        int(&mut bytes, self.chunk_count as usize);
        let dataset = self.datasets.last().map_or("", |name| name);
        int(&mut bytes, dataset.len());
        bytes.extend(dataset.as_bytes());
        out.write_all(&bytes)?;
        out.flush()
    }
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_gguf(bytes: Vec<u8>) -> Result<Imatrix, ImatrixError> {
    let mut file = GgufFile::from_bytes(bytes)?;
    file.make_little_endian()?;
    match file.get(TYPE_KEY).map(|value| value.as_str()) {
        Some(Some(TYPE)) => {}
        other => return Err(ImatrixError::Kind(other.flatten().map(str::to_owned))),
    }
    let number = |key| match file.get(key) {
        None => Err(ImatrixError::Key { key, problem: "is missing" }),
        Some(value) => value
            .as_u64()
            .and_then(|value| u32::try_from(value).ok())
            .ok_or(ImatrixError::Key { key, problem: "is no count" }),
    };
    let mut imatrix =
        Imatrix::new(datasets(&file)?, number(CHUNK_COUNT_KEY)?, number(CHUNK_SIZE_KEY)?);
    for tensor in file.tensors() {
        if let Some(name) = tensor.name.strip_suffix(COUNTS_SUFFIX) {
            // Its sums, which have the counts looked up.
            if file.tensor(&format!("{name}{SUMS_SUFFIX}")).is_none() {
                return Err(ImatrixError::NoPartner(tensor.name.clone()));
            }
            continue;
        }
        let Some(name) = tensor.name.strip_suffix(SUMS_SUFFIX).filter(|name| !name.is_empty())
        else {
            return Err(ImatrixError::UnknownTensor(tensor.name.clone()));
        };
        let counts = file
            .tensor(&format!("{name}{COUNTS_SUFFIX}"))
            .ok_or_else(|| ImatrixError::NoPartner(tensor.name.clone()))?;
        let fault = |fault| ImatrixError::Weight { name: name.to_owned(), fault };
        if let Some(other) = [tensor, counts].iter().find(|t| t.ty != GgmlType::F32) {
            return Err(fault(StatisticsFault::Type(other.ty)));
        }
        let shape = [tensor.rows(), counts.cols(), counts.rows()];
        if shape != [counts.rows(), 1, tensor.rows()] {
            let (sums, matrices) = (floats(&file, tensor).len(), floats(&file, counts).len());
            return Err(fault(StatisticsFault::Shape { sums, matrices }));
        }
        let statistics = Statistics::new(floats(&file, tensor), floats(&file, counts));
        imatrix.weights.insert(name.to_owned(), statistics.map_err(fault)?);
    }
    Ok(imatrix)
}

fn datasets(file: &GgufFile) -> Result<Vec<String>, ImatrixError> {
    const KEY: &str = DATASETS_KEY;
    let problem = |problem| ImatrixError::Key { key: KEY, problem };
    let Some(value) = file.get(KEY) else { return Ok(Vec::new()) };
    let array = value.as_array().ok_or_else(|| problem("is no array"))?;
    if array.len() > DATASETS_MAX {
        return Err(problem("has more names than any file"));
    }
    match array.strs() {
        Some(names) => Ok(names.map(str::to_owned).collect()),
        // An empty array may be of any type.
        None if array.is_empty() => Ok(Vec::new()),
        None => Err(problem("is no array of strings")),
    }
}

fn floats(file: &GgufFile, tensor: &gguf_rs_lite::TensorInfo) -> Vec<f32> {
    file.data(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// What is left of a `.dat` file.
struct Dat<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Dat<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], ImatrixError> {
        let left = self.bytes.len() - self.at;
        if n > left {
            return Err(ImatrixError::Truncated { offset: self.at, needed: n, left });
        }
        self.at += n;
        Ok(&self.bytes[self.at - n..self.at])
    }

    /// A number of things from 0 to `max`, stored as an `i32`.
    fn count(&mut self, what: &'static str, max: usize) -> Result<usize, ImatrixError> {
        let offset = self.at;
        let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
        let value = i32::from_le_bytes(bytes);
        usize::try_from(value).ok().filter(|&n| n <= max).ok_or(ImatrixError::Count {
            offset,
            what,
            value,
            max,
        })
    }

    fn string(&mut self, what: &'static str, max: usize) -> Result<String, ImatrixError> {
        let bytes = self.count(what, max)?;
        let offset = self.at;
        let text = str::from_utf8(self.take(bytes)?).map_err(|_| ImatrixError::Utf8 { offset })?;
        Ok(text.to_owned())
    }
}

fn from_dat(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
    let mut dat = Dat { bytes, at: 0 };
    let mut imatrix = Imatrix::default();
    let entries = dat.count("entries", ENTRIES_MAX)?;
    if entries == 0 {
        return Err(ImatrixError::Count { offset: 0, what: "entries", value: 0, max: ENTRIES_MAX });
    }
    for _ in 0..entries {
        let offset = dat.at;
        let name = dat.string("bytes of a name", NAME_BYTES_MAX)?;
        if name.is_empty() {
            return Err(ImatrixError::NoName { offset });
        }
        // Files of the first version, before March 2024, may say 0 where they mean 1.
        let calls = dat.count("calls", i32::MAX as usize)?.max(1);
        let values = dat.count("values", i32::MAX as usize)?;
        let values = dat.take(values * 4)?.as_chunks().0;
        let sums = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let statistics = Statistics::new(sums, vec![calls as f32])
            .map_err(|fault| ImatrixError::Weight { name: name.clone(), fault })?;
        if imatrix.weights.insert(name.clone(), statistics).is_some() {
            return Err(ImatrixError::Duplicate(name));
        }
    }
    // The first files end here.
    if dat.at < bytes.len() {
        imatrix.chunk_count = dat.count("chunks", i32::MAX as usize)? as u32;
        let dataset = dat.string("bytes of a dataset's name", bytes.len())?;
        imatrix.datasets.extend(Some(dataset).filter(|name| !name.is_empty()));
    }
    match bytes.len() - dat.at {
        0 => Ok(imatrix),
        bytes => Err(ImatrixError::Trailing { offset: dat.at, bytes }),
    }
}

/// Error of statistics that are none.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StatisticsFault {
    /// Sums that are not the same number for each matrix.
    Shape {
        /// Number of sums.
        sums: usize,
        /// Number of counts.
        matrices: usize,
    },
    /// Another shape than the statistics they are to be added to.
    Other {
        /// Matrices and columns of what is there.
        expected: [usize; 2],
        /// Matrices and columns of what is added.
        found: [usize; 2],
    },
    /// A sum of squares that is negative or not finite.
    Sum {
        /// Index among all sums.
        column: usize,
        /// The sum.
        value: f32,
    },
    /// A count that is negative or not finite.
    Count {
        /// The matrix.
        matrix: usize,
        /// The count.
        value: f32,
    },
    /// Numbers of another type than F32.
    Type(GgmlType),
}

impl fmt::Display for StatisticsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatisticsFault::Shape { sums, matrices } => {
                write!(f, "{sums} sums of squares for {matrices} matrices")
            }
            StatisticsFault::Other { expected, found } => write!(
                f,
                "{} matrices of {} columns are to be added to {} of {}",
                found[0], found[1], expected[0], expected[1]
            ),
            StatisticsFault::Sum { column, value } => {
                write!(f, "sum of squares {column} is {value}")
            }
            StatisticsFault::Count { matrix, value } => {
                write!(f, "the count of matrix {matrix} is {value}")
            }
            StatisticsFault::Type(ty) => write!(f, "its numbers are {ty}, not F32"),
        }
    }
}

impl std::error::Error for StatisticsFault {}

/// Error of a file that is no importance matrix, or of two that do not belong together.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The file cannot be read.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any importance matrix.
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The bytes are no valid GGUF, or writing failed.
    Gguf(GgufError),
    /// A GGUF file of another kind; its `general.type`, if it has one.
    Kind(Option<String>),
    /// A key is missing or has a value that cannot be used.
    Key {
        /// The key.
        key: &'static str,
        /// Description of what is wrong, continuing "key `..`".
        problem: &'static str,
    },
    /// A tensor that is neither sums nor counts.
    UnknownTensor(String),
    /// Sums without counts, or counts without sums.
    NoPartner(String),
    /// A weight with statistics that are none.
    Weight {
        /// The weight.
        name: String,
        /// What is wrong.
        fault: StatisticsFault,
    },
    /// A weight that comes twice.
    Duplicate(String),
    /// The old binary form ends too early.
    Truncated {
        /// Byte of the file.
        offset: usize,
        /// Bytes needed there.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes behind the end of the old binary form.
    Trailing {
        /// Byte of the file.
        offset: usize,
        /// Bytes left over.
        bytes: usize,
    },
    /// A number of things in the old binary form that it cannot have.
    Count {
        /// Byte of the file.
        offset: usize,
        /// What is counted.
        what: &'static str,
        /// The number.
        value: i32,
        /// Most that there may be.
        max: usize,
    },
    /// A weight in the old binary form has a name of no bytes.
    NoName {
        /// Byte of the file.
        offset: usize,
    },
    /// A name in the old binary form is not UTF-8.
    Utf8 {
        /// Byte of the file.
        offset: usize,
    },
    /// One of two importance matrices does not know how many tokens its chunks have.
    ChunkSizeUnknown,
}

impl From<GgufError> for ImatrixError {
    fn from(error: GgufError) -> ImatrixError {
        ImatrixError::Gguf(error)
    }
}

impl std::error::Error for ImatrixError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImatrixError::Io { source, .. } => Some(source),
            ImatrixError::Gguf(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for ImatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImatrixError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            ImatrixError::TooLarge { bytes } => {
                write!(f, "{bytes} bytes are more than any importance matrix has")
            }
            ImatrixError::Gguf(source) => source.fmt(f),
            ImatrixError::Kind(None) => {
                write!(f, "not an importance matrix: no key `{TYPE_KEY}`")
            }
            ImatrixError::Kind(Some(kind)) => {
                write!(f, "not an importance matrix: key `{TYPE_KEY}` is {kind:?}")
            }
            ImatrixError::Key { key, problem } => write!(f, "key `{key}` {problem}"),
            ImatrixError::UnknownTensor(name) => {
                write!(f, "tensor {name:?} is neither `*{SUMS_SUFFIX}` nor `*{COUNTS_SUFFIX}`")
            }
            ImatrixError::NoPartner(name) => {
                write!(f, "tensor {name:?} has no partner: sums and counts come in pairs")
            }
            ImatrixError::Weight { name, fault } => write!(f, "weight {name:?}: {fault}"),
            ImatrixError::Duplicate(name) => write!(f, "weight {name:?} comes twice"),
            ImatrixError::Truncated { offset, needed, left } => {
                write!(
                    f,
                    "offset {offset}: the file is cut off: {needed} bytes needed, {left} left"
                )
            }
            ImatrixError::Trailing { offset, bytes } => {
                write!(f, "offset {offset}: {bytes} bytes behind the end of the importance matrix")
            }
            ImatrixError::Count { offset: 0, .. } => f.write_str(
                "not an importance matrix: it begins neither as GGUF nor with the number of entries \
                 that the old form has there",
            ),
            ImatrixError::Count { offset, what, value, max } => {
                write!(f, "offset {offset}: {value} {what}, 0 to {max} are allowed")
            }
            ImatrixError::NoName { offset } => write!(f, "offset {offset}: a weight without a name"),
            ImatrixError::Utf8 { offset } => write!(f, "offset {offset}: the name is not UTF-8"),
            ImatrixError::ChunkSizeUnknown => f.write_str(
                "importance matrices with and without a known chunk size cannot be merged",
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// Files by `llama-imatrix` (llama.cpp 0.5.0).
    const DENSE: &[u8] = include_bytes!("../../tests/golden/imatrix/dense.gguf");
    const DENSE_DAT: &[u8] = include_bytes!("../../tests/golden/imatrix/dense.dat");
    const EXPERTS: &[u8] = include_bytes!("../../tests/golden/imatrix/experts.gguf");

    fn read(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
        Imatrix::from_bytes(bytes.to_vec())
    }

    fn gguf_of(imatrix: &Imatrix) -> Vec<u8> {
        let mut bytes = Vec::new();
        imatrix.write_gguf(&mut bytes).unwrap();
        bytes
    }

    fn dat_of(imatrix: &Imatrix) -> Vec<u8> {
        let mut bytes = Vec::new();
        imatrix.write_dat(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn files_of_llama_imatrix_are_read_and_written_again() {
        for (bytes, weights) in [(DENSE, 14), (EXPERTS, 16)] {
            let imatrix = read(bytes).unwrap();
            assert_eq!(imatrix.weights().len(), weights);
            assert_eq!((imatrix.chunk_count, imatrix.chunk_size), (12, 64));
            assert_eq!(imatrix.datasets, ["text.txt"]);
            assert!(gguf_of(&imatrix) == bytes, "the same bytes");
        }
        let imatrix = read(DENSE).unwrap();
        let down = imatrix.get("blk.0.ffn_down.weight").unwrap();
        assert_eq!((down.matrices(), down.columns(), down.counts()), (1, 112, &[768.0][..]));
        let imatrix = read(EXPERTS).unwrap();
        let down = imatrix.get("blk.0.ffn_down_exps.weight").unwrap();
        assert_eq!((down.matrices(), down.columns()), (4, 40));
        assert_eq!(down.counts().iter().sum::<f32>(), 2.0 * 768.0, "two experts for each token");
    }

    #[test]
    fn the_old_form_is_read_and_written_again() {
        let (old, new) = (read(DENSE_DAT).unwrap(), read(DENSE).unwrap());
        assert_eq!((old.chunk_count, old.chunk_size), (12, 0));
        assert_eq!(old.datasets, ["text.txt"]);
        assert!(dat_of(&old) == DENSE_DAT, "the same bytes");
        assert!(dat_of(&new) == DENSE_DAT, "the same bytes from the new form");
        for ((old_name, old), (name, new)) in old.weights().zip(new.weights()) {
            assert_eq!(old_name, name);
            for (old, new) in old.importances().iter().zip(new.importances()) {
                assert!((old - new).abs() <= 1e-6 * new, "{name}: {old} {new}");
            }
        }
        let mut sized = old.clone();
        sized.set_chunk_size(64);
        let name = "blk.1.attn_q.weight";
        assert_eq!(sized.get(name).unwrap().counts(), new.get(name).unwrap().counts());
    }

    #[test]
    fn an_expert_that_was_never_chosen_counts_all_columns_alike() {
        let statistics = Statistics::new(vec![2.0, 4.0, 0.0, 0.0], vec![2.0, 0.0]).unwrap();
        assert_eq!(statistics.importances(), [1.0, 2.0, 1.0, 1.0]);
        assert_eq!(statistics.unseen(), 1);
        let mut imatrix = Imatrix::new(vec![], 1, 2);
        imatrix.add("seen", statistics).unwrap();
        imatrix.add("unseen", Statistics::new(vec![0.0], vec![0.0]).unwrap()).unwrap();
        assert_eq!(read(&gguf_of(&imatrix)).unwrap(), imatrix);
        let old = read(&dat_of(&imatrix)).unwrap();
        assert_eq!(old.weights().len(), 1, "what has seen nothing is left out");
        assert_eq!(old.get("seen").unwrap().importances(), [1.0, 2.0, 1.0, 1.0]);
    }

    #[test]
    fn merging_adds_sums_counts_and_chunks() {
        let one = read(EXPERTS).unwrap();
        let mut two = Imatrix::default();
        two.merge(&one).unwrap();
        assert_eq!(two, one, "into nothing");
        two.merge(&one).unwrap();
        assert_eq!((two.chunk_count, two.chunk_size), (24, 64));
        assert_eq!(two.datasets, ["text.txt", "text.txt"]);
        for (name, statistics) in two.weights() {
            let single = one.get(name).unwrap();
            let sums = single.in_sum2().iter().map(|sum| 2.0 * sum);
            assert!(statistics.in_sum2().iter().copied().eq(sums), "{name}");
            assert_eq!(statistics.importances(), single.importances());
        }
        let mut old = read(DENSE_DAT).unwrap();
        assert!(matches!(old.merge(&read(DENSE).unwrap()), Err(ImatrixError::ChunkSizeUnknown)));
        old.set_chunk_size(64);
        old.merge(&read(DENSE).unwrap()).unwrap();
        let mut other = Imatrix::new(vec![], 1, 32);
        let statistics = Statistics::new(vec![1.0; 5], vec![1.0]).unwrap();
        other.add("blk.0.attn_q.weight", statistics).unwrap();
        let before = old.clone();
        let error = old.merge(&other).unwrap_err().to_string();
        assert!(error.contains("blk.0.attn_q.weight") && error.contains("5 columns"), "{error}");
        assert_eq!(old, before, "a refused merge changes nothing");
    }

    #[test]
    fn chunks_of_another_size_are_counted_in_own_ones() {
        let (mut one, two) = (Imatrix::new(vec![], 3, 512), Imatrix::new(vec![], 3, 128));
        one.merge(&two).unwrap();
        assert_eq!((one.chunk_count, one.chunk_size), (4, 512));
    }

    #[test]
    fn numbers_that_no_activations_have_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let sum = Statistics::new(vec![1.0, bad], vec![1.0]);
            assert!(matches!(sum, Err(StatisticsFault::Sum { column: 1, .. })));
            let count = Statistics::new(vec![1.0, 1.0], vec![1.0, bad]);
            assert!(matches!(count, Err(StatisticsFault::Count { matrix: 1, .. })));
        }
        for (sums, matrices) in [(0, 1), (1, 0), (3, 2)] {
            let shape = Statistics::new(vec![1.0; sums], vec![1.0; matrices]);
            assert!(matches!(shape, Err(StatisticsFault::Shape { .. })));
        }
        let large = Statistics::new(vec![f32::MAX], vec![1.0]).unwrap();
        let mut imatrix = Imatrix::default();
        imatrix.add("w", large.clone()).unwrap();
        assert!(imatrix.add("w", large).is_err(), "an infinite sum");
    }

    /// Every cut of a file, and every byte changed in four ways, gives a value or an error.
    #[test]
    fn hostile_bytes_are_named_errors() {
        for n in 0..DENSE_DAT.len() {
            let cut = read(&DENSE_DAT[..n]);
            // The first files ended behind the entries.
            assert!(cut.is_err() || n == DENSE_DAT.len() - 16, "cut at {n}");
        }
        for file in [DENSE_DAT, DENSE, EXPERTS] {
            for at in 0..file.len() {
                for bits in [1, 0x40, 0x80, 0xff] {
                    let mut bytes = file.to_vec();
                    bytes[at] ^= bits;
                    if let Err(error) = read(&bytes) {
                        assert!(!error.to_string().is_empty());
                    }
                }
            }
        }
        let mut longer = DENSE_DAT.to_vec();
        longer.push(0);
        assert!(matches!(read(&longer), Err(ImatrixError::Trailing { bytes: 1, .. })));
        for count in [-1, 0, i32::MAX] {
            let error = read(&count.to_le_bytes()).unwrap_err();
            assert!(matches!(error, ImatrixError::Count { offset: 0, .. }), "{error}");
        }
        // One weight, a name of no bytes, one call, one value.
        let nameless: Vec<u8> =
            [1, 0, 1, 1, 0].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
        assert!(matches!(read(&nameless), Err(ImatrixError::NoName { offset: 4 })));
    }

    /// Writes a GGUF file of one weight's tensors.
    fn file_of(kind: &str, tensors: &[(&str, GgmlType, &[u64])]) -> Vec<u8> {
        let mut writer = GgufWriter::new(Vec::new());
        writer.add(TYPE_KEY, kind).unwrap();
        writer.add(CHUNK_COUNT_KEY, 1u32).unwrap();
        writer.add(CHUNK_SIZE_KEY, 1u32).unwrap();
        for &(name, ty, dims) in tensors {
            writer.declare(name, ty, dims).unwrap();
        }
        let mut data = writer.write_header().unwrap();
        for &(_, ty, dims) in tensors {
            let bytes = ty.bytes_of(dims.iter().product()).unwrap();
            data.write_tensor(&vec![0; bytes as usize]).unwrap();
        }
        data.finish().unwrap()
    }

    #[test]
    fn foreign_files_are_named_errors() {
        use GgmlType::{F16, F32};
        type Declared<'a> = (&'a str, GgmlType, &'a [u64]);
        fn sums(dims: &[u64]) -> Declared<'_> {
            ("w.in_sum2", F32, dims)
        }
        fn counts(dims: &[u64]) -> Declared<'_> {
            ("w.counts", F32, dims)
        }
        for (file, part) in [
            (file_of("model", &[]), "key `general.type` is \"model\""),
            (file_of("imatrix", &[("w.weight", F32, &[4])]), "\"w.weight\" is neither"),
            (file_of("imatrix", &[sums(&[4])]), "\"w.in_sum2\" has no partner"),
            (file_of("imatrix", &[counts(&[1])]), "\"w.counts\" has no partner"),
            (file_of("imatrix", &[sums(&[4]), counts(&[2])]), "4 sums of squares for 2 matrices"),
            (file_of("imatrix", &[sums(&[4, 2]), counts(&[1, 3])]), "for 3 matrices"),
            (file_of("imatrix", &[sums(&[4]), ("w.counts", F16, &[1])]), "are F16, not F32"),
        ] {
            let error = Imatrix::from_bytes(file).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let tensors = [sums(&[4]), counts(&[1])];
        assert_eq!(Imatrix::from_bytes(file_of("imatrix", &tensors)).unwrap().weights().len(), 1);
    }
}
