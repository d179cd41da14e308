//! A file that appears under its name when it is whole: written as `NAME.part` beside its place, and
//! renamed once all of it is on the disk.
//!
//! Whoever ends the process at any moment leaves an older file of the name as it was. A `.part` that a
//! killed process left is written over; one that a living process writes is refused.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Suffix of the name while the file is not whole.
const SUFFIX: &str = ".part";

/// A file being written, which goes away unless it is finished.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_whole: bool,
}

/// What keeps a file from being written.
#[derive(Debug)]
#[non_exhaustive]
pub enum PartFileError {
    /// Another process is writing it.
    Busy(PathBuf),
    /// The system refuses.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

impl PartFile {
    /// Begins the file that will be `target`.
    ///
    /// # Errors
    /// The file cannot be made, or another process is writing it.
    pub fn create(target: &Path) -> Result<PartFile, PartFileError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = target.with_file_name(name);
        let io = |error| PartFileError::Io { path: path.clone(), error };
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PartFileError::Busy(path)),
            // Some file systems have no locks.
            Err(TryLockError::Error(_)) => {}
        }
        file.set_len(0).map_err(io)?;
        Ok(PartFile { file, path, target: target.to_owned(), is_whole: false })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Name of the file until it is whole.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a write to the file.
    pub fn error(&self, error: io::Error) -> PartFileError {
        PartFileError::Io { path: self.path.clone(), error }
    }

    /// Gives the file its name, in the place of an older one, once all of it is on the disk.
    ///
    /// # Errors
    /// The system refuses; the file is removed then.
    pub fn finish(mut self) -> Result<(), PartFileError> {
        self.file.sync_all().map_err(|error| self.error(error))?;
        fs::rename(&self.path, &self.target)
            .map_err(|error| PartFileError::Io { path: self.target.clone(), error })?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_whole {
            // A destructor has nobody to tell, and the next run writes over it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl fmt::Display for PartFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartFileError::Busy(path) => {
                write!(f, "{}: another process is writing this file", path.display())
            }
            PartFileError::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for PartFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PartFileError::Busy(_) => None,
            PartFileError::Io { error, .. } => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_name_is_given_at_the_end_or_never() {
        let folder = std::env::temp_dir().join(format!("part-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let target = folder.join("x.gguf");
        fs::write(&target, "old").unwrap();
        let part = PartFile::create(&target).unwrap();
        part.file().write_all(b"new").unwrap();
        assert!(matches!(PartFile::create(&target), Err(PartFileError::Busy(_))));
        let name = part.path().to_owned();
        drop(part);
        assert!(!name.exists());
        assert_eq!(fs::read(&target).unwrap(), b"old");

        fs::write(&name, "left by a process that was killed").unwrap();
        let part = PartFile::create(&target).unwrap();
        part.file().write_all(b"new").unwrap();
        part.finish().unwrap();
        assert!(!name.exists());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::remove_dir_all(&folder).unwrap();
    }
}
