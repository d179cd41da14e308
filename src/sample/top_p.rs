//! Top-p, or nucleus sampling (Holtzman et al. 2019): the fewest tokens that hold p of the mass.

use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "top-p",
    other_names: &["nucleus"],
    place: Place::Listed,
    params: &[Param {
        name: "top_p",
        flag: "top-p",
        help: "Choose among the fewest tokens that hold this much probability; 1 is off",
        field: Field::Number {
            min: 0.0,
            max: 1.0,
            get: |p| f64::from(p.top_p),
            set: |p, value| p.top_p = value as f32,
        },
    }],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    (params.top_p < 1.0).then(|| Box::new(TopP { p: params.top_p }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct TopP {
    p: f32,
}

impl Filter for TopP {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        candidates.keep_mass(self.p);
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_distribution, draw_logits, filtered, first_of_mass, likeliest_first, probabilities,
    };
    use super::*;

    #[test]
    fn the_nucleus_ends_with_the_token_that_fills_it() {
        let logits = [0.1f32, 0.4, 0.3, 0.15, 0.05].map(f32::ln);
        let with =
            |p| filtered(build(&SampleParams { top_p: p, ..Default::default() }).unwrap(), &logits);
        assert_distribution(&with(0.0), &[(1, 1.0)]);
        assert_distribution(&with(0.39), &[(1, 1.0)]);
        // 0.4 is too little for 0.41; 0.4 and 0.3 of 0.7.
        assert_distribution(&with(0.41), &[(1, 0.57143), (2, 0.42857)]);
        // 0.7 is too little for 0.84; 0.4, 0.3 and 0.15 of 0.85.
        assert_distribution(&with(0.84), &[(1, 0.47059), (2, 0.35294), (3, 0.17647)]);
        assert!(build(&SampleParams { top_p: 1.0, ..Default::default() }).is_none());
    }

    #[test]
    fn what_is_left_agrees_with_sorting() {
        for seed in 0..400 {
            let logits = draw_logits(seed);
            let p = (seed % 23) as f32 / 23.0;
            let all = probabilities(&logits);
            let sorted = likeliest_first(&logits, &all);
            let sorted = first_of_mass(sorted, &all, p);
            let filter = build(&SampleParams { top_p: p, ..Default::default() }).unwrap();
            let left: Vec<usize> = filtered(filter, &logits).iter().map(|c| c.0 as usize).collect();
            assert_eq!(left, sorted, "seed {seed}, p {p}");
        }
    }
}
