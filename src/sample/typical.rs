//! Locally typical sampling (Meister et al. 2022): the fewest tokens that hold p of the mass, those
//! first whose surprise is nearest to the entropy.

use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "typical",
    other_names: &["typical-p", "typ-p", "typ"],
    place: Place::Listed,
    params: &[Param {
        name: "typical_p",
        flag: "typical",
        help: "Choose among the most typical tokens that hold this much probability; 1 is off",
        field: Field::Number {
            min: 0.0,
            max: 1.0,
            get: |p| f64::from(p.typical_p),
            set: |p, value| p.typical_p = value as f32,
        },
    }],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    (params.typical_p < 1.0).then(|| Box::new(Typical { p: params.typical_p }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Typical {
    p: f32,
}

impl Filter for Typical {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        candidates.keep_typical(self.p);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_distribution, draw_logits, filtered, first_of_mass, probabilities,
    };
    use super::*;

    fn with(p: f32, logits: &[f32]) -> Vec<(u32, f64)> {
        filtered(build(&SampleParams { typical_p: p, ..Default::default() }).unwrap(), logits)
    }

    #[test]
    fn the_nearest_to_the_entropy_come_first() {
        // Surprises 0.51083, 1.38629, 2.52573 and 2.65926; the entropy is 1.01880, so the distances
        // are 0.50797, 0.36750, 1.50693 and 1.64046.
        let logits = [0.6f32, 0.25, 0.08, 0.07].map(f32::ln);
        assert_distribution(&with(0.0, &logits), &[(1, 1.0)]);
        assert_distribution(&with(0.24, &logits), &[(1, 1.0)]);
        assert_distribution(&with(0.26, &logits), &[(0, 0.70588), (1, 0.29412)]);
        assert_distribution(&with(0.86, &logits), &[(0, 0.64516), (1, 0.26882), (2, 0.08602)]);
        assert!(build(&SampleParams::default()).is_none());
    }

    #[test]
    fn what_is_left_agrees_with_sorting() {
        for seed in 0..400 {
            let logits = draw_logits(seed);
            let p = (seed % 23) as f32 / 23.0;
            let all = probabilities(&logits);
            let surprise = |id: usize| -all[id].ln();
            let allowed: Vec<usize> = (0..all.len()).filter(|&id| all[id] > 0.0).collect();
            let entropy: f64 = allowed.iter().map(|&id| all[id] * surprise(id)).sum();
            let mut sorted = allowed;
            // Equal logits have equal distances up to rounding.
            let key = |id: usize| ((surprise(id) - entropy).abs() * 1e9).round() as i64;
            sorted.sort_by(|&a, &b| {
                key(a).cmp(&key(b)).then(logits[b].total_cmp(&logits[a])).then(a.cmp(&b))
            });
            let sorted = first_of_mass(sorted, &all, p);
            let left: Vec<usize> = with(p, &logits).iter().map(|c| c.0 as usize).collect();
            assert_eq!(left, sorted, "seed {seed}, p {p}");
        }
    }
}
