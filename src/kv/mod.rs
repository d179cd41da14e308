//! The KV cache's books: which page belongs to which sequence.
//!
//! A sequence has a table of pages for each group of layers. Pages are taken as they fill, within a
//! budget; layers with a sliding window give back the pages behind it, but for those that the last
//! [`DRAFT_TOKENS_MAX`] tokens need to be taken back; a fork shares its parent's pages until one of
//! the two writes (copy on write). Only numbers are handed out here: memory is the backend's, which
//! is told by [`CacheOp`]s what to copy before the next step.
//!
//! **A step is a transaction.** [`PagePool::reserve`] makes room for the tokens of all sequences of
//! a step, or for none. Then [`PagePool::commit`] adds them, or [`PagePool::unreserve`] gives
//! everything back if the step is not made, or [`PagePool::undo`] if it was left in the middle.
//!
//! A model with recurrent layers has a slot beside the pages: states that each token changes. They
//! cannot be cut, so slots are kept as they were at the ends of the last few chunks of prompt: a
//! sequence can be forked at, or cut back to, its end, such a position, or nothing. Anywhere else
//! `None` or `false` says that the tokens have to be computed anew. Slots are shared and copied as
//! pages are, when somebody writes.
//!
//! What is known of a sequence can be kept when it is gone ([`PagePool::retain`]), for others that
//! begin with the same tokens ([`PagePool::match_prefix`]); see `prefix`.
//!
//! **Keys are stored rotated** by their positions (and for Q4_0 by a Hadamard transform). So a page
//! is of use at its own position behind its own prefix only: shifting a context that is full means
//! to compute what stays of it anew.

mod prefix;
mod step;
mod store;

use crate::backend::pages::{
    CacheOp, KvType, LayerGroup, PAGE_TOKENS, PageFill, PageId, PageTable, StateSlot,
};
use crate::backend::program::KvShape;
use prefix::PrefixTree;
pub use prefix::{KeptAt, KeptId, KeptKind};
use std::collections::HashMap;
use std::fmt;
pub use store::PageCounts;
use store::{Holder, Kind, Store};

/// Handle of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(u32);

/// Error of tokens that cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvError {
    /// A sequence would exceed the context.
    ContextFull {
        /// Tokens that a sequence may have.
        n_ctx: usize,
    },
    /// The pages and states in use would exceed the budget.
    OutOfBudget {
        /// Bytes that the step needs.
        needed: usize,
        /// Bytes that all pages and states may take.
        kv_bytes_max: usize,
    },
    /// No such sequence.
    UnknownSequence,
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvError::ContextFull { n_ctx } => {
                write!(f, "the context of {n_ctx} tokens is full")
            }
            KvError::OutOfBudget { needed, kv_bytes_max } => write!(
                f,
                "the KV cache is full: {needed} more bytes are needed, its budget is \
                 {kv_bytes_max} bytes"
            ),
            KvError::UnknownSequence => write!(f, "no such sequence in the KV cache"),
        }
    }
}

impl std::error::Error for KvError {}

/// A context whose keys, values and states do not fit the budget of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextTooLarge {
    /// Tokens in the context.
    pub n_ctx: usize,
    /// Bytes that one sequence of that length takes.
    pub needed: usize,
    /// Bytes that all pages and states may take.
    pub kv_bytes_max: usize,
    /// Tokens in a context that would fit, whole pages.
    pub n_ctx_fitting: usize,
}

impl fmt::Display for ContextTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContextTooLarge { n_ctx, needed, kv_bytes_max, n_ctx_fitting } = self;
        write!(
            f,
            "the KV cache of a context of {n_ctx} tokens takes {needed} bytes, more than its \
             budget of {kv_bytes_max}: {n_ctx_fitting} tokens would fit"
        )
    }
}

impl std::error::Error for ContextTooLarge {}

/// Slots of earlier states that a sequence keeps, the newest: enough for the turns of a
/// conversation that are edited, and a model's states may take tens of megabytes.
const SNAPSHOTS_MAX: usize = 4;

/// Tokens that can be taken back at any time, from the longest that a sequence has been: more than
/// a draft that is checked at once has. Half a page more behind each window.
pub const DRAFT_TOKENS_MAX: usize = 16;

/// A page of a sequence's table that a step has changed.
struct Changed {
    group: usize,
    index: usize,
    /// Page that was there; the sequence still holds it.
    before: Option<PageId>,
}

/// Changes to a sequence by a step that is reserved.
#[derive(Default)]
struct Pending {
    /// Tokens that it adds.
    n: usize,
    pages: Vec<Changed>,
    /// The slot that the step's own was copied from, which the sequence still holds; `None` inside
    /// if there was none. `None` if the step changes the states in place.
    states: Option<Option<StateSlot>>,
}

