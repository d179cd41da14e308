//! Work that threads share: parts, taken one after the other.

use super::error::QuantizeError;
use std::sync::{Mutex, PoisonError};

/// Has threads take one part of a work after the other, each with buffers of its own. Of several errors
/// the first part's counts.
pub(crate) fn share<T: Send, B: Default>(
    parts: Vec<T>,
    threads: usize,
    work: &(impl Fn(T, &mut B) -> Result<(), QuantizeError> + Sync),
) -> Result<(), QuantizeError> {
    let threads = threads.clamp(1, parts.len().max(1));
    let queue = Mutex::new(parts.into_iter().enumerate());
    let failed: Mutex<Option<(usize, QuantizeError)>> = Mutex::new(None);
    let run = || {
        let mut buffers = B::default();
        loop {
            // A worker that panics takes the whole scope with it.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, part)) = next else { break };
            if let Err(error) = work(part, &mut buffers) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                    *failed = Some((number, error));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let thread = std::thread::Builder::new().name("teff-quantize".into());
            thread.spawn_scoped(scope, run).map_err(QuantizeError::Threads)?;
        }
        run();
        Ok::<_, QuantizeError>(())
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
