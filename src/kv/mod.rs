//! Which page of the KV cache belongs to which sequence.
//!
//! A sequence has a table of pages for each layer. Pages are taken as they fill, within a budget;
//! layers with a sliding window give back the pages behind it; a fork shares its parent's pages
//! until one of the two writes (copy on write).
//!
//! A model with recurrent layers has a slot beside the pages: states that each token changes. They
//! cannot be cut, so copies are kept of how they were at the ends of the last few chunks of prompt:
//! a sequence can be forked at, or cut back to, its end, such a position, or nothing. Anywhere else
//! `None` or `false` says that the tokens have to be computed anew.

use crate::backend::cpu::pool::Fill;
use crate::backend::pages::{Arena, KvType, PAGE_TOKENS, PageId};
use crate::backend::program::KvShape;
use crate::backend::recurrent::States;
use std::collections::HashMap;
use std::fmt;

/// Handle of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId(u32);

/// Why tokens cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvError {
    /// The sequence would exceed the context.
    ContextFull {
        /// Tokens that a sequence may have.
        n_ctx: usize,
    },
    /// The pages in use would exceed the budget.
    OutOfBudget {
        /// Bytes that all pages may take.
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
            KvError::OutOfBudget { kv_bytes_max } => {
                write!(f, "the KV cache is full: its budget is {kv_bytes_max} bytes")
            }
            KvError::UnknownSequence => write!(f, "no such sequence in the KV cache"),
        }
    }
}

impl std::error::Error for KvError {}

/// Copies of its states that a sequence keeps, the newest: enough for the turns of a conversation
/// that are edited, and a model's states may take tens of megabytes.
const SNAPSHOTS_MAX: usize = 4;

/// Pages of one sequence: `[layer][position / PAGE_TOKENS]`.
pub type PageTable = Vec<Vec<Option<PageId>>>;

struct Sequence {
    /// Tokens whose keys and values are stored.
    len: usize,
    /// Tokens that the coming step adds.
    pending: usize,
    table: PageTable,
    /// What recurrent layers know of the tokens.
    states: Option<States>,
    /// Copies of it, with the number of tokens that each is of, ascending.
    snapshots: Vec<(usize, Vec<f32>)>,
}

/// The pages of all sequences.
pub struct PagePool {
    layers: Vec<KvShape>,
    /// Elements of each recurrent state of a sequence.
    states: Vec<usize>,
    arena: Arena,
    /// Sequences that hold each page, where there are more than one.
    shared: HashMap<PageId, u32>,
    sequences: HashMap<SeqId, Sequence>,
    next_id: u32,
    n_ctx: usize,
    kv_bytes: usize,
    kv_bytes_max: usize,
}

impl PagePool {
    /// For sequences of at most `n_ctx` tokens, and pages of at most `kv_bytes_max` bytes in all.
    pub fn new(layers: Vec<KvShape>, kind: KvType, n_ctx: usize, kv_bytes_max: usize) -> PagePool {
        PagePool {
            layers,
            states: Vec::new(),
            arena: Arena::new(kind),
            shared: HashMap::new(),
            sequences: HashMap::new(),
            next_id: 0,
            n_ctx,
            kv_bytes: 0,
            kv_bytes_max,
        }
    }

    /// As before, with recurrent states of these lengths for each sequence.
    pub fn with_states(self, states: Vec<usize>) -> PagePool {
        PagePool { states, ..self }
    }

    /// Bytes of the recurrent states of a sequence.
    fn state_bytes(&self) -> usize {
        self.states.iter().sum::<usize>() * size_of::<f32>()
    }

    /// Tokens that a sequence may have.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Bytes of the pages in use, of which a shared one counts once, and of recurrent states.
    pub fn kv_bytes(&self) -> usize {
        self.kv_bytes
    }