#[derive(Default)]
struct Sequence {
    /// Tokens whose keys and values are stored.
    len: usize,
    table: PageTable,
    /// Recurrent states behind the tokens, if the model has any and there are tokens.
    states: Option<StateSlot>,
    /// Earlier states, with the number of tokens that each is of, ascending.
    snapshots: Vec<(usize, StateSlot)>,
    pending: Option<Pending>,
}

/// The pages and states of all sequences.
pub struct PagePool {
    groups: Vec<LayerGroup>,
    has_states: bool,
    store: Store,
    tree: PrefixTree,
    sequences: HashMap<SeqId, Sequence>,
    /// The sequences of the step that is reserved.
    step: Vec<SeqId>,
    /// Destinations of the reserved step's tokens.
    fills: Vec<PageFill>,
    /// Changes that the backend has not been told yet.
    ops: Vec<CacheOp>,
    next_id: u32,
    n_ctx: usize,
}

impl PagePool {
    /// A pool for sequences of at most `n_ctx` tokens, with recurrent states of `states` elements,
    /// and pages and states of at most `kv_bytes_max` bytes in all.
    pub fn new(
        layers: &[KvShape],
        states: &[usize],
        kind: KvType,
        n_ctx: usize,
        kv_bytes_max: usize,
    ) -> PagePool {
        let groups = LayerGroup::of_layers(layers);
        let state_bytes = states.iter().sum::<usize>() * size_of::<f32>();
        let sizes = groups.iter().map(|group| group.page_bytes(kind));
        PagePool {
            store: Store::new(sizes.chain([state_bytes]), kv_bytes_max),
            has_states: !states.is_empty(),
            tree: PrefixTree::new(),
            groups,
            sequences: HashMap::new(),
            step: Vec::new(),
            fills: Vec::new(),
            ops: Vec::new(),
            next_id: 0,
            n_ctx,
        }
    }

    /// Tokens that a sequence may have.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Bytes of the pages and recurrent states in use or kept, of which a shared one counts once.
    pub fn kv_bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Numbers of pages by who holds them. Cost: each is looked at.
    pub fn page_counts(&self) -> PageCounts {
        self.store.counts(self.groups.len())
    }

    /// Bytes that pages and states may take.
    pub fn kv_bytes_max(&self) -> usize {
        self.store.bytes_max()
    }

    /// Bytes that a sequence of `n` tokens takes whose steps have at most `max_batch` tokens.
    pub fn bytes_of(&self, n: usize, max_batch: usize) -> usize {
        let groups = self.groups.iter().enumerate().map(|(group, LayerGroup { shape, .. })| {
            // Behind a step the window's pages, and before that those of the step.
            let most = shape.window.map_or(usize::MAX, |window| {
                window.saturating_add(DRAFT_TOKENS_MAX + max_batch + PAGE_TOKENS)
            });
            n.min(most).div_ceil(PAGE_TOKENS).saturating_mul(self.store.size(Kind(group)))
        });
        let states = self.store.size(self.states_kind());
        groups.fold(states, usize::saturating_add)
    }

    /// Checks that a sequence, whose steps have at most `max_batch` tokens, can be as long as the
    /// context.
    ///
    /// # Errors
    /// That takes more than the budget.
    pub fn check_context(&self, max_batch: usize) -> Result<(), ContextTooLarge> {
        let (n_ctx, kv_bytes_max) = (self.n_ctx, self.store.bytes_max());
        let needed = self.bytes_of(n_ctx, max_batch);
        if needed <= kv_bytes_max {
            return Ok(());
        }
        let (mut fitting, mut beyond) = (0, n_ctx.div_ceil(PAGE_TOKENS));
        while fitting + 1 < beyond {
            let pages = fitting.midpoint(beyond);
            let fits = self.bytes_of(pages * PAGE_TOKENS, max_batch) <= kv_bytes_max;
            *if fits { &mut fitting } else { &mut beyond } = pages;
        }
        let n_ctx_fitting = fitting * PAGE_TOKENS;
        Err(ContextTooLarge { n_ctx, needed, kv_bytes_max, n_ctx_fitting })
    }

    fn states_kind(&self) -> Kind {
        Kind(self.groups.len())
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SeqId {
        let table = vec![Vec::new(); self.groups.len()];
        self.insert(Sequence { table, ..Sequence::default() })
    }

    fn insert(&mut self, seq: Sequence) -> SeqId {
        let id = SeqId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, seq);
        id
    }

    /// Tokens stored for a sequence, 0 if there is none.
    pub fn len(&self, id: SeqId) -> usize {
        self.sequences.get(&id).map_or(0, |seq| seq.len)
    }

    /// Whether a sequence holds no token.
    pub fn is_empty(&self, id: SeqId) -> bool {
        self.len(id) == 0
    }

    /// The pages of a sequence.
    pub fn table(&self, id: SeqId) -> Option<&PageTable> {
        self.sequences.get(&id).map(|seq| &seq.table)
    }

