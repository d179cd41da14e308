//! The transaction of a step: room for the tokens of all its sequences, or for none.

use super::store::{Holder, Kind, Store};
use super::{
    Changed, DRAFT_TOKENS_MAX, KvError, PagePool, Pending, SNAPSHOTS_MAX, SeqId, Sequence,
    first_page,
};
use crate::backend::pages::{CacheOp, LayerGroup, PAGE_TOKENS, PageFill, PageId, StateSlot};
use std::ops::Range;

impl PagePool {
    /// Bytes that room for `n` more tokens of a sequence takes, beyond what is in use.
    ///
    /// # Errors
    /// There is no such sequence, or it would exceed the context.
    pub fn needed(&self, id: SeqId, n: usize) -> Result<usize, KvError> {
        self.needed_beside(id, n, true)
    }

    /// [`PagePool::needed`], with the prefix tree as it is or as if there were none.
    fn needed_beside(&self, id: SeqId, n: usize, with_tree: bool) -> Result<usize, KvError> {
        let seq = self.sequences.get(&id).ok_or(KvError::UnknownSequence)?;
        if n > self.n_ctx - seq.len {
            return Err(KvError::ContextFull { n_ctx: self.n_ctx });
        }
        let store = &self.store;
        let is_shared = |kind, id| match with_tree {
            true => store.is_shared(kind, id),
            false => store.n_sequences(kind, id) > 1,
        };
        let bytes = seq.table.iter().enumerate().map(|(group, table)| {
            let kind = Kind(group);
            let is_missing = |index: &usize| match table.get(*index).copied().flatten() {
                Some(page) => is_shared(kind, page.0),
                None => true,
            };
            seq.pages_of(n).filter(is_missing).count() * store.size(kind)
        });
        let kind = self.states_kind();
        let states = match seq.states {
            _ if !self.has_states || n == 0 => 0,
            Some(slot) if !is_shared(kind, slot.0) => 0,
            _ => store.size(kind),
        };
        Ok(bytes.sum::<usize>() + states)
    }

    /// Makes room for so many more tokens of each of these sequences, which are different ones: the
    /// tokens of the coming step, in this order. A step before that was neither committed nor given
    /// back, because it panicked, is undone first.
    ///
    /// Where room is short, earlier states of these sequences go.
    ///
    /// # Errors
    /// A sequence is unknown or would exceed the context, or the budget has no room for all of
    /// them. Nothing has changed then.
    pub fn reserve(&mut self, chunks: &[(SeqId, usize)]) -> Result<(), KvError> {
        self.undo();
        self.make_room(chunks)?;
        self.fills.clear();
        let mut token = 0;
        for &(id, n) in chunks {
            let Some(seq) = self.sequences.get_mut(&id) else { continue };
            let (fills, ops) = (&mut self.fills, &mut self.ops);
            let mut changes = Changes { groups: &self.groups, store: &mut self.store, ops };
            changes.reserve_pages(seq, n, |fill| {
                fills.push(PageFill { token: token + fill.token, ..fill });
            });
            if self.has_states && n > 0 {
                changes.reserve_states(seq, false);
            }
            self.step.push(id);
            token += n;
        }
        Ok(())
    }

    /// Evicts what is kept and drops earlier states of the sequences, until there is room for these
    /// tokens of theirs.
    fn make_room(&mut self, chunks: &[(SeqId, usize)]) -> Result<(), KvError> {
        let needed = |pool: &PagePool, with_tree| {
            let mut chunks = chunks.iter();
            chunks.try_fold(0, |sum, &(id, n)| Ok(sum + pool.needed_beside(id, n, with_tree)?))
        };
        let mut needed_now: usize = needed(self, true)?;
        if needed_now <= self.store.bytes_left() {
            return Ok(());
        }
        let (states, size) = (self.states_kind(), self.store.size(self.states_kind()));
        if needed_now > self.room(chunks, true) {
            // What is kept may be what sequences write to, who need a copy therefore.
            needed_now = needed(self, false)?;
            if needed_now > self.room(chunks, false) {
                let kv_bytes_max = self.store.bytes_max();
                return Err(KvError::OutOfBudget { needed: needed_now, kv_bytes_max });
            }
            self.tree.clear(&mut self.store);
        }
        let mut needed = needed_now;
        for chunk in chunks {
            let Some(seq) = self.sequences.get_mut(&chunk.0) else { continue };
            while needed > self.store.bytes_left() + self.store.cached_bytes()
                && !seq.snapshots.is_empty()
            {
                let (_, slot) = seq.snapshots.remove(0);
                self.store.release(states, slot.0, Holder::Sequence);
                if seq.states == Some(slot) && !self.store.is_shared(states, slot.0) {
                    // The sequence's own, of which no copy is needed any more.
                    needed -= size;
                }
            }
        }
        let missing = needed.saturating_sub(self.store.bytes_left());
        self.tree.evict(missing, &mut self.store, &self.groups);
        Ok(())
    }

