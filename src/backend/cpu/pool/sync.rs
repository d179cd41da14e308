//! Atomics and locks of the pool, from the standard library or, to be model-checked
//! (`tests/loom`), from loom.
#![allow(unexpected_cfgs, reason = "only the package `tests/loom` is built with `--cfg loom`")]

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::{Condvar, Mutex};

/// Value on cache lines of its own, so that writers of one value do not slow down readers of its
/// neighbour: two lines of 64 bytes, as CPUs fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);
