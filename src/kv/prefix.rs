//! Prefixes that are kept: a tree over pages, from which new sequences start.
//!
//! A node stands for the [`PAGE_TOKENS`] tokens of a page behind those of the nodes above it; its
//! key is the tokens themselves, so what matches is equal. Where a sequence ended, and for recurrent
//! states, which are known at single positions, there are nodes with fewer tokens, always without nodes
//! below. A node holds the page of every group of layers that still had it, and the states behind its
//! tokens if they are known. A sequence starts at the deepest position whose windows and states are there.
//!
//! Equal tokens behind equal tokens have bit-equal keys and values however they were computed (see
//! ARCHITECTURE.md), so a sequence that is retained takes over the pages that are there already.
//!
//! The memory is part of the cache's budget: where room is short, what no sequence uses is evicted,
//! the least recently used leaf first.

mod fitting;
mod kept;

pub use kept::{KeptAt, KeptId, KeptKind};

use super::store::{Holder, Kind, Store};
use super::{PagePool, SeqId, Sequence, first_page};
use crate::backend::pages::{LayerGroup, PAGE_TOKENS, PageId, PageTable, StateSlot};
use std::collections::{BTreeSet, HashMap};

/// Number of a node; the root is 0.
type NodeId = usize;

const ROOT: NodeId = 0;

#[derive(Default)]
struct Node {
    parent: NodeId,
    /// Tokens of the node, behind those of its parent.
    tokens: Box<[u32]>,
    /// Page of each group of layers.
    pages: Vec<Option<PageId>>,
    /// States behind the node's tokens.
    states: Option<StateSlot>,
    /// By their tokens.
    children: HashMap<Box<[u32]>, NodeId>,
    /// Time of the last use.
    used: u64,
}

/// The tree.
pub(super) struct PrefixTree {
    /// The root is node 0, which is never evicted and holds nothing.
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// Nodes without children, but for the root, by their last use.
    leaves: BTreeSet<(u64, NodeId)>,
    /// Counts uses.
    clock: u64,
}

impl PrefixTree {
    /// A tree of nothing but its root.
    pub fn new() -> PrefixTree {
        let (nodes, leaves) = (vec![Node::default()], BTreeSet::new());
        PrefixTree { nodes, free: Vec::new(), leaves, clock: 0 }
    }

    fn child(&self, node: NodeId, tokens: &[u32]) -> Option<NodeId> {
        self.nodes[node].children.get(tokens).copied()
    }

    /// Nodes from below the root on that spell whole pages of `tokens`.
    fn path(&self, tokens: &[u32]) -> Vec<NodeId> {
        let mut path = Vec::new();
        for page in tokens.as_chunks::<PAGE_TOKENS>().0 {
            match self.child(path.last().copied().unwrap_or(ROOT), page) {
                Some(child) => path.push(child),
                None => break,
            }
        }
        path
    }

