//! Threads of verbs, for whose want the program ends with an error, not with a panic.

use super::CliError;
use crate::backend::MAX_THREADS;
use crate::tensor::memory;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Threads that compute: as many as there are CPUs where nobody asks for a number.
pub fn number(asked: Option<u16>) -> usize {
    let default = std::thread::available_parallelism().map_or(1, |n| n.get());
    asked.map_or(default.min(MAX_THREADS), usize::from)
}

/// A thread within `scope` that runs `f`.
///
/// # Errors
/// The system has no memory for it, or no more threads.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    f: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, CliError> {
    check_room()?;
    Builder::new()
        .spawn_scoped(scope, f)
        .map_err(|error| CliError::failed(format!("cannot start a thread: {error}")))
}

/// Asks whether there is room for a thread, for whoever starts one by other means.
///
/// # Errors
/// There is none.
pub fn check_room() -> Result<(), CliError> {
    memory::check_room("the stack of a thread", memory::THREAD_BYTES)
        .map_err(|error| CliError::failed(error.to_string()))
}
