//! Routing: from a router's scores to the experts of each token, and their order of work.
//!
//! A *slot* is a token with one of the experts that it chose. The slots of an expert are a *group*.
//! Groups are laid out in *units* of eight slots, and groups in *bins* of equally many units: no
//! group is in two bins, so a bin is what one ticket can work on and the weights of an expert are
//! read once.

use crate::backend::program::{ExpertGroups, Gating, Moe};
use std::ops::Range;
use teff_kernels::{Activation, FloatOps, PANEL_TOKENS};

/// Smallest sum that weights are divided by, as in ggml: the least normal half.
const WEIGHT_SUM_MIN: f32 = 6.103_515_6e-5;

/// A unit that no group has.
const EMPTY: u32 = u32::MAX;

/// The slots of one expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The expert's number.
    pub expert: usize,
    /// Index range of the group's slots in [`Routes::slots`].
    pub slots: Range<usize>,
    /// Number of the group's first unit, counted over all bins.
    pub unit: usize,
}

impl Group {
    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Numbers of the group's units.
    pub fn units(&self) -> Range<usize> {
        self.unit..self.unit + self.len().div_ceil(PANEL_TOKENS)
    }
}

/// The experts of a step's tokens, and the tokens of each expert. Tokens are counted within the
/// operation's set.
#[derive(Default)]
pub(super) struct Routes {
    /// Experts per token.
    pub n_used: usize,
    /// Chosen experts, `[tokens][n_used]`, the best first.
    pub experts: Vec<u32>,
    /// Weights of the chosen experts, `[tokens][n_used]`.
    pub weights: Vec<f32>,
    /// The groups, ascending by expert.
    pub groups: Vec<Group>,
    /// Slots `token * n_used + rank` ordered by group, then by token.
    pub slots: Vec<u32>,
    /// Place of each slot in `slots`.
    pub places: Vec<u32>,
    /// Units of a bin.
    pub bin_units: usize,
    /// Index ranges of the bins in `groups`.
    pub bins: Vec<Range<usize>>,
    /// Index in `groups` for each unit, or [`EMPTY`].
    units: Vec<u32>,
    /// Number of each expert's slots, then index of the next one.
    counts: Vec<u32>,
    /// `(score, expert)` of one token.
    ranked: Vec<(f32, u32)>,
    /// The probabilities of one token's experts.
    probabilities: Vec<f32>,
}

impl Routes {
    /// Forgets all tokens.
    pub fn clear(&mut self, n_used: usize) {
        self.n_used = n_used;
        self.experts.clear();
        self.weights.clear();
    }

    /// Adds the next token, by its router's scores.
    pub fn choose(&mut self, op: &Moe, scores: &[f32], ops: &FloatOps) {
        rank(op, scores, &mut self.probabilities, &mut self.ranked, ops);
        self.experts.extend(self.ranked.iter().map(|ranked| ranked.1));
        self.weights.extend(self.ranked.iter().map(|ranked| ranked.0));
    }

    /// Adds the next token with its chosen experts and their weights.
    pub fn add(&mut self, experts: &[u32], weights: &[f32]) {
        self.experts.extend_from_slice(experts);
        self.weights.extend_from_slice(weights);
    }

    /// Token of a slot.
    pub fn token(&self, slot: u32) -> usize {
        slot as usize / self.n_used
    }

    /// Units of all bins, empty ones included.
    pub fn n_units(&self) -> usize {
        self.bins.len() * self.bin_units
    }

    /// The group of a unit and the unit's slots, counted within the group.
    pub fn unit(&self, unit: usize) -> Option<(&Group, Range<usize>)> {
        let index = self.units[unit];
        (index != EMPTY).then(|| {
            let group = &self.groups[index as usize];
            let first = (unit - group.unit) * PANEL_TOKENS;
            (group, first..group.len().min(first + PANEL_TOKENS))
        })
    }

    /// Orders the slots of all tokens by expert and lays the groups out.
    pub fn group(&mut self, n_experts: usize) {
        let Routes { experts, counts, slots, places, groups, .. } = self;
        counts.clear();
        counts.resize(n_experts, 0);
        experts.iter().for_each(|&expert| counts[expert as usize] += 1);
        groups.clear();
        let mut end = 0;
        for (expert, count) in counts.iter_mut().enumerate() {
            let slots = end..end + *count as usize;
            *count = end as u32;
            end = slots.end;
            if !slots.is_empty() {
                groups.push(Group { expert, slots, unit: 0 });
            }
        }
        slots.resize(experts.len(), 0);
        places.resize(experts.len(), 0);
        for ((slot, &expert), place) in (0..).zip(&*experts).zip(places) {
            let next = &mut counts[expert as usize];
            slots[*next as usize] = slot;
            *place = *next;
            *next += 1;
        }
        self.fill_bins();
    }

    /// A group goes into the bin of the group before it if there is room.
    fn fill_bins(&mut self) {
        let Routes { groups, bins, units, bin_units, .. } = self;
        *bin_units = groups.iter().map(|group| group.units().len()).max().unwrap_or(1);
        bins.clear();
        units.clear();
        for (i, group) in groups.iter_mut().enumerate() {
            let n = group.units().len();
            if units.len() + n > bins.len() * *bin_units {
                units.resize(bins.len() * *bin_units, EMPTY);
                bins.push(i..i);
            }
            if let Some(bin) = bins.last_mut() {
                bin.end = i + 1;
            }
            group.unit = units.len();
            units.resize(units.len() + n, i as u32);
        }
        units.resize(bins.len() * *bin_units, EMPTY);
    }
}

