//! Top-nσ (Tang et al. 2024): tokens whose logit is at most n standard deviations of all logits below
//! the best one. The choice does not depend on a temperature.
//!
//! Cost: one pass over the vocabulary in vectors of f32, of which parts are summed in f64.

use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "top-nsigma",
    other_names: &["top-n-sigma"],
    place: Place::Listed,
    params: &[Param {
        name: "top_n_sigma",
        flag: "top-nsigma",
        help: "Choose among tokens this many standard deviations from the best; 0 or less is off",
        field: Field::Number {
            min: -1.0,
            max: 1000.0,
            get: |p| f64::from(p.top_n_sigma),
            set: |p, value| p.top_n_sigma = value as f32,
        },
    }],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let n = params.top_n_sigma;
    (n > 0.0).then(|| Box::new(TopNSigma { n }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct TopNSigma {
    n: f32,
}

impl Filter for TopNSigma {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        let Some(best) = candidates.best() else { return Ok(()) };
        let moments = match candidates.dense() {
            Some(logits) => Moments::of(logits),
            None => {
                let logits: Vec<f32> = candidates.iter().map(|c| c.logit).collect();
                Moments::of(&logits)
            }
        };
        let bound = f64::from(best.logit) - f64::from(self.n) * moments.deviation();
        candidates.keep_above(bound as f32);
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }
}

/// Count, sum and sum of squares of the finite ones of some logits, relative to a number among them.
struct Moments {
    n: f64,
    sum: f64,
    squares: f64,
}

/// Numbers that are summed side by side.
const LANES: usize = 16;
/// Numbers whose sums are f32.
const PART: usize = 16 * LANES;

impl Moments {
    fn of(logits: &[f32]) -> Moments {
        let finite = |l: &&f32| **l > f32::NEG_INFINITY;
        let middle = logits.iter().find(finite).copied().unwrap_or_default();
        let mut all = Moments { n: 0.0, sum: 0.0, squares: 0.0 };
        for part in logits.chunks(PART) {
            let (lanes, rest) = part.as_chunks::<LANES>();
            let (mut n, mut sum, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            for logits in lanes {
                for i in 0..LANES {
                    let is_finite = logits[i] > f32::NEG_INFINITY;
                    let distance = if is_finite { logits[i] - middle } else { 0.0 };
                    n[i] += if is_finite { 1.0 } else { 0.0 };
                    sum[i] += distance;
                    squares[i] += distance * distance;
                }
            }
            let total = |lanes: [f32; LANES]| lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            all.n += total(n);
            all.sum += total(sum);
            all.squares += total(squares);
            for logit in rest.iter().filter(finite) {
                let distance = f64::from(logit - middle);
                all.n += 1.0;
                all.sum += distance;
                all.squares += distance * distance;
            }
        }
        all
    }

    fn deviation(&self) -> f64 {
        let mean = self.sum / self.n.max(1.0);
        (self.squares / self.n.max(1.0) - mean * mean).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_distribution, draw_logits, filtered};
    use super::*;

    fn with(n: f32, logits: &[f32]) -> Vec<(u32, f64)> {
        filtered(build(&SampleParams { top_n_sigma: n, ..Default::default() }).unwrap(), logits)
    }

    #[test]
    fn the_bound_is_n_deviations_below_the_best() {
        // The mean is 1, the deviation sqrt((4 + 1 + 1 + 4) / 4) = 1.58114; the forbidden one is no
        // part of it.
        let logits = [3.0, 2.0, 0.0, -1.0, f32::NEG_INFINITY];
        assert_distribution(&with(0.6, &logits), &[(0, 1.0)]);
        // e^0 and e^-1 of 1.36788.
        assert_distribution(&with(0.64, &logits), &[(0, 0.73106), (1, 0.26894)]);
        assert_eq!(with(1.9, &logits).len(), 3);
        assert_eq!(with(2.6, &logits).len(), 4);
        assert_eq!(with(0.1, &[2.0, 2.0, 2.0]).len(), 3);
        assert!(build(&SampleParams::default()).is_none());
    }

    #[test]
    fn what_is_left_agrees_with_two_plain_passes() {
        for seed in 0..400 {
            let logits = draw_logits(seed);
            let n = 0.05 + (seed % 31) as f32 / 10.0;
            let finite: Vec<f64> =
                logits.iter().filter(|l| l.is_finite()).map(|&l| f64::from(l)).collect();
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            let variance = finite.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>();
            let deviation = (variance / finite.len() as f64).sqrt();
            let best = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let bound = best - f64::from(n) * deviation;
            let sure = |l: f64| (l - bound).abs() > 1e-4;
            let left = with(n, &logits);
            for (id, &logit) in (0..).zip(&logits).filter(|(_, l)| sure(f64::from(**l))) {
                let is_left = left.iter().any(|c| c.0 == id);
                assert_eq!(is_left, f64::from(logit) >= bound, "seed {seed}, token {id}");
            }
        }
    }
}
