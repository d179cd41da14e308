//! A file that appears under its name when it is whole: written as `NAME.teff-part` beside its place, and
//! renamed once all of it is on the disk.
//!
//! Whoever ends the process at any moment leaves an older file of the name as it was. What a killed
//! process left as `NAME.teff-part`, a name that nobody else gives, is written over; what a living one
//! writes is refused. Where the name is a link, the file that it leads to is written. What is no file, or
//! is protected, is refused before anything is written. An older file's permissions stay.

use std::fmt;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Suffix of the name while the file is not whole.
const SUFFIX: &str = ".teff-part";
/// Links that are followed one after the other, as many as Linux does.
const LINKS_MAX: usize = 40;

/// A file being written, which goes away unless it is finished.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_whole: bool,
}

/// Fault that keeps a file from being written.
#[derive(Debug)]
#[non_exhaustive]
pub enum PartFileError {
    /// Another process is writing it.
    Busy(PathBuf),
    /// A folder has the name.
    Folder(PathBuf),
    /// A device, a pipe or the like has the name, which no file can replace.
    Special(PathBuf),
    /// An older file has the name, and is protected against writing.
    Protected(PathBuf),
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
    /// The name is no file's or that of a protected one, the file cannot be made, or another process is
    /// writing it.
    pub fn create(target: &Path) -> Result<PartFile, PartFileError> {
        let target = end_of_links(target);
        match fs::metadata(&target) {
            Ok(older) => check(&target, &older)?,
            // Where nothing can be made, making it says why.
            Err(_) if target.file_name().is_some() => {}
            Err(_) => return Err(PartFileError::Folder(target)),
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = target.with_file_name(name);
        let io = |error| PartFileError::Io { path: path.clone(), error };
        let file = loop {
            let file = File::options().write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(io)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(PartFileError::Busy(path)),
                // Some file systems have no locks.
                Err(TryLockError::Error(_)) => {}
            }
            // Another process may have given it its name before the lock was free.
            if is_at(&file, &path) {
                break file;
            }
        };
        file.set_len(0).map_err(io)?;
        Ok(PartFile { file, path, target, is_whole: false })
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
    pub fn finish(self) -> Result<(), PartFileError> {
        PartFile::finish_all(vec![self])
    }

    /// Gives files that belong together their names, the first one last: whoever finds that finds the
    /// others, and an older one is taken away before, so that none leads to files of two kinds.
    ///
    /// # Errors
    /// The system refuses; files that have no name yet are removed then.
    pub fn finish_all(mut parts: Vec<PartFile>) -> Result<(), PartFileError> {
        for part in &parts {
            if let Ok(older) = fs::metadata(&part.target) {
                // A file system without permissions has none to lose.
                let _ = part.file.set_permissions(older.permissions());
            }
            part.file.sync_all().map_err(|error| part.error(error))?;
        }
        if let [first, _, ..] = &parts[..]
            && let Err(error) = fs::remove_file(&first.target)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(PartFileError::Io { path: first.target.clone(), error });
        }
        for part in parts.iter_mut().rev() {
            fs::rename(&part.path, &part.target)
                .map_err(|error| PartFileError::Io { path: part.target.clone(), error })?;
            part.is_whole = true;
        }
        Ok(())
    }
}

/// The path that links lead to, whether there is something or not.
fn end_of_links(path: &Path) -> PathBuf {
    let mut end = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&end) else { break };
        end = end.parent().unwrap_or(Path::new("")).join(next);
    }
    end
}

/// Refuses what a file cannot or must not replace.
fn check(path: &Path, older: &Metadata) -> Result<(), PartFileError> {
    match () {
        () if older.is_dir() => Err(PartFileError::Folder(path.to_owned())),
        () if !older.is_file() => Err(PartFileError::Special(path.to_owned())),
        () if older.permissions().readonly() => Err(PartFileError::Protected(path.to_owned())),
        () => Ok(()),
    }
}

