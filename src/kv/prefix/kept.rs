//! What the tree of prefixes keeps of one text, as a list: for copies of it that outlive the
//! process, and for putting such copies back.
//!
//! What is put back lies where it lay, so sequences start from it as they did. Room for it is made
//! by evicting what was used before, never what is being put back.

use super::super::PagePool;
use super::super::store::{Holder, Kind};
use super::{NodeId, ROOT};
use crate::backend::pages::{PAGE_TOKENS, PageId, StateSlot};

/// Thing that is kept of a text, by its place; things of one text are in the order of their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeptAt {
    /// Tokens from the first one of the text to the last one that the thing is of.
    pub len: usize,
    /// Kind of thing.
    pub kind: KeptKind,
}

/// Kind of a thing that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptKind {
    /// Keys and values of the tokens since the last multiple of [`PAGE_TOKENS`].
    Page {
        /// Group of layers.
        group: usize,
    },
    /// Recurrent states behind the tokens.
    States,
}

/// Number of the thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptId {
    /// A page of the group.
    Page(PageId),
    /// A slot of states.
    States(StateSlot),
}

impl KeptAt {
    /// Tokens whose keys and values a page holds here, 1 to [`PAGE_TOKENS`].
    pub fn n_tokens(self) -> usize {
        (self.len - 1) % PAGE_TOKENS + 1
    }
}

impl PagePool {
    /// Everything that is kept of a text, in order.
    pub fn kept(&self, tokens: &[u32]) -> Vec<(KeptAt, KeptId)> {
        let (mut kept, mut node, mut depth) = (Vec::new(), ROOT, 0);
        loop {
            let rest = &tokens[depth * PAGE_TOKENS..];
            let page = rest.get(..PAGE_TOKENS);
            let next = page.and_then(|page| self.tree.child(node, page));
            // Without states only the deepest end counts, as in `start`.
            if self.has_states || next.is_none() {
                for n in 1..PAGE_TOKENS.min(rest.len() + 1) {
                    if let Some(tail) = self.tree.child(node, &rest[..n]) {
                        self.list(tail, depth * PAGE_TOKENS + n, &mut kept);
                    }
                }
            }
            let Some(next) = next else { return kept };
            (node, depth) = (next, depth + 1);
            self.list(node, depth * PAGE_TOKENS, &mut kept);
        }
    }

    /// Lists what a node holds.
    fn list(&self, node: NodeId, len: usize, kept: &mut Vec<(KeptAt, KeptId)>) {
        let node = &self.tree.nodes[node];
        let pages = node.pages.iter().enumerate().filter_map(|(group, page)| {
            Some((KeptAt { len, kind: KeptKind::Page { group } }, KeptId::Page((*page)?)))
        });
        let states = node.states.map(|slot| {
            let at = KeptAt { len, kind: KeptKind::States };
            (at, KeptId::States(slot))
        });
        kept.extend(pages.chain(states));
    }

    /// Tokens of a text that a sequence with the same ones would not have to compute.
    pub fn known(&self, tokens: &[u32]) -> usize {
        let path = self.tree.path(&tokens[..tokens.len().min(self.n_ctx)]);
        self.start(&path, tokens).map_or(0, |start| start.len)
    }

    /// Bytes of a thing.
    pub fn kept_bytes(&self, kind: KeptKind) -> usize {
        self.store.size(match kind {
            KeptKind::Page { group } => Kind(group),
            KeptKind::States => self.states_kind(),
        })
    }

    /// Whether no sequence uses a thing.
    pub(super) fn is_idle(&self, at: KeptAt, id: KeptId) -> bool {
        match (at.kind, id) {
            (KeptKind::Page { group }, KeptId::Page(page)) => {
                !self.store.is_in_use(Kind(group), page.0)
            }
            (_, KeptId::States(slot)) => !self.store.is_in_use(self.states_kind(), slot.0),
            _ => unreachable!("a page is listed as one"),
        }
    }

    /// Begins to put things back. What is used from now on is not evicted for things that are put
    /// back with the number that is returned.
    pub fn begin_put(&mut self) -> u64 {
        self.tree.clock += 1;
        self.tree.clock
    }

