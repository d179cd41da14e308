//! Candidates by their probabilities: sums, and the fewest that hold a share.
//!
//! Sums are made of exponentials in vectors of f32, [`PART`] at a time, and added up in f64: relative
//! error some 1e-6, as much as a logit's own rounding makes, and the same bits on every CPU. Most
//! distributions are steep, so that a few hundred of the best tokens hold the share that is wanted. Of
//! others, what is too light to matter is dropped, the rest is weighed in bins, and of these but the last
//! one is sorted.

use std::cmp::Ordering;

use teff_kernels::{FloatOps, KernelTable, MAX_BLOCK};

use super::candidates::order;
use super::math::{exp, ln};
use super::{Candidate, Candidates};

/// Bins by distance; the last one has no end.
const BINS: usize = 2048;
const BINS_PER_UNIT: f64 = 64.0;
/// Best tokens that are tried before the whole vocabulary is looked through.
const HEAD: usize = 512;
/// Candidates whose exponentials are made at once.
const PART: usize = 64 * MAX_BLOCK;
/// Distance below the best logit at which a weight is zero in f32.
const NOTHING: f32 = 150.0;
/// What a bound of logits is lowered by, so that rounding leaves nothing out.
const MARGIN: f64 = 1e-3;

/// Weights of candidates relative to the best one's, which are their probabilities but for a factor.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Logit of the best one.
    best: f32,
    /// Sum of the weights.
    pub total: f64,
    /// Natural logarithm of that.
    ln_total: f64,
}

impl Weights {
    /// Probability of a candidate.
    pub fn probability(&self, logit: f32) -> f64 {
        relative(logit, self.best) / self.total
    }

    /// Surprise at a candidate: minus the natural logarithm of its probability.
    pub fn surprise(&self, logit: f32) -> f64 {
        self.ln_total - (f64::from(logit) - f64::from(self.best))
    }

    /// Logit of a candidate with this surprise.
    pub fn logit(&self, surprise: f64) -> f32 {
        (f64::from(self.best) + self.ln_total - surprise) as f32
    }

    /// A logit that all candidates of this probability have or more.
    pub fn floor(&self, probability: f64) -> f32 {
        floor(self.best, probability * self.total)
    }
}