    /// Bytes that can be had for these sequences: what is free, what is kept, and earlier states of
    /// theirs; with the prefix tree as it is or as if there were none.
    fn room(&self, chunks: &[(SeqId, usize)], with_tree: bool) -> usize {
        let (states, store) = (self.states_kind(), &self.store);
        // A slot goes that no other sequence holds; of its own one, a sequence needs no copy then.
        let is_spare = |seq: &Sequence, slot: StateSlot| match seq.states == Some(slot) {
            false => store.n_sequences(states, slot.0) == 1,
            true => {
                let kept = with_tree && store.is_kept(states, slot.0);
                store.n_sequences(states, slot.0) == 2 && !kept
            }
        };
        let seqs = chunks.iter().filter_map(|chunk| self.sequences.get(&chunk.0));
        let spare = seqs
            .map(|seq| seq.snapshots.iter().filter(|snapshot| is_spare(seq, snapshot.1)).count());
        store.bytes_left() + store.cached_bytes() + spare.sum::<usize>() * store.size(states)
    }

    /// Sees to it that the step that is reserved can be undone to the bit: states that it would
    /// change in place are copied first, in the place of what is kept if need be. `false` if the
    /// budget has no room for that; the step may be made then, but its undoing cuts sequences back
    /// further.
    pub fn make_restorable(&mut self) -> bool {
        if !self.has_states {
            return true;
        }
        let states = self.states_kind();
        let seqs = self.step.iter().filter_map(|id| self.sequences.get(id));
        let in_place = |seq: &&Sequence| {
            seq.pending.as_ref().is_some_and(|pending| pending.n > 0 && pending.states.is_none())
        };
        let needed = seqs.filter(in_place).count() * self.store.size(states);
        if needed > self.store.bytes_left() + self.store.cached_bytes() {
            return false;
        }
        let missing = needed.saturating_sub(self.store.bytes_left());
        self.tree.evict(missing, &mut self.store, &self.groups);
        for id in &self.step {
            let Some(seq) = self.sequences.get_mut(id).filter(|seq| in_place(&&**seq)) else {
                continue;
            };
            let (groups, store, ops) = (&self.groups[..], &mut self.store, &mut self.ops);
            Changes { groups, store, ops }.reserve_states(seq, true);
        }
        true
    }

    /// Takes note that the tokens of the step are stored, and frees what the windows have passed.
    pub fn commit(&mut self) {
        let states = self.states_kind();
        for id in self.step.drain(..) {
            let Some(seq) = self.sequences.get_mut(&id) else { continue };
            let Some(pending) = seq.pending.take() else { continue };
            let store = &mut self.store;
            for Changed { group, before, .. } in pending.pages {
                if let Some(page) = before {
                    store.release(Kind(group), page.0, Holder::Sequence);
                }
            }
            if let Some(slot) = pending.states.flatten() {
                store.release(states, slot.0, Holder::Sequence);
            }
            seq.len += pending.n;
            if let Some(slot) = seq.states.filter(|_| pending.n > 1) {
                store.hold(states, slot.0, Holder::Sequence);
                seq.snapshots.push((seq.len, slot));
                if seq.snapshots.len() > SNAPSHOTS_MAX {
                    let (_, slot) = seq.snapshots.remove(0);
                    store.release(states, slot.0, Holder::Sequence);
                }
            }
            for (group, table) in seq.table.iter_mut().enumerate() {
                let len = seq.len.saturating_sub(DRAFT_TOKENS_MAX);
                let first = first_page(&self.groups[group].shape, len).min(table.len());
                for page in table[..first].iter_mut().filter_map(Option::take) {
                    store.release(Kind(group), page.0, Holder::Sequence);
                }
            }
        }
        self.fills.clear();
        self.ops.clear();
    }

    /// Takes back a [`PagePool::reserve`] whose step was not begun: everything is as it was before,
    /// but for earlier states that had to go.
    pub fn unreserve(&mut self) {
        for id in std::mem::take(&mut self.step) {
            self.roll_back(id);
        }
        self.fills.clear();
        self.ops.clear();
    }

    /// Takes back a step that was begun and left: sequences are as they were before it. One whose
    /// states were changed in place (see [`PagePool::make_restorable`]) is cut back to where they
    /// are known. Says whether there was none of those.
    pub fn undo(&mut self) -> bool {
        let mut exact = true;
        for id in std::mem::take(&mut self.step) {
            if self.roll_back(id) {
                exact = false;
                self.forget_states(id);
            }
        }
        self.fills.clear();
        self.ops.clear();
        exact
    }