    /// The child of `node` with these tokens, made if it is not there.
    fn child_or_new(&mut self, node: NodeId, tokens: &[u32], n_groups: usize) -> NodeId {
        if let Some(child) = self.child(node, tokens) {
            return child;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
        let parent = &mut self.nodes[node];
        self.leaves.remove(&(parent.used, node));
        parent.children.insert(tokens.into(), id);
        let (tokens, pages, used) = (tokens.into(), vec![None; n_groups], self.clock);
        self.nodes[id] = Node { parent: node, tokens, pages, used, ..Node::default() };
        self.leaves.insert((used, id));
        id
    }

    /// Takes note that a node is used now.
    fn touch(&mut self, node: NodeId) {
        let used = std::mem::replace(&mut self.nodes[node].used, self.clock);
        if self.leaves.remove(&(used, node)) {
            self.leaves.insert((self.clock, node));
        }
    }

    /// Removes a leaf and gives back what it holds.
    fn remove(&mut self, leaf: NodeId, store: &mut Store) {
        let node = std::mem::take(&mut self.nodes[leaf]);
        debug_assert!(node.children.is_empty(), "only leaves are removed");
        self.leaves.remove(&(node.used, leaf));
        self.free.push(leaf);
        for (kind, id) in node.things() {
            store.release(kind, id, Holder::Node);
        }
        let parent = &mut self.nodes[node.parent];
        parent.children.remove(&node.tokens);
        if parent.children.is_empty() && node.parent != ROOT {
            self.leaves.insert((parent.used, node.parent));
        }
    }

    /// Evicts what no sequence uses until so many bytes are free, or nothing is left.
    pub fn evict(&mut self, bytes: usize, store: &mut Store, groups: &[LayerGroup]) {
        self.evict_before(u64::MAX, bytes, store, groups);
    }

    /// [`PrefixTree::evict`] that leaves what was used at time `until` or later.
    fn evict_before(&mut self, until: u64, bytes: usize, store: &mut Store, groups: &[LayerGroup]) {
        let target = store.bytes().saturating_sub(bytes);
        while store.bytes() > target && store.cached_bytes() > 0 {
            let older = self.leaves.iter().take_while(|leaf| leaf.0 < until);
            let mut leaves = older.map(|leaf| leaf.1);
            let is_idle = |leaf: &NodeId| {
                !self.nodes[*leaf].things().any(|(kind, id)| store.is_in_use(kind, id))
            };
            if let Some(leaf) = leaves.find(is_idle) {
                self.remove(leaf, store);
            } else if !self.strip(until, target, store, groups) {
                // What is left lies above leaves in use, which are only forgotten here.
                let Some(&(used, leaf)) = self.leaves.first() else { return };
                if used >= until {
                    return;
                }
                self.remove(leaf, store);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self, store: &mut Store) {
        while let Some(&(_, leaf)) = self.leaves.first() {
            self.remove(leaf, store);
        }
    }

    /// Gives back pages of windows and states, of nodes that have others below or in use and were
    /// used before `until`, until the store is down to `target` bytes. Says whether there were any.
    fn strip(
        &mut self,
        until: u64,
        target: usize,
        store: &mut Store,
        groups: &[LayerGroup],
    ) -> bool {
        let nodes = 1..self.nodes.len();
        let mut order: Vec<NodeId> = nodes.filter(|&node| self.nodes[node].used < until).collect();
        order.sort_by_key(|&node| self.nodes[node].used);
        let mut found = false;
        for node in order {
            if store.bytes() <= target {
                break;
            }
            let Node { pages, states, .. } = &mut self.nodes[node];
            for (group, page) in pages.iter_mut().enumerate() {
                let is_idle = |page: &mut PageId| !store.is_in_use(Kind(group), page.0);
                if groups[group].shape.window.is_some()
                    && let Some(page) = page.take_if(is_idle)
                {
                    store.release(Kind(group), page.0, Holder::Node);
                    found = true;
                }
            }
            let kind = Kind(groups.len());
            if let Some(slot) = states.take_if(|slot| !store.is_in_use(kind, slot.0)) {
                store.release(kind, slot.0, Holder::Node);
                found = true;
            }
        }
        found
    }

    /// Everything that the nodes hold, once for each holder.
    #[cfg(test)]
    pub fn held(&self) -> impl Iterator<Item = (Kind, u32)> {
        self.nodes.iter().flat_map(Node::things)
    }
}

impl Node {
    /// Pages and states that the node holds.
    fn things(&self) -> impl Iterator<Item = (Kind, u32)> {
        let pages = self.pages.iter().enumerate();
        let pages = pages.filter_map(|(group, page)| page.map(|page| (Kind(group), page.0)));
        pages.chain(self.states.map(|slot| (Kind(self.pages.len()), slot.0)))
    }
}

/// Position at which a sequence may start.
struct Start {
    len: usize,
    states: Option<StateSlot>,
    /// The node with fewer tokens than a page at the end, if there is one.
    tail: Option<NodeId>,
}

impl PagePool {
    /// A new sequence with as many of the first `tokens` as are known, and their number: those of
    /// whole pages, up to where a sequence ended, or up to where recurrent states are known. A caller that wants logits leaves out
    /// the last token, which has to be computed.
    pub fn match_prefix(&mut self, tokens: &[u32]) -> (SeqId, usize) {
        self.tree.clock += 1;
        let path = self.tree.path(&tokens[..tokens.len().min(self.n_ctx)]);
        let Some(start) = self.start(&path, tokens) else { return (self.create(), 0) };
        let Start { len, states, tail } = start;
        let path = &path[..len / PAGE_TOKENS];
        let nodes: Vec<NodeId> = path.iter().copied().chain(tail).collect();
        let mut table: PageTable = Vec::with_capacity(self.groups.len());
        for (group, LayerGroup { shape, .. }) in self.groups.iter().enumerate() {
            let first = first_page(shape, len);
            let pages = nodes.iter().enumerate().map(|(index, &node)| {
                let page = self.tree.nodes[node].pages[group].filter(|_| index >= first)?;
                self.store.hold(Kind(group), page.0, Holder::Sequence);
                Some(page)
            });
            table.push(pages.collect());
        }
        if let Some(slot) = states {
            self.store.hold(self.states_kind(), slot.0, Holder::Sequence);
        }
        nodes.iter().for_each(|&node| self.tree.touch(node));
        (self.insert(Sequence { len, table, states, ..Sequence::default() }), len)
    }

    /// The deepest position on a path of nodes where a sequence may start.
    fn start(&self, path: &[NodeId], tokens: &[u32]) -> Option<Start> {
        let nodes = &self.tree.nodes;
        // For each group, pages in a row at the end of the path so far.
        let mut rows = vec![0; self.groups.len()];
        let mut best = None;
        for depth in 0..=path.len() {
            let node = depth.checked_sub(1).map_or(ROOT, |last| path[last]);
            if depth > 0 {
                for (row, page) in rows.iter_mut().zip(&nodes[node].pages) {
                    *row = if page.is_some() { *row + 1 } else { 0 };
                }
            }
            // Pages `first..depth` are there, and `more` behind them.
            let sees = |len: usize, more: &[Option<PageId>]| {
                let groups = self.groups.iter().zip(&rows).enumerate();
                groups.into_iter().all(|(group, (LayerGroup { shape, .. }, &row))| {
                    let first = first_page(shape, len);
                    depth.saturating_sub(first) <= row
                        && (first > depth || more.get(group).is_none_or(Option::is_some))
                })
            };
            let len = depth * PAGE_TOKENS;
            let states = nodes[node].states;
            if depth > 0 && states.is_some() == self.has_states && sees(len, &[]) {
                best = Some(Start { len, states, tail: None });
            }
            // Without states only the deepest end counts.
            if !self.has_states && depth < path.len() {
                continue;
            }
            let rest = &tokens[len..];
            for n in 1..PAGE_TOKENS.min(rest.len() + 1) {
                let Some(tail) = self.tree.child(node, &rest[..n]) else { continue };
                let Node { pages, states, .. } = &nodes[tail];
                if states.is_some() == self.has_states
                    && sees(len + n, pages)
                    && len + n <= self.n_ctx
                {
                    best = Some(Start { len: len + n, states: *states, tail: Some(tail) });
                }
            }
        }
        best
    }

    /// Keeps what is known of a sequence for others to start from, also when it is gone: its pages,
    /// and the recurrent states of which there are copies. `tokens` are the sequence's, from its
    /// first one on; those that it does not hold are passed over.
    ///
    /// Nothing is kept of a sequence in a step, or of one whose first tokens are not in `tokens`.
    pub fn retain(&mut self, id: SeqId, tokens: &[u32]) {
        self.retain_parts(id, tokens, false);
    }

    /// [`PagePool::retain`] of a sequence that has ended, with its last page, which is not full: a text that
    /// goes on behind its tokens has none of them to compute.
    pub fn retain_to_end(&mut self, id: SeqId, tokens: &[u32]) {
        self.retain_parts(id, tokens, true);
    }

    /// Keeps the whole pages of a sequence, the states that are known with the pages that they lie in, and
    /// its last page if that `is_wanted`, too.
    fn retain_parts(&mut self, id: SeqId, tokens: &[u32], is_wanted: bool) {
        let Some(seq) = self.sequences.get_mut(&id).filter(|seq| seq.pending.is_none()) else {
            return;
        };
        let PagePool { tree, store, groups, .. } = self;
        tree.clock += 1;
        let tokens = &tokens[..tokens.len().min(seq.len)];
        let mut path = vec![ROOT];
        for (index, page) in tokens.as_chunks::<PAGE_TOKENS>().0.iter().enumerate() {
            let node = tree.child_or_new(path[index], page, groups.len());
            tree.touch(node);
            path.push(node);
            for (group, table) in seq.table.iter_mut().enumerate() {
                let kept = &mut tree.nodes[node].pages[group];
                share(store, Kind(group), kept, &mut table[index]);
            }
        }
        let known = seq.snapshots.iter().map(|&(len, slot)| (len, Some(slot)));
        let now = seq.states.map(|slot| (seq.len, Some(slot)));
        let end = (is_wanted && now.is_none()).then_some((seq.len, None));
        for (len, states) in known.chain(now).chain(end) {
            let (depth, n) = (len / PAGE_TOKENS, len % PAGE_TOKENS);
            if len > tokens.len() || len == 0 {
                continue;
            }
            let mut node = path[depth];
            if n > 0 {
                let tail = &tokens[depth * PAGE_TOKENS..len];
                node = tree.child_or_new(node, tail, groups.len());
                tree.touch(node);
                for (group, table) in seq.table.iter().enumerate() {
                    let kept = &mut tree.nodes[node].pages[group];
                    keep(store, Kind(group), kept, table[depth]);
                }
            }
            if let (Some(slot), None) = (states, tree.nodes[node].states) {
                store.hold(Kind(groups.len()), slot.0, Holder::Node);
                tree.nodes[node].states = Some(slot);
            }
        }
    }

    /// The last position within the first `n` tokens where a sequence has to be retained if others are to
    /// start there: later its windows have passed, and its states are others. 0 where it does not matter.
    pub fn place_to_keep(&self, n: usize) -> usize {
        match self.has_states {
            true => n,
            false if self.groups.iter().any(|group| group.shape.window.is_some()) => {
                n / PAGE_TOKENS * PAGE_TOKENS
            }
            false => 0,
        }
    }

    /// Bytes that are kept for others to start from and that no sequence uses.
    pub fn cached_bytes(&self) -> usize {
        self.store.cached_bytes()
    }

    /// Gives back at least `bytes` of what no sequence uses, if there is as much: the least recently
    /// used first. Reservations do that by themselves where room is short.
    pub fn evict(&mut self, bytes: usize) {
        self.tree.evict(bytes, &mut self.store, &self.groups);
    }
}

/// Makes a node and a sequence hold the same page: the node's if it has one. Both are equal.
fn share(store: &mut Store, kind: Kind, node: &mut Option<PageId>, own: &mut Option<PageId>) {
    keep(store, kind, node, *own);
    if let (Some(kept), Some(page)) = (*node, *own)
        && kept != page
    {
        store.hold(kind, kept.0, Holder::Sequence);
        store.release(kind, page.0, Holder::Sequence);
        *own = Some(kept);
    }
}

/// Makes a node hold a page, if it has none.
fn keep(store: &mut Store, kind: Kind, node: &mut Option<PageId>, page: Option<PageId>) {
    if let (None, Some(page)) = (*node, page) {
        store.hold(kind, page.0, Holder::Node);
        *node = Some(page);
    }
}