    /// The recurrent states of a sequence, if the model has any and there are tokens or a step that
    /// is reserved.
    pub fn states(&self, id: SeqId) -> Option<StateSlot> {
        self.sequences.get(&id).and_then(|seq| seq.states)
    }

    /// Destinations of the tokens of the step that is reserved.
    pub fn fills(&self) -> &[PageFill] {
        &self.fills
    }

    /// Changes that the backend has to make before the step that is reserved, in this order.
    pub fn ops(&self) -> &[CacheOp] {
        &self.ops
    }

    /// A new sequence that begins with the first `len` tokens of `id`, sharing their pages.
    /// `None` if there is no such sequence, it is shorter or in a step, a layer has forgotten
    /// tokens that position `len` still sees, or the recurrent states at `len` are not known any
    /// more.
    pub fn fork(&mut self, id: SeqId, len: usize) -> Option<SeqId> {
        let parent = self.sequences.get(&id)?;
        if len > parent.len || parent.pending.is_some() || !parent.remembers(&self.groups, len) {
            return None;
        }
        let states = match self.has_states && len > 0 {
            true => Some(parent.states_at(len)?),
            false => None,
        };
        let n_pages = len.div_ceil(PAGE_TOKENS);
        let table: PageTable = parent.table.iter().map(|pages| pages[..n_pages].to_vec()).collect();
        for (group, pages) in table.iter().enumerate() {
            for page in pages.iter().flatten() {
                self.store.hold(Kind(group), page.0, Holder::Sequence);
            }
        }
        if let Some(slot) = states {
            self.store.hold(self.states_kind(), slot.0, Holder::Sequence);
        }
        Some(self.insert(Sequence { len, table, states, ..Sequence::default() }))
    }

    /// Forgets a sequence; pages that nobody else holds are free.
    pub fn remove(&mut self, id: SeqId) {
        self.roll_back(id);
        let Some(seq) = self.sequences.remove(&id) else { return };
        self.step.retain(|&other| other != id);
        for (group, pages) in seq.table.iter().enumerate() {
            for page in pages.iter().flatten() {
                self.store.release(Kind(group), page.0, Holder::Sequence);
            }
        }
        let snapshots = seq.snapshots.iter().map(|snapshot| snapshot.1);
        for slot in seq.states.into_iter().chain(snapshots) {
            self.store.release(Kind(self.groups.len()), slot.0, Holder::Sequence);
        }
    }

    /// Drops the tokens from position `len` on. `false`, and nothing changed, if the sequence is in
    /// a step, a layer has forgotten tokens that position `len` would see, or the recurrent states
    /// at `len` are not known. The last [`DRAFT_TOKENS_MAX`] tokens that were ever added can be
    /// dropped always, but for the states.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> bool {
        let Some(seq) = self.sequences.get_mut(&id) else { return false };
        if len >= seq.len {
            return len == seq.len;
        }
        if seq.pending.is_some() || !seq.remembers(&self.groups, len) {
            return false;
        }
        let states_kind = Kind(self.groups.len());
        if let Some(now) = seq.states {
            let before = match len {
                0 => None,
                _ => match seq.states_at(len) {
                    Some(slot) => Some(slot),
                    None => return false,
                },
            };
            if let Some(slot) = before {
                self.store.hold(states_kind, slot.0, Holder::Sequence);
            }
            self.store.release(states_kind, now.0, Holder::Sequence);
            seq.states = before;
        }
        seq.len = len;
        let n_pages = len.div_ceil(PAGE_TOKENS);
        for (group, pages) in seq.table.iter_mut().enumerate() {
            for page in pages.drain(n_pages..).flatten() {
                self.store.release(Kind(group), page.0, Holder::Sequence);
            }
        }
        let kept = seq.snapshots.partition_point(|snapshot| snapshot.0 <= len);
        for (_, slot) in seq.snapshots.drain(kept..) {
            self.store.release(states_kind, slot.0, Holder::Sequence);
        }
        true
    }
}

impl Sequence {
    /// Whether every layer still has the pages that position `len`, or one before the end, sees.
    fn remembers(&self, groups: &[LayerGroup], len: usize) -> bool {
        let n_pages = len.div_ceil(PAGE_TOKENS);
        groups.iter().zip(&self.table).all(|(group, pages)| {
            let first = first_page(&group.shape, len).min(n_pages);
            !pages[first..n_pages].contains(&None)
        })
    }

    /// The slot with the recurrent states behind the first `len` tokens, if they are known.
    fn states_at(&self, len: usize) -> Option<StateSlot> {
        let mut known = self.snapshots.iter();
        match len == self.len {
            true => self.states,
            false => known.find(|snapshot| snapshot.0 == len).map(|snapshot| snapshot.1),
        }
    }
}

/// The first page that a token at position `len` sees in a layer.
fn first_page(shape: &KvShape, len: usize) -> usize {
    shape.window.map_or(0, |window| (len + 1).saturating_sub(window) / PAGE_TOKENS)
}

#[cfg(test)]
mod tests;
