//! The tokens still in the running: first the dense logits of the whole vocabulary, then, once a
//! filter has chosen, a short list. Order is by logit, highest first, then by token id.
//!
//! Selection instead of sorting: the best k of n by a heap of k (k small), which looks only into
//! blocks of tokens whose bound is above the worst one kept, or by quickselect over the bounds and then
//! over what is in such blocks. What goes by probability is in `mass.rs`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::mass::SHARE;
use crate::workers::{Alone, Workers};
use teff_kernels::BlockMax;

/// One token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Finite or negative infinity.
    pub logit: f32,
}

/// The set the filters narrow. Tokens whose logit is negative infinity are forbidden: they may be
/// among the candidates, but are never the best one and never drawn.
#[derive(Debug)]
pub struct Candidates<'a> {
    pub(super) logits: BlockMax<'a>,
    pub(super) list: &'a mut Vec<Candidate>,
    /// Whether `list` holds the set; before that it is all of `logits`.
    pub(super) listed: bool,
    /// Threads that share passes over `logits`.
    pub(super) workers: &'a dyn Workers,
}

/// Up to this k a pass with a heap beats quickselect over the bounds of blocks.
const HEAP_K_MAX: usize = 128;
/// A mask that leaves less than this share of the vocabulary makes a list, which costs more for a
/// token than a write to its logit.
const LISTED_SHARE: usize = 32;

impl<'a> Candidates<'a> {
    /// All tokens; `logits` must hold a finite one and no NaN. `list` is scratch.
    pub(super) fn new(logits: BlockMax<'a>, list: &'a mut Vec<Candidate>) -> Self {
        list.clear();
        Self { logits, list, listed: false, workers: &Alone }
    }

    /// The same candidates, of which workers share the passes.
    pub(super) fn on(self, workers: &'a dyn Workers) -> Self {
        Self { workers, ..self }
    }

    /// How many are left, forbidden ones among them.
    pub fn len(&self) -> usize {
        if self.listed { self.list.len() } else { self.logits.values().len() }
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The logit of a token; `None` if it is forbidden or no candidate any more.
    pub fn logit(&self, token: u32) -> Option<f32> {
        let logit = match self.listed {
            true => self.list.iter().find(|c| c.id == token).map(|c| c.logit),
            false => self.logits.values().get(token as usize).copied(),
        };
        logit.filter(|l| *l > f32::NEG_INFINITY)
    }

    /// Replaces the logit `l` of a token by `f(l)`, a number, unless the token is forbidden or no
    /// candidate. A token that the vocabulary does not have came from a caller's own history: no
    /// effect. Cost: one access, or a search once a filter has narrowed the set.
    pub fn change(&mut self, token: u32, f: impl Fn(f32) -> f32) {
        let Some(logit) = self.logit(token) else { return };
        if !self.listed {
            self.logits.set(token as usize, f(logit));
        } else if let Some(candidate) = self.list.iter_mut().find(|c| c.id == token) {
            candidate.logit = f(logit);
        }
    }

    /// Forbids every token whose bit is not set: bit `id % 32` of word `id / 32`. Tokens beyond the
    /// words are forbidden.
    pub fn mask(&mut self, bits: &[u32]) {
        let allowed = |id: u32| bits.get(id as usize / 32).is_some_and(|w| w >> (id % 32) & 1 == 1);
        if self.listed {
            self.list.retain(|c| allowed(c.id));
            return;
        }
        let n = self.len();
        let n_allowed: usize =
            bits.iter().take(n.div_ceil(32)).map(|w| w.count_ones() as usize).sum();
        if n_allowed <= n / LISTED_SHARE {
            self.list_allowed(bits);
            return;
        }
        self.logits.keep(bits);
    }

    /// The likeliest candidate, the one with the lowest id among equals; `None` if all are forbidden
    /// or none is left.
    pub fn best(&self) -> Option<Candidate> {
        let better = |a, b| if order(&b, &a).is_lt() { b } else { a };
        let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY };
        if self.listed {
            best = self.list.iter().copied().reduce(better)?;
        } else {
            for (i, &bound) in self.logits.bounds().iter().enumerate() {
                // Ids ascend, so an equal logit is not better.
                if bound > best.logit {
                    best = self.block(i).fold(best, better);
                }
            }
        }
        (best.logit > f32::NEG_INFINITY).then_some(best)
    }