    /// The memory of the pages.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SeqId {
        let id = SeqId(self.next_id);
        self.next_id += 1;
        let table = vec![Vec::new(); self.layers.len()];
        let (states, snapshots) = (None, Vec::new());
        self.sequences.insert(id, Sequence { len: 0, pending: 0, table, states, snapshots });
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

    /// The recurrent states of a sequence, from its first step on.
    pub fn states(&self, id: SeqId) -> Option<&States> {
        self.sequences.get(&id).and_then(|seq| seq.states.as_ref())
    }

    /// A new sequence that begins with the first `len` tokens of `id`, sharing their pages.
    /// `None` if there is no such sequence, it is shorter, a layer has forgotten tokens that
    /// position `len` still sees, or the recurrent states at `len` are not known any more or do not
    /// fit the budget a second time.
    pub fn fork(&mut self, id: SeqId, len: usize) -> Option<SeqId> {
        let state_bytes = self.state_bytes();
        let parent = self.sequences.get_mut(&id).filter(|seq| len <= seq.len)?;
        let saved = match state_bytes {
            0 => None,
            _ if len == 0 => None,
            _ if self.kv_bytes + state_bytes > self.kv_bytes_max => return None,
            _ => Some(parent.saved(len)?),
        };
        let mut table = Vec::with_capacity(self.layers.len());
        for (shape, pages) in self.layers.iter().zip(&parent.table) {
            let pages = &pages[..len.div_ceil(PAGE_TOKENS)];
            if pages[first_page(shape, len).min(pages.len())..].contains(&None) {
                return None;
            }
            table.push(pages.to_vec());
        }
        for &page in table.iter().flatten().flatten() {
            *self.shared.entry(page).or_insert(1) += 1;
        }
        let child = SeqId(self.next_id);
        self.next_id += 1;
        let states = saved.map(|saved| {
            self.kv_bytes += state_bytes;
            let mut states = States::new(&self.states);
            states.restore(&saved);
            states
        });
        let snapshots = Vec::new();
        self.sequences.insert(child, Sequence { len, pending: 0, table, states, snapshots });
        Some(child)
    }

    /// Forgets a sequence; pages that no other one shares are free.
    pub fn remove(&mut self, id: SeqId) {
        let Some(mut seq) = self.sequences.remove(&id) else { return };
        self.drop_snapshots(&mut seq, 0);
        if seq.states.is_some() {
            self.kv_bytes -= self.state_bytes();
        }
        for (layer, pages) in seq.table.into_iter().enumerate() {
            for page in pages.into_iter().flatten() {
                self.release(layer, page);
            }
        }
    }

