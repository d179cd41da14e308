//! The file that a verb makes another of: a GGUF file, or one that is made of a Hugging Face folder and
//! goes away again.

use super::options::cache_of;
use super::progress::StderrProgress;
use super::{CliError, convert, interrupt};
use crate::cache::ModelRef;
use crate::convert::{Conversion, ConvertOptions, Place, Qat};
use gguf_rs_lite::GgufFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Input of a verb.
pub enum Source {
    /// A file, little-endian, and its path.
    File(GgufFile, PathBuf),
    /// A folder, read but for its weights.
    Folder(Box<Conversion>, PathBuf),
}

/// A file that is there for as long as this.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed stays under a name that says what it is.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The file of a source.
pub struct Opened {
    /// The file, little-endian.
    pub file: Arc<GgufFile>,
    _made: Option<Made>,
    _place: Option<Place>,
}

impl From<GgufFile> for Opened {
    fn from(file: GgufFile) -> Opened {
        Opened { file: Arc::new(file), _made: None, _place: None }
    }
}

impl Source {
    /// Finds a file, fetched first if need be, or reads a folder.
    ///
    /// # Errors
    /// The file cannot be had, or the folder not be converted.
    pub fn open(input: &ModelRef) -> Result<Source, CliError> {
        if let ModelRef::Path(path) = input
            && path.is_dir()
        {
            // Floats stay floats: what is made of them is chosen by who asks.
            let options = ConvertOptions { qat: Qat::Off, ..ConvertOptions::default() };
            let conversion = convert::plan(path, &options)?;
            return Ok(Source::Folder(Box::new(conversion), path.clone()));
        }
        let cache = cache_of(input)?;
        let path =
            interrupt::orderly(|cancel| cache.resolve(input, &mut StderrProgress::new(), cancel))?;
        Ok(Source::File(open(&path, &path)?, path))
    }

    /// Path that messages name.
    pub fn path(&self) -> &Path {
        match self {
            Source::File(_, path) | Source::Folder(_, path) => path,
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&GgufFile> {
        match self {
            Source::File(file, _) => Some(file),
            Source::Folder(..) => None,
        }
    }

    /// The files of the folder, if it is one.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Source::File(..) => Vec::new(),
            Source::Folder(_, folder) => convert::files_of(folder),
        }
    }

    /// The file, without the weights of a folder if `needs_weights` is false. What `check` finds in the way is
    /// said before a folder is converted, by the file without its weights; it is not asked of other files.
    ///
    /// # Errors
    /// What `check` says, or the folder cannot be converted.
    pub fn checked(
        self,
        output: &Path,
        needs_weights: bool,
        check: impl FnOnce(&GgufFile) -> Result<(), CliError>,
    ) -> Result<Opened, CliError> {
        let preview = self.preview()?;
        preview.as_ref().map_or(Ok(()), |preview| check(&preview.file))?;
        match preview.filter(|_| !needs_weights) {
            Some(preview) => Ok(preview),
            None => self.into_file(output),
        }
    }

    /// Of a folder the file without its weights, which are not read.
    ///
    /// # Errors
    /// It would not run, or there is no place for it.
    fn preview(&self) -> Result<Option<Opened>, CliError> {
        let Source::Folder(conversion, folder) = self else { return Ok(None) };
        let (file, place) = convert::outline(conversion, folder)?;
        Ok(Some(Opened { file, _made: None, _place: Some(place) }))
    }

    /// The file; that of a folder is made beside `output`, in the types that it is stored in. What a
    /// process that was killed has left of one is written over.
    ///
    /// # Errors
    /// The folder cannot be converted.
    pub fn into_file(self, output: &Path) -> Result<Opened, CliError> {
        let (conversion, folder) = match self {
            Source::File(file, _) => return Ok(file.into()),
            Source::Folder(conversion, folder) => (conversion, folder),
        };
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let made = output.with_file_name(format!(".{name}.converted"));
        convert::write(&conversion, &folder, &made)?;
        let guard = Made(made.clone());
        let file = open(&made, &folder)?;
        // Where the system lets a file be read on without a name, nothing is left of it whatever
        // becomes of this process; elsewhere it goes away at the end.
        let _ = std::fs::remove_file(made);
        Ok(Opened { _made: Some(guard), ..file.into() })
    }
}

/// Opens a file that messages call `path`.
fn open(file: &Path, path: &Path) -> Result<GgufFile, CliError> {
    let mut file = super::header::open(file)?;
    file.make_little_endian().map_err(CliError::of_model(path))?;
    Ok(file)
}