    /// The candidates in their present order.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> + '_ {
        let dense = if self.listed { &[] } else { self.logits.values() };
        let list = if self.listed { &**self.list } else { &[] };
        let dense = dense.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit });
        dense.chain(list.iter().copied())
    }

    /// Replaces every logit `l` by `f(l)`; `f` must not reverse their order.
    pub fn map(&mut self, f: impl Fn(f32) -> f32 + Sync) {
        if self.listed {
            self.list.iter_mut().for_each(|c| c.logit = f(c.logit));
        } else {
            self.workers.for_each(self.logits.parts(SHARE), |_, mut part| part.map(&f));
        }
    }

    /// Keeps those for which `keep` holds, in their present order.
    pub fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.list_where(keep);
    }

    /// Keeps the best `k` (at least one if there is one), best first.
    pub fn keep_best(&mut self, k: usize) {
        let k = k.max(1).min(self.len());
        if k == 1 {
            let best = self.best();
            self.list.clear();
            self.list.extend(best);
            self.listed = true;
            return;
        }
        if !self.listed && k <= HEAP_K_MAX {
            let top = self.dense_top(k);
            self.list.extend(top);
            self.listed = true;
            return;
        }
        if !self.listed
            && let Some(found) = self.best_blocks(k)
        {
            *self.list = found;
            self.listed = true;
        }
        self.list_all();
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, order);
            self.list.truncate(k);
        }
        self.list.sort_unstable_by(order);
    }

    /// Keeps those whose logit is at least `bound`, in their present order.
    pub fn keep_above(&mut self, bound: f32) {
        self.list_of_blocks(|max| max >= bound, |c| c.logit >= bound);
    }

    /// The likeliest `n` that are not forbidden, best first. Cost: a look at the maxima of blocks for
    /// `n` up to 128, a list of all beyond.
    pub fn likeliest(&self, n: usize) -> Vec<Candidate> {
        let mut found = match n {
            1 => self.best().into_iter().collect(),
            _ if self.listed || n > HEAP_K_MAX => {
                let mut all: Vec<Candidate> = self.iter().collect();
                all.sort_unstable_by(order);
                all.truncate(n);
                all
            }
            _ => self.dense_top(n),
        };
        found.retain(|c| c.logit > f32::NEG_INFINITY);
        found
    }

    /// Keeps those of the given tokens that are candidates, in the given order.
    pub fn keep_only(&mut self, tokens: &[u32]) {
        let candidate = |&id: &u32| self.logit(id).map(|logit| Candidate { id, logit });
        let kept: Vec<Candidate> = tokens.iter().filter_map(candidate).collect();
        *self.list = kept;
        self.listed = true;
    }

    /// Forbids tokens, whose ids ascend.
    pub fn forbid(&mut self, tokens: &[u32]) {
        if self.listed {
            self.list.retain(|c| tokens.binary_search(&c.id).is_err());
            return;
        }
        let n = self.len();
        for &token in tokens.iter().filter(|&&token| (token as usize) < n) {
            self.logits.set(token as usize, f32::NEG_INFINITY);
        }
    }

    /// Number of tokens of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.logits.values().len()
    }

    /// The logits of the whole vocabulary, as long as no filter has made a list.
    pub fn dense(&self) -> Option<&[f32]> {
        (!self.listed).then(|| self.logits.values())
    }

    /// The best `k`, best first.
    pub fn top(&self, k: usize) -> Vec<Candidate> {
        if !self.listed && k <= HEAP_K_MAX {
            return self.dense_top(k);
        }
        let found = if self.listed { None } else { self.best_blocks(k) };
        let mut all = found.unwrap_or_else(|| self.iter().collect());
        if k < all.len() && k > 0 {
            all.select_nth_unstable_by(k - 1, order);
        }
        all.truncate(k);
        all.sort_unstable_by(order);
        all
    }

    /// The tokens of a block of the dense logits.
    pub(super) fn block(&self, block: usize) -> impl Iterator<Item = Candidate> {
        self.logits.block(block).map(|(id, logit)| Candidate { id: id as u32, logit })
    }

    /// Dense candidates at least as likely as the best of the block that comes `k`-th by its bound: `k` or
    /// more, among them the best ones. `None` where there are fewer: tokens have become less likely than
    /// the bounds of their blocks, or there are not as many blocks.
    fn best_blocks(&self, k: usize) -> Option<Vec<Candidate>> {
        let mut bounds = self.logits.bounds().to_vec();
        if k == 0 || k > bounds.len() {
            return None;
        }
        let (_, &mut bound, _) = bounds.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let found: Vec<Candidate> = self.above(bound).collect();
        (found.len() >= k).then_some(found)
    }

    fn list_all(&mut self) {
        if !self.listed {
            self.list_where(|_| true);
        }
    }

    pub(super) fn list_where(&mut self, keep: impl Fn(&Candidate) -> bool) {
        if self.listed {
            self.list.retain(keep);
            return;
        }
        let Self { logits, list, .. } = self;
        let all = logits.values().iter().zip(0..).map(|(&logit, id)| Candidate { id, logit });
        list.extend(all.filter(keep));
        self.listed = true;
    }

    /// Keeps those for which `keep` holds, looking only into blocks whose bound is `worth` it.
    pub(super) fn list_of_blocks(
        &mut self,
        worth: impl Fn(f32) -> bool,
        keep: impl Fn(&Candidate) -> bool,
    ) {
        if self.listed {
            self.list.retain(keep);
            return;
        }
        let mut list = std::mem::take(self.list);
        for (i, _) in self.logits.bounds().iter().enumerate().filter(|(_, max)| worth(**max)) {
            list.extend(self.block(i).filter(&keep));
        }
        *self.list = list;
        self.listed = true;
    }

    /// The tokens whose bits are set, by id.
    fn list_allowed(&mut self, bits: &[u32]) {
        let Self { logits, list, .. } = self;
        for (first, &word) in (0..).step_by(32).zip(bits) {
            let mut left = word;
            while left != 0 {
                let id = first + left.trailing_zeros();
                let logit = logits.values().get(id as usize);
                list.extend(logit.map(|&logit| Candidate { id, logit }));
                left &= left - 1;
            }
        }
        self.listed = true;
    }

    /// The best `k` of the dense logits through a heap whose top is the worst kept so far.
    fn dense_top(&self, k: usize) -> Vec<Candidate> {
        let mut heap: BinaryHeap<Ranked> = BinaryHeap::with_capacity(k);
        let mut worst = f32::NEG_INFINITY;
        for (i, &bound) in self.logits.bounds().iter().enumerate() {
            if heap.len() == k && bound <= worst {
                continue;
            }
            for candidate in self.block(i) {
                let ranked = Ranked(candidate);
                if heap.len() < k {
                    heap.push(ranked);
                } else if candidate.logit > worst {
                    // Ids ascend, so an equal logit never displaces one that is kept.
                    if let Some(mut top) = heap.peek_mut() {
                        *top = ranked;
                    }
                } else {
                    continue;
                }
                if heap.len() == k {
                    worst = heap.peek().map_or(worst, |top| top.0.logit);
                }
            }
        }
        heap.into_sorted_vec().into_iter().map(|ranked| ranked.0).collect()
    }
}

