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

mod error;
mod read;

pub use error::{ImatrixError, StatisticsFault};

use gguf_rs_lite::{Error as GgufError, GgmlType, GgufWriter, OwnedArray, OwnedValue};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

/// Bytes of a `.dat` file at most: the widest known models have about 100 MB of importances.
const DAT_BYTES_MAX: u64 = 1 << 30;

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
        if bytes.starts_with(b"GGUF") { read::gguf(bytes) } else { read::dat(&bytes) }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// Files by `llama-imatrix` (llama.cpp 0.5.0).
    const DENSE: &[u8] = include_bytes!("../../../tests/golden/imatrix/dense.gguf");
    const DENSE_DAT: &[u8] = include_bytes!("../../../tests/golden/imatrix/dense.dat");
    const EXPERTS: &[u8] = include_bytes!("../../../tests/golden/imatrix/experts.gguf");

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
