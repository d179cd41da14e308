//! The file that a verb makes another of: a GGUF file, or one that is made of a Hugging Face folder and
//! goes away again.

use super::options::cache_of;
use super::progress::StderrProgress;
use super::{CliError, convert, interrupt};
use crate::cache::ModelRef;
use crate::convert::ConvertOptions;
use gguf_rs_lite::GgufFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file, and what messages call it.
pub struct Source {
    /// The file, little-endian.
    pub file: Arc<GgufFile>,
    /// Its path, or the folder that it is made of.
    pub path: PathBuf,
    _made: Option<Made>,
}

/// A file that is there for as long as this.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed stays under a name that says what it is.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Source {
    /// Opens a file, fetched first if need be; a folder is converted into a file beside `output`, in
    /// the types that it is stored in.
    ///
    /// # Errors
    /// The file cannot be had, or the folder not converted.
    pub fn open(input: &ModelRef, output: &Path) -> Result<Source, CliError> {
        let folder = match input {
            ModelRef::Path(path) => Some(path).filter(|path| path.is_dir()),
            ModelRef::Alias(_) | ModelRef::Hub { .. } => None,
        };
        if let Some(folder) = folder {
            return Source::convert(folder, output);
        }
        let cache = cache_of(input)?;
        let path =
            interrupt::orderly(|cancel| cache.resolve(input, &mut StderrProgress::new(), cancel))?;
        Source::of_file(path.clone(), path, None)
    }

    fn of_file(file: PathBuf, path: PathBuf, made: Option<Made>) -> Result<Source, CliError> {
        let mut file = super::header::open(&file)?;
        file.make_little_endian().map_err(CliError::of_model(&path))?;
        Ok(Source { file: Arc::new(file), path, _made: made })
    }

    fn convert(folder: &Path, output: &Path) -> Result<Source, CliError> {
        convert::check_output(folder, output)?;
        let conversion = convert::plan(folder, &ConvertOptions::default())?;
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let made = output.with_file_name(format!(".{name}.{}.converted", std::process::id()));
        convert::write(&conversion, folder, &made)?;
        let guard = Made(made.clone());
        let source = Source::of_file(made.clone(), folder.to_path_buf(), Some(guard));
        // Where the system lets a file be read on without a name, nothing is left of it whatever
        // becomes of this process; elsewhere it goes away at the end.
        let _ = std::fs::remove_file(made);
        source
    }
}
