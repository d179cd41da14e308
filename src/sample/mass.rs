//! Candidates by their probabilities: sums, and the fewest that hold a share.
//!
//! Sums are made of exponentials in vectors of f32, [`PART`] at a time, and added up in f64: relative
//! error some 1e-6, as much as a logit's own rounding makes, and the same bits on every CPU. Most
//! tokens weigh too little to matter, which the bounds of their blocks show; the others are weighed in bins by
//! distance, of which but the last one is sorted. Where most of the vocabulary stays in the running, it stays
//! where it is, and what goes is forbidden.

use std::ops::Range;
use teff_kernels::{FloatOps, KernelTable, MAX_BLOCK};

use super::candidates::order;
use super::math::{exp, ln};
use super::{Candidate, Candidates};

/// Bins by distance; the last one has no end.
const BINS: usize = 2048;
const BINS_PER_UNIT: f64 = 64.0;
/// Distances from the best token within which the tokens that are wanted are looked for, one after the other.
const DEPTHS: [f32; 6] = [3.0, 6.0, 9.0, 12.0, 15.0, 18.0];
/// Tokens that are put in their order where no more are left: what a seed draws depends on it.
const SORTED_MAX: usize = 512;
/// Blocks with tokens that matter make a list if they are less than this share of all.
const LISTED_SHARE: usize = 2;
/// Candidates whose exponentials are made at once.
const PART: usize = 64 * MAX_BLOCK;
/// Candidates of which one worker goes through the parts.
pub(super) const SHARE: usize = 8 * PART;
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
    /// Mean surprise: the entropy of the distribution, with the natural logarithm.
    pub entropy: f64,
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
        let moments = self.moments(best);
        let [total, products] = [0, 1].map(|i| moments.iter().map(|m| m[i]).sum::<f64>());
        let ln_total = ln(total);
        Some(Weights { best, total, ln_total, entropy: ln_total - products / total })
    }

    /// How many candidates are not forbidden.
    pub fn n_allowed(&self) -> usize {
        let counts = self.of_parts(|part| {
            part.iter().map(|&logit| u32::from(logit > f32::NEG_INFINITY)).sum::<u32>()
        });
        counts.iter().map(|&n| n as usize).sum()
    }

    /// Replaces the logit of each candidate that is not forbidden by `f` of its probability, which may
    /// reverse their order.
    pub fn reweight(&mut self, weights: &Weights, f: impl Fn(f32) -> f32 + Clone + Sync) {
        if self.listed {
            self.list.retain(|c| c.logit > f32::NEG_INFINITY);
            self.list.iter_mut().for_each(|c| c.logit = f(weights.probability(c.logit) as f32));
            return;
        }
        let scale = (1.0 / weights.total) as f32;
        let reweight = |logits: &mut [f32]| {
            let mut room = [0.0; PART];
            weigh(logits, weights.best, &mut room);
            // By itself, and without a branch, so that it vectorizes.
            let f = f.clone();
            let room = room.map(|weight| f(weight * scale));
            for (logit, new) in logits.iter_mut().zip(room) {
                *logit = if *logit > f32::NEG_INFINITY { new } else { f32::NEG_INFINITY };
            }
        };
        self.workers.for_each(self.logits.parts(SHARE), |_, mut share| {
            share.parts(PART).for_each(|mut part| part.replace(reweight));
        });
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
        self.cut_mass(wanted, weights.best, f64::from(weights.best));
    }

    /// Keeps the fewest most typical ones that together hold `share` of the probability: those whose
    /// surprise is nearest to the entropy.
    pub fn keep_typical(&mut self, share: f32) {
        let Some(weights) = self.weights() else { return };
        let Weights { best, total, ln_total, entropy } = weights;
        let wanted = f64::from(share) * total;
        // Logit of a token whose surprise is the entropy.
        let center = f64::from(best) + ln_total - entropy;
        self.cut_mass(wanted, best, center);
    }

    /// The candidate at `unit` (in `[0, 1)`) of the cumulated probabilities, in present order;
    /// `None` if all are forbidden or none is left.
    pub fn draw(&self, unit: f64) -> Option<u32> {
        let best = self.best()?;
        let parts = self.parts();
        let moments = self.moments(best.logit);
        let mut left = unit * moments.iter().map(|m| m[0]).sum::<f64>();
        let part = moments.iter().position(|&[sum, _]| {
            let is_here = left < sum;
            left -= if is_here { 0.0 } else { sum };
            is_here
        });
        let (mut copy, mut room) = ([0.0; PART], [0.0; PART]);
        let logits = part.map_or(&[][..], |part| parts.part(part, &mut copy));
        let at = weigh(logits, best.logit, &mut room).iter().position(|&weight| {
            left -= f64::from(weight);
            left < 0.0
        });
        // Only rounding of the sums finds none.
        Some(part.zip(at).map_or(best.id, |(part, at)| parts.id(part * PART + at)))
    }

    /// Makes a list of the candidates nearest to `center` that weigh `wanted` together, and some more; none
    /// where that takes most blocks.
    fn list_near(&mut self, wanted: f64, best: f32, center: f64) {
        if self.listed {
            return;
        }
        for depth in DEPTHS {
            let bound = best - depth;
            let bounds = self.logits.bounds();
            let n_blocks = bounds.iter().filter(|max| **max >= bound).count();
            if n_blocks >= bounds.len() / LISTED_SHARE {
                return;
            }
            let radius = center - f64::from(bound);
            let near = self.above(bound).filter(|c| f64::from(c.logit) - center <= radius);
            let near: Vec<Candidate> = near.collect();
            let logits: Vec<f32> = near.iter().map(|c| c.logit).collect();
            let mass = sum_of_weights(&logits, best);
            if mass > 0.0 && mass >= wanted {
                *self.list = near;
                self.listed = true;
                return;
            }
        }
    }

    /// [`moments`] of each part.
    fn moments(&self, best: f32) -> Vec<[f64; 2]> {
        self.of_parts(|part| moments(part, best))
    }

    /// What `f` gives for the logits of each part. Workers share the parts; each result is of one part alone, so
    /// that their number changes none.
    fn of_parts<R: Send + Default + Clone>(&self, f: impl Fn(&[f32]) -> R + Sync) -> Vec<R> {
        let parts = self.parts();
        let mut results = vec![R::default(); parts.n()];
        self.workers.for_each(results.chunks_mut(SHARE / PART), |share, results| {
            let mut copy = [0.0; PART];
            for (part, result) in parts.of_share(share).zip(results) {
                *result = f(parts.part(part, &mut copy));
            }
        });
        results
    }

    fn parts(&self) -> Parts<'_> {
        match self.listed {
            true => Parts::Listed(self.list),
            false => Parts::Dense(self.logits.values()),
        }
    }

    /// Keeps the candidates nearest to `center` that weigh `wanted` together; equally near ones in their
    /// order.
    fn cut_mass(&mut self, wanted: f64, best: f32, center: f64) {
        self.list_near(wanted, best, center);
        let mut left = wanted;
        let last = self.masses(best, center).iter().position(|mass| {
            let is_last = *mass > 0.0 && left <= *mass;
            left -= if is_last { 0.0 } else { *mass };
            is_last
        });
        // Only rounding of the sums finds none.
        let Some(last) = last else { return };
        let mut end = self.keep_bins(last as u32, center);
        let distance = |c: &Candidate| (f64::from(c.logit) - center).abs();
        end.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then_with(|| order(a, b)));
        let enough = end.iter().position(|c| {
            left -= relative(c.logit, best);
            left <= 0.0
        });
        let mut out: Vec<u32> =
            enough.map_or(&[][..], |enough| &end[enough + 1..]).iter().map(|c| c.id).collect();
        out.sort_unstable();
        self.forbid(&out);
        if self.n_allowed() <= SORTED_MAX {
            self.list_where(|c| c.logit > f32::NEG_INFINITY);
            self.list.sort_unstable_by(order);
        }
    }

    /// Weight of the candidates in each bin. Sums are made by the share and then added up, so that the number of
    /// workers changes none.
    fn masses(&self, best: f32, center: f64) -> Vec<f64> {
        let parts = self.parts();
        let mut masses = vec![0.0; parts.n_shares().max(1) * BINS];
        self.workers.for_each(masses.chunks_mut(BINS), |share, masses| {
            let (mut copy, mut room, mut bins) = ([0.0; PART], [0.0; PART], [0; PART]);
            for part in parts.of_share(share) {
                let logits = parts.part(part, &mut copy);
                let bins = bins_of(logits, center, &mut bins);
                for (&bin, &weight) in bins.iter().zip(weigh(logits, best, &mut room)) {
                    masses[bin as usize % BINS] += f64::from(weight);
                }
            }
        });
        let (sums, others) = masses.split_at_mut(BINS);
        for share in others.chunks(BINS) {
            sums.iter_mut().zip(share).for_each(|(sum, mass)| *sum += mass);
        }
        masses.truncate(BINS);
        masses
    }

    /// Keeps the candidates of the bins up to `last`; returns those in it.
    fn keep_bins(&mut self, last: u32, center: f64) -> Vec<Candidate> {
        if self.listed {
            self.list.retain(|c| bin_of(c.logit, center) <= last);
            return self.list.iter().copied().filter(|c| bin_of(c.logit, center) == last).collect();
        }
        let mut ends = vec![Vec::new(); self.parts().n_shares()];
        let shares = self.logits.lower().chunks_mut(SHARE).zip(&mut ends);
        self.workers.for_each(shares, |share, (logits, end)| {
            let mut bins = [0; PART];
            for (first, logits) in (share * SHARE..).step_by(PART).zip(logits.chunks_mut(PART)) {
                let bins = bins_of(logits, center, &mut bins);
                for ((id, &logit), &bin) in (first as u32..).zip(&*logits).zip(bins) {
                    if bin == last && logit > f32::NEG_INFINITY {
                        end.push(Candidate { id, logit });
                    }
                }
                // By itself, and without a branch, so that it vectorizes.
                for (logit, &bin) in logits.iter_mut().zip(bins) {
                    *logit = if bin > last { f32::NEG_INFINITY } else { *logit };
                }
            }
        });
        ends.concat()
    }
}