impl Candidates<'_> {
    /// Weights of the candidates; `None` if all are forbidden or none is left.
    pub fn weights(&self) -> Option<Weights> {
        let best = self.best()?.logit;
        let total = self.sums(best).iter().sum();
        Some(Weights { best, total, ln_total: ln(total) })
    }

    /// Mean surprise: the entropy of the distribution, with the natural logarithm.
    pub fn entropy(&self, weights: &Weights) -> f64 {
        let (mut distances, mut room) = ([0.0; PART], [0.0; PART]);
        let moments = (0..self.n_parts()).map(|part| {
            let distances = self.part(part, &mut distances);
            // No product of zero and infinity.
            distances.iter_mut().for_each(|l| *l = (*l - weights.best).max(-NOTHING));
            let weights = &mut room[..distances.len()];
            weights.copy_from_slice(distances);
            (ops().exp_sum)(weights, 0.0);
            f64::from((ops().dot)(weights, distances))
        });
        weights.ln_total - moments.sum::<f64>() / weights.total
    }

    /// Candidates whose logits are at least `bound`, in their present order.
    pub fn above(&self, bound: f32) -> impl Iterator<Item = Candidate> {
        let bounds = if self.listed { &[] } else { self.logits.bounds() };
        let blocks = bounds.iter().enumerate().filter(move |(_, max)| **max >= bound);
        let dense = blocks.flat_map(|(i, _)| self.block(i));
        let list = if self.listed { &**self.list } else { &[] };
        dense.chain(list.iter().copied()).filter(move |c| c.logit >= bound)
    }

    /// Keeps those whose probability is at least `share` of the best one's.
    pub fn keep_relative(&mut self, share: f32) {
        let Some(best) = self.best() else { return };
        let share = f64::from(share);
        let floor = floor(best.logit, share);
        let keep = |c: &Candidate| c.id == best.id || relative(c.logit, best.logit) >= share;
        self.list_of_blocks(|bound| bound >= floor, keep);
    }

    /// Keeps the fewest best ones that together hold `share` of the probability.
    pub fn keep_mass(&mut self, share: f32) {
        let Some(weights) = self.weights() else { return };
        let wanted = f64::from(share) * weights.total;
        if !self.keep_head(&weights, wanted, |_, _| true) {
            // All tokens lighter than this together weigh less than half of what may be left out.
            let light = 0.5 * (weights.total - wanted) / self.len() as f64;
            self.keep_above(floor(weights.best, light));
        }
        let best = weights.best;
        self.cut_mass(wanted, best, |c| f64::from(best) - f64::from(c.logit), order);
    }

    /// Keeps the fewest most typical ones that together hold `share` of the probability: those whose
    /// surprise is nearest to the entropy.
    pub fn keep_typical(&mut self, share: f32) {
        let Some(weights) = self.weights() else { return };
        let (best, total) = (weights.best, weights.total);
        let entropy = self.entropy(&weights);
        let wanted = f64::from(share) * total;
        let distance = |c: &Candidate| (weights.surprise(c.logit) - entropy).abs();
        let nearer_than = |c: &Candidate, last: f32| distance(c) < weights.surprise(last) - entropy;
        if !self.keep_head(&weights, wanted, nearer_than) {
            // Tokens lighter than this together weigh less than half of what may be left out, and come
            // behind all others, if they are farther from the entropy than the best one, too.
            let light = 0.5 * (total - wanted) / self.len() as f64;
            let farthest = entropy + (entropy - weights.surprise(best)).max(0.0);
            let nearest = floor(best, total * exp(-farthest));
            self.keep_above(floor(best, light).min(nearest).max(f32::MIN));
        }
        self.cut_mass(wanted, best, distance, |a, b| {
            distance(a).total_cmp(&distance(b)).then_with(|| order(a, b))
        });
    }

    /// The candidate at `unit` (in `[0, 1)`) of the cumulated probabilities, in present order;
    /// `None` if all are forbidden or none is left.
    pub fn draw(&self, unit: f64) -> Option<u32> {
        let best = self.best()?;
        let sums = self.sums(best.logit);
        let mut left = unit * sums.iter().sum::<f64>();
        let part = sums.iter().position(|&sum| {
            let is_here = left < sum;
            left -= if is_here { 0.0 } else { sum };
            is_here
        });
        let mut room = [0.0; PART];
        let weights = part.map_or(&mut [][..], |part| self.part(part, &mut room));
        (ops().exp_sum)(weights, best.logit);
        let at = weights.iter().position(|&weight| {
            left -= f64::from(weight);
            left < 0.0
        });
        // Only rounding of the sums finds none.
        Some(part.zip(at).map_or(best.id, |(part, at)| self.id(part * PART + at)))
    }

    /// Makes a list of the [`HEAD`] best tokens for which `keep` holds, given with the logit of the last
    /// of them, if these hold the mass that is `wanted`. Returns whether there is a list.
    fn keep_head(
        &mut self,
        weights: &Weights,
        wanted: f64,
        keep: impl Fn(&Candidate, f32) -> bool,
    ) -> bool {
        if self.listed {
            return true;
        }
        let mut head = self.top(HEAD);
        let last = head.last().map_or(f32::NEG_INFINITY, |last| last.logit);
        if self.len() > HEAD {
            head.retain(|c| keep(c, last));
        }
        let mass = weigh(&head, weights.best, &mut [0.0; PART]).1;
        self.listed = mass > 0.0 && mass >= wanted;
        if self.listed {
            *self.list = head;
        }
        self.listed
    }

    /// Sum of the weights of each part.
    fn sums(&self, best: f32) -> Vec<f64> {
        let mut room = [0.0; PART];
        let sum = |part| f64::from((ops().exp_sum)(self.part(part, &mut room), best));
        (0..self.n_parts()).map(sum).collect()
    }

    fn n_parts(&self) -> usize {
        self.len().div_ceil(PART)
    }

    /// Logits of the candidates from `part * PART` on, at most [`PART`], in a copy.
    fn part<'r>(&self, part: usize, room: &'r mut [f32; PART]) -> &'r mut [f32] {
        let first = part * PART;
        let room = &mut room[..PART.min(self.len() - first)];
        match self.listed {
            true => copy_logits(&self.list[first..], room),
            false => room.copy_from_slice(&self.logits.values()[first..][..room.len()]),
        }
        room
    }

    /// Token of the candidate at an index of the present order.
    fn id(&self, index: usize) -> u32 {
        if self.listed { self.list[index].id } else { index as u32 }
    }

    /// Keeps the nearest ones of the list that weigh `wanted` together, by a distance of at least zero;
    /// equally near ones by `order`.
    fn cut_mass(
        &mut self,
        wanted: f64,
        best: f32,
        distance: impl Fn(&Candidate) -> f64,
        order: impl Fn(&Candidate, &Candidate) -> Ordering,
    ) {
        let bin = |c: &Candidate| ((distance(c) * BINS_PER_UNIT) as usize).min(BINS - 1);
        let (mut masses, mut room) = ([0.0; BINS], [0.0; PART]);
        for part in self.list.chunks(PART) {
            for (c, &weight) in part.iter().zip(weigh(part, best, &mut room).0) {
                masses[bin(c)] += f64::from(weight);
            }
        }
        let mut left = wanted;
        let last = masses.iter().position(|mass| {
            let is_last = *mass > 0.0 && left <= *mass;
            left -= if is_last { 0.0 } else { *mass };
            is_last
        });
        // Only rounding of the sums finds none.
        let Some(last) = last else { return };
        let mut end: Vec<Candidate> =
            self.list.iter().copied().filter(|c| bin(c) == last).collect();
        end.sort_unstable_by(order);
        let enough = end.iter().position(|c| {
            left -= relative(c.logit, best);
            left <= 0.0
        });
        end.truncate(enough.map_or(end.len(), |last| last + 1));
        self.list.retain(|c| bin(c) < last);
        self.list.extend(end);
    }
}

