//! Both forms of an importance matrix's file, read: no length, shape or number is trusted.

use super::{
    CHUNK_COUNT_KEY, CHUNK_SIZE_KEY, COUNTS_SUFFIX, DATASETS_KEY, Imatrix, ImatrixError,
    SUMS_SUFFIX, Statistics, StatisticsFault, TYPE, TYPE_KEY,
};
use gguf_rs_lite::{GgmlType, GgufFile};

/// Entries of a file at most: half of the tensors that a GGUF file may have.
const ENTRIES_MAX: usize = 1 << 15;

/// Bytes of a weight's name at most, in a `.dat` file; GGUF has a limit of its own.
const NAME_BYTES_MAX: usize = 128;

/// Datasets of a file at most: each merge adds those of the other file.
const DATASETS_MAX: usize = 1 << 16;

/// The GGUF form.
///
/// # Errors
/// The bytes are none of it.
pub(super) fn gguf(bytes: Vec<u8>) -> Result<Imatrix, ImatrixError> {
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

/// The old binary form.
///
/// # Errors
/// The bytes are none of it.
pub(super) fn dat(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
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
