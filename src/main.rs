//! The `teff` program.
//!
//! Its allocator is the system's, but for its last words: where Rust would end the process by
//! SIGABRT because the system has no more memory, it ends with an error message and exit code 1,
//! as after any other error. Large buffers do not come to that, see [`teff::tensor::memory`]: they
//! are refused, and the message says what for. What is left are tables of the vocabulary, and what
//! libraries ask for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use teff::tensor::memory;

fn main() -> ExitCode {
    teff::cli::main()
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The system's allocator, which ends the process where nobody takes a refusal.
struct Allocator;

// SAFETY: every method is the system allocator's with the caller's arguments, and gives what that
// gives or does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same promise.
        or_end(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same promise.
        or_end(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the same promise.
        or_end(unsafe { System.realloc(block, layout, new_size) }, new_size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A block of so many bytes, or the end of the process if there is none and nobody can do without.
fn or_end(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() && !memory::may_refuse() {
        end(bytes);
    }
    block
}

thread_local! {
    /// Whether this thread is ending the process.
    static IS_ENDING: Cell<bool> = const { Cell::new(false) };
}

#[cold]
fn end(bytes: usize) -> ! {
    static ENDED: AtomicBool = AtomicBool::new(false);
    if IS_ENDING.replace(true) {
        // Not even the message could be written.
        std::process::abort();
    }
    while ENDED.swap(true, Ordering::SeqCst) {
        // Another thread ends the process.
        std::thread::park();
    }
    // Standard error has no buffer. If it is closed, nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "error: not enough memory: {bytes} bytes cannot be had");
    std::process::exit(1);
}