    /// Empties all sequences, which stay, and forgets all prefixes: the memory of pages is another one.
    /// A step that is reserved is taken back.
    pub fn forget_all(&mut self) {
        self.undo();
        self.tree.clear(&mut self.store);
        let ids: Vec<SeqId> = self.sequences.keys().copied().collect();
        for id in ids {
            let is_cut = self.truncate(id, 0);
            debug_assert!(is_cut, "every sequence can be cut to nothing");
        }
    }

    /// Undoes what a step has changed of a sequence but its states in place. Says whether it was to
    /// change them there.
    pub(super) fn roll_back(&mut self, id: SeqId) -> bool {
        let states = self.states_kind();
        let Some(seq) = self.sequences.get_mut(&id) else { return false };
        let Some(pending) = seq.pending.take() else { return false };
        for Changed { group, index, before } in pending.pages.into_iter().rev() {
            if let Some(page) = std::mem::replace(&mut seq.table[group][index], before) {
                self.store.release(Kind(group), page.0, Holder::Sequence);
            }
        }
        let n_pages = seq.len.div_ceil(PAGE_TOKENS);
        seq.table.iter_mut().for_each(|table| table.truncate(n_pages));
        match pending.states {
            Some(before) => {
                if let Some(slot) = std::mem::replace(&mut seq.states, before) {
                    self.store.release(states, slot.0, Holder::Sequence);
                }
                false
            }
            None => self.has_states && pending.n > 0,
        }
    }

    /// Cuts a sequence whose states are lost back to the newest position where they are known.
    fn forget_states(&mut self, id: SeqId) {
        let Some(seq) = self.sequences.get(&id) else { return };
        let known = seq.snapshots.iter().rev().map(|snapshot| snapshot.0);
        let known: Vec<usize> = known.filter(|&len| len < seq.len).chain([0]).collect();
        let is_cut = known.into_iter().any(|len| self.truncate(id, len));
        debug_assert!(is_cut, "every sequence can be cut to nothing");
    }
}

impl Sequence {
    /// Pages that `n` more tokens go to.
    fn pages_of(&self, n: usize) -> Range<usize> {
        match n {
            0 => 0..0,
            _ => self.len / PAGE_TOKENS..(self.len + n).div_ceil(PAGE_TOKENS),
        }
    }
}

/// Changes of a reservation beside sequences.
struct Changes<'a> {
    groups: &'a [LayerGroup],
    store: &'a mut Store,
    ops: &'a mut Vec<CacheOp>,
}

impl Changes<'_> {
    /// Gives a sequence pages of its own for `n` more tokens, and tells where those go, counted from
    /// the first of them.
    fn reserve_pages(&mut self, seq: &mut Sequence, n: usize, mut tell: impl FnMut(PageFill)) {
        let (len, end, pages) = (seq.len, seq.len + n, seq.pages_of(n));
        let mut changed = Vec::new();
        for (group, table) in seq.table.iter_mut().enumerate() {
            table.resize(table.len().max(pages.end), None);
            for index in pages.clone() {
                let before = table[index];
                let page = self.writable(group, before);
                if before != Some(page) {
                    table[index] = Some(page);
                    changed.push(Changed { group, index, before });
                }
                let base = index * PAGE_TOKENS;
                let (from, to) = (len.max(base), end.min(base + PAGE_TOKENS));
                let (token, slot) = (from - len, from - base);
                tell(PageFill { group, page, token, slot, n: to - from });
            }
        }
        seq.pending = Some(Pending { n, pages: changed, states: None });
    }

    /// The page itself if nobody else has it, a copy if somebody has, a new one for `None`.
    fn writable(&mut self, group: usize, page: Option<PageId>) -> PageId {
        debug_assert!(group < self.groups.len());
        let kind = Kind(group);
        if let Some(page) = page.filter(|page| !self.store.is_shared(kind, page.0)) {
            return page;
        }
        let to = PageId(self.store.take(kind));
        if let Some(from) = page {
            self.ops.push(CacheOp::CopyPage { group, from, to });
        }
        to
    }

    /// Gives a sequence that has `pending` a slot that it may change: its own if nobody else holds
    /// that and it is not to be `kept` as it is, or a copy.
    fn reserve_states(&mut self, seq: &mut Sequence, kept: bool) {
        let kind = Kind(self.groups.len());
        let before = seq.states;
        let to = match before {
            Some(slot) if !kept && !self.store.is_shared(kind, slot.0) => return,
            _ => StateSlot(self.store.take(kind)),
        };
        self.ops.push(match before {
            Some(from) => CacheOp::CopyStates { from, to },
            None => CacheOp::ClearStates(to),
        });
        seq.states = Some(to);
        if let Some(pending) = &mut seq.pending {
            pending.states = Some(before);
        }
    }
}
