//! Layout of the cache folder, and the names that may lie there.
//!
//! ```text
//! <cache>/models/<file>                     aliases
//! <cache>/hub/<owner>/<repo>/<path>         files of the hub, under the names they have there
//! <cache>/hub/<owner>/<repo>/.files.json    what the hub last said the repository holds
//! .<file>.partial, .partial.json, .lock, .pip   beside a file while it is being fetched
//! ```
//! The names are the publishers' own, so any other program can be pointed at the files.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::error::CacheError;

/// Longest path of a file inside a repository; longer ones no file system promises to take.
const REPO_PATH_MAX: usize = 1024;
/// Longest name of one folder or file, as on ext4, APFS and NTFS, less what `.x.partial.json` adds.
const NAME_MAX: usize = 255 - 16;
/// Time between looks of a waiting process at the other one.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Whether `name` can be the owner or the name of a repository: the hub's own alphabet, which
/// holds nothing a file system could take for anything but a name.
pub(super) fn is_repo_part(name: &str) -> bool {
    (1..=96).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Checks a path that a server gave, such as `UD/model-00001-of-00002.gguf`: it must stay below
/// the folder it is joined to, on any platform, and collide with none of our own files.
///
/// # Errors
/// [`CacheError::UnsafeName`].
pub(super) fn checked_repo_path(path: &str) -> Result<&str, CacheError> {
    let safe_part = |part: &str| {
        (1..=NAME_MAX).contains(&part.len())
            && !part.starts_with('.')
            && !part.ends_with(['.', ' '])
            && !part.contains(|c: char| c.is_control() || r#"\:*?"<>|"#.contains(c))
            && !is_windows_device(part)
    };
    if path.len() <= REPO_PATH_MAX && path.split('/').all(safe_part) {
        Ok(path)
    } else {
        let name = path.chars().take(80).collect();
        Err(CacheError::UnsafeName { name })
    }
}

/// `con`, `nul.gguf`, `com1` and their like open a device on Windows, in whatever folder.
fn is_windows_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    match stem.as_str() {
        "con" | "prn" | "aux" | "nul" => true,
        s => s.len() == 4 && (s.starts_with("com") || s.starts_with("lpt")),
    }
}

/// The hidden file that belongs to `file`: `.NAME.SUFFIX` in the same folder.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(suffix);
    file.with_file_name(name)
}

/// Length of a file in bytes; `None` if there is no such regular file.
pub(super) fn file_len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len())
}

/// Removes a file that may not exist. Says whether it did.
pub(super) fn remove_if_there(path: &Path) -> Result<bool, CacheError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(CacheError::io("remove", path, e)),
    }
}

/// The right to fetch or remove one file, held until dropped, also against other processes.
/// A process that dies gives it back. The lock's own file goes away with it.
pub(super) struct Lock {
    /// Held for its lock.
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the right to write `file`; calls `waiting` once if another process has it.
    pub fn wait(
        file: &Path,
        cancel: &AtomicBool,
        waiting: impl FnOnce(),
    ) -> Result<Lock, CacheError> {
        let mut waiting = Some(waiting);
        loop {
            match Lock::attempt(file) {
                Err(CacheError::Busy { .. }) => {}
                done => return done,
            }
            if let Some(tell) = waiting.take() {
                tell();
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(CacheError::Cancelled);
            }
            thread::sleep(LOCK_POLL);
        }
    }

    /// Takes the right to write `file`, or says [`CacheError::Busy`].
    pub fn attempt(file: &Path) -> Result<Lock, CacheError> {
        let path = beside(file, ".lock");
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| CacheError::io("create", folder, e))?;
        let open = File::options().create(true).append(true).open(&path);
        let lock = open.map_err(|e| CacheError::io("open", &path, e))?;
        let busy = || CacheError::Busy { path: file.to_owned() };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            // Some network file systems know no locks: one process at a time still works there.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(CacheError::io("lock", &path, e)),
        }
        // Who had it before may have taken the file away after it was opened here, and another
        // process may have made a new one: then this lock keeps nobody out.
        if is_file_at(&lock, &path) { Ok(Lock { file: lock, path }) } else { Err(busy()) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where a file cannot be told from another of its name it stays.
        if cfg!(unix) && is_file_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let (open, named) = (file.metadata().map(id).ok(), fs::metadata(path).map(id).ok());
    open.is_some() && open == named
}

/// Nobody takes lock files away here.
#[cfg(not(unix))]
fn is_file_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_cannot_leave_the_folder() {
        for path in ["a.gguf", "UD-Q4/a b+c-00001-of-00002.gguf", "模型.gguf"] {
            assert_eq!(checked_repo_path(path).expect(path), path);
        }
        for path in [
            "",
            "/etc/passwd",
            "../a.gguf",
            "a/../../b.gguf",
            "a//b.gguf",
            "a/./b",
            "..\\a.gguf",
            "C:a.gguf",
            "a\0.gguf",
            "a\n.gguf",
            ".files.json",
            "d/.x.partial",
            "nul.gguf",
            "COM1.gguf",
            "a.gguf.",
            "a.gguf/",
        ] {
            assert!(checked_repo_path(path).is_err(), "{path:?}");
        }
        assert!(checked_repo_path(&"a".repeat(300)).is_err());
        assert!(checked_repo_path(&"a/".repeat(600)).is_err());
    }

    #[test]
    fn a_file_has_one_writer() {
        let dir = std::env::temp_dir().join(format!("teff-lock-{}", std::process::id()));
        let file = dir.join("m.gguf");
        let first = Lock::attempt(&file).expect("free");
        assert!(matches!(Lock::attempt(&file), Err(CacheError::Busy { .. })));
        let mut told = false;
        let cancelled = Lock::wait(&file, &AtomicBool::new(true), || told = true);
        assert!(matches!(cancelled, Err(CacheError::Cancelled)) && told);
        let lock = beside(&file, ".lock");
        assert!(lock.exists());
        drop(first);
        assert!(cfg!(not(unix)) || !lock.exists(), "nothing is left behind");
        let again = Lock::attempt(&file).expect("free again");
        if cfg!(unix) {
            // Somebody else's file of the same name is no business of ours.
            fs::remove_file(&lock).expect("own folder");
            fs::write(&lock, "").expect("own folder");
            drop(again);
            assert!(lock.exists());
        }
        fs::remove_dir_all(dir).expect("own folder");
    }
}
