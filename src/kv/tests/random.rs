//! Random histories of the cache against a model: sequences as lists of tokens, and a backend whose
//! memory holds, in place of keys and states, a hash of all tokens that they depend on.

use super::*;
use std::collections::HashMap;

/// Stands for what a step leaves that was cancelled.
const GARBAGE: u64 = 0xdead;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Stand-in for the keys, values and states behind these tokens (FNV-1a).
fn hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The memory of a backend.
#[derive(Default)]
struct Memory {
    pages: HashMap<(usize, PageId), [u64; PAGE_TOKENS]>,
    states: HashMap<StateSlot, u64>,
}

impl Memory {
    fn change(&mut self, ops: &[CacheOp]) {
        for op in ops {
            match *op {
                CacheOp::CopyPage { group, from, to } => {
                    let page = self.pages[&(group, from)];
                    self.pages.insert((group, to), page);
                }
                CacheOp::CopyStates { from, to } => {
                    self.states.insert(to, self.states[&from]);
                }
                CacheOp::ClearStates(slot) => {
                    self.states.insert(slot, hash(&[]));
                }
            }
        }
    }
}

/// A pool, its memory, and what should be in it.
struct World {
    pool: PagePool,
    memory: Memory,
    /// Tokens of each sequence.
    model: Vec<(SeqId, Vec<u32>)>,
    random: Random,
}

impl World {
    fn new(layers: &[KvShape], states: &[usize], budget: usize, seed: u64) -> World {
        let pool = PagePool::new(layers, states, KvType::F32, 300, budget);
        World { pool, memory: Memory::default(), model: Vec::new(), random: Random(seed) }
    }

    /// A random sequence.
    fn pick(&mut self) -> Option<usize> {
        let n = self.model.len();
        (n > 0).then(|| self.random.below(n))
    }