/// Best first: higher logit, then lower id.
pub(super) fn order(a: &Candidate, b: &Candidate) -> Ordering {
    (Reverse(Logit(a.logit)), a.id).cmp(&(Reverse(Logit(b.logit)), b.id))
}

/// A logit without NaN; the two zeros are equal.
#[derive(PartialEq)]
struct Logit(f32);

impl Eq for Logit {}

impl PartialOrd for Logit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Logit {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

/// A candidate that compares by [`order`]: the greatest is the worst.
struct Ranked(Candidate);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn selection_agrees_with_sorting() {
        let mut rng = Rng::new(7);
        let mut room = Vec::new();
        for n in [1, 15, 16, 63, 64, 65, 200, 1000] {
            // Few values, so that many are equal, and some tokens that are forbidden.
            let draw = |x: f64| if x < 0.1 { f32::NEG_INFINITY } else { (x * 12.0).floor() as f32 };
            let mut logits: Vec<f32> = (0..n).map(|_| draw(rng.unit_f64())).collect();
            logits[n / 2] = -3.0;
            // Tokens that a filter makes less or more likely, by less or more than others are.
            let changes: Vec<(u32, f32)> = (0..rng.next_u64() % 8)
                .map(|_| (rng.next_u64() as u32 % n as u32, 40.0 * rng.unit_f64() as f32 - 20.0))
                .collect();
            for k in (1..=n).filter(|k| n < 100 || [1, 5, 40, 150, 511, 512, 900].contains(k)) {
                let (mut values, mut list) = (logits.clone(), Vec::new());
                let mut candidates =
                    Candidates::new(BlockMax::of(&mut values, &mut room), &mut list);
                for &(token, by) in &changes {
                    candidates.change(token, |logit| logit + by);
                }
                let mut sorted: Vec<Candidate> = candidates.iter().collect();
                sorted.sort_by(order);
                assert_eq!(candidates.best(), Some(sorted[0]));
                candidates.keep_best(k);
                assert!(candidates.iter().eq(sorted[..k].iter().copied()), "{k} of {n}");
                assert_eq!(candidates.best(), Some(sorted[0]));
            }
        }
    }