    /// Drops the tokens from position `len` on. `false`, and nothing changed, if a layer has
    /// forgotten tokens that position `len` would see, or the recurrent states at `len`.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> bool {
        let Some(seq) = self.sequences.get(&id) else { return false };
        if len >= seq.len {
            return len == seq.len;
        }
        let n_pages = len.div_ceil(PAGE_TOKENS);
        let forgotten = self.layers.iter().zip(&seq.table).any(|(shape, pages)| {
            pages[first_page(shape, len).min(n_pages)..n_pages].contains(&None)
        });
        if forgotten {
            return false;
        }
        let has_states = !self.states.is_empty();
        let mut dropped = Vec::new();
        if let Some(seq) = self.sequences.get_mut(&id) {
            if has_states && len > 0 {
                let Some(saved) = seq.saved(len) else { return false };
                seq.states.iter_mut().for_each(|states| states.restore(&saved));
            } else {
                seq.states.iter_mut().for_each(States::clear);
            }
            seq.len = len;
            for (layer, pages) in seq.table.iter_mut().enumerate() {
                dropped.extend(pages.drain(n_pages..).flatten().map(|page| (layer, page)));
            }
        }
        dropped.into_iter().for_each(|(layer, page)| self.release(layer, page));
        if let Some(mut seq) = self.sequences.remove(&id) {
            let kept = seq.snapshots.partition_point(|snapshot| snapshot.0 <= len);
            self.drop_snapshots(&mut seq, kept);
            self.sequences.insert(id, seq);
        }
        true
    }

    /// Makes room for `n` more tokens of a sequence, which are tokens `first_token..` of the
    /// coming step. On an error nothing has changed.
    pub fn reserve(&mut self, id: SeqId, n: usize, first_token: usize) -> Result<(), KvError> {
        let seq = self.sequences.get(&id).ok_or(KvError::UnknownSequence)?;
        let (len, end) = (seq.len, seq.len + n);
        if end > self.n_ctx {
            return Err(KvError::ContextFull { n_ctx: self.n_ctx });
        }
        let pages = len / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS);
        let mut needed = 0;
        for (shape, table) in self.layers.iter().zip(&seq.table) {
            let fresh = pages.clone().filter(|&page| match table.get(page).copied().flatten() {
                Some(id) => self.shared.contains_key(&id),
                None => true,
            });
            needed += fresh.count() * self.arena.page_bytes(shape);
        }
        let has_states = seq.states.is_some() || self.states.is_empty();
        if !has_states {
            needed += self.state_bytes();
        }
        let spare = seq.snapshots.len() * self.state_bytes();
        if self.kv_bytes + needed > self.kv_bytes_max.saturating_add(spare) {
            return Err(KvError::OutOfBudget { kv_bytes_max: self.kv_bytes_max });
        }
        let mut seq = self.sequences.remove(&id).ok_or(KvError::UnknownSequence)?;
        if self.kv_bytes + needed > self.kv_bytes_max {
            self.drop_snapshots(&mut seq, 0);
        }
        if !has_states {
            seq.states = Some(States::new(&self.states));
            self.kv_bytes += self.state_bytes();
        }
        for (layer, table) in seq.table.iter_mut().enumerate() {
            table.resize(table.len().max(pages.end), None);
            for index in pages.clone() {
                let page = self.writable(layer, table[index]);
                table[index] = Some(page);
                let base = index * PAGE_TOKENS;
                let (from, to) = (len.max(base), end.min(base + PAGE_TOKENS));
                let fill =
                    Fill { token: first_token + from - len, slot: from - base, n: to - from };
                self.arena.set_fill(page, fill);
            }
        }
        seq.pending = n;
        self.sequences.insert(id, seq);
        Ok(())
    }

    /// Takes back a [`PagePool::reserve`] whose step is not made.
    pub fn unreserve(&mut self, id: SeqId) {
        if let Some(seq) = self.sequences.get_mut(&id) {
            seq.pending = 0;
        }
    }

    /// Takes note that the step's tokens are stored, and frees what the windows have passed.
    pub fn commit(&mut self, id: SeqId) {
        let Some(mut seq) = self.sequences.remove(&id) else { return };
        let n = std::mem::take(&mut seq.pending);
        seq.len += n;
        if n > 1 {
            self.keep_snapshot(&mut seq);
        }
        for (layer, table) in seq.table.iter_mut().enumerate() {
            let first = first_page(&self.layers[layer], seq.len).min(table.len());
            for page in table[..first].iter_mut().filter_map(Option::take) {
                self.release(layer, page);
            }
        }
        self.sequences.insert(id, seq);
    }

    /// A copy of the states as they are now, if the budget has room; the oldest one goes.
    fn keep_snapshot(&mut self, seq: &mut Sequence) {
        let Some(states) = &mut seq.states else { return };
        let saved = (self.kv_bytes + self.state_bytes() <= self.kv_bytes_max)
            .then(|| (seq.len, states.save()));
        if let Some(saved) = saved {
            self.kv_bytes += self.state_bytes();
            seq.snapshots.push(saved);
        }
        if seq.snapshots.len() > SNAPSHOTS_MAX {
            seq.snapshots.remove(0);
            self.kv_bytes -= self.state_bytes();
        }
    }

    /// Leaves the `kept` oldest copies of the states.
    fn drop_snapshots(&mut self, seq: &mut Sequence, kept: usize) {
        let dropped = seq.snapshots.len() - kept;
        seq.snapshots.truncate(kept);
        self.kv_bytes -= dropped * self.state_bytes();
    }

    /// The page itself if nobody else has it, a copy if somebody has, a new one for `None`.
    fn writable(&mut self, layer: usize, page: Option<PageId>) -> PageId {
        let shape = self.layers[layer];
        match page {
            Some(page) if !self.shared.contains_key(&page) => page,
            other => {
                let fresh = self.arena.take(&shape);
                self.kv_bytes += self.arena.page_bytes(&shape);
                if let Some(page) = other {
                    self.arena.copy(page, fresh);
                    self.release(layer, page);
                }
                fresh
            }
        }
    }

    /// One holder less.
    fn release(&mut self, layer: usize, page: PageId) {
        match self.shared.get_mut(&page) {
            Some(2) => {
                self.shared.remove(&page);
            }
            Some(holders) => *holders -= 1,
            None => {
                self.kv_bytes -= self.arena.page_bytes(&self.layers[layer]);
                self.arena.give_back(&self.layers[layer], page);
            }
        }
    }
}

