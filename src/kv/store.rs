//! Numbers of pages and state slots: who holds each, which are free, and what all of them take.
//!
//! Everything that the cache hands out is counted here, so the budget is kept in one place. A thing
//! may be held by sequences and by nodes of the prefix tree; it is free when nobody holds it.

use std::ops::AddAssign;

/// Kind of thing: pages of one group of layers, or state slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(pub usize);

/// Who holds a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A sequence: it reads the thing, or writes it if nobody else holds it.
    Sequence,
    /// A node of the prefix tree: the thing can be evicted when no sequence holds it.
    Node,
}

/// Numbers of holders.
#[derive(Clone, Copy, Debug, Default)]
struct Holders {
    sequences: u32,
    nodes: u32,
}

impl Holders {
    fn count(&mut self, holder: Holder) -> &mut u32 {
        match holder {
            Holder::Sequence => &mut self.sequences,
            Holder::Node => &mut self.nodes,
        }
    }

    fn is_cached(self) -> bool {
        self.sequences == 0 && self.nodes > 0
    }
}

/// Things of one kind.
struct Things {
    bytes: usize,
    /// By number.
    holders: Vec<Holders>,
    /// Numbers that nobody holds, the last given back at the end.
    free: Vec<u32>,
}

/// Numbers of pages by who holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageCounts {
    /// Pages that one sequence uses.
    pub used: usize,
    /// Pages that several sequences use.
    pub shared: usize,
    /// Pages that are kept and that no sequence uses.
    pub cached: usize,
    /// Pages for which the budget has room, about; 0 without a budget.
    pub free: usize,
}

/// Store of all pages and state slots.
pub(super) struct Store {
    kinds: Vec<Things>,
    /// Bytes of what somebody holds.
    bytes: usize,
    /// Bytes of what only nodes hold.
    cached_bytes: usize,
    bytes_max: usize,
}

impl Store {
    /// No things yet, for kinds of these sizes in bytes.
    pub fn new(sizes: impl IntoIterator<Item = usize>, bytes_max: usize) -> Store {
        let things = |bytes| Things { bytes, holders: Vec::new(), free: Vec::new() };
        let kinds = sizes.into_iter().map(things).collect();
        Store { kinds, bytes: 0, cached_bytes: 0, bytes_max }
    }

    /// Bytes of what somebody holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of what only nodes of the prefix tree hold.
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Bytes that may be held.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that may still be taken.
    pub fn bytes_left(&self) -> usize {
        self.bytes_max - self.bytes
    }

    /// Bytes of a thing.
    pub fn size(&self, kind: Kind) -> usize {
        self.kinds[kind.0].bytes
    }

    /// A thing that nobody held, for a sequence.
    ///
    /// # Panics
    /// Without [`Store::bytes_left`] for it.
    pub fn take(&mut self, kind: Kind) -> u32 {
        let things = &mut self.kinds[kind.0];
        assert!(things.bytes <= self.bytes_max - self.bytes, "the budget was looked at before");
        self.bytes += things.bytes;
        let id = things.free.pop().unwrap_or_else(|| {
            things.holders.push(Holders::default());
            u32::try_from(things.holders.len() - 1).expect("fewer than 2^32 pages")
        });
        things.holders[id as usize].sequences = 1;
        id
    }

    /// Adds a holder.
    pub fn hold(&mut self, kind: Kind, id: u32, holder: Holder) {
        self.change(kind, id, |holders| holders.count(holder).add_assign(1));
    }

    /// Takes a holder away; a thing without holders is free.
    pub fn release(&mut self, kind: Kind, id: u32, holder: Holder) {
        self.change(kind, id, |holders| {
            let count = holders.count(holder);
            *count = count.checked_sub(1).expect("who releases a thing holds it");
        });
        let things = &mut self.kinds[kind.0];
        let Holders { sequences, nodes } = things.holders[id as usize];
        if sequences == 0 && nodes == 0 {
            self.bytes -= things.bytes;
            things.free.push(id);
        }
    }

    fn change(&mut self, kind: Kind, id: u32, change: impl FnOnce(&mut Holders)) {
        let things = &mut self.kinds[kind.0];
        let holders = &mut things.holders[id as usize];
        let was_cached = holders.is_cached();
        change(holders);
        match (was_cached, holders.is_cached()) {
            (false, true) => self.cached_bytes += things.bytes,
            (true, false) => self.cached_bytes -= things.bytes,
            _ => {}
        }
    }

    /// Whether more than one holds it, so that it must not be written.
    pub fn is_shared(&self, kind: Kind, id: u32) -> bool {
        let Holders { sequences, nodes } = self.kinds[kind.0].holders[id as usize];
        sequences + nodes > 1
    }

    /// Number of times that sequences hold it.
    pub fn n_sequences(&self, kind: Kind, id: u32) -> u32 {
        self.kinds[kind.0].holders[id as usize].sequences
    }

    /// Whether a node holds it.
    pub fn is_kept(&self, kind: Kind, id: u32) -> bool {
        self.kinds[kind.0].holders[id as usize].nodes > 0
    }

    /// Whether a sequence holds it.
    pub fn is_in_use(&self, kind: Kind, id: u32) -> bool {
        self.kinds[kind.0].holders[id as usize].sequences > 0
    }

    /// Counts of the things of the first `n_kinds` kinds. Cost: it looks at each.
    pub fn counts(&self, n_kinds: usize) -> PageCounts {
        let kinds = &self.kinds[..n_kinds];
        let mut counts = PageCounts::default();
        for holders in kinds.iter().flat_map(|things| &things.holders) {
            match (holders.sequences, holders.nodes) {
                (0, 0) => {}
                (0, _) => counts.cached += 1,
                (1, _) => counts.used += 1,
                _ => counts.shared += 1,
            }
        }
        let all: usize = kinds.iter().map(|things| things.bytes).sum();
        let free = (self.bytes_left() / all.max(1)).saturating_mul(n_kinds);
        counts.free = if self.bytes_max == usize::MAX { 0 } else { free };
        counts
    }

    /// Numbers of things that somebody holds, for tests.
    #[cfg(test)]
    pub fn n_held(&self, kind: Kind) -> usize {
        self.kinds[kind.0].holders.len() - self.kinds[kind.0].free.len()
    }
}
