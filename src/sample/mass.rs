//! Candidates by their probabilities: sums, and the fewest that hold a share.
//!
//! Nothing is sorted but the end of what is kept: what is too light to matter is dropped, the end is
//! found by halving, and the last part is sorted.

use std::cmp::Ordering;

use super::candidates::order;
use super::math::{exp, ln};
use super::{Candidate, Candidates};

/// Up to this many, sorting is cheaper than halving.
const SORTED_MAX: usize = 64;

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
}

impl Candidates<'_> {
    /// Weights of the candidates; `None` if all are forbidden or none is left.
    pub fn weights(&self) -> Option<Weights> {
        let best = self.best()?.logit;
        let total: f64 = self.iter().map(|c| relative(c.logit, best)).sum();
        Some(Weights { best, total, ln_total: ln(total) })
    }

    /// Mean surprise: the entropy of the distribution, with the natural logarithm.
    pub fn entropy(&self, weights: &Weights) -> f64 {
        let one = |c: Candidate| match relative(c.logit, weights.best) {
            // Zero times infinity is none.
            0.0 => 0.0,
            weight => weight * weights.surprise(c.logit),
        };
        self.iter().map(one).sum::<f64>() / weights.total
    }

    /// Keeps those whose probability is at least `share` of the best one's.
    pub fn keep_relative(&mut self, share: f32) {
        let Some(best) = self.best() else { return };
        let share = f64::from(share);
        // A little less for bounds, as the exponential is rounded.
        let worth = |bound| relative(bound, best.logit) >= share * (1.0 - 1e-12);
        let keep = |c: &Candidate| c.id == best.id || relative(c.logit, best.logit) >= share;
        self.list_of_blocks(worth, keep);
    }

    /// Keeps the fewest best ones that together hold `share` of the probability, best first.
    pub fn keep_mass(&mut self, share: f32) {
        let Some(Candidate { logit: best, .. }) = self.best() else { return };
        let total: f64 = self.iter().map(|c| relative(c.logit, best)).sum();
        let wanted = f64::from(share) * total;
        // All tokens lighter than this together weigh less than half of what may be left out.
        let light = 0.5 * (total - wanted) / self.len() as f64;
        self.list_where(|c| relative(c.logit, best) >= light);
        self.cut_mass(wanted, best, order);
    }

    /// Keeps the fewest most typical ones that together hold `share` of the probability: those whose
    /// surprise is nearest to the entropy, nearest first.
    pub fn keep_typical(&mut self, share: f32) {
        let Some(weights) = self.weights() else { return };
        let (best, total) = (weights.best, weights.total);
        let entropy = self.entropy(&weights);
        let wanted = f64::from(share) * total;
        // Tokens lighter than this together weigh less than half of what may be left out, and come
        // behind all others, if they are farther from the entropy than the best one, too.
        let light = 0.5 * (total - wanted) / self.len() as f64;
        let farthest = entropy + (entropy - weights.surprise(best)).max(0.0);
        self.list_where(|c| {
            let weight = relative(c.logit, best);
            weight > 0.0 && (weight >= light || weights.surprise(c.logit) <= farthest)
        });
        let distance = |c: &Candidate| (weights.surprise(c.logit) - entropy).abs();
        self.cut_mass(wanted, best, |a, b| {
            distance(a).total_cmp(&distance(b)).then_with(|| order(a, b))
        });
    }

    /// The candidate at `unit` (in `[0, 1)`) of the cumulated probabilities, in present order;
    /// `None` if all are forbidden or none is left.
    pub fn draw(&self, unit: f64) -> Option<u32> {
        let best = self.best()?;
        let total: f64 = self.iter().map(|c| relative(c.logit, best.logit)).sum();
        let mut left = unit * total;
        for candidate in self.iter() {
            left -= relative(candidate.logit, best.logit);
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Only rounding of the sums gets here.
        Some(best.id)
    }

    /// Keeps the first ones of the list that weigh `wanted` together, in an order that they are in
    /// then.
    fn cut_mass(
        &mut self,
        wanted: f64,
        best: f32,
        order: impl Fn(&Candidate, &Candidate) -> Ordering + Copy,
    ) {
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
}

/// Probability relative to the best candidate's.
pub(super) fn relative(logit: f32, best: f32) -> f64 {
    exp(f64::from(logit) - f64::from(best))
}