impl Sequence {
    /// The recurrent states behind the first `len` tokens, if they are known.
    fn saved(&mut self, len: usize) -> Option<Vec<f32>> {
        if len == self.len {
            return self.states.as_mut().map(States::save);
        }
        let found = self.snapshots.iter().find(|snapshot| snapshot.0 == len);
        found.map(|snapshot| snapshot.1.clone())
    }
}

/// The first page that a token at position `len` sees in a layer.
fn first_page(shape: &KvShape, len: usize) -> usize {
    shape.window.map_or(0, |window| (len + 1).saturating_sub(window) / PAGE_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: KvShape = KvShape { n_kv_heads: 2, k_dim: 4, v_dim: 4, window: None };
    const WINDOW: KvShape = KvShape { window: Some(40), ..FULL };
    /// Bytes of a page of either layer in F32.
    const PAGE_BYTES: usize = PAGE_TOKENS * 2 * 8 * 4;

    fn pool(kv_pages_max: usize) -> PagePool {
        PagePool::new(vec![FULL, WINDOW], KvType::F32, 200, kv_pages_max * PAGE_BYTES)
    }

    fn feed(pool: &mut PagePool, id: SeqId, n: usize) {
        pool.reserve(id, n, 0).unwrap();
        pool.commit(id);
    }

    #[test]
    fn pages_are_taken_as_they_fill_and_windows_give_back() {
        let mut pool = pool(100);
        let id = pool.create();
        assert_eq!(pool.kv_bytes(), 0);
        feed(&mut pool, id, 1);
        assert_eq!(pool.kv_bytes(), 2 * PAGE_BYTES);
        feed(&mut pool, id, 31);
        assert_eq!(pool.kv_bytes(), 2 * PAGE_BYTES);
        for _ in 0..100 {
            feed(&mut pool, id, 1);
        }
        // 132 tokens: five pages of the full layer; the window of the next token, 93..=132, three
        // pages in.
        assert_eq!(pool.kv_bytes(), (5 + 3) * PAGE_BYTES);
        let table = pool.table(id).unwrap();
        assert!(table[0].iter().all(Option::is_some));
        assert_eq!(
            table[1].iter().map(Option::is_some).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
        pool.remove(id);
        assert_eq!(pool.kv_bytes(), 0);
    }

    #[test]
    fn full_contexts_and_budgets_are_errors_that_change_nothing() {
        let mut pool = pool(4);
        let id = pool.create();
        assert_eq!(pool.reserve(id, 201, 0), Err(KvError::ContextFull { n_ctx: 200 }));
        let budget = KvError::OutOfBudget { kv_bytes_max: 4 * PAGE_BYTES };
        assert_eq!(pool.reserve(id, 65, 0), Err(budget));
        assert_eq!(pool.kv_bytes(), 0);
        feed(&mut pool, id, 64);
        assert_eq!(pool.reserve(id, 1, 0), Err(budget));
        assert_eq!(pool.len(id), 64);
        pool.remove(id);
        assert_eq!(pool.reserve(id, 1, 0), Err(KvError::UnknownSequence));
    }

    #[test]
    fn forks_share_until_someone_writes() {
        let mut pool = pool(100);
        let parent = pool.create();
        feed(&mut pool, parent, 40);
        let before = pool.kv_bytes();
        let child = pool.fork(parent, 36).unwrap();
        assert_eq!(pool.kv_bytes(), before);
        assert_eq!(pool.len(child), 36);
        // The second page of each layer is copied, the first stays shared.
        feed(&mut pool, child, 1);
        assert_eq!(pool.kv_bytes(), before + 2 * PAGE_BYTES);
        let (a, b) = (pool.table(parent).unwrap(), pool.table(child).unwrap());
        assert_eq!(a[0][0], b[0][0]);
        assert_ne!(a[0][1], b[0][1]);
        pool.remove(parent);
        assert_eq!(pool.kv_bytes(), before);
        pool.remove(child);
        assert_eq!(pool.kv_bytes(), 0);
    }

    #[test]
    fn what_a_window_forgot_cannot_be_forked_or_truncated_to() {
        let mut pool = pool(100);
        let id = pool.create();
        feed(&mut pool, id, 130);
        assert!(pool.fork(id, 50).is_none());
        assert!(!pool.truncate(id, 50));
        assert_eq!(pool.len(id), 130);
        assert!(pool.truncate(id, 128));
        assert_eq!(pool.table(id).unwrap()[0].len(), 4);
        assert!(pool.fork(id, 128).is_some());
        assert!(pool.fork(id, 129).is_none());
    }

    #[test]
    fn states_and_their_copies_count_and_give_way() {
        const LENS: [usize; 2] = [10, 30];
        const STATE_BYTES: usize = 40 * 4;
        let pool = |spare: usize| {
            let budget = 2 * PAGE_BYTES + spare * STATE_BYTES;
            PagePool::new(vec![FULL], KvType::F32, 200, budget).with_states(LENS.to_vec())
        };
        let mut none = pool(0);
        let id = none.create();
        assert!(none.reserve(id, 33, 0).is_err());
        assert_eq!((none.kv_bytes(), none.states(id).is_none()), (0, true));
        feed(&mut none, id, 20);
        assert_eq!(none.kv_bytes(), PAGE_BYTES + 2 * STATE_BYTES);
        assert!(none.fork(id, 20).is_some() && !none.truncate(id, 10));

        let mut pool = pool(2);
        let id = pool.create();
        feed(&mut pool, id, 20);
        feed(&mut pool, id, 5);
        feed(&mut pool, id, 1);
        assert_eq!(pool.kv_bytes(), PAGE_BYTES + 3 * STATE_BYTES);
        // The second page takes the place of what was kept.
        feed(&mut pool, id, 10);
        assert_eq!(pool.kv_bytes(), 2 * PAGE_BYTES + 2 * STATE_BYTES);
        assert!(!pool.truncate(id, 20) && pool.truncate(id, 36));
        assert!(pool.truncate(id, 0));
        assert_eq!(pool.kv_bytes(), STATE_BYTES);
        pool.remove(id);
        assert_eq!(pool.kv_bytes(), 0);
    }

    #[test]
    fn the_newest_copies_of_states_stay() {
        let mut pool = PagePool::new(Vec::new(), KvType::F32, 200, usize::MAX).with_states(vec![8]);
        let id = pool.create();
        for _ in 0..SNAPSHOTS_MAX + 2 {
            feed(&mut pool, id, 2);
        }
        assert_eq!(pool.kv_bytes(), (1 + SNAPSHOTS_MAX) * 32);
        assert!(pool.fork(id, 4).is_none() && pool.fork(id, 6).is_some());
    }
}
