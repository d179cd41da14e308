//! History of what was typed, kept for later starts in a file of the user's data folder that nobody else
//! may read.

use crate::cache::user_folder;
use reedline::{FileBackedHistory, Reedline};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// Lines that are kept.
const LINES_MAX: usize = 1000;

/// The history and where it is kept.
pub struct History {
    /// `None`: it is not kept.
    file: Option<PathBuf>,
}

impl History {
    /// The history of earlier starts; one of this start alone where no file can be had.
    pub fn new() -> History {
        let mut history = History { file: None };
        if let Err(problem) = history.set(true) {
            super::super::note(format_args!("note: what you type is not remembered: {problem}"));
        }
        history
    }

    /// Whether it is kept.
    pub fn is_saved(&self) -> bool {
        self.file.is_some()
    }

    /// Keeps it from now on, or not; the file of earlier starts stays.
    ///
    /// # Errors
    /// There is no place for a file. It is not kept then.
    pub fn set(&mut self, on: bool) -> Result<(), String> {
        self.file = None;
        if on {
            let path =
                user_folder::data().ok_or("neither XDG_DATA_HOME nor HOME is set")?.join("history");
            make_private(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            self.file = Some(path);
        }
        Ok(())
    }

    /// The editor with this history.
    pub fn attach(&mut self, editor: Reedline) -> Reedline {
        let kept = self.file.take().and_then(|path| {
            let history = FileBackedHistory::with_file(LINES_MAX, path.clone()).ok()?;
            self.file = Some(path);
            Some(history)
        });
        match kept.map_or_else(|| FileBackedHistory::new(LINES_MAX), Ok) {
            Ok(history) => editor.with_history(Box::new(history)),
            // The capacity is the only reason, and it is a constant.
            Err(_) => editor,
        }
    }
}

/// Makes the file if it is not there, and lets nobody but the user read it.
fn make_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    drop(file);
    Ok(())
}
