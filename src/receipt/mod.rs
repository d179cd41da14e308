//! Receipts: what a file was made of and by what, in its own metadata, with a sha256 for each tensor.
//!
//! The keys begin with `teff.receipt.`; other programs pass them over. A tensor's hash is that of its bytes;
//! that of a GGUF file is over the name, type, dimensions and hash of each tensor in turn, that of a folder over
//! the names and hashes of its files. Hashes are only known when the data is written, so a header is
//! written twice: first with zeros of the same length.

mod loss;
mod sha256;

pub use loss::Loss;
pub(crate) use loss::loss_of;

use gguf_rs_lite::{GgmlType, GgufFile, OwnedValue};
use sha256::Hasher;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Beginning of all keys.
pub const PREFIX: &str = "teff.receipt.";
pub(crate) const VERSION: &str = "teff.receipt.version";
pub(crate) const SOURCE: &str = "teff.receipt.source.sha256";
pub(crate) const TENSORS: &str = "teff.receipt.tensors.names";
pub(crate) const HASHES: &str = "teff.receipt.tensors.sha256";
pub(crate) const ERRORS: &str = "teff.receipt.tensors.rms_error";
pub(crate) const COSINES: &str = "teff.receipt.tensors.cosine";
pub(crate) const FILES: &str = "teff.receipt.source.files";
pub(crate) const FILE_HASHES: &str = "teff.receipt.source.files.sha256";
pub(crate) const FACTORS: &str = "teff.receipt.tensors.factors";
pub(crate) const TEXTS: &str = "teff.receipt.tokenizer.texts";
pub(crate) const IDS: &str = "teff.receipt.tokenizer.ids";

/// Digits of a hash.
const DIGITS: usize = 64;
/// Bytes that are hashed between two looks at whether the file is whole.
const CHUNK_BYTES: usize = 4 << 20;

/// Receipt's entries that are known before anything is written. Without the feature `receipt` hashes stay zeros.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Key behind [`PREFIX`] and value: the method, parameters, hashes of texts.
    pub entries: Vec<(String, String)>,
    /// Texts, and their tokens' ids in decimal with spaces between.
    pub tokens: Vec<(String, String)>,
}

/// Receipt's entries of a tensor that is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Written {
    pub sha256: String,
    pub loss: Loss,
    /// Whether it is the source's times factors.
    pub has_factors: bool,
}

/// Receipt's entries that are known when all is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub source: String,
    /// Names and hashes of the source's files, if it is a folder.
    pub files: Vec<(String, String)>,
    pub tensors: Vec<Written>,
}

impl Known {
    /// As much room as what will be known takes.
    pub fn placeholder(tensors: usize) -> Known {
        let sha256 = "0".repeat(DIGITS);
        let loss = Loss::default();
        let written = Written { sha256: sha256.clone(), loss, has_factors: false };
        Known { source: sha256, files: Vec::new(), tensors: vec![written; tensors] }
    }

    /// [`Known::placeholder`] where the source is a folder with files of these names.
    #[cfg(feature = "convert")]
    pub fn placeholder_of(files: &[String], tensors: usize) -> Known {
        let files = files.iter().map(|name| (name.clone(), "0".repeat(DIGITS))).collect();
        Known { files, ..Known::placeholder(tensors) }
    }
}

