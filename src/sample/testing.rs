//! What the tests of filters share: the distribution that one filter leaves, and what it is given.

use super::math::exp;
use super::{Candidates, Filter, Vocabulary, rng::Rng};
use std::sync::Arc;
use teff_kernels::BlockMax;

/// Ids and probabilities of the candidates that a filter leaves, by id, without forbidden ones.
pub fn filtered(mut filter: Box<dyn Filter>, logits: &[f32]) -> Vec<(u32, f64)> {
    left_by(&mut *filter, logits, &mut Rng::new(1))
}

/// The same of a filter that goes on, with a generator that goes on.
pub fn left_by(filter: &mut dyn Filter, logits: &[f32], rng: &mut Rng) -> Vec<(u32, f64)> {
    let (mut logits, mut room, mut list) = (logits.to_vec(), Vec::new(), Vec::new());
    let mut candidates = Candidates::new(BlockMax::of(&mut logits, &mut room), &mut list);
    filter.apply(&mut candidates, rng).expect("a filter of valid parameters");
    let Some(best) = candidates.best() else { return Vec::new() };
    let weight = |logit: f32| exp(f64::from(logit) - f64::from(best.logit));
    let total: f64 = candidates.iter().map(|c| weight(c.logit)).sum();
    let allowed = candidates.iter().filter(|c| c.logit > f32::NEG_INFINITY);
    let mut left: Vec<_> = allowed.map(|c| (c.id, weight(c.logit) / total)).collect();
    left.sort_by_key(|&(id, _)| id);
    left
}

/// Logits from a seed: of few tokens and of many, flat and steep, with equal and forbidden ones.
pub fn draw_logits(seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let n = [1, 2, 15, 40, 300, 2000][seed as usize % 6];
    let scale = [0.5, 3.0, 12.0][seed as usize / 6 % 3];
    let coarse = seed.is_multiple_of(5);
    let mut draw = || {
        let normal = (0..6).map(|_| rng.unit_f64()).sum::<f64>() - 3.0;
        let logit = (scale * normal) as f32;
        match rng.unit_f64() < 0.05 {
            true => f32::NEG_INFINITY,
            // Without a negative zero, which `total_cmp` has below the other.
            false if coarse => (logit * 4.0).round() / 4.0 + 0.0,
            false => logit,
        }
    };
    let mut logits: Vec<f32> = (0..n).map(|_| draw()).collect();
    logits[n / 2] = 1.0;
    logits
}

/// Probabilities by the system's functions.
pub fn probabilities(logits: &[f32]) -> Vec<f64> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> =
        logits.iter().map(|&l| (f64::from(l) - f64::from(best)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Tokens that are not forbidden, likeliest first, equally likely ones in their order.
pub fn likeliest_first(logits: &[f32], probabilities: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).filter(|&id| probabilities[id] > 0.0).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    ids
}

/// The first of some tokens that have a mass together, up to rounding, in ascending order.
pub fn first_of_mass(mut ids: Vec<usize>, probabilities: &[f64], mass: f32) -> Vec<usize> {
    let mut sum = 0.0;
    let end = ids.iter().position(|&id| {
        sum += probabilities[id];
        sum >= f64::from(mass) - 1e-12
    });
    ids.truncate(end.map_or(ids.len(), |last| last + 1));
    ids.sort_unstable();
    ids
}

/// Tokens that are the given texts; the last one ends an answer.
#[derive(Debug)]
pub struct Texts(pub Vec<&'static str>);

impl Texts {
    /// A vocabulary to be asked.
    pub fn of(texts: &[&'static str]) -> Arc<dyn Vocabulary> {
        Arc::new(Texts(texts.to_vec()))
    }
}

impl Vocabulary for Texts {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self, token: u32) -> Vec<u8> {
        self.0.get(token as usize).map_or_else(Vec::new, |text| text.as_bytes().to_vec())
    }

    fn ends_answer(&self, token: u32) -> bool {
        Some(token) == self.end()
    }

    fn end(&self) -> Option<u32> {
        (self.0.len() as u32).checked_sub(1)
    }
}

/// Compares with probabilities that were computed by hand to four digits.
#[track_caller]
pub fn assert_distribution(left: &[(u32, f64)], expected: &[(u32, f64)]) {
    let near = |(a, b): (&(u32, f64), &(u32, f64))| a.0 == b.0 && (a.1 - b.1).abs() < 6e-5;
    let same = left.len() == expected.len() && left.iter().zip(expected).all(near);
    assert!(same, "{left:?}, not {expected:?}");
}
