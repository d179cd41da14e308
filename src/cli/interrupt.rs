//! Ctrl-C: the first asks the work to stop at the next step, the second ends the process.

use super::CliError;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process that SIGINT ended, as shells report it.
const INTERRUPTED: i32 = 130;

static FLAG: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// Becomes true at the first Ctrl-C.
pub fn flag() -> Result<&'static AtomicBool, CliError> {
    if INSTALLED.set(()).is_ok() {
        ctrlc::set_handler(|| {
            if FLAG.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED);
            }
        })
        .map_err(|error| CliError::failed(format!("cannot watch for Ctrl-C: {error}")))?;
    }
    Ok(&FLAG)
}
