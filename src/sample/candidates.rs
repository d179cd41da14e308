//! The tokens still in the running: first the dense logits of the whole vocabulary, then, once a
//! filter has chosen, a short list. Order is by logit, highest first, then by token id.
//!
//! Selection instead of sorting: the best k of n by a heap of k (k small), which looks only into
//! blocks of tokens whose bound is above the worst one kept, or by quickselect; top-p
//! drops what is too light to matter, finds the end of the nucleus by halving, and sorts that.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::math::exp;
use teff_kernels::BlockMax;

/// One token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Finite or negative infinity.
    pub logit: f32,
}

/// The set the filters narrow. Never empty, and the best one is never negative infinity.
#[derive(Debug)]
pub struct Candidates<'a> {
    logits: BlockMax<'a>,
    list: &'a mut Vec<Candidate>,
    /// Whether `list` holds the set; before that it is all of `logits`.
    listed: bool,
}

/// Up to this k one pass with a heap beats quickselect over the whole vocabulary.
const HEAP_K_MAX: usize = 512;
/// Up to this many, sorting is cheaper than halving.
const SORTED_MAX: usize = 64;

impl<'a> Candidates<'a> {
    /// All tokens; `logits` must hold a finite one and no NaN. `list` is scratch.
    pub(super) fn new(logits: BlockMax<'a>, list: &'a mut Vec<Candidate>) -> Self {
        list.clear();
        Self { logits, list, listed: false }
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        if self.listed { self.list.len() } else { self.logits.values().len() }
    }

    /// Never, by construction.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces the logit `l` of a token by `f(l)` unless the token is forbidden. A token that the
    /// vocabulary does not have came from a caller's own history: no effect.
    ///
    /// # Panics
    /// If a filter has narrowed the set.
    pub fn change(&mut self, token: u32, f: impl Fn(f32) -> f32) {
        assert!(!self.listed, "filters that change single logits run first");
        let logit = self.logits.values().get(token as usize);
        if let Some(&logit) = logit.filter(|l| l.is_finite()) {
            self.logits.set(token as usize, f(logit));
        }
    }

    /// The likeliest candidate.
    pub fn best(&self) -> Candidate {
        let better = |a, b| if order(&b, &a).is_lt() { b } else { a };
        if self.listed {
            return self.list.iter().copied().reduce(better).expect("never empty");
        }
        let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY };
        for (i, &bound) in self.logits.bounds().iter().enumerate() {
            // Ids ascend, so an equal logit is not better.
            if bound > best.logit {
                best = self.block(i).fold(best, better);
            }
        }
        best
    }

    /// The candidates in their present order.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> + '_ {
        let dense = if self.listed { &[] } else { self.logits.values() };
        let list = if self.listed { &**self.list } else { &[] };
        let dense = dense.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit });
        dense.chain(list.iter().copied())
    }

    /// Replaces every logit `l` by `f(l)`; `f` must not reverse their order.
    pub fn map(&mut self, f: impl Fn(f32) -> f32) {
        if self.listed {
            self.list.iter_mut().for_each(|c| c.logit = f(c.logit));
        } else {
            self.logits.map(f);
        }
    }

    /// Keeps the best `k` (at least one), best first.
    pub fn keep_best(&mut self, k: usize) {
        let k = k.clamp(1, self.len());
        if !self.listed && k <= HEAP_K_MAX {
            self.list_best(k);
            return;
        }
        self.list_all();
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, order);
            self.list.truncate(k);
        }
        self.list.sort_unstable_by(order);
    }

    /// Keeps those whose probability is at least `share` of the best one's.
    pub fn keep_relative(&mut self, share: f32) {
        let best = self.best();
        let keep =
            |c: &Candidate| c.id == best.id || relative(c.logit, best.logit) >= f64::from(share);
        self.list_where(keep);
    }

    /// Keeps the fewest best ones that together hold `share` of the probability, best first.
    pub fn keep_mass(&mut self, share: f32) {
        let best = self.best().logit;
        let total: f64 = self.iter().map(|c| relative(c.logit, best)).sum();
        let wanted = f64::from(share) * total;
        // All tokens lighter than this together weigh less than half of what may be left out.
        let light = 0.5 * (total - wanted) / self.len() as f64;
        self.list_where(|c| relative(c.logit, best) >= light);
        let mass_of =
            |part: &[Candidate]| -> f64 { part.iter().map(|c| relative(c.logit, best)).sum() };
        // Halve the range that holds the end of the nucleus; what is before it is inside.
        let (mut start, mut end, mut mass) = (0, self.list.len(), 0.0);
        while end - start > SORTED_MAX {
            let middle = (end - start) / 2;
            self.list[start..end].select_nth_unstable_by(middle - 1, order);
            let upper = mass_of(&self.list[start..start + middle]);
            if mass + upper >= wanted {
                end = start + middle;
            } else {
                (start, mass) = (start + middle, mass + upper);
            }
        }
        self.list.truncate(end);
        self.list.sort_unstable_by(order);
        let mut mass = 0.0;
        let enough = self.list.iter().position(|c| {
            mass += relative(c.logit, best);
            mass >= wanted
        });
        self.list.truncate(enough.map_or(end, |last| last + 1));
    }

    /// The candidate at `unit` (in `[0, 1)`) of the cumulated probabilities, in present order.
    pub(super) fn draw(&self, unit: f64) -> u32 {
        let best = self.best();
        let total: f64 = self.iter().map(|c| relative(c.logit, best.logit)).sum();
        let mut left = unit * total;
        for candidate in self.iter() {
            left -= relative(candidate.logit, best.logit);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Only rounding of the sums gets here.
        best.id
    }

    /// The tokens of a block of the dense logits.
    fn block(&self, block: usize) -> impl Iterator<Item = Candidate> {
        self.logits.block(block).map(|(id, logit)| Candidate { id: id as u32, logit })
    }

    fn list_all(&mut self) {
        if !self.listed {
            self.list_where(|_| true);
        }
    }

    fn list_where(&mut self, keep: impl Fn(&Candidate) -> bool) {
        if self.listed {
            self.list.retain(keep);
            return;
        }
        let Self { logits, list, .. } = self;
        let all = logits.values().iter().zip(0..).map(|(&logit, id)| Candidate { id, logit });
        list.extend(all.filter(keep));
        self.listed = true;
    }

    /// The best `k` of the dense logits through a heap whose top is the worst kept so far.
    fn list_best(&mut self, k: usize) {
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
        self.list.extend(heap.into_sorted_vec().into_iter().map(|ranked| ranked.0));
        self.listed = true;
    }
}

/// Best first: higher logit, then lower id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    (Reverse(Logit(a.logit)), a.id).cmp(&(Reverse(Logit(b.logit)), b.id))
}

/// Probability relative to the best candidate's.
fn relative(logit: f32, best: f32) -> f64 {
    exp(f64::from(logit) - f64::from(best))
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
                assert_eq!(candidates.best(), sorted[0]);
                candidates.keep_best(k);
                assert!(candidates.iter().eq(sorted[..k].iter().copied()), "{k} of {n}");
                assert_eq!(candidates.best(), sorted[0]);
            }
        }
    }
}