    #[test]
    fn masks_forbid_before_and_behind_other_filters() {
        let mut rng = Rng::new(11);
        let mut room = Vec::new();
        for n in [1usize, 31, 32, 33, 200, 1000] {
            for share in [0.0, 0.02, 0.3, 0.9, 1.0] {
                let logits: Vec<f32> = (0..n).map(|_| rng.unit_f64() as f32).collect();
                // Sometimes shorter than the vocabulary, sometimes longer.
                let words = (n.div_ceil(32) as u64 + rng.next_u64() % 3).saturating_sub(1);
                let bits: Vec<u32> = (0..words)
                    .map(|_| (0..32).map(|i| u32::from(rng.unit_f64() < share) << i).sum())
                    .collect();
                let allowed =
                    |id: usize| bits.get(id / 32).is_some_and(|w| w >> (id % 32) & 1 == 1);
                let mut expected: Vec<Candidate> = logits
                    .iter()
                    .enumerate()
                    .filter(|&(id, _)| allowed(id))
                    .map(|(id, &logit)| Candidate { id: id as u32, logit })
                    .collect();
                expected.sort_by(order);
                for first in [None, Some(n), Some(20)] {
                    let (mut values, mut list) = (logits.clone(), Vec::new());
                    let mut candidates =
                        Candidates::new(BlockMax::of(&mut values, &mut room), &mut list);
                    let mut expected = expected.clone();
                    if let Some(k) = first {
                        candidates.keep_best(k);
                        expected.retain(|c| candidates.logit(c.id).is_some());
                    }
                    candidates.mask(&bits);
                    assert_eq!(candidates.best(), expected.first().copied());
                    assert_eq!(candidates.draw(0.5).is_some(), !expected.is_empty());
                    let shown = |id| candidates.logit(id).is_some();
                    let n_left = (0..n as u32).filter(|&id| shown(id)).count();
                    assert_eq!(n_left, expected.len());
                    candidates.keep_best(7);
                    candidates.retain(|c| c.logit > f32::NEG_INFINITY);
                    expected.truncate(7);
                    assert!(candidates.iter().eq(expected));
                }
            }
        }
    }

    #[test]
    fn nothing_left_is_nothing_for_every_operation() {
        let mut room = Vec::new();
        for listed in [false, true] {
            let (mut values, mut list) = ([1.0, 2.0, 3.0], Vec::new());
            let mut candidates = Candidates::new(BlockMax::of(&mut values, &mut room), &mut list);
            if listed {
                candidates.keep_best(2);
            }
            candidates.mask(&[]);
            assert_eq!(candidates.best(), None);
            candidates.keep_relative(0.5);
            candidates.keep_mass(0.5);
            candidates.change(1, |l| l + 1.0);
            candidates.map(|l| l / 2.0);
            assert_eq!(candidates.draw(0.0), None);
            candidates.keep_best(2);
            candidates.keep_best(1);
            assert_eq!((candidates.draw(0.9), candidates.best()), (None, None));
        }
    }

    #[test]
    fn logits_of_a_narrowed_set_change_too() {
        let (mut values, mut list, mut room) = ([1.0, 2.0, 3.0], Vec::new(), Vec::new());
        let mut candidates = Candidates::new(BlockMax::of(&mut values, &mut room), &mut list);
        candidates.keep_best(2);
        candidates.change(2, |l| l - 5.0);
        candidates.change(0, |l| l + 9.0);
        candidates.change(77, |l| l + 9.0);
        assert_eq!(candidates.best(), Some(Candidate { id: 1, logit: 2.0 }));
        assert_eq!((candidates.logit(2), candidates.logit(0)), (Some(-2.0), None));
    }
}