    /// One random operation.
    fn act(&mut self) -> &'static str {
        let Some(i) = self.pick() else {
            self.start(&[]);
            return "create";
        };
        let (id, tokens) = self.model[i].clone();
        let len = tokens.len();
        match self.random.below(20) {
            0 => {
                self.start(&[]);
                "create"
            }
            1 => {
                let mut tokens = tokens;
                let at = self.random.below(len + 1);
                tokens[at..].iter_mut().take(1).for_each(|token| *token += 1);
                self.start(&tokens);
                "match"
            }
            2 => {
                let at = self.random.below(len + 1);
                if let Some(fork) = self.pool.fork(id, at) {
                    self.model.push((fork, tokens[..at].to_vec()));
                }
                "fork"
            }
            3 => {
                let at = len - self.random.below(len + 1);
                if self.pool.truncate(id, at) {
                    self.model[i].1.truncate(at);
                }
                "truncate"
            }
            4 => {
                let at = len - self.random.below(DRAFT_TOKENS_MAX.min(len) + 1);
                let is_cut = self.pool.truncate(id, at);
                if is_cut {
                    self.model[i].1.truncate(at);
                }
                "take back"
            }
            5 | 6 => {
                self.pool.retain(id, &tokens);
                "retain"
            }
            7 => {
                let before = self.pool.kv_bytes();
                let bytes = self.random.below(4 * PAGE_BYTES);
                let cached = self.pool.cached_bytes();
                self.pool.evict(bytes);
                assert!(before - self.pool.kv_bytes() >= bytes.min(cached));
                "evict"
            }
            8 => {
                if self.random.below(2) == 0 {
                    self.pool.retain_to_end(id, &tokens);
                }
                self.pool.remove(id);
                self.model.swap_remove(i);
                "remove"
            }
            _ => self.step(),
        }
    }

    fn start(&mut self, tokens: &[u32]) {
        if self.model.len() < 6 {
            let (id, n) = self.pool.match_prefix(tokens);
            assert!(n <= tokens.len());
            self.model.push((id, tokens[..n].to_vec()));
        }
    }

    /// A step of one or more sequences, and its end.
    fn step(&mut self) -> &'static str {
        let mut chunks: Vec<(usize, Vec<u32>)> = Vec::new();
        for i in 0..self.model.len() {
            if self.random.below(3) == 0 {
                let n = [1, 1, 1, 5, 16, 40][self.random.below(6)];
                // Mostly the same tokens, for prefixes that match.
                let token = u32::from(self.random.below(8) == 0);
                chunks.push((i, vec![token; n]));
            }
        }
        let wanted: Vec<_> = chunks.iter().map(|(i, new)| (self.model[*i].0, new.len())).collect();
        let before = self.pool.kv_bytes() - self.pool.cached_bytes();
        let needed: Result<Vec<usize>, _> =
            wanted.iter().map(|&(id, n)| self.pool.needed(id, n)).collect();
        if let Err(error) = self.pool.reserve(&wanted) {
            assert_eq!(before, self.pool.kv_bytes() - self.pool.cached_bytes());
            let fits = needed.is_ok_and(|needed| {
                needed.iter().sum::<usize>() + before <= self.pool.kv_bytes_max()
            });
            assert!(!fits, "{error}");
            return "refused step";
        }
        let how = self.random.below(4);
        if how == 0 {
            self.pool.unreserve();
            return "step not made";
        }
        let is_exact = self.random.below(2) == 0 && self.pool.make_restorable();
        self.memory.change(self.pool.ops());
        let is_cancelled = how == 1;
        self.write(&chunks, is_cancelled);
        if is_cancelled {
            assert!(self.pool.undo() || !is_exact);
            for (id, tokens) in &mut self.model {
                assert!(!is_exact || self.pool.len(*id) == tokens.len());
                tokens.truncate(self.pool.len(*id));
            }
            return "cancelled step";
        }
        self.pool.commit();
        chunks.into_iter().for_each(|(i, new)| self.model[i].1.extend(new));
        "step"
    }

    /// Stores what the step's tokens give, or garbage.
    fn write(&mut self, chunks: &[(usize, Vec<u32>)], is_cancelled: bool) {
        let mut hashes = Vec::new();
        for (i, new) in chunks {
            let (id, tokens) = &self.model[*i];
            let all = [&tokens[..], new].concat();
            hashes.extend((tokens.len()..all.len()).map(|at| hash(&all[..=at])));
            if let Some(slot) = self.pool.states(*id) {
                let states = self.memory.states.get_mut(&slot).expect("a slot that was made");
                assert_eq!(*states, hash(tokens), "states before a step");
                *states = if is_cancelled { GARBAGE } else { hash(&all) };
            }
        }
        let mut taken = vec![0; self.pool.groups.len()];
        for fill in self.pool.fills() {
            let page = self.memory.pages.entry((fill.group, fill.page));
            let page = page.or_insert([GARBAGE; PAGE_TOKENS]);
            let hashes = &hashes[fill.token..][..fill.n];
            page[fill.slot..][..fill.n].copy_from_slice(hashes);
            if is_cancelled {
                page[fill.slot..].fill(GARBAGE);
            }
            taken[fill.group] += fill.n;
        }
        assert!(taken.iter().all(|&n| n == hashes.len()), "every token has a page");
    }

    /// Checks that sequences see what they should, and that nothing is lost.
    fn check(&mut self) {
        self.memory.change(self.pool.ops());
        let pool = &self.pool;
        assert!(pool.kv_bytes() <= pool.kv_bytes_max());
        assert_eq!(pool.sequences.len(), self.model.len());
        let mut held: HashMap<(usize, u32), [u32; 2]> = HashMap::new();
        for (id, tokens) in &self.model {
            let seq = &pool.sequences[id];
            assert_eq!(seq.len, tokens.len());
            for (group, table) in seq.table.iter().enumerate() {
                assert_eq!(table.len(), seq.len.div_ceil(PAGE_TOKENS));
                let window = pool.groups[group].shape.window.unwrap_or(usize::MAX);
                for at in (seq.len + 1).saturating_sub(window)..seq.len {
                    let page = table[at / PAGE_TOKENS].expect("a page that is seen");
                    let found = self.memory.pages[&(group, page)][at % PAGE_TOKENS];
                    assert_eq!(found, hash(&tokens[..=at]), "position {at} of {}", seq.len);
                }
                let pages = table.iter().flatten();
                pages.for_each(|page| held.entry((group, page.0)).or_default()[0] += 1);
            }
            assert_eq!(seq.states.is_some(), pool.has_states && seq.len > 0);
            let known = seq.snapshots.iter().copied().chain(seq.states.map(|s| (seq.len, s)));
            for (len, slot) in known {
                assert_eq!(self.memory.states[&slot], hash(&tokens[..len]), "states at {len}");
                held.entry((pool.groups.len(), slot.0)).or_default()[0] += 1;
            }
        }
        for (kind, id) in pool.tree.held() {
            held.entry((kind.0, id)).or_default()[1] += 1;
        }
        let bytes = |is_counted: fn(&[u32; 2]) -> bool| -> usize {
            let counted = held.iter().filter(|(_, holders)| is_counted(holders));
            counted.map(|((kind, _), _)| pool.store.size(Kind(*kind))).sum()
        };
        assert_eq!(pool.kv_bytes(), bytes(|_| true), "pages that nobody has");
        assert_eq!(pool.cached_bytes(), bytes(|holders| holders[0] == 0));
        for kind in 0..=pool.groups.len() {
            let n = held.keys().filter(|key| key.0 == kind).count();
            assert_eq!(pool.store.n_held(Kind(kind)), n);
        }
    }
}

#[test]
fn random_histories_lose_and_mix_up_nothing() {
    let narrow = KvShape { window: Some(7), ..FULL };
    let layouts: [(&[KvShape], &[usize]); 6] = [
        (&[FULL], &[]),
        (&[FULL, WINDOW, FULL], &[]),
        (&[WINDOW, narrow], &[]),
        (&[FULL], &[100, 28]),
        (&[WINDOW, FULL], &[64]),
        (&[], &[64]),
    ];
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut n_matched = 0;
    for seed in 0..360 {
        let (layers, states) = layouts[seed as usize % layouts.len()];
        let budget = [12, 30, 100][seed as usize / 6 % 3] * PAGE_BYTES;
        let mut world = World::new(layers, states, budget, seed);
        for i in 0..200 {
            let n_before = world.model.len();
            let what = world.act();
            *counts.entry(what).or_default() += 1;
            if what == "match" && world.model.len() > n_before {
                n_matched += usize::from(!world.model[n_before].1.is_empty());
            }
            // Shown if the check fails.
            println!("seed {seed}, operation {i}: {what}");
            world.check();
        }
        for (id, _) in std::mem::take(&mut world.model) {
            world.pool.remove(id);
        }
        assert_eq!(world.pool.kv_bytes(), world.pool.cached_bytes());
        world.pool.evict(usize::MAX);
        assert_eq!(world.pool.kv_bytes(), 0);
    }
    // Everything happens often, or the test tests nothing.
    for what in ["match", "fork", "truncate", "evict", "refused step", "cancelled step", "step"] {
        assert!(counts.get(what).is_some_and(|&n| n > 500), "{what}: {counts:?}");
    }
    assert!(n_matched > 200, "{n_matched} matches");
}