/// Candidates in their present order, [`PART`] at a time.
#[derive(Clone, Copy)]
enum Parts<'r> {
    Listed(&'r [Candidate]),
    Dense(&'r [f32]),
}

impl<'r> Parts<'r> {
    /// How many parts there are.
    fn n(self) -> usize {
        let n_candidates = match self {
            Parts::Listed(list) => list.len(),
            Parts::Dense(logits) => logits.len(),
        };
        n_candidates.div_ceil(PART)
    }

    /// How many workers may share them.
    fn n_shares(self) -> usize {
        self.n().div_ceil(SHARE / PART)
    }

    /// The parts of a share.
    fn of_share(self, share: usize) -> Range<usize> {
        let first = share * (SHARE / PART);
        first..self.n().min(first + SHARE / PART)
    }

    /// Logits of a part; `copy` is room for those of a list.
    fn part<'c>(self, part: usize, copy: &'c mut [f32; PART]) -> &'c [f32]
    where
        'r: 'c,
    {
        let end = |n: usize| n.min((part + 1) * PART);
        match self {
            Parts::Dense(logits) => &logits[part * PART..end(logits.len())],
            Parts::Listed(list) => {
                let list = &list[part * PART..end(list.len())];
                copy.iter_mut().zip(list).for_each(|(to, c)| *to = c.logit);
                &copy[..list.len()]
            }
        }
    }

    /// Token of the candidate at an index.
    fn id(self, index: usize) -> u32 {
        match self {
            Parts::Listed(list) => list[index].id,
            Parts::Dense(_) => index as u32,
        }
    }
}

