//! Workers: threads that stand idle between the steps of a decoder, and share what is done there.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Threads that share the calls of a function.
pub trait Workers: fmt::Debug {
    /// Calls `f` once with each number below `n`, in any order and on any of the threads, and returns when
    /// all calls have.
    ///
    /// # Panics
    /// If a call does.
    fn each(&self, n: usize, f: &(dyn Fn(usize) + Sync));
}

impl dyn Workers + '_ {
    /// Calls `f` once with each of some items and its index. Panics as [`Workers::each`].
    pub fn for_each<T: Send>(
        &self,
        items: impl IntoIterator<Item = T>,
        f: impl Fn(usize, T) + Sync,
    ) {
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.each(items.len(), &|i| {
            let item = items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(item) = item {
                f(i, item);
            }
        });
    }
}

/// The calling thread, by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Workers for Alone {
    fn each(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(f);
    }
}
