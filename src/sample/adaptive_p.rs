//! Adaptive-p (llama.cpp 2025): tokens near a target probability, which moves against the mean of what
//! was taken, become likely. Runs last; what cuts the tail has to run before it.

use super::mass::Weights;
use super::{
    Candidate, Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams,
};

/// Distance from the target at which a logit falls in a straight line.
const WIDTH: f32 = 0.3;
/// Logit at the target.
const PEAK: f32 = 5.0;
/// How fast logits fall.
const SHARPNESS: f32 = 10.0;
/// Probability below which a token that is taken counts as 0 in the mean.
const RARE: f64 = 1e-5;

pub(super) const FILTER: FilterDef = FilterDef {
    name: "adaptive-p",
    other_names: &[],
    place: Place::Last,
    params: &[
        Param {
            name: "adaptive_target",
            flag: "adaptive-target",
            help: "Choose tokens of about this probability; negative is off",
            field: Field::Number {
                min: -1.0,
                max: 1.0,
                get: |p| f64::from(p.adaptive_target),
                set: |p, value| p.adaptive_target = value as f32,
            },
        },
        Param {
            name: "adaptive_decay",
            flag: "adaptive-decay",
            help: "Weight of earlier tokens in the mean that the target follows",
            field: Field::Number {
                min: 0.0,
                max: 0.99f32 as f64,
                get: |p| f64::from(p.adaptive_decay),
                set: |p, value| p.adaptive_decay = value as f32,
            },
        },
    ],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let [target, decay] = [params.adaptive_target, params.adaptive_decay].map(f64::from);
    // As if all tokens so far had been at the target.
    let total = 1.0 / (1.0 - decay);
    let sum = target * total;
    let adaptive = AdaptiveP { target, decay, sum, total, before: Vec::new(), weights: None };
    (target >= 0.0).then(|| Box::new(adaptive) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct AdaptiveP {
    target: f64,
    decay: f64,
    /// Weighted sum of the probabilities that taken tokens had.
    sum: f64,
    /// Sum of the weights.
    total: f64,
    /// Tokens that could be drawn and are not rare, as they were before the change.
    before: Vec<Candidate>,
    /// Weights of those.
    weights: Option<Weights>,
}

impl Filter for AdaptiveP {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        self.before.clear();
        self.weights = candidates.weights();
        let Some(weights) = &self.weights else { return Ok(()) };
        self.before.extend(candidates.above(weights.floor(RARE)));
        let target = (2.0 * self.target - self.sum / self.total).clamp(0.0, 1.0) as f32;
        candidates.reweight(weights, move |p| {
            let distance = (p - target).abs() * (1.0 / WIDTH);
            PEAK - SHARPNESS * distance * distance / (1.0 + distance)
        });
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        if let Some(weights) = self.weights.take() {
            let taken = self.before.iter().find(|c| c.id == token);
            let p = taken.map_or(0.0, |taken| weights.probability(taken.logit));
            self.sum = p + self.decay * self.sum;
            self.total = 1.0 + self.decay * self.total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_distribution, draw_logits, filtered, left_by, probabilities,
    };
    use super::*;

    fn filter(target: f32, decay: f32) -> Option<Box<dyn Filter>> {
        let (adaptive_target, adaptive_decay) = (target, decay);
        build(&SampleParams { adaptive_target, adaptive_decay, ..Default::default() })
    }

    #[test]
    fn tokens_near_the_target_become_likely() {
        let logits = [0.7f32, 0.2, 0.1, 0.0].map(f32::ln);
        // Distances from 0.2 are 1.66667, 0 and 0.33333: logits -5.41667, 5 and 4.16667.
        let left = filtered(filter(0.2, 0.9).unwrap(), &logits);
        assert_distribution(&left, &[(0, 0.00002), (1, 0.69705), (2, 0.30293)]);
        assert!(filter(-1.0, 0.9).is_none());
    }

    #[test]
    fn the_target_moves_against_the_mean_of_what_was_taken() {
        let logits = [0.7f32, 0.2, 0.1].map(f32::ln);
        let mut adaptive = filter(0.2, 0.5).unwrap();
        let mut rng = Rng::new(1);
        left_by(&mut *adaptive, &logits, &mut rng);
        adaptive.accept(0);
        // Sum 0.7 + 0.5 * 0.4 and weight 1 + 0.5 * 2: a mean of 0.45, a target of 0, whatever else is
        // accepted.
        adaptive.accept(0);
        let left = left_by(&mut *adaptive, &logits, &mut rng);
        // Distances 2.33333, 0.66667, 0.33333: logits -11.33333, 2.33333 and 4.16667.
        assert_distribution(&left, &[(0, 0.0), (1, 0.13786), (2, 0.86214)]);
    }

    #[test]
    fn the_change_agrees_with_the_formula() {
        for seed in 0..100 {
            let logits = draw_logits(seed);
            let target = (seed % 9) as f32 / 8.0;
            let all = probabilities(&logits);
            let changed = |p: f64| {
                let d = ((p - f64::from(target)) / 0.3).abs();
                if p > 0.0 { (5.0 - 10.0 * d * d / (1.0 + d)).exp() } else { 0.0 }
            };
            let total: f64 = all.iter().map(|&p| changed(p)).sum();
            let ids = (0..).zip(&all).filter(|(_, p)| **p > 0.0);
            let expected: Vec<(u32, f64)> = ids.map(|(id, &p)| (id, changed(p) / total)).collect();
            assert_distribution(&filtered(filter(target, 0.9).unwrap(), &logits), &expected);
        }
    }
}