/// Whether an open file has this name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (own, there) = (file.metadata().map(number), fs::metadata(path).map(number));
    own.is_ok_and(|own| there.is_ok_and(|there| own == there))
}

/// An open file keeps its name here.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
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
            PartFileError::Folder(path) => write!(f, "{}: is a folder", path.display()),
            PartFileError::Special(path) => {
                write!(f, "{}: is no regular file and cannot be replaced", path.display())
            }
            PartFileError::Protected(path) => {
                write!(f, "{}: is there already, protected against writing", path.display())
            }
            PartFileError::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for PartFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PartFileError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A folder of its own that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("part-file-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_name_is_given_at_the_end_or_never() {
        let folder = Folder::new("name");
        let target = folder.0.join("x.gguf");
        fs::write(&target, "old").unwrap();
        let part = PartFile::create(&target).unwrap();
        part.file().write_all(b"new").unwrap();
        assert!(matches!(PartFile::create(&target), Err(PartFileError::Busy(_))));
        let name = part.path().to_owned();
        drop(part);
        assert!(!name.exists());
        assert_eq!(fs::read(&target).unwrap(), b"old");

        fs::write(&name, "left by a process that was killed").unwrap();
        let own = folder.0.join("x.gguf.part");
        fs::write(&own, "the user's").unwrap();
        let part = PartFile::create(&target).unwrap();
        part.file().write_all(b"new").unwrap();
        part.finish().unwrap();
        assert!(!name.exists());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read(&own).unwrap(), b"the user's");
    }

    #[test]
    fn what_is_no_file_or_protected_is_refused_at_once() {
        let folder = Folder::new("refused");
        let target = folder.0.join("x.gguf");
        fs::create_dir(&target).unwrap();
        assert!(matches!(PartFile::create(&target), Err(PartFileError::Folder(_))));
        assert!(matches!(PartFile::create(Path::new("/")), Err(PartFileError::Folder(_))));
        fs::remove_dir(&target).unwrap();
        fs::write(&target, "old").unwrap();
        let mut permissions = fs::metadata(&target).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&target, permissions).unwrap();
        assert!(matches!(PartFile::create(&target), Err(PartFileError::Protected(_))));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn devices_stay_and_links_lead_on() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let null = PartFile::create(Path::new("/dev/null"));
        assert!(matches!(null, Err(PartFileError::Special(_))), "{null:?}");
        let folder = Folder::new("links");
        fs::create_dir(folder.0.join("far")).unwrap();
        let (link, target) = (folder.0.join("link"), folder.0.join("far/x.gguf"));
        symlink("far/x.gguf", &link).unwrap();
        for content in ["first", "second"] {
            let part = PartFile::create(&link).unwrap();
            assert_eq!(part.path(), folder.0.join("far/x.gguf.teff-part"));
            part.file().write_all(content.as_bytes()).unwrap();
            part.finish().unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            let mode = || fs::metadata(&target).unwrap().permissions().mode() & 0o777;
            if content == "second" {
                assert_eq!(mode(), 0o640, "as it was");
            }
            fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
        }
    }

    #[test]
    fn files_that_belong_together_get_their_names_together() {
        let folder = Folder::new("together");
        let targets = ["1", "2", "3"].map(|name| folder.0.join(name));
        fs::write(&targets[0], "old").unwrap();
        let parts = targets.each_ref().map(|target| PartFile::create(target).unwrap());
        assert!(!targets[1].exists());
        // The last name is taken meanwhile: the first one must not lead to it.
        fs::create_dir(&targets[1]).unwrap();
        fs::write(targets[1].join("x"), "").unwrap();
        assert!(PartFile::finish_all(parts.into()).is_err());
        assert!(!targets[0].exists());
        fs::remove_dir_all(&targets[1]).unwrap();
        let parts = targets.each_ref().map(|target| PartFile::create(target).unwrap());
        PartFile::finish_all(parts.into()).unwrap();
        assert!(targets.iter().all(|target| target.exists()));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
    }
}