    /// Takes pages and slots for things that were kept of a text, in order, as long as there is
    /// room for them. Gives a number for each, `None` if the thing is there already.
    pub fn put(&mut self, tokens: &[u32], since: u64, things: &[KeptAt]) -> Vec<Option<KeptId>> {
        let mut placed = Vec::with_capacity(things.len());
        let mut path = vec![ROOT];
        for &at in things {
            let is_there = match self.node_at(tokens, at.len, &mut path) {
                Some(node) => match at.kind {
                    KeptKind::Page { group } => self.tree.nodes[node].pages[group].is_some(),
                    KeptKind::States => self.tree.nodes[node].states.is_some(),
                },
                None => false,
            };
            if is_there {
                placed.push(None);
                continue;
            }
            let size = self.kept_bytes(at.kind);
            let missing = size.saturating_sub(self.store.bytes_left());
            self.tree.evict_before(since, missing, &mut self.store, &self.groups);
            if size > self.store.bytes_left() {
                break;
            }
            placed.push(Some(self.take_for(tokens, at, &mut path)));
        }
        placed
    }

    /// Takes a page or a slot for a thing, of which there is none and for which there is room.
    fn take_for(&mut self, tokens: &[u32], at: KeptAt, path: &mut Vec<NodeId>) -> KeptId {
        let (depth, n) = (at.len / PAGE_TOKENS, at.len % PAGE_TOKENS);
        let n_groups = self.groups.len();
        let mut child = |path: &mut Vec<NodeId>, tokens: &[u32]| {
            let parent = path.last().copied().unwrap_or(ROOT);
            let node = self.tree.child_or_new(parent, tokens, n_groups);
            self.tree.touch(node);
            node
        };
        while path.len() <= depth {
            let start = (path.len() - 1) * PAGE_TOKENS;
            let node = child(path, &tokens[start..start + PAGE_TOKENS]);
            path.push(node);
        }
        let node = match n {
            0 => path[depth],
            _ => child(path, &tokens[depth * PAGE_TOKENS..at.len]),
        };
        let kind = match at.kind {
            KeptKind::Page { group } => Kind(group),
            KeptKind::States => self.states_kind(),
        };
        let id = self.store.take(kind);
        self.store.hold(kind, id, Holder::Node);
        self.store.release(kind, id, Holder::Sequence);
        let node = &mut self.tree.nodes[node];
        match at.kind {
            KeptKind::Page { group } => {
                node.pages[group] = Some(PageId(id));
                KeptId::Page(PageId(id))
            }
            KeptKind::States => {
                node.states = Some(StateSlot(id));
                KeptId::States(StateSlot(id))
            }
        }
    }

    /// The node behind `len` tokens of a text, if there is one. `path` is extended to the nodes of
    /// whole pages before it, as far as they are there, from those of a smaller `len`.
    fn node_at(&mut self, tokens: &[u32], len: usize, path: &mut Vec<NodeId>) -> Option<NodeId> {
        let (depth, n) = (len / PAGE_TOKENS, len % PAGE_TOKENS);
        path.truncate(depth + 1);
        while path.len() <= depth {
            let start = (path.len() - 1) * PAGE_TOKENS;
            let page = &tokens[start..start + PAGE_TOKENS];
            let next = self.tree.child(path[path.len() - 1], page)?;
            self.tree.touch(next);
            path.push(next);
        }
        if n == 0 {
            return Some(path[depth]);
        }
        let tail = self.tree.child(path[depth], &tokens[depth * PAGE_TOKENS..len])?;
        self.tree.touch(tail);
        Some(tail)
    }

    /// Forgets a thing that [`PagePool::put`] has taken memory for, which holds nothing yet.
    pub fn forget(&mut self, tokens: &[u32], at: KeptAt) {
        let Some(node) = self.node_at(tokens, at.len, &mut vec![ROOT]) else { return };
        let node = &mut self.tree.nodes[node];
        let (kind, id) = match at.kind {
            KeptKind::Page { group } => (Kind(group), node.pages[group].take().map(|id| id.0)),
            KeptKind::States => (Kind(self.groups.len()), node.states.take().map(|slot| slot.0)),
        };
        if let Some(id) = id {
            self.store.release(kind, id, Holder::Node);
        }
    }
}