/// Most units that [`Routes::group`] lays out, empty ones included, for `n_tokens` tokens.
pub(super) fn units_max(n_tokens: usize, n_used: usize, n_experts: usize) -> usize {
    let n_slots = n_tokens * n_used;
    let full = n_slots / PANEL_TOKENS + n_slots.min(n_experts);
    // Two neighbouring bins have more units in use than one of them has.
    2 * full + n_tokens.div_ceil(PANEL_TOKENS)
}

/// Leaves the chosen experts with their weights in `ranked`, the highest score first; equal scores
/// go by the expert's number.
fn rank(
    op: &Moe,
    scores: &[f32],
    probabilities: &mut Vec<f32>,
    ranked: &mut Vec<(f32, u32)>,
    ops: &FloatOps,
) {
    probabilities.clear();
    probabilities.extend_from_slice(scores);
    match op.gating {
        Gating::Softmax => (ops.softmax)(probabilities),
        Gating::Sigmoid => (ops.act)(Activation::Sigmoid, probabilities),
        Gating::SoftmaxOfChosen => {}
    }
    ranked.clear();
    ranked.extend(probabilities.iter().zip(0..).map(|(&p, i)| (p, i)));
    if let Some(bias) = &op.choice_bias {
        ranked.iter_mut().zip(bias).for_each(|((p, _), bias)| *p += bias);
    }
    if let Some(groups) = op.groups {
        keep_groups(groups, ranked);
    }
    // All that come before the last chosen one, then their order.
    if op.n_used < ranked.len() {
        ranked.select_nth_unstable_by(op.n_used, order);
    }
    ranked.truncate(op.n_used);
    ranked.sort_unstable_by(order);
    ranked.iter_mut().for_each(|(p, i)| *p = probabilities[*i as usize]);
    if op.gating == Gating::SoftmaxOfChosen {
        probabilities.clear();
        probabilities.extend(ranked.iter().map(|r| r.0));
        (ops.softmax)(probabilities);
        ranked.iter_mut().zip(&*probabilities).for_each(|((p, _), &chosen)| *p = chosen);
    }
    let sum = match op.normalize_weights {
        false => 1.0,
        true => ranked.iter().map(|r| r.0).sum::<f32>().max(WEIGHT_SUM_MIN),
    };
    for (weight, _) in ranked {
        *weight *= op.weight_scale / sum;
    }
}

/// The highest score first; equal scores go by number.
fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Leaves only the experts of the best groups.
fn keep_groups(groups: ExpertGroups, ranked: &mut Vec<(f32, u32)>) {
    let size = ranked.len() / groups.n_groups;
    let score = |group: &[(f32, u32)]| {
        let mut group = group.to_vec();
        group.sort_unstable_by(order);
        group.iter().take(2).map(|r| r.0).sum::<f32>()
    };
    let mut best: Vec<(f32, u32)> = ranked.chunks_exact(size).map(score).zip(0..).collect();
    best.sort_unstable_by(order);
    best.truncate(groups.n_used);
    ranked.retain(|&(_, i)| best.iter().any(|&(_, group)| i / size as u32 == group));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random.
    fn below(state: &mut u64, n: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 33) % n
    }

    #[test]
    fn every_slot_is_in_one_unit_of_one_bin_within_the_bound() {
        let mut state = 7;
        let mut shapes = vec![(1, 1, 1), (1, 8, 128), (8, 8, 128), (9, 2, 2), (512, 8, 128)];
        shapes.extend((0..200).map(|_| {
            let n_experts = 1 + below(&mut state, 64);
            (1 + below(&mut state, 90), 1 + below(&mut state, n_experts.min(9)), n_experts)
        }));
        for (n_tokens, n_used, n_experts) in shapes {
            let mut routes = Routes::default();
            routes.clear(n_used as usize);
            // Some experts are liked best.
            let liked = 1 + below(&mut state, n_experts);
            for _ in 0..n_tokens {
                let mut chosen: Vec<u32> = Vec::new();
                while chosen.len() < n_used as usize {
                    let among = if below(&mut state, 4) > 0 { liked } else { n_experts };
                    let expert = below(&mut state, among.max(n_used)) as u32;
                    if !chosen.contains(&expert) {
                        chosen.push(expert);
                    }
                }
                routes.experts.extend(chosen);
            }
            routes.group(n_experts as usize);
            let mut seen = vec![0; routes.experts.len()];
            for unit in 0..routes.n_units() {
                let Some((group, slots)) = routes.unit(unit) else { continue };
                assert!(!slots.is_empty() && slots.len() <= PANEL_TOKENS);
                for &slot in &routes.slots[group.slots.clone()][slots] {
                    assert_eq!(routes.experts[slot as usize] as usize, group.expert);
                    assert_eq!(routes.slots[routes.places[slot as usize] as usize], slot);
                    seen[slot as usize] += 1;
                }
            }
            assert!(seen.iter().all(|&n| n == 1));
            for (bin, groups) in routes.bins.iter().enumerate() {
                let units = bin * routes.bin_units..(bin + 1) * routes.bin_units;
                for group in &routes.groups[groups.clone()] {
                    assert!(units.start <= group.unit && group.units().end <= units.end);
                }
            }
            let most = units_max(n_tokens as usize, n_used as usize, n_experts as usize);
            assert!(routes.n_units() <= most, "{} of {most} units", routes.n_units());
        }
    }
}