/// Sum of the exponentials of logits less the best one.
pub(super) fn sum_of_weights(logits: &[f32], best: f32) -> f64 {
    logits.chunks(PART).map(|part| moments(part, best)[0]).sum()
}

/// Sum of the weights of at most [`PART`] logits, and of their products with the distances from the best
/// one.
fn moments(part: &[f32], best: f32) -> [f64; 2] {
    (ops().exp_moments)(part, best).map(f64::from)
}

/// Weights of at most [`PART`] logits.
fn weigh<'r>(part: &[f32], best: f32, room: &'r mut [f32; PART]) -> &'r [f32] {
    let room = &mut room[..part.len()];
    room.copy_from_slice(part);
    (ops().exp_sum)(room, best);
    room
}

/// Bins of at most [`PART`] logits.
fn bins_of<'r>(part: &[f32], center: f64, room: &'r mut [u32; PART]) -> &'r [u32] {
    let room = &mut room[..part.len()];
    room.iter_mut().zip(part).for_each(|(bin, &logit)| *bin = bin_of(logit, center));
    room
}

/// Bin of a logit by its distance from the center.
fn bin_of(logit: f32, center: f64) -> u32 {
    /// `2^52`: a sum with it has the nearest integer in its lowest bits, which vectorizes.
    const ROUND: f64 = 4_503_599_627_370_496.0;
    let bin = (f64::from(logit) - center).abs() * BINS_PER_UNIT;
    let bin = if bin < (BINS - 1) as f64 { bin } else { (BINS - 1) as f64 };
    (bin + ROUND).to_bits() as u32
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
