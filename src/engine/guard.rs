//! Panics that stay where they happen: one request's work must not end the others.

use super::EngineError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does `work`, whose state is thrown away or brought in order by the caller if it panics.
///
/// # Errors
/// [`EngineError::Panicked`] with the panic's message.
pub(super) fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|payload| EngineError::Panicked { message: message_of(&*payload) })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
