//! Candidates by their probabilities: sums, and the fewest that hold a share.
//!
//! Sums are made of exponentials in vectors of f32, [`PART`] at a time, and added up in f64: relative
//! error some 1e-6, as much as a logit's own rounding makes, and the same bits on every CPU. Most
//! distributions are steep, so that a few hundred of the best tokens hold the share that is wanted. Others
//! are weighed in bins by distance, and of these but the last one is sorted: where most of the vocabulary
//! stays in the running, it stays where it is, and what goes is forbidden.

use teff_kernels::{FloatOps, KernelTable, MAX_BLOCK};

use super::candidates::order;
use super::math::{exp, ln};
use super::{Candidate, Candidates};

/// Bins by distance; the last one has no end.
const BINS: usize = 2048;
const BINS_PER_UNIT: f64 = 64.0;
/// Best tokens that are tried before the whole vocabulary is looked through.
const HEAD: usize = 512;
/// Blocks with tokens that matter make a list if they are less than this share of all.
const LISTED_SHARE: usize = 2;
/// Candidates whose exponentials are made at once.
const PART: usize = 64 * MAX_BLOCK;
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
            self.list_heavy(floor(weights.best, light));
        }
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
        let distance = |logit: f32| (f64::from(logit) - center).abs();
        let nearer_than = |c: &Candidate, last: f32| distance(c.logit) < center - f64::from(last);
        if !self.keep_head(&weights, wanted, nearer_than) {
            // Tokens lighter than this together weigh less than half of what may be left out, and come
            // behind all others, if they are farther from the entropy than the best one, too.
            let light = 0.5 * (total - wanted) / self.len() as f64;
            let farthest = entropy + distance(best);
            let nearest = floor(best, total * exp(-farthest));
            self.list_heavy(floor(best, light).min(nearest));
        }
        self.cut_mass(wanted, best, center);
    }

    /// The candidate at `unit` (in `[0, 1)`) of the cumulated probabilities, in present order;
    /// `None` if all are forbidden or none is left.
    pub fn draw(&self, unit: f64) -> Option<u32> {
        let best = self.best()?;
        let moments = self.moments(best.logit);
        let mut left = unit * moments.iter().map(|m| m[0]).sum::<f64>();
        let part = moments.iter().position(|&[sum, _]| {
            let is_here = left < sum;
            left -= if is_here { 0.0 } else { sum };
            is_here
        });
        let (mut copy, mut room) = ([0.0; PART], [0.0; PART]);
        let logits = part.map_or(&[][..], |part| self.part(part, &mut copy));
        let at = weigh(logits, best.logit, &mut room).iter().position(|&weight| {
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
        let logits: Vec<f32> = head.iter().map(|c| c.logit).collect();
        let mass = sum_of_weights(&logits, weights.best);
        self.listed = mass > 0.0 && mass >= wanted;
        if self.listed {
            *self.list = head;
        }
        self.listed
    }

    /// Makes a list of the candidates whose logits are at least `bound`, if few blocks have any.
    fn list_heavy(&mut self, bound: f32) {
        let bounds = self.logits.bounds();
        let n_heavy = bounds.iter().filter(|max| **max >= bound).count();
        if n_heavy < bounds.len() / LISTED_SHARE {
            self.keep_above(bound.max(f32::MIN));
        }
    }

    /// [`moments`] of each part.
    fn moments(&self, best: f32) -> Vec<[f64; 2]> {
        let mut copy = [0.0; PART];
        (0..self.n_parts()).map(|part| moments(self.part(part, &mut copy), best)).collect()
    }

    fn n_parts(&self) -> usize {
        self.len().div_ceil(PART)
    }

    /// Logits of the candidates from `part * PART` on, at most [`PART`]; `copy` is room for those of a list.
    fn part<'r>(&'r self, part: usize, copy: &'r mut [f32; PART]) -> &'r [f32] {
        let first = part * PART;
        let n = PART.min(self.len() - first);
        if !self.listed {
            return &self.logits.values()[first..][..n];
        }
        copy.iter_mut().zip(&self.list[first..]).for_each(|(to, c)| *to = c.logit);
        &copy[..n]
    }

    /// Token of the candidate at an index of the present order.
    fn id(&self, index: usize) -> u32 {
        if self.listed { self.list[index].id } else { index as u32 }
    }

    /// Keeps the candidates nearest to `center` that weigh `wanted` together; equally near ones in their
    /// order.
    fn cut_mass(&mut self, wanted: f64, best: f32, center: f64) {
        let mut masses = [0.0; BINS];
        let (mut copy, mut room, mut bins) = ([0.0; PART], [0.0; PART], [0; PART]);
        for part in 0..self.n_parts() {
            let logits = self.part(part, &mut copy);
            let bins = bins_of(logits, center, &mut bins);
            for (&bin, &weight) in bins.iter().zip(weigh(logits, best, &mut room)) {
                masses[bin as usize % BINS] += f64::from(weight);
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
    }

    /// Keeps the candidates of the bins up to `last`; returns those in it.
    fn keep_bins(&mut self, last: u32, center: f64) -> Vec<Candidate> {
        if self.listed {
            self.list.retain(|c| bin_of(c.logit, center) <= last);
            return self.list.iter().copied().filter(|c| bin_of(c.logit, center) == last).collect();
        }
        let (mut end, mut bins) = (Vec::new(), [0; PART]);
        for (first, logits) in (0..).step_by(PART).zip(self.logits.lower().chunks_mut(PART)) {
            let bins = bins_of(logits, center, &mut bins);
            for ((id, &logit), &bin) in (first..).zip(&*logits).zip(bins) {
                if bin == last && logit > f32::NEG_INFINITY {
                    end.push(Candidate { id, logit });
                }
            }
            // By itself, and without a branch, so that it vectorizes.
            for (logit, &bin) in logits.iter_mut().zip(bins) {
                *logit = if bin > last { f32::NEG_INFINITY } else { *logit };
            }
        }
        end
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