/// Sum of the exponentials of logits less the best one.
pub(super) fn sum_of_weights(logits: &[f32], best: f32) -> f64 {
    let mut room = [0.0; PART];
    let sum = |part: &[f32]| {
        let room = &mut room[..part.len()];
        room.copy_from_slice(part);
        f64::from((ops().exp_sum)(room, best))
    };
    logits.chunks(PART).map(sum).sum()
}

/// Weights of at most [`PART`] candidates, and their sum.
fn weigh<'r>(part: &[Candidate], best: f32, room: &'r mut [f32; PART]) -> (&'r [f32], f64) {
    let room = &mut room[..part.len()];
    copy_logits(part, room);
    let sum = (ops().exp_sum)(room, best);
    (room, f64::from(sum))
}

fn copy_logits(candidates: &[Candidate], to: &mut [f32]) {
    to.iter_mut().zip(candidates).for_each(|(to, c)| *to = c.logit);
}

/// A logit that all candidates of this weight have or more.
pub(super) fn floor(best: f32, weight: f64) -> f32 {
    match weight {
        weight if weight < f64::MIN_POSITIVE => f32::NEG_INFINITY,
        weight => (f64::from(best) + ln(weight) - MARGIN) as f32,
    }
}

fn ops() -> &'static FloatOps {
    KernelTable::detect().float()
}

/// Probability relative to the best candidate's.
pub(super) fn relative(logit: f32, best: f32) -> f64 {
    exp(f64::from(logit) - f64::from(best))
}
