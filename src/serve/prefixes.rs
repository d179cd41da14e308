//! Instructions that many conversations begin with: kept in memory at the place where users begin to
//! speak, and on disk, from where the next server goes on.

use crate::engine::{DISK_TOKENS_MIN, DiskCache, Request, Runner};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of instructions that are worth a place of their own: as few are computed in one step.
const TOKENS_MIN: usize = 64;
/// Instructions of which is known what became of them.
const KNOWN_MAX: usize = 1024;

/// What is known of instructions.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Hash of their tokens.
    id: u64,
    /// Whether the disk has been asked for them and memory has had them since.
    is_fetched: bool,
    /// Whether they have been written, or found written.
    is_kept: bool,
}

/// Instructions of a model's conversations.
#[derive(Debug)]
pub struct Prefixes {
    disk: Option<DiskCache>,
    /// The newest at the end.
    known: Mutex<VecDeque<Known>>,
    /// Held by who writes, so that one writes at a time.
    writing: Mutex<()>,
}

impl Prefixes {
    /// None yet; without a disk they are kept in memory only.
    pub fn new(disk: Option<DiskCache>) -> Prefixes {
        Prefixes { disk, known: Mutex::default(), writing: Mutex::default() }
    }

    /// Has a request start from what earlier servers have computed of its first `n_head` tokens, and leave
    /// them for others. Returns them if they are worth a place on disk. It may wait for the engine's step.
    pub fn fetch(
        &self,
        runner: &Runner,
        request: &mut Request,
        n_head: usize,
    ) -> Option<Arc<[u32]>> {
        if n_head < TOKENS_MIN {
            return None;
        }
        request.shared_prefix = n_head;
        let disk = self.disk.as_ref().filter(|_| n_head >= DISK_TOKENS_MIN)?;
        let prefix: Arc<[u32]> = request.prompt[..n_head].into();
        let is_fetched = self.note(&prefix, |known| std::mem::replace(&mut known.is_fetched, true));
        if !is_fetched {
            disk.fetch(runner, &prefix);
        }
        Some(prefix)
    }

    /// Takes note of how much of a prompt with these instructions the memory had: if it has lost them, the
    /// disk is asked the next time.
    pub fn found(&self, prefix: &[u32], n_cached: usize) {
        self.note(prefix, |known| known.is_fetched &= n_cached + TOKENS_MIN >= prefix.len());
    }

    /// Whether instructions are to be written.
    pub fn wants(&self, prefix: &[u32]) -> bool {
        self.disk.is_some() && !self.note(prefix, |known| known.is_kept)
    }

    /// Writes instructions that the runner has computed, on a thread that may block. What cannot be written
    /// is tried again with the next request, as no answer depends on it.
    pub fn keep(&self, runner: &Runner, prefix: &[u32]) {
        let Some(disk) = &self.disk else { return };
        let Ok(_one) = self.writing.try_lock() else { return };
        if self.wants(prefix) && disk.keep(runner, prefix).is_ok() {
            self.note(prefix, |known| known.is_kept = true);
        }
    }

    /// Looks at, or changes, what is known of instructions.
    fn note<T>(&self, prefix: &[u32], change: impl FnOnce(&mut Known) -> T) -> T {
        let mut hasher = DefaultHasher::new();
        prefix.hash(&mut hasher);
        let id = hasher.finish();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|known| known.id == id);
        let mut one = at.and_then(|at| known.remove(at)).unwrap_or(Known {
            id,
            is_fetched: false,
            is_kept: false,
        });
        let changed = change(&mut one);
        known.push_back(one);
        if known.len() > KNOWN_MAX {
            known.pop_front();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_again_for_what_memory_has_lost() {
        let disk = DiskCache::new("nowhere".as_ref(), 1);
        let prefixes = Prefixes::new(Some(disk));
        let prefix = [7; 300];
        let asked =
            || prefixes.note(&prefix, |known| std::mem::replace(&mut known.is_fetched, true));
        assert!(!asked() && asked());
        prefixes.found(&prefix, 288);
        assert!(asked());
        prefixes.found(&prefix, 32);
        assert!(!asked());
        assert!(prefixes.wants(&prefix));
        prefixes.note(&prefix, |known| known.is_kept = true);
        assert!(!prefixes.wants(&prefix) && prefixes.wants(&prefix[1..]));
        assert!(!Prefixes::new(None).wants(&prefix));
    }
}
