//! What the tests of filters share: the distribution that one filter leaves.

use super::math::exp;
use super::{Candidates, Filter, rng::Rng};
use teff_kernels::BlockMax;

/// Ids and probabilities of the candidates that a filter leaves, by id, without forbidden ones.
pub fn filtered(mut filter: Box<dyn Filter>, logits: &[f32]) -> Vec<(u32, f64)> {
    let (mut logits, mut room, mut list) = (logits.to_vec(), Vec::new(), Vec::new());
    let mut candidates = Candidates::new(BlockMax::of(&mut logits, &mut room), &mut list);
    filter.apply(&mut candidates, &mut Rng::new(1)).expect("a filter of valid parameters");
    let Some(best) = candidates.best() else { return Vec::new() };
    let weight = |logit: f32| exp(f64::from(logit) - f64::from(best.logit));
    let total: f64 = candidates.iter().map(|c| weight(c.logit)).sum();
    let allowed = candidates.iter().filter(|c| candidates.logit(c.id).is_some());
    let mut left: Vec<_> = allowed.map(|c| (c.id, weight(c.logit) / total)).collect();
    left.sort_by_key(|&(id, _)| id);
    left
}

/// Compares with probabilities that were computed by hand to four digits.
#[track_caller]
pub fn assert_distribution(left: &[(u32, f64)], expected: &[(u32, f64)]) {
    let near = |(a, b): (&(u32, f64), &(u32, f64))| a.0 == b.0 && (a.1 - b.1).abs() < 6e-5;
    let same = left.len() == expected.len() && left.iter().zip(expected).all(near);
    assert!(same, "{left:?}, not {expected:?}");
}
