//! What the cache keeps of a text, with its bytes: read for copies that outlive the process, and put
//! back from them.

use super::{StepError, Stepper};
use crate::kv::{KeptAt, KeptId, KeptKind};
use crate::tensor::memory::reserve;

/// A page or a slot of states that is kept of a text, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBytes {
    /// Place in the text.
    pub at: KeptAt,
    /// Content as [`Executor::read_page`](crate::backend::Executor::read_page) or
    /// [`read_states`](crate::backend::Executor::read_states) gives it.
    pub bytes: Vec<u8>,
}

impl Stepper<'_> {
    /// Things that are kept of a text behind the place `after`, in order: one, or as many as have
    /// `bytes_max` bytes; none at the end.
    ///
    /// Equal tokens have equal things whenever they are read, so a text may be read in parts while
    /// others use the cache; what is evicted meanwhile is left out.
    ///
    /// Nothing is kept any more where a device turns out to be lost ([`StepError::Moved`]).
    ///
    /// # Errors
    /// The system has no memory for a copy, or a device does not give it.
    pub fn read_kept(
        &mut self,
        tokens: &[u32],
        after: Option<KeptAt>,
        bytes_max: usize,
    ) -> Result<Vec<KeptBytes>, StepError> {
        let (mut read, mut n_bytes) = (Vec::new(), 0);
        let kept = self.core.kv.kept(tokens);
        for (at, id) in kept.into_iter().filter(|&(at, _)| Some(at) > after) {
            let len = self.core.kv.kept_bytes(at.kind);
            if !read.is_empty() && n_bytes + len > bytes_max {
                break;
            }
            let mut bytes = Vec::new();
            let what = "a copy of what the cache keeps";
            reserve(&mut bytes, len, what).map_err(StepError::Memory)?;
            match (at.kind, id) {
                (KeptKind::Page { group }, KeptId::Page(page)) => {
                    let given = self.executor.read_page(group, page, at.n_tokens(), &mut bytes);
                    match given.map_err(|error| self.broken_off(error)) {
                        Err(StepError::Moved(_)) => return Ok(Vec::new()),
                        given => given?,
                    }
                }
                (_, KeptId::States(slot)) => self.executor.read_states(slot, &mut bytes),
                _ => unreachable!("a page is listed as one"),
            }
            debug_assert!(bytes.len() == len, "pages and slots have their size");
            n_bytes += len;
            read.push(KeptBytes { at, bytes });
        }
        Ok(read)
    }

    /// Puts back what was read, in order, as long as the budget of the cache has room beside what is
    /// in use and what was used since `PagePool::begin_put` gave `since`. Returns the number of things that
    /// are there now: none where a device turns out to be lost ([`StepError::Moved`]).
    ///
    /// # Errors
    /// The system has no memory for them, or a device is lost; some may be there.
    ///
    /// # Panics
    /// If a thing has not its kind's number of bytes, or a place beyond the tokens.
    pub fn put_kept(
        &mut self,
        tokens: &[u32],
        since: u64,
        things: &[KeptBytes],
    ) -> Result<usize, StepError> {
        let places: Vec<KeptAt> = things.iter().map(|thing| thing.at).collect();
        let placed = self.core.kv.put(tokens, since, &places);
        for (i, (thing, &id)) in things.iter().zip(&placed).enumerate() {
            let (group, bytes) = match thing.at.kind {
                KeptKind::Page { group } => (group, &thing.bytes),
                KeptKind::States => (usize::MAX, &thing.bytes),
            };
            let written = match id {
                Some(KeptId::Page(page)) => self.executor.write_page(group, page, bytes),
                Some(KeptId::States(slot)) => self.executor.write_states(slot, bytes),
                None => Ok(()),
            };
            if let Err(error) = written.map_err(|error| self.broken_off(error)) {
                if matches!(error, StepError::Moved(_)) {
                    return Ok(0);
                }
                for (&at, id) in places[i..].iter().zip(&placed[i..]) {
                    if id.is_some() {
                        self.core.kv.forget(tokens, at);
                    }
                }
                return Err(error);
            }
        }
        Ok(placed.len())
    }
}
