//! XTC, exclude top choices (p-e-w 2024): now and then the likely tokens are left out, but for the
//! least likely one of them.

use super::candidates::order;
use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "xtc",
    other_names: &[],
    place: Place::Listed,
    params: &[
        Param {
            name: "xtc_probability",
            flag: "xtc-probability",
            help: "How often to leave out likely tokens; 0 is off",
            field: Field::Number {
                min: 0.0,
                max: 1.0,
                get: |p| f64::from(p.xtc_probability),
                set: |p, value| p.xtc_probability = value as f32,
            },
        },
        Param {
            name: "xtc_threshold",
            flag: "xtc-threshold",
            help: "Probability from which on a token is likely for that; above 0.5 is off",
            field: Field::Number {
                min: 0.0,
                max: 1.0,
                get: |p| f64::from(p.xtc_threshold),
                set: |p, value| p.xtc_threshold = value as f32,
            },
        },
    ],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let [probability, threshold] = [params.xtc_probability, params.xtc_threshold].map(f64::from);
    // Two tokens above a half there are not.
    let on = probability > 0.0 && threshold <= 0.5;
    on.then(|| Box::new(Xtc { probability, threshold }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Xtc {
    probability: f64,
    threshold: f64,
}

impl Filter for Xtc {
    fn apply(&mut self, candidates: &mut Candidates<'_>, rng: &mut Rng) -> Result<(), SampleError> {
        if rng.unit_f64() >= self.probability {
            return Ok(());
        }
        let Some(weights) = candidates.weights() else { return Ok(()) };
        let near = candidates.above(weights.floor(self.threshold).max(f32::MIN));
        let likely = near.filter(|c| weights.probability(c.logit) >= self.threshold);
        let mut likely: Vec<_> = likely.collect();
        if let Some(least) = likely.iter().copied().max_by(order) {
            likely.retain(|c| c.id != least.id);
            let mut ids: Vec<u32> = likely.iter().map(|c| c.id).collect();
            ids.sort_unstable();
            candidates.forbid(&ids);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_distribution, draw_logits, filtered, likeliest_first, probabilities,
    };
    use super::*;

    fn filter(probability: f32, threshold: f32) -> Option<Box<dyn Filter>> {
        build(&SampleParams {
            xtc_probability: probability,
            xtc_threshold: threshold,
            ..Default::default()
        })
    }

    #[test]
    fn all_likely_tokens_but_the_least_go() {
        let logits = [0.05f32, 0.4, 0.3, 0.15, 0.1].map(f32::ln);
        let with = |threshold| filtered(filter(1.0, threshold).unwrap(), &logits);
        // 0.4 and 0.3 go, 0.15 of 0.3 stays.
        assert_distribution(&with(0.12), &[(0, 0.16667), (3, 0.5), (4, 0.33333)]);
        assert_distribution(&with(0.35), &[(0, 0.05), (1, 0.4), (2, 0.3), (3, 0.15), (4, 0.1)]);
        assert_distribution(&with(0.0), &[(0, 1.0)]);
        // Of equal ones the last stays.
        assert_distribution(&filtered(filter(1.0, 0.2).unwrap(), &[1.0, 1.0, 1.0]), &[(2, 1.0)]);
        assert!(filter(0.0, 0.1).is_none() && filter(1.0, 0.51).is_none());
    }

    #[test]
    fn it_happens_as_often_as_it_is_asked_for() {
        let mut filter = filter(0.3, 0.1).unwrap();
        let mut rng = Rng::new(4);
        let n_left = |_| super::super::testing::left_by(&mut *filter, &[1.0, 1.0], &mut rng).len();
        let n = (0..10_000).map(n_left).filter(|&n| n == 1).count();
        // Standard deviation 46: five of them.
        assert!(n.abs_diff(3000) < 230, "{n} of 10,000");
    }

    #[test]
    fn what_is_left_agrees_with_sorting() {
        for seed in 0..300 {
            let logits = draw_logits(seed);
            let threshold = (seed % 11) as f32 / 40.0;
            let all = probabilities(&logits);
            let mut sorted = likeliest_first(&logits, &all);
            let likely = sorted.iter().filter(|&&id| all[id] >= f64::from(threshold)).count();
            let mut expected = sorted.split_off(likely.saturating_sub(1));
            expected.sort_unstable();
            let left = filtered(filter(1.0, threshold).unwrap(), &logits);
            let left: Vec<usize> = left.iter().map(|c| c.0 as usize).collect();
            assert_eq!(left, expected, "seed {seed}");
        }
    }
}
