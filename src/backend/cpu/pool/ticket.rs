//! Tickets: who computes which items of a phase.
//!
//! Memory is what decoding waits for, so it shall not be idle. Each worker has a share of a phase's
//! items, in one stretch: memory streams better that way, and its prefetchers are right about what
//! comes next. A worker that has done its share helps the others.

use super::mode::PhaseId;
use super::sync::CachePadded;
use super::worker::Worker;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Items that a phase may have, and items of a chunk: sums of two of them do not overflow.
const ITEMS_MAX: usize = isize::MAX as usize;

/// Items of a phase as its first worker asked for them: first item, end, and items per chunk, each
/// plus one; zeros before anybody asked.
#[derive(Default)]
pub(super) struct Deal([AtomicUsize; 3]);

impl Deal {
    /// Nobody has asked.
    pub fn clear(&self) {
        self.0.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    /// Asks for these items, in runs of `chunk`.
    ///
    /// # Panics
    /// If another worker of the phase has asked for something else.
    fn agree(&self, items: &Range<usize>, chunk: usize) {
        assert!(items.start.max(items.end).max(chunk) <= ITEMS_MAX, "a phase has too many items");
        for (slot, mine) in self.0.iter().zip([items.start, items.end, chunk]) {
            let first = slot.compare_exchange(0, mine + 1, Ordering::Relaxed, Ordering::Relaxed);
            assert!(first.is_ok() || first == Err(mine + 1), "workers asked for different deals");
        }
    }
}

/// Next ticket of a worker's share of the items, in phases of even and of odd number.
#[derive(Default)]
pub(super) struct NextTicket(CachePadded<[AtomicUsize; 2]>);

impl NextTicket {
    /// Begins with the first ticket in phases of this parity.
    pub fn rewind(&self, parity: usize) {
        self.0.0[parity].store(0, Ordering::Relaxed);
    }

    fn draw(&self, parity: usize) -> usize {
        self.0.0[parity].fetch_add(1, Ordering::Relaxed)
    }
}

/// Index into [`NextTicket`] of the phase that begins when `n_phases` have ended.
pub(super) fn parity(n_phases: u64) -> usize {
    (n_phases % 2) as usize
}

/// Stretch of a job between two barriers, as one worker sees it.
pub struct Phase<'p> {
    worker: &'p Worker<'p>,
    parity: usize,
    pub(super) id: PhaseId,
    dealt: Cell<bool>,
}

impl<'p> Phase<'p> {
    /// Current phase of the worker's team, which the worker has entered.
    pub(super) fn new(worker: &'p Worker<'p>, parity: usize, id: PhaseId) -> Phase<'p> {
        Phase { worker, parity, id, dealt: Cell::new(false) }
    }

    /// Work items `0..n_items` in runs of `chunk`. Each worker has a share of them, see
    /// [`Worker::share`], and takes it in ascending order; then it helps the others.
    ///
    /// # Panics
    /// If it is the worker's second deal of the phase, or another one than the other workers'.
    pub fn tickets(&self, n_items: usize, chunk: usize) -> Tickets<'_> {
        self.tickets_of(0..n_items, chunk)
    }

    /// [`Phase::tickets`] with other items than those from 0 on.
    pub fn tickets_of(&self, items: Range<usize>, chunk: usize) -> Tickets<'_> {
        assert!(!self.dealt.replace(true), "a phase deals its tickets once");
        let chunk = chunk.max(1);
        self.worker.team.deal.agree(&items, chunk);
        Tickets { phase: self, items, chunk, n_empty: 0 }
    }
}

/// Chunks of `0..n_items` that worker `index` of `n` takes before it helps others, as items.
pub(super) fn share(n_items: usize, chunk: usize, index: usize, n: usize) -> Range<usize> {
    let n_chunks = n_items.div_ceil(chunk);
    let start = |i: usize| n_items.min((n_chunks / n * i + n_chunks % n * i / n) * chunk);
    start(index)..start(index + 1)
}

/// Iterator over the tickets that one worker draws.
pub struct Tickets<'p> {
    phase: &'p Phase<'p>,
    items: Range<usize>,
    chunk: usize,
    /// Shares without a ticket left, from the worker's own on.
    n_empty: usize,
}

impl<'p> Iterator for Tickets<'p> {
    type Item = Ticket<'p>;

    fn next(&mut self) -> Option<Ticket<'p>> {
        let Phase { worker, parity, id, .. } = *self.phase;
        let n = worker.n_threads();
        while self.n_empty < n {
            let index = (worker.index() + self.n_empty) % n;
            let share = share(self.items.len(), self.chunk, index, n);
            let drawn = worker.team.next_ticket[index].draw(parity);
            if drawn < share.len().div_ceil(self.chunk) {
                let start = share.start + drawn * self.chunk;
                let end = share.end.min(start + self.chunk);
                let items = self.items.start + start..self.items.start + end;
                return Some(Ticket { phase: id, items, life: PhantomData });
            }
            self.n_empty += 1;
        }
        None
    }
}

/// Right, within one phase, to the items `items()` and to what they own in shared buffers. No two
/// tickets of a phase have an item in common.
pub struct Ticket<'p> {
    pub(super) phase: PhaseId,
    pub(super) items: Range<usize>,
    pub(super) life: PhantomData<&'p ()>,
}

impl Ticket<'_> {
    /// Items of this ticket.
    pub fn items(&self) -> Range<usize> {
        self.items.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_chunks_of_all_items_in_order() {
        for (n_items, chunk) in [(0, 1), (1, 1), (5, 7), (49, 7), (50, 7), (1000, 16)] {
            for n in [1, 2, 3, 16] {
                let mut end = 0;
                for index in 0..n {
                    let share = share(n_items, chunk, index, n);
                    assert_eq!(share.start, end);
                    assert!(share.end == n_items || share.end.is_multiple_of(chunk));
                    assert!(share.len().div_ceil(chunk) <= n_items.div_ceil(chunk).div_ceil(n));
                    end = share.end;
                }
                assert_eq!(end, n_items);
            }
        }
    }

    #[test]
    fn shares_of_the_most_items_do_not_overflow() {
        for chunk in [1, 7, ITEMS_MAX / 2, ITEMS_MAX] {
            let shares: Vec<_> = (0..3).map(|i| share(ITEMS_MAX, chunk, i, 3)).collect();
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start), "{shares:?}");
            assert_eq!((shares[0].start, shares[2].end), (0, ITEMS_MAX));
        }
    }
}