impl Request {
    /// Adds what is known of a key, without [`PREFIX`].
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.entries.push((key.to_owned(), value.into()));
    }

    /// The entries of metadata, for tensors of these names; which of them have factors is only said by
    /// methods that make some.
    pub(crate) fn metadata<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        folds: bool,
        known: &Known,
    ) -> Vec<(String, OwnedValue)> {
        let all =
            |of: &dyn Fn(&Written) -> f32| -> Vec<f32> { known.tensors.iter().map(of).collect() };
        let names: Vec<String> = names.map(str::to_owned).collect();
        let hashes: Vec<String> = known.tensors.iter().map(|t| t.sha256.clone()).collect();
        let factors: Vec<bool> = known.tensors.iter().map(|t| t.has_factors).collect();
        let version = concat!("teff ", env!("CARGO_PKG_VERSION"));
        let mut entries: Vec<(String, OwnedValue)> = vec![
            (VERSION.into(), version.into()),
            (SOURCE.into(), known.source.clone().into()),
            (TENSORS.into(), names.into()),
            (HASHES.into(), hashes.into()),
            (ERRORS.into(), all(&|tensor| tensor.loss.rms_error() as f32).into()),
            (COSINES.into(), all(&|tensor| tensor.loss.cosine() as f32).into()),
        ];
        if !known.files.is_empty() {
            let (names, hashes): (Vec<String>, Vec<String>) = known.files.iter().cloned().unzip();
            entries.push((FILES.into(), names.into()));
            entries.push((FILE_HASHES.into(), hashes.into()));
        }
        if folds {
            entries.push((FACTORS.into(), factors.into()));
        }
        for (key, value) in &self.entries {
            entries.push((format!("{PREFIX}{key}"), value.clone().into()));
        }
        if !self.tokens.is_empty() {
            let (texts, ids): (Vec<String>, Vec<String>) = self.tokens.iter().cloned().unzip();
            entries.push((TEXTS.into(), texts.into()));
            entries.push((IDS.into(), ids.into()));
        }
        entries
    }
}

/// Hashes bytes, such as those of a tensor.
#[derive(Default)]
pub struct TensorHash(Hasher);

impl TensorHash {
    /// Goes on with bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finish()
    }
}

/// A hash that nobody stops: of [`hash_of_path`], say, which is given what it is to ask.
///
/// # Errors
/// Those of `hash`.
pub fn unstopped<E>(
    hash: impl FnOnce(&dyn Fn() -> bool) -> Result<Option<String>, E>,
) -> Result<String, E> {
    Ok(hash(&|| true)?.expect("the answer is yes whenever it asks"))
}

/// The hash of a file's bytes; `goes_on` is asked between parts, and `None` is what comes of a no.
///
/// # Errors
/// It cannot be read.
pub fn hash_of_path(path: &Path, goes_on: &dyn Fn() -> bool) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (TensorHash::default(), vec![0; CHUNK_BYTES]);
    while goes_on() {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(Some(hash.finish()));
        }
        hash.update(&buffer[..n]);
    }
    Ok(None)
}

/// The hash of files with these names and hashes.
#[cfg(feature = "convert")]
pub(crate) fn hash_of_files(files: &[(String, String)]) -> String {
    let mut all = FileHash::default().0;
    for part in files.iter().flat_map(|(name, hash)| [name, hash]) {
        all.update(&(part.len() as u64).to_le_bytes());
        all.update(part.as_bytes());
    }
    all.finish()
}

/// The hash of tensors in turn.
#[derive(Default)]
pub(crate) struct FileHash(Hasher);

impl FileHash {
    pub fn update(&mut self, name: &str, ty: GgmlType, dims: &[u64], sha256: &str) {
        for part in [name, ty.name(), sha256] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part.as_bytes());
        }
        self.0.update(&(dims.len() as u64).to_le_bytes());
        dims.iter().for_each(|dim| self.0.update(&dim.to_le_bytes()));
    }

    pub fn finish(self) -> String {
        self.0.finish()
    }
}

/// The hash of all tensors of a file; `goes_on` is asked between parts.
///
/// # Errors
/// The file was cut meanwhile.
pub(crate) fn hash_of_file(
    file: &GgufFile,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<String>, gguf_rs_lite::Error> {
    let mut all = FileHash::default();
    for info in file.tensors() {
        let Some(sha256) = hash_of_tensor(file, info, goes_on)? else { return Ok(None) };
        all.update(&info.name, info.ty, &info.dims, &sha256);
    }
    Ok(Some(all.finish()))
}

/// The hash of a tensor's bytes; `goes_on` is asked between parts.
pub(crate) fn hash_of_tensor(
    file: &GgufFile,
    info: &gguf_rs_lite::TensorInfo,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<String>, gguf_rs_lite::Error> {
    file.check_uncut()?;
    let mut hash = TensorHash::default();
    for (number, chunk) in file.data(info).chunks(CHUNK_BYTES).enumerate() {
        if !goes_on() {
            return Ok(None);
        }
        hash.update(chunk);
        let start = number * CHUNK_BYTES;
        file.release(info, start..start + chunk.len());
    }
    Ok(Some(hash.finish()))
}
