//! Memory that may be refused: large buffers whose shortage is an error that names them.
//!
//! Rust ends the process when the system refuses memory to a `Vec`. Everything that grows with a
//! model, a context or a batch is asked for here instead, and its refusal is an [`OutOfMemory`].
//! Limits: a system that promises more memory than it has (Linux, unless `ulimit -v` or its
//! overcommit policy says otherwise) refuses nothing here and ends the process later. Budgets made
//! from [`available_bytes`](crate::backend::available_bytes) keep a program from that.
//!
//! A program's allocator may end the program with a message where other memory is refused, as that
//! of `main.rs` does. Where [`may_refuse`] is true it has to return the refusal instead.

use std::cell::Cell;
use std::thread::{self, JoinHandle};
use std::{fmt, io};

/// Bytes of memory that a new thread takes: the stack that Rust gives it, and what the system and
/// Rust's handler of stack overflows put beside it.
pub const THREAD_BYTES: usize = (2 << 20) + (128 << 10);

thread_local! {
    /// Whether a refusal of memory to this thread is returned as an error.
    static MAY_REFUSE: Cell<bool> = const { Cell::new(false) };
}

/// Refusal of memory for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Content of the buffer.
    pub what: &'static str,
    /// Bytes that were asked for.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutOfMemory { what, bytes } = self;
        write!(f, "not enough memory: {bytes} bytes for {what} cannot be had")
    }
}

impl std::error::Error for OutOfMemory {}

impl From<OutOfMemory> for io::Error {
    fn from(error: OutOfMemory) -> io::Error {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// The system's refusal of threads, in words: it says "try again" where there is no memory for their
/// stacks, or where it allows no more of them.
#[derive(Debug)]
pub struct NoThreads<'a>(pub &'a io::Error);

impl fmt::Display for NoThreads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoThreads(error) = self;
        // Thread pools wrap the system's error.
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(*error);
        let mut is_refused = false;
        while let Some(cause) = source {
            let io = cause.downcast_ref::<io::Error>();
            is_refused |= io.is_some_and(|io| io.kind() == io::ErrorKind::WouldBlock);
            let inner = io.and_then(io::Error::get_ref);
            source = inner.map_or_else(|| cause.source(), |inner| Some(inner));
        }
        let cause = match is_refused {
            true => "not enough memory for their stacks, or too many threads: ",
            false => "",
        };
        write!(f, "cannot start worker threads: {cause}{error}")
    }
}

/// Whether this thread takes a refusal of memory as an error, see [`ask`].
#[must_use]
pub fn may_refuse() -> bool {
    MAY_REFUSE.get()
}

/// Runs `ask`, which asks for memory and takes a refusal as an error.
pub fn ask<R>(ask: impl FnOnce() -> R) -> R {
    let before = MAY_REFUSE.replace(true);
    let result = ask();
    MAY_REFUSE.set(before);
    result
}

/// Capacity of `vec` for `n` elements in all.
///
/// # Errors
/// [`OutOfMemory`]; `vec` is unchanged then.
pub fn reserve<T>(vec: &mut Vec<T>, n: usize, what: &'static str) -> Result<(), OutOfMemory> {
    let more = n.saturating_sub(vec.len());
    let bytes = n.saturating_mul(size_of::<T>());
    ask(|| vec.try_reserve_exact(more)).map_err(|_| OutOfMemory { what, bytes })
}

/// Checks that the system has `bytes` in one piece, ahead of work that panics or aborts without
/// them, such as the start of a thread, which needs a stack. The bytes are given back untouched, so
/// another thread may take them before that work does.
///
/// # Errors
/// [`OutOfMemory`], which names `what`.
pub fn check_room(what: &'static str, bytes: usize) -> Result<(), OutOfMemory> {
    let mapped = memmap2::MmapMut::map_anon(bytes.max(1));
    mapped.map(drop).map_err(|_| OutOfMemory { what, bytes })
}

/// Starts a thread that may outlive its caller. `std::thread::spawn` panics where this is an error.
///
/// # Errors
/// The system has no memory for its stack, or no more threads.
pub fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    check_room("the stack of a thread", THREAD_BYTES)?;
    thread::Builder::new().name(name.to_owned()).spawn(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_buffer_and_its_bytes() {
        let mut vec = vec![1_u64];
        let error = reserve(&mut vec, usize::MAX / 16, "the moon").unwrap_err();
        assert_eq!(error, OutOfMemory { what: "the moon", bytes: usize::MAX / 16 * 8 });
        assert!(error.to_string().contains("bytes for the moon"), "{error}");
        assert_eq!(vec, [1]);
        assert!(!may_refuse() && ask(may_refuse) && !may_refuse());
        assert_eq!(check_room("a page", 1), Ok(()));
        assert_eq!(spawn("test", || 7).unwrap().join().unwrap(), 7);
        let error = OutOfMemory { what: "the sun", bytes: usize::MAX / 2 };
        assert_eq!(check_room("the sun", usize::MAX / 2), Err(error));
    }
}
